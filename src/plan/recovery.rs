//! Quorum lost: find out what can be proven, publish a plan with what it may lose, act alone only where loss of the
//! missing members (or completeness of the survivor) is proven, and otherwise wait for the owner to acknowledge that
//! very plan. The rules are those of the project's reference, "recovery.mode: Automatic – what it may do alone".
//!
//! The order once it is decided: stop every process of the cluster, read the end of every survivor's log, copy every
//! survivor's data aside, make the most complete one the only member with its whole log and raised revisions, start
//! it. Members then grow again by the membership decider, on fresh volumes; old volumes are retired, not deleted.
//!
//! Invariants:
//! - Silence proves nothing: a member that merely does not answer is never counted as gone.
//! - A decision is read back before it is acted on, and dropped when a quorum returns before the point of no return.
//! - Survivors are compared by the last term, then the last index of their logs, as Raft compares candidates.
//! - Nothing is changed on a survivor before every survivor is copied.

use std::time::Duration;

use super::journal::{Journal, RecoveryDecision, RecoveryFrom};
use super::look::Look;
use super::observed::{Data, Listed, Member, Process};
use super::reason::{Reason, in_words};
use super::resources::short_hash;
use super::step::{Create, Start, Step};
use super::wanted::{BackupSource, Engine, RecoverFrom};
use super::{Next, backup, bootstrap, power};

/// A loss of quorum younger than this is not acted on even if it is proven: members that restart get that long.
const GRACE_PROVEN: Duration = Duration::from_secs(5);
/// A loss of quorum with members that are merely silent is published as a recovery plan after this long.
const GRACE_SILENT: Duration = Duration::from_secs(15);
/// Why nothing is automatic when the journal was lost.
const UNCONFIRMED: &str = "the member list is not confirmed: the operator's memory was lost, and a single member may not know of later members";
/// The pause between looks while members may come back by themselves.
const RECHECK: Duration = Duration::from_secs(1);

/// Recovers, or says what is in the way; none while a quorum confirms reads and no recovery is open.
pub(super) fn decide(look: &Look<'_>, journal: &mut Journal) -> Option<Next> {
    if let Some(why) = split_brain(look) {
        return Some(Next::Blocked { why });
    }
    // Only a decision that was read back is acted on.
    if let Some(decision) = look.observed.journal.recovery.clone() {
        return carry_on(look, journal, &decision);
    }
    if look.quorate {
        return None;
    }
    let case = Case::new(look);
    if case.voters == 0 || case.alive.len() >= look.quorum() {
        return Some(wait_for_members(look, &case));
    }
    let grace = if case.silent.is_empty() {
        GRACE_PROVEN
    } else {
        GRACE_SILENT
    };
    let lost_for = journal
        .quorum_lost_since
        .map_or(Duration::ZERO, |since| look.now.since(since));
    if lost_for < grace {
        return Some(Next::Wait {
            why: case.lost(look),
            recheck: RECHECK,
        });
    }
    Some(propose(look, journal, &case))
}

fn lost_for(look: &Look<'_>, journal: &Journal) -> Duration {
    journal
        .quorum_lost_since
        .map_or(Duration::ZERO, |since| look.now.since(since))
}

/// What is known about each voter when there is no quorum.
struct Case<'a> {
    voters: usize,
    /// Answers, runs, or can be started on its data.
    alive: Vec<(&'a Listed, &'a Member)>,
    /// Proven gone, with the proof.
    gone: Vec<(&'a Listed, String)>,
    /// Neither.
    silent: Vec<&'a Listed>,
}

