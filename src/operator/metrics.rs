//! What the operator counts about itself, and what it tells about clusters and backups when it is scraped.
//!
//! Invariants:
//! - What is said about a cluster or a backup is read from its status at the scrape: nothing outlives its object.
//! - Label values are of bounded number: kinds, verbs and reasons, and the names of objects that exist.

use super::watches::Cache;
use crate::api::schedule::parse_rfc3339;
use crate::api::status::Condition;
use crate::api::{EtcdBackup, EtcdCluster};
use kube::ResourceExt;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::Duration;

type Labels<const N: usize> = [(&'static str, String); N];

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    rounds: Family<Labels<1>, Counter>,
    round_seconds: Histogram,
    steps: Family<Labels<2>, Counter>,
    requests: Family<Labels<3>, Counter>,
    relists: Family<Labels<1>, Counter>,
    watch_errors: Family<Labels<1>, Counter>,
    backups: Family<Labels<1>, Counter>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a look at a settled cluster (milliseconds) to a step that waits for a member.
        let buckets = [
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        ];
        Metrics {
            rounds: Family::default(),
            round_seconds: Histogram::new(buckets),
            steps: Family::default(),
            requests: Family::default(),
            relists: Family::default(),
            watch_errors: Family::default(),
            backups: Family::default(),
            leader: Gauge::default(),
        }
    }
}

impl Metrics {
    /// One round for a cluster: `settled`, `stepped`, `waiting`, `released` or `failed`.
    pub fn round(&self, result: &str, took: Duration) {
        self.rounds.get_or_create(&[("result", result.to_owned())]).inc();
        self.round_seconds.observe(took.as_secs_f64());
    }

    /// One step that was carried out.
    pub fn step(&self, kind: &str, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.steps
            .get_or_create(&[("step", kind.to_owned()), ("result", result.to_owned())])
            .inc();
    }

    /// One request to the API server.
    pub fn api_request(&self, verb: String, resource: String, code: String) {
        self.requests
            .get_or_create(&[("verb", verb), ("resource", resource), ("code", code)])
            .inc();
    }

    /// A kind was listed anew.
    pub fn relisted(&self, kind: &str) {
        self.relists.get_or_create(&[("kind", kind.to_owned())]).inc();
    }

    /// A watch broke.
    pub fn watch_failed(&self, kind: &str) {
        self.watch_errors.get_or_create(&[("kind", kind.to_owned())]).inc();
    }

    /// A try at a backup ended: `completed`, `retried` or `failed`.
    pub fn backup(&self, result: &str) {
        self.backups.get_or_create(&[("result", result.to_owned())]).inc();
    }

