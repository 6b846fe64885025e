//! Vetoes: each function returns the reason why something must not be done now, or none.
//!
//! Invariant: nothing that removes, stops, promotes, rolls or defragments goes around these functions.

use std::time::Duration;

use super::look::Look;
use super::observed::{AlarmKind, Listed, Member};
use super::reason::Reason;

/// A learner (or a restarted member) this close to the leader counts as caught up. etcd itself asks for 90 % of the
/// leader's index; an absolute bound is stricter on a log of any length.
const LAG_MAX: u64 = 1000;

/// Voters that make a quorum of `voters`.
pub(super) fn quorum_of(voters: usize) -> usize {
    voters / 2 + 1
}

/// Removing this voter would leave fewer healthy voters than a quorum of the rest. A learner may always go.
pub(super) fn reason_unsafe_to_remove_member(look: &Look<'_>, gone: &Listed) -> Option<Reason> {
    if gone.learner {
        return None;
    }
    let voters = look.voters().count();
    let healthy = healthy_voters_without(look, gone);
    let quorum = quorum_of(voters.saturating_sub(1));
    (voters <= 1 || healthy < quorum).then(|| Reason::QuorumAtRisk {
        member: look.name_of(gone.id),
        healthy,
        quorum,
    })
}

/// Stopping this member for a moment would leave fewer healthy voters than a quorum of all. A member that is not
/// healthy takes nothing away. The only voter of a cluster may be stopped: there is no other way to change it.
pub(super) fn reason_unsafe_to_stop_member(look: &Look<'_>, member: &Member) -> Option<Reason> {
    let listed = look.listed_for(member)?;
    if listed.learner || !member.healthy() || look.voters().count() == 1 {
        return None;
    }
    let healthy = healthy_voters_without(look, listed);
    let quorum = look.quorum();
    (healthy < quorum).then(|| Reason::QuorumAtRisk {
        member: member.name.clone(),
        healthy,
        quorum,
    })
}

/// As a voter this learner would raise the quorum above the voters that are healthy, or it is too far behind.
pub(super) fn reason_unsafe_to_promote(look: &Look<'_>, learner: &Member) -> Option<Reason> {
    if !learner.healthy() {
        let (member, detail) = (learner.name.clone(), learner.health.why.clone());
        return Some(Reason::OtherUnhealthy { member, detail });
    }
    let lag = look.lag(learner).unwrap_or(u64::MAX);
    if lag > LAG_MAX {
        return Some(Reason::LearnerCatchingUp {
            member: learner.name.clone(),
            lag,
        });
    }
    let healthy = look.healthy_voters() + 1;
    let quorum = quorum_of(look.voters().count() + 1);
    (healthy < quorum).then(|| Reason::QuorumAtRisk {
        member: learner.name.clone(),
        healthy,
        quorum,
    })
}

/// A planned disruption (a roll, a defragmentation) of `next` waits until everybody else is in order: all voters
/// healthy for a while and caught up, nobody joining or leaving.
pub(super) fn reason_unsafe_to_disrupt(look: &Look<'_>, next: &Member, settled_for: Duration) -> Option<Reason> {
    for listed in &look.list {
        let member = look.member_for(listed);
        if member.is_some_and(|m| m.name == next.name) {
            continue;
        }
        let name = look.name_of(listed.id);
        let Some(member) = member else {
            return Some(Reason::OtherUnhealthy {
                member: name,
                detail: "no volume here".into(),
            });
        };
        if !member.healthy() {
            return Some(Reason::OtherUnhealthy {
                member: name,
                detail: member.health.why.clone(),
            });
        }
        if member.health_for(look.now) < settled_for {
            return Some(Reason::SettlingDown { member: name });
        }
        let lag = look.lag(member).unwrap_or(u64::MAX);
        if lag > LAG_MAX {
            return Some(Reason::FarBehind { member: name, lag });
        }
    }
    if let Some(alarm) = look
        .alarms()
        .find(|a| a.kind == AlarmKind::Corrupt && look.listed_for(next).is_none_or(|l| l.id != a.member))
    {
        let member = look.name_of(alarm.member);
        return Some(Reason::OtherUnhealthy {
            member,
            detail: "alarm CORRUPT".into(),
        });
    }
    reason_unsafe_to_stop_member(look, next)
}

/// A voter that is not healthy, or far behind, would hold up every write if it led.
pub(super) fn reason_unsafe_to_lead(look: &Look<'_>, member: &Member) -> Option<Reason> {
    let name = member.name.clone();
    if !member.healthy() {
        let detail = member.health.why.clone();
        return Some(Reason::OtherUnhealthy { member: name, detail });
    }
    let lag = look.lag(member).unwrap_or(u64::MAX);
    (lag > LAG_MAX).then_some(Reason::FarBehind { member: name, lag })
}

fn healthy_voters_without(look: &Look<'_>, gone: &Listed) -> usize {
    look.voters()
        .filter(|l| l.id != gone.id && look.member_for(l).is_some_and(Member::healthy))
        .count()
}
