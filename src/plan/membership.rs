//! The right members: one in or one out at a time. Replacement, scale-out and scale-in are one thing here: who shall
//! vote, who does, and the next single change from one to the other.
//!
//! A dead voter is replaced spare-first: the new member joins as a learner while the dead one is still listed (it may
//! come back and cancel the swap), and only when it has caught up the dead one is removed and it is promoted, back to
//! back. Learners do not count for quorum, so this is never less safe than removing first.
//!
//! Invariants:
//! - Works only on a list that a quorum confirmed in this look.
//! - At most one learner, and at most one volume that is not in the list yet.
//! - A voter goes only if `reason_unsafe_to_remove_member` has nothing against it, and not while it leads.
//! - A member that is away is left alone until `repair.after`; one whose data is lost is replaced at once.

use std::time::Duration;

use super::journal::Journal;
use super::look::Look;
use super::observed::{AlarmKind, Data, Listed, Member, NodeState, Origin, Process};
use super::reason::{Cause, Reason};
use super::step::{Create, Start, Step};
use super::wanted::Reclaim;
use super::{Due, Next, bootstrap, power, safety};

/// Look again at least this often while waiting for members.
const RECHECK: Duration = Duration::from_secs(5);

/// The next change of membership, or none when the right members vote or are being waited for.
pub(super) fn decide(look: &Look<'_>, _journal: &mut Journal) -> Option<Next> {
    if !look.quorate {
        return None;
    }
    let ranks = Ranks::new(look);
    None.or_else(|| start_listed(look))
        .or_else(|| learner(look, &ranks))
        .or_else(|| unlisted(look, &ranks))
        .or_else(|| one_more_or_less(look, &ranks))
}

/// Who of the voters stays and who is to go.
struct Ranks<'a> {
    /// Voters that are to be replaced, with the cause; those asked for by the owner first.
    doomed: Vec<(&'a Listed, Cause)>,
    /// Voters that stay.
    kept: usize,
    wanted: usize,
}

impl<'a> Ranks<'a> {
    fn new(look: &'a Look<'_>) -> Ranks<'a> {
        let mut doomed: Vec<(&Listed, Cause)> = look
            .voters()
            .filter_map(|l| cause(look, l).map(|c| (l, c)))
            .filter(|(_, cause)| look.wanted.repair.automatic || *cause == Cause::Requested)
            .collect();
        doomed.sort_by_key(|(_, cause)| *cause != Cause::Requested);
        let kept = look.voters().count() - doomed.len();
        Ranks {
            doomed,
            kept,
            wanted: look.wanted.replicas as usize,
        }
    }

    /// A new voter is needed.
    fn short(&self) -> bool {
        self.kept < self.wanted
    }

    fn why_short(&self, look: &Look<'_>) -> Reason {
        match self.doomed.first() {
            Some((listed, cause)) => Reason::Replace {
                member: look.name_of(listed.id),
                cause: cause.clone(),
            },
            None => Reason::ScaleOut {
                from: look.voters().count(),
                to: look.wanted.replicas,
            },
        }
    }
}

/// Starts a member that is in the list and has never run: a learner just added, or an initial member that was not
/// started before the cluster had formed (its volume is untouched, so it has promised nothing to anybody).
fn start_listed(look: &Look<'_>) -> Option<Next> {
    let member = look.list.iter().filter_map(|l| look.member_for(l)).find(|m| {
        m.data == Data::Fresh && !m.volume.deleted && power::start_pause(m, look).is_some_and(|p| p.is_zero())
    })?;
    let mut initial_cluster: Vec<(String, String)> = Vec::new();
    for listed in &look.list {
        let name = look.name_of(listed.id);
        initial_cluster.extend(listed.peer_urls.iter().map(|url| (name.clone(), url.clone())));
    }
    let step = Step::StartMember {
        member: look.reference(member),
        start: Start::Join { initial_cluster },
    };
    Some(Next::Take {
        step,
        why: Reason::NotRunning {
            member: member.name.clone(),
        },
    })
}

