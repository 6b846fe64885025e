//! The invariants of a plan, checked from the raw facts and without the deciders' own helpers: a second opinion.
//! Tests and the simulator call [`check`] on every plan that is made.

use super::observed::{Answer, Data, Listed, Member, Observed, Origin, Process};
use super::step::{Create, MemberRef, Start, Step};
use super::wanted::Wanted;
use super::{Due, MemberId, Next, Plan};

/// Everything that is wrong with `plan`; empty when it may be carried out.
pub fn check(wanted: &Wanted, observed: &Observed, plan: &Plan) -> Vec<String> {
    let facts = Facts::new(wanted, observed);
    let mut wrong = Vec::new();
    facts.journal(plan, &mut wrong);
    facts.status(plan, &mut wrong);
    for due in &plan.due {
        if let Due::PurgeVolume { name, .. } = due
            && !facts.all_well()
        {
            wrong.push(format!(
                "the retired volume of {name} is purged while the cluster is not healthy"
            ));
        }
    }
    if let Next::Take { step, .. } = &plan.next {
        let hands_off = wanted.paused && wanted.deleting.is_none();
        if hands_off {
            wrong.push(format!("{step}: the cluster is paused"));
        }
        facts.step(step, &mut wrong);
    }
    wrong
}

struct Facts<'a> {
    wanted: &'a Wanted,
    observed: &'a Observed,
    /// The list that a quorum confirmed in this look.
    confirmed: Option<&'a Answer>,
}

