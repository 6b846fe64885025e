//! The network between members: messages are late, lost, doubled, and overtake each other when the swarm says so.

use proto::raftpb::{Message, MessageType};
use replica::Input;

use super::{Event, Life, MS, Relief, World};

impl World {
    pub(crate) fn send(&mut self, from: Life, message: Message) {
        let Some(member) = self.members.get_mut(&from.member) else {
            return;
        };
        if member.life != from.number || member.process.is_none() {
            return;
        }
        if std::mem::take(&mut member.cut_at_message) {
            let name = self.name(from.member);
            self.story.tell(self.now, || {
                format!("{name} loses power before it sends {:?}", message.r#type())
            });
            self.figures
                .crash_points
                .insert(format!("message: {:?}", message.r#type()));
            return self.cut_power(from.member);
        }
        self.overhear(&message);
        self.figures.messages += 1;
        let link = (from.member, message.to);
        if self.blocked.contains(&link) {
            self.figures.lost += 1;
            if self.random.chance(300) {
                self.after(5 * MS, Event::Input(from, Box::new(Input::Unreachable(message.to))));
            }
            return;
        }
        if !self.calm && self.random.chance(self.swarm.drop) {
            self.figures.lost += 1;
            if self.random.chance(200) {
                self.after(5 * MS, Event::Input(from, Box::new(Input::Unreachable(message.to))));
            }
            return;
        }
        let latency = self.swarm.latency;
        let mut at = self.now + self.random.around(latency) + 1 + self.slow.get(&link).copied().unwrap_or(0);
        if !self.swarm.reorder || self.calm {
            let last = self.links.entry(link).or_default();
            at = at.max(*last + 1);
            *last = at;
        }
        // A stream between members repeats nothing by itself: a forwarded proposal that came twice would be applied twice. What raft
        // must bear in any case may come again, from an older connection.
        let once = message.r#type() == MessageType::MsgProp;
        if !self.calm && !once && self.random.chance(self.swarm.duplicate) {
            self.figures.doubled += 1;
            let later = at + self.random.around(latency * 4 + MS);
            // Some waited in the buffers of a connection that nobody looked at.
            let later = if self.random.chance(100) {
                later + self.random.within(0, 2000 * MS)
            } else {
                later
            };
            self.at(later, Event::Message(Box::new(message.clone())));
        }
        self.at(at, Event::Message(Box::new(message)));
    }

    pub(crate) fn arrive(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        if self.blocked.contains(&(from, to)) {
            return;
        }
        let Some(member) = self.members.get(&to) else {
            return;
        };
        let Some(process) = &member.process else {
            let life = self.life(from);
            return self.after(MS, Event::Input(life, Box::new(Input::Unreachable(to))));
        };
        if member.paused_until > self.now {
            // Each connection is read when its turn comes, in its own order.
            let mut at = member.paused_until + self.random.within(0, 5 * MS);
            if !self.swarm.reorder || self.calm {
                let last = self.links.entry((from, to)).or_default();
                at = at.max(*last + 1);
                *last = at;
            }
            return self.at(at, Event::Message(Box::new(message)));
        }
        // Peers that were removed are not let in.
        if process.replica.state().membership().is_removed(from) {
            return;
        }
        self.story.note(&[
            5,
            to,
            self.now,
            from,
            message.r#type as u64,
            message.term,
            message.index,
            message.commit,
            message.entries.len() as u64,
        ]);
        let life = self.life(to);
        self.feed(life, Input::Message(message));
    }

    /// Whether anything gets from one member to another.
    pub(crate) fn reaches(&self, from: u64, to: u64) -> bool {
        let up = |id: u64| self.members.get(&id).is_some_and(|member| member.process.is_some());
        !self.blocked.contains(&(from, to)) && up(from) && up(to)
    }

    /// Cuts a link in one direction.
    pub(crate) fn block(&mut self, from: u64, to: u64) {
        if from != to {
            self.blocked.insert((from, to));
        }
    }

    /// All links carry again.
    pub(crate) fn heal_links(&mut self) {
        self.blocked.clear();
        self.slow.clear();
    }

    /// Cuts a leader off from all others, or from all but one: what it has begun stays with few.
    pub(crate) fn churn(&mut self, life: Life) {
        if self.calm || self.leader() != Some(life.member) {
            return;
        }
        let mut others: Vec<u64> = self.members.keys().copied().filter(|id| *id != life.member).collect();
        if others.len() > 1 && self.random.chance(500) {
            let spared = self.random.below(others.len() as u64) as usize;
            others.swap_remove(spared);
        }
        if others.is_empty() {
            return;
        }
        for other in others {
            self.block(life.member, other);
            self.block(other, life.member);
        }
        let name = self.name(life.member);
        self.count_named("leader cut off after its election");
        self.story.note(&[8, life.member, self.now]);
        self.story.tell(self.now, || format!("-- leader cut off ({name})"));
        let election = self.swarm.election();
        let until = self.random.within(election / 4, 3 * election);
        self.after(until, Event::Relief(Relief::Links));
    }

    /// Makes a link slow.
    pub(crate) fn slow_down(&mut self, from: u64, to: u64, by: u64) {
        self.slow.insert((from, to), by);
    }
}