/// The learner that is there: promote it, make room for it, wait for it, or remove it.
fn learner(look: &Look<'_>, ranks: &Ranks<'_>) -> Option<Next> {
    let listed = look.learners().next()?;
    let name = look.name_of(listed.id);
    let remove = |detail: &str| {
        let why = Reason::LearnerUseless {
            member: name.clone(),
            detail: detail.to_string(),
        };
        let step = Step::RemoveMember {
            id: listed.id,
            name: name.clone(),
            learner: true,
        };
        Some(Next::Take { step, why })
    };
    let Some(member) = look.member_for(listed) else {
        return remove("there is no volume for it");
    };
    // One that waits for a node or an image is no worse than the next one would be.
    let waits = matches!(member.process, Process::Pending { .. });
    if let Some(cause) = cause(look, listed).filter(|cause| !(waits && matches!(cause, Cause::Unreachable(_)))) {
        return remove(&cause.to_string());
    }
    if !ranks.short() {
        return remove("it is not needed any more");
    }
    match safety::reason_unsafe_to_promote(look, member) {
        None => {}
        Some(why @ Reason::QuorumAtRisk { .. }) => {
            return match ranks.doomed.first() {
                Some((doomed, cause)) => remove_voter(look, doomed, replace(look, doomed, cause)),
                None => Some(Next::Wait { why, recheck: RECHECK }),
            };
        }
        Some(why @ Reason::LearnerCatchingUp { .. }) => {
            return Some(Next::Wait {
                why,
                recheck: Duration::from_secs(1),
            });
        }
        Some(_) => {
            let why = Reason::Starting {
                member: name,
                detail: bootstrap::detail(member),
            };
            return Some(Next::Wait {
                why,
                recheck: Duration::from_secs(1),
            });
        }
    }
    // It is ready. If the list is full, one that is to go makes room; the promotion follows at once.
    if look.voters().count() >= ranks.wanted
        && let Some((doomed, cause)) = ranks.doomed.first()
    {
        return remove_voter(look, doomed, replace(look, doomed, cause));
    }
    Some(Next::Take {
        step: Step::Promote {
            member: look.reference(member),
        },
        why: Reason::LearnerReady { member: name },
    })
}

fn replace(look: &Look<'_>, doomed: &Listed, cause: &Cause) -> Reason {
    Reason::Replace {
        member: look.name_of(doomed.id),
        cause: cause.clone(),
    }
}

/// Volumes that are not in the list: a new one is added, a former member's is retired.
fn unlisted(look: &Look<'_>, ranks: &Ranks<'_>) -> Option<Next> {
    let mut unlisted = look.observed.members.iter().filter(|m| look.listed_for(m).is_none());
    let member = unlisted.next()?;
    let never_added = member.volume.origin == Origin::Joiner && member.id().is_none() && member.data == Data::Fresh;
    if never_added && ranks.short() && !member.volume.deleted {
        let step = Step::AddLearner {
            member: look.reference(member),
            peer_url: member.peer_url.clone(),
        };
        return Some(Next::Take {
            step,
            why: ranks.why_short(look),
        });
    }
    let step = Step::RetireMember {
        member: look.reference(member),
    };
    Some(Next::Take {
        step,
        why: Reason::NotAMember {
            member: member.name.clone(),
        },
    })
}

/// Everything listed is here and no learner is under way: begin the next change.
fn one_more_or_less(look: &Look<'_>, ranks: &Ranks<'_>) -> Option<Next> {
    let voters = look.voters().count();
    if voters > ranks.wanted {
        let why = Reason::ScaleIn {
            from: voters,
            to: look.wanted.replicas,
        };
        return remove_voter(look, victim(look, ranks)?, why);
    }
    if ranks.short() {
        let why = ranks.why_short(look);
        return Some(match look.observed.fresh_names.first() {
            Some(name) => Next::Take {
                step: Step::CreateMember {
                    name: name.clone(),
                    create: Create::Joiner,
                },
                why,
            },
            None => Next::Blocked {
                why: Reason::NoFreshName,
            },
        });
    }
    None
}

/// Who leaves at scale-in: one that is to be replaced anyway, else one that is not healthy, else the newest.
fn victim<'a>(look: &'a Look<'_>, ranks: &Ranks<'a>) -> Option<&'a Listed> {
    let rank = |l: &&Listed| {
        let doomed = ranks.doomed.iter().any(|(d, _)| d.id == l.id);
        let member = look.member_for(l);
        let healthy = member.is_some_and(Member::healthy);
        (doomed, !healthy, member.map(|m| m.volume.created), look.name_of(l.id))
    };
    look.voters().max_by_key(rank)
}

