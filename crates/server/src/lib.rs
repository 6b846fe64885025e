//! The shell around a replica: flags, sockets, gRPC, peer transport, metrics.

pub mod auth;
pub mod config;
pub mod grpc;
pub mod handle;
pub mod http;
mod launch;
pub mod listener;
pub mod logging;
pub mod member;
pub mod metrics;
pub mod peer;
pub mod run;
pub mod start;
pub mod tls;

pub use launch::run as run_server;
