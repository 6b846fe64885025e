//! One of three members is all that is left: `--force-new-cluster` makes it a cluster of its own, with its log in `--wal-dir` and snapshots every
//! few entries; the other kind of server goes on with what comes of it. Needs QUORATE_ETCD_BIN_DIR (etcd); skips without it.

mod cluster;

use std::path::{Path, PathBuf};

use cluster::{Cluster, ours, theirs, until};
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{MemberListRequest, RangeRequest};

async fn value(cluster: &Cluster) -> Vec<u8> {
    let request = RangeRequest {
        key: b"key".as_slice().into(),
        ..RangeRequest::default()
    };
    let answer = KvClient::new(cluster.channel(0)).range(request).await.unwrap();
    answer.into_inner().kvs[0].value.to_vec()
}

async fn members(cluster: &Cluster) -> Vec<String> {
    let request = MemberListRequest { linearizable: true };
    let answer = ClusterClient::new(cluster.channel(0))
        .member_list(request)
        .await
        .unwrap();
    answer
        .into_inner()
        .members
        .into_iter()
        .map(|member| member.name)
        .collect()
}

fn files(dir: &Path, suffix: &str) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(suffix))
        .count()
}

async fn survives(programs: [PathBuf; 3], rescuer: PathBuf, successor: PathBuf) {
    let mut cluster = Cluster::new(programs);
    let dir = cluster.dir.path().to_owned();
    let log = dir.join("wal-of-m0");
    let wal_dir = format!("--wal-dir={}", log.display());
    let flags = ["--snapshot-count=10", "--snapshot-catchup-entries=3"];
    let first = [wal_dir.as_str(), flags[0], flags[1]];
    cluster.start(0, &first);
    cluster.start(1, &flags);
    cluster.start(2, &flags);
    cluster.status(0).await;
    for n in 0..50 {
        cluster.put(n % 3, b"of three").await.unwrap();
    }
    until("member 0 has it", async || {
        (value(&cluster).await == b"of three").then_some(())
    })
    .await;
    assert_eq!(members(&cluster).await.len(), 3);
    for n in 0..3 {
        cluster.stop(n);
    }
    assert!(files(&log, ".wal") > 0, "the log is where it was wanted");
    assert_eq!(files(&dir.join("m0/member/wal"), ".wal"), 0, "and only there");
    assert!(files(&dir.join("m0/member/snap"), ".snap") > 0, "snapshots were taken");

    cluster.programs[0] = rescuer;
    cluster.start(0, &[first[0], first[1], first[2], "--force-new-cluster"]);
    cluster.status(0).await;
    assert_eq!(value(&cluster).await, b"of three");
    assert_eq!(members(&cluster).await, ["m0"]);
    for _ in 0..30 {
        cluster.put(0, b"of one").await.unwrap();
    }
    cluster.stop(0);

    cluster.programs[0] = successor;
    cluster.start(0, &first);
    cluster.status(0).await;
    assert_eq!(value(&cluster).await, b"of one");
    assert_eq!(members(&cluster).await, ["m0"]);
    cluster.put(0, b"of its successor").await.unwrap();
    cluster.stop(0);
}

#[tokio::test]
async fn ours_makes_a_cluster_of_one_and_etcd_goes_on() {
    let Some(etcd) = theirs() else { return };
    survives([ours(), etcd.clone(), ours()], ours(), etcd).await;
}

#[tokio::test]
async fn etcd_makes_a_cluster_of_one_and_ours_goes_on() {
    let Some(etcd) = theirs() else { return };
    survives([ours(), etcd.clone(), ours()], etcd, ours()).await;
}
