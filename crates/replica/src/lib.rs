//! One member without a machine around it: raft, the log and the state machine, driven by [`Input`]s, with [`Output`]s to be
//! carried out. No socket, no thread, no clock, no randomness; the disk is a trait.
//!
//! ```text
//! config     what it is told          bootstrap  data directory -> log + state that fit
//! io         Input, Output            replica    step = feed + drain
//! writer     LogWriter: the half that writes the log, on another thread
//! snapshots  commits, .snap files, snapshots to and from peers, shortening the log
//! observer   who measures all that
//! reads      linearizable reads       duties     what it proposes by itself (leases, versions, attributes)
//! ```

mod bootstrap;
mod compactor;
mod config;
mod duties;
mod error;
mod ids;
mod io;
mod observer;
mod reads;
mod replica;
mod snapshots;
mod versions;
mod writer;

pub use bootstrap::{has_data, new_cluster, stored_incarnation};
pub use config::{AutoCompaction, Config, Identity, Incarnation, Start};
pub use error::{Fatal, OpenError};
pub use ids::RequestIds;
pub use io::{CommitJob, Committed, Input, Output};
pub use observer::{Observer, Work};
pub use raft;
pub use replica::Replica;
pub use state_machine;
pub use writer::{LogWriter, PersistJob, Persisted};
