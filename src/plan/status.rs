//! What is published about a cluster: derived from one look, so that it is never older than that look.
//!
//! Invariant: `Available` is `True` only if a quorum confirmed a read in this very look.

use super::look::Look;
use super::observed::{AlarmKind, Data, Process, Verdict};
use super::reason::Reason;
use super::{ClusterId, Journal, MemberId, Next, Timestamp, backup};

/// What is published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Generation of the spec that was planned for.
    pub observed_generation: i64,
    /// One word for people: `Bootstrapping`, `Running`, `Degraded`, `QuorumLost`, ...
    pub phase: String,
    /// Voters in the member list.
    pub replicas: u32,
    /// Healthy voters.
    pub ready_replicas: u32,
    /// Cluster id.
    pub cluster_id: Option<ClusterId>,
    /// Name of the leader.
    pub leader: Option<String>,
    /// Raft term.
    pub term: u64,
    /// Highest revision in this look.
    pub revision: i64,
    /// Highest revision ever.
    pub revision_high_water: i64,
    /// Version that the members run; the lowest.
    pub version: Option<String>,
    /// Largest database file in bytes.
    pub db_bytes: u64,
    /// Bytes in use in the fullest database.
    pub db_in_use_bytes: u64,
    /// Share of the quota that the largest database uses, in percent.
    pub quota_percent: u32,
    /// Every member.
    pub members: Vec<MemberStatus>,
    /// What is done next: a step, or `Settled`, or a wait.
    pub next_action: String,
    /// What is in the way.
    pub blocked_by: Option<String>,
    /// Since when the next action is the next action.
    pub next_since: Option<Timestamp>,
    /// The published recovery plan.
    pub recovery: Option<RecoveryStatus>,
    /// Name of the newest verified backup.
    pub last_backup: Option<String>,
    /// When the last member was defragmented.
    pub last_defrag: Option<Timestamp>,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// One member in the status.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberStatus {
    /// Name.
    pub name: String,
    /// Member id.
    pub id: Option<MemberId>,
    /// `Voter`, `Learner` or `None` (not in the member list).
    pub role: String,
    /// It leads.
    pub leader: bool,
    /// Healthy, Unhealthy or Unknown.
    pub health: Verdict,
    /// What makes it so.
    pub why: String,
    /// Since when.
    pub health_since: Timestamp,
    /// When it was looked at.
    pub observed_at: Timestamp,
    /// Server version.
    pub version: Option<String>,
    /// Node.
    pub node: String,
    /// Its volume's identity.
    pub volume: String,
    /// Database file in bytes.
    pub db_bytes: u64,
    /// Entries behind the leader.
    pub lag: Option<u64>,
    /// Alarms that name it.
    pub alarms: Vec<AlarmKind>,
    /// When its first certificate ends.
    pub certificate_not_after: Option<Timestamp>,
}

/// The recovery plan that is published.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveryStatus {
    /// What to acknowledge.
    pub hash: String,
    /// What is or would be done, with its evidence.
    pub plan: String,
    /// What may be lost.
    pub loss_bound: String,
    /// True when it is under way.
    pub acting: bool,
}

/// A condition as Kubernetes has them.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Type.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Last change of the status.
    pub since: Timestamp,
}

/// Makes the status of this look.
pub(super) fn status(look: &Look<'_>, journal: &mut Journal, next: &Next) -> Status {
    let wanted = look.wanted;
    let observed = look.observed;
    let healthy_voters = look.healthy_voters();
    let answers = || observed.members.iter().filter_map(|m| m.answer.as_ref());
    let fullest = answers().max_by_key(|a| a.db_bytes);
    let quota = fullest.map_or(0, |a| {
        if a.quota_bytes > 0 {
            a.quota_bytes
        } else {
            wanted.options.quota_bytes
        }
    });
    let percent = fullest.map_or(0, |a| percent(a.db_bytes, quota));
    let mut status = Status {
        observed_generation: wanted.generation,
        replicas: u32::try_from(look.voters().count()).unwrap_or(u32::MAX),
        ready_replicas: u32::try_from(healthy_voters).unwrap_or(u32::MAX),
        cluster_id: journal.cluster_id,
        leader: look.leader.map(|id| look.name_of(id)),
        term: answers().map(|a| a.term).max().unwrap_or(0),
        revision: answers().map(|a| a.revision).max().unwrap_or(0),
        revision_high_water: journal.revision_high_water,
        version: answers().map(|a| a.version.clone()).min(),
        db_bytes: fullest.map_or(0, |a| a.db_bytes),
        db_in_use_bytes: answers().map(|a| a.db_in_use_bytes).max().unwrap_or(0),
        quota_percent: percent,
        members: members(look),
        next_since: journal.next_since.as_ref().map(|(_, since)| *since),
        last_backup: backup::newest_verified(&observed.backups).map(|run| run.name.clone()),
        last_defrag: journal.defragmented.iter().map(|d| d.at).max(),
        recovery: recovery(journal, next),
        ..Status::default()
    };
    match next {
        Next::Settled => status.next_action = "Settled".into(),
        Next::Take { step, why } => {
            status.next_action = step.to_string();
            status.blocked_by = None;
            status.phase = why.name().into();
        }
        Next::Wait {
            why: why @ Reason::RecoveryRequired { .. },
            ..
        } => {
            status.next_action = "nothing".into();
            status.blocked_by = Some(why.to_string());
        }
        Next::Wait { why, .. } => status.next_action = format!("wait: {why}"),
        Next::Blocked { why } => {
            status.next_action = "nothing".into();
            status.blocked_by = Some(why.to_string());
        }
    }
    status.phase = phase(look, next).into();
    status.conditions = conditions(look, journal, next, percent);
    status
}

