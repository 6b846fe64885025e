//! `EtcdCluster`: an etcd cluster as its owner writes it.
//!
//! Invariant: a field that is here is acted on, or refused with a message; none is silently ignored.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::parts::{NameRef, PodTemplate, Store};
use super::quantity::{Duration, Quantity};
use super::status::EtcdClusterStatus;

/// What is wanted of an etcd cluster.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "quorate.dev",
    version = "v1alpha1",
    kind = "EtcdCluster",
    plural = "etcdclusters",
    shortname = "etcd",
    category = "quorate",
    namespaced,
    status = "EtcdClusterStatus",
    derive = "PartialEq",
    doc = "An etcd cluster: its members are bootstrapped, replaced, scaled, upgraded, defragmented and recovered by the operator.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(json_path = ".spec.replicas", name = "Replicas", type_ = "integer"),
    printcolumn(json_path = ".status.readyReplicas", name = "Ready", type_ = "integer"),
    printcolumn(json_path = ".status.version", name = "Version", type_ = "string"),
    printcolumn(json_path = ".status.leader", name = "Leader", type_ = "string"),
    printcolumn(json_path = ".status.quotaPercent", name = "DB%", type_ = "integer"),
    printcolumn(json_path = ".status.revision", name = "Revision", type_ = "integer"),
    printcolumn(json_path = ".status.phase", name = "Status", type_ = "string"),
    printcolumn(json_path = ".status.plan.nextAction", name = "Next", type_ = "string", priority = 1),
    printcolumn(json_path = ".status.plan.blockedBy", name = "Blocked by", type_ = "string", priority = 1),
    printcolumn(json_path = ".metadata.creationTimestamp", name = "Age", type_ = "date"),
    // Until the cluster has begun no volume holds anything, and a class that does not exist can be put right.
    validation = Rule::new("!has(self.status) || !has(self.status.clusterID) || (has(self.spec.storage.storageClassName) == has(oldSelf.spec.storage.storageClassName) && (!has(self.spec.storage.storageClassName) || self.spec.storage.storageClassName == oldSelf.spec.storage.storageClassName))")
        .message("storage.storageClassName cannot be changed, volumes keep their class: write the former value, or create a new EtcdCluster and restore a backup into it"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name may have at most 40 characters: member names, Services and certificates are derived from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must begin with a letter and hold only a-z, 0-9 and -: it becomes the name of a Service")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.bootstrap) == has(oldSelf.bootstrap)")
        .message("bootstrap is read once, when the cluster begins, and cannot be added or removed later: create a new EtcdCluster instead"),
    validation = Rule::new("self.engine != 'etcd' || has(self.version)")
        .message("engine etcd needs version: write the etcd version to run, e.g. version: 3.7.3"),
    validation = Rule::new("quantity(string(self.storage.size)).asApproximateFloat() >= (self.engine == 'etcd' ? 2.0 : 1.5) * quantity(string(self.options.quotaBackendBytes)).asApproximateFloat()")
        .message("storage.size must be at least 1.5 times options.quotaBackendBytes (2 times with engine etcd, whose defragmentation copies the database): raise storage.size or lower the quota"),
    validation = Rule::new("self.repair.mode != 'Manual' || self.recovery.mode == 'Manual'")
        .message("with repair.mode: Manual write recovery.mode: Manual as well: a cluster that may not replace a member by itself may not replace most of them"),
    validation = Rule::new(VERSION_RULE).message(VERSION_MESSAGE),
    validation = Rule::new("has(self.clusterDomain) == has(oldSelf.clusterDomain) && (!has(self.clusterDomain) || self.clusterDomain == oldSelf.clusterDomain)")
        .message("clusterDomain cannot be changed, members are registered under it: write the former value, or create a new EtcdCluster and restore a backup into it"),
)]
pub struct EtcdClusterSpec {
    /// Voting members: 1, 3, 5, 7 or 9; 3 survives the loss of one, 5 of two. 0 hibernates the cluster: no process
    /// runs and all data is kept.
    #[serde(default = "defaults::replicas")]
    #[x_kube(validation = Rule::new("self == 0 || self % 2 == 1")
        .message("replicas must be odd (or 0 to hibernate): an even member raises the quorum without surviving one more loss; write one less or one more"))]
    #[schemars(range(min = 0, max = 9))]
    pub replicas: i32,
    /// The program that members run: `quorate`, the bundled etcd-compatible server, or `etcd`, the upstream image.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("engine cannot be changed: create a new EtcdCluster and restore a backup into it"))]
    pub engine: Engine,
    /// Version of the program, e.g. `3.7.3`; needed with engine `etcd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{1,4}[.][0-9]{1,4}[.][0-9]{1,4}(-[0-9A-Za-z.]+)?$')")
        .message("version has three numbers: write it as in 3.7.3"))]
    #[schemars(length(max = 64))]
    pub version: Option<String>,
    /// Image of the members; the operator's own when absent. A digest is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// `Always`, `IfNotPresent` or `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets for the registry of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<NameRef>,
    /// Each member's volume.
    #[serde(default)]
    pub storage: Storage,
    /// Transport security; on by default, with certificate authorities of the cluster's own.
    #[serde(default)]
    pub tls: Tls,
    /// etcd options.
    #[serde(default)]
    pub options: Options,
    /// Further flags of the server, without dashes, e.g. `experimental-foo: "true"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new(super::convert::EXTRA_ARGS_RULE).message(super::convert::EXTRA_ARGS_MESSAGE))]
    #[schemars(schema_with = "super::schema::extra_args")]
    pub extra_args: BTreeMap<String, String>,
    /// Resource requests and limits of a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// What a member's pod gets beyond what the operator sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// How the cluster is reached.
    #[serde(default)]
    pub service: Services,
    /// DNS domain of the Kubernetes cluster; found out by the operator when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("clusterDomain is a DNS name without a dot at its end: write it as in cluster.local"))]
    #[schemars(length(max = 253))]
    pub cluster_domain: Option<String>,
    /// Limits how many voters may be evicted at once.
    #[serde(default)]
    pub pod_disruption_budget: Switch,
    /// Who may connect to members.
    #[serde(default)]
    pub network_policy: Switch,
    /// Where the first data comes from; an empty key space when absent. Read once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("bootstrap is read once, when the cluster begins, and cannot be changed: create a new EtcdCluster instead"))]
    pub bootstrap: Option<Bootstrap>,
    /// When a member is replaced.
    #[serde(default)]
    pub repair: Repair,
    /// What may be done when quorum is lost.
    #[serde(default)]
    pub recovery: Recovery,
    /// Defragmentation and alarms.
    #[serde(default)]
    pub maintenance: Maintenance,
    /// How changes are rolled out.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
    /// Hands off: the operator changes nothing until this is false again.
    #[serde(default)]
    pub paused: bool,
    /// What becomes of the data when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Seconds that one step may take before it is reported as stuck.
    #[serde(default = "defaults::progress_deadline")]
    #[schemars(range(min = 60))]
    pub progress_deadline_seconds: i32,
}

