//! One look, digested: which member list counts, who votes, who leads, who is well. Shared by all deciders.
//!
//! Invariants:
//! - `quorate` only if a member of the latched cluster read its member list linearizably in this look.
//! - `list` is that list; without quorum it is the last one that a quorum confirmed, and no step may rely on it that
//!   changes membership.

use super::journal::{Journal, Known, Led};
use super::observed::{Alarm, Answer, Data, Listed, Member, NodeState, Observed, Origin, Process};
use super::wanted::Wanted;
use super::{ClusterId, MemberId, MemberRef, Timestamp};

/// A digested look.
pub(super) struct Look<'a> {
    pub wanted: &'a Wanted,
    pub observed: &'a Observed,
    pub now: Timestamp,
    /// A quorum confirmed `list` in this look.
    pub quorate: bool,
    /// The member list that counts.
    pub list: Vec<Listed>,
    /// The leader, with quorum only.
    pub leader: Option<MemberId>,
}

impl<'a> Look<'a> {
    pub fn new(wanted: &'a Wanted, observed: &'a Observed, now: Timestamp) -> Look<'a> {
        let latched = observed.journal.cluster_id;
        let recovering = observed.journal.recovery.is_some();
        let confirmed = answers(observed)
            .filter(|a| a.linearizable && (recovering || latched.is_none_or(|id| id == a.cluster_id)))
            .max_by_key(|a| (a.term, a.index));
        let (list, leader) = match confirmed {
            Some(answer) => (answer.members.clone(), answer.leader),
            None => (remembered(observed), None),
        };
        Look {
            wanted,
            observed,
            now,
            quorate: confirmed.is_some(),
            list,
            leader,
        }
    }

    /// The latched cluster id; before that (or when the journal was lost) what the volumes say, if they agree.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.observed.journal.cluster_id.or_else(|| {
            let mut ids = self.observed.members.iter().filter_map(|m| m.volume.cluster_id);
            let first = ids.next()?;
            ids.all(|id| id == first).then_some(first)
        })
    }

    pub fn voters(&self) -> impl Iterator<Item = &Listed> {
        self.list.iter().filter(|l| !l.learner)
    }

    pub fn learners(&self) -> impl Iterator<Item = &Listed> {
        self.list.iter().filter(|l| l.learner)
    }

    /// Voters that make a quorum of the list.
    pub fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    pub fn healthy_voters(&self) -> usize {
        self.voters()
            .filter(|l| self.member_for(l).is_some_and(Member::healthy))
            .count()
    }

    /// The platform's member for an entry of the list: by id, and before its first start by peer URL.
    pub fn member_for(&self, listed: &Listed) -> Option<&'a Member> {
        let members = &self.observed.members;
        members.iter().find(|m| m.id() == Some(listed.id)).or_else(|| {
            members
                .iter()
                .find(|m| m.id().is_none() && listed.peer_urls.contains(&m.peer_url))
        })
    }

    /// The entry of the list for a member.
    pub fn listed_for(&self, member: &Member) -> Option<&Listed> {
        match member.id() {
            Some(id) => self.list.iter().find(|l| l.id == id),
            None => self.list.iter().find(|l| l.peer_urls.contains(&member.peer_url)),
        }
    }

    pub fn member(&self, name: &str) -> Option<&'a Member> {
        self.observed.members.iter().find(|m| m.name == name)
    }

    /// A member's name by id; the id itself when nobody knows a name.
    pub fn name_of(&self, id: MemberId) -> String {
        let listed = self.list.iter().find(|l| l.id == id);
        let here = listed.and_then(|l| self.member_for(l)).map(|m| m.name.clone());
        here.or_else(|| listed.map(|l| l.name.clone()).filter(|n| !n.is_empty()))
            .or_else(|| {
                self.observed
                    .members
                    .iter()
                    .find(|m| m.id() == Some(id))
                    .map(|m| m.name.clone())
            })
            .unwrap_or_else(|| id.to_string())
    }

    pub fn reference(&self, member: &Member) -> MemberRef {
        let id = self.listed_for(member).map(|l| l.id).or(member.id());
        MemberRef {
            name: member.name.clone(),
            volume: member.volume.uid.clone(),
            id,
        }
    }

    /// Alarms, each once.
    pub fn alarms(&self) -> impl Iterator<Item = Alarm> {
        let mut all: Vec<Alarm> = answers(self.observed)
            .filter(|a| a.linearizable)
            .flat_map(|a| a.alarms.iter().copied())
            .collect();
        all.sort();
        all.dedup();
        all.into_iter()
    }

    /// Entries that a member is behind the leader's commit index.
    pub fn lag(&self, member: &Member) -> Option<u64> {
        let head = answers(self.observed).map(|a| a.index).max()?;
        member.answer.as_ref().map(|a| head.saturating_sub(a.applied))
    }

    /// The journal with what this look adds: latched id, high-water mark, the confirmed list, who led.
    pub fn journal_now(&self) -> Journal {
        let mut journal = self.observed.journal.clone();
        let revision = answers(self.observed).map(|a| a.revision).max().unwrap_or(0);
        journal.revision_high_water = journal.revision_high_water.max(revision);
        // What a member says without a quorum tells nothing of what others acknowledge meanwhile.
        if self.quorate && revision > 0 {
            journal.revision_seen = Some(self.now);
        }
        if journal.bootstrap.is_none() {
            journal.bootstrap = self.bootstrap_on_volumes();
        }
        if !self.quorate {
            // A member may know of a later change than the last confirmed list; once it stops, nobody would.
            if !journal.members.is_empty() {
                journal.members = self.known_list();
            }
            if self.cluster_id().is_some() && self.wanted.replicas > 0 {
                journal.quorum_lost_since.get_or_insert(self.now);
            }
            return journal;
        }
        journal.quorum_lost_since = None;
        journal.recovery_proposal = None;
        if let Some(answer) = self.confirmed() {
            journal.cluster_id = Some(answer.cluster_id);
        }
        journal.members = self.known_list();
        if let Some(leader) = self.leader {
            let gone = self
                .voters()
                .filter(|l| self.proof_gone(l).is_some())
                .map(|l| l.id)
                .collect();
            journal.last_led = Some(Led {
                leader,
                at: self.now,
                gone,
            });
        }
        let learners: Vec<String> = self.learners().map(|l| self.name_of(l.id)).collect();
        journal.learner_since.retain(|(name, _)| learners.contains(name));
        for name in learners {
            if !journal.learner_since.iter().any(|(known, _)| *known == name) {
                journal.learner_since.push((name, self.now));
            }
        }
        let members = &self.observed.members;
        journal
            .defragmented
            .retain(|d| members.iter().any(|m| m.name == d.member));
        journal
    }

    fn confirmed(&self) -> Option<&'a Answer> {
        let latched = self.observed.journal.cluster_id;
        let recovering = self.observed.journal.recovery.is_some();
        answers(self.observed)
            .filter(|a| a.linearizable && (recovering || latched.is_none_or(|id| id == a.cluster_id)))
            .max_by_key(|a| (a.term, a.index))
    }

    /// The list of this look with what was last seen of each member.
    pub fn known_list(&self) -> Vec<Known> {
        self.list
            .iter()
            .map(|listed| self.known(listed, &self.observed.journal.members))
            .collect()
    }

    fn known(&self, listed: &Listed, before: &[Known]) -> Known {
        let name = self.name_of(listed.id);
        let answer = self.member_for(listed).and_then(|m| m.answer.as_ref());
        match (answer, before.iter().find(|k| k.id == listed.id)) {
            (Some(a), _) => Known {
                id: listed.id,
                name,
                learner: listed.learner,
                term: a.term,
                index: a.index,
                revision: a.revision,
                seen: Some(a.at),
            },
            (None, Some(known)) => Known {
                name,
                learner: listed.learner,
                ..known.clone()
            },
            (None, None) => Known {
                id: listed.id,
                name,
                learner: listed.learner,
                term: 0,
                index: 0,
                revision: 0,
                seen: None,
            },
        }
    }

    /// The bootstrap decision as the volumes of initial members tell it, when the journal was lost.
    fn bootstrap_on_volumes(&self) -> Option<super::journal::BootstrapDecision> {
        self.observed.members.iter().find_map(|m| match &m.volume.origin {
            Origin::Initial { cluster, token } => Some(super::journal::BootstrapDecision {
                members: cluster.clone(),
                token: token.clone(),
                at: m.volume.created,
            }),
            Origin::Restored { token } => Some(super::journal::BootstrapDecision {
                members: vec![m.name.clone()],
                token: token.clone(),
                at: m.volume.created,
            }),
            Origin::Joiner => None,
        })
    }

    /// Proof that a listed member will never speak again under its id, in words; none when it may (§5.2).
    pub fn proof_gone(&self, listed: &Listed) -> Option<String> {
        let Some(member) = self.member_for(listed) else {
            let name = self.name_of(listed.id);
            // A volume retired by hand: out of use by the platform's own statement. A member that was never here is
            // not proven gone: it may run elsewhere.
            return self
                .observed
                .retired
                .iter()
                .any(|r| r.member_id == Some(listed.id))
                .then(|| format!("{name}: its volume is retired"));
        };
        let name = &member.name;
        match (&member.data, member.node.state) {
            // A process may still serve from files that are unlinked: it is gone only with its process.
            (Data::Lost, _) if !matches!(member.process, Process::Running { .. } | Process::Unknown { .. }) => {
                return Some(format!("{name}: its data directory is lost"));
            }
            (_, NodeState::Deleted) if member.volume.bound_to_node || member.volume.deleted => {
                return Some(format!("{name}: its node is deleted, with the volume bound to it"));
            }
            (_, NodeState::OutOfService) if member.volume.bound_to_node => {
                return Some(format!(
                    "{name}: its node is out of service, with the volume bound to it"
                ));
            }
            _ => {}
        }
        let no_process = !member.may_run() && !matches!(member.process, Process::Unknown { .. });
        (member.volume.deleted && no_process).then(|| format!("{name}: its volume is deleted and no process runs"))
    }
}