    /// Whether this process leads.
    pub fn lead(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// All of it, with what is told about objects, ready to be encoded.
    pub fn registry(&self, objects: Objects) -> Registry {
        let mut registry = Registry::with_prefix("quorate");
        let r = &mut registry;
        r.register("reconcile_rounds", "Rounds by result", self.rounds.clone());
        r.register("reconcile_seconds", "Duration of a round", self.round_seconds.clone());
        r.register("steps", "Disruptive steps that were carried out", self.steps.clone());
        r.register("api_requests", "Requests to the API server", self.requests.clone());
        r.register("relists", "Full lists of a watched kind", self.relists.clone());
        r.register("watch_errors", "Watches that broke", self.watch_errors.clone());
        r.register("backup_attempts", "Tries at a backup by result", self.backups.clone());
        r.register("leader", "1 while this process leads", self.leader.clone());
        r.register_collector(Box::new(objects));
        registry
    }
}

/// The objects that metrics speak of.
#[derive(Clone)]
pub struct Objects {
    /// All clusters.
    pub clusters: Cache<EtcdCluster>,
    /// All backups and policies.
    pub backups: Cache<EtcdBackup>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

/// One gauge with its samples.
struct Samples<const N: usize> {
    name: &'static str,
    help: &'static str,
    samples: Vec<(Labels<N>, f64)>,
}

impl<const N: usize> Samples<N> {
    fn encode(&self, encoder: &mut DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if self.samples.is_empty() {
            return Ok(());
        }
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Gauge)?;
        for (labels, value) in &self.samples {
            ConstGauge::new(*value).encode(metric.encode_family(labels)?)?;
        }
        Ok(())
    }
}

fn labels(object: &impl ResourceExt) -> [(&'static str, String); 2] {
    [
        ("namespace", object.namespace().unwrap_or_default()),
        ("name", object.name_any()),
    ]
}

/// A moment of a status as seconds since the Unix epoch.
fn seconds(text: Option<&str>) -> Option<f64> {
    text.and_then(parse_rfc3339).map(|moment| moment.0 as f64 / 1000.0)
}

fn truth(condition: &Condition) -> f64 {
    match condition.status.as_str() {
        "True" => 1.0,
        "False" => 0.0,
        _ => -1.0,
    }
}

impl Objects {
    fn encode_clusters(
        &self,
        encoder: &mut DescriptorEncoder,
        all: &[Arc<EtcdCluster>],
    ) -> Result<(), std::fmt::Error> {
        let mut conditions = Samples::<3> {
            name: "cluster_condition",
            help: "Condition of a cluster: 1 true, 0 false, -1 unknown",
            samples: Vec::new(),
        };
        let mut blocked = Samples::<3> {
            name: "cluster_blocked",
            help: "1 while something is in the way of a cluster's next action, by reason",
            samples: Vec::new(),
        };
        let simple = |name, help| Samples::<2> {
            name,
            help,
            samples: Vec::new(),
        };
        let mut wanted = simple("cluster_members_wanted", "Voting members that are wanted");
        let mut ready = simple("cluster_members_ready", "Voting members that are healthy");
        let mut quota = simple(
            "cluster_quota_used_ratio",
            "Share of the quota that the largest database uses",
        );
        let mut revision = simple("cluster_revision", "Revision of the key space");
        let mut ends = simple(
            "cluster_certificate_expiry_timestamp_seconds",
            "When the first certificate of a member ends",
        );
        for cluster in all {
            wanted
                .samples
                .push((labels(cluster.as_ref()), f64::from(cluster.spec.replicas)));
            let Some(status) = &cluster.status else { continue };
            let named = |kind: &'static str, value: &str| {
                let [namespace, name] = labels(cluster.as_ref());
                [namespace, name, (kind, value.to_owned())]
            };
            ready
                .samples
                .push((labels(cluster.as_ref()), f64::from(status.ready_replicas)));
            for condition in &status.conditions {
                conditions
                    .samples
                    .push((named("type", &condition.kind), truth(condition)));
            }
            let plan = status.plan.as_ref();
            if plan.is_some_and(|plan| plan.blocked_by.is_some()) {
                let why = status
                    .conditions
                    .iter()
                    .find(|condition| condition.kind == "Progressing");
                let reason = why.map_or("Unknown", |condition| condition.reason.as_str());
                blocked.samples.push((named("reason", reason), 1.0));
            }
            if let Some(percent) = status.quota_percent {
                quota
                    .samples
                    .push((labels(cluster.as_ref()), f64::from(percent) / 100.0));
            }
            if let Some(at) = status.revision {
                revision.samples.push((labels(cluster.as_ref()), at as f64));
            }
            let certificates = status.members.iter().map(|member| member.cert_not_after.as_deref());
            if let Some(first) = certificates.filter_map(seconds).reduce(f64::min) {
                ends.samples.push((labels(cluster.as_ref()), first));
            }
        }
        conditions.encode(encoder)?;
        blocked.encode(encoder)?;
        for gauge in [&wanted, &ready, &quota, &revision, &ends] {
            gauge.encode(encoder)?;
        }
        Ok(())
    }

    fn encode_backups(&self, encoder: &mut DescriptorEncoder, all: &[Arc<EtcdBackup>]) -> Result<(), std::fmt::Error> {
        let mut verified: std::collections::BTreeMap<(String, String), f64> = std::collections::BTreeMap::new();
        let mut phases = Samples::<3> {
            name: "backup_phase",
            help: "1 for the phase that a backup is in",
            samples: Vec::new(),
        };
        let mut next = Samples::<2> {
            name: "backup_next_timestamp_seconds",
            help: "When a policy takes its next backup",
            samples: Vec::new(),
        };
        for backup in all {
            let namespace = backup.namespace().unwrap_or_default();
            let status = backup.status.clone().unwrap_or_default();
            if let (Some(cluster), Some(at)) = (
                &backup.spec.cluster_ref,
                seconds(status.verified.as_ref().map(|verified| verified.time.as_str())),
            ) {
                let newest = verified.entry((namespace, cluster.name.clone())).or_insert(at);
                *newest = newest.max(at);
            }
            let [namespace, name] = labels(backup.as_ref());
            let phase = status.phase.clone().unwrap_or_else(|| "Pending".to_owned());
            phases.samples.push(([namespace, name, ("phase", phase)], 1.0));
            if let Some(at) = seconds(status.next_schedule_time.as_deref()) {
                next.samples.push((labels(backup.as_ref()), at));
            }
        }
        let last = Samples::<2> {
            name: "cluster_backup_verified_timestamp_seconds",
            help: "When the newest verified backup of a cluster was verified",
            samples: verified
                .into_iter()
                .map(|((namespace, cluster), at)| ([("namespace", namespace), ("name", cluster)], at))
                .collect(),
        };
        phases.encode(encoder)?;
        next.encode(encoder)?;
        last.encode(encoder)
    }
}

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        self.encode_clusters(&mut encoder, &self.clusters.all())?;
        self.encode_backups(&mut encoder, &self.backups.all())?;
        let mut memory = Samples::<1> {
            name: "resident_memory_bytes",
            help: "Resident memory of the operator",
            samples: Vec::new(),
        };
        if let Some(bytes) = resident() {
            memory.samples.push(([("process", "operator".to_owned())], bytes));
        }
        memory.encode(&mut encoder)
    }
}

