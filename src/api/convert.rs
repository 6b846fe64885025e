//! The one place that names both the CRD types and the planner's: a spec is checked and becomes [`plan::Wanted`].
//!
//! Invariant: every CEL rule of the schema has its twin here, with the same message behind the field's path, and a test
//! that breaks it: what the API server refuses is refused on the local platform too.

use std::collections::BTreeMap;
use std::fmt;

use kube::ResourceExt;

use super::etcd_backup::{EtcdBackup, EtcdBackupSpec};
use super::etcd_cluster::{
    self as spec, AutoCompactionMode, EtcdCluster, EtcdClusterSpec, IpFamilyPolicy, IssuerKind, LogLevel, ServiceKind,
};
use super::parts::Store;
use super::quantity::{Duration, Quantity};
use super::schedule::{Schedule, parse_rfc3339};
use crate::plan::wanted as plan;
use crate::plan::{Timestamp, backup};

/// Restarts the members, one at a time, whenever its value changes.
pub const RESTART_ANNOTATION: &str = "quorate.dev/restart";
/// Defragments every member once whenever its value changes.
pub const DEFRAG_ANNOTATION: &str = "quorate.dev/defrag";
/// Replaces the member that it names.
pub const REPLACE_ANNOTATION: &str = "quorate.dev/replace-member";
/// Asks that a member leads: its name, and after a space a token that makes the request a new one.
pub const MOVE_LEADER_ANNOTATION: &str = "quorate.dev/move-leader";
/// `"true"` is as `spec.paused: true`.
pub const PAUSE_ANNOTATION: &str = "quorate.dev/pause";

/// Flags that the operator sets itself, by name or by prefix.
const OWNED_FLAGS: [&str; 23] = [
    "name",
    "data-dir",
    "wal-dir",
    "cert-file",
    "key-file",
    "trusted-ca-file",
    "auto-tls",
    "config-file",
    "force-new-cluster",
    "strict-reconfig-check",
    "quota-backend-bytes",
    "snapshot-count",
    "heartbeat-interval",
    "election-timeout",
    "max-request-bytes",
    "max-concurrent-streams",
    "metrics",
    "log-level",
    "client-cert-auth",
    "client-crl-file",
    "client-cert-file",
    "client-key-file",
    "self-signed-cert-validity",
];
const OWNED_PREFIXES: [&str; 7] = [
    "initial-",
    "listen-",
    "advertise-",
    "peer-",
    "discovery",
    "auto-compaction-",
    "experimental-peer-",
];

/// The CEL twin of the two lists above.
pub(super) const EXTRA_ARGS_RULE: &str = "self.all(k, k.matches('^[a-z][a-z0-9-]*$') && !(k in ['name', 'data-dir', \
    'wal-dir', 'cert-file', 'key-file', 'trusted-ca-file', 'auto-tls', 'config-file', 'force-new-cluster', \
    'strict-reconfig-check', 'quota-backend-bytes', 'snapshot-count', 'heartbeat-interval', 'election-timeout', \
    'max-request-bytes', 'max-concurrent-streams', 'metrics', 'log-level', 'client-cert-auth', 'client-crl-file', \
    'client-cert-file', 'client-key-file', 'self-signed-cert-validity']) && !k.startsWith('initial-') && \
    !k.startsWith('listen-') && !k.startsWith('advertise-') && !k.startsWith('peer-') && !k.startsWith('discovery') && \
    !k.startsWith('auto-compaction-') && !k.startsWith('experimental-peer-'))";
/// Its message.
pub(super) const EXTRA_ARGS_MESSAGE: &str = "extraArgs holds names of flags without dashes, and none that the operator \
    owns (name, data-dir, initial-*, listen-*, advertise-*, peer-*, certificates, force-new-cluster, or what spec.options \
    sets): remove it, or use the field of spec.options or spec.tls";

/// A field whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, e.g. `spec.storage.size`.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// A manifest whose fields cannot be used; every such field is listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub errors: Vec<FieldError>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be used", self.object)?;
        self.errors.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

/// Collects what is wrong, so that all of it is told at once.
#[derive(Default)]
struct Check(Vec<FieldError>);

impl Check {
    fn refuse(&mut self, path: &str, problem: impl Into<String>) {
        self.0.push(FieldError {
            path: path.into(),
            problem: problem.into(),
        });
    }

    fn must(&mut self, holds: bool, path: &str, problem: &str) {
        if !holds {
            self.refuse(path, problem);
        }
    }

    fn bytes(&mut self, path: &str, value: &Quantity) -> u64 {
        value.bytes().unwrap_or_else(|error| {
            self.refuse(path, error.to_string());
            0
        })
    }

    fn duration(&mut self, path: &str, value: &Duration) -> std::time::Duration {
        value.get().unwrap_or_else(|error| {
            self.refuse(path, error.to_string());
            std::time::Duration::ZERO
        })
    }

