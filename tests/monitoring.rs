//! Alert rules and dashboard speak only of what is exposed: their metrics are looked up at two real members and in the
//! operator's registry. The rules themselves are tested by promtool, where it was built.

#![cfg(feature = "local")]

use prometheus_client::encoding::text::encode;
use quorate::api::{EtcdBackup, EtcdCluster};
use quorate::operator::metrics::{Metrics, Objects};
use quorate::operator::watches::{Cache, Key};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("a file of the project")
}

/// Both ways to install bring the same rules and the same dashboard.
#[test]
fn the_chart_and_kustomize_bring_the_same() {
    let rules: serde_yaml::Value = serde_yaml::from_str(&read("charts/quorate/monitoring/rules.yaml")).expect("rules");
    let object: serde_yaml::Value =
        serde_yaml::from_str(&read("config/prometheus/prometheusrule.yaml")).expect("a PrometheusRule");
    assert_eq!(rules["groups"], object["spec"]["groups"]);
    let dashboard = read("charts/quorate/monitoring/dashboard.json");
    assert_eq!(dashboard, read("config/prometheus/dashboard.json"));
    serde_json::from_str::<serde_json::Value>(&dashboard).expect("JSON");
}

/// Every expression of the rules and of the dashboard.
fn expressions() -> Vec<String> {
    let rules: serde_yaml::Value = serde_yaml::from_str(&read("charts/quorate/monitoring/rules.yaml")).expect("rules");
    let groups = rules["groups"].as_sequence().expect("groups");
    let mut found: Vec<String> = groups
        .iter()
        .flat_map(|group| group["rules"].as_sequence().expect("rules"))
        .map(|rule| rule["expr"].as_str().expect("an expression").to_owned())
        .collect();
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("charts/quorate/monitoring/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    found.extend(targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    found.extend(
        variables
            .iter()
            .filter_map(|variable| variable["query"]["query"].as_str().map(str::to_owned)),
    );
    found
}

/// Names of metrics in an expression: words of our families that stand outside of quotes; two labels look alike.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let outside: String = expression.split('"').step_by(2).collect::<Vec<_>>().join(" ");
    outside
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| {
            ["etcd_", "quorate_", "grpc_", "process_"]
                .iter()
                .any(|family| word.starts_with(family))
        })
        .filter(|word| !["etcd_cluster", "grpc_code"].contains(word))
        .map(str::to_owned)
        .collect()
}

/// Names of the series in a scrape.
fn series(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next().map(str::to_owned))
        .collect()
}

