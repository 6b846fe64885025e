//! What a member counts, under etcd's names, in Prometheus' text format 0.0.4.
//!
//! Invariants:
//! - Names, types and labels are etcd 3.7's (etcd server `**/metrics.go`), with nothing appended: gauges named `…_total` and
//!   counters named `…_success` are as they are because dashboards and alerts ask for them so. (That is why this is not done
//!   with a library for OpenMetrics, which appends `_total` to counters.)
//! - Recording is a few atomic additions: no lock, no allocation, except for the first use of a label value.
//! - Every `grpc_server_*` series exists from the start with 0, as go-grpc-prometheus initialises it.

mod family;
mod leftover;
mod process;
pub mod rpc;
mod scrapes;
mod text;

use std::sync::Arc;

pub use family::{Counter, Family, Gauge, Histogram, exponential};
pub use scrapes::Scrapes;
pub use text::{Kind, Text};

use crate::config::{Config, VERSION};
use crate::handle::{Membership, Status};
use crate::listener::Traffic;
use crate::peer::statistics::Statistics;

macro_rules! metrics {
    ($($field:ident: $type:ident $name:literal $make:expr, $help:literal;)*) => {
        /// All instruments of a member. Share it by `Arc`.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = concat!("`", $name, "`: ", $help)] pub $field: $type,)*
            /// `grpc_server_*`.
            pub rpc: rpc::Calls,
            /// `promhttp_metric_handler_*`.
            pub scrapes: Scrapes,
            /// `etcd_network_client_grpc_{received,sent}_bytes_total`.
            pub traffic: Arc<Traffic>,
        }

        impl Metrics {
            /// All zero; `extensive` is `--metrics=extensive`.
            pub fn new(extensive: bool) -> Metrics {
                Metrics { $($field: $make,)* rpc: rpc::Calls::new(extensive), scrapes: Scrapes::default(), traffic: Arc::default() }
            }

            fn write_own(&self, text: &mut Text) {
                $(self.$field.write(text, $name, $help);)*
            }
        }
    };
}

/// Buckets of 1 ms × 2, 14 of them: most of etcd's durations.
fn millis() -> Histogram {
    Histogram::new(exponential(0.001, 14))
}

