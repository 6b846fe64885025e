//! `EtcdBackup`: one backup, or with `schedule` a policy that makes one-shot children.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{NameRef, PodTemplate, Store};
use super::quantity::Duration;
use super::status::Condition;

/// What is backed up, when and where to.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.dev",
    version = "v1alpha1",
    kind = "EtcdBackup",
    plural = "etcdbackups",
    shortname = "etcdb",
    category = "quorate",
    namespaced,
    status = "EtcdBackupStatus",
    derive = "PartialEq",
    doc = "A backup of an etcd cluster; with spec.schedule, a policy that takes backups and prunes them.",
    printcolumn(json_path = ".spec.clusterRef.name", name = "Cluster", type_ = "string"),
    printcolumn(json_path = ".spec.schedule", name = "Schedule", type_ = "string"),
    printcolumn(json_path = ".status.phase", name = "Status", type_ = "string"),
    printcolumn(json_path = ".status.artifact.revision", name = "Revision", type_ = "integer"),
    printcolumn(json_path = ".status.artifact.sizeBytes", name = "Size", type_ = "integer"),
    printcolumn(json_path = ".status.verified.time", name = "Verified", type_ = "date"),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    validation = Rule::new("!has(self.spec.schedule) || self.metadata.name.size() <= 40")
        .message("metadata.name of a backup with a schedule may have at most 40 characters: the names of its backups add the time")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.clusterRef) != has(self.endpoints)")
        .message("give exactly one of clusterRef (an EtcdCluster of this namespace) and endpoints (an etcd elsewhere): add one, or remove the other"),
    validation = Rule::new("has(self.clusterRef) == has(oldSelf.clusterRef) && (!has(self.clusterRef) || self.clusterRef == oldSelf.clusterRef)")
        .message("clusterRef cannot be changed: create another EtcdBackup"),
    validation = Rule::new("has(self.schedule) == has(oldSelf.schedule)")
        .message("schedule cannot be added or removed, a backup and a policy are two objects: create another EtcdBackup, or set suspend: true"),
    validation = Rule::new("has(self.schedule) || self == oldSelf")
        .message("a backup without a schedule cannot be changed: create another EtcdBackup"),
    validation = Rule::new("has(self.schedule) || !(has(self.timeZone) || has(self.suspend) || has(self.startingDeadlineSeconds) || has(self.immediate) || has(self.retention) || has(self.backupOwnerReference) || has(self.concurrencyPolicy))")
        .message("timeZone, suspend, startingDeadlineSeconds, concurrencyPolicy, immediate, retention and backupOwnerReference count only with schedule: remove them, or add schedule"),
    validation = Rule::new("!has(self.schedule) || !has(self.destination.s3) || !has(self.destination.s3.key)")
        .message("with schedule write destination.s3.prefix, not key: every backup is an object of its own"),
    validation = Rule::new("!has(self.clientTLSSecretRef) || has(self.endpoints)")
        .message("clientTLSSecretRef counts only with endpoints: remove it, the certificates of an EtcdCluster are known"),
    validation = Rule::new("!has(self.endpoints) || self.endpoints.all(e, e.startsWith('https://') || (e.startsWith('http://') && !has(self.clientTLSSecretRef)))")
        .message("endpoints are client URLs: begin each with https://, or with http:// and no clientTLSSecretRef"),
)]
pub struct EtcdBackupSpec {
    /// The `EtcdCluster` of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<NameRef>,
    /// Client URLs of an etcd that the operator does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(max = 2048)))]
    pub endpoints: Option<Vec<String>>,
    /// Secret with `ca.crt`, `tls.crt` and `tls.key` for those endpoints.
    #[serde(default, rename = "clientTLSSecretRef", skip_serializing_if = "Option::is_none")]
    pub client_tls_secret_ref: Option<NameRef>,
    /// When a backup is taken, in cron's five fields. Makes this object a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(\\\\S+ +){4}\\\\S+$')").message("schedule has five fields: minute hour day month weekday, e.g. \"0 3 * * *\""))]
    #[schemars(length(max = 128))]
    pub schedule: Option<String>,
    /// Time zone of the schedule, e.g. `Europe/Berlin`; UTC when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
    /// True starts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// A backup that is later than this is skipped; when absent, the newest missed one is caught up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub starting_deadline_seconds: Option<i64>,
    /// `Forbid`: while a backup of this policy runs, none is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_policy: Option<ConcurrencyPolicy>,
    /// True takes the first backup at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immediate: Option<bool>,
    /// `full`: a snapshot of the whole key space.
    #[serde(default)]
    pub method: Method,
    /// Where to.
    pub destination: Store,
    /// Which backups of the policy are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// `zstd` or `none`. Upstream tools read what is not compressed.
    #[serde(default)]
    pub compression: Compression,
    /// `Hash` reads the stored object back and compares its hash; `Restore` also opens it and counts; `None` trusts.
    #[serde(default)]
    pub verify: Verify,
    /// The member that the snapshot is read from.
    #[serde(default)]
    pub source: Source,
    /// A backup that takes longer has failed.
    #[serde(default = "timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')").message("timeout must be at least 1s: write e.g. 15m"))]
    pub timeout: Duration,
    /// Resource requests and limits of the backup's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// What the backup's pod gets beyond what the operator sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// `none` keeps the backups of a policy when it is deleted; `self` deletes their objects with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_owner_reference: Option<BackupOwnerReference>,
    /// What becomes of the stored object when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl EtcdBackup {
    /// It is, or makes, backups of this cluster of its namespace.
    pub fn is_of(&self, cluster: &str) -> bool {
        self.spec.cluster_ref.as_ref().is_some_and(|of| of.name == cluster)
    }
}

