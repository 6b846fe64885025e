//! A member whose data was changed behind its back is found by the leader, which raises the CORRUPT alarm for it; members that agree are left
//! alone.

mod cluster;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, CompactionRequest, PutRequest};

use cluster::{Cluster, ours, theirs, until};

const GOOD: &[u8] = b"a value that is long enough to be found: good";
const BAD: &[u8] = b"a value that is long enough to be found: evil";
const PERIODIC: &[&str] = &["--corrupt-check-time=500ms"];
const COMPACTION: &[&str] = &[
    "--feature-gates=CompactHashCheck=true",
    "--compact-hash-check-time=500ms",
];

/// Changes a value in a stopped member's database.
fn corrupt(cluster: &Cluster, n: usize) {
    let path = cluster.dir.path().join(format!("m{n}/member/snap/db"));
    let mut file = std::fs::read(&path).unwrap();
    let mut changed = 0;
    for at in 0..=file.len() - GOOD.len() {
        if file[at..].starts_with(GOOD) {
            file[at..at + GOOD.len()].copy_from_slice(BAD);
            changed += 1;
        }
    }
    assert!(changed > 0, "the value is in {}", path.display());
    std::fs::write(&path, file).unwrap();
}

async fn alarms(cluster: &Cluster, n: usize) -> Vec<AlarmMember> {
    let answer = MaintenanceClient::new(cluster.channel(n))
        .alarm(AlarmRequest::default())
        .await;
    answer.map(|answer| answer.into_inner().alarms).unwrap_or_default()
}

/// Member 0 leads, the data of member 2 is changed: the alarm names member 2, and the cluster takes no more writes.
async fn is_found(programs: [PathBuf; 3], flags: &[&str]) {
    let mut cluster = Cluster::new(programs);
    for n in 0..3 {
        cluster.start(n, flags);
    }
    cluster.lead(0).await;
    for n in 0..10 {
        let revision = cluster.put(n % 3, b"another value").await.unwrap();
        if n == 4 {
            keep_good(&cluster).await;
            compact(&cluster, revision).await;
        }
    }
    let revision = keep_good(&cluster).await;
    compact(&cluster, revision - 3).await;
    // Some rounds without a reason for an alarm.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(alarms(&cluster, 0).await, vec![], "{}", cluster.log(0));
    let id = cluster.status(2).await.header.unwrap().member_id;
    until("all have it", async || {
        (cluster.status(2).await.raft_applied_index == cluster.status(0).await.raft_applied_index).then_some(())
    })
    .await;
    cluster.stop(2);
    corrupt(&cluster, 2);
    cluster.start(2, flags);
    cluster.lead(0).await;
    cluster.status(2).await;
    let begin = Instant::now();
    let found = until("an alarm", async || {
        // A new compaction, for who compares those; it fails as soon as the alarm stands.
        if let Ok(revision) = cluster.put(0, b"another value").await {
            compact(&cluster, revision).await;
            // At the revision of a compaction a peer tells the hash that the compaction left, which begins before the leader's own: the
            // periodic check passes it over, in etcd too.
            cluster.put(0, b"another value").await.ok();
        }
        // Checks must be able to keep up: etcd compares the newest compactions only.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Some(alarms(&cluster, 1).await).filter(|alarms| !alarms.is_empty())
    })
    .await;
    println!("{flags:?}: found after {:?}", begin.elapsed());
    let expected = AlarmMember {
        member_id: id,
        alarm: AlarmType::Corrupt.into(),
    };
    assert_eq!(found, vec![expected], "{}", cluster.log(0));
    let refused = cluster.put(0, b"no more").await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: corrupt cluster");
}

/// Under a key of its own: no compaction drops it, so every hash covers it.
async fn keep_good(cluster: &Cluster) -> i64 {
    let request = PutRequest {
        key: b"kept".as_slice().into(),
        value: GOOD.into(),
        ..PutRequest::default()
    };
    let answer = KvClient::new(cluster.channel(0)).put(request).await.unwrap();
    answer.into_inner().header.unwrap().revision
}

async fn compact(cluster: &Cluster, revision: i64) {
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    KvClient::new(cluster.channel(0)).compact(request).await.ok();
}

#[tokio::test]
async fn a_changed_record_is_found_by_the_periodic_check() {
    is_found([ours(), ours(), ours()], PERIODIC).await;
}

#[tokio::test]
async fn a_changed_record_is_found_by_hashes_of_compactions() {
    is_found([ours(), ours(), ours()], COMPACTION).await;
}

#[tokio::test]
async fn etcd_leads_and_finds_ours_by_the_periodic_check() {
    if let Some(etcd) = theirs() {
        is_found([etcd, ours(), ours()], PERIODIC).await;
    }
}

#[tokio::test]
async fn etcd_leads_and_finds_ours_by_hashes_of_compactions() {
    if let Some(etcd) = theirs() {
        is_found([etcd, ours(), ours()], COMPACTION).await;
    }
}

#[tokio::test]
async fn ours_leads_and_finds_etcd_by_the_periodic_check() {
    if let Some(etcd) = theirs() {
        is_found([ours(), ours(), etcd], PERIODIC).await;
    }
}

#[tokio::test]
async fn ours_leads_and_finds_etcd_by_hashes_of_compactions() {
    if let Some(etcd) = theirs() {
        is_found([ours(), ours(), etcd], COMPACTION).await;
    }
}
