//! Parts that both kinds share: references, stores, pod templates.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, PodSecurityContext, Toleration, TopologySpreadConstraint};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A reference to an object of the same namespace by its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NameRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where backups lie. Exactly one of `s3`, `pvc` and `directory`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.s3), has(self.pvc), has(self.directory)].filter(x, x).size() == 1")
        .message("give exactly one of s3, pvc and directory: add one, or remove the others"),
    // On Kubernetes alone: the local platform, which checks the other rules itself, is what directories are for.
    validation = Rule::new("!has(self.directory)")
        .message("directory is for `quorate local` alone: on Kubernetes give s3 or pvc"),
)]
pub struct Store {
    /// An S3 bucket, of AWS or of anything that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// A persistent volume claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<Pvc>,
    /// A directory of this machine; for the local platform only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<Directory>,
    /// Secret with `key`, 32 bytes (plain or in base64) that what is stored is encrypted with. Keep a copy elsewhere:
    /// without it a backup is worth nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption_secret_ref: Option<NameRef>,
}

/// A place in an S3 bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.key) && has(self.prefix))")
        .message("give key (one object) or prefix (objects are named below it), not both: remove one"),
    validation = Rule::new("!has(self.endpoint) || self.allowHTTP || !self.endpoint.startsWith('http://')")
        .message("endpoint is plain http, which everybody on the way can read: write https://, or set allowHTTP: true"),
)]
pub struct S3 {
    /// URL of the service, e.g. `https://minio.example.org:9000`; AWS of the region when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
        .message("endpoint is a URL: begin it with https:// (or http://)"))]
    #[schemars(length(max = 2048))]
    pub endpoint: Option<String>,
    /// Bucket.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$')")
        .message("a bucket's name has 3 to 63 of a-z, 0-9, - and ., and begins and ends with a letter or digit: write the bucket alone, without s3:// or a path"))]
    #[schemars(length(max = 2048))]
    pub bucket: String,
    /// Key of the one object that is written or read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.startsWith('/')").message("key has no / at its beginning: remove it"))]
    #[schemars(length(min = 1, max = 1024))]
    pub key: Option<String>,
    /// Objects are named `<prefix>/<backup>.db`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.startsWith('/')").message("prefix has no / at its beginning: remove it"))]
    #[schemars(length(max = 900))]
    pub prefix: Option<String>,
    /// Region; `us-east-1` when absent, which most services other than AWS ignore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Put the bucket into the path instead of the host name; most services other than AWS need it.
    #[serde(default)]
    pub force_path_style: bool,
    /// Plain http is accepted: for a network that nobody else reads.
    #[serde(default, rename = "allowHTTP")]
    pub allow_http: bool,
    /// Secret with `accessKeyID` and `secretAccessKey` (and `sessionToken`); the pod's own identity when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<NameRef>,
    /// Secret with `ca.crt`, trusted beside the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<NameRef>,
    /// Encryption by the service: `AES256` or `aws:kms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self in ['AES256', 'aws:kms']").message("sse is AES256 or aws:kms: write one of them, or remove it"))]
    #[schemars(length(max = 32))]
    pub sse: Option<String>,
}

/// A place on a persistent volume claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pvc {
    /// Name of the claim.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Directory on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.split('/').exists(p, p == '..')")
        .message("subPath is a path below the volume's root: write it without / at its beginning and without .."))]
    #[schemars(length(min = 1, max = 1024))]
    pub sub_path: Option<String>,
}

/// A directory of this machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Directory {
    /// Path; relative to the directory of the manifest.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
}

/// What a member's (or a backup's) pod gets beyond what the operator sets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PodMetadata>,
    /// Where and how the pod runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<PodSpec>,
}

/// Labels and annotations of a pod; those of the operator win.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodMetadata {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::foreign_keys")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "super::schema::foreign_keys")]
    pub annotations: BTreeMap<String, String>,
}

/// Where and how a pod runs. What is absent is the operator's default: members of a cluster prefer different nodes and
/// zones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Replaces the default preference for different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Replaces the default spread over zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Service account; members need none, and get no token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Replaces the default, which meets the `restricted` Pod Security Standard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Runtime class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// Seconds that a member has to hand over and close its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub termination_grace_period_seconds: Option<i64>,
}