/// One minor version at a time, and none down: what a member of the old version wrote, the new one must read.
const VERSION_RULE: &str = "!has(self.version) || !has(oldSelf.version) || self.version == oldSelf.version \
    || (self.version.split('.').size() >= 3 && oldSelf.version.split('.').size() >= 3 \
    && self.version.split('.')[0] == oldSelf.version.split('.')[0] \
    && int(self.version.split('.')[1]) - int(oldSelf.version.split('.')[1]) in [0, 1])";
const VERSION_MESSAGE: &str = "version may rise by one minor at a time and not go down one (patches are free): \
    write the next minor first, or restore a backup into a new EtcdCluster";

/// The program that members run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Engine {
    #[default]
    #[allow(missing_docs)]
    Quorate,
    #[allow(missing_docs)]
    Etcd,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// A member's volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size; may grow, never shrink.
    #[serde(default = "defaults::storage_size")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0")
        .message("storage.size cannot shrink: write the former size or a larger one"))]
    pub size: Quantity,
    /// Storage class; the cluster's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// Where data is kept: on a `Volume`. `Memory` is refused, since a member's identity is kept with its data.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == 'Volume'")
        .message("storage.medium: Memory is not supported: a member that restarts would lose its data and its identity; write Volume or leave it out"))]
    pub medium: Medium,
    /// What becomes of the volume of a member that was replaced or scaled in.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
    /// How long `Retain` keeps it after that; it then goes once the cluster is healthy.
    #[serde(default = "defaults::retain_for")]
    pub retain_for: Duration,
}

