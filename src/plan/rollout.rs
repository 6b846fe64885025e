//! Brings changed settings, images and volume sizes to the members: one at a time, those that do not serve first, then
//! followers, the leader last, after it has handed over.
//!
//! Invariants:
//! - A member that serves is restarted only while everybody else is healthy, caught up and has been so for
//!   `updateStrategy.minReadySeconds`. A bad change therefore stops at the first member.
//! - A member that does not serve is restarted at once: it takes nothing away, and the change may be its cure. That holds
//!   without a quorum, too.

use std::time::Duration;

use super::look::Look;
use super::observed::{Data, Member, Process};
use super::reason::Reason;
use super::step::Step;
use super::{Next, membership, resources, safety};

/// The next member to roll, or none when all run what is wanted.
pub(super) fn decide(look: &Look<'_>) -> Option<Next> {
    if !look.quorate {
        return None;
    }
    expand(look).or_else(|| roll(look))
}

/// Without a quorum: a member that waits, or keeps ending, with settings that are not wanted any more is stopped. It then
/// starts with those that are; a cluster that cannot begin for want of an image is cured by another image.
pub(super) fn cure(look: &Look<'_>) -> Option<Next> {
    if look.quorate || look.observed.journal.recovery.is_some() || !look.wanted.update.rolling {
        return None;
    }
    let template = resources::template(look.wanted);
    let member = look.observed.members.iter().find(|m| {
        let idle = match &m.process {
            Process::Pending { .. } => true,
            Process::Exited { restarts, .. } => *restarts > 1,
            Process::Absent | Process::Running { .. } | Process::Unknown { .. } => false,
        };
        idle && m.answer.is_none() && m.template.as_ref().is_some_and(|t| *t != template)
    })?;
    Some(Next::Take {
        step: Step::StopMember {
            member: look.reference(member),
        },
        why: Reason::Outdated {
            member: member.name.clone(),
        },
    })
}

/// Volumes grow in place, without a restart.
fn expand(look: &Look<'_>) -> Option<Next> {
    let bytes = look.wanted.storage.size_bytes;
    let member = look
        .observed
        .members
        .iter()
        .find(|m| m.volume.size_bytes > 0 && m.volume.size_bytes < bytes && !m.volume.deleted)?;
    let why = Reason::VolumeTooSmall {
        member: member.name.clone(),
    };
    Some(Next::Take {
        step: Step::ExpandVolume {
            member: look.reference(member),
            bytes,
        },
        why,
    })
}

fn roll(look: &Look<'_>) -> Option<Next> {
    let template = resources::template(look.wanted);
    let outdated = |m: &&Member| {
        m.template.as_ref().is_some_and(|t| *t != template)
            && m.data == Data::Present
            && matches!(
                m.process,
                Process::Running { .. } | Process::Pending { .. } | Process::Exited { .. }
            )
            && look.listed_for(m).is_some()
    };
    let rank = |m: &&Member| {
        let leads = look.leader.is_some() && m.id() == look.leader;
        let voter = look.listed_for(m).is_some_and(|l| !l.learner);
        (m.healthy(), leads, voter, m.name.clone())
    };
    let member = look.observed.members.iter().filter(outdated).min_by_key(rank)?;
    let why = Reason::Outdated {
        member: member.name.clone(),
    };
    if !look.wanted.update.rolling {
        return None;
    }
    if member.healthy() {
        if let Some(veto) = safety::reason_unsafe_to_disrupt(look, member, look.wanted.update.min_ready) {
            return Some(Next::Wait {
                why: veto,
                recheck: Duration::from_secs(1),
            });
        }
        if let Some(listed) = look
            .listed_for(member)
            .filter(|l| look.leader == Some(l.id) && look.voters().count() > 1)
        {
            return Some(membership::move_leader(look, listed, why));
        }
    }
    Some(Next::Take {
        step: Step::RestartMember {
            member: look.reference(member),
            template,
        },
        why,
    })
}
