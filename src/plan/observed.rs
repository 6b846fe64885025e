//! What the platform saw in one look: facts with their time, never conclusions.
//!
//! Invariants the platform keeps:
//! - A fact that could not be learned is absent or `Unknown`, never the last good value under a new time.
//! - `members` holds every volume that carries this cluster's uid and is not retired, whatever its process does.
//! - `fresh_names` are names that no volume, retired or not, of this cluster ever had.

use std::time::Duration;

use super::backup;
use super::journal::Journal;
use super::{ClusterId, MemberId, Timestamp};

/// One look at a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// The members that the platform has volumes for, in order of name.
    pub members: Vec<Member>,
    /// Volumes of former members, kept aside.
    pub retired: Vec<Retired>,
    /// Names for new members, best first; at least as many as `replicas` + 1.
    pub fresh_names: Vec<String>,
    /// What [`Plan::journal`](super::Plan::journal) last held; the default when it was lost (the volumes then tell).
    pub journal: Journal,
    /// Backups of this cluster and runs under way.
    pub backups: Vec<backup::Run>,
    /// The newest tick of `maintenance.defrag.schedule` that is not in the future.
    pub defrag_tick: Option<Timestamp>,
    /// What the owner should hear of the platform itself (a quota exceeded, a storage class that does not exist).
    pub complaints: Vec<String>,
}

/// A member as the platform and the member itself report it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Name; never used twice.
    pub name: String,
    /// The URL under which other members reach it; part of its identity in the member list before it first started.
    pub peer_url: String,
    /// Its volume.
    pub volume: Volume,
    /// Its process.
    pub process: Process,
    /// The machine that it runs on.
    pub node: Node,
    /// What is on its volume.
    pub data: Data,
    /// Whether it serves.
    pub health: Health,
    /// What it said of itself when it last answered in this look; none when it did not.
    pub answer: Option<Answer>,
    /// The end of its log as read from its stopped data directory ([`Step::InspectLog`](super::Step::InspectLog)).
    pub log: Option<LogEnd>,
    /// When its data was last copied aside ([`Step::CopyVolume`](super::Step::CopyVolume)) in its present state.
    pub copied: Option<Timestamp>,
    /// [`resources::template`](super::resources::template) of what its process was started with.
    pub template: Option<String>,
    /// Its certificates, as the files on disk or the handshake show.
    pub certificate: Option<Certificate>,
}

/// A volume and the identity that is written on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Identity that no other volume ever has.
    pub uid: String,
    /// When it was made.
    pub created: Timestamp,
    /// Member id, recorded once known.
    pub member_id: Option<MemberId>,
    /// Cluster id, recorded once known.
    pub cluster_id: Option<ClusterId>,
    /// Why it was made.
    pub origin: Origin,
    /// Whether a process was ever started on it (recorded before the first start).
    pub started: bool,
    /// True when it can only be used on the node it was made on.
    pub bound_to_node: bool,
    /// Its size in bytes; 0 when unknown or unlimited.
    pub size_bytes: u64,
    /// True once the platform's statement is that the volume is deleted (its process may still run on it).
    pub deleted: bool,
    /// Hash of the recovery that was carried out on it, written with it.
    pub recovered: Option<String>,
}

/// Why a volume was made; recorded on it.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// One of the members of the one static bootstrap.
    Initial {
        /// Names of all initial members.
        cluster: Vec<String>,
        /// `--initial-cluster-token`.
        token: String,
    },
    /// Joins as a learner.
    Joiner,
    /// Begins from a backup as the only member.
    Restored {
        /// `--initial-cluster-token`.
        token: String,
    },
}

/// A member's process.
#[derive(Clone, Debug, PartialEq)]
pub enum Process {
    /// None, and none is being started: stopped on purpose or never started.
    Absent,
    /// Being started by the platform (scheduling, pulling, attaching).
    Pending {
        /// Since when.
        since: Timestamp,
        /// What it waits for, in the platform's words.
        why: String,
    },
    /// Runs.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Ended by itself.
    Exited {
        /// When.
        at: Timestamp,
        /// How often in a row it ended soon after its start.
        restarts: u32,
        /// Exit code or signal, and its last words.
        message: String,
        /// The platform starts it again by itself (a kubelet does; the local platform does not).
        restarted_by_platform: bool,
    },
    /// Not known: its machine is silent.
    Unknown {
        /// Since when.
        since: Timestamp,
    },
}

/// The machine that a member runs on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Its name; empty on the local platform.
    pub name: String,
    /// Its state.
    pub state: NodeState,
}

/// The state of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeState {
    /// In order (or there are no nodes, or none is assigned yet).
    #[default]
    Ready,
    /// Silent since then.
    NotReady(Timestamp),
    /// Marked `node.kubernetes.io/out-of-service` by a human: what ran there is stopped.
    OutOfService,
    /// Deleted.
    Deleted,
}

