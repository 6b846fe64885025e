//! The leader compares its key space with the followers' while it serves (`--corrupt-check-time`, `--compact-hash-check-time`), and raises the
//! CORRUPT alarm for who differs (etcd server/etcdserver/server.go, monitorKVHash and monitorCompactHash).
//!
//! Invariants: a member that does not lead asks nobody; a round that cannot be finished raises no alarm.

use std::sync::Arc;
use std::time::Duration;

use proto::etcdserverpb::{AlarmType, HashKvResponse};

use super::verdict::{self, Compared, Hashed};
use crate::handle::Error;
use crate::listener::stopped;
use crate::member::Member;

/// Makes the checks that the configuration asks for, until the member stops.
pub(in crate::start) async fn watch(member: Arc<Member>) {
    let config = &member.config;
    let periodic = config.corrupt_check_time.positive();
    let compaction = config
        .compact_hash_check_time
        .positive()
        .filter(|_| config.features.compact_hash_check);
    if let Some(interval) = periodic {
        tracing::info!(?interval, "enabled corruption checking");
    }
    let mut stop = member.stop.clone();
    tokio::select! {
        () = compare_all(&member, periodic) => {}
        () = compare_compactions(&member, compaction) => {}
        () = stopped(&mut stop) => {}
    }
}

/// Never ends.
async fn compare_all(member: &Member, interval: Option<Duration>) {
    loop {
        rest(interval).await;
        if leads(member)
            && let Err(error) = check_all(member).await
        {
            tracing::warn!(%error, "failed to check hash KV");
        }
    }
}

/// Never ends.
async fn compare_compactions(member: &Member, interval: Option<Duration>) {
    let mut checked = 0;
    loop {
        rest(interval).await;
        if leads(member) {
            check_compactions(member, &mut checked).await;
        }
    }
}

async fn rest(interval: Option<Duration>) {
    match interval {
        Some(interval) => tokio::time::sleep(interval).await,
        None => std::future::pending().await,
    }
}

fn leads(member: &Member) -> bool {
    member.leader() == member.handle.member_id()
}

async fn check_all(member: &Member) -> Result<(), Error> {
    let before = hashed(&member.hash_kv(0).await?);
    let peers = ask(member, before.revision).await;
    member.handle.linearizable().await?;
    let after = hashed(&member.hash_kv(0).await?);
    if let Some((id, why)) = verdict::periodic(member.handle.member_id(), before, after, &peers) {
        tracing::error!(
            member_id = format!("{id:x}"),
            leader_revision = before.revision,
            leader_hash = before.hash,
            answers = ?peers,
            "found data inconsistency: {why}"
        );
        raise(member, id).await;
    }
    tracing::info!(
        number_of_peers_checked = peers.iter().filter(|(_, answer)| answer.is_some()).count(),
        "finished peer corruption check"
    );
    Ok(())
}

/// Newest first, down to the last revision that all members had the same hash of.
async fn check_compactions(member: &Member, checked: &mut i64) {
    let leader = member.handle.member_id();
    for own in member.kv.compaction_hashes().into_iter().rev() {
        if own.revision <= *checked {
            return;
        }
        let peers = ask(member, own.revision).await;
        if peers.is_empty() {
            return;
        }
        let own = Hashed {
            hash: own.hash,
            current: member.kv.current_revision(),
            revision: own.revision,
            compacted: own.compact_revision,
        };
        let compared = verdict::compaction(leader, own, &peers);
        match &compared {
            Compared::Same => {
                tracing::info!(revision = own.revision, "successfully checked hash on whole cluster");
                *checked = own.revision;
                return;
            }
            Compared::Incomplete => {
                tracing::warn!(
                    revision = own.revision,
                    "skipped revision in compaction hash check; was not able to check all peers"
                );
                continue;
            }
            Compared::Minority(_) | Compared::Undecided => {}
        }
        tracing::error!(
            leader_revision = own.revision,
            leader_compact_revision = own.compacted,
            leader_hash = own.hash,
            answers = ?peers,
            "detected compaction hash mismatch"
        );
        match compared {
            Compared::Minority(ids) => {
                for id in ids {
                    raise(member, id).await;
                }
            }
            // Nobody knows which data is right: the alarm names no member, as in etcd.
            _ => raise(member, 0).await,
        }
        return;
    }
}

async fn raise(member: &Member, id: u64) {
    if let Err(error) = member.raise_alarm(id, AlarmType::Corrupt).await {
        tracing::warn!(%error, member_id = format!("{id:x}"), "failed to raise the CORRUPT alarm");
    }
}

/// Every other member's hash at a revision.
async fn ask(member: &Member, revision: i64) -> Vec<(u64, Option<Hashed>)> {
    let identity = member
        .transport
        .identity()
        .within(member.handle.limits().request_timeout);
    let mut answers = Vec::new();
    for peer in member.handle.members() {
        if peer.id == member.handle.member_id() || peer.peer_ur_ls.is_empty() {
            continue;
        }
        let answer = match identity.fetch_hash_kv(&peer.peer_ur_ls, revision).await {
            Ok(answer) => Some(hashed(&answer)),
            Err(error) => {
                tracing::warn!(remote_peer_id = format!("{:x}", peer.id), revision, %error, "failed hash kv request");
                None
            }
        };
        answers.push((peer.id, answer));
    }
    answers
}

fn hashed(answer: &HashKvResponse) -> Hashed {
    Hashed {
        hash: answer.hash,
        current: answer.header.as_ref().map_or(0, |header| header.revision),
        revision: answer.hash_revision,
        compacted: answer.compact_revision,
    }
}