/// Where data is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Medium {
    #[default]
    Volume,
    Memory,
}

/// What becomes of a former member's volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ReclaimPolicy {
    #[default]
    Retain,
    Delete,
}

/// Transport security.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.insecure || (!has(self.client) && !has(self.peer))")
        .message("tls.insecure: true means plaintext: remove tls.client and tls.peer, or set insecure to false"),
    validation = Rule::new("self.insecure == oldSelf.insecure")
        .message("tls.insecure cannot be changed, members with and without TLS do not understand each other: create a new EtcdCluster and restore a backup into it"),
)]
pub struct Tls {
    /// No TLS at all, for experiments.
    #[serde(default)]
    pub insecure: bool,
    /// Connections of clients; self-signed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<TlsSide>,
    /// Connections among members; self-signed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<TlsSide>,
}

/// One side's certificates. At most one of `selfSigned`, `certManager` and `secretRef`; `selfSigned` when none is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.selfSigned), has(self.certManager), has(self.secretRef)].filter(x, x).size() <= 1")
    .message("give at most one of selfSigned, certManager and secretRef"))]
pub struct TlsSide {
    /// A certificate authority of the cluster's own, kept and rotated by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<Empty>,
    /// Certificates from cert-manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_manager: Option<CertManager>,
    /// A Secret with `ca.crt`, `tls.crt` and `tls.key` that somebody else keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
    /// Clients must present a certificate (for `tls.client`; members always do).
    #[serde(default = "defaults::yes")]
    pub client_cert_auth: bool,
    /// How long certificates live.
    #[serde(default)]
    pub rotation: Rotation,
}

/// No settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// Certificates from cert-manager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertManager {
    /// The issuer.
    pub issuer_ref: IssuerRef,
}

/// An issuer of cert-manager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `Issuer` or `ClusterIssuer`.
    #[serde(default)]
    pub kind: IssuerKind,
}

/// Kind of an issuer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum IssuerKind {
    #[default]
    Issuer,
    ClusterIssuer,
}

/// How long certificates live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.renewBefore) < duration(self.validity)")
        .message("rotation.renewBefore must be shorter than rotation.validity: shorten it, or lengthen validity"),
    validation = Rule::new("duration(self.caRenewBefore) < duration(self.caValidity)")
        .message("rotation.caRenewBefore must be shorter than rotation.caValidity: shorten it, or lengthen caValidity"),
    validation = Rule::new("duration(self.validity) >= duration('1m') && duration(self.caValidity) >= duration(self.validity)")
        .message("rotation.validity must be at least 1m, and rotation.caValidity no shorter than it: lengthen them"),
)]
pub struct Rotation {
    /// Life of a leaf certificate.
    #[serde(default = "defaults::validity")]
    pub validity: Duration,
    /// A leaf is renewed when less than this is left.
    #[serde(default = "defaults::renew_before")]
    pub renew_before: Duration,
    /// Life of the certificate authority.
    #[serde(default = "defaults::ca_validity")]
    pub ca_validity: Duration,
    /// The authority is renewed when less than this is left.
    #[serde(default = "defaults::ca_renew_before")]
    pub ca_renew_before: Duration,
}