/// Removes a voter if that is safe; moves the leader away from it first.
fn remove_voter(look: &Look<'_>, gone: &Listed, why: Reason) -> Option<Next> {
    if let Some(veto) = safety::reason_unsafe_to_remove_member(look, gone) {
        return Some(Next::Wait {
            why: veto,
            recheck: RECHECK,
        });
    }
    let name = look.name_of(gone.id);
    if look.leader == Some(gone.id) {
        return Some(move_leader(look, gone, why));
    }
    Some(Next::Take {
        step: Step::RemoveMember {
            id: gone.id,
            name,
            learner: false,
        },
        why,
    })
}

/// Moves the leader from `from` to the best other voter, towards `goal`; waits when there is none.
pub(super) fn move_leader(look: &Look<'_>, from: &Listed, goal: Reason) -> Next {
    let template = super::resources::template(look.wanted);
    let best = look
        .voters()
        .filter(|l| l.id != from.id)
        .filter_map(|l| look.member_for(l).map(|m| (l, m)))
        .filter(|(l, m)| m.healthy() && cause(look, l).is_none())
        // Up to date first, so that the leader moves once and not with every member that is rolled; then the one that
        // has applied most; then by age.
        .max_by_key(|(_, m)| {
            let current = m.template.as_deref() == Some(&template);
            let applied = m.answer.as_ref().map(|a| a.applied);
            (
                current,
                applied,
                std::cmp::Reverse(m.volume.created),
                std::cmp::Reverse(m.name.clone()),
            )
        });
    match best {
        Some((_, to)) => {
            let why = Reason::LeaderFirst {
                member: look.name_of(from.id),
                goal: Box::new(goal),
            };
            Next::Take {
                step: Step::MoveLeader {
                    from: from.id,
                    to: look.reference(to),
                },
                why,
            }
        }
        None => {
            let (member, healthy) = (look.name_of(from.id), look.healthy_voters());
            Next::Wait {
                why: Reason::QuorumAtRisk {
                    member,
                    healthy,
                    quorum: look.quorum(),
                },
                recheck: RECHECK,
            }
        }
    }
}

/// Why a listed member has to be replaced, if it has to.
pub(super) fn cause(look: &Look<'_>, listed: &Listed) -> Option<Cause> {
    let Some(member) = look.member_for(listed) else {
        return Some(Cause::NoVolume);
    };
    if look.wanted.replace_member.as_deref() == Some(&member.name) {
        return Some(Cause::Requested);
    }
    if member.volume.deleted {
        return Some(Cause::VolumeGone);
    }
    if member.volume.bound_to_node && matches!(member.node.state, NodeState::Deleted | NodeState::OutOfService) {
        return Some(Cause::NodeGone);
    }
    let patience_over = member.health_for(look.now) >= look.wanted.repair.corrupt;
    match &member.data {
        Data::Lost if patience_over => return Some(Cause::DataLost),
        Data::Corrupt { why } if patience_over && corrupt_may_go(look) => return Some(Cause::Corrupt(why.clone())),
        // Never touched without being asked: it is somebody's data.
        Data::Foreign { .. } | Data::Lost | Data::Corrupt { .. } => return None,
        Data::Unknown | Data::Fresh | Data::Present => {}
    }
    if look
        .alarms()
        .any(|a| a.member == listed.id && a.kind == AlarmKind::Corrupt)
        && corrupt_may_go(look)
    {
        return Some(Cause::Corrupt("alarm CORRUPT".into()));
    }
    let away = away(look, member)?;
    (away >= look.wanted.repair.after && !settings_are_to_blame(look, member)).then_some(Cause::Unreachable(away))
}

/// For how long a member does not serve although its process had the chance to; none while it serves.
fn away(look: &Look<'_>, member: &Member) -> Option<Duration> {
    if member.healthy() {
        return None;
    }
    let sick = member.health_for(look.now);
    // Nothing can be started on data that is out of reach.
    if member.data == Data::Unknown && !member.may_run() {
        return Some(sick);
    }
    Some(match &member.process {
        // A start gives it new time: a cluster that wakes after a week has members that were away for a week.
        Process::Pending { since, .. } | Process::Running { since } => sick.min(look.now.since(*since)),
        Process::Exited { restarts, .. } if *restarts < 5 => Duration::ZERO,
        Process::Absent => Duration::ZERO,
        Process::Exited { .. } | Process::Unknown { .. } => sick,
    })
}

