//! Why something is done, waited for or refused: one name for machines, one sentence for people.
//!
//! Invariant: a reason that needs a human names the remedy.

use std::fmt;
use std::time::Duration;

use super::observed::AlarmKind;
use super::{ClusterId, MemberId};

/// Why.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    // --- life of a cluster
    /// `spec.paused`.
    Paused,
    /// `replicas: 0`.
    Hibernating,
    /// The object is deleted.
    Deleting,
    /// `SnapshotThenDelete` waits for a verified backup.
    FinalBackup {
        /// True when no policy says where a backup could go.
        no_destination: bool,
    },
    /// A new cluster begins.
    Bootstrap,
    /// A new cluster begins from a backup.
    Restore {
        /// Which.
        backup: String,
    },
    /// A member starts and has not answered yet.
    Starting {
        /// Which.
        member: String,
        /// What it waits for, in the platform's words.
        detail: String,
    },
    /// A member's process ended although its data is there.
    ProcessDied {
        /// Which.
        member: String,
        /// Its last words.
        message: String,
    },
    /// A member's process keeps ending; the next start waits.
    CrashLoop {
        /// Which.
        member: String,
        /// How often.
        restarts: u32,
        /// Its last words.
        message: String,
    },
    /// A member does not run although it should.
    NotRunning {
        /// Which.
        member: String,
    },
    /// The platform offers no name for a new member.
    NoFreshName,
    /// The last attempt failed; tried again after a pause.
    StepFailed {
        /// What was tried.
        step: String,
        /// Why it is done.
        goal: Box<Reason>,
        /// What the platform said.
        error: String,
        /// How often in a row.
        count: u32,
    },

    // --- membership
    /// Fewer voters than wanted.
    ScaleOut {
        /// Voters now.
        from: usize,
        /// Voters wanted.
        to: u32,
    },
    /// More voters than wanted.
    ScaleIn {
        /// Voters now.
        from: usize,
        /// Voters wanted.
        to: u32,
    },
    /// A member is replaced by a new one.
    Replace {
        /// Which.
        member: String,
        /// Why.
        cause: Cause,
    },
    /// A member is to be replaced, but `repair.mode` is `Manual`.
    RepairIsManual {
        /// Which.
        member: String,
        /// Why.
        cause: Cause,
    },
    /// A member does not answer, and `repair.after` has not passed.
    MemberUnreachable {
        /// Which.
        member: String,
        /// For how long.
        since: Duration,
        /// Replaced after this long.
        after: Duration,
    },
    /// A member's data is of another member or cluster.
    ForeignData {
        /// Which.
        member: String,
        /// What was found.
        found: String,
    },
    /// A learner has not caught up yet.
    LearnerCatchingUp {
        /// Which.
        member: String,
        /// Entries behind the leader.
        lag: u64,
    },
    /// A learner has caught up and becomes a voter.
    LearnerReady {
        /// Which.
        member: String,
    },
    /// A learner that made no headway, or is not needed any more, is removed.
    LearnerUseless {
        /// Which.
        member: String,
        /// Why.
        detail: String,
    },
    /// A volume whose member was removed from the cluster.
    NotAMember {
        /// Which.
        member: String,
    },
    /// The leader is moved first.
    LeaderFirst {
        /// The leader that is in the way.
        member: String,
        /// What it is in the way of.
        goal: Box<Reason>,
    },
    /// The owner asked for it by annotation.
    Requested {
        /// Which member.
        member: String,
    },
    /// The owner wants somebody to lead who cannot.
    NoSuchVoter {
        /// Whom.
        member: String,
    },

    // --- vetoes
    /// Too few healthy voters would remain.
    QuorumAtRisk {
        /// The member that would go.
        member: String,
        /// Healthy voters that would remain.
        healthy: usize,
        /// Voters that would make a quorum.
        quorum: usize,
    },
    /// Another member is not healthy.
    OtherUnhealthy {
        /// Which.
        member: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Another member is healthy for too short a time.
    SettlingDown {
        /// Which.
        member: String,
    },
    /// Another member has not applied what the leader has.
    FarBehind {
        /// Which.
        member: String,
        /// Entries behind.
        lag: u64,
    },
    /// Members give different cluster ids.
    SplitBrain {
        /// What was seen.
        found: Vec<(String, ClusterId)>,
        /// The latched one.
        expected: Option<ClusterId>,
    },

    // --- quorum lost
    /// No quorum, and members may come back by themselves.
    QuorumLost {
        /// Voters that answer or can be started.
        alive: usize,
        /// Voters that make a quorum.
        quorum: usize,
        /// Who is missing.
        missing: Vec<String>,
    },
    /// No member list was ever confirmed and no member answers.
    ClusterUnreachable,
    /// A recovery waits for the owner.
    RecoveryRequired {
        /// Hash to acknowledge.
        hash: String,
        /// What would be done, with its evidence.
        plan: String,
        /// What may be lost.
        loss_bound: String,
        /// Why it does not happen by itself.
        why_not_automatic: String,
    },
    /// A recovery is being carried out.
    Recovering {
        /// Hash of its plan.
        hash: String,
        /// What is done, with its evidence.
        plan: String,
        /// What may be lost.
        loss_bound: String,
    },
    /// No survivor and no verified backup.
    AllMembersLost,

    // --- rollout
    /// A member runs with an old template.
    Outdated {
        /// Which.
        member: String,
    },
    /// A volume is smaller than wanted.
    VolumeTooSmall {
        /// Which.
        member: String,
    },

    // --- maintenance
    /// The NOSPACE alarm is raised.
    NoSpace,
    /// NOSPACE, but the members are full of live data.
    NoSpaceStillFull {
        /// The fullest member.
        member: String,
        /// Its share of the quota in percent.
        percent: u32,
    },
    /// An alarm is raised, and the policy is to report only.
    AlarmReported {
        /// Which member.
        member: String,
        /// Which alarm.
        kind: AlarmKind,
    },
    /// A corrupt alarm that cannot be cured without risk.
    CorruptMajority {
        /// The members named.
        members: Vec<MemberId>,
    },
    /// A member's database holds much free space.
    Fragmented {
        /// Which.
        member: String,
        /// Bytes that could be given back.
        reclaim: u64,
    },
    /// A member is defragmented because the schedule or the owner says so.
    DefragDue {
        /// Which.
        member: String,
    },
    /// Pause between two members.
    Settle,
}

