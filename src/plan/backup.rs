//! What is due from an `EtcdBackup`: pure. Cron expressions are evaluated outside and enter as ticks.
//!
//! Invariants:
//! - A tick makes at most one backup, ever: the child's name is a function of policy and tick, and creating a name
//!   that exists is refused.
//! - At most one run of a policy at a time.
//! - Retention never deletes the last verified backup, nor anything younger than what it must keep.

use std::time::Duration;

use super::Timestamp;
use super::observed::Observed;
use super::wanted::{DeletionPolicy, Wanted};

/// An `EtcdBackup` with a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// When it was created; ticks before that are none of its.
    pub created: Timestamp,
    /// Ticks up to now that may not have been acted on, oldest first. The newest one alone is caught up.
    pub ticks: Vec<Timestamp>,
    /// The next tick after now.
    pub next_tick: Option<Timestamp>,
    /// A tick older than this is skipped; none catches up however late.
    pub starting_deadline: Option<Duration>,
    /// Take one at creation, before the first tick.
    pub immediate: bool,
    /// Nothing is started.
    pub suspended: bool,
    /// What is kept.
    pub retention: Retention,
}

/// What is kept of a policy's backups.
#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    /// Completed backups kept at most.
    pub keep_last: u32,
    /// Backups older than this go; none keeps by number alone.
    pub max_age: Option<Duration>,
    /// Completed backups kept at least, whatever their age.
    pub min_keep: u32,
}

/// A backup that was taken or is being taken: a one-shot `EtcdBackup`.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its name.
    pub name: String,
    /// The policy that it belongs to, if any.
    pub policy: Option<String>,
    /// When it was asked for: its tick, or its creation.
    pub scheduled: Timestamp,
    /// How it stands.
    pub phase: Phase,
    /// When it was completed.
    pub completed: Option<Timestamp>,
    /// Its content was read back and its hash compared.
    pub verified: bool,
    /// Revision that it holds; 0 when not known.
    pub revision: i64,
}

/// How a backup stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun.
    Pending,
    /// Being taken.
    Running,
    /// Stored; being read back.
    Verifying,
    /// Stored (and verified, where asked for).
    Completed,
    /// Failed.
    Failed,
}

impl Phase {
    /// True while something is still to be done for it.
    pub fn open(self) -> bool {
        match self {
            Phase::Pending | Phase::Running | Phase::Verifying => true,
            Phase::Completed | Phase::Failed => false,
        }
    }
}

/// Something to do for a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create the one-shot child; a name that exists counts as done.
    Create {
        /// The policy.
        policy: String,
        /// The child's name.
        name: String,
        /// Its tick.
        scheduled: Timestamp,
    },
    /// Delete a backup that retention no longer keeps.
    Prune {
        /// Its name.
        name: String,
    },
}

/// Why a policy starts nothing now, or that it does.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Starts this tick now.
    Starts(Timestamp),
    /// Waits for the next tick.
    Waits(Option<Timestamp>),
    /// `suspend: true`.
    Suspended,
    /// The run before has not ended (`concurrencyPolicy: Forbid`).
    Overlaps(String),
    /// The newest tick was missed by more than `startingDeadlineSeconds`.
    Missed(Timestamp),
}

/// All that is due for the policies of a cluster, and a last backup for `SnapshotThenDelete`.
pub fn due(wanted: &Wanted, observed: &Observed, now: Timestamp) -> Vec<Action> {
    if let Some(since) = wanted.deleting {
        return last_backup(wanted, observed, since).into_iter().collect();
    }
    wanted
        .backups
        .iter()
        .flat_map(|policy| plan(policy, &observed.backups, now))
        .collect()
}

/// The backup before a deletion, where the cluster's first policy puts its own; tried again a minute after it failed.
fn last_backup(wanted: &Wanted, observed: &Observed, since: Timestamp) -> Option<Action> {
    let policy = wanted
        .backups
        .first()
        .filter(|_| wanted.deletion_policy == DeletionPolicy::SnapshotThenDelete)?;
    let newest = observed
        .backups
        .iter()
        .filter(|run| run.scheduled >= since)
        .max_by_key(|run| run.scheduled);
    let scheduled = match newest {
        None => since,
        Some(run) if run.phase == Phase::Failed => run.scheduled.plus(Duration::from_secs(60)),
        Some(_) => return None,
    };
    let name = child_name(&policy.name, scheduled);
    Some(Action::Create {
        policy: policy.name.clone(),
        name,
        scheduled,
    })
}

/// What is due for one policy, given all backups of the cluster.
pub fn plan(policy: &Policy, runs: &[Run], now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    if let Standing::Starts(tick) = standing(policy, runs, now) {
        actions.push(Action::Create {
            policy: policy.name.clone(),
            name: child_name(&policy.name, tick),
            scheduled: tick,
        });
    }
    actions.extend(prune(policy, runs, now).into_iter().map(|name| Action::Prune { name }));
    actions
}