impl<'a> Case<'a> {
    fn new(look: &'a Look<'_>) -> Case<'a> {
        let mut case = Case {
            voters: 0,
            alive: Vec::new(),
            gone: Vec::new(),
            silent: Vec::new(),
        };
        for listed in look.voters() {
            case.voters += 1;
            let member = look.member_for(listed);
            if let Some(proof) = look.proof_gone(listed) {
                case.gone.push((listed, proof));
            } else if let Some(member) = member.filter(|m| alive(m)) {
                case.alive.push((listed, member));
            } else {
                case.silent.push(listed);
            }
        }
        case
    }

    fn missing(&self, look: &Look<'_>) -> Vec<String> {
        let gone = self.gone.iter().map(|(l, _)| *l);
        gone.chain(self.silent.iter().copied())
            .map(|l| look.name_of(l.id))
            .collect()
    }

    fn lost(&self, look: &Look<'_>) -> Reason {
        Reason::QuorumLost {
            alive: self.alive.len(),
            quorum: look.quorum(),
            missing: self.missing(look),
        }
    }
}

/// It answers, or its process runs or can run on the data that it has.
fn alive(member: &Member) -> bool {
    member.answer.is_some()
        || (matches!(member.data, Data::Present | Data::Fresh)
            && !member.volume.deleted
            && !matches!(member.process, Process::Unknown { .. }))
}

/// What is known of a member that neither is there nor is proven gone.
fn silence(look: &Look<'_>, listed: &Listed) -> String {
    let name = look.name_of(listed.id);
    let Some(member) = look.member_for(listed).filter(|m| !m.may_run()) else {
        return format!("{name}: does not answer, may still run");
    };
    match &member.data {
        Data::Corrupt { why } => format!("{name}: its data is there but damaged ({why})"),
        Data::Foreign { found } => format!("{name}: foreign data lies in its place ({found})"),
        Data::Unknown => format!(
            "{name}: its data is out of reach, and may come back ({})",
            member.health.why
        ),
        Data::Fresh | Data::Present | Data::Lost => format!("{name}: does not run, and is not proven gone"),
    }
}

/// Members of other clusters among ours: whatever made it so, nothing is done automatically.
fn split_brain(look: &Look<'_>) -> Option<Reason> {
    if look.observed.journal.recovery.is_some() {
        return None;
    }
    let expected = look.cluster_id();
    let found: Vec<_> = look
        .observed
        .members
        .iter()
        .filter_map(|m| m.answer.as_ref().map(|a| (m.name.clone(), a.cluster_id)))
        .collect();
    let reference = expected.or(found.first().map(|(_, id)| *id))?;
    found
        .iter()
        .any(|(_, id)| *id != reference)
        .then_some(Reason::SplitBrain { found, expected })
}

/// Enough members are there to make a quorum, only not yet: they start or elect.
fn wait_for_members(look: &Look<'_>, case: &Case<'_>) -> Next {
    let looping = look.observed.members.iter().find_map(|m| match &m.process {
        Process::Exited { restarts, message, .. } if *restarts > 1 => Some(Reason::CrashLoop {
            member: m.name.clone(),
            restarts: *restarts,
            message: message.clone(),
        }),
        Process::Exited { .. }
        | Process::Absent
        | Process::Pending { .. }
        | Process::Running { .. }
        | Process::Unknown { .. } => None,
    });
    let slow = || look.observed.members.iter().find(|m| !m.healthy());
    let starting = || {
        slow().map(|m| Reason::Starting {
            member: m.name.clone(),
            detail: bootstrap::detail(m),
        })
    };
    let why = looping.unwrap_or_else(|| match case.voters {
        0 => starting().unwrap_or(Reason::ClusterUnreachable),
        // Nobody is missing: what the one waits for that does not serve yet says more.
        _ if case.missing(look).is_empty() => starting().unwrap_or_else(|| case.lost(look)),
        _ => case.lost(look),
    });
    Next::Wait { why, recheck: RECHECK }
}

