//! Decides what to do next for one etcd cluster. Pure: no clock, no randomness, no I/O, standard library only.
//!
//! [`plan`] compares what is [wanted](Wanted) with what was [observed](Observed) and answers with one [`Plan`]:
//! 1. No data anywhere: bootstrap (or restore). 2. Quorum or data lost: recover, or say what a human must decide.
//! 3. Members that merely stopped: start them. Wrong members: one in or one out. 4. Outdated members: roll one.
//! 5. Bloated members: maintain one. The first decider with something to say wins: this list is the priority.
//!
//! Invariants (checked by [`check`](check::check) on every plan in tests and in the simulator):
//! - At most one step is in [`Next::Take`]; it is planned again from a fresh look after it was carried out.
//! - A step names the member by name, volume and member id; the platform refuses it when those no longer hold.
//! - [`Plan::journal`] is persisted *before* the step is carried out. Only the journal and what can be observed
//!   again is input: an operator that forgets everything else continues where it was.
//! - A voter is removed or stopped only if the healthy voters that remain are a quorum of those that remain.
//! - `initial-cluster-state=new` is used only for members that the journal's one bootstrap decision lists, and only
//!   while no cluster id is latched.

pub mod backup;
mod bootstrap;
pub mod check;
mod explain;
pub mod journal;
mod look;
mod maintenance;
mod membership;
pub mod observed;
mod power;
pub mod reason;
pub mod recovery;
pub mod resources;
mod rollout;
pub mod safety;
pub mod status;
pub mod step;
pub mod wanted;

#[cfg(test)]
mod model;

pub use explain::explain;
pub use journal::Journal;
pub use observed::Observed;
pub use reason::Reason;
pub use resources::Ensure;
pub use status::Status;
pub use step::{MemberRef, Step};
pub use wanted::Wanted;

use std::fmt;
use std::time::Duration;

/// A moment: milliseconds since the Unix epoch, as the platform's clock gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The moment `seconds` after the Unix epoch.
    pub const fn from_seconds(seconds: u64) -> Self {
        Timestamp(seconds.saturating_mul(1000))
    }

    /// Time that passed from `earlier` to this moment; zero when `earlier` is later (clocks step back).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment plus `duration`.
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// etcd's member id; shown in hexadecimal as etcdctl does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// etcd's cluster id; shown in hexadecimal as etcdctl does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What to do about one cluster, decided from one look at it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What must exist; idempotent, safe at any time, carried out on every reconcile.
    pub ensure: Vec<Ensure>,
    /// Work that disturbs no member, carried out beside `next` and never starved by it.
    pub due: Vec<Due>,
    /// At most one disruptive step.
    pub next: Next,
    /// What to publish about the cluster.
    pub status: Status,
    /// Facts to persist **before** `next` is carried out; give them back in [`Observed::journal`].
    pub journal: Journal,
}

/// The one disruptive thing, or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The cluster is as wanted.
    Settled,
    /// Carry out this step, then look and plan again at once.
    Take {
        /// What to do.
        step: Step,
        /// Why; shown in status, event and log.
        why: Reason,
    },
    /// Something is under way; look again after `recheck` or when something changes.
    Wait {
        /// What is waited for.
        why: Reason,
        /// Look again after this long at the latest.
        recheck: Duration,
    },
    /// Nothing will change without a human or an edit of the spec; the reason names the remedy.
    Blocked {
        /// What is in the way.
        why: Reason,
    },
}

/// Work that disturbs nobody.
#[derive(Clone, Debug, PartialEq)]
pub enum Due {
    /// Take (or prune) backups as [`backup::plan`] decided for the named policy.
    Backup(backup::Action),
    /// Delete the data of a volume that was retired and whose retention has passed.
    PurgeVolume {
        /// The member name that it belonged to.
        name: String,
        /// The volume's identity; refuse when another volume has that name now.
        volume: String,
    },
}

/// Decides what is to be done next. See the [module](self) for the order.
pub fn plan(wanted: &Wanted, observed: &Observed, now: Timestamp) -> Plan {
    let look = look::Look::new(wanted, observed, now);
    let mut journal = look.journal_now();
    let next = decide(&look, &mut journal);
    let next = hold_back_after_failure(next, &journal, now);
    journal.note_next(&next, now);
    Plan {
        ensure: resources::ensure(wanted, observed),
        due: due(&look),
        status: status::status(&look, &mut journal, &next),
        next,
        journal,
    }
}

/// The deciders in order of priority: the first that has something to say wins.
fn decide(look: &look::Look<'_>, journal: &mut Journal) -> Next {
    None.or_else(|| power::hands_off(look))
        .or_else(|| power::delete(look))
        .or_else(|| power::hibernate(look))
        .or_else(|| rollout::cure(look))
        .or_else(|| bootstrap::decide(look, journal))
        .or_else(|| power::start(look, journal))
        .or_else(|| recovery::decide(look, journal))
        .or_else(|| membership::decide(look, journal))
        .or_else(|| rollout::decide(look))
        .or_else(|| maintenance::decide(look, journal))
        .or_else(|| power::start_held_back(look, journal))
        .or_else(|| membership::wait(look))
        .unwrap_or(Next::Settled)
}

fn due(look: &look::Look<'_>) -> Vec<Due> {
    let backups = backup::due(look.wanted, look.observed, look.now)
        .into_iter()
        .map(Due::Backup);
    backups.chain(membership::volumes_to_purge(look)).collect()
}

/// A step that failed is tried again only after a pause that doubles with every failure, so that a fault outside
/// (a full disk, a wrong image) does not spin the operator; the failure's text is the reason shown meanwhile.
fn hold_back_after_failure(next: Next, journal: &Journal, now: Timestamp) -> Next {
    let Next::Take { step, why } = &next else { return next };
    let Some(failure) = journal.failure.as_ref().filter(|f| f.step == step.key()) else {
        return next;
    };
    let Some(left) = pause_after_failure(step, journal, now) else {
        return next;
    };
    let why = Reason::StepFailed {
        step: step.to_string(),
        goal: Box::new(why.clone()),
        error: failure.error.clone(),
        count: failure.count,
    };
    Next::Wait { why, recheck: left }
}

/// What is left of the pause after the last failure of this very step; none when it may be tried.
fn pause_after_failure(step: &Step, journal: &Journal, now: Timestamp) -> Option<Duration> {
    let failure = journal.failure.as_ref().filter(|f| f.step == step.key())?;
    let pause = Duration::from_millis(500 << failure.count.min(6));
    pause.checked_sub(now.since(failure.at)).filter(|left| !left.is_zero())
}
