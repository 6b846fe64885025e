//! etcd's messages and services, generated from our own `.proto` files.
//!
//! Invariants:
//! - Names and field numbers are etcd 3.7's; nothing is added to a message that is stored or sent to a peer, because older
//!   members drop unknown fields and newer ones keep them.
//! - An absent scalar means zero, in raftpb too: etcd reads both forms.

// The generated code carries no comments of its own; the meaning of each message is documented where it is used.
#![allow(missing_docs, clippy::all)]

/// The `.proto` files themselves, compiled: a `google.protobuf.FileDescriptorSet`. For what works by name, such as JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[cfg(feature = "grpc")]
pub mod codec;

/// Keys, values and watch events.
pub mod mvccpb {
    include!(concat!(env!("OUT_DIR"), "/mvccpb.rs"));
}
/// Users, roles and permissions as they are stored.
pub mod authpb {
    include!(concat!(env!("OUT_DIR"), "/authpb.rs"));
}
/// Membership requests as they are logged.
pub mod membershippb {
    include!(concat!(env!("OUT_DIR"), "/membershippb.rs"));
}
/// The client API, and `InternalRaftRequest`: what a log entry holds.
pub mod etcdserverpb {
    include!(concat!(env!("OUT_DIR"), "/etcdserverpb.rs"));
}
/// Raft messages, entries and configuration changes.
pub mod raftpb {
    include!(concat!(env!("OUT_DIR"), "/raftpb.rs"));
}
/// Records of the write-ahead log.
pub mod walpb {
    include!(concat!(env!("OUT_DIR"), "/walpb.rs"));
}
/// The envelope of a `.snap` file.
pub mod snappb {
    include!(concat!(env!("OUT_DIR"), "/snappb.rs"));
}
/// Leases as they are stored, and the requests that members forward to the leader.
pub mod leasepb {
    include!(concat!(env!("OUT_DIR"), "/leasepb.rs"));
}
/// The lock service.
pub mod v3lockpb {
    include!(concat!(env!("OUT_DIR"), "/v3lockpb.rs"));
}
/// The election service.
pub mod v3electionpb {
    include!(concat!(env!("OUT_DIR"), "/v3electionpb.rs"));
}
/// gRPC's standard health check.
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