    fn count<T: TryFrom<N> + Default, N: Copy + fmt::Display>(&mut self, path: &str, value: N) -> T {
        T::try_from(value).unwrap_or_else(|_| {
            self.refuse(path, format!("{value} is out of range: write a positive number"));
            T::default()
        })
    }

    fn schedule(&mut self, path: &str, text: &str, zone: Option<&str>) -> Option<Schedule> {
        Schedule::parse(text, zone)
            .map_err(|error| self.refuse(path, error.to_string()))
            .ok()
    }

    fn done<T>(self, object: String, value: T) -> Result<T, Invalid> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(Invalid { object, errors: self.0 })
        }
    }
}

/// What the planner is to want, from a cluster and the backup policies that name it; or all that is wrong with it.
///
/// The object needs a uid, and backups a creation time: the platform sets them, as the API server does.
pub fn wanted(cluster: &EtcdCluster, backups: &[EtcdBackup], now: Timestamp) -> Result<plan::Wanted, Invalid> {
    let mut check = Check::default();
    let name = cluster.name_any();
    cluster_name(&mut check, &name);
    let mut wanted = wanted_spec(&mut check, &cluster.spec);
    wanted.namespace = cluster.namespace().unwrap_or_else(|| "default".into());
    wanted.uid = cluster.uid().unwrap_or_default();
    wanted.generation = cluster.metadata.generation.unwrap_or(1);
    let annotation = |key: &str| cluster.annotations().get(key).cloned();
    wanted.restart_token = annotation(RESTART_ANNOTATION).unwrap_or_default();
    wanted.defrag_token = annotation(DEFRAG_ANNOTATION).unwrap_or_default();
    wanted.replace_member = annotation(REPLACE_ANNOTATION);
    wanted.move_leader = annotation(MOVE_LEADER_ANNOTATION);
    wanted.paused |= annotation(PAUSE_ANNOTATION).as_deref() == Some("true");
    wanted.deleting = cluster
        .metadata
        .deletion_timestamp
        .as_ref()
        .and_then(|t| parse_rfc3339(&t.0.to_string()));
    wanted.backups = backups
        .iter()
        .filter(|b| b.is_of(&name))
        .filter_map(|b| policy(b, now))
        .collect();
    wanted.name = name;
    check.done(format!("EtcdCluster {}", wanted.name), wanted)
}

/// All that is wrong with a cluster, without converting it.
pub fn check_cluster(cluster: &EtcdCluster) -> Vec<FieldError> {
    wanted(cluster, &[], Timestamp::default())
        .err()
        .map(|invalid| invalid.errors)
        .unwrap_or_default()
}

/// What a change of spec may not change: the twin of the rules with `oldSelf`.
pub fn check_change(old: &EtcdClusterSpec, new: &EtcdClusterSpec) -> Vec<FieldError> {
    let mut check = Check::default();
    check.must(
        old.bootstrap == new.bootstrap,
        "spec.bootstrap",
        "bootstrap is read once, when the cluster begins, and cannot be changed: create a new EtcdCluster instead",
    );
    check.must(
        old.engine == new.engine,
        "spec.engine",
        "engine cannot be changed: create a new EtcdCluster and restore a backup into it",
    );
    check.must(
        old.storage.storage_class_name == new.storage.storage_class_name,
        "spec.storage.storageClassName",
        "storage.storageClassName cannot be changed, volumes keep their class: write the former value, or create a new EtcdCluster and restore a backup into it",
    );
    check.must(
        old.tls.insecure == new.tls.insecure,
        "spec.tls.insecure",
        "tls.insecure cannot be changed, members with and without TLS do not understand each other: create a new EtcdCluster and restore a backup into it",
    );
    check.must(
        old.cluster_domain == new.cluster_domain,
        "spec.clusterDomain",
        "clusterDomain cannot be changed, members are registered under it: write the former value, or create a new EtcdCluster and restore a backup into it",
    );
    if let (Some(before), Some(after)) = (old.version.as_deref(), new.version.as_deref()) {
        check.must(
            before == after || is_next_or_same_minor(before, after),
            "spec.version",
            "version may rise by one minor at a time and not go down one (patches are free): write the next minor first, or restore a backup into a new EtcdCluster",
        );
    }
    if let (Ok(before), Ok(after)) = (old.storage.size.bytes(), new.storage.size.bytes()) {
        let problem = format!("storage.size cannot shrink: write {} or more", old.storage.size);
        check.must(after >= before, "spec.storage.size", &problem);
    }
    check.0
}

fn cluster_name(check: &mut Check, name: &str) {
    let path = "metadata.name";
    check.must(
        name.len() <= 40,
        path,
        "may have at most 40 characters: member names, Services and certificates are derived from it",
    );
    let letter = name.starts_with(|c: char| c.is_ascii_lowercase());
    let plain = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    check.must(
        letter && plain && !name.ends_with('-'),
        path,
        "must begin with a letter and hold only a-z, 0-9 and -: it becomes the name of a Service",
    );
}