/// How a policy stands: whether a tick starts now, and else why not.
pub fn standing(policy: &Policy, runs: &[Run], now: Timestamp) -> Standing {
    if policy.suspended {
        return Standing::Suspended;
    }
    let mine = || runs.iter().filter(|run| run.policy.as_deref() == Some(&policy.name));
    let newest_done = mine().map(|run| run.scheduled).max();
    let immediate = policy.immediate.then_some(policy.created);
    let tick = policy
        .ticks
        .iter()
        .copied()
        .chain(immediate)
        .filter(|tick| *tick >= policy.created && *tick <= now && newest_done.is_none_or(|done| *tick > done))
        .max();
    let Some(tick) = tick else {
        return Standing::Waits(policy.next_tick);
    };
    if policy
        .starting_deadline
        .is_some_and(|deadline| now.since(tick) > deadline)
    {
        return Standing::Missed(tick);
    }
    match mine().find(|run| run.phase.open()) {
        Some(open) => Standing::Overlaps(open.name.clone()),
        None => Standing::Starts(tick),
    }
}

/// Names of the policy's backups that retention no longer keeps, oldest first. Failed ones go with the oldest that is
/// kept: they are worth reading only while newer than it.
fn prune(policy: &Policy, runs: &[Run], now: Timestamp) -> Vec<String> {
    let mut mine: Vec<&Run> = runs
        .iter()
        .filter(|run| run.policy.as_deref() == Some(&policy.name))
        .collect();
    mine.sort_by(|a, b| b.scheduled.cmp(&a.scheduled).then_with(|| b.name.cmp(&a.name)));
    let completed = || mine.iter().filter(|run| run.phase == Phase::Completed);
    let last_verified = completed().find(|run| run.verified).map(|run| &run.name);
    let kept: Vec<&Run> = completed()
        .enumerate()
        .filter(|(newer, run)| {
            let newer = u32::try_from(*newer).unwrap_or(u32::MAX);
            let young = policy
                .retention
                .max_age
                .is_none_or(|age| now.since(run.completed.unwrap_or(run.scheduled)) <= age);
            Some(&run.name) == last_verified
                || newer < policy.retention.min_keep
                || (newer < policy.retention.keep_last && young)
        })
        .map(|(_, run)| *run)
        .collect();
    // The newest tick is remembered by its run: with that gone, the tick would be taken again.
    let newest = mine.first().map(|run| &run.name);
    let oldest_kept = kept.iter().map(|run| run.scheduled).min();
    let mut gone: Vec<String> = mine
        .iter()
        .filter(|run| Some(&run.name) != newest)
        .filter(|run| match run.phase {
            Phase::Completed => !kept.iter().any(|k| k.name == run.name),
            Phase::Failed => oldest_kept.is_some_and(|oldest| run.scheduled < oldest),
            Phase::Pending | Phase::Running | Phase::Verifying => false,
        })
        .map(|run| run.name.clone())
        .collect();
    gone.reverse();
    gone
}

/// The newest backup that was verified; of two, the one with the higher revision.
pub fn newest_verified(runs: &[Run]) -> Option<&Run> {
    runs.iter()
        .filter(|run| run.phase == Phase::Completed && run.verified)
        .max_by(|a, b| (a.completed, a.revision, &a.name).cmp(&(b.completed, b.revision, &b.name)))
}

/// `<policy>-<YYYYMMDDHHMM in UTC>`.
pub fn child_name(policy: &str, tick: Timestamp) -> String {
    let minutes = tick.0 / 60_000;
    let (year, month, day) = civil(minutes / 1440);
    let (hour, minute) = (minutes / 60 % 24, minutes % 60);
    format!("{policy}-{year:04}{month:02}{day:02}{hour:02}{minute:02}")
}