/// Resident bytes of this process, where the system tells.
fn resident() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::super::watches::Key;
    use super::*;

    #[test]
    fn what_is_told_about_a_cluster_is_its_status_and_ends_with_it() {
        let yaml = "metadata: {name: db, namespace: prod}\nspec: {}\nstatus: {readyReplicas: 2, replicas: 3, quotaPercent: 81,\
            plan: {nextAction: wait, blockedBy: why}, conditions: [{type: Progressing, status: 'False', reason: QuorumLost, \
            lastTransitionTime: '2026-01-01T00:00:00Z'}], members: [{name: a, role: Voter, health: Healthy, \
            healthSince: x, observedAt: x, certNotAfter: '2026-01-01T00:00:00Z'}]}";
        let cluster: EtcdCluster =
            serde_yaml::from_str(&format!("apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\n{yaml}")).unwrap();
        let objects = Objects {
            clusters: Cache::default(),
            backups: Cache::default(),
        };
        let clusters = objects.clusters.clone();
        let registry = Metrics::default().registry(objects);
        let scrape = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let key = Key::of(&cluster);
        clusters.put(key.clone(), Arc::new(cluster));
        let text = scrape();
        for line in [
            "quorate_cluster_blocked{namespace=\"prod\",name=\"db\",reason=\"QuorumLost\"} 1.0",
            "quorate_cluster_condition{namespace=\"prod\",name=\"db\",type=\"Progressing\"} 0.0",
            "quorate_cluster_members_ready{namespace=\"prod\",name=\"db\"} 2.0",
            "quorate_cluster_quota_used_ratio{namespace=\"prod\",name=\"db\"} 0.81",
            "quorate_cluster_certificate_expiry_timestamp_seconds{namespace=\"prod\",name=\"db\"} 1767225600.0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        clusters.remove(&key);
        assert!(!scrape().contains("name=\"db\""));
    }
}
