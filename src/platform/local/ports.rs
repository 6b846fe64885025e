//! Ports on the loopback address, given to members and remembered, so that a cluster has the same endpoints for life.
//!
//! Invariant: no two members of one directory share a port, and a port is given away only after a test that it is free.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// First port that is ever given; and, exclusive, the last. Above, Linux takes ports for outgoing connections
/// (net.ipv4.ip_local_port_range begins at 32768), which would make a member's port busy at random.
const RANGE: std::ops::Range<u16> = 10_000..32_000;

/// The ports of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Clients (etcd's 2379).
    pub client: u16,
    /// Peers (etcd's 2380).
    pub peer: u16,
    /// Metrics and health, plain http, no data (2381).
    pub metrics: u16,
}

/// No three free ports in a row are left.
#[derive(Debug, thiserror::Error)]
#[error("no three free ports in a row between {} and {} on 127.0.0.1; stop programs that listen there", RANGE.start, RANGE.end)]
pub struct NoneFree;

impl Ports {
    /// Three free ports that are not in `taken`. Where the search begins depends on `directory`, so that clusters in
    /// different directories rarely meet, and the same directory tends to get the same ports.
    pub fn find(directory: &Path, taken: &BTreeSet<u16>) -> Result<Ports, NoneFree> {
        let slots = (RANGE.end - RANGE.start) / 10;
        let seed = directory
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0u32, |hash, byte| {
                // FNV-1a's step; only a starting place.
                (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
            });
        // The remainder is below `slots`, a u16.
        let first = u16::try_from(seed % u32::from(slots)).unwrap_or(0);
        (0..slots)
            .map(|step| RANGE.start + (first + step) % slots * 10)
            .flat_map(|base| [base, base + 3, base + 6])
            .map(|base| Ports {
                client: base,
                peer: base + 1,
                metrics: base + 2,
            })
            .find(|ports| ports.all().iter().all(|port| !taken.contains(port) && free(*port)))
            .ok_or(NoneFree)
    }

    /// All three.
    pub fn all(&self) -> [u16; 3] {
        [self.client, self.peer, self.metrics]
    }

    /// The first of them that another program listens on.
    pub fn busy(&self) -> Option<u16> {
        self.all().into_iter().find(|port| !free(*port))
    }
}

fn free(port: u16) -> bool {
    // The standard library sets SO_REUSEADDR, so connections that linger after a stop do not count as busy.
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_free_and_the_same_for_the_same_directory() {
        let directory = Path::new("/some/where");
        let mut taken = BTreeSet::new();
        let first = Ports::find(directory, &taken).expect("some are free");
        taken.extend(first.all());
        let second = Ports::find(directory, &taken).expect("some are free");
        assert!(second.all().iter().all(|port| !first.all().contains(port)));
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, second.peer)).expect("binds");
        assert_eq!(second.busy(), Some(second.peer));
        let third = Ports::find(directory, &taken).expect("some are free");
        assert_ne!(third, second);
        drop(held);
        assert_eq!(second.busy(), None);
    }
}