fn wanted_spec(check: &mut Check, spec: &EtcdClusterSpec) -> plan::Wanted {
    replicas(check, spec.replicas);
    if spec.engine == spec::Engine::Etcd && spec.version.is_none() {
        check.refuse(
            "spec.version",
            "engine etcd needs version: write the etcd version to run, e.g. version: 3.7.3",
        );
    }
    if let Some(version) = spec.version.as_ref().filter(|v| !is_version(v)) {
        check.refuse(
            "spec.version",
            format!("{version:?} is not a version: write it as in 3.7.3"),
        );
    }
    let options = options(check, &spec.options);
    let storage = storage(check, &spec.storage);
    let copies = if spec.engine == spec::Engine::Etcd { 4 } else { 3 };
    // In halves: 1.5 times, or 2 with engine etcd.
    if storage.size_bytes.saturating_mul(2) < options.quota_bytes.saturating_mul(copies) {
        check.refuse(
            "spec.storage.size",
            format!(
                "storage.size must be at least {} times options.quotaBackendBytes ({}): raise storage.size or lower the quota",
                if copies == 4 { "2" } else { "1.5" },
                spec.options.quota_backend_bytes
            ),
        );
    }
    check.must(
        spec.storage.medium == spec::Medium::Volume,
        "spec.storage.medium",
        "storage.medium: Memory is not supported: a member that restarts would lose its data and its identity; write Volume or leave it out",
    );
    extra_args(check, &spec.extra_args);
    pod_template(check, spec.pod_template.as_ref());
    if let Some(domain) = &spec.cluster_domain {
        check.must(
            is_domain(domain),
            "spec.clusterDomain",
            "clusterDomain is a DNS name without a dot at its end: write it as in cluster.local",
        );
    }
    let repair_manual = spec.repair.mode == spec::RepairMode::Manual;
    check.must(
        !repair_manual || spec.recovery.mode == spec::RecoveryMode::Manual,
        "spec.recovery.mode",
        "with repair.mode: Manual write recovery.mode: Manual as well: a cluster that may not replace a member by itself may not replace most of them",
    );
    let progress: u64 = check.count("spec.progressDeadlineSeconds", spec.progress_deadline_seconds);
    check.must(progress >= 60, "spec.progressDeadlineSeconds", "must be at least 60");
    plan::Wanted {
        namespace: String::new(),
        name: String::new(),
        uid: String::new(),
        generation: 0,
        replicas: u32::try_from(spec.replicas).unwrap_or(0),
        engine: match spec.engine {
            spec::Engine::Quorate => plan::Engine::Quorate,
            spec::Engine::Etcd => plan::Engine::Etcd,
        },
        version: spec.version.clone(),
        image: spec.image.clone(),
        storage,
        tls: tls(check, &spec.tls),
        options,
        extra_args: spec.extra_args.clone(),
        pod: plan::PodText {
            resources: canonical(&spec.resources),
            template: canonical(&spec.pod_template),
        },
        client_service: client_service(check, &spec.service.client),
        disruption_budget: spec.pod_disruption_budget.enabled,
        network_policy: spec.network_policy.enabled,
        bootstrap: bootstrap(check, spec.bootstrap.as_ref()),
        repair: repair(check, &spec.repair),
        recovery: recovery(check, &spec.recovery),
        maintenance: maintenance(check, &spec.maintenance),
        update: plan::Update {
            rolling: spec.update_strategy.kind == spec::UpdateKind::Rolling,
            min_ready: std::time::Duration::from_secs(check.count(
                "spec.updateStrategy.minReadySeconds",
                spec.update_strategy.min_ready_seconds,
            )),
        },
        paused: spec.paused,
        deleting: None,
        deletion_policy: match spec.deletion_policy {
            spec::DeletionPolicy::Retain => plan::DeletionPolicy::Retain,
            spec::DeletionPolicy::Delete => plan::DeletionPolicy::Delete,
            spec::DeletionPolicy::SnapshotThenDelete => plan::DeletionPolicy::SnapshotThenDelete,
        },
        restart_token: String::new(),
        defrag_token: String::new(),
        replace_member: None,
        move_leader: None,
        progress_deadline: std::time::Duration::from_secs(progress),
        backups: Vec::new(),
    }
}

fn replicas(check: &mut Check, replicas: i32) {
    let path = "spec.replicas";
    if !(0..=9).contains(&replicas) {
        check.refuse(
            path,
            format!("{replicas} is out of range: write 1, 3, 5, 7 or 9, or 0 to hibernate"),
        );
    } else if replicas != 0 && replicas % 2 == 0 {
        check.refuse(
            path,
            format!(
                "{replicas} is even: {replicas} members survive the loss of {}, as {} do, and need one more for every \
                 write; write {} or {} (or 0 to hibernate)",
                (replicas - 1) / 2,
                replicas - 1,
                replicas - 1,
                replicas + 1
            ),
        );
    }
}

fn is_domain(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(edge) && text.ends_with(edge) && text.chars().all(|c| edge(c) || c == '-' || c == '.')
}

