//! The shell around a replica: flags, sockets, gRPC, peer transport, metrics.

pub mod config;
pub mod handle;
pub mod listener;
pub mod metrics;
pub mod peer;
pub mod run;
pub mod tls;
