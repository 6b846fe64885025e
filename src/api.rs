//! The types that users write: `EtcdCluster` and `EtcdBackup` in `quorate.dev/v1alpha1`, and what is read from them.
//!
//! Invariants:
//! - Every rule that the API server checks by CEL is checked again by [`convert`], with a message that names the field
//!   and the remedy: the local platform has no API server, and a webhook is not needed.
//! - The operator never writes a spec.

pub mod convert;
pub mod crds;
pub mod etcd_backup;
pub mod etcd_cluster;
pub mod journal;
pub mod manifest;
pub mod parts;
pub mod quantity;
pub mod schedule;
mod schema;
pub mod status;

pub use etcd_backup::{EtcdBackup, EtcdBackupSpec};
pub use etcd_cluster::{EtcdCluster, EtcdClusterSpec};
pub use manifest::{Document, ManifestError, read};