fn is_version(text: &str) -> bool {
    let (numbers, _) = text.split_once('-').unwrap_or((text, ""));
    let parts: Vec<&str> = numbers.split('.').collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|p| !p.is_empty() && p.chars().all(|c| c.is_ascii_digit()))
}

/// Whether `after` has the major version of `before`, and its minor version or the next one.
fn is_next_or_same_minor(before: &str, after: &str) -> bool {
    let parts = |text: &str| {
        let mut numbers = text.split('.').map(|n| n.parse::<i64>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    let (Some(before), Some(after)) = (parts(before), parts(after)) else {
        return false;
    };
    before.0 == after.0 && (0..=1).contains(&(after.1 - before.1))
}

/// Refuses labels or annotations that are the operator's.
fn foreign_keys(check: &mut Check, path: &str, map: &BTreeMap<String, String>) {
    if let Some(key) = map.keys().find(|key| key.starts_with("quorate.dev/")) {
        check.refuse(&format!("{path}.{key}"), super::schema::FOREIGN_KEYS_MESSAGE);
    }
}

fn pod_template(check: &mut Check, template: Option<&super::parts::PodTemplate>) {
    if let Some(metadata) = template.and_then(|t| t.metadata.as_ref()) {
        foreign_keys(check, "spec.podTemplate.metadata.labels", &metadata.labels);
        foreign_keys(check, "spec.podTemplate.metadata.annotations", &metadata.annotations);
    }
}

fn canonical<T: serde::Serialize>(value: &Option<T>) -> String {
    value
        .as_ref()
        .and_then(|v| serde_json::to_string(v).ok())
        .unwrap_or_default()
}

fn extra_args(check: &mut Check, args: &BTreeMap<String, String>) {
    for flag in args.keys() {
        let path = format!("spec.extraArgs.{flag}");
        let well_formed = flag.starts_with(|c: char| c.is_ascii_lowercase())
            && flag
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !well_formed {
            check.refuse(
                &path,
                "write the flag's name as in its long form, without dashes before it, e.g. log-outputs",
            );
        } else if OWNED_FLAGS.contains(&flag.as_str()) || OWNED_PREFIXES.iter().any(|p| flag.starts_with(p)) {
            check.refuse(
                &path,
                format!("the operator owns --{flag}: remove it here, or use the field of spec.options or spec.tls"),
            );
        }
    }
}

fn storage(check: &mut Check, storage: &spec::Storage) -> plan::Storage {
    plan::Storage {
        size_bytes: check.bytes("spec.storage.size", &storage.size),
        class: storage.storage_class_name.clone(),
        reclaim: match storage.reclaim_policy {
            spec::ReclaimPolicy::Retain => plan::Reclaim::Retain,
            spec::ReclaimPolicy::Delete => plan::Reclaim::Delete,
        },
        retain_for: check.duration("spec.storage.retainFor", &storage.retain_for),
    }
}

fn options(check: &mut Check, options: &spec::Options) -> plan::Options {
    let heartbeat = check.duration("spec.options.heartbeatInterval", &options.heartbeat_interval);
    let election = check.duration("spec.options.electionTimeout", &options.election_timeout);
    let (h, e) = (heartbeat.as_millis(), election.as_millis());
    check.must(
        h >= 1,
        "spec.options.heartbeatInterval",
        "must be at least 1ms; 100ms suits one data centre",
    );
    check.must(e <= 50_000, "spec.options.electionTimeout", "may be at most 50s");
    let problem = format!(
        "must be at least 5 times options.heartbeatInterval ({}): write {}ms or more",
        options.heartbeat_interval,
        5 * h
    );
    check.must(e >= 5 * h, "spec.options.electionTimeout", &problem);
    let snapshot_count: u64 = check.count("spec.options.snapshotCount", options.snapshot_count);
    check.must(
        snapshot_count >= 100,
        "spec.options.snapshotCount",
        "must be at least 100",
    );
    let quota_bytes = check.bytes("spec.options.quotaBackendBytes", &options.quota_backend_bytes);
    check.must(
        quota_bytes > 0,
        "spec.options.quotaBackendBytes",
        "must be more than 0, e.g. 8Gi",
    );
    let max_request_bytes = check.bytes("spec.options.maxRequestBytes", &options.max_request_bytes);
    check.must(
        max_request_bytes > 0 && (max_request_bytes < quota_bytes || quota_bytes == 0),
        "spec.options.maxRequestBytes",
        "must be more than 0 and less than options.quotaBackendBytes: write e.g. 1536Ki",
    );
    plan::Options {
        quota_bytes,
        auto_compaction: auto_compaction(check, options),
        snapshot_count,
        heartbeat,
        election,
        max_request_bytes,
        max_concurrent_streams: options
            .max_concurrent_streams
            .map(|n| check.count("spec.options.maxConcurrentStreams", n)),
        extensive_metrics: options.metrics == spec::Metrics::Extensive,
        log_level: match options.log_level {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
        .into(),
    }
}

fn auto_compaction(check: &mut Check, options: &spec::Options) -> plan::AutoCompaction {
    let path = "spec.options.autoCompactionRetention";
    let retention = options.auto_compaction_retention.as_deref();
    match options.auto_compaction_mode {
        AutoCompactionMode::Off => plan::AutoCompaction::Off,
        AutoCompactionMode::Periodic => {
            let keep = check.duration(path, &Duration::from(retention.unwrap_or("1h")));
            plan::AutoCompaction::Periodic(keep)
        }
        AutoCompactionMode::Revision => match retention.unwrap_or("10000").parse() {
            Ok(keep) => plan::AutoCompaction::Revisions(keep),
            Err(_) => {
                check.refuse(
                    path,
                    "with mode revision write a number of revisions in quotes, e.g. \"10000\"",
                );
                plan::AutoCompaction::Off
            }
        },
    }
}

fn tls(check: &mut Check, tls: &spec::Tls) -> plan::Tls {
    if tls.insecure {
        check.must(
            tls.client.is_none() && tls.peer.is_none(),
            "spec.tls.insecure",
            "insecure: true means plaintext: remove tls.client and tls.peer, or set insecure to false",
        );
        return plan::Tls {
            client: None,
            peer: None,
            client_cert_auth: false,
        };
    }
    let default = || spec::TlsSide {
        client_cert_auth: true,
        ..spec::TlsSide::default()
    };
    let client = tls.client.clone().unwrap_or_else(default);
    let peer = tls.peer.clone().unwrap_or_else(default);
    plan::Tls {
        client_cert_auth: client.client_cert_auth,
        client: Some(tls_side(check, "spec.tls.client", &client)),
        peer: Some(tls_side(check, "spec.tls.peer", &peer)),
    }
}

fn tls_side(check: &mut Check, path: &str, side: &spec::TlsSide) -> plan::TlsSide {
    let issuer = match (&side.self_signed, &side.cert_manager, &side.secret_ref) {
        (_, None, None) => plan::Issuer::SelfSigned,
        (None, Some(manager), None) => plan::Issuer::CertManager {
            name: manager.issuer_ref.name.clone(),
            kind: match manager.issuer_ref.kind {
                IssuerKind::Issuer => "Issuer",
                IssuerKind::ClusterIssuer => "ClusterIssuer",
            }
            .into(),
        },
        (None, None, Some(secret)) => plan::Issuer::Secret {
            name: secret.name.clone(),
        },
        _ => {
            check.refuse(path, "give at most one of selfSigned, certManager and secretRef");
            plan::Issuer::SelfSigned
        }
    };
    let mut span = |field: &str, value: &Duration| check.duration(&format!("{path}.rotation.{field}"), value);
    let rotation = &side.rotation;
    let validity = span("validity", &rotation.validity);
    let renew_before = span("renewBefore", &rotation.renew_before);
    let ca_validity = span("caValidity", &rotation.ca_validity);
    let ca_renew_before = span("caRenewBefore", &rotation.ca_renew_before);
    check.must(
        renew_before < validity,
        &format!("{path}.rotation.renewBefore"),
        "must be shorter than rotation.validity",
    );
    check.must(
        ca_renew_before < ca_validity,
        &format!("{path}.rotation.caRenewBefore"),
        "must be shorter than rotation.caValidity",
    );
    check.must(
        validity >= std::time::Duration::from_secs(60) && ca_validity >= validity,
        &format!("{path}.rotation.validity"),
        "must be at least 1m and no longer than rotation.caValidity",
    );
    plan::TlsSide {
        issuer,
        validity,
        renew_before,
        ca_validity,
        ca_renew_before,
    }
}

fn client_service(check: &mut Check, service: &spec::ServiceSettings) -> plan::ClientService {
    foreign_keys(check, "spec.service.client.labels", &service.labels);
    foreign_keys(check, "spec.service.client.annotations", &service.annotations);
    check.must(
        service
            .traffic_distribution
            .as_deref()
            .is_none_or(|t| ["PreferSameZone", "PreferSameNode", "PreferClose"].contains(&t)),
        "spec.service.client.trafficDistribution",
        "trafficDistribution is PreferSameZone, PreferSameNode or PreferClose: write one of them, or remove it",
    );
    plan::ClientService {
        kind: match service.kind {
            ServiceKind::ClusterIP => "ClusterIP",
            ServiceKind::NodePort => "NodePort",
            ServiceKind::LoadBalancer => "LoadBalancer",
        }
        .into(),
        annotations: service.annotations.clone(),
        labels: service.labels.clone(),
        traffic_distribution: service.traffic_distribution.clone(),
        ip_family_policy: service.ip_family_policy.map(|policy| {
            match policy {
                IpFamilyPolicy::SingleStack => "SingleStack",
                IpFamilyPolicy::PreferDualStack => "PreferDualStack",
                IpFamilyPolicy::RequireDualStack => "RequireDualStack",
            }
            .into()
        }),
    }
}

fn bootstrap(check: &mut Check, bootstrap: Option<&spec::Bootstrap>) -> plan::Bootstrap {
    let path = "spec.bootstrap";
    match bootstrap.map(|b| (&b.new, &b.restore)) {
        None | Some((Some(_), None)) => plan::Bootstrap::New,
        Some((None, Some(restore))) => {
            let from = match (&restore.backup_ref, &restore.source) {
                (Some(backup), None) => plan::BackupSource::Backup(backup.name.clone()),
                (None, Some(source)) => {
                    store(check, "spec.bootstrap.restore.source", source);
                    check.must(
                        source
                            .s3
                            .as_ref()
                            .is_none_or(|s3| s3.key.is_some() || s3.prefix.is_some()),
                        "spec.bootstrap.restore.source.s3",
                        "give key (the object to restore) or prefix (the newest verified backup below it)",
                    );
                    plan::BackupSource::Location(canonical(&Some(source)))
                }
                _ => {
                    check.refuse(
                        "spec.bootstrap.restore",
                        "give exactly one of backupRef (an EtcdBackup of this namespace) and source (where the object lies)",
                    );
                    return plan::Bootstrap::New;
                }
            };
            plan::Bootstrap::Restore(plan::RestoreSource {
                from,
                revision_bump: restore
                    .revision_bump
                    .map(|n| check.count("spec.bootstrap.restore.revisionBump", n)),
                skip_hash_check: restore.skip_hash_check,
            })
        }
        Some(_) => {
            check.refuse(path, "give exactly one of bootstrap.new and bootstrap.restore");
            plan::Bootstrap::New
        }
    }
}

/// Checks a place for backups.
fn store(check: &mut Check, path: &str, store: &Store) {
    let given = [store.s3.is_some(), store.pvc.is_some(), store.directory.is_some()];
    check.must(
        given.iter().filter(|x| **x).count() == 1,
        path,
        "give exactly one of s3, pvc and directory",
    );
    if let Some(s3) = &store.s3 {
        if let Some(endpoint) = &s3.endpoint {
            check.must(
                endpoint.starts_with("https://") || endpoint.starts_with("http://"),
                &format!("{path}.s3.endpoint"),
                "endpoint is a URL: begin it with https:// (or http://)",
            );
        }
        check.must(
            s3.key.is_none() || s3.prefix.is_none(),
            &format!("{path}.s3"),
            "give key (one object) or prefix (objects are named below it), not both: remove one",
        );
        check.must(
            s3.allow_http || s3.endpoint.as_ref().is_none_or(|e| !e.starts_with("http://")),
            &format!("{path}.s3.endpoint"),
            "endpoint is plain http, which everybody on the way can read: write https://, or set allowHTTP: true",
        );
        check.must(
            is_bucket(&s3.bucket),
            &format!("{path}.s3.bucket"),
            "a bucket's name has 3 to 63 of a-z, 0-9, - and ., and begins and ends with a letter or digit: write the bucket alone, without s3:// or a path",
        );
        for (field, value) in [("key", &s3.key), ("prefix", &s3.prefix)] {
            check.must(
                value.as_ref().is_none_or(|v| !v.starts_with('/')),
                &format!("{path}.s3.{field}"),
                &format!("{field} has no / at its beginning: remove it"),
            );
        }
        check.must(
            s3.sse.as_deref().is_none_or(|s| ["AES256", "aws:kms"].contains(&s)),
            &format!("{path}.s3.sse"),
            "sse is AES256 or aws:kms: write one of them, or remove it",
        );
    }
    if let Some(sub_path) = store.pvc.as_ref().and_then(|pvc| pvc.sub_path.as_ref()) {
        check.must(
            !sub_path.starts_with('/') && sub_path.split('/').all(|part| part != ".."),
            &format!("{path}.pvc.subPath"),
            "subPath is a path below the volume's root: write it without / at its beginning and without ..",
        );
    }
}

fn is_bucket(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-' || c == '.')
}

fn repair(check: &mut Check, repair: &spec::Repair) -> plan::Repair {
    let after = check.duration("spec.repair.after", &repair.after);
    check.must(
        after.as_secs() >= 30,
        "spec.repair.after",
        "must be at least 30s: shorter outages heal by themselves",
    );
    plan::Repair {
        automatic: repair.mode == spec::RepairMode::Auto,
        after,
        corrupt: check.duration("spec.repair.corrupt", &repair.corrupt),
    }
}

fn recovery(check: &mut Check, recovery: &spec::Recovery) -> plan::Recovery {
    let from_backup = recovery.from == spec::RecoveryFrom::Backup;
    check.must(
        recovery.backup_ref.is_none() || from_backup,
        "spec.recovery.backupRef",
        "counts only with recovery.from: backup",
    );
    if let Some(hash) = &recovery.acknowledge {
        let hex = hash.len() == 16 && hash.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        check.must(
            hex,
            "spec.recovery.acknowledge",
            "write the hash from status.recovery.hash: 16 hexadecimal digits",
        );
    }
    plan::Recovery {
        automatic: recovery.mode == spec::RecoveryMode::Automatic,
        acknowledge: recovery.acknowledge.clone(),
        from: match recovery.from {
            spec::RecoveryFrom::Survivor => plan::RecoverFrom::Survivor,
            spec::RecoveryFrom::Backup => {
                plan::RecoverFrom::Backup(recovery.backup_ref.as_ref().map(|r| r.name.clone()))
            }
        },
        from_backup_automatic: recovery.from_backup == spec::FromBackup::Automatic,
    }
}

fn maintenance(check: &mut Check, maintenance: &spec::Maintenance) -> plan::Maintenance {
    let defrag = &maintenance.defrag;
    let path = "spec.maintenance.defrag";
    if let Some(schedule) = &defrag.schedule {
        check.schedule(&format!("{path}.schedule"), schedule, defrag.time_zone.as_deref());
    }
    check.must(
        defrag.time_zone.is_none() || defrag.schedule.is_some(),
        &format!("{path}.timeZone"),
        "counts only with defrag.schedule",
    );
    let percent = defrag
        .rule
        .quota_usage_above
        .strip_suffix('%')
        .and_then(|n| n.parse().ok())
        .filter(|n| *n <= 100);
    if percent.is_none() {
        check.refuse(
            &format!("{path}.rule.quotaUsageAbove"),
            "write a share in percent, e.g. \"80%\"",
        );
    }
    plan::Maintenance {
        defrag: plan::Defrag {
            free_above_bytes: check.bytes(&format!("{path}.rule.freeSpaceAbove"), &defrag.rule.free_space_above),
            quota_above_percent: percent.unwrap_or(100),
            min_reclaim_bytes: check.bytes(&format!("{path}.rule.minReclaim"), &defrag.rule.min_reclaim),
            all: defrag.rule.all,
            scheduled: defrag.schedule.is_some(),
            move_leader: defrag.move_leader,
            settle: check.duration(&format!("{path}.settle"), &defrag.settle),
        },
        nospace_auto: maintenance.alarms.nospace == spec::NoSpacePolicy::Auto,
        corrupt_replace: maintenance.alarms.corrupt == spec::CorruptPolicy::Replace,
    }
}

/// The newest tick of `maintenance.defrag.schedule` that is not after `now`: for `Observed::defrag_tick`.
pub fn defrag_tick(spec: &EtcdClusterSpec, now: Timestamp) -> Option<Timestamp> {
    let defrag = &spec.maintenance.defrag;
    Schedule::parse(defrag.schedule.as_deref()?, defrag.time_zone.as_deref())
        .ok()?
        .last(now)
}

/// All that is wrong with a backup.
pub fn check_backup(backup: &EtcdBackup) -> Vec<FieldError> {
    let mut check = Check::default();
    let spec = &backup.spec;
    let name = backup.name_any();
    check.must(
        spec.cluster_ref.is_some() != spec.endpoints.is_some(),
        "spec",
        "give exactly one of clusterRef (an EtcdCluster of this namespace) and endpoints (an etcd elsewhere)",
    );
    check.must(
        spec.client_tls_secret_ref.is_none() || spec.endpoints.is_some(),
        "spec.clientTLSSecretRef",
        "counts only with endpoints",
    );
    store(&mut check, "spec.destination", &spec.destination);
    let timeout = check.duration("spec.timeout", &spec.timeout);
    check.must(
        timeout.as_secs() >= 1,
        "spec.timeout",
        "must be at least 1s: write e.g. 15m",
    );
    for endpoint in spec.endpoints.iter().flatten() {
        let secure = endpoint.starts_with("https://");
        check.must(
            secure || (endpoint.starts_with("http://") && spec.client_tls_secret_ref.is_none()),
            "spec.endpoints",
            "endpoints are client URLs: begin each with https://, or with http:// and no clientTLSSecretRef",
        );
    }
    pod_template(&mut check, spec.pod_template.as_ref());
    match &spec.schedule {
        Some(schedule) => {
            check.schedule("spec.schedule", schedule, spec.time_zone.as_deref());
            check.must(
                name.len() <= 40,
                "metadata.name",
                "of a backup with a schedule may have at most 40 characters: the names of its backups add the time",
            );
            check.must(
                spec.destination.s3.as_ref().is_none_or(|s3| s3.key.is_none()),
                "spec.destination.s3.key",
                "with schedule write prefix, not key: every backup is an object of its own",
            );
        }
        None => {
            for (field, given) in [
                ("timeZone", spec.time_zone.is_some()),
                ("suspend", spec.suspend.is_some()),
                ("startingDeadlineSeconds", spec.starting_deadline_seconds.is_some()),
                ("concurrencyPolicy", spec.concurrency_policy.is_some()),
                ("immediate", spec.immediate.is_some()),
                ("retention", spec.retention.is_some()),
                ("backupOwnerReference", spec.backup_owner_reference.is_some()),
            ] {
                check.must(
                    !given,
                    &format!("spec.{field}"),
                    "counts only with schedule: remove it, or add schedule",
                );
            }
        }
    }
    if let Some(retention) = &spec.retention {
        check.must(retention.min_keep >= 1, "spec.retention.minKeep", "must be at least 1");
        check.must(
            retention.min_keep <= retention.keep_last,
            "spec.retention.minKeep",
            "may not exceed retention.keepLast",
        );
        if let Some(age) = &retention.max_age {
            check.duration("spec.retention.maxAge", age);
        }
    }
    check.0
}

/// What a change of a backup's spec may not change.
pub fn check_backup_change(old: &EtcdBackupSpec, new: &EtcdBackupSpec) -> Vec<FieldError> {
    let mut check = Check::default();
    check.must(
        old.cluster_ref == new.cluster_ref,
        "spec.clusterRef",
        "cannot be changed: create another EtcdBackup",
    );
    check.must(
        old.schedule.is_some() == new.schedule.is_some(),
        "spec.schedule",
        "cannot be added or removed: a backup and a policy are two objects",
    );
    check.must(
        new.schedule.is_some() || old == new,
        "spec",
        "a backup without a schedule cannot be changed: create another EtcdBackup",
    );
    check.0
}

/// The policy that an `EtcdBackup` with a schedule is; none for a one-shot, or when its schedule cannot be read.
pub fn policy(object: &EtcdBackup, now: Timestamp) -> Option<backup::Policy> {
    let spec = &object.spec;
    let schedule = Schedule::parse(spec.schedule.as_deref()?, spec.time_zone.as_deref()).ok()?;
    let created = created(object)?;
    let retention = spec.retention.clone().unwrap_or_default();
    Some(backup::Policy {
        name: object.name_any(),
        created,
        ticks: schedule.last(now).filter(|tick| *tick >= created).into_iter().collect(),
        next_tick: schedule.next(now),
        starting_deadline: spec
            .starting_deadline_seconds
            .and_then(|n| u64::try_from(n).ok())
            .map(std::time::Duration::from_secs),
        immediate: spec.immediate.unwrap_or(false),
        suspended: spec.suspend.unwrap_or(false),
        retention: backup::Retention {
            keep_last: u32::try_from(retention.keep_last).unwrap_or(1).max(1),
            max_age: retention.max_age.and_then(|age| age.get().ok()),
            min_keep: u32::try_from(retention.min_keep).unwrap_or(1).max(1),
        },
    })
}

/// The label of a policy's children: the policy's name.
pub const SCHEDULED_BY_LABEL: &str = "quorate.dev/scheduled-by";
/// The annotation of a policy's children: the tick, in milliseconds since the Unix epoch.
pub const SCHEDULED_AT_ANNOTATION: &str = "quorate.dev/scheduled-at";

/// A one-shot `EtcdBackup` as the planner sees it; none for a policy.
pub fn run(object: &EtcdBackup) -> Option<backup::Run> {
    if object.spec.schedule.is_some() {
        return None;
    }
    let status = object.status.clone().unwrap_or_default();
    let tick = object
        .annotations()
        .get(SCHEDULED_AT_ANNOTATION)
        .and_then(|t| t.parse().ok())
        .map(Timestamp);
    Some(backup::Run {
        name: object.name_any(),
        policy: object.labels().get(SCHEDULED_BY_LABEL).cloned(),
        scheduled: tick.or(created(object)).unwrap_or_default(),
        phase: match status.phase.as_deref() {
            Some("Running") => backup::Phase::Running,
            Some("Verifying") => backup::Phase::Verifying,
            Some("Completed") => backup::Phase::Completed,
            Some("Failed") => backup::Phase::Failed,
            _ => backup::Phase::Pending,
        },
        completed: status.completed_at.as_deref().and_then(parse_rfc3339),
        verified: status.verified.is_some(),
        revision: status.artifact.map_or(0, |a| a.revision),
    })
}

/// The one-shot child of a policy for one tick.
pub fn child(policy: &EtcdBackup, name: &str, scheduled: Timestamp) -> EtcdBackup {
    let spec = EtcdBackupSpec {
        schedule: None,
        time_zone: None,
        suspend: None,
        starting_deadline_seconds: None,
        concurrency_policy: None,
        immediate: None,
        retention: None,
        backup_owner_reference: None,
        ..policy.spec.clone()
    };
    let mut child = EtcdBackup::new(name, spec);
    child.metadata.namespace = policy.metadata.namespace.clone();
    child.labels_mut().insert(SCHEDULED_BY_LABEL.into(), policy.name_any());
    child
        .annotations_mut()
        .insert(SCHEDULED_AT_ANNOTATION.into(), scheduled.0.to_string());
    child
}

fn created(object: &EtcdBackup) -> Option<Timestamp> {
    object
        .metadata
        .creation_timestamp
        .as_ref()
        .and_then(|t| parse_rfc3339(&t.0.to_string()))
}