fn timeout() -> Duration {
    "15m".into()
}

/// What happens when a backup is due while one runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ConcurrencyPolicy {
    #[default]
    Forbid,
}

/// How a backup is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum Method {
    #[default]
    Full,
}

/// Which backups of a policy are kept. The last verified one always is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minKeep <= self.keepLast").message("retention.minKeep may not exceed retention.keepLast: lower minKeep, or raise keepLast"))]
pub struct Retention {
    /// At most so many.
    #[serde(default = "keep_last")]
    #[schemars(range(min = 1))]
    pub keep_last: i32,
    /// None older than this, e.g. `720h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// At least so many, whatever their age.
    #[serde(default = "min_keep")]
    #[schemars(range(min = 1))]
    pub min_keep: i32,
}

fn keep_last() -> i32 {
    7
}

fn min_keep() -> i32 {
    1
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            keep_last: keep_last(),
            max_age: None,
            min_keep: min_keep(),
        }
    }
}

/// How the stored object is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum Compression {
    #[default]
    Zstd,
    None,
}

/// How a backup is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Verify {
    #[default]
    Hash,
    Restore,
    None,
}

/// The member that a snapshot is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Source {
    #[default]
    Follower,
    Leader,
    Any,
}

/// Who owns the backups of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum BackupOwnerReference {
    #[default]
    None,
    #[serde(rename = "self")]
    Policy,
}

/// What becomes of a stored object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

/// How a backup, or a policy, stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EtcdBackupStatus {
    /// Generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Pending`, `Running`, `Verifying`, `Completed` or `Failed`; of a policy `Scheduled` or `Suspended`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// When it began (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// The stored object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
    /// The last time that it was read back and found good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Of a policy: the tick that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<String>,
    /// Of a policy: when its last backup was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<String>,
    /// Of a policy: the next tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<String>,
    /// Attempts that failed in a row.
    #[serde(default)]
    pub failures: i32,
    /// What went wrong last, with the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `Ready` and `Verified`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A stored backup. The same facts lie beside it as `<key>.manifest.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Where it lies: `s3://bucket/key` or a path.
    pub uri: String,
    /// Bytes stored.
    pub size_bytes: i64,
    /// `sha256:` and the hash of the stored bytes.
    pub checksum: String,
    /// Revision of the key space.
    pub revision: i64,
    /// Raft term at that time.
    #[serde(default)]
    pub raft_term: i64,
    /// Cluster id, in hexadecimal.
    #[serde(default, rename = "clusterID")]
    pub cluster_id: String,
    /// Version of the server.
    #[serde(default)]
    pub etcd_version: String,
    /// Keys in it.
    #[serde(default)]
    pub keys: i64,
    /// `zstd` or `none`.
    #[serde(default)]
    pub compression: String,
    /// Further facts of the store, e.g. the version id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub store: BTreeMap<String, String>,
}

/// A backup that was read back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verified {
    /// When (RFC 3339).
    pub time: String,
    /// HashKV at its revision, in hexadecimal.
    pub hash: String,
    /// Its revision.
    pub revision: i64,
    /// Keys counted.
    pub keys: i64,
}