/// etcd options, with etcd's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.electionTimeout).getMilliseconds() >= 5 * duration(self.heartbeatInterval).getMilliseconds()")
        .message("options.electionTimeout must be at least 5 times options.heartbeatInterval: raise it, or lower heartbeatInterval"),
    validation = Rule::new("duration(self.electionTimeout) <= duration('50s') && duration(self.heartbeatInterval) >= duration('1ms')")
        .message("options.electionTimeout may be at most 50s, options.heartbeatInterval at least 1ms"),
    validation = Rule::new("!has(self.autoCompactionRetention) || (self.autoCompactionMode == 'revision' ? self.autoCompactionRetention.matches('^[0-9]+$') : self.autoCompactionRetention.matches('^([0-9]+(\\\\.[0-9]+)?(ms|s|m|h))+$'))")
        .message("options.autoCompactionRetention is a duration (1h) with mode periodic and a number of revisions (\"10000\") with mode revision"),
    validation = Rule::new("quantity(string(self.quotaBackendBytes)).isGreaterThan(quantity('0'))")
        .message("options.quotaBackendBytes must be more than 0: write e.g. 8Gi"),
    validation = Rule::new("quantity(string(self.maxRequestBytes)).isGreaterThan(quantity('0')) && quantity(string(self.maxRequestBytes)).isLessThan(quantity(string(self.quotaBackendBytes)))")
        .message("options.maxRequestBytes must be more than 0 and less than options.quotaBackendBytes: write e.g. 1536Ki"),
)]
pub struct Options {
    /// Size that the database may have before writes are refused.
    #[serde(default = "defaults::quota")]
    pub quota_backend_bytes: Quantity,
    /// Members compact history by time (`periodic`), by number of revisions (`revision`), or not (`off`, for
    /// kube-apiserver, which does it itself).
    #[serde(default)]
    pub auto_compaction_mode: AutoCompactionMode,
    /// How much history is kept: a duration, or a number of revisions; 1h or 10000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub auto_compaction_retention: Option<String>,
    /// Log entries between two snapshots.
    #[serde(default = "defaults::snapshot_count")]
    #[schemars(range(min = 100))]
    pub snapshot_count: i64,
    /// How often the leader reminds the others of itself.
    #[serde(default = "defaults::heartbeat")]
    pub heartbeat_interval: Duration,
    /// How long the others wait for that before they elect another leader.
    #[serde(default = "defaults::election")]
    pub election_timeout: Duration,
    /// Largest request.
    #[serde(default = "defaults::max_request")]
    pub max_request_bytes: Quantity,
    /// Streams that one client connection may have open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_streams: Option<i32>,
    /// `basic`, or `extensive` with histograms of every RPC.
    #[serde(default)]
    pub metrics: Metrics,
    /// What is logged.
    #[serde(default)]
    pub log_level: LogLevel,
}

/// How history is compacted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum AutoCompactionMode {
    #[default]
    Periodic,
    Revision,
    Off,
}

/// Which metrics are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum Metrics {
    #[default]
    Basic,
    Extensive,
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

/// How the cluster is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Services {
    /// The Service for clients, named as the cluster.
    #[serde(default)]
    pub client: ServiceSettings,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSettings {
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    #[serde(default, rename = "type")]
    pub kind: ServiceKind,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::foreign_keys")]
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::foreign_keys")]
    pub labels: BTreeMap<String, String>,
    /// Prefer members that are near: `PreferSameZone`, `PreferSameNode` or `PreferClose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self in ['PreferSameZone', 'PreferSameNode', 'PreferClose']")
        .message("trafficDistribution is PreferSameZone, PreferSameNode or PreferClose: write one of them, or remove it"))]
    #[schemars(length(max = 63))]
    pub traffic_distribution: Option<String>,
    /// `SingleStack`, `PreferDualStack` or `RequireDualStack`; `PreferDualStack` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
}

/// Type of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ServiceKind {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// IP families of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

/// Something that is on unless it is turned off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Switch {
    /// False turns it off.
    #[serde(default = "defaults::yes")]
    pub enabled: bool,
}

/// Where the first data comes from. Exactly one of `new` and `restore`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.new) != has(self.restore)").message("give exactly one of bootstrap.new and bootstrap.restore"))]
pub struct Bootstrap {
    /// An empty key space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Empty>,
    /// A backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
}

