//! Space and alarms: NOSPACE is cured by compacting, defragmenting and disarming; databases with much free space are
//! defragmented by threshold, schedule or request. And the leader, when the owner wants another one.
//!
//! Invariants:
//! - One member at a time, followers first, the leader last; never with a member that is not healthy, and (being the
//!   last decider) never while members change or roll.
//! - An alarm is disarmed only when what raised it is gone: every member below the quota's mark, or the corrupt member
//!   out of the cluster.

use std::time::Duration;

use super::journal::Journal;
use super::look::Look;
use super::observed::{AlarmKind, Answer, Member};
use super::reason::Reason;
use super::status::percent;
use super::step::Step;
use super::wanted::{Engine, Wanted};
use super::{Next, membership, safety};

/// NOSPACE is disarmed when the fullest member uses less than this share of its quota, in percent.
const DISARM_BELOW_PERCENT: u32 = 90;
/// A round of the NOSPACE cure is tried again after this long.
const NOSPACE_THROTTLE: Duration = Duration::from_secs(600);
/// Within a round, a member that should have more to give back is asked again after this long.
const NOSPACE_PAUSE: Duration = Duration::from_secs(5);

/// The next piece of maintenance, or none.
pub(super) fn decide(look: &Look<'_>, journal: &mut Journal) -> Option<Next> {
    if !look.quorate {
        return None;
    }
    corrupt(look)
        .or_else(|| nospace(look, journal))
        .or_else(|| defragment(look, journal))
        .or_else(|| lead(look, journal))
}

/// Replacement of a corrupt member is the membership decider's; here the alarm it leaves behind is cleared.
fn corrupt(look: &Look<'_>) -> Option<Next> {
    let alarms: Vec<_> = look.alarms().filter(|a| a.kind == AlarmKind::Corrupt).collect();
    let listed = |id| look.list.iter().any(|l| l.id == id);
    if let Some(stale) = alarms.iter().find(|a| !listed(a.member)) {
        let step = Step::DisarmAlarm {
            member: stale.member,
            kind: stale.kind,
        };
        return Some(Next::Take {
            step,
            why: Reason::NotAMember {
                member: stale.member.to_string(),
            },
        });
    }
    let first = alarms.first()?;
    let why = if look.wanted.maintenance.corrupt_replace {
        Reason::CorruptMajority {
            members: alarms.iter().map(|a| a.member).collect(),
        }
    } else {
        Reason::AlarmReported {
            member: look.name_of(first.member),
            kind: first.kind,
        }
    };
    Some(Next::Blocked { why })
}

/// Compact everything but the present, give the space back member by member, then disarm.
fn nospace(look: &Look<'_>, journal: &Journal) -> Option<Next> {
    let alarm = look.alarms().find(|a| a.kind == AlarmKind::NoSpace)?;
    if !look.wanted.maintenance.nospace_auto {
        let why = Reason::AlarmReported {
            member: look.name_of(alarm.member),
            kind: alarm.kind,
        };
        return Some(Next::Blocked { why });
    }
    let why = Reason::NoSpace;
    let revision = answers(look).map(|(_, a)| a.revision).max().unwrap_or(0);
    let round = journal
        .compacted
        .map(|(_, at)| at)
        .filter(|at| look.now.since(*at) < NOSPACE_THROTTLE);
    let (fullest, used) = answers(look)
        .map(|(m, a)| (m, percent(a.db_bytes, quota(look.wanted, a))))
        .max_by_key(|(m, used)| (*used, m.name.clone()))?;
    // The present state of every key is kept; only history goes. Skipped when another compaction cannot help.
    let Some(round) = round else {
        if used < DISARM_BELOW_PERCENT || revision < 1 {
            return Some(Next::Take {
                step: Step::DisarmAlarm {
                    member: alarm.member,
                    kind: alarm.kind,
                },
                why,
            });
        }
        return Some(Next::Take {
            step: Step::Compact { revision },
            why,
        });
    };
    // Each member once per round; and again, after a pause, while it holds free space that would bring it below the
    // mark: the compaction goes on in the background on every member, and a first attempt may have come before it.
    let todo = |m: &Member, a: &Answer| {
        let reclaimable = percent(a.db_in_use_bytes, quota(look.wanted, a)) < DISARM_BELOW_PERCENT;
        percent(a.db_bytes, quota(look.wanted, a)) >= DISARM_BELOW_PERCENT
            && journal
                .last_defrag(&m.name)
                .is_none_or(|d| d.at < round || (reclaimable && look.now.since(d.at) >= NOSPACE_PAUSE))
    };
    if let Some(member) = next_member(look, todo) {
        return Some(disturb(look, member, why, Duration::ZERO));
    }
    if used < DISARM_BELOW_PERCENT {
        return Some(Next::Take {
            step: Step::DisarmAlarm {
                member: alarm.member,
                kind: alarm.kind,
            },
            why,
        });
    }
    let why = Reason::NoSpaceStillFull {
        member: fullest.name.clone(),
        percent: used,
    };
    Some(Next::Wait {
        why,
        recheck: NOSPACE_THROTTLE
            .saturating_sub(look.now.since(round))
            .min(NOSPACE_PAUSE),
    })
}

