//! The disruptive steps that a plan can ask for. Each carries what must still hold when it is carried out; the
//! platform looks again and refuses the step when it does not (a stale operator is then harmless).

use std::fmt;

use super::observed::AlarmKind;
use super::{ClusterId, MemberId};

/// Names one member beyond doubt: a step for it is refused when the volume or the id is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRef {
    /// Its name.
    pub name: String,
    /// Its volume's identity.
    pub volume: String,
    /// Its id, once known.
    pub id: Option<MemberId>,
}

impl fmt::Display for MemberRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What a new member's volume is made for; the platform writes it on the volume.
#[derive(Clone, Debug, PartialEq)]
pub enum Create {
    /// One of the initial members of a new cluster, listed by name.
    Initial {
        /// All initial members.
        cluster: Vec<String>,
        /// `--initial-cluster-token`.
        token: String,
    },
    /// Will join as a learner.
    Joiner,
    /// The only member of a cluster that begins from a backup. The platform fetches and verifies the backup, restores
    /// it beside the data directory, and renames it into place when complete: `data` is `Fresh` or `Present`, never half.
    Restored {
        /// Which backup.
        backup: super::wanted::BackupSource,
        /// `--initial-cluster-token`.
        token: String,
        /// The revision that the restored key space must exceed (with history marked compacted); none leaves it to
        /// the backup's manifest.
        above_revision: Option<i64>,
        /// A bump that the owner chose.
        revision_bump: Option<u64>,
        /// Skip the integrity hash.
        skip_hash_check: bool,
    },
}

/// How a member's process is started.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// `--initial-cluster-state=new`; refused unless the data is `Fresh` and the volume says it is an initial member.
    New {
        /// Names and peer URLs of all initial members.
        initial_cluster: Vec<(String, String)>,
        /// `--initial-cluster-token`.
        token: String,
    },
    /// `--initial-cluster-state=existing` on a `Fresh` volume whose id is in the member list.
    Join {
        /// Names and peer URLs of the present members and of this one.
        initial_cluster: Vec<(String, String)>,
    },
    /// On the data that is `Present`.
    Resume,
}

/// One disruptive step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing but persisting the plan's journal, so that the decision in it is read back before it is acted on.
    Record {
        /// What is recorded, for people.
        what: String,
    },
    /// Make a volume with identity and certificates for a member that never existed. Starts nothing.
    CreateMember {
        /// A fresh name; refused when a volume, retired or not, has it.
        name: String,
        /// What for.
        create: Create,
    },
    /// Start the process of a member that does not run.
    StartMember {
        /// Which; refused when it runs.
        member: MemberRef,
        /// How.
        start: Start,
    },
    /// Stop a process and keep the data. Done when the process is gone.
    StopMember {
        /// Which.
        member: MemberRef,
    },
    /// Stop and start again with what is wanted now.
    RestartMember {
        /// Which.
        member: MemberRef,
        /// The template it will run with.
        template: String,
    },
    /// `MemberAddAsLearner`; the id is then recorded on the volume. A listed member with that URL counts as done.
    AddLearner {
        /// Which; without id.
        member: MemberRef,
        /// Its peer URL.
        peer_url: String,
    },
    /// `MemberPromote`; refused unless the learner answers at this very moment (etcd itself would promote one that
    /// died after it had caught up).
    Promote {
        /// A learner that has caught up.
        member: MemberRef,
    },
    /// `MoveLeader`, sent to the leader.
    MoveLeader {
        /// Who leads; refused when somebody else does.
        from: MemberId,
        /// Who shall lead.
        to: MemberRef,
    },
    /// `MemberRemove`, against a linearizable member list that still holds `id`. Not found counts as done. Refused for a
    /// voter unless, at this very moment, the healthy voters that remain are a quorum of those that remain.
    RemoveMember {
        /// Its id.
        id: MemberId,
        /// Its name, or its URL if it never started.
        name: String,
        /// The member is a learner.
        learner: bool,
    },
    /// Stop what may run, and retire the volume of a member that is in no member list: out of use, data kept aside.
    RetireMember {
        /// Which; refused while a linearizable member list holds its id.
        member: MemberRef,
    },
    /// Read the end of the log of a stopped member.
    InspectLog {
        /// Which; refused while it runs.
        member: MemberRef,
    },
    /// Copy a stopped member's data aside (or snapshot the volume) before anything changes it.
    CopyVolume {
        /// Which; refused while it runs.
        member: MemberRef,
    },
    /// Make the survivor the only member, with its whole log, and raise its revisions. It is left stopped, `Present`.
    RecoverQuorum {
        /// The survivor, stopped, copied.
        survivor: MemberRef,
        /// The latched cluster id that its data must carry.
        cluster_id: Option<ClusterId>,
        /// Keep entries above the persisted commit index (our engine can; upstream's `--force-new-cluster` drops them).
        keep_whole_log: bool,
        /// Revision that the key space must exceed afterwards, history marked compacted.
        above_revision: i64,
        /// Hash of the recovery plan; recorded on the volume, so that it is done once.
        hash: String,
    },
    /// `Compact` with `physical`; "already compacted" counts as done.
    Compact {
        /// Keep history from here on.
        revision: i64,
    },
    /// `Defragment`, sent to that member.
    Defragment {
        /// Which.
        member: MemberRef,
        /// The owner's token, remembered in the journal.
        token: String,
    },
    /// `Alarm` deactivate.
    DisarmAlarm {
        /// The member that the alarm names.
        member: MemberId,
        /// The alarm.
        kind: AlarmKind,
    },
    /// Enlarge a volume in place.
    ExpandVolume {
        /// Which.
        member: MemberRef,
        /// New size.
        bytes: u64,
    },
    /// All is done for a deleted cluster: let the object go.
    Release {
        /// Delete the data of all volumes, retired ones too; else they stay.
        delete_data: bool,
    },
}

