//! etcdctl and etcdutl compatible commands.
//!
//! In reading order: [`etcdctl()`] asks a running cluster, [`etcdutl()`] is the offline program; [`snapshot`], [`database`] and
//! [`migrate`] are what it does. Both read their command lines with `command_line`.
//!
//! Invariants:
//! - Flags, outputs and exit codes are those of etcd's tools, so that scripts need not know which program answers.
//! - A file is never used when it is not what it claims to be: truncated, changed, or of something else. The error names the file
//!   and what to do.
//! - A command that only looks at a file does not write to it. (etcdutl 3.7.3 `hashkv` does, which breaks the file's checksum.)

mod command_line;
mod completion;
pub mod database;
mod etcdctl;
mod etcdutl;
mod gotext;
pub mod inspect;
pub mod migrate;
pub mod snapshot;
mod table;

pub use etcdctl::etcdctl;
pub use etcdutl::etcdutl;

/// The etcd release whose tools these are.
const VERSION: &str = "3.7.3";

/// The API that goes with it.
const API_VERSION: &str = "3.7";