struct Members(Vec<Child>);

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.0 {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// What two members of a cluster say at `/metrics`.
fn of_members(directory: &Path) -> BTreeSet<String> {
    let ports: Vec<u16> = {
        let held: Vec<TcpListener> = (0..4)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        held.iter()
            .map(|listener| listener.local_addr().expect("an address").port())
            .collect()
    };
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let initial = format!("a={},b={}", url(ports[1]), url(ports[3]));
    let started = ["a", "b"].iter().zip(ports.chunks(2)).map(|(name, ports)| {
        let (client, peer) = (url(ports[0]), url(ports[1]));
        Command::new(env!("CARGO_BIN_EXE_quorate"))
            .args(["server", "--name", name, "--initial-cluster", &initial])
            .arg(format!("--data-dir={}", directory.join(name).display()))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts")
    });
    let _members = Members(started.collect());
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        // Probes of peers come with the first seconds of a connection.
        if let Some(text) = get(ports[0], "/metrics")
            && text.contains("etcd_server_has_leader 1")
            && text.contains("etcd_network_peer_round_trip_time_seconds_bucket")
        {
            return series(&text);
        }
        assert!(
            Instant::now() < end,
            "the members have no leader, or do not know how far they are apart"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// What the operator says about itself, a cluster and a backup.
fn of_operator() -> BTreeSet<String> {
    let cluster: EtcdCluster = serde_yaml::from_str(
        "{apiVersion: quorate.dev/v1alpha1, kind: EtcdCluster, metadata: {name: db, namespace: n}, spec: {}, status: \
         {readyReplicas: 2, quotaPercent: 1, revision: 5, plan: {nextAction: nothing, blockedBy: why}, conditions: \
         [{type: Progressing, status: 'False', reason: x, lastTransitionTime: '2026-01-01T00:00:00Z'}], members: \
         [{name: a, role: Voter, health: Healthy, healthSince: x, observedAt: x, certNotAfter: '2026-01-01T00:00:00Z'}]}}",
    )
    .expect("a cluster");
    let backup: EtcdBackup = serde_yaml::from_str(
        "{apiVersion: quorate.dev/v1alpha1, kind: EtcdBackup, metadata: {name: b, namespace: n}, spec: {clusterRef: {name: \
         db}, destination: {directory: {path: x}}}, status: {phase: Completed, nextScheduleTime: '2026-01-01T00:00:00Z', \
         verified: {time: '2026-01-01T00:00:00Z', hash: x, revision: 1, keys: 1}}}",
    )
    .expect("a backup");
    let (clusters, backups) = (Cache::default(), Cache::default());
    clusters.put(Key::of(&cluster), Arc::new(cluster));
    backups.put(Key::of(&backup), Arc::new(backup));
    let metrics = Metrics::default();
    metrics.round("settled", Duration::from_millis(1));
    metrics.step("Promote", true);
    metrics.api_request("get".to_owned(), "pods".to_owned(), "200".to_owned());
    metrics.relisted("Pod");
    metrics.watch_failed("Pod");
    metrics.backup("completed");
    metrics.lead(true);
    let mut text = String::new();
    encode(&mut text, &metrics.registry(Objects { clusters, backups })).expect("encodes");
    series(&text)
}

#[test]
fn every_metric_of_rules_and_dashboard_is_exposed() {
    let directory = tempfile::tempdir().expect("temp dir");
    let mut exposed = of_members(directory.path());
    exposed.extend(of_operator());
    let mut absent = Vec::new();
    let mut used = BTreeSet::new();
    for expression in expressions() {
        for metric in metrics_of(&expression) {
            if !exposed.contains(&metric) {
                absent.push(format!("{metric} in {expression}"));
            }
            used.insert(metric);
        }
    }
    assert!(absent.is_empty(), "not exposed by anybody:\n{}", absent.join("\n"));
    // The five of the guide, and what the operator adds.
    for metric in [
        "etcd_server_leader_changes_seen_total",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_disk_backend_commit_duration_seconds_bucket",
        "etcd_network_peer_round_trip_time_seconds_bucket",
        "etcd_mvcc_db_total_size_in_bytes",
        "quorate_cluster_backup_verified_timestamp_seconds",
        "quorate_cluster_certificate_expiry_timestamp_seconds",
    ] {
        assert!(used.contains(metric), "no rule and no panel speaks of {metric}");
    }
    println!("{} metrics used, {} exposed", used.len(), exposed.len());
}

/// Every runbook that a rule names is there.
#[test]
fn every_runbook_exists() {
    let rules: serde_yaml::Value = serde_yaml::from_str(&read("charts/quorate/monitoring/rules.yaml")).expect("rules");
    for group in rules["groups"].as_sequence().expect("groups") {
        for rule in group["rules"].as_sequence().expect("rules") {
            let runbook = rule["annotations"]["runbook"].as_str().expect("a runbook");
            assert!(root().join(runbook).exists(), "{runbook} of {:?}", rule["alert"]);
        }
    }
}

#[test]
fn rules_ring_when_they_should() {
    let promtool = std::env::var_os("QUORATE_ETCD_BIN_DIR").map(|bin| PathBuf::from(bin).join("promtool"));
    let Some(promtool) = promtool.filter(|path| path.exists()) else {
        eprintln!("skipped: e2e/tools/build.sh DIR prom makes promtool, QUORATE_ETCD_BIN_DIR names its directory");
        return;
    };
    for arguments in [
        ["check", "rules", "charts/quorate/monitoring/rules.yaml"],
        ["test", "rules", "e2e/monitoring/rules_test.yaml"],
    ] {
        let output = Command::new(&promtool)
            .args(arguments)
            .current_dir(root())
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}