/// What is on a member's volume. A platform that cannot look into a volume that no process uses says what was recorded
/// on it when it last could; it records `Present` before anybody may rely on that member.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Cannot be seen now.
    Unknown,
    /// Nothing, and no process ever wrote there: none was started, or all that were ended without a data directory.
    Fresh,
    /// A data directory of this member.
    Present,
    /// Nothing, although a process wrote there before: the disk was lost or emptied.
    Lost,
    /// A data directory of another member or cluster; shown, never started, never deleted.
    Foreign {
        /// What was found, e.g. `member 8e9e05c52164694d of cluster cdf818194e3a8c32`.
        found: String,
    },
    /// A data directory that the server refuses to open.
    Corrupt {
        /// The server's words.
        why: String,
    },
}

/// Whether a member serves; never a stale verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// The verdict.
    pub verdict: Verdict,
    /// What makes it so; empty when healthy.
    pub why: String,
    /// When the verdict became what it is.
    pub since: Timestamp,
    /// When it was last looked at.
    pub at: Timestamp,
}

/// Healthy, Unhealthy or Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered and follows a leader: a linearizable member list through it succeeded (a learner: its status names a
    /// leader). Not judged by reads of keys, which a NOSPACE or CORRUPT alarm, or authentication, may refuse.
    Healthy,
    /// It answered that it is not in order, or is known not to run.
    Unhealthy,
    /// It did not answer.
    Unknown,
}

/// What a member said of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// When.
    pub at: Timestamp,
    /// Its id.
    pub member_id: MemberId,
    /// Its cluster's id.
    pub cluster_id: ClusterId,
    /// The leader it follows (itself, if it leads); none without quorum.
    pub leader: Option<MemberId>,
    /// It is a learner.
    pub learner: bool,
    /// Raft term.
    pub term: u64,
    /// Raft index (committed).
    pub index: u64,
    /// Index up to which it has applied.
    pub applied: u64,
    /// Revision of its key space.
    pub revision: i64,
    /// Size of its database file in bytes.
    pub db_bytes: u64,
    /// Bytes in use inside that file.
    pub db_in_use_bytes: u64,
    /// Its backend quota in bytes; 0 when it does not say.
    pub quota_bytes: u64,
    /// Server version.
    pub version: String,
    /// Alarms raised, of any member, as this one lists them.
    pub alarms: Vec<Alarm>,
    /// The member list was read linearizably: the leader confirmed it with a quorum.
    pub linearizable: bool,
    /// The member list.
    pub members: Vec<Listed>,
}

/// An alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// The member it names.
    pub member: MemberId,
    /// What it says.
    pub kind: AlarmKind,
}

/// Kinds of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The backend quota is exceeded; writes are refused.
    NoSpace,
    /// The member's data differs from the others'.
    Corrupt,
}

/// An entry of the member list.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Its id.
    pub id: MemberId,
    /// Its name; empty until it first started.
    pub name: String,
    /// Its peer URLs.
    pub peer_urls: Vec<String>,
    /// A learner, or else a voter.
    pub learner: bool,
}

/// The end of a member's log, read offline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Term of the last entry.
    pub term: u64,
    /// Index of the last entry.
    pub index: u64,
    /// Persisted commit index.
    pub commit: u64,
    /// Revision of the key space.
    pub revision: i64,
}

/// A member's certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// When the first of its leaf certificates ends.
    pub not_after: Timestamp,
    /// Hash of the bundle of authorities that it trusts.
    pub bundle: String,
}

/// The volume of a former member, kept aside.
#[derive(Clone, Debug, PartialEq)]
pub struct Retired {
    /// The member's name.
    pub name: String,
    /// The volume's identity.
    pub volume: String,
    /// The member's id.
    pub member_id: Option<MemberId>,
    /// When it was retired.
    pub at: Timestamp,
}

impl Member {
    /// A member whose volume has just been made: nothing on it, no process.
    pub fn new(name: &str, peer_url: &str, volume_uid: &str, origin: Origin, now: Timestamp) -> Member {
        Member {
            name: name.into(),
            peer_url: peer_url.into(),
            volume: Volume {
                uid: volume_uid.into(),
                created: now,
                member_id: None,
                cluster_id: None,
                origin,
                started: false,
                bound_to_node: false,
                size_bytes: 0,
                deleted: false,
                recovered: None,
            },
            process: Process::Absent,
            node: Node::default(),
            data: Data::Fresh,
            health: Health {
                verdict: Verdict::Unknown,
                why: "never started".into(),
                since: now,
                at: now,
            },
            answer: None,
            log: None,
            copied: None,
            template: None,
            certificate: None,
        }
    }

    /// The member's id: what it says, else what its volume says.
    pub fn id(&self) -> Option<MemberId> {
        self.answer.as_ref().map(|a| a.member_id).or(self.volume.member_id)
    }

    /// True when it serves.
    pub fn healthy(&self) -> bool {
        self.health.verdict == Verdict::Healthy
    }

    /// For how long the health has been what it is.
    pub fn health_for(&self, now: Timestamp) -> Duration {
        now.since(self.health.since)
    }

    /// True when a process of this member may be running somewhere.
    pub fn may_run(&self) -> bool {
        match &self.process {
            Process::Absent
            | Process::Exited {
                restarted_by_platform: false,
                ..
            } => false,
            Process::Pending { .. }
            | Process::Running { .. }
            | Process::Exited {
                restarted_by_platform: true,
                ..
            }
            | Process::Unknown { .. } => !matches!(self.node.state, NodeState::Deleted | NodeState::OutOfService),
        }
    }
}