/// Year, month and day of the `days`-th day after 1970-01-01, in the Gregorian calendar: whole eras of 400 years of
/// 146097 days, years counted from March so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 3600;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn policy(ticks: &[u64]) -> Policy {
        Policy {
            name: "nightly".into(),
            created: at(1000),
            ticks: ticks.iter().map(|t| at(*t)).collect(),
            next_tick: Some(at(1_000_000)),
            starting_deadline: None,
            immediate: false,
            suspended: false,
            retention: Retention {
                keep_last: 2,
                max_age: None,
                min_keep: 1,
            },
        }
    }

    fn run(scheduled: u64, phase: Phase, verified: bool) -> Run {
        Run {
            name: child_name("nightly", at(scheduled)),
            policy: Some("nightly".into()),
            scheduled: at(scheduled),
            phase,
            completed: (phase == Phase::Completed).then(|| at(scheduled + 30)),
            verified,
            revision: scheduled as i64,
        }
    }

    fn pruned(actions: &[Action]) -> Vec<&str> {
        actions
            .iter()
            .filter_map(|action| match action {
                Action::Prune { name } => Some(name.as_str()),
                Action::Create { .. } => None,
            })
            .collect()
    }

    #[test]
    fn names_are_the_utc_minute_of_the_tick() {
        assert_eq!(child_name("nightly", at(0)), "nightly-197001010000");
        assert_eq!(child_name("p", at(951_782_399)), "p-200002282359");
        assert_eq!(child_name("p", at(951_782_400)), "p-200002290000");
        assert_eq!(child_name("p", at(1_790_000_000)), "p-202609211413");
    }

    #[test]
    fn of_many_missed_ticks_the_newest_alone_is_caught_up() {
        let policy = policy(&[HOUR, 2 * HOUR, 3 * HOUR]);
        assert_eq!(standing(&policy, &[], at(3 * HOUR + 5)), Standing::Starts(at(3 * HOUR)));
    }

    #[test]
    fn a_tick_that_has_a_run_is_never_started_again_even_if_it_failed() {
        let policy = policy(&[HOUR]);
        let runs = [run(HOUR, Phase::Failed, false)];
        assert_eq!(plan(&policy, &runs, at(HOUR + 5)), vec![]);
    }

    #[test]
    fn an_open_run_forbids_the_next_and_a_tick_too_old_is_missed() {
        let mut policy = policy(&[HOUR, 2 * HOUR]);
        let runs = [run(HOUR, Phase::Running, false)];
        let overlap = Standing::Overlaps("nightly-197001010100".into());
        assert_eq!(standing(&policy, &runs, at(2 * HOUR)), overlap);
        policy.starting_deadline = Some(Duration::from_secs(MINUTE));
        assert_eq!(
            standing(&policy, &[], at(2 * HOUR + 2 * MINUTE)),
            Standing::Missed(at(2 * HOUR))
        );
        policy.suspended = true;
        assert_eq!(standing(&policy, &[], at(2 * HOUR)), Standing::Suspended);
    }

    #[test]
    fn immediate_takes_one_at_creation_and_only_once() {
        let mut policy = policy(&[]);
        policy.immediate = true;
        assert_eq!(standing(&policy, &[], at(1001)), Standing::Starts(at(1000)));
        assert_eq!(
            standing(&policy, &[run(1000, Phase::Completed, true)], at(1100)),
            Standing::Waits(policy.next_tick)
        );
    }

    #[test]
    fn retention_keeps_the_newest_and_always_the_last_verified() {
        let policy = policy(&[]);
        let runs = [
            run(2 * HOUR, Phase::Completed, true),
            run(3 * HOUR, Phase::Completed, true),
            run(4 * HOUR, Phase::Completed, false),
            run(5 * HOUR, Phase::Completed, false),
            run(6 * HOUR, Phase::Failed, false),
        ];
        assert_eq!(pruned(&plan(&policy, &runs, at(7 * HOUR))), ["nightly-197001010200"]);
    }

    #[test]
    fn age_prunes_but_never_below_the_minimum_nor_the_newest_of_all() {
        let mut policy = policy(&[]);
        policy.retention = Retention {
            keep_last: 10,
            max_age: Some(Duration::from_secs(HOUR)),
            min_keep: 2,
        };
        let runs: Vec<Run> = (1..=4).map(|n| run(n * HOUR, Phase::Completed, true)).collect();
        let late = at(100 * HOUR);
        assert_eq!(
            pruned(&plan(&policy, &runs, late)),
            ["nightly-197001010100", "nightly-197001010200"]
        );
    }

    #[test]
    fn a_deletion_takes_one_last_backup_and_another_when_it_fails() {
        let mut wanted = Wanted::new("db", "u", 3);
        wanted.backups = vec![policy(&[HOUR])];
        wanted.deleting = Some(at(2 * HOUR));
        let mut observed = Observed::default();
        assert_eq!(due(&wanted, &observed, at(2 * HOUR)), [], "Retain takes none");
        wanted.deletion_policy = DeletionPolicy::SnapshotThenDelete;
        let create = |scheduled| Action::Create {
            policy: "nightly".into(),
            name: child_name("nightly", at(scheduled)),
            scheduled: at(scheduled),
        };
        assert_eq!(due(&wanted, &observed, at(2 * HOUR)), [create(2 * HOUR)]);
        observed.backups = vec![run(2 * HOUR, Phase::Running, false)];
        assert_eq!(due(&wanted, &observed, at(2 * HOUR + 9)), []);
        observed.backups = vec![run(2 * HOUR, Phase::Failed, false)];
        assert_eq!(due(&wanted, &observed, at(2 * HOUR + 9)), [create(2 * HOUR + MINUTE)]);
    }

    #[test]
    fn of_backups_the_newest_verified_is_chosen() {
        let runs = [
            run(HOUR, Phase::Completed, true),
            run(2 * HOUR, Phase::Completed, false),
            run(3 * HOUR, Phase::Failed, false),
        ];
        assert_eq!(newest_verified(&runs).map(|r| r.scheduled), Some(at(HOUR)));
    }
}
