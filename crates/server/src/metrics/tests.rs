//! The text that Prometheus reads, line by line.

use std::collections::BTreeMap;

use super::*;

fn scrape() -> String {
    let config = Config::default();
    let metrics = Metrics::new(false);
    metrics.puts.add(3);
    metrics.wal_write_bytes.set(16_777_216);
    metrics.wal_fsync.observe(0.003);
    metrics.rpc.of(rpc::Method::Range).started();
    metrics
        .rpc
        .of(rpc::Method::Range)
        .handled(0, std::time::Duration::from_millis(1));
    metrics.client_requests.with(&["unary", "3.7"]).inc();
    metrics.client_requests.with(&["unary", "3.7"]).inc();
    let status = Status {
        member_id: 0xab,
        leader: 0xab,
        applied: 7,
        ..Status::default()
    };
    let membership = Membership {
        cluster_version: Some("3.7.0".into()),
        ..Membership::default()
    };
    let peers = [(Arc::new(Statistics::new(0xcd)), true)];
    metrics.render(&Scrape {
        status: &status,
        membership: &membership,
        peers: &peers,

        config: &config,
    })
}

#[test]
fn writes_etcds_names_without_additions() {
    let text = scrape();
    for line in [
        "# TYPE etcd_mvcc_put_total counter\netcd_mvcc_put_total 3\n",
        "# TYPE etcd_server_proposals_applied_total gauge\netcd_server_proposals_applied_total 7\n",
        "# TYPE etcd_server_health_success counter\netcd_server_health_success 0\n",
        "# TYPE etcd_disk_wal_write_bytes_total gauge\netcd_disk_wal_write_bytes_total 16777216\n",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 0\netcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.004\"} 1\n",
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 1\netcd_disk_wal_fsync_duration_seconds_sum 0.003\netcd_disk_wal_fsync_duration_seconds_count 1\n",
        "grpc_server_started_total{grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1\n",
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1\n",
        "grpc_server_handled_total{grpc_code=\"DataLoss\",grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 0\n",
        "etcd_server_client_requests_total{type=\"unary\",client_api_version=\"3.7\"} 2\n",
        "etcd_server_id{server_id=\"ab\"} 1\n",
        "etcd_cluster_version{cluster_version=\"3.7\"} 1\n",
        "etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 1\n",
        "etcd_network_peer_sent_bytes_total{To=\"cd\"} 0\n",
        "etcd_network_active_peers{Local=\"ab\",Remote=\"cd\"} 1\n",
        "process_open_fds ",
        "os_fd_limit ",
    ] {
        assert!(text.contains(line), "missing {line:?}");
    }
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.is_sorted());
    assert_eq!(METHOD_COUNT, rpc::METHODS.len());
}

const METHOD_COUNT: usize = rpc::Method::Unlock as usize + 1;

/// Types of all families, from a scrape of etcd 3.7.3 saved to the file that QUORATE_ETCD_METRICS names.
#[test]
fn has_every_family_of_etcd_with_its_type() {
    let Some(path) = std::env::var_os("QUORATE_ETCD_METRICS") else {
        println!("skipped: QUORATE_ETCD_METRICS names no file with etcd's answer to /metrics");
        return;
    };
    let types = |text: &str| -> BTreeMap<String, String> {
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        lines.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
    };
    let ours = types(&scrape());
    let theirs = types(&std::fs::read_to_string(path).unwrap());
    // The Go runtime, its HTTP handler, the gRPC proxy and the v2 store exist only there.
    let absent = ["go_", "promhttp_", "etcd_grpc_proxy_", "etcd_debugging_store_"];
    let differing: Vec<_> = theirs
        .iter()
        .filter(|(name, kind)| !absent.iter().any(|prefix| name.starts_with(prefix)) && ours.get(*name) != Some(kind))
        // Families by label values that nothing has used yet.
        .filter(|(name, _)| {
            ![
                "etcd_server_apply_duration_seconds",
                "etcd_server_request_duration_seconds",
            ]
            .contains(&name.as_str())
        })
        .collect();
    assert!(differing.is_empty(), "{differing:?}");
}