/// Publishes the plan for this case, and decides it where that is allowed.
fn propose(look: &Look<'_>, journal: &mut Journal, case: &Case<'_>) -> Next {
    let wanted = &look.wanted.recovery;
    let from_backup = match &wanted.from {
        RecoverFrom::Backup(name) => Some(name.clone()),
        RecoverFrom::Survivor if case.alive.is_empty() && case.silent.is_empty() => Some(None),
        RecoverFrom::Survivor => None,
    };
    let proposal = match from_backup {
        Some(name) => back_to_backup(look, journal, case, name),
        None if case.alive.is_empty() => return Next::Blocked { why: case.lost(look) },
        None => Ok(from_survivor(look, journal, case)),
    };
    let Proposal {
        decision,
        why_not_automatic,
    } = match proposal {
        Ok(proposal) => proposal,
        Err(why) => return Next::Blocked { why },
    };
    let acknowledged = wanted.acknowledge.as_deref() == Some(&decision.hash);
    let RecoveryDecision {
        hash,
        reason: plan,
        loss_bound,
        ..
    } = decision.clone();
    match why_not_automatic {
        Some(why_not_automatic) if !acknowledged => {
            journal.recovery_proposal = Some(hash.clone());
            Next::Blocked {
                why: Reason::RecoveryRequired {
                    hash,
                    plan,
                    loss_bound,
                    why_not_automatic,
                },
            }
        }
        Some(_) | None => {
            journal.recovery = Some(decision);
            // The members that know the list are about to be stopped.
            journal.members = look.known_list();
            let what = format!("that recovery {hash} begins: {plan}. May be lost: {loss_bound}");
            Next::Take {
                step: Step::Record { what },
                why: Reason::Recovering { hash, plan, loss_bound },
            }
        }
    }
}

struct Proposal {
    decision: RecoveryDecision,
    /// None: it may begin without being asked for.
    why_not_automatic: Option<String>,
}

fn from_survivor(look: &Look<'_>, journal: &Journal, case: &Case<'_>) -> Proposal {
    let mut candidates: Vec<(&Listed, &Member)> = case.alive.clone();
    candidates.sort_by_key(|(listed, member)| std::cmp::Reverse(completeness(journal, listed, member)));
    let names: Vec<String> = candidates.iter().map(|(_, m)| m.name.clone()).collect();
    let best = candidates.first().map(|(listed, member)| (*listed, *member));
    let (name, revision) = best.map_or((String::new(), 0), |(l, m)| (m.name.clone(), revision(journal, l, m)));

    let complete = best.is_some_and(|(listed, _)| proven_complete(look, journal, case, listed));
    let mut evidence: Vec<String> = case.gone.iter().map(|(_, proof)| proof.clone()).collect();
    evidence.extend(case.silent.iter().map(|listed| silence(look, listed)));
    if complete {
        evidence.push(format!(
            "{name}: led with a quorum after those were gone, so it holds every acknowledged write"
        ));
    }
    let choice = match names.len() {
        1 => format!("continue with {name} alone"),
        _ => format!(
            "continue with the most complete of {}, by the ends of their logs",
            names.join(", ")
        ),
    };
    let reason = format!("{choice}, then replace the others; evidence: {}", evidence.join("; "));
    let loss_bound = loss_bound(look, journal, complete, revision);
    let hash = hash(look, case, &format!("survivors {}", names.join(",")));
    let from = RecoveryFrom::Survivor {
        name,
        candidates: names,
    };
    let why_not_automatic = if !look.wanted.recovery.automatic {
        Some("recovery.mode is Manual".into())
    } else if journal.members.is_empty() {
        Some(UNCONFIRMED.into())
    } else if case.silent.is_empty() {
        None
    } else if complete {
        // No second cluster can exist, but the silent ones may yet make recovery unnecessary.
        let left = look.wanted.repair.after.saturating_sub(lost_for(look, journal));
        (!left.is_zero()).then(|| {
            let left = in_words(left);
            format!("members that do not answer are waited for until repair.after has passed, {left} more")
        })
    } else {
        let silent: Vec<String> = case.silent.iter().map(|l| look.name_of(l.id)).collect();
        Some(format!(
            "nothing proves that {} are gone for good; silence proves nothing",
            silent.join(", ")
        ))
    };
    let decision = RecoveryDecision {
        hash,
        from,
        at: look.now,
        reason,
        loss_bound,
    };
    Proposal {
        decision,
        why_not_automatic,
    }
}

