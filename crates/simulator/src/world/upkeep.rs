//! The person who looks after the members: replaces those that are lost, promotes learners that have caught up, and changes members when
//! asked to. One change at a time, each after a look at how things are.

use proto::raftpb::{ConfChange, ConfChangeType};
use replica::state_machine::membership::{ChangeContext, Member as Listed};
use replica::{Input, Start};

use super::{Event, MS, SECOND, World};

impl World {
    pub(crate) fn upkeep(&mut self) {
        let pause = self.random.within(150 * MS, 400 * MS);
        self.after(pause, Event::Upkeep);
        if let Some((change, at, since)) = self.changing {
            let answered = self
                .process(at)
                .is_none_or(|process| process.configured.contains_key(&change));
            if !answered && self.now < since + 6 * SECOND {
                return;
            }
            self.changing = None;
        }
        let Some(leader) = self.leader() else {
            return;
        };
        if self
            .members
            .get(&leader)
            .is_some_and(|member| member.paused_until > self.now)
        {
            return;
        }
        let Some(process) = self.process(leader) else {
            return;
        };
        let listed = process.replica.members();
        let tell_version = process.replica.state().membership().version().is_none();
        let ready: Vec<u64> = listed
            .iter()
            .filter(|member| member.is_learner)
            .filter(|member| {
                let progress = process.replica.match_of(member.id);
                progress.is_some_and(|(matched, own)| matched * 10 >= own * 9)
            })
            .map(|member| member.id)
            .collect();
        if tell_version {
            let versions = listed
                .iter()
                .map(|member| (member.id, Some("3.7.0".to_owned())))
                .collect();
            let life = self.life(leader);
            self.feed(life, Input::Versions(versions));
        }
        let is_gone = |world: &World, id: u64| {
            world
                .members
                .get(&id)
                .is_none_or(|member| member.lost || member.removed)
        };
        let learners: Vec<u64> = listed
            .iter()
            .filter(|member| member.is_learner)
            .map(|member| member.id)
            .collect();
        let voters: Vec<u64> = listed
            .iter()
            .filter(|member| !member.is_learner)
            .map(|member| member.id)
            .collect();
        let healthy: Vec<u64> = voters
            .iter()
            .copied()
            .filter(|id| {
                let member = self.members.get(id);
                member.is_some_and(|member| {
                    member.process.is_some() && !member.lost && !member.doubtful && member.paused_until <= self.now
                })
            })
            .collect();
        // 1. Learners that are lost, then voters.
        let lost = learners.iter().chain(&voters).copied().find(|id| is_gone(self, *id));
        if let Some(id) = lost
            && self.quorum_without(&voters, &healthy, id)
        {
            return self.remove(leader, id);
        }
        // Somebody may give a learner another URL.
        if let Some(id) = learners.first()
            && !self.calm
            && self.random.chance(150)
        {
            return self.update(leader, &listed, *id);
        }
        // 2. Learners that have caught up.
        if let Some(id) = ready.first() {
            let up = self.process(*id).is_some();
            if up && healthy.len() + 1 > voters.len().div_ceil(2) {
                return self.promote(leader, *id);
            }
            return;
        }
        // 3. One more, if there are too few.
        if listed.len() < self.swarm.members {
            if healthy.len() > voters.len() / 2 {
                self.enlist(leader);
            }
            return;
        }
        // 4. What was asked for.
        while let Some(id) = self.unwanted.pop() {
            if !voters.contains(&id) || !learners.is_empty() || self.calm {
                continue;
            }
            if self.random.chance(300) {
                return self.update(leader, &listed, id);
            }
            if self.quorum_without(&voters, &healthy, id) {
                return self.remove(leader, id);
            }
        }
    }

    /// Whether those that remain after a removal have a quorum that works.
    fn quorum_without(&self, voters: &[u64], healthy: &[u64], id: u64) -> bool {
        let remaining = voters.iter().filter(|voter| **voter != id).count();
        let working = healthy.iter().filter(|voter| **voter != id).count();
        remaining > 0 && working > remaining / 2
    }

    /// Asks for a member to be removed although nothing is wrong with it.
    pub(crate) fn dismiss(&mut self, id: u64) {
        self.unwanted.push(id);
    }

    fn change(&mut self, leader: u64, kind: ConfChangeType, node_id: u64, context: String) {
        let change = ConfChange {
            id: 0,
            r#type: kind as i32,
            node_id,
            context: context.into(),
        };
        if let Some(id) = self.propose_change(leader, change) {
            self.changing = Some((id, leader, self.now));
        }
    }

    fn remove(&mut self, leader: u64, id: u64) {
        let name = self.name(id);
        self.story.tell(self.now, || format!("upkeep removes {name}"));
        self.change(leader, ConfChangeType::ConfChangeRemoveNode, id, String::new());
    }

    fn promote(&mut self, leader: u64, id: u64) {
        let name = self.name(id);
        self.story.tell(self.now, || format!("upkeep promotes {name}"));
        let context = ChangeContext {
            member: Listed {
                id,
                ..Listed::default()
            },
            is_promote: true,
        };
        self.change(leader, ConfChangeType::ConfChangeAddNode, id, context.to_json());
    }

    fn update(&mut self, leader: u64, listed: &[Listed], id: u64) {
        let Some(member) = listed.iter().find(|member| member.id == id) else {
            return;
        };
        let name = self.name(id);
        self.story.tell(self.now, || format!("upkeep gives {name} another URL"));
        let member = Listed {
            id,
            peer_urls: vec![format!("http://{}-{}:2380", member.name, self.now)],
            ..Listed::default()
        };
        self.change(leader, ConfChangeType::ConfChangeUpdateNode, id, member.to_json());
    }

    fn enlist(&mut self, leader: u64) {
        self.names += 1;
        let name = format!("m{}", self.names);
        let urls = vec![format!("http://{name}:2380")];
        let member = Listed {
            is_learner: true,
            ..Listed::new("", &urls, "", Some(1_700_000_000 + self.names as i64))
        };
        let id = member.id;
        self.story.tell(self.now, || format!("upkeep adds {name} as a learner"));
        let Some(process) = self.process(leader) else {
            return;
        };
        let cluster_id = process.replica.identity().cluster_id;
        let mut members = process.replica.members();
        members.push(member.clone());
        let context = ChangeContext {
            member,
            is_promote: false,
        };
        self.add_member(
            id,
            &name,
            Start::Join {
                cluster_id,
                member_id: id,
                members,
            },
        );
        self.change(leader, ConfChangeType::ConfChangeAddLearnerNode, id, context.to_json());
        let delay = self.random.within(100 * MS, SECOND);
        self.after(delay, Event::Start(id));
    }
}
