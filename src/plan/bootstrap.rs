//! Begins a cluster, once per cluster uid, ever: from nothing or from a backup.
//!
//! One static bootstrap: all initial members are decided and recorded first, then created, then started together with
//! the same list. A crash anywhere continues from the record. (A single seed that grows would need three membership
//! changes for the same end, each with a moment in which one lost disk loses everything.)
//!
//! Invariants:
//! - Nothing is decided while any volume of this cluster exists, in use or retired, or a cluster id is latched.
//! - Nothing is created before the decision has been read back, nothing started before all is created.
//! - `new` is never used once a cluster id is latched, that is, once a quorum has confirmed it: a late initial member
//!   joins instead. Should the latch be lost with the journal, `new` is still harmless: it starts only a volume that no
//!   process ever wrote to, and initial members of that kind are a minority if a quorum ever was.

use std::time::Duration;

use super::Next;
use super::journal::{BootstrapDecision, Journal};
use super::look::Look;
use super::observed::{Data, Member, Origin, Process};
use super::power;
use super::reason::Reason;
use super::step::{Create, Start, Step};
use super::wanted::{Bootstrap, RestoreSource};

/// Begins the cluster, or none when it has begun.
pub(super) fn decide(look: &Look<'_>, journal: &mut Journal) -> Option<Next> {
    if look.quorate || look.observed.journal.cluster_id.is_some() || journal.recovery.is_some() {
        return None;
    }
    // Only what was read back counts: a decision made in this very plan is not acted on.
    let Some(decision) = look
        .observed
        .journal
        .bootstrap
        .clone()
        .or_else(|| journal.bootstrap.clone())
    else {
        // Members without a decision: theirs was lost with the journal and the initial volumes. They exist, so there
        // is nothing to begin.
        return look.observed.members.is_empty().then(|| record(look, journal));
    };
    // Members came or went since: the cluster has long begun, only the latch was lost with the journal.
    let later = |m: &Member| !decision.members.contains(&m.name);
    if look.observed.members.iter().any(later) || !look.observed.retired.is_empty() {
        return None;
    }
    let why = why(look);
    let any_started = look.observed.members.iter().any(|m| m.volume.started);
    if let Some(name) = decision.members.iter().find(|name| look.member(name).is_none()) {
        // A volume that vanishes after the start is a lost member, to be replaced once the others have answered.
        if !any_started {
            return Some(Next::Take {
                step: create(look, &decision, name),
                why,
            });
        }
    }
    let initial = || {
        look.observed
            .members
            .iter()
            .filter(|m| decision.members.contains(&m.name))
    };
    let urls: Vec<(String, String)> = initial().map(|m| (m.name.clone(), m.peer_url.clone())).collect();
    let startable = |m: &&Member| {
        m.data == Data::Fresh
            && matches!(m.volume.origin, Origin::Initial { .. })
            && power::start_pause(m, look).is_some_and(|p| p.is_zero())
    };
    if urls.len() == decision.members.len()
        && let Some(member) = initial().find(startable)
    {
        let start = Start::New {
            initial_cluster: urls,
            token: decision.token.clone(),
        };
        return Some(Next::Take {
            step: Step::StartMember {
                member: look.reference(member),
                start,
            },
            why,
        });
    }
    if initial().any(|m| m.data == Data::Present && power::start_pause(m, look).is_some()) {
        return None;
    }
    let alive = initial()
        .filter(|m| !matches!(m.data, Data::Lost | Data::Corrupt { .. } | Data::Foreign { .. }))
        .count();
    if alive <= decision.members.len() / 2 {
        // Members have begun and lost their data: what that means is for recovery to say.
        let begun = look.cluster_id().is_some();
        return (!begun).then(|| Next::Blocked {
            why: stuck(look, &decision),
        });
    }
    let slow = initial().find(|m| !m.healthy());
    let why = slow.map_or(why, |m| Reason::Starting {
        member: m.name.clone(),
        detail: detail(m),
    });
    Some(Next::Wait {
        why,
        recheck: Duration::from_secs(1),
    })
}

fn why(look: &Look<'_>) -> Reason {
    match &look.wanted.bootstrap {
        Bootstrap::New => Reason::Bootstrap,
        Bootstrap::Restore(source) => Reason::Restore {
            backup: source.from.to_string(),
        },
    }
}

/// Decides who begins. Nothing else happens in this plan: the decision has to be read back first.
fn record(look: &Look<'_>, journal: &mut Journal) -> Next {
    if !look.observed.retired.is_empty() {
        return Next::Blocked {
            why: Reason::AllMembersLost,
        };
    }
    let count = match look.wanted.bootstrap {
        Bootstrap::New => look.wanted.replicas as usize,
        // A backup is restored once, as one member; the others get its data from that one as learners.
        Bootstrap::Restore(_) => 1,
    };
    let Some(members) = look.observed.fresh_names.get(..count) else {
        return Next::Blocked {
            why: Reason::NoFreshName,
        };
    };
    let members = members.to_vec();
    let what = format!("that the cluster begins with {}", members.join(", "));
    journal.bootstrap = Some(BootstrapDecision {
        members,
        token: look.wanted.uid.clone(),
        at: look.now,
    });
    Next::Take {
        step: Step::Record { what },
        why: why(look),
    }
}

fn create(look: &Look<'_>, decision: &BootstrapDecision, name: &str) -> Step {
    let create = match &look.wanted.bootstrap {
        Bootstrap::New => Create::Initial {
            cluster: decision.members.clone(),
            token: decision.token.clone(),
        },
        Bootstrap::Restore(source) => restored(source, &decision.token, None),
    };
    Step::CreateMember {
        name: name.to_string(),
        create,
    }
}

/// A member that begins from a backup.
pub(super) fn restored(source: &RestoreSource, token: &str, above_revision: Option<i64>) -> Create {
    Create::Restored {
        backup: source.from.clone(),
        token: token.to_string(),
        above_revision,
        revision_bump: source.revision_bump,
        skip_hash_check: source.skip_hash_check,
    }
}

/// What a member that does not serve yet waits for.
pub(super) fn detail(member: &Member) -> String {
    match &member.process {
        Process::Pending { why, .. } => why.clone(),
        Process::Exited { message, restarts, .. } => format!("ended {restarts} times: {message}"),
        Process::Absent | Process::Running { .. } | Process::Unknown { .. } => member.health.why.clone(),
    }
}

fn stuck(look: &Look<'_>, decision: &BootstrapDecision) -> Reason {
    let foreign = look.observed.members.iter().find_map(|m| match &m.data {
        Data::Foreign { found } => Some(Reason::ForeignData {
            member: m.name.clone(),
            found: found.clone(),
        }),
        Data::Unknown | Data::Fresh | Data::Present | Data::Lost | Data::Corrupt { .. } => None,
    });
    foreign.unwrap_or_else(|| {
        let ok = |name: &&String| {
            look.member(name)
                .is_some_and(|m| matches!(m.data, Data::Fresh | Data::Present | Data::Unknown))
        };
        let missing: Vec<String> = decision.members.iter().filter(|n| !ok(n)).cloned().collect();
        Reason::QuorumLost {
            alive: decision.members.len() - missing.len(),
            quorum: decision.members.len() / 2 + 1,
            missing,
        }
    })
}
