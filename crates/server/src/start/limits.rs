//! File descriptors: as many as the system allows (as Go's runtime takes them), some kept back for the member's own files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for the log, the database and the peers (etcd server/embed/etcd.go, reservedInternalFDNum).
const RESERVED: u64 = 150;

/// Raises the soft limit to the hard one.
pub fn raise() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "cannot raise the limit of open files");
    }
}

/// Client connections per address.
pub(super) fn connections_max() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft.saturating_sub(RESERVED).max(16)).unwrap_or(usize::MAX)
}
