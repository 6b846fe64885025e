//! What goes into a replica and what comes out of it.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use disk::Disk;
use proto::raftpb::{ConfChange, Message};
use state_machine::membership::Member;
use state_machine::{Error, Response, backend};

use crate::Fatal;
use crate::writer::{PersistJob, Persisted};

/// Something that happened. Messages are most of it, so they are not boxed.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Input<D: Disk> {
    /// One heartbeat interval went by.
    Tick,
    /// A raft message from a peer that may talk to us.
    Message(Message),
    /// A client's request: an encoded `InternalRaftRequest` with an id from [`crate::RequestIds`] in its header, so that the answer
    /// finds its way.
    Propose(Bytes),
    /// A change of members, with an id from [`crate::RequestIds`].
    ProposeConfChange(ConfChange),
    /// A linearizable read arrived; reads are numbered upwards. See [`Output::ReadsReady`].
    Read(u64),
    /// The log writer is done with jobs.
    Persisted(Persisted),
    /// A commit of the database is done.
    Committed(Committed<D>),
    /// Messages to this member were dropped.
    Unreachable(u64),
    /// Sending a snapshot to this member ended.
    SnapshotSent {
        /// The member.
        member_id: u64,
        /// Whether it has it now.
        ok: bool,
    },
    /// A snapshot's message, whose database lies durable at `path`, in the directory of the database.
    SnapshotReceived {
        /// The `MsgSnap`.
        message: Box<Message>,
        /// The database, under a temporary name.
        path: PathBuf,
    },
    /// Somebody wants the database as of now: [`Output::SnapshotTaken`] follows.
    TakeSnapshot,
    /// Hand leadership over.
    TransferLeader(u64),
    /// The server versions of all members, `None` for those that did not answer.
    Versions(Vec<(u64, Option<String>)>),
    /// Let this many ticks go by at once, to elect a leader sooner after a start. At most an election timeout.
    AdvanceTicks(u64),
}

/// Something to be done. In order, as far as the same receiver is concerned.
#[derive(Debug)]
pub enum Output<D: Disk> {
    /// Give it to the [`crate::LogWriter`]; bring back [`Input::Persisted`].
    Persist(PersistJob),
    /// Run it on any thread, one at a time; bring back [`Input::Committed`].
    Commit(CommitJob<D>),
    /// Send these to the members they name.
    Send(Vec<Message>),
    /// Send this message and then the database to a member; bring back [`Input::SnapshotSent`].
    SendSnapshot {
        /// The `MsgSnap`.
        message: Message,
        /// The database as of the message's index.
        database: state_machine::FileView<D>,
    },
    /// The database, with all that was applied when [`Input::TakeSnapshot`] came. One for all that waited.
    SnapshotTaken(state_machine::FileView<D>),
    /// Proposals of this member were applied or refused, by id.
    Applied(Vec<(u64, Result<Response, Error>)>),
    /// A change of members was applied or refused.
    Configured {
        /// The change's id.
        id: u64,
        /// All members afterwards.
        result: Result<Vec<Member>, Error>,
    },
    /// All reads up to this number may look at the state now.
    ReadsReady(u64),
    /// Leader or term changed.
    Leader {
        /// The leader, 0 without one.
        leader: u64,
        /// The raft term.
        term: u64,
    },
    /// Members, removed ids, cluster version or alarms changed: read them anew.
    ClusterChanged,
    /// A compaction is done and durable.
    Compacted(i64),
    /// This member's attributes are known to the cluster: clients may be served.
    Published,
    /// The state was replaced by a snapshot from the leader.
    Restored,
    /// This member is no longer part of the cluster: stop, and do not come back.
    Removed,
}

/// Applied entries on their way into the database.
#[must_use = "the database falls behind until the job is run"]
pub struct CommitJob<D: Disk> {
    pub(crate) generation: u64,
    pub(crate) job: backend::CommitJob<D>,
}

impl<D: Disk> CommitJob<D> {
    /// Writes and syncs. Any error is fatal to the member.
    pub fn run(self) -> Result<Committed<D>, Fatal> {
        Ok(Committed {
            generation: self.generation,
            committed: self.job.run()?,
        })
    }
}

impl<D: Disk> fmt::Debug for CommitJob<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitJob")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Proof of a commit.
pub struct Committed<D: Disk> {
    /// Which database: one that a snapshot has replaced since does not count.
    pub(crate) generation: u64,
    pub(crate) committed: backend::Committed<D>,
}

impl<D: Disk> fmt::Debug for Committed<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