/// The survivor led with a quorum when those proven gone were gone already, and without it the others that are not
/// proven gone are fewer than a quorum: from then on every commit needed it. Upstream's `--force-new-cluster` drops
/// the log's tail, so this holds for our engine alone.
fn proven_complete(look: &Look<'_>, journal: &Journal, case: &Case<'_>, survivor: &Listed) -> bool {
    let Some(led) = journal.last_led.as_ref().filter(|led| led.leader == survivor.id) else {
        return false;
    };
    let gone_then = |l: &Listed| led.gone.contains(&l.id) && case.gone.iter().any(|(g, _)| g.id == l.id);
    let others = look.voters().filter(|l| l.id != survivor.id && !gone_then(l)).count();
    look.wanted.engine == Engine::Quorate && others < look.quorum()
}

fn loss_bound(look: &Look<'_>, journal: &Journal, complete: bool, survivor_revision: i64) -> String {
    if complete {
        return "nothing that was acknowledged".into();
    }
    let high = journal.revision_high_water;
    let ago = journal.revision_seen.map_or(String::new(), |seen| {
        format!(", {} ago", in_words(look.now.since(seen)))
    });
    let tail = match look.wanted.engine {
        Engine::Quorate => "",
        Engine::Etcd => ", and the survivor's log above its commit index, which upstream drops",
    };
    let known = high.saturating_sub(survivor_revision).max(0);
    format!(
        "writes that only the missing members held: {known} revisions up to the highest seen ({high}{ago}), and any \
         acknowledged since then{tail}"
    )
}

fn back_to_backup(
    look: &Look<'_>,
    journal: &Journal,
    case: &Case<'_>,
    named: Option<String>,
) -> Result<Proposal, Reason> {
    let runs = &look.observed.backups;
    let run = match &named {
        Some(name) => runs
            .iter()
            .find(|run| run.name == *name && run.phase == backup::Phase::Completed),
        None => backup::newest_verified(runs),
    };
    let run = run.ok_or(Reason::AllMembersLost)?;
    let member = look.observed.fresh_names.first().cloned().ok_or(Reason::NoFreshName)?;
    let age = in_words(look.now.since(run.completed.unwrap_or(run.scheduled)));
    let high = journal.revision_high_water;
    let hash = hash(look, case, &format!("backup {}", run.name));
    let mut evidence: Vec<String> = case.gone.iter().map(|(_, proof)| proof.clone()).collect();
    evidence.extend(case.silent.iter().map(|listed| silence(look, listed)));
    evidence.extend(
        case.alive
            .iter()
            .map(|(_, m)| format!("{}: survives, given up by recovery.from", m.name)),
    );
    let reason = format!(
        "begin again from backup {}; evidence: {}",
        run.name,
        evidence.join("; ")
    );
    let known = high.saturating_sub(run.revision).max(0);
    let loss_bound = format!(
        "all writes after the backup's revision {}, taken {age} ago: {known} revisions up to the highest seen ({high})",
        run.revision
    );
    let token = format!("{}-{hash}", look.wanted.uid);
    let from = RecoveryFrom::Backup {
        backup: run.name.clone(),
        member,
        token,
    };
    let all_gone = case.alive.is_empty() && case.silent.is_empty();
    let wanted = &look.wanted.recovery;
    let why_not_automatic =
        if wanted.automatic && wanted.from_backup_automatic && all_gone && !journal.members.is_empty() {
            None
        } else if !wanted.automatic {
            Some("recovery.mode is Manual".into())
        } else if !all_gone {
            Some("not every member is proven gone".into())
        } else if journal.members.is_empty() {
            Some(UNCONFIRMED.into())
        } else {
            Some("going back to a backup gives up newer writes (recovery.fromBackup is Acknowledge)".into())
        };
    Ok(Proposal {
        decision: RecoveryDecision {
            hash,
            from,
            at: look.now,
            reason,
            loss_bound,
        },
        why_not_automatic,
    })
}