metrics! {
    backend_commit: Histogram "etcd_disk_backend_commit_duration_seconds" millis(), "The latency distributions of commit called by backend.";
    backend_commit_rebalance: Histogram "etcd_debugging_disk_backend_commit_rebalance_duration_seconds" millis(), "Always empty: pages are not rebalanced in a step of its own.";
    backend_commit_spill: Histogram "etcd_debugging_disk_backend_commit_spill_duration_seconds" millis(), "Always empty: pages are not spilled in a step of its own.";
    backend_commit_write: Histogram "etcd_debugging_disk_backend_commit_write_duration_seconds" millis(), "The latency distributions of writing a commit.";
    backend_defrag: Histogram "etcd_disk_backend_defrag_duration_seconds" Histogram::new(exponential(0.1, 13)), "The latency distribution of backend defragmentation.";
    backend_snapshot: Histogram "etcd_disk_backend_snapshot_duration_seconds" Histogram::new(exponential(0.01, 17)), "The latency distribution of backend snapshots.";
    defrag_inflight: Gauge "etcd_disk_defrag_inflight" Gauge::default(), "Whether or not defrag is active on the member. 1 means active, 0 means not.";
    wal_fsync: Histogram "etcd_disk_wal_fsync_duration_seconds" millis(), "The latency distributions of fsync called by WAL.";
    wal_write: Histogram "etcd_disk_wal_write_duration_seconds" millis(), "The latency distributions of write called by WAL.";
    wal_write_bytes: Gauge "etcd_disk_wal_write_bytes_total" Gauge::default(), "Total number of bytes written in WAL.";
    lease_granted: Counter "etcd_debugging_lease_granted_total" Counter::default(), "The total number of granted leases.";
    lease_renewed: Counter "etcd_debugging_lease_renewed_total" Counter::default(), "The number of renewed leases seen by the leader.";
    lease_revoked: Counter "etcd_debugging_lease_revoked_total" Counter::default(), "The total number of revoked leases.";
    lease_ttl: Histogram "etcd_debugging_lease_ttl_total" Histogram::new(exponential(1.0, 24)), "Bucketed histogram of lease TTLs.";
    lease_expired: Counter "etcd_debugging_server_lease_expired_total" Counter::default(), "The total number of expired leases.";
    compact_revision: Gauge "etcd_debugging_mvcc_compact_revision" Gauge::default(), "The revision of the last compaction in store.";
    compaction_keys: Counter "etcd_debugging_mvcc_db_compaction_keys_total" Counter::default(), "Total number of db keys compacted.";
    compaction_last: Gauge "etcd_debugging_mvcc_db_compaction_last" Gauge::default(), "The unix time of the last db compaction. Resets to 0 on start.";
    compaction_pause: Histogram "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds" Histogram::new(exponential(1.0, 13)), "Bucketed histogram of db compaction pause duration.";
    compaction_total: Histogram "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds" Histogram::new(exponential(100.0, 14)), "Bucketed histogram of db compaction total duration.";
    index_compaction_pause: Histogram "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds" Histogram::new(exponential(0.5, 14)), "Bucketed histogram of index compaction pause duration.";
    events: Counter "etcd_debugging_mvcc_events_total" Counter::default(), "Total number of events sent by this member.";
    keys: Gauge "etcd_debugging_mvcc_keys_total" Gauge::default(), "Total number of keys.";
    pending_events: Gauge "etcd_debugging_mvcc_pending_events_total" Gauge::default(), "Total number of pending events to be sent.";
    slow_watchers: Gauge "etcd_debugging_mvcc_slow_watcher_total" Gauge::default(), "Total number of unsynced slow watchers.";
    put_bytes: Gauge "etcd_debugging_mvcc_total_put_size_in_bytes" Gauge::default(), "The total size of put kv pairs seen by this member.";
    watch_streams: Gauge "etcd_debugging_mvcc_watch_stream_total" Gauge::default(), "Total number of watch streams.";
    watchers: Gauge "etcd_debugging_mvcc_watcher_total" Gauge::default(), "Total number of watchers.";
    watch_send_control: Histogram "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds" millis(), "The total duration in seconds of running through the send loop control stream response.";
    watch_send_progress: Histogram "etcd_debugging_server_watch_send_loop_progress_duration_seconds" millis(), "The total duration in seconds of running through the progress loop control stream response.";
    watch_send_event: Histogram "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds" millis(), "The average duration in seconds of running through the send loop watch stream response, per event.";
    watch_send: Histogram "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds" millis(), "The total duration in seconds of running through the send loop watch stream response all events.";
    snap_save_marshalling: Histogram "etcd_debugging_snap_save_marshalling_duration_seconds" millis(), "The marshalling cost distributions of save called by snapshot.";
    snap_save: Histogram "etcd_debugging_snap_save_total_duration_seconds" millis(), "The total latency distributions of save called by snapshot.";
    snap_fsync: Histogram "etcd_snap_fsync_duration_seconds" millis(), "The latency distributions of fsync called by snap.";
    snap_db_fsync: Histogram "etcd_snap_db_fsync_duration_seconds" millis(), "The latency distributions of fsyncing .snap.db file";
    snap_db_save: Histogram "etcd_snap_db_save_total_duration_seconds" Histogram::new(exponential(0.1, 10)), "The total latency distributions of v3 snapshot save";
    open_read_transactions: Gauge "etcd_mvcc_db_open_read_transactions" Gauge::default(), "The number of currently open read transactions";
    deletes: Counter "etcd_mvcc_delete_total" Counter::default(), "Total number of deletes seen by this member.";
    puts: Counter "etcd_mvcc_put_total" Counter::default(), "Total number of puts seen by this member.";
    ranges: Counter "etcd_mvcc_range_total" Counter::default(), "Total number of ranges seen by this member.";
    txns: Counter "etcd_mvcc_txn_total" Counter::default(), "Total number of txns seen by this member.";
    hash: Histogram "etcd_mvcc_hash_duration_seconds" Histogram::new(exponential(0.01, 15)), "The latency distribution of storage hash operation.";
    hash_rev: Histogram "etcd_mvcc_hash_rev_duration_seconds" Histogram::new(exponential(0.01, 15)), "The latency distribution of storage hash by revision operation.";
    apply: FamilyOfHistograms "etcd_server_apply_duration_seconds" Family::new(&["version", "op", "success"], || Histogram::new(exponential(0.0001, 20))), "The latency distributions of apply.";
    range_duration: FamilyOfHistograms "etcd_server_range_duration_seconds" Family::new(&["success"], || Histogram::new(exponential(0.0001, 20))), "The latency distributions of ranges.";
    request_duration: FamilyOfHistograms "etcd_server_request_duration_seconds" Family::new(&["type", "success"], millis), "Response latency distribution in seconds for each type.";
    client_requests: FamilyOfCounters "etcd_server_client_requests_total" Family::new(&["type", "client_api_version"], Counter::default), "The total number of client requests per client version.";
    health_success: Counter "etcd_server_health_success" Counter::default(), "The total number of successful health checks";
    health_failures: Counter "etcd_server_health_failures" Counter::default(), "The total number of failed health checks";
    health_check: FamilyOfGauges "etcd_server_healthcheck" Family::new(&["type", "name"], Gauge::default), "The result of each kind of healthcheck.";
    health_checks: FamilyOfCounters "etcd_server_healthchecks_total" Family::new(&["type", "name", "status"], Counter::default), "The total number of each kind of healthcheck.";
    heartbeat_failures: Counter "etcd_server_heartbeat_send_failures_total" Counter::default(), "The total number of leader heartbeat send failures (likely overloaded from slow disk).";
    promote_successes: Counter "etcd_server_learner_promote_successes" Counter::default(), "The total number of successful learner promotions while this member is leader.";
    promote_failures: FamilyOfCounters "etcd_server_learner_promote_failures" Family::new(&["Reason"], Counter::default), "The total number of failed learner promotions (likely learner not ready) while this member is leader.";
    read_indexes_failed: Counter "etcd_server_read_indexes_failed_total" Counter::default(), "The total number of failed read indexes seen.";
    slow_read_indexes: Counter "etcd_server_slow_read_indexes_total" Counter::default(), "The total number of pending read indexes not in sync with leader's or timed out read index requests.";
    slow_apply: Counter "etcd_server_slow_apply_total" Counter::default(), "The total number of slow apply requests (likely overloaded from slow disk).";
    stream_failures: FamilyOfCounters "etcd_network_server_stream_failures_total" Family::new(&["Type", "API"], Counter::default), "The total number of stream failures from the local server.";
    snapshot_receive_success: FamilyOfCounters "etcd_network_snapshot_receive_success" Family::new(&["From"], Counter::default), "Total number of successful snapshot receives.";
    snapshot_receive_failures: FamilyOfCounters "etcd_network_snapshot_receive_failures" Family::new(&["From"], Counter::default), "Total number of snapshot receive failures.";
    auth_revision: Gauge "etcd_debugging_auth_revision" Gauge::default(), "The current revision of auth store.";
}