fn answers(observed: &Observed) -> impl Iterator<Item = &Answer> {
    observed.members.iter().filter_map(|m| m.answer.as_ref())
}

/// The last list that a quorum confirmed, or a later one that a member reports (what a member has applied was
/// committed, so a list can only be old, never wrong); when nothing was ever confirmed, what the volumes tell.
fn remembered(observed: &Observed) -> Vec<Listed> {
    let confirmed_at = observed.journal.members.iter().map(|k| k.index).max();
    let latest = answers(observed).max_by_key(|a| (a.applied, a.term));
    if let Some(answer) = latest.filter(|a| confirmed_at.is_none_or(|index| a.applied > index) && !a.members.is_empty())
    {
        return answer.members.clone();
    }
    if confirmed_at.is_some() {
        let url = |name: &str| {
            observed
                .members
                .iter()
                .find(|m| m.name == name)
                .map(|m| m.peer_url.clone())
        };
        let entry = |k: &Known| Listed {
            id: k.id,
            name: k.name.clone(),
            peer_urls: url(&k.name).into_iter().collect(),
            learner: k.learner,
        };
        return observed.journal.members.iter().map(entry).collect();
    }
    let entry = |m: &Member| {
        Some(Listed {
            id: m.volume.member_id?,
            name: m.name.clone(),
            peer_urls: vec![m.peer_url.clone()],
            learner: false,
        })
    };
    observed.members.iter().filter_map(entry).collect()
}