/// The member keeps ending, or does not even begin (an image that does not exist, a size that no node has), with settings
/// that no healthy member runs with: a new member would do the same. The cure is another edit of the spec, which the rollout then brings to this member first.
fn settings_are_to_blame(look: &Look<'_>, member: &Member) -> bool {
    let mut others = look
        .observed
        .members
        .iter()
        .filter(|m| m.name != member.name && m.healthy())
        .peekable();
    matches!(member.process, Process::Exited { .. } | Process::Pending { .. })
        && others.peek().is_some()
        && others.all(|other| other.template != member.template)
}

/// Corrupt members may be replaced only while they are a minority, and the policy is to replace.
fn corrupt_may_go(look: &Look<'_>) -> bool {
    let alarmed: Vec<_> = look
        .alarms()
        .filter(|a| a.kind == AlarmKind::Corrupt)
        .map(|a| a.member)
        .collect();
    let corrupt = look
        .voters()
        .filter(|l| {
            alarmed.contains(&l.id)
                || look
                    .member_for(l)
                    .is_some_and(|m| matches!(m.data, Data::Corrupt { .. }))
        })
        .count();
    look.wanted.maintenance.corrupt_replace && corrupt <= look.voters().count().saturating_sub(1) / 2
}

/// What the right members are still waited for, after every other decider had nothing to do.
pub(super) fn wait(look: &Look<'_>) -> Option<Next> {
    if !look.quorate {
        return None;
    }
    for listed in &look.list {
        let name = look.name_of(listed.id);
        if let Some(cause) = cause(look, listed).filter(|_| !listed.learner && !look.wanted.repair.automatic) {
            return Some(Next::Blocked {
                why: Reason::RepairIsManual { member: name, cause },
            });
        }
        let Some(member) = look.member_for(listed).filter(|m| !m.healthy()) else {
            continue;
        };
        if let Data::Foreign { found } = &member.data {
            return Some(Next::Blocked {
                why: Reason::ForeignData {
                    member: name,
                    found: found.clone(),
                },
            });
        }
        if let Process::Exited { restarts, message, .. } = &member.process
            && *restarts > 1
        {
            let why = Reason::CrashLoop {
                member: name,
                restarts: *restarts,
                message: message.clone(),
            };
            let pause = power::start_pause(member, look).unwrap_or(RECHECK);
            return Some(Next::Wait {
                why,
                recheck: pause.clamp(Duration::from_millis(100), RECHECK),
            });
        }
        let since = away(look, member).unwrap_or_default();
        let after = look.wanted.repair.after;
        let why = match &member.process {
            Process::Pending { why, .. } => Reason::Starting {
                member: name,
                detail: why.clone(),
            },
            Process::Absent | Process::Running { .. } | Process::Exited { .. } | Process::Unknown { .. } => {
                Reason::MemberUnreachable {
                    member: name,
                    since,
                    after,
                }
            }
        };
        return Some(Next::Wait {
            why,
            recheck: after.saturating_sub(since).clamp(Duration::from_millis(100), RECHECK),
        });
    }
    None
}

/// Retired volumes whose retention has passed, once the cluster is as healthy as wanted: until then any of them may
/// hold what is needed.
pub(super) fn volumes_to_purge(look: &Look<'_>) -> Vec<Due> {
    let voters = look.voters().count();
    let well = look.quorate
        && look.observed.journal.recovery.is_none()
        && voters == look.wanted.replicas as usize
        && look.healthy_voters() == voters
        && look.alarms().next().is_none()
        && !look.wanted.paused;
    if !well {
        return Vec::new();
    }
    let storage = &look.wanted.storage;
    look.observed
        .retired
        .iter()
        .filter(|r| !look.list.iter().any(|l| Some(l.id) == r.member_id))
        .filter(|r| storage.reclaim == Reclaim::Delete || look.now.since(r.at) >= storage.retain_for)
        .map(|r| Due::PurgeVolume {
            name: r.name.clone(),
            volume: r.volume.clone(),
        })
        .collect()
}
