//! What one log entry does, as layers: corrupt → capped → auth → quota → backend.
//!
//! Invariants:
//! - An entry does the same on every member: what it does depends on the state before it and on nothing else. Whether somebody waits
//!   for the answer, and how large this member's file is, changes the answer at most.
//! - Everything that can fail is checked before the first write; then nothing can.
//! - An entry that cannot be understood stops the member ([`Fatal`]): skipping it would make members differ silently.

mod auth;
mod backend;
mod capped;
mod conf_change;
mod corrupt;
pub mod request;
mod response;
mod v2;

pub use conf_change::ConfChangeApplied;
pub use request::{Decoded, Request};
pub use response::Response;

use crate::error::Error;
use crate::membership::{BadChange, UnknownMember};
use crate::version::{NotAVersion, Version};

/// Why a member must stop: its state would differ from that of the others if it went on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fatal {
    /// The member's own storage failed.
    #[error("applying entry {index}: {error}")]
    Storage {
        /// The entry that was being applied.
        index: u64,
        /// What failed.
        error: Error,
    },
    /// An entry that this version cannot apply.
    #[error("entry {index}: {reason}")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        reason: BadEntry,
    },
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadEntry {
    /// Bytes that are no request.
    #[error("the data is no InternalRaftRequest ({0}); was the log written by something else than etcd?")]
    Undecodable(prost::DecodeError),
    /// A request without an id.
    #[error("the request has neither an id nor a header")]
    NoId,
    /// A request of a kind that this version does not know.
    #[error("the request is of a kind that this version does not know; start the version that wrote it")]
    UnknownRequest,
    /// An entry type that this version does not know.
    #[error("unknown entry type {0}; only normal entries and simple configuration changes are expected")]
    UnknownType(i32),
    /// An entry out of order.
    #[error("the last applied entry is {applied}: those in between are missing")]
    Gap {
        /// The last applied entry.
        applied: u64,
    },
    /// A request to the old key space that is not about membership.
    #[error("a v2 request ({method} {path}): move data out of the v2 store with etcd 3.5 first")]
    V2 {
        /// What it does.
        method: String,
        /// To which key.
        path: String,
    },
    /// A password in clear text, as logs before 3.5 hold it.
    #[error("a password in clear text, written by etcd before 3.5: let etcd 3.5 take a snapshot of this member first")]
    PlainPassword,
    /// A configuration change that cannot be read.
    #[error(transparent)]
    Change(#[from] BadChange),
    /// Attributes of nobody.
    #[error(transparent)]
    Attributes(#[from] UnknownMember),
    /// A cluster version that is none.
    #[error("cluster version: {0}")]
    ClusterVersion(#[from] NotAVersion),
    /// The cluster is newer than this server.
    #[error("the cluster version is {cluster}, above this server's {server}: start a newer server")]
    ServerTooOld {
        /// The version of the cluster.
        cluster: Version,
        /// The version of this server.
        server: Version,
    },
}

/// What the caller has to do after an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// The quota is exceeded and no NOSPACE alarm stands: propose one for this member, and give the entry's answer after that.
    RaiseNoSpace,
    /// A compaction was decided; call the compaction steps until this revision is done.
    CompactionScheduled {
        /// Up to which revision.
        revision: i64,
    },
    /// The cluster version changed. When it went down, write a snapshot to disk soon, so that the older version need not replay.
    ClusterVersionChanged {
        /// The version before.
        from: Option<Version>,
        /// The version now.
        to: Version,
    },
    /// The downgrade job began or ended.
    DowngradeChanged,
    /// Alarms were raised or cleared.
    AlarmsChanged,
    /// A member has new attributes.
    MembersChanged,
    /// Users, roles or the auth switch changed.
    AuthChanged,
}

/// What a normal entry did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Which proposal it was (the request's own id or the one in its header); 0 for a leader's empty entry.
    pub id: u64,
    /// What was asked, e.g. `Put`; empty when there is no answer.
    pub kind: &'static str,
    /// The answer; `None` for an empty entry and for one that had been applied before a restart.
    pub result: Option<Result<Response, Error>>,
    /// What to do now.
    pub actions: Vec<Action>,
}