/// The backup that a cluster begins from. Exactly one of `backupRef` and `source`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.backupRef) != has(self.source)")
    .message("give exactly one of restore.backupRef (an EtcdBackup of this namespace) and restore.source (where the object lies)"))]
pub struct Restore {
    /// An `EtcdBackup` of this namespace. When its status does not tell (any more) where the artifact lies, the newest
    /// verified one of its name, or of its schedule, is looked up in its destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<NameRef>,
    /// Where the object lies; with a prefix (or a directory of backups), the newest verified backup there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.s3) || has(self.s3.key) || has(self.s3.prefix)")
        .message("restore.source.s3: give key (the object to restore) or prefix (the newest verified backup below it)"))]
    pub source: Option<Store>,
    /// How far revisions are raised above the backup's, so that no client sees a revision twice with another meaning;
    /// taken from the backup's manifest when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub revision_bump: Option<i64>,
    /// Do not check the integrity hash at the end of the file; a database file that was copied has none.
    #[serde(default)]
    pub skip_hash_check: bool,
}

/// When a member is replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// `Auto`, or `Manual`: report only.
    #[serde(default)]
    pub mode: RepairMode,
    /// A member that cannot be reached is replaced after this long. One whose data is lost is replaced at once.
    #[serde(default = "defaults::repair_after")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('30s')").message("repair.after must be at least 30s: shorter outages heal by themselves"))]
    pub after: Duration,
    /// How long a member whose data is lost or corrupt is waited for.
    #[serde(default = "defaults::zero")]
    pub corrupt: Duration,
}

/// Who decides about replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum RepairMode {
    #[default]
    Auto,
    Manual,
}

/// What may be done when quorum is lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.backupRef) || self.from == 'backup'")
    .message("recovery.backupRef counts only with recovery.from: backup: write that as well, or remove backupRef"))]
pub struct Recovery {
    /// `Automatic` acts by itself where the loss of the missing members is proven; `Manual` never does.
    #[serde(default)]
    pub mode: RecoveryMode,
    /// The hash of the published recovery plan that is agreed to (`status.recovery.hash`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-f]{16}$')")
        .message("acknowledge is the hash of a plan, 16 hexadecimal digits: write the value of status.recovery.hash"))]
    #[schemars(length(max = 64))]
    pub acknowledge: Option<String>,
    /// `survivor`, or `backup`, which gives up what a survivor holds.
    #[serde(default)]
    pub from: RecoveryFrom,
    /// The backup for `from: backup`; the newest verified when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<NameRef>,
    /// With no survivor at all: `Acknowledge` waits for the hash; `Automatic` goes back to the newest verified backup.
    #[serde(default)]
    pub from_backup: FromBackup,
}

/// Who decides about recovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum RecoveryMode {
    #[default]
    Automatic,
    Manual,
}

/// Where a cluster is recovered from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum RecoveryFrom {
    #[default]
    Survivor,
    Backup,
}

/// Who decides about going back to a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum FromBackup {
    #[default]
    Acknowledge,
    Automatic,
}

/// Defragmentation and alarms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Maintenance {
    /// When space is given back.
    #[serde(default)]
    pub defrag: Defrag,
    /// What is done about alarms.
    #[serde(default)]
    pub alarms: Alarms,
}

/// When space is given back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.timeZone) || has(self.schedule)").message("defrag.timeZone counts only with defrag.schedule: write a schedule, or remove timeZone"))]
pub struct Defrag {
    /// When members are looked at, in cron's five fields; at any time when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^(\\\\S+ +){4}\\\\S+$')").message("schedule has five fields: minute hour day month weekday, e.g. \"30 3 * * *\""))]
    #[schemars(length(max = 128))]
    pub schedule: Option<String>,
    /// Time zone of the schedule, e.g. `Europe/Berlin`; UTC when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
    /// Which members are worth it.
    #[serde(default)]
    pub rule: DefragRule,
    /// Move the leader before its member is defragmented; only engine `etcd` stops serving for it.
    #[serde(default = "defaults::yes")]
    pub move_leader: bool,
    /// Pause between two members.
    #[serde(default = "defaults::settle")]
    pub settle: Duration,
}

