//! What `/metrics` exposes, against real etcd that serves in the same cluster: names, types, label names and buckets. Needs QUORATE_ETCD_BIN_DIR
//! (etcd); skips without it.

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::{Cluster, ours, theirs};
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{DefragmentRequest, HashKvRequest, LeaseGrantRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A family: its type, the label names of its samples, and its buckets.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<BTreeSet<String>>,
    buckets: BTreeSet<String>,
}

async fn get(address: &str, path: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
            continue;
        }
        let Some((sample, _)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            let base = name.strip_suffix(suffix)?;
            families.contains_key(base).then_some(base)
        });
        let family = families.get_mut(base.unwrap_or(name)).unwrap();
        let mut names = BTreeSet::new();
        for label in labels.trim_end_matches('}').split("\",") {
            match label.split_once("=\"") {
                Some(("le", bound)) => {
                    // Go writes 1e-04, and 0.8192 as we do.
                    let bound = bound.trim_end_matches('"');
                    let bound = bound
                        .parse::<f64>()
                        .map_or(bound.to_owned(), |number| number.to_string());
                    family.buckets.insert(bound);
                }
                Some((name, _)) => {
                    names.insert(name.to_owned());
                }
                None => {}
            }
        }
        family.labels.insert(names);
    }
    families
}

/// A cluster in which member 2 is real etcd, and in which some of everything was asked for.
async fn busy(flags: &[&str]) -> Option<[BTreeMap<String, Family>; 2]> {
    let mut cluster = Cluster::new([ours(), ours(), theirs()?]);
    for n in 0..3 {
        cluster.start(n, flags);
    }
    // Our member leads, then etcd's: each sends and receives.
    for leader in [2, 0] {
        cluster.lead(leader).await;
        for n in [0, 2] {
            cluster.put(n, b"value").await.unwrap();
            let grant = LeaseGrantRequest { ttl: 60, id: 0 };
            LeaseClient::new(cluster.channel(n)).lease_grant(grant).await.unwrap();
            let mut maintenance = MaintenanceClient::new(cluster.channel(n));
            maintenance.hash_kv(HashKvRequest { revision: 0 }).await.unwrap();
            maintenance.defragment(DefragmentRequest {}).await.unwrap();
            for path in ["/health", "/livez", "/readyz", "/metrics"] {
                get(&cluster.clients[n], path).await;
            }
        }
    }
    // Round trips are measured every now and then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut both = [BTreeMap::new(), BTreeMap::new()];
    for (families_of, n) in both.iter_mut().zip([0, 2]) {
        *families_of = families(&get(&cluster.clients[n], "/metrics").await);
        families_of.retain(|name, _| !name.starts_with("go_"));
    }
    Some(both)
}

#[tokio::test]
async fn families_types_labels_and_buckets_are_etcds() {
    let Some([ours, theirs]) = busy(&["--metrics=extensive"]).await else {
        return;
    };
    assert!(theirs.len() > 100, "{theirs:?}");
    let mut wrong = Vec::new();
    for (name, family) in &theirs {
        match ours.get(name) {
            None => wrong.push(format!("{name} ({}) is absent", family.kind)),
            Some(own) if own != family => wrong.push(format!("{name}: {own:?}, but etcd has {family:?}")),
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Ours may show what happened to have a sample on one side only; nothing that etcd does not know.
    let extra: Vec<&String> = ours.keys().filter(|name| !theirs.contains_key(*name)).collect();
    println!("{} families alike; on our side alone: {extra:?}", theirs.len());
    let known = |name: &&&String| {
        [
            "etcd_network_",
            "etcd_server_learner_promote_failures",
            "etcd_debugging_server_alarms",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
    };
    assert_eq!(extra.iter().filter(|name| !known(name)).count(), 0, "{extra:?}");
}

#[tokio::test]
async fn durations_of_calls_are_extensive() {
    let Some([ours, theirs]) = busy(&["--metrics=basic"]).await else {
        return;
    };
    for of in [ours, theirs] {
        assert!(of.contains_key("grpc_server_handled_total"));
        assert!(!of.contains_key("grpc_server_handling_seconds"));
    }
}
