//! A Kubernetes API server in memory: what the operator can tell from a real one is the same.
//!
//! ```text
//! kinds     what is served, and where        managed   server-side apply, merge patches
//! store     objects, revisions, watches      service   HTTP on top: what `kube::Client` is given
//! ```

pub mod kinds;
pub mod managed;
pub mod service;
pub mod store;