/// Names one plan: another survivor, another proof or another member list is another plan.
fn hash(look: &Look<'_>, case: &Case<'_>, source: &str) -> String {
    let ids = |list: &mut dyn Iterator<Item = &Listed>| {
        let mut ids: Vec<String> = list.map(|l| l.id.to_string()).collect();
        ids.sort();
        ids.join(",")
    };
    let cluster = look.cluster_id().map_or(String::new(), |id| id.to_string());
    short_hash(&format!(
        "cluster {cluster} of {}\nvoters {}\ngone {}\nsilent {}\n{source}",
        look.wanted.uid,
        ids(&mut look.voters()),
        ids(&mut case.gone.iter().map(|(l, _)| *l)),
        ids(&mut case.silent.iter().copied()),
    ))
}

/// Raft's own order of logs, then the commit index and the revision; from the log itself if it was read, else from what was last seen.
fn completeness(
    journal: &Journal,
    listed: &Listed,
    member: &Member,
) -> (u64, u64, u64, i64, std::cmp::Reverse<String>) {
    let name = std::cmp::Reverse(member.name.clone());
    if let Some(log) = member.log {
        return (log.term, log.index, log.commit, log.revision, name);
    }
    if let Some(answer) = &member.answer {
        return (answer.term, answer.index, answer.index, answer.revision, name);
    }
    let known = journal.members.iter().find(|k| k.id == listed.id);
    known.map_or((0, 0, 0, 0, name.clone()), |k| {
        (k.term, k.index, k.index, k.revision, name)
    })
}

fn revision(journal: &Journal, listed: &Listed, member: &Member) -> i64 {
    let known = || journal.members.iter().find(|k| k.id == listed.id).map(|k| k.revision);
    member
        .log
        .map(|l| l.revision)
        .or(member.answer.as_ref().map(|a| a.revision))
        .or_else(known)
        .unwrap_or(0)
}