type FamilyOfCounters = Family<Counter>;
type FamilyOfGauges = Family<Gauge>;
type FamilyOfHistograms = Family<Histogram>;

/// What is known at the moment of a scrape and not counted here.
#[derive(Debug)]
pub struct Scrape<'a> {
    /// The member's state.
    pub status: &'a Status,
    /// Members, alarms, cluster version.
    pub membership: &'a Membership,
    /// Counters of each peer, and whether it has a link.
    pub peers: &'a [(Arc<Statistics>, bool)],
    /// The member's settings.
    pub config: &'a Config,
}

impl Metrics {
    /// The answer to `GET /metrics`: families sorted by name.
    pub fn render(&self, scrape: &Scrape<'_>) -> String {
        let mut text = Text::default();
        self.write_own(&mut text);
        self.rpc.write(&mut text);
        self.scrapes.write(&mut text);
        leftover::write(&mut text);
        self.write_status(&mut text, scrape);
        write_peers(&mut text, scrape);
        process::write(&mut text);
        text.finish()
    }

    fn write_status(&self, text: &mut Text, scrape: &Scrape<'_>) {
        let Scrape {
            status,
            membership,
            config,
            ..
        } = scrape;
        let mut gauge = |name, help, value: f64| text.single(name, Kind::Gauge, help, value);
        let has_leader = status.leader != 0;
        let is_leader = has_leader && status.leader == status.member_id;
        gauge(
            "etcd_server_has_leader",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            f64::from(has_leader),
        );
        gauge(
            "etcd_server_is_leader",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            f64::from(is_leader),
        );
        gauge(
            "etcd_server_is_learner",
            "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            f64::from(status.is_learner),
        );
        gauge(
            "etcd_server_proposals_applied_total",
            "The total number of consensus proposals applied.",
            status.applied as f64,
        );
        gauge(
            "etcd_server_proposals_committed_total",
            "The total number of consensus proposals committed.",
            status.commit as f64,
        );
        gauge(
            "etcd_server_proposals_pending",
            "The current number of pending proposals to commit.",
            status.proposals_pending as f64,
        );
        gauge(
            "etcd_server_quota_backend_bytes",
            "Current backend storage quota size in bytes.",
            status.quota as f64,
        );
        gauge(
            "etcd_server_snapshot_apply_in_progress_total",
            "1 if the server is applying the incoming snapshot. 0 if none.",
            status.applying_snapshots as f64,
        );
        gauge(
            "etcd_mvcc_db_total_size_in_bytes",
            "Total size of the underlying database physically allocated in bytes.",
            status.db_size as f64,
        );
        gauge(
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Total size of the underlying database logically in use in bytes.",
            status.db_size_in_use as f64,
        );
        gauge(
            "etcd_debugging_mvcc_current_revision",
            "The current revision of store.",
            status.revision as f64,
        );
        let mut counter = |name, help, value: u64| text.single(name, Kind::Counter, help, value as f64);
        counter(
            "etcd_server_leader_changes_seen_total",
            "The number of leader changes seen.",
            status.leader_changes,
        );
        counter(
            "etcd_server_proposals_failed_total",
            "The total number of failed proposals seen.",
            status.proposals_failed,
        );
        let load = |value: &std::sync::atomic::AtomicU64| value.load(std::sync::atomic::Ordering::Relaxed);
        counter(
            "etcd_network_client_grpc_received_bytes_total",
            "The total number of bytes received from grpc clients.",
            load(&self.traffic.received),
        );
        counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "The total number of bytes sent to grpc clients.",
            load(&self.traffic.sent),
        );

