//! Whether processes should run at all: paused, deleted, hibernating, and members that merely stopped.
//!
//! Invariants:
//! - A process that ended while its data is there is started again; membership never changes because of it.
//! - Nothing is started on foreign, corrupt or lost data, nor for a member that the cluster has removed.

use std::time::Duration;

use super::journal::Journal;
use super::look::Look;
use super::observed::{Data, Member, Process};
use super::reason::{Cause, Reason};
use super::step::{Start, Step};
use super::wanted::DeletionPolicy;
use super::{Next, backup, pause_after_failure};

/// `paused` keeps hands off, except from a deletion that the owner has asked for.
pub(super) fn hands_off(look: &Look<'_>) -> Option<Next> {
    (look.wanted.paused && look.wanted.deleting.is_none()).then_some(Next::Blocked { why: Reason::Paused })
}

/// Deletes the cluster as its policy says: last backup, stop, release.
pub(super) fn delete(look: &Look<'_>) -> Option<Next> {
    let since = look.wanted.deleting?;
    let runs = &look.observed.backups;
    let has_data = look.cluster_id().is_some();
    if look.wanted.deletion_policy == DeletionPolicy::SnapshotThenDelete && has_data {
        let newest = backup::newest_verified(runs).and_then(|run| run.completed);
        if newest.is_none_or(|completed| completed < since) {
            let no_destination = look.wanted.backups.is_empty();
            let why = Reason::FinalBackup { no_destination };
            return Some(match no_destination {
                true => Next::Blocked { why },
                false => Next::Wait {
                    why,
                    recheck: Duration::from_secs(5),
                },
            });
        }
    }
    Some(stop_one(look, Reason::Deleting).unwrap_or_else(|| Next::Take {
        step: Step::Release {
            delete_data: look.wanted.deletion_policy != DeletionPolicy::Retain,
        },
        why: Reason::Deleting,
    }))
}

/// `replicas: 0`: no process runs, all data stays.
pub(super) fn hibernate(look: &Look<'_>) -> Option<Next> {
    (look.wanted.replicas == 0).then(|| stop_one(look, Reason::Hibernating).unwrap_or(Next::Settled))
}

/// Stops one process, the leader's last so that followers need not elect another on the way down.
fn stop_one(look: &Look<'_>, why: Reason) -> Option<Next> {
    let leads = |m: &Member| look.leader.is_some() && m.id() == look.leader;
    let running = || look.observed.members.iter().filter(|m| m.may_run());
    let member = running().find(|m| !leads(m)).or_else(|| running().next())?;
    Some(Next::Take {
        step: Step::StopMember {
            member: look.reference(member),
        },
        why,
    })
}

/// Starts members that should run and do not, on the data that they have.
pub(super) fn start(look: &Look<'_>, journal: &Journal) -> Option<Next> {
    // A recovery decides by itself who runs; a survivor started too early would be copied while it changes.
    if journal.recovery.is_some() {
        return None;
    }
    // A process that neither serves nor has its files any more cannot come back; alive it only hides the loss.
    if let Some(member) = look.observed.members.iter().find(|m| {
        m.data == Data::Lost && matches!(m.process, Process::Running { .. }) && m.answer.is_none() && !m.healthy()
    }) {
        let why = Reason::Replace {
            member: member.name.clone(),
            cause: Cause::DataLost,
        };
        return Some(Next::Take {
            step: Step::StopMember {
                member: look.reference(member),
            },
            why,
        });
    }
    let (now, held_back): (Vec<_>, Vec<_>) =
        startable(look).partition(|(step, _)| pause_after_failure(step, journal, look.now).is_none());
    // One that cannot be started (its port is taken, say) keeps nobody else from it; without a quorum, all wait for it.
    let (step, member) = match look.quorate {
        true => now.into_iter().next()?,
        false => now.into_iter().chain(held_back).next()?,
    };
    let why = why_down(member);
    Some(Next::Take { step, why })
}

/// A start that failed and whose pause is not over, once there is nothing else to do: it says what is in the way.
pub(super) fn start_held_back(look: &Look<'_>, journal: &Journal) -> Option<Next> {
    let (step, member) = startable(look).find(|(step, _)| pause_after_failure(step, journal, look.now).is_some())?;
    let why = why_down(member);
    Some(Next::Take { step, why })
}

/// Members that should run and do not, with the step that starts each.
fn startable<'a>(look: &'a Look<'_>) -> impl Iterator<Item = (Step, &'a Member)> {
    let members = look.observed.members.iter().filter(|m| {
        m.data == Data::Present
            && !m.volume.deleted
            && belongs(look, m)
            && start_pause(m, look).is_some_and(|p| p.is_zero())
    });
    members.map(|m| {
        let member = look.reference(m);
        let start = Start::Resume;
        (Step::StartMember { member, start }, m)
    })
}

/// Why a member that is started again was down.
pub(super) fn why_down(member: &Member) -> Reason {
    match &member.process {
        Process::Exited { message, .. } => Reason::ProcessDied {
            member: member.name.clone(),
            message: message.clone(),
        },
        Process::Absent | Process::Pending { .. } | Process::Running { .. } | Process::Unknown { .. } => {
            Reason::NotRunning {
                member: member.name.clone(),
            }
        }
    }
}

/// False for a member that a confirmed list does not hold. A list that only some member reports excludes nobody: that
/// member may have slept through every change.
fn belongs(look: &Look<'_>, member: &Member) -> bool {
    let confirmed = look.quorate || !look.observed.journal.members.is_empty();
    !confirmed || look.listed_for(member).is_some()
}

/// How long to wait before a process is started (again): zero means now, none that it runs or that the platform
/// starts it by itself. A process that keeps ending is started ever more rarely, up to once a minute.
pub(super) fn start_pause(member: &Member, look: &Look<'_>) -> Option<Duration> {
    match &member.process {
        Process::Absent => Some(Duration::ZERO),
        Process::Exited {
            restarted_by_platform: true,
            ..
        } => None,
        Process::Exited { at, restarts, .. } => {
            let pause = match restarts {
                0 | 1 => Duration::ZERO,
                n => Duration::from_millis(500 << (*n).min(7)).min(Duration::from_secs(60)),
            };
            Some(pause.saturating_sub(look.now.since(*at)))
        }
        Process::Pending { .. } | Process::Running { .. } | Process::Unknown { .. } => None,
    }
}
