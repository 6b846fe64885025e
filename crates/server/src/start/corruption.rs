//! Comparing data with the peers: here before serving (feature gate InitialCorruptCheck), in `watch` meanwhile (etcd
//! server/etcdserver/corrupt.go).
//!
//! Invariants: a member starts unless a peer proves it wrong: only a different hash at the same revision and the same compaction
//! counts. Peers that do not answer, or cannot hash that revision, are only warned about.

mod verdict;
mod watch;

use disk::RealDisk;
use replica::state_machine::membership::Member as StoredMember;
use replica::state_machine::mvcc::KvReader;

pub(super) use self::watch::watch;
use super::StartError;
use crate::peer::dial::Identity;

/// Refuses to start when the data differs from that of a peer.
pub(super) async fn check(
    kv: KvReader<RealDisk>,
    identity: &Identity,
    members: &[StoredMember],
) -> Result<(), StartError> {
    let id = format!("{:x}", identity.member_id);
    let hashed = tokio::task::spawn_blocking(move || kv.hash_kv(0)).await;
    let (own, _) = hashed
        .map_err(|error| StartError::Bootstrap(format!("initial corruption check: {error}")))?
        .map_err(|error| StartError::Bootstrap(format!("initial corruption check: {error}")))?;
    tracing::info!(
        local_member_id = id,
        revision = own.revision,
        "starting initial corruption check"
    );
    let mut differing = Vec::new();
    for peer in members.iter().filter(|member| member.id != identity.member_id) {
        let peer_id = format!("{:x}", peer.id);
        match identity.fetch_hash_kv(&peer.peer_urls, own.revision).await {
            Ok(theirs) if theirs.hash == own.hash => {}
            Ok(theirs) if theirs.compact_revision == own.compact_revision => {
                tracing::warn!(
                    remote_peer_id = peer_id,
                    hash = own.hash,
                    remote_hash = theirs.hash,
                    "found different hash values from remote peer"
                );
                differing.push(peer_id);
            }
            Ok(_) => tracing::warn!(
                remote_peer_id = peer_id,
                "found different compact revision values from remote peer"
            ),
            Err(error) => tracing::warn!(remote_peer_id = peer_id, %error, "cannot compare data with a peer"),
        }
    }
    if differing.is_empty() {
        tracing::info!(
            local_member_id = id,
            "initial corruption checking passed; no corruption"
        );
        return Ok(());
    }
    Err(StartError::Bootstrap(format!(
        "{id} found data inconsistency with peers {}: compare members with 'etcdctl endpoint hashkv', then remove the one that \
         differs, delete its data and add it again",
        differing.join(", ")
    )))
}
