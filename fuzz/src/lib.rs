//! What every decoder that reads bytes from outside does with bytes that nobody wrote. One function a target.
//!
//! Invariants:
//! - A target decides nothing: it may not panic, loop or allocate beyond the limit that `fuzz/run` sets, whatever it is given.
//! - Where a checksum would keep the fuzzer out, the target writes the right one: a wrong one has targets of its own (`data[0]`).
//! - Everything happens in memory, on [`disk::MemoryDisk`]; only `config` reads a file, since its name is what the program is given.

mod config;
mod database;
mod log;
mod requests;

pub use config::{config, token};
pub use database::{base, database, entries, fill, state};
pub use log::{framed, snap, wal};
pub use requests::{json, messages, peer};
