//! Where the lines go that explain what the node decides.
//!
//! Invariants:
//! - The texts are etcd raft's, byte for byte: the interaction scripts compare them.
//! - No global state: each node has the logger of its [`crate::Config`].

use std::fmt;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Follows every message; off in production.
    Debug,
    /// A change of state.
    Info,
    /// Something that should not happen often.
    Warning,
    /// Something that should never happen.
    Error,
}

impl Level {
    /// The name used in the interaction scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warning => "WARN",
            Level::Error => "ERROR",
        }
    }
}

/// Receives log lines. Called on the thread that steps the node, so it should be quick.
pub trait Logger: Send + Sync {
    /// Takes one line, without a line break at its end.
    fn log(&self, level: Level, line: fmt::Arguments<'_>);
}

/// Drops every line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Logger for Silent {
    fn log(&self, _: Level, _: fmt::Arguments<'_>) {}
}

macro_rules! debug {
    ($logger:expr, $($arg:tt)*) => { $logger.log($crate::logger::Level::Debug, format_args!($($arg)*)) };
}
macro_rules! info {
    ($logger:expr, $($arg:tt)*) => { $logger.log($crate::logger::Level::Info, format_args!($($arg)*)) };
}
macro_rules! warning {
    ($logger:expr, $($arg:tt)*) => { $logger.log($crate::logger::Level::Warning, format_args!($($arg)*)) };
}
macro_rules! error {
    ($logger:expr, $($arg:tt)*) => { $logger.log($crate::logger::Level::Error, format_args!($($arg)*)) };
}
pub(crate) use {debug, error, info, warning};
