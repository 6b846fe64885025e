//! Runs etcd on Kubernetes: an operator, and the server that it runs.

pub mod certificates;
pub mod member;
pub mod plan;
pub mod platform;
pub mod reconcile;