/// Why a member is replaced.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// Its data is gone.
    DataLost,
    /// Its data is corrupt.
    Corrupt(String),
    /// Its volume is gone.
    VolumeGone,
    /// The machine that its volume is bound to is gone.
    NodeGone,
    /// It could not be reached for this long.
    Unreachable(Duration),
    /// It is in the member list, but there is no volume for it.
    NoVolume,
    /// The owner asked for it.
    Requested,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::DataLost => f.write_str("its data directory is lost"),
            Cause::Corrupt(why) => write!(f, "its data is corrupt ({why})"),
            Cause::VolumeGone => f.write_str("its volume is gone"),
            Cause::NodeGone => f.write_str("the node that its volume is bound to is gone"),
            Cause::Unreachable(since) => write!(f, "it could not be reached for {} s", since.as_secs()),
            Cause::NoVolume => f.write_str("it is in the member list but has no volume here"),
            Cause::Requested => f.write_str("its replacement was asked for"),
        }
    }
}

/// A time for people, coarse: a text that holds it stays the same for a while.
pub(super) fn in_words(time: Duration) -> String {
    match time.as_secs() {
        0..=59 => "less than a minute".into(),
        seconds @ 60..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

impl Reason {
    /// The same for as long as there is nothing new to tell: ages and counts in the text do not make it another.
    pub fn identity(&self) -> String {
        match self {
            Reason::RecoveryRequired { hash, .. } => format!("{} {hash}", self.name()),
            Reason::StepFailed { step, error, .. } => format!("{} {step} {error}", self.name()),
            other => other.to_string(),
        }
    }

    /// The reason in one CamelCase word, for conditions, events and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::Paused => "Paused",
            Reason::Hibernating => "Hibernating",
            Reason::Deleting => "Deleting",
            Reason::FinalBackup { .. } => "FinalBackup",
            Reason::Bootstrap => "Bootstrap",
            Reason::Restore { .. } => "Restore",
            Reason::Starting { .. } => "Starting",
            Reason::ProcessDied { .. } => "ProcessDied",
            Reason::CrashLoop { .. } => "CrashLoop",
            Reason::NotRunning { .. } => "NotRunning",
            Reason::NoFreshName => "NoFreshName",
            Reason::StepFailed { .. } => "StepFailed",
            Reason::ScaleOut { .. } => "ScaleOut",
            Reason::ScaleIn { .. } => "ScaleIn",
            Reason::Replace { .. } => "Replace",
            Reason::RepairIsManual { .. } => "RepairIsManual",
            Reason::MemberUnreachable { .. } => "MemberUnreachable",
            Reason::ForeignData { .. } => "ForeignData",
            Reason::LearnerCatchingUp { .. } => "LearnerCatchingUp",
            Reason::LearnerReady { .. } => "LearnerReady",
            Reason::LearnerUseless { .. } => "LearnerUseless",
            Reason::NotAMember { .. } => "NotAMember",
            Reason::LeaderFirst { .. } => "LeaderFirst",
            Reason::Requested { .. } => "Requested",
            Reason::NoSuchVoter { .. } => "NoSuchVoter",
            Reason::QuorumAtRisk { .. } => "QuorumAtRisk",
            Reason::OtherUnhealthy { .. } => "OtherUnhealthy",
            Reason::SettlingDown { .. } => "SettlingDown",
            Reason::FarBehind { .. } => "FarBehind",
            Reason::SplitBrain { .. } => "SplitBrain",
            Reason::QuorumLost { .. } => "QuorumLost",
            Reason::ClusterUnreachable => "ClusterUnreachable",
            Reason::RecoveryRequired { .. } => "RecoveryRequired",
            Reason::Recovering { .. } => "Recovering",
            Reason::AllMembersLost => "AllMembersLost",
            Reason::Outdated { .. } => "Outdated",
            Reason::VolumeTooSmall { .. } => "VolumeTooSmall",
            Reason::NoSpace => "NoSpace",
            Reason::NoSpaceStillFull { .. } => "NoSpaceStillFull",
            Reason::AlarmReported { .. } => "AlarmReported",
            Reason::CorruptMajority { .. } => "CorruptMajority",
            Reason::Fragmented { .. } => "Fragmented",
            Reason::DefragDue { .. } => "DefragDue",
            Reason::Settle => "Settle",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Paused => f.write_str("spec.paused is true: set it to false to let the operator act again"),
            Reason::Hibernating => f.write_str(
                "spec.replicas is 0: the cluster hibernates with all its data; write an odd number to wake it",
            ),
            Reason::Deleting => f.write_str("the cluster is being deleted"),
            Reason::FinalBackup { no_destination: false } => {
                f.write_str("deletionPolicy SnapshotThenDelete waits for a last verified backup")
            }
            Reason::FinalBackup { no_destination: true } => f.write_str(
                "deletionPolicy SnapshotThenDelete needs a place for the last backup: create an EtcdBackup that names \
                 this cluster, or set deletionPolicy to Retain or Delete",
            ),
            Reason::Bootstrap => f.write_str("a new cluster begins"),
            Reason::Restore { backup } => write!(f, "the cluster begins from {backup}"),
            Reason::Starting { member, detail } if detail.is_empty() => write!(f, "{member} is starting"),
            Reason::Starting { member, detail } => write!(f, "{member} is starting: {detail}"),
            Reason::ProcessDied { member, message } => write!(f, "the process of {member} ended ({message})"),
            Reason::CrashLoop {
                member,
                restarts,
                message,
            } => {
                write!(
                    f,
                    "the process of {member} ended {restarts} times in a row ({message}); it is started again later"
                )
            }
            Reason::NotRunning { member } => write!(f, "{member} does not run"),
            Reason::NoFreshName => f.write_str("the platform offers no name for a new member"),
            Reason::StepFailed {
                step,
                goal,
                error,
                count,
            } => {
                write!(
                    f,
                    "could not {step} ({count} times): {error}; tried again shortly, because {goal}"
                )
            }
            Reason::ScaleOut { from, to } => write!(f, "{from} voters, {to} wanted"),
            Reason::ScaleIn { from, to } => write!(f, "{from} voters, only {to} wanted"),
            Reason::Replace { member, cause } => write!(f, "{member} is replaced by a new member: {cause}"),
            Reason::RepairIsManual { member, cause } => write!(
                f,
                "{member} should be replaced ({cause}), but repair.mode is Manual: annotate the cluster with \
                 quorate.dev/replace-member={member}, or set repair.mode to Auto"
            ),
            Reason::MemberUnreachable { member, since, after } => write!(
                f,
                "{member} has not answered for {} s; it is replaced after {} s (repair.after)",
                since.as_secs(),
                after.as_secs()
            ),
            Reason::ForeignData { member, found } => write!(
                f,
                "the volume of {member} holds the data of {found}: nothing is started on it and nothing deleted; put its \
                 own data back, or ask for a replacement with quorate.dev/replace-member={member}"
            ),
            Reason::LearnerCatchingUp { member, lag } => write!(f, "learner {member} catches up, {lag} entries behind"),
            Reason::LearnerReady { member } => write!(f, "learner {member} has caught up"),
            Reason::LearnerUseless { member, detail } => write!(f, "learner {member} is removed: {detail}"),
            Reason::NotAMember { member } => write!(f, "{member} is no longer a member of the cluster"),
            Reason::LeaderFirst { member, goal } => {
                write!(f, "{member} leads; the leader is moved first, then: {goal}")
            }
            Reason::Requested { member } => write!(f, "asked for by annotation for {member}"),
            Reason::NoSuchVoter { member } => write!(
                f,
                "quorate.dev/move-leader names {member}, which is no voter of this cluster: write the name of one, or remove \
                 the annotation"
            ),
            Reason::QuorumAtRisk {
                member,
                healthy,
                quorum,
            } => write!(
                f,
                "without {member}, {healthy} healthy voters would remain where {quorum} make a quorum"
            ),
            Reason::OtherUnhealthy { member, detail } if detail.is_empty() => write!(f, "{member} is not healthy"),
            Reason::OtherUnhealthy { member, detail } => write!(f, "{member} is not healthy ({detail})"),
            Reason::SettlingDown { member } => write!(f, "{member} has only just become healthy"),
            Reason::FarBehind { member, lag } => write!(f, "{member} is {lag} entries behind the leader"),
            Reason::SplitBrain { found, expected } => {
                f.write_str("members belong to different clusters (")?;
                for (i, (member, id)) in found.iter().enumerate() {
                    write!(f, "{}{member}: {id}", if i == 0 { "" } else { ", " })?;
                }
                match expected {
                    Some(id) => write!(f, "; this cluster is {id})")?,
                    None => f.write_str(")")?,
                }
                f.write_str(": nothing is done until a human has decided which data is the right one")
            }
            Reason::QuorumLost { alive, quorum, missing } => write!(
                f,
                "quorum is lost: {alive} voters are there where {quorum} are needed; missing: {}",
                missing.join(", ")
            ),
            Reason::ClusterUnreachable => f.write_str("no member answers, and no member list was ever confirmed"),
            Reason::RecoveryRequired {
                hash,
                plan,
                loss_bound,
                why_not_automatic,
            } => write!(
                f,
                "quorum is lost. Plan {hash}: {plan}. May be lost: {loss_bound}. It does not happen by itself because \
                 {why_not_automatic}. To agree, set spec.recovery.acknowledge to {hash}"
            ),
            // What it does and may lose was told when it began, and stands in the status.
            Reason::Recovering { hash, .. } => write!(f, "recovery {hash} is under way"),
            Reason::AllMembersLost => f.write_str(
                "the data of every member is gone and there is no verified backup, neither known nor in the destinations \
                 of its EtcdBackups: add an EtcdBackup whose destination holds one, or create a new cluster with \
                 bootstrap.restore from a backup kept elsewhere; this one is never begun again by itself",
            ),
            Reason::Outdated { member } => write!(f, "{member} runs with former settings"),
            Reason::VolumeTooSmall { member } => write!(f, "the volume of {member} is smaller than spec.storage.size"),
            Reason::NoSpace => f.write_str("alarm NOSPACE: the backend quota is exceeded and writes are refused"),
            Reason::NoSpaceStillFull { member, percent } => write!(
                f,
                "alarm NOSPACE stays: {member} uses {percent} % of its quota after compaction and defragmentation; delete \
                 keys, or raise options.quotaBackendBytes (and storage.size)"
            ),
            Reason::AlarmReported { member, kind } => {
                write!(
                    f,
                    "alarm {kind:?} of {member}: maintenance.alarms says to report it only"
                )
            }
            Reason::CorruptMajority { members } => write!(
                f,
                "alarm CORRUPT names {} members, not a minority: compare their hashes and decide which to keep",
                members.len()
            ),
            Reason::Fragmented { member, reclaim } => write!(f, "{member} can give back {reclaim} bytes"),
            Reason::DefragDue { member } => write!(f, "defragmentation of {member} is due"),
            Reason::Settle => f.write_str("a pause between two members"),
        }
    }
}