/// Gives space back where the rule, the schedule or the owner says so.
fn defragment(look: &Look<'_>, journal: &Journal) -> Option<Next> {
    let rule = &look.wanted.maintenance.defrag;
    let last = |m: &Member| journal.last_defrag(&m.name);
    let asked = |m: &Member| {
        !look.wanted.defrag_token.is_empty() && last(m).is_none_or(|d| d.token != look.wanted.defrag_token)
    };
    let ticked = |m: &Member| {
        look.observed
            .defrag_tick
            .is_some_and(|t| t >= m.volume.created && last(m).is_none_or(|d| d.at < t))
    };
    let worth = |a: &Answer| {
        let free = a.db_bytes.saturating_sub(a.db_in_use_bytes);
        free >= rule.free_above_bytes
            || (percent(a.db_bytes, quota(look.wanted, a)) >= rule.quota_above_percent
                && free >= rule.min_reclaim_bytes)
    };
    // With a schedule the thresholds count at its ticks only. Without one, a member that could not give back what it
    // seemed to hold free is not asked again and again.
    let rested = |m: &Member| last(m).is_none_or(|d| look.now.since(d.at) >= NOSPACE_THROTTLE);
    let due = |m: &Member, a: &Answer| {
        asked(m)
            || if rule.scheduled {
                ticked(m) && (rule.all || worth(a))
            } else {
                worth(a) && rested(m)
            }
    };
    let member = next_member(look, due)?;
    let reclaim = member
        .answer
        .as_ref()
        .map_or(0, |a| a.db_bytes.saturating_sub(a.db_in_use_bytes));
    let name = member.name.clone();
    let why = if asked(member) || (rule.scheduled && rule.all) {
        Reason::DefragDue { member: name }
    } else {
        Reason::Fragmented { member: name, reclaim }
    };
    let newest = journal.defragmented.iter().map(|d| d.at).max();
    if let Some(pause) = newest
        .map(|at| rule.settle.saturating_sub(look.now.since(at)))
        .filter(|p| !p.is_zero())
    {
        return Some(Next::Wait {
            why: Reason::Settle,
            recheck: pause,
        });
    }
    Some(disturb(look, member, why, look.wanted.update.min_ready))
}

/// Moves the leader to where the owner wants it, once for each request.
fn lead(look: &Look<'_>, journal: &mut Journal) -> Option<Next> {
    let request = look.wanted.move_leader.as_ref()?;
    if journal.leader_moved.as_ref() == Some(request) {
        return None;
    }
    let name = request.split_whitespace().next().unwrap_or_default();
    let found = look.member(name);
    let Some((member, listed)) = found.and_then(|m| look.listed_for(m).filter(|l| !l.learner).map(|l| (m, l))) else {
        let why = Reason::NoSuchVoter { member: name.into() };
        return Some(Next::Blocked { why });
    };
    if look.leader == Some(listed.id) {
        journal.leader_moved = Some(request.clone());
        return None;
    }
    // Nobody leads: an election is under way.
    let from = look.leader?;
    if let Some(why) = safety::reason_unsafe_to_lead(look, member) {
        return Some(Next::Wait {
            why,
            recheck: Duration::from_secs(5),
        });
    }
    let step = Step::MoveLeader {
        from,
        to: look.reference(member),
    };
    let why = Reason::Requested { member: name.into() };
    Some(Next::Take { step, why })
}

/// The next member for which `due` holds: followers first, the leader last.
fn next_member<'a>(look: &Look<'a>, due: impl Fn(&Member, &Answer) -> bool) -> Option<&'a Member> {
    let leads = |m: &Member| look.leader.is_some() && m.id() == look.leader;
    answers(look)
        .filter(|(m, a)| due(m, a))
        .map(|(m, _)| m)
        .min_by_key(|m| (leads(m), m.name.clone()))
}

/// Defragments `member` when nothing speaks against it; the leader hands over first where its members would wait.
fn disturb(look: &Look<'_>, member: &Member, why: Reason, settled_for: Duration) -> Next {
    if let Some(veto) = safety::reason_unsafe_to_disrupt(look, member, settled_for) {
        return Next::Wait {
            why: veto,
            recheck: Duration::from_secs(5),
        };
    }
    // Our engine defragments while it serves; upstream stops the world for as long as the copy takes.
    let blocking = look.wanted.engine == Engine::Etcd && look.wanted.maintenance.defrag.move_leader;
    if blocking
        && look.voters().count() > 1
        && let Some(listed) = look.listed_for(member).filter(|l| look.leader == Some(l.id))
    {
        return membership::move_leader(look, listed, why);
    }
    let token = look.wanted.defrag_token.clone();
    Next::Take {
        step: Step::Defragment {
            member: look.reference(member),
            token,
        },
        why,
    }
}

fn answers<'a>(look: &Look<'a>) -> impl Iterator<Item = (&'a Member, &'a Answer)> {
    look.observed
        .members
        .iter()
        .filter_map(|m| m.answer.as_ref().map(|a| (m, a)))
}

fn quota(wanted: &Wanted, answer: &Answer) -> u64 {
    if answer.quota_bytes > 0 {
        answer.quota_bytes
    } else {
        wanted.options.quota_bytes
    }
}
