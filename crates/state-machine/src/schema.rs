//! The buckets of the database and the fixed keys in them.
//!
//! Invariants: names and encodings are etcd's (`etcd server/storage/schema`), because real etcd and its tools open the same file.
//! Nothing here decides; it only says where a fact is kept and how its bytes look.

use bytes::Bytes;

/// A top-level bucket of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// Revision → `KeyValue`: the keys themselves.
    Key,
    /// Consistent index, term, conf state, storage version, compaction marks.
    Meta,
    /// Lease id (8 bytes, big endian) → `leasepb.Lease`.
    Lease,
    /// Encoded `AlarmMember` → empty.
    Alarm,
    /// Cluster version and downgrade.
    Cluster,
    /// Member id (hex) → JSON.
    Members,
    /// Member id (hex) → `removed`.
    MembersRemoved,
    /// Whether authentication is on, and its revision.
    Auth,
    /// User name → `authpb.User`.
    AuthUsers,
    /// Role name → `authpb.Role`.
    AuthRoles,
    /// For tests alone; not in a fresh database and not in its hash.
    Test,
}

impl Bucket {
    /// How many kinds of buckets there are.
    pub const COUNT: usize = 11;

    /// The buckets that every database has from its first start, even empty.
    pub const ALWAYS: [Bucket; 10] = [
        Bucket::Key,
        Bucket::Meta,
        Bucket::Lease,
        Bucket::Alarm,
        Bucket::Cluster,
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Auth,
        Bucket::AuthUsers,
        Bucket::AuthRoles,
    ];

    /// Every bucket, the one for tests too.
    pub const ALL: [Bucket; Bucket::COUNT] = [
        Bucket::Key,
        Bucket::Meta,
        Bucket::Lease,
        Bucket::Alarm,
        Bucket::Cluster,
        Bucket::Members,
        Bucket::MembersRemoved,
        Bucket::Auth,
        Bucket::AuthUsers,
        Bucket::AuthRoles,
        Bucket::Test,
    ];

    /// The name in the file.
    pub fn name(self) -> &'static [u8] {
        match self {
            Bucket::Key => b"key",
            Bucket::Meta => b"meta",
            Bucket::Lease => b"lease",
            Bucket::Alarm => b"alarm",
            Bucket::Cluster => b"cluster",
            Bucket::Members => b"members",
            Bucket::MembersRemoved => b"members_removed",
            Bucket::Auth => b"auth",
            Bucket::AuthUsers => b"authUsers",
            Bucket::AuthRoles => b"authRoles",
            Bucket::Test => b"test",
        }
    }
}

/// `meta`: revision (17 bytes) that a compaction was asked for.
pub const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
/// `meta`: revision (17 bytes) that the last complete compaction was for.
pub const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";
/// `meta`: index of the last log entry that the database includes; 8 bytes, big endian, never written as 0.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
/// `meta`: term of that entry; 8 bytes, big endian, left out while 0.
pub const TERM: &[u8] = b"term";
/// `meta`: raft's conf state as JSON.
pub const CONF_STATE: &[u8] = b"confState";
/// `meta`: the version of this schema, such as `3.7.0`; absent up to 3.5.
pub const STORAGE_VERSION: &[u8] = b"storageVersion";
/// `cluster`: the cluster version, such as `3.7.0`.
pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// `cluster`: the downgrade under way, as JSON.
pub const DOWNGRADE: &[u8] = b"downgrade";
/// `auth`: one byte, 1 or 0; absent until first enabled.
pub const AUTH_ENABLED: &[u8] = b"authEnabled";
/// `auth`: 8 bytes, big endian.
pub const AUTH_REVISION: &[u8] = b"authRevision";

/// Encodes a number as the schema stores it: 8 bytes, big endian.
pub fn encode_u64(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// Decodes what [`encode_u64`] made; `None` when it is not 8 bytes.
pub fn decode_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// Whether a record stays out of the hash of the whole database (`Maintenance.Hash`): these change without a client's doing.
pub fn outside_hash(bucket: Bucket, key: &[u8]) -> bool {
    bucket == Bucket::Meta && (key == TERM || key == CONSISTENT_INDEX || key == STORAGE_VERSION)
}