        let id = format!("{:x}", status.member_id);
        let mut labelled = |name, help, labels: &[(&str, &str)], value: f64| {
            text.family(name, Kind::Gauge, help).sample("", labels, value);
        };
        labelled(
            "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
            &[("server_id", &id)],
            1.0,
        );
        labelled(
            "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version.",
            &[("server_version", VERSION)],
            1.0,
        );
        labelled(
            "etcd_server_go_version",
            "Always 'none': this server is not written in Go.",
            &[("server_go_version", "none")],
            1.0,
        );
        if let Some(version) = &membership.cluster_version {
            // etcd labels it with major.minor.
            let minor = version.rsplit_once('.').map_or(version.as_str(), |(minor, _)| minor);
            labelled(
                "etcd_cluster_version",
                "Which version is running. 1 for 'cluster_version' label with current cluster version",
                &[("cluster_version", minor)],
                1.0,
            );
        }
        let mut features = text.family(
            "etcd_server_feature_enabled",
            Kind::Gauge,
            "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
        );
        for (name, stage, on) in config.features.all() {
            features.sample("", &[("name", name), ("stage", stage.label())], f64::from(on));
        }
        if !membership.alarms.is_empty() {
            let mut alarms = text.family("etcd_debugging_server_alarms", Kind::Gauge, "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm");
            for alarm in &membership.alarms {
                let member = format!("{:x}", alarm.member_id);
                alarms.sample(
                    "",
                    &[("alarm_type", alarm.alarm().as_str_name()), ("server_id", &member)],
                    1.0,
                );
            }
        }
    }
}