/// Which members are worth defragmenting: those with much free space, or a well filled quota and some free space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DefragRule {
    /// Free space inside the database.
    #[serde(default = "defaults::free_space_above")]
    pub free_space_above: Quantity,
    /// Share of the quota in percent, e.g. `80%`.
    #[serde(default = "defaults::quota_usage_above")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]|[1-9][0-9]|100)%$')")
        .message("quotaUsageAbove is a share in percent from 0% to 100%: write it as in \"80%\""))]
    #[schemars(length(max = 8))]
    pub quota_usage_above: String,
    /// With the quota's share exceeded, the least free space that is worth it.
    #[serde(default = "defaults::min_reclaim")]
    pub min_reclaim: Quantity,
    /// At every tick of the schedule, defragment all members.
    #[serde(default)]
    pub all: bool,
}

/// What is done about alarms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Alarms {
    /// `Auto` compacts, defragments and disarms; `Detect` reports.
    #[serde(default)]
    pub nospace: NoSpacePolicy,
    /// `Replace` replaces a corrupt minority; `Detect` reports.
    #[serde(default)]
    pub corrupt: CorruptPolicy,
}

/// What is done about NOSPACE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum NoSpacePolicy {
    #[default]
    Auto,
    Detect,
}

/// What is done about CORRUPT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum CorruptPolicy {
    #[default]
    Replace,
    Detect,
}

/// How changes are rolled out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// `Rolling`, one member at a time, or `OnDelete`: when something else restarts it.
    #[serde(default, rename = "type")]
    pub kind: UpdateKind,
    /// Seconds that members must have been healthy before the next is rolled.
    #[serde(default = "defaults::min_ready")]
    #[schemars(range(min = 0))]
    pub min_ready_seconds: i32,
}

/// How changes are rolled out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum UpdateKind {
    #[default]
    Rolling,
    OnDelete,
}

/// What becomes of the data when the object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
    SnapshotThenDelete,
}

/// The schema's defaults, in one place.
mod defaults {
    use super::{Duration, Quantity};

    pub fn replicas() -> i32 {
        3
    }
    pub fn progress_deadline() -> i32 {
        600
    }
    pub fn min_ready() -> i32 {
        10
    }
    pub fn yes() -> bool {
        true
    }
    pub fn zero() -> Duration {
        "0s".into()
    }
    pub fn storage_size() -> Quantity {
        "16Gi".into()
    }
    pub fn retain_for() -> Duration {
        "24h".into()
    }
    pub fn validity() -> Duration {
        "8760h".into()
    }
    pub fn renew_before() -> Duration {
        "2160h".into()
    }
    pub fn ca_validity() -> Duration {
        "43800h".into()
    }
    pub fn ca_renew_before() -> Duration {
        "8760h".into()
    }
    pub fn quota() -> Quantity {
        "8Gi".into()
    }
    pub fn snapshot_count() -> i64 {
        10_000
    }
    pub fn heartbeat() -> Duration {
        "100ms".into()
    }
    pub fn election() -> Duration {
        "1000ms".into()
    }
    pub fn max_request() -> Quantity {
        "1536Ki".into()
    }
    pub fn repair_after() -> Duration {
        "5m".into()
    }
    pub fn settle() -> Duration {
        "36s".into()
    }
    pub fn free_space_above() -> Quantity {
        "200Mi".into()
    }
    pub fn quota_usage_above() -> String {
        "80%".into()
    }
    pub fn min_reclaim() -> Quantity {
        "32Mi".into()
    }
}

/// `Default` as an empty YAML mapping reads, so that the schema's defaults are written down once.
macro_rules! default_as_read {
    ($($kind:ty),*) => {$(
        impl Default for $kind {
            fn default() -> Self {
                serde_json::from_value(serde_json::json!({})).expect("every field has a default")
            }
        }
    )*};
}

default_as_read!(
    EtcdClusterSpec,
    Storage,
    Rotation,
    Options,
    Switch,
    Repair,
    Defrag,
    DefragRule,
    UpdateStrategy
);