fn phase(look: &Look<'_>, next: &Next) -> &'static str {
    if look.wanted.deleting.is_some() {
        "Deleting"
    } else if look.wanted.paused {
        "Paused"
    } else if look.wanted.replicas == 0 {
        "Hibernating"
    } else if look.quorate {
        match next {
            Next::Settled => "Running",
            Next::Take { .. } | Next::Wait { .. } => "Progressing",
            Next::Blocked { .. } => "Degraded",
        }
    } else if look.observed.journal.cluster_id.is_none() {
        "Bootstrapping"
    } else {
        "QuorumLost"
    }
}

fn recovery(journal: &Journal, next: &Next) -> Option<RecoveryStatus> {
    if let Next::Blocked {
        why: Reason::RecoveryRequired {
            hash, plan, loss_bound, ..
        },
    } = next
    {
        let (hash, plan, loss_bound) = (hash.clone(), plan.clone(), loss_bound.clone());
        return Some(RecoveryStatus {
            hash,
            plan,
            loss_bound,
            acting: false,
        });
    }
    journal.recovery.as_ref().map(|decision| RecoveryStatus {
        hash: decision.hash.clone(),
        plan: decision.reason.clone(),
        loss_bound: decision.loss_bound.clone(),
        acting: true,
    })
}

fn members(look: &Look<'_>) -> Vec<MemberStatus> {
    let mut all: Vec<MemberStatus> = look
        .observed
        .members
        .iter()
        .map(|m| {
            let listed = look.listed_for(m);
            let id = listed.map(|l| l.id).or(m.id());
            MemberStatus {
                name: m.name.clone(),
                id,
                role: match listed {
                    Some(listed) if listed.learner => "Learner",
                    Some(_) => "Voter",
                    None => "None",
                }
                .into(),
                leader: id.is_some() && id == look.leader,
                health: m.health.verdict,
                why: why(m),
                health_since: m.health.since,
                observed_at: m.health.at,
                version: m.answer.as_ref().map(|a| a.version.clone()),
                node: m.node.name.clone(),
                volume: m.volume.uid.clone(),
                db_bytes: m.answer.as_ref().map_or(0, |a| a.db_bytes),
                lag: look.lag(m),
                alarms: look.alarms().filter(|a| Some(a.member) == id).map(|a| a.kind).collect(),
                certificate_not_after: m.certificate.as_ref().map(|c| c.not_after),
            }
        })
        .collect();
    // Members of the list for which there is no volume are members all the same.
    for listed in look.list.iter().filter(|l| look.member_for(l).is_none()) {
        all.push(MemberStatus {
            name: look.name_of(listed.id),
            id: Some(listed.id),
            role: if listed.learner { "Learner" } else { "Voter" }.into(),
            leader: Some(listed.id) == look.leader,
            health: Verdict::Unknown,
            why: "no volume here".into(),
            health_since: look.now,
            observed_at: look.now,
            version: None,
            node: String::new(),
            volume: String::new(),
            db_bytes: 0,
            lag: None,
            alarms: Vec::new(),
            certificate_not_after: None,
        });
    }
    all
}

fn why(m: &super::observed::Member) -> String {
    if m.healthy() {
        return String::new();
    }
    let data = match &m.data {
        Data::Lost => Some("data lost".to_string()),
        Data::Foreign { found } => Some(format!("foreign data: {found}")),
        Data::Corrupt { why } => Some(format!("corrupt data: {why}")),
        Data::Unknown if !m.may_run() => Some("data out of reach".to_string()),
        Data::Unknown | Data::Fresh | Data::Present => None,
    };
    let process = match &m.process {
        Process::Absent => Some("does not run".to_string()),
        Process::Pending { why, .. } => Some(format!("pending: {why}")),
        Process::Exited { message, .. } => Some(format!("exited: {message}")),
        Process::Running { .. } | Process::Unknown { .. } => None,
    };
    let own = (!m.health.why.is_empty()).then(|| m.health.why.clone());
    let parts: Vec<String> = [data, process, own].into_iter().flatten().collect();
    parts.join("; ")
}

fn conditions(look: &Look<'_>, journal: &mut Journal, next: &Next, quota_percent: u32) -> Vec<Condition> {
    let why = match next {
        Next::Settled => None,
        Next::Take { why, .. } | Next::Wait { why, .. } | Next::Blocked { why } => Some(why),
    };
    let said = |default: &'static str| {
        why.map_or((default.to_string(), String::new()), |w| {
            (w.name().to_string(), w.to_string())
        })
    };
    let mut all: Vec<(&str, &str, String, String)> = Vec::new();
    let mut set = |kind, on: bool, (reason, message): (String, String)| {
        all.push((kind, if on { "True" } else { "False" }, reason, message));
    };
    let plain = |reason: &str, message: String| (reason.to_string(), message);

    let voters = look.voters().count();
    let healthy = look.healthy_voters();
    let count = format!("{healthy} of {voters} voters healthy, {} make a quorum", look.quorum());
    set(
        "Available",
        look.quorate,
        if look.quorate {
            plain("QuorumConfirmsReads", count.clone())
        } else if look.wanted.replicas == 0 {
            plain("Hibernating", "replicas is 0".into())
        } else {
            said("NoQuorum")
        },
    );
    set(
        "QuorumHealthy",
        look.quorate && healthy >= look.quorum(),
        plain(if look.quorate { "Quorum" } else { "NoQuorum" }, count.clone()),
    );
    let progressing = matches!(next, Next::Take { .. } | Next::Wait { .. });
    set("Progressing", progressing, said("Settled"));
    let degraded = look.wanted.replicas > 0
        && (matches!(next, Next::Blocked { why } if !matches!(why, Reason::Paused | Reason::Hibernating))
            || healthy < voters
            || (look.cluster_id().is_some() && !look.quorate));
    set(
        "Degraded",
        degraded,
        if degraded && why.is_some() {
            said("")
        } else {
            plain(if degraded { "MembersUnhealthy" } else { "AsWanted" }, count)
        },
    );
    let rolling = matches!(why, Some(Reason::Outdated { .. }))
        || matches!(why, Some(Reason::LeaderFirst { goal, .. }) if matches!(**goal, Reason::Outdated { .. }));
    set(
        "Upgrading",
        rolling,
        if rolling {
            said("")
        } else {
            plain("UpToDate", String::new())
        },
    );
    let alarms: Vec<String> = look
        .alarms()
        .map(|a| format!("{:?} of {}", a.kind, look.name_of(a.member)))
        .collect();
    set(
        "AlarmsClear",
        alarms.is_empty(),
        plain(
            if alarms.is_empty() { "NoAlarms" } else { "AlarmRaised" },
            alarms.join(", "),
        ),
    );
    let gone: Vec<&str> = look
        .observed
        .members
        .iter()
        .filter(|m| m.volume.deleted)
        .map(|m| m.name.as_str())
        .collect();
    set(
        "VolumeGone",
        !gone.is_empty(),
        plain(
            if gone.is_empty() {
                "VolumesPresent"
            } else {
                "VolumeDeleted"
            },
            gone.join(", "),
        ),
    );
    let storage = quota_percent < 85;
    set(
        "StorageReady",
        storage,
        plain(
            if storage { "SpaceLeft" } else { "QuotaNearlyUsed" },
            format!("{quota_percent} % of the quota used"),
        ),
    );
    let complaints = &look.observed.complaints;
    set(
        "PlatformReady",
        complaints.is_empty(),
        plain(
            if complaints.is_empty() {
                "NothingInTheWay"
            } else {
                "PlatformRefused"
            },
            complaints.join("; "),
        ),
    );
    let now = look.now;
    let expired: Vec<&str> = look
        .observed
        .members
        .iter()
        .filter(|m| m.certificate.as_ref().is_some_and(|c| c.not_after <= now))
        .map(|m| m.name.as_str())
        .collect();
    set(
        "CertificatesValid",
        expired.is_empty(),
        plain(if expired.is_empty() { "Valid" } else { "Expired" }, expired.join(", ")),
    );
    if !look.wanted.backups.is_empty() {
        let newest = backup::newest_verified(&look.observed.backups);
        let text = newest.map_or("no verified backup yet".into(), |run| {
            format!("{} is verified", run.name)
        });
        set(
            "BackupReady",
            newest.is_some(),
            plain(if newest.is_some() { "Verified" } else { "NoneVerified" }, text),
        );
    }
    set(
        "Paused",
        look.wanted.paused,
        plain(if look.wanted.paused { "Paused" } else { "Active" }, String::new()),
    );
    let required = matches!(why, Some(Reason::RecoveryRequired { .. } | Reason::AllMembersLost));
    set(
        "RecoveryRequired",
        required,
        if required {
            said("")
        } else {
            plain("NotRequired", String::new())
        },
    );

    all.into_iter()
        .map(|(kind, status, reason, message)| Condition {
            kind: kind.into(),
            status: status.into(),
            reason,
            message,
            since: journal.note_condition(kind, status, now),
        })
        .collect()
}

/// `part` of `whole` in percent, rounded down; 0 when there is no whole.
pub(super) fn percent(part: u64, whole: u64) -> u32 {
    (u128::from(part) * 100)
        .checked_div(u128::from(whole))
        .map_or(0, |p| u32::try_from(p).unwrap_or(u32::MAX))
}
