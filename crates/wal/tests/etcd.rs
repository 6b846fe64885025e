//! A log written by real etcd is read, and the first records are byte for byte those that we write.
//! Needs QUORATE_ETCD_BIN_DIR; skips without it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use disk::RealDisk;
use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use proto::walpb;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_log_of_a_killed_etcd_is_read() {
    let Some(bin) = std::env::var_os("QUORATE_ETCD_BIN_DIR") else {
        println!("skipped: QUORATE_ETCD_BIN_DIR names no directory with etcd and etcdctl");
        return;
    };
    let bin = Path::new(&bin);
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let (client, peer) = (free_port(), free_port());
    let client = format!("http://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    let child = Command::new(bin.join("etcd"))
        .args(["--name", "m", "--snapshot-count", "20", "--data-dir"])
        .arg(&data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("m={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let child = Killed(child);
    let put = |key: &str, value: &str| {
        let status = Command::new(bin.join("etcdctl"))
            .args(["--endpoints", &client, "--command-timeout", "3s", "put", key, value])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        status.success()
    };
    let begin = Instant::now();
    while !put("first", "value") {
        assert!(begin.elapsed() < Duration::from_secs(30), "etcd does not come up");
        std::thread::sleep(Duration::from_millis(100));
    }
    for number in 0..30 {
        assert!(put(&format!("key{number}"), &"v".repeat(number * 100)), "put {number}");
    }
    drop(child);

    let dir = data.join("member/wal");
    let snapshots = wal::valid_snapshots(&RealDisk, &dir).unwrap();
    assert!(
        snapshots.len() >= 2,
        "--snapshot-count 20 leaves a record besides the first: {snapshots:?}"
    );
    let first = walpb::Snapshot::default();
    let contents = wal::read(&RealDisk, &dir, &first).unwrap();
    assert!(contents.hard_state.commit <= contents.entries.len() as u64);
    let keys = contents.entries.iter().filter_map(|entry| {
        let request = (entry.r#type == 0).then(|| InternalRaftRequest::decode(entry.data.clone()).unwrap())?;
        request.put.map(|put| String::from_utf8(put.key.to_vec()).unwrap())
    });
    let keys: Vec<String> = keys.collect();
    assert_eq!(keys.first().map(String::as_str), Some("first"));
    assert_eq!(keys.iter().filter(|key| key.starts_with("key")).count(), 30);

    let snapshotter = wal::Snapshotter::new(RealDisk, &data.join("member/snap"));
    let snapshot = snapshotter
        .load_newest(&snapshots)
        .unwrap()
        .expect("a .snap for the newest record");
    assert_eq!(snapshot.metadata.unwrap().index, snapshots.last().unwrap().index());

    // Ours begins with the same bytes: checksum, metadata, the zero snapshot.
    let ours = temp.path().join("ours");
    wal::Wal::create(&RealDisk, &ours, &contents.metadata)
        .unwrap()
        .close()
        .unwrap();
    let name = "0000000000000000-0000000000000000.wal";
    let (ours, theirs) = (
        std::fs::read(ours.join(name)).unwrap(),
        std::fs::read(dir.join(name)).unwrap(),
    );
    let end = ours.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    assert!(end > 60);
    assert_eq!(ours[..end], theirs[..end]);

    // And etcd's log is carried on by us.
    let newest = snapshots.last().unwrap();
    let (mut log, after) = wal::Wal::open(&RealDisk, &dir, newest).unwrap();
    let last = newest.index() + after.entries.len() as u64;
    let entry = proto::raftpb::Entry {
        term: 99,
        index: last + 1,
        ..Default::default()
    };
    log.save(&after.hard_state, &[entry]).unwrap();
    log.close().unwrap();
    assert_eq!(
        wal::read(&RealDisk, &dir, &first).unwrap().entries.last().unwrap().term,
        99
    );
}
