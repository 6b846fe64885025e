//! Runs etcd on Kubernetes: an operator, and the server that it runs.

pub mod api;
pub mod backup;
pub mod certificates;
pub mod cli;
pub mod clock;
#[cfg(feature = "local")]
pub mod demo;
pub mod member;
#[cfg(feature = "local")]
pub mod object_store;
pub mod operator;
pub mod plan;
pub mod platform;
pub mod plugin;
pub mod reconcile;
