//! etcdctl and etcdutl compatible commands.
//!
//! In reading order: [`etcdutl()`] is the offline program; [`snapshot`] and [`database`] are what it does.
//!
//! Invariants:
//! - Flags, outputs and exit codes are etcdutl's, so that scripts need not know which program answers.
//! - A file is never used when it is not what it claims to be: truncated, changed, or of something else. The error names the file
//!   and what to do.
//! - A command that only looks at a file does not write to it. (etcdutl 3.7.3 `hashkv` does, which breaks the file's checksum.)

pub mod database;
mod etcdutl;
pub mod inspect;
pub mod snapshot;

pub use etcdutl::etcdutl;
