//! Runs etcd on Kubernetes: an operator, and the server that it runs.

pub mod plan;