impl<'a> Facts<'a> {
    fn new(wanted: &'a Wanted, observed: &'a Observed) -> Facts<'a> {
        let answers = || observed.members.iter().filter_map(|m| m.answer.as_ref());
        let confirmed = answers().filter(|a| a.linearizable).max_by_key(|a| (a.term, a.index));
        Facts {
            wanted,
            observed,
            confirmed,
        }
    }

    fn voters(&self) -> impl Iterator<Item = &'a Listed> {
        self.confirmed
            .into_iter()
            .flat_map(|a| a.members.iter())
            .filter(|l| !l.learner)
    }

    fn healthy(&self, listed: &Listed) -> bool {
        self.observed.members.iter().any(|m| {
            let same = m.id() == Some(listed.id) || (m.id().is_none() && listed.peer_urls.contains(&m.peer_url));
            same && m.healthy()
        })
    }

    fn listed(&self, member: &Member) -> Option<&'a Listed> {
        self.confirmed
            .into_iter()
            .flat_map(|a| a.members.iter())
            .find(|l| match member.id() {
                Some(id) => l.id == id,
                None => l.peer_urls.contains(&member.peer_url),
            })
    }

    fn member(&self, reference: &MemberRef) -> Option<&'a Member> {
        self.observed
            .members
            .iter()
            .find(|m| m.name == reference.name && m.volume.uid == reference.volume)
    }

    fn all_well(&self) -> bool {
        self.confirmed.is_some()
            && self.voters().count() == self.wanted.replicas as usize
            && self.voters().all(|l| self.healthy(l))
    }

    fn journal(&self, plan: &Plan, wrong: &mut Vec<String>) {
        let (before, after) = (&self.observed.journal, &plan.journal);
        if before.bootstrap.is_some() && before.bootstrap != after.bootstrap {
            wrong.push("the bootstrap decision changed".into());
        }
        let latched_changed = before.cluster_id.is_some() && before.cluster_id != after.cluster_id;
        if latched_changed && before.recovery.is_none() {
            wrong.push("the cluster id changed without a recovery".into());
        }
        if after.revision_high_water < before.revision_high_water {
            wrong.push("the revision's high-water mark went back".into());
        }
        let decided = |j: &super::Journal| (j.bootstrap.clone(), j.recovery.clone());
        let (b, r) = decided(before);
        let news = (after.bootstrap.is_some() && b.is_none() && self.observed.members.is_empty())
            || (after.recovery.is_some() && after.recovery != r);
        if news
            && !matches!(
                plan.next,
                Next::Take {
                    step: Step::Record { .. },
                    ..
                }
            )
        {
            wrong.push("a decision is acted on before it was read back".into());
        }
    }

    fn status(&self, plan: &Plan, wrong: &mut Vec<String>) {
        let available = plan
            .status
            .conditions
            .iter()
            .any(|c| c.kind == "Available" && c.status == "True");
        if available && self.confirmed.is_none() {
            wrong.push("status says Available though no quorum confirmed a read".into());
        }
        if plan.status.observed_generation != self.wanted.generation {
            wrong.push("status is about another generation".into());
        }
    }

    fn step(&self, step: &Step, wrong: &mut Vec<String>) {
        let mut must = |holds: bool, why: &str| {
            if !holds {
                wrong.push(format!("{step}: {why}"));
            }
        };
        let quorate = self.confirmed.is_some();
        let going_down = self.wanted.replicas == 0 || self.wanted.deleting.is_some();
        let recovering = self.observed.journal.recovery.is_some();
        match step {
            Step::Record { .. } => {}
            Step::CreateMember { name, create } => {
                let known = self.observed.members.iter().any(|m| m.name == *name);
                let retired = self.observed.retired.iter().any(|r| r.name == *name);
                must(!known && !retired, "the name was used before");
                match create {
                    Create::Initial { cluster, .. } => {
                        must(self.decided(), "no bootstrap decision was read back");
                        must(cluster.contains(name), "it is not one of the initial members");
                        must(
                            self.observed.journal.cluster_id.is_none() && !quorate,
                            "the cluster exists already",
                        );
                        must(
                            !self.observed.members.iter().any(|m| m.volume.started),
                            "an initial member runs already",
                        );
                    }
                    Create::Joiner => {
                        must(quorate, "no quorum confirms the member list");
                        must(
                            self.observed.members.iter().all(|m| self.listed(m).is_some()),
                            "another volume waits to be added",
                        );
                        must(self.learners() == 0, "there is a learner already");
                    }
                    Create::Restored { .. } => {
                        let first = self.observed.journal.bootstrap.is_some() && self.observed.members.is_empty();
                        must(first || recovering, "neither a bootstrap nor a recovery asks for it");
                        must(!quorate, "the cluster is alive");
                    }
                }
            }
            Step::StartMember { member, start } => {
                let Some(m) = self.member(member) else {
                    return must(false, "there is no such member");
                };
                must(!matches!(m.process, Process::Running { .. }), "it runs");
                must(!m.volume.deleted, "its volume is deleted");
                match start {
                    Start::New { initial_cluster, .. } => {
                        must(m.data == Data::Fresh, "its data is not fresh");
                        must(
                            !quorate && self.observed.journal.cluster_id.is_none(),
                            "a cluster exists already",
                        );
                        let decided = self.observed.journal.bootstrap.as_ref().map(|b| b.members.clone());
                        let mut names: Vec<String> = initial_cluster.iter().map(|(n, _)| n.clone()).collect();
                        let mut decided = decided.unwrap_or_else(|| names.clone());
                        names.sort();
                        decided.sort();
                        must(names == decided, "the list differs from the decision");
                    }
                    Start::Join { .. } => {
                        must(m.data == Data::Fresh, "its data is not fresh");
                        must(self.listed(m).is_some(), "it is not in the confirmed list");
                    }
                    Start::Resume => must(m.data == Data::Present, "it has no data of its own"),
                }
            }
            Step::StopMember { member } | Step::RestartMember { member, .. } => {
                let Some(m) = self.member(member) else {
                    return must(false, "there is no such member");
                };
                if m.healthy() && !going_down && !recovering && self.voters().count() > 1 {
                    must(self.quorum_without(m), "too few healthy voters would remain");
                }
            }
            Step::AddLearner { member, .. } => {
                must(quorate, "no quorum confirms the member list");
                must(self.learners() == 0, "there is a learner already");
                let Some(m) = self.member(member) else {
                    return must(false, "there is no such member");
                };
                must(m.data == Data::Fresh && m.id().is_none(), "it is not a new member");
            }
            Step::Promote { member } => {
                let Some(m) = self.member(member) else {
                    return must(false, "there is no such member");
                };
                must(quorate && self.listed(m).is_some_and(|l| l.learner), "it is no learner");
                must(m.healthy(), "it is not healthy");
                let healthy = self.voters().filter(|l| self.healthy(l)).count() + 1;
                must(
                    healthy > self.voters().count().div_ceil(2),
                    "the healthy voters would not be a quorum",
                );
            }
            Step::MoveLeader { from, to } => {
                must(
                    self.confirmed.is_some_and(|a| a.leader == Some(*from)),
                    "somebody else leads",
                );
                must(
                    self.member(to).is_some_and(|m| m.healthy()),
                    "the target is not healthy",
                );
                must(self.voters().any(|l| Some(l.id) == to.id), "the target is no voter");
            }
            Step::RemoveMember { id, learner, .. } => self.removal(*id, *learner, &mut must),
            Step::RetireMember { member } => {
                let Some(m) = self.member(member) else {
                    return must(false, "there is no such member");
                };
                must(quorate, "no quorum confirms the member list");
                must(self.listed(m).is_none(), "it is in the member list");
            }
            Step::InspectLog { member } | Step::CopyVolume { member } => {
                let Some(m) = self.member(member) else {
                    return must(false, "there is no such member");
                };
                must(!m.may_run(), "its process may run");
                must(recovering, "no recovery was read back");
            }
            Step::RecoverQuorum { survivor, .. } => {
                let Some(m) = self.member(survivor) else {
                    return must(false, "there is no such member");
                };
                must(recovering && !quorate, "no recovery is called for");
                must(
                    m.data == Data::Present && m.copied.is_some() && m.log.is_some(),
                    "it was not copied and read first",
                );
                let visible = |m: &&Member| m.may_run() && !matches!(m.process, Process::Unknown { .. });
                must(
                    !self.observed.members.iter().any(|m| visible(&m)),
                    "a process of the cluster may run",
                );
            }
            Step::Compact { .. } | Step::DisarmAlarm { .. } => must(quorate, "no quorum"),
            Step::Defragment { member, .. } => {
                must(self.voters().all(|l| self.healthy(l)), "a voter is not healthy");
                must(self.learners() == 0, "a member is joining");
                must(self.member(member).is_some(), "there is no such member");
            }
            Step::ExpandVolume { member, bytes } => {
                must(
                    self.member(member).is_some_and(|m| m.volume.size_bytes < *bytes),
                    "it would not grow",
                );
            }
            Step::Release { .. } => {
                must(self.wanted.deleting.is_some(), "the cluster is not being deleted");
                must(!self.observed.members.iter().any(Member::may_run), "a process may run");
            }
        }
    }

    /// The bootstrap decision was read back: from the journal, or from the volumes that were made for it.
    fn decided(&self) -> bool {
        let written = |m: &Member| matches!(m.volume.origin, Origin::Initial { .. });
        self.observed.journal.bootstrap.is_some() || self.observed.members.iter().any(written)
    }

    fn learners(&self) -> usize {
        self.confirmed
            .map_or(0, |a| a.members.iter().filter(|l| l.learner).count())
    }

    /// The healthy voters other than `member` are a quorum of all.
    fn quorum_without(&self, member: &Member) -> bool {
        let voters = self.voters().count();
        let others = self
            .voters()
            .filter(|l| self.healthy(l) && self.listed(member).is_none_or(|m| m.id != l.id));
        others.count() > voters / 2
    }

    fn removal(&self, id: MemberId, learner: bool, must: &mut impl FnMut(bool, &str)) {
        let Some(answer) = self.confirmed else {
            return must(false, "no quorum confirms the member list");
        };
        let Some(listed) = answer.members.iter().find(|l| l.id == id) else {
            return must(false, "it is not in the list");
        };
        must(listed.learner == learner, "its role is another");
        if listed.learner {
            return;
        }
        must(answer.leader != Some(id), "it leads");
        let rest = self.voters().filter(|l| l.id != id);
        let (all, healthy) = rest.fold((0, 0), |(all, healthy), l| {
            (all + 1, healthy + usize::from(self.healthy(l)))
        });
        must(
            all > 0 && healthy > all / 2,
            "the healthy voters that remain are no quorum",
        );
    }
}
