//! The few facts that cannot be observed again, persisted with the status before any step is carried out.
//!
//! Invariants:
//! - Losing the journal is harmless to data: what guards data (who was bootstrapped, with which cluster id) is also
//!   written on the volumes and is rebuilt from them.
//! - `cluster_id`, once latched, changes only by a recovery that the journal records.

use super::reason::Reason;
use super::step::Step;
use super::{ClusterId, MemberId, Next, Timestamp};

/// Persisted facts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    /// The one bootstrap decision.
    pub bootstrap: Option<BootstrapDecision>,
    /// The cluster's id, latched at the first answer.
    pub cluster_id: Option<ClusterId>,
    /// The last member list that a quorum confirmed.
    pub members: Vec<Known>,
    /// Since when no quorum confirms anything; none while one does.
    pub quorum_lost_since: Option<Timestamp>,
    /// The last leader that was seen with a quorum.
    pub last_led: Option<Led>,
    /// The highest revision ever seen.
    pub revision_high_water: i64,
    /// When the high-water mark was last confirmed.
    pub revision_seen: Option<Timestamp>,
    /// A recovery that was decided and not finished.
    pub recovery: Option<RecoveryDecision>,
    /// The newest recovery plan that is published and waits.
    pub recovery_proposal: Option<String>,
    /// The newest compaction that the operator made: revision and time.
    pub compacted: Option<(i64, Timestamp)>,
    /// When each member was last defragmented, by name, with the owner's token at that time.
    pub defragmented: Vec<Defragmented>,
    /// The owner's request (`quorate.dev/move-leader`) that was last met.
    pub leader_moved: Option<String>,
    /// Since when each learner has been one, by name.
    pub learner_since: Vec<(String, Timestamp)>,
    /// The last step that failed, until another succeeds.
    pub failure: Option<Failure>,
    /// What is being done or waited for, and since when.
    pub next_since: Option<(String, Timestamp)>,
    /// Conditions with the time of their last change: type, status, since.
    pub conditions: Vec<(String, String, Timestamp)>,
}

/// Which members begin the cluster; decided once.
#[derive(Clone, Debug, PartialEq)]
pub struct BootstrapDecision {
    /// Names of the initial members.
    pub members: Vec<String>,
    /// `--initial-cluster-token`.
    pub token: String,
    /// When it was decided.
    pub at: Timestamp,
}

/// A member as a quorum last confirmed it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Its id.
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// A learner.
    pub learner: bool,
    /// The last term, index and revision that it was seen at.
    pub term: u64,
    /// Raft index.
    pub index: u64,
    /// Revision.
    pub revision: i64,
    /// When it last answered.
    pub seen: Option<Timestamp>,
}

/// A leader seen with a quorum.
#[derive(Clone, Debug, PartialEq)]
pub struct Led {
    /// The leader.
    pub leader: MemberId,
    /// When.
    pub at: Timestamp,
    /// The voters that were proven gone at that moment already.
    pub gone: Vec<MemberId>,
}

/// A recovery that was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveryDecision {
    /// Hash of the plan that was published.
    pub hash: String,
    /// What it is done from.
    pub from: RecoveryFrom,
    /// When it was decided.
    pub at: Timestamp,
    /// What the owner is told about it.
    pub reason: String,
    /// What may be lost.
    pub loss_bound: String,
}

/// What a cluster is recovered from.
#[derive(Clone, Debug, PartialEq)]
pub enum RecoveryFrom {
    /// The member with this name.
    Survivor {
        /// Its name.
        name: String,
        /// Names of all survivors, copied and compared first.
        candidates: Vec<String>,
    },
    /// A backup, as the only member with this new name.
    Backup {
        /// Name of the backup.
        backup: String,
        /// Name of the new first member.
        member: String,
        /// `--initial-cluster-token` of the cluster begun again.
        token: String,
    },
}

/// A member's last defragmentation.
#[derive(Clone, Debug, PartialEq)]
pub struct Defragmented {
    /// The member's name.
    pub member: String,
    /// When.
    pub at: Timestamp,
    /// The owner's token (`quorate.dev/defrag`) at that time.
    pub token: String,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// [`Step::key`].
    pub step: String,
    /// How often in a row.
    pub count: u32,
    /// When last.
    pub at: Timestamp,
    /// What the platform said.
    pub error: String,
}

impl Journal {
    /// Call after `step` was carried out; persist the journal afterwards.
    pub fn note_done(&mut self, step: &Step, now: Timestamp) {
        self.failure = None;
        match step {
            Step::Compact { revision } => self.compacted = Some((*revision, now)),
            Step::Defragment { member, token } => {
                self.defragmented.retain(|d| d.member != member.name);
                let (member, token) = (member.name.clone(), token.clone());
                self.defragmented.push(Defragmented { member, at: now, token });
            }
            Step::Record { .. }
            | Step::CreateMember { .. }
            | Step::StartMember { .. }
            | Step::StopMember { .. }
            | Step::RestartMember { .. }
            | Step::AddLearner { .. }
            | Step::Promote { .. }
            | Step::MoveLeader { .. }
            | Step::RemoveMember { .. }
            | Step::RetireMember { .. }
            | Step::InspectLog { .. }
            | Step::CopyVolume { .. }
            | Step::RecoverQuorum { .. }
            | Step::DisarmAlarm { .. }
            | Step::ExpandVolume { .. }
            | Step::Release { .. } => {}
        }
    }

    /// Call after `step` failed with `error`; persist the journal afterwards. The next plan backs off.
    pub fn note_failed(&mut self, step: &Step, error: &str, now: Timestamp) {
        let key = step.key();
        let before = self.failure.take().filter(|f| f.step == key).map_or(0, |f| f.count);
        self.failure = Some(Failure {
            step: key,
            count: before.saturating_add(1),
            at: now,
            error: error.to_string(),
        });
    }

    /// Remembers since when the present action or wait is the present one.
    pub(super) fn note_next(&mut self, next: &Next, now: Timestamp) {
        let text = next_key(next);
        if self.next_since.as_ref().is_none_or(|(known, _)| *known != text) {
            self.next_since = Some((text, now));
        }
    }

    /// Remembers since when a condition has its status; returns that time.
    pub(super) fn note_condition(&mut self, kind: &str, status: &str, now: Timestamp) -> Timestamp {
        if let Some(entry) = self.conditions.iter_mut().find(|(known, ..)| known == kind) {
            if entry.1 != status {
                entry.1 = status.to_string();
                entry.2 = now;
            }
            return entry.2;
        }
        self.conditions.push((kind.to_string(), status.to_string(), now));
        now
    }

    /// When a member was last defragmented.
    pub fn last_defrag(&self, name: &str) -> Option<&Defragmented> {
        self.defragmented.iter().find(|d| d.member == name)
    }
}

fn next_key(next: &Next) -> String {
    match next {
        Next::Settled => "Settled".into(),
        Next::Take { step, .. } => step.key(),
        Next::Wait { why, .. } | Next::Blocked { why } => Reason::name(why).into(),
    }
}