impl Step {
    /// A stable key: equal for the same step on the same target, in every plan.
    pub fn key(&self) -> String {
        match self {
            Step::Record { what } => format!("Record {what}"),
            Step::CreateMember { name, .. } => format!("CreateMember {name}"),
            Step::StartMember { member, .. } => format!("StartMember {member}"),
            Step::StopMember { member } => format!("StopMember {member}"),
            Step::RestartMember { member, .. } => format!("RestartMember {member}"),
            Step::AddLearner { member, .. } => format!("AddLearner {member}"),
            Step::Promote { member } => format!("Promote {member}"),
            Step::MoveLeader { to, .. } => format!("MoveLeader {to}"),
            Step::RemoveMember { id, name, .. } => format!("RemoveMember {name} {id}"),
            Step::RetireMember { member } => format!("RetireMember {member}"),
            Step::InspectLog { member } => format!("InspectLog {member}"),
            Step::CopyVolume { member } => format!("CopyVolume {member}"),
            Step::RecoverQuorum { survivor, .. } => format!("RecoverQuorum {survivor}"),
            Step::Compact { .. } => "Compact".into(),
            Step::Defragment { member, .. } => format!("Defragment {member}"),
            Step::DisarmAlarm { member, kind } => format!("DisarmAlarm {kind:?} {member}"),
            Step::ExpandVolume { member, .. } => format!("ExpandVolume {member}"),
            Step::Release { .. } => "Release".into(),
        }
    }

    /// The kind of step in one CamelCase word: an event's reason, a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Step::Record { .. } => "Record",
            Step::CreateMember { .. } => "CreateMember",
            Step::StartMember { .. } => "StartMember",
            Step::StopMember { .. } => "StopMember",
            Step::RestartMember { .. } => "RestartMember",
            Step::AddLearner { .. } => "AddLearner",
            Step::Promote { .. } => "Promote",
            Step::MoveLeader { .. } => "MoveLeader",
            Step::RemoveMember { .. } => "RemoveMember",
            Step::RetireMember { .. } => "RetireMember",
            Step::InspectLog { .. } => "InspectLog",
            Step::CopyVolume { .. } => "CopyVolume",
            Step::RecoverQuorum { .. } => "RecoverQuorum",
            Step::Compact { .. } => "Compact",
            Step::Defragment { .. } => "Defragment",
            Step::DisarmAlarm { .. } => "DisarmAlarm",
            Step::ExpandVolume { .. } => "ExpandVolume",
            Step::Release { .. } => "Release",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Record { what } => write!(f, "record {what}"),
            Step::CreateMember {
                name,
                create: Create::Initial { cluster, .. },
            } => {
                write!(f, "create {name}, one of the initial members {}", cluster.join(", "))
            }
            Step::CreateMember {
                name,
                create: Create::Joiner,
            } => write!(f, "create {name}, to join as a learner"),
            Step::CreateMember {
                name,
                create: Create::Restored { backup, .. },
            } => write!(f, "create {name} from {backup}"),
            Step::StartMember {
                member,
                start: Start::New { .. },
            } => write!(f, "start {member} in the new cluster"),
            Step::StartMember {
                member,
                start: Start::Join { .. },
            } => write!(f, "start {member}, which joins the cluster"),
            Step::StartMember {
                member,
                start: Start::Resume,
            } => write!(f, "start {member} on its data"),
            Step::StopMember { member } => write!(f, "stop {member}"),
            Step::RestartMember { member, .. } => write!(f, "restart {member} with what is wanted now"),
            Step::AddLearner { member, .. } => write!(f, "add {member} to the cluster as a learner"),
            Step::Promote { member } => write!(f, "promote {member} to a voter"),
            Step::MoveLeader { to, .. } => write!(f, "move the leader to {to}"),
            Step::RemoveMember { id, name, .. } => write!(f, "remove {name} ({id}) from the cluster"),
            Step::RetireMember { member } => write!(f, "retire {member} and keep its data aside"),
            Step::InspectLog { member } => write!(f, "read the end of the log of {member}"),
            Step::CopyVolume { member } => write!(f, "copy the data of {member} aside"),
            Step::RecoverQuorum { survivor, .. } => write!(f, "recover the cluster from {survivor} alone"),
            Step::Compact { revision } => write!(f, "compact history up to revision {revision}"),
            Step::Defragment { member, .. } => write!(f, "defragment {member}"),
            Step::DisarmAlarm { member, kind } => write!(f, "disarm alarm {kind:?} of member {member}"),
            Step::ExpandVolume { member, bytes } => write!(f, "expand the volume of {member} to {bytes} bytes"),
            Step::Release { delete_data: true } => f.write_str("delete the data and let the object go"),
            Step::Release { delete_data: false } => f.write_str("keep the data and let the object go"),
        }
    }
}