/// Reads one of a peer's histograms: upper bounds, observations in each bucket, and their sum.
type ReadHistogram<'a> = &'a dyn Fn(&Statistics) -> (Vec<f64>, Vec<u64>, f64);

fn write_peers(text: &mut Text, scrape: &Scrape<'_>) {
    let local = format!("{:x}", scrape.status.member_id);
    let load = |value: &std::sync::atomic::AtomicU64| value.load(std::sync::atomic::Ordering::Relaxed) as f64;
    let ids: Vec<String> = scrape
        .peers
        .iter()
        .map(|(peer, _)| format!("{:x}", peer.peer_id))
        .collect();
    let mut pairs = |name, kind, help, of: &dyn Fn(&Statistics, bool) -> f64| {
        let mut family = text.family(name, kind, help);
        for ((peer, linked), id) in scrape.peers.iter().zip(&ids) {
            family.sample("", &[("Local", &local), ("Remote", id)], of(peer, *linked));
        }
    };
    pairs(
        "etcd_network_active_peers",
        Kind::Gauge,
        "The current number of active peer connections.",
        &|_, linked| f64::from(linked),
    );
    pairs(
        "etcd_network_disconnected_peers_total",
        Kind::Counter,
        "The total number of disconnected peers.",
        &|peer, _| load(&peer.disconnects),
    );
    let help = "The current number of known peers.";
    let mut known = text.family("etcd_network_known_peers", Kind::Gauge, help);
    // etcd counts the member itself too.
    for id in std::iter::once(&local).chain(&ids) {
        known.sample("", &[("Local", &local), ("Remote", id)], 1.0);
    }
    let mut each = |name, help, label, of: &dyn Fn(&Statistics) -> f64| {
        let mut family = text.family(name, Kind::Counter, help);
        for ((peer, _), id) in scrape.peers.iter().zip(&ids) {
            family.sample("", &[(label, id)], of(peer));
        }
    };
    each(
        "etcd_network_peer_sent_bytes_total",
        "The total number of bytes sent to peers.",
        "To",
        &|peer| load(&peer.sent_bytes),
    );
    each(
        "etcd_network_peer_received_bytes_total",
        "The total number of bytes received from peers.",
        "From",
        &|peer| load(&peer.received_bytes),
    );
    each(
        "etcd_network_peer_sent_failures_total",
        "The total number of send failures from peers.",
        "To",
        &|peer| load(&peer.sent_failures),
    );
    each(
        "etcd_network_peer_received_failures_total",
        "The total number of receive failures from peers.",
        "From",
        &|peer| load(&peer.received_failures),
    );
    each(
        "etcd_network_snapshot_send_success",
        "Total number of successful snapshot sends",
        "To",
        &|peer| load(&peer.snapshots_sent),
    );
    each(
        "etcd_network_snapshot_send_failures",
        "Total number of snapshot send failures",
        "To",
        &|peer| load(&peer.snapshot_failures),
    );
    let mut histogram = |name, help, of: ReadHistogram<'_>| {
        let mut family = text.family(name, Kind::Histogram, help);
        for ((peer, _), id) in scrape.peers.iter().zip(&ids) {
            let (bounds, counts, sum) = of(peer);
            family.histogram(&[("To", id)], &bounds, &counts, sum);
        }
    };
    let read = |from: &crate::peer::statistics::Histogram| {
        let counts = from
            .buckets
            .iter()
            .map(|bucket| bucket.load(std::sync::atomic::Ordering::Relaxed))
            .collect();
        (from.bounds(), counts, load(&from.sum_ns) / 1e9)
    };
    histogram(
        "etcd_network_peer_round_trip_time_seconds",
        "Round-Trip-Time histogram between peers",
        &|peer| read(&peer.round_trips),
    );
    histogram(
        "etcd_network_snapshot_send_total_duration_seconds",
        "Total latency distributions of v3 snapshot sends",
        &|peer| read(&peer.snapshot_durations),
    );
}

#[cfg(test)]
mod tests;