/// Carries out a decided recovery, or drops it.
fn carry_on(look: &Look<'_>, journal: &mut Journal, decision: &RecoveryDecision) -> Option<Next> {
    let why = || Reason::Recovering {
        hash: decision.hash.clone(),
        plan: decision.reason.clone(),
        loss_bound: decision.loss_bound.clone(),
    };
    let take = |step| Some(Next::Take { step, why: why() });
    if look.quorate {
        // Done, or the members came back by themselves: in both cases the others go on from here.
        journal.recovery = None;
        return None;
    }
    match &decision.from {
        RecoveryFrom::Survivor { candidates, .. } => {
            if let Some(done) = recovered(look, decision) {
                return Some(start_alone(look, done, why()));
            }
            let case = Case::new(look);
            let mut left: Vec<(&Listed, &Member)> = case
                .alive
                .iter()
                .filter(|(_, m)| candidates.contains(&m.name) && m.data == Data::Present)
                .copied()
                .collect();
            // Not passed the point of no return: drop it when it is not needed, or not possible, any more.
            if case.alive.len() >= look.quorum() || left.is_empty() {
                journal.recovery = None;
                journal.quorum_lost_since = Some(look.now);
                return Some(Next::Wait {
                    why: case.lost(look),
                    recheck: RECHECK,
                });
            }
            if let Some(member) = running(look).next() {
                return take(Step::StopMember {
                    member: look.reference(member),
                });
            }
            if let Some((_, member)) = left.iter().find(|(_, m)| m.log.is_none()) {
                return take(Step::InspectLog {
                    member: look.reference(member),
                });
            }
            if let Some((_, member)) = left.iter().find(|(_, m)| m.copied.is_none()) {
                return take(Step::CopyVolume {
                    member: look.reference(member),
                });
            }
            left.sort_by_key(|(listed, member)| std::cmp::Reverse(completeness(journal, listed, member)));
            let (_, survivor) = left.first()?;
            if let Some(lost) = tail_lost(look, survivor, decision) {
                // Read back before it is acted on, as the decision was.
                journal.recovery = Some(lost.clone());
                let what = format!("what recovery {} gives up. May be lost: {}", lost.hash, lost.loss_bound);
                return Some(Next::Take {
                    step: Step::Record { what },
                    why: Reason::Recovering {
                        hash: lost.hash,
                        plan: lost.reason,
                        loss_bound: lost.loss_bound,
                    },
                });
            }
            take(Step::RecoverQuorum {
                survivor: look.reference(survivor),
                cluster_id: look.cluster_id(),
                keep_whole_log: look.wanted.engine == Engine::Quorate,
                above_revision: journal.revision_high_water,
                hash: decision.hash.clone(),
            })
        }
        RecoveryFrom::Backup { backup, member, token } => {
            let others = running(look).find(|m| m.name != *member);
            if let Some(other) = others {
                return take(Step::StopMember {
                    member: look.reference(other),
                });
            }
            let Some(reborn) = look.member(member) else {
                let create = Create::Restored {
                    backup: BackupSource::Backup(backup.clone()),
                    token: token.clone(),
                    above_revision: Some(journal.revision_high_water),
                    revision_bump: None,
                    skip_hash_check: false,
                };
                return take(Step::CreateMember {
                    name: member.clone(),
                    create,
                });
            };
            Some(start_alone(look, reborn, why()))
        }
    }
}

/// Upstream's `--force-new-cluster` drops the log above the persisted commit index (etcd server/etcdserver/bootstrap.go).
/// Once the log has been read its length is known, and is told; none when it is told already, or when nothing is dropped.
fn tail_lost(look: &Look<'_>, survivor: &Member, decision: &RecoveryDecision) -> Option<RecoveryDecision> {
    const WORDS: &str = "of the survivor's log";
    let log = survivor.log.filter(|log| log.index > log.commit)?;
    if look.wanted.engine != Engine::Etcd || decision.loss_bound.contains(WORDS) {
        return None;
    }
    let count = log.index - log.commit;
    let bound = format!(
        "{}; these are the last {count} entries {WORDS}, above its commit index {}",
        decision.loss_bound, log.commit
    );
    Some(RecoveryDecision {
        loss_bound: bound,
        ..decision.clone()
    })
}

/// The member that this recovery was carried out on.
fn recovered<'a>(look: &Look<'a>, decision: &RecoveryDecision) -> Option<&'a Member> {
    look.observed
        .members
        .iter()
        .find(|m| m.volume.recovered.as_ref() == Some(&decision.hash))
}

/// Processes that can be stopped. One on a silent machine cannot; the members that are left refuse it later.
fn running<'a>(look: &Look<'a>) -> impl Iterator<Item = &'a Member> {
    look.observed
        .members
        .iter()
        .filter(|m| m.may_run() && !matches!(m.process, Process::Unknown { .. }))
}

/// Starts the only member, or waits until it confirms reads.
fn start_alone(look: &Look<'_>, member: &Member, why: Reason) -> Next {
    match power::start_pause(member, look) {
        Some(pause) if pause.is_zero() => Next::Take {
            step: Step::StartMember {
                member: look.reference(member),
                start: Start::Resume,
            },
            why,
        },
        Some(pause) => Next::Wait {
            why,
            recheck: pause.min(RECHECK),
        },
        None => Next::Wait { why, recheck: RECHECK },
    }
}
