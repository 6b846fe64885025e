//! What everything looks like: from what is wanted to the objects of the Kubernetes API. Pure.
//!
//! Invariants:
//! 1. Every pod meets the `restricted` Pod Security Standard, unless the owner's template says otherwise.
//! 2. A member's environment takes `--initial-cluster` and its state from annotations of its pod, which change once it
//!    has written: from then on a container that starts again never begins a cluster, and never joins one anew.
//! 3. Volumes have no owner reference: nothing that is deleted takes data with it.

use super::Settings;
use super::names::{
    CLIENT_PORT, CLUSTER_UID, INITIAL_CLUSTER, INITIAL_STATE, MEMBER, METRICS_PORT, Names, PEER_PORT, ROLE, SHAPE,
    TEMPLATE,
};
use crate::api::parts::{PodTemplate, Store};
use crate::api::{EtcdCluster, EtcdClusterSpec};
use crate::backup::mounts;
use crate::plan::Wanted;
use crate::plan::resources::{member_flags, short_hash, template};
use crate::plan::step::Start;
use crate::plan::wanted::{ClientService, Engine, Issuer};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, LocalObjectReference,
    ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, Pod,
    PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, Service, ServicePort, ServiceSpec, Toleration, TopologySpreadConstraint,
    Volume, VolumeMount, VolumeResourceRequirements, WeightedPodAffinityTerm,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use std::collections::BTreeMap;

/// Where a member's volume is mounted.
pub const MOUNT: &str = "/var/lib/etcd";
/// A member's data directory: below the mount, so that it can be renamed, and so that what a file system puts into its
/// root (`lost+found`) is not in it.
pub const DATA: &str = "/var/lib/etcd/data";
/// Where a member's certificates are.
const TLS: &str = "/etc/etcd/tls";
/// Nobody in particular, and in no image.
const USER: i64 = 65532;
/// Seconds that a member has to hand its leadership over and close its files.
const GRACE: i64 = 30;

/// All that is needed to render the objects of one cluster.
#[derive(Debug, Clone, Copy)]
pub struct Render<'a> {
    /// What is wanted.
    pub wanted: &'a Wanted,
    /// The object as its owner wrote it: what the planner does not need to know.
    pub object: &'a EtcdCluster,
    /// Names.
    pub names: &'a Names,
    /// What is the same for every cluster.
    pub settings: &'a Settings,
}

impl Render<'_> {
    fn spec(&self) -> &EtcdClusterSpec {
        &self.object.spec
    }

    /// A reference to the cluster as controller. It does not block a deletion in the foreground.
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: EtcdCluster::api_version(&()).into_owned(),
            kind: EtcdCluster::kind(&()).into_owned(),
            name: self.wanted.name.clone(),
            uid: self.wanted.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(false),
        }
    }

    /// Metadata of an object that goes with the cluster.
    pub fn meta(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.wanted.namespace.clone()),
            labels: Some(self.names.labels()),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    /// `http` or `https`, and where clients reach a member.
    pub fn client_url(&self, host: &str) -> String {
        url(self.wanted.tls.client.is_some(), host, CLIENT_PORT)
    }

    /// Where members reach a member.
    pub fn peer_url(&self, member: &str) -> String {
        let host = self.names.member_host(member);
        url(self.wanted.tls.peer.is_some(), &host, PEER_PORT)
    }

    /// The image of members.
    pub fn image(&self) -> String {
        image(self.wanted, self.settings)
    }

    /// A new member's volume. `note` says on it what it is.
    pub fn claim(&self, member: &str, note: String) -> PersistentVolumeClaim {
        let mut labels = self.names.labels();
        labels.insert(MEMBER.into(), member.into());
        let mut metadata = self.meta(member);
        metadata.labels = Some(labels);
        metadata.owner_references = None;
        metadata.annotations = Some(BTreeMap::from([
            (CLUSTER_UID.to_owned(), self.wanted.uid.clone()),
            (super::names::VOLUME.to_owned(), note),
        ]));
        let size = Quantity(self.spec().storage.size.to_string());
        PersistentVolumeClaim {
            metadata,
            spec: Some(PersistentVolumeClaimSpec {
                access_modes: Some(vec!["ReadWriteOnce".into()]),
                resources: Some(VolumeResourceRequirements {
                    requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                    ..VolumeResourceRequirements::default()
                }),
                storage_class_name: self.wanted.storage.class.clone(),
                ..PersistentVolumeClaimSpec::default()
            }),
            status: None,
        }
    }

    /// A member's pod.
    pub fn pod(&self, member: &str, start: &Start) -> Pod {
        let own = self.pod_template();
        let mut metadata = self.meta(member);
        let mut labels = own.metadata.as_ref().map(|m| m.labels.clone()).unwrap_or_default();
        labels.extend(self.names.labels());
        labels.insert(MEMBER.into(), member.into());
        labels.insert(ROLE.into(), "member".into());
        metadata.labels = Some(labels);
        let mut annotations = own.metadata.as_ref().map(|m| m.annotations.clone()).unwrap_or_default();
        annotations.insert(TEMPLATE.into(), template(self.wanted));
        annotations.extend(self.initial(member, start));
        let mut pod = Pod {
            metadata,
            spec: Some(self.pod_spec(member, start, &own)),
            status: None,
        };
        annotations.insert(SHAPE.into(), shape(&pod));
        pod.metadata.annotations = Some(annotations);
        pod
    }

    /// The annotations that a member's environment is taken from.
    pub fn initial(&self, member: &str, start: &Start) -> BTreeMap<String, String> {
        let own = [(member.to_owned(), self.peer_url(member))];
        let (members, state): (&[(String, String)], &str) = match start {
            Start::New { initial_cluster, .. } => (initial_cluster, "new"),
            Start::Join { initial_cluster } => (initial_cluster, "existing"),
            // What the data says counts. Without data there is nobody here to learn the cluster from, so that the
            // member ends, and says so, instead of beginning again under its old id.
            Start::Resume => (&own, "existing"),
        };
        let list: Vec<String> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
        BTreeMap::from([
            (INITIAL_CLUSTER.to_owned(), list.join(",")),
            (INITIAL_STATE.to_owned(), state.to_owned()),
        ])
    }

    fn pod_template(&self) -> PodTemplate {
        self.spec().pod_template.clone().unwrap_or_default()
    }

    fn pod_spec(&self, member: &str, start: &Start, own: &PodTemplate) -> PodSpec {
        let template = own.spec.clone().unwrap_or_default();
        let empty = |constraints: Vec<TopologySpreadConstraint>| (!constraints.is_empty()).then_some(constraints);
        let mut tolerations = template.tolerations.clone();
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            // When a member has been away for too long is for the planner to say (repair.after).
            if !tolerations.iter().any(|t| t.key.as_deref() == Some(key)) {
                tolerations.push(Toleration {
                    key: Some(key.into()),
                    operator: Some("Exists".into()),
                    effect: Some("NoExecute".into()),
                    ..Toleration::default()
                });
            }
        }
        PodSpec {
            hostname: Some(member.to_owned()),
            subdomain: Some(self.names.peer_service()),
            restart_policy: Some("Always".into()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            service_account_name: template.service_account_name,
            termination_grace_period_seconds: Some(template.termination_grace_period_seconds.unwrap_or(GRACE)),
            security_context: Some(template.security_context.unwrap_or_else(pod_security)),
            affinity: Some(template.affinity.unwrap_or_else(|| self.apart())),
            topology_spread_constraints: empty(template.topology_spread_constraints)
                .or_else(|| Some(vec![self.spread()])),
            node_selector: (!template.node_selector.is_empty()).then_some(template.node_selector),
            tolerations: Some(tolerations),
            priority_class_name: template.priority_class_name,
            runtime_class_name: template.runtime_class_name,
            image_pull_secrets: self.pull_secrets(),
            containers: vec![self.container(member, start)],
            volumes: Some(self.volumes(member)),
            ..PodSpec::default()
        }
    }

    fn pull_secrets(&self) -> Option<Vec<LocalObjectReference>> {
        let secrets = &self.spec().image_pull_secrets;
        let reference = |secret: &crate::api::parts::NameRef| LocalObjectReference {
            name: secret.name.clone(),
        };
        (!secrets.is_empty()).then(|| secrets.iter().map(reference).collect())
    }

    fn pull_policy(&self) -> Option<String> {
        self.spec().image_pull_policy.map(|policy| format!("{policy:?}"))
    }

    fn container(&self, member: &str, start: &Start) -> Container {
        let from_annotation = |variable: &str, annotation: &str| EnvVar {
            name: variable.to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: format!("metadata.annotations['{annotation}']"),
                    ..ObjectFieldSelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        };
        let port = |name: &str, port: i32| ContainerPort {
            name: Some(name.to_owned()),
            container_port: port,
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        };
        let probe = |path: &str, period: i32, timeout: i32, failures: i32| Probe {
            http_get: Some(HTTPGetAction {
                path: Some(path.to_owned()),
                port: IntOrString::Int(METRICS_PORT),
                scheme: Some("HTTP".into()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(period),
            timeout_seconds: Some(timeout),
            failure_threshold: Some(failures),
            ..Probe::default()
        };
        let mut mounts = vec![VolumeMount {
            name: "data".into(),
            mount_path: MOUNT.into(),
            ..VolumeMount::default()
        }];
        if self.has_tls() {
            mounts.push(VolumeMount {
                name: "tls".into(),
                mount_path: TLS.into(),
                read_only: Some(true),
                ..VolumeMount::default()
            });
        }
        Container {
            name: "etcd".into(),
            image: Some(self.image()),
            image_pull_policy: self.pull_policy(),
            // Upstream's image has no entry point; ours has.
            command: (self.wanted.engine == Engine::Etcd).then(|| vec!["etcd".into()]),
            args: Some(self.arguments(member, start)),
            env: Some(vec![
                from_annotation("ETCD_INITIAL_CLUSTER", INITIAL_CLUSTER),
                from_annotation("ETCD_INITIAL_CLUSTER_STATE", INITIAL_STATE),
            ]),
            ports: Some(vec![
                port("tcp-client", CLIENT_PORT),
                port("tcp-peer", PEER_PORT),
                port("http-metrics", METRICS_PORT),
            ]),
            resources: Some(self.resources()),
            volume_mounts: Some(mounts),
            // To open a large database may take long. Neither liveness nor readiness looks at NOSPACE: a full database
            // still answers reads and deletions, and a restart would not empty it.
            startup_probe: Some(probe("/livez", 1, 5, 1800)),
            liveness_probe: Some(probe("/livez", 10, 10, 6)),
            readiness_probe: Some(probe("/readyz", 3, 5, 2)),
            security_context: Some(container_security()),
            // The last words of a member that ends tell why.
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            ..Container::default()
        }
    }

    /// Requests and limits; without any wish what a small cluster needs.
    pub fn resources(&self) -> ResourceRequirements {
        self.spec().resources.clone().unwrap_or_else(|| ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), Quantity("200m".into())),
                ("memory".to_owned(), Quantity("512Mi".into())),
            ])),
            ..ResourceRequirements::default()
        })
    }

    fn has_tls(&self) -> bool {
        self.wanted.tls.client.is_some() || self.wanted.tls.peer.is_some()
    }

    fn volumes(&self, member: &str) -> Vec<Volume> {
        let mut volumes = vec![data_volume(member)];
        if self.has_tls() {
            volumes.push(Volume {
                name: "tls".into(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(Names::member_secret(member)),
                    default_mode: Some(0o440),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            });
        }
        volumes
    }

    /// A member's command line: etcd's flags, nothing else, so that any etcd-compatible image can be the member.
    fn arguments(&self, member: &str, start: &Start) -> Vec<String> {
        let (client, peer) = (self.wanted.tls.client.is_some(), self.wanted.tls.peer.is_some());
        let host = self.names.member_host(member);
        let mut all = vec![
            format!("--name={member}"),
            format!("--data-dir={DATA}"),
            format!("--listen-client-urls={}", url(client, "0.0.0.0", CLIENT_PORT)),
            format!("--advertise-client-urls={}", self.client_url(&host)),
            format!("--listen-peer-urls={}", url(peer, "0.0.0.0", PEER_PORT)),
            format!("--initial-advertise-peer-urls={}", self.peer_url(member)),
            format!("--listen-metrics-urls={}", url(false, "0.0.0.0", METRICS_PORT)),
        ];
        if let Start::New { token, .. } = start {
            all.push(format!("--initial-cluster-token={token}"));
        }
        if client {
            all.push(format!("--cert-file={TLS}/server.crt"));
            all.push(format!("--key-file={TLS}/server.key"));
            if self.wanted.tls.client_cert_auth {
                all.push(format!("--trusted-ca-file={TLS}/client-ca.crt"));
                all.push("--client-cert-auth=true".to_owned());
            }
        }
        if peer {
            all.push(format!("--peer-cert-file={TLS}/peer.crt"));
            all.push(format!("--peer-key-file={TLS}/peer.key"));
            all.push(format!("--peer-trusted-ca-file={TLS}/peer-ca.crt"));
            all.push("--peer-client-cert-auth=true".to_owned());
            if self.trusts_peers_alone() {
                all.push("--peer-skip-client-san-verification=true".to_owned());
            }
        }
        let flags = member_flags(self.wanted);
        all.extend(flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")));
        all
    }

    /// The authority of peers signs nothing but members of this cluster. Their names need not be looked up as well: those of a
    /// member that joins are in DNS only seconds later, and it would be turned away until then. (etcd has the flag since 3.6.)
    fn trusts_peers_alone(&self) -> bool {
        let own = self
            .wanted
            .tls
            .peer
            .as_ref()
            .is_some_and(|side| side.issuer == Issuer::SelfSigned);
        let version = self.wanted.version.as_deref().unwrap_or_default();
        let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        own && (self.wanted.engine == Engine::Quorate || (major, minor) >= (3, 6))
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.names.selector()),
            ..LabelSelector::default()
        }
    }

    fn apart(&self) -> Affinity {
        let term = PodAffinityTerm {
            label_selector: Some(self.selector()),
            topology_key: "kubernetes.io/hostname".into(),
            ..PodAffinityTerm::default()
        };
        Affinity {
            pod_anti_affinity: Some(PodAntiAffinity {
                preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: term,
                }]),
                ..PodAntiAffinity::default()
            }),
            ..Affinity::default()
        }
    }

    fn spread(&self) -> TopologySpreadConstraint {
        TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "topology.kubernetes.io/zone".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(self.selector()),
            ..TopologySpreadConstraint::default()
        }
    }

    /// The headless Service of the members.
    pub fn peer_service(&self) -> Service {
        let policy = self.spec().service.client.ip_family_policy;
        Service {
            metadata: self.meta(&self.names.peer_service()),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".into()),
                publish_not_ready_addresses: Some(true),
                selector: Some(self.names.selector()),
                ip_family_policy: Some(policy.map_or_else(|| "PreferDualStack".into(), |policy| format!("{policy:?}"))),
                ports: Some(vec![
                    service_port("tcp-client", CLIENT_PORT, "tcp"),
                    service_port("tcp-peer", PEER_PORT, "tcp"),
                    service_port("http-metrics", METRICS_PORT, "http"),
                ]),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    /// The Service of the clients.
    pub fn client_service(&self, wanted: &ClientService) -> Service {
        let mut metadata = self.meta(self.names.client_service());
        let mut labels = wanted.labels.clone();
        labels.extend(self.names.labels());
        metadata.labels = Some(labels);
        metadata.annotations = (!wanted.annotations.is_empty()).then(|| wanted.annotations.clone());
        Service {
            metadata,
            spec: Some(ServiceSpec {
                type_: Some(wanted.kind.clone()),
                selector: Some(self.names.selector()),
                traffic_distribution: wanted.traffic_distribution.clone(),
                ip_family_policy: Some(
                    wanted
                        .ip_family_policy
                        .clone()
                        .unwrap_or_else(|| "PreferDualStack".into()),
                ),
                ports: Some(vec![service_port("tcp-client", CLIENT_PORT, "tcp")]),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    /// At least so many voters stay.
    pub fn disruption_budget(&self, min_available: u32) -> PodDisruptionBudget {
        PodDisruptionBudget {
            metadata: self.meta(self.names.own()),
            spec: Some(PodDisruptionBudgetSpec {
                // A number that must stay, not one that may go: while a cluster shrinks the latter counts from the
                // smaller size that is wanted, and would let too many go.
                min_available: Some(IntOrString::Int(i32::try_from(min_available).unwrap_or(i32::MAX))),
                selector: Some(self.selector()),
                ..PodDisruptionBudgetSpec::default()
            }),
            status: None,
        }
    }

    /// Who may connect to members.
    pub fn network_policy(&self) -> NetworkPolicy {
        let port = |port: i32| NetworkPolicyPort {
            port: Some(IntOrString::Int(port)),
            protocol: Some("TCP".into()),
            ..NetworkPolicyPort::default()
        };
        let pods = |selector: LabelSelector| NetworkPolicyPeer {
            pod_selector: Some(selector),
            ..NetworkPolicyPeer::default()
        };
        let mut clients = vec![pods(LabelSelector::default())];
        if let Some(namespace) = &self.settings.operator_namespace {
            clients.push(NetworkPolicyPeer {
                namespace_selector: Some(LabelSelector {
                    match_labels: Some(BTreeMap::from([(
                        "kubernetes.io/metadata.name".to_owned(),
                        namespace.clone(),
                    )])),
                    ..LabelSelector::default()
                }),
                ..NetworkPolicyPeer::default()
            });
        }
        let mut peers = vec![pods(self.selector())];
        if clients.len() > 1 {
            // The operator proves before a rotation of authorities goes on that members trust the new one.
            peers.push(clients[1].clone());
        }
        let rule = |ports: Vec<NetworkPolicyPort>, from: Option<Vec<NetworkPolicyPeer>>| NetworkPolicyIngressRule {
            ports: Some(ports),
            from,
        };
        NetworkPolicy {
            metadata: self.meta(self.names.own()),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(self.selector()),
                policy_types: Some(vec!["Ingress".into()]),
                ingress: Some(vec![
                    rule(vec![port(CLIENT_PORT)], Some(clients)),
                    rule(vec![port(PEER_PORT)], Some(peers)),
                    rule(vec![port(METRICS_PORT)], None),
                ]),
                ..NetworkPolicySpec::default()
            }),
        }
    }

    /// A pod that works on the volume of a member that does not run, with this program.
    pub fn work_pod(&self, member: &str, work: &str, arguments: Vec<String>, store: Option<&Store>) -> Pod {
        let mut metadata = self.meta(&Names::work_pod(member, work));
        let mut labels = self.names.labels();
        labels.insert(MEMBER.into(), member.into());
        labels.insert(ROLE.into(), "volume-work".into());
        metadata.labels = Some(labels);
        let template = self.pod_template().spec.unwrap_or_default();
        let mut volumes = vec![data_volume(member)];
        let mut volume_mounts = vec![VolumeMount {
            name: "data".into(),
            mount_path: MOUNT.into(),
            ..VolumeMount::default()
        }];
        if let Some(store) = store {
            let (of_store, mounted) = mounts::of_store(store, true);
            volumes.extend(of_store);
            volume_mounts.extend(mounted);
        }
        let container = Container {
            name: "work".into(),
            image: Some(self.settings.operator_image.clone()),
            args: Some(arguments),
            volume_mounts: Some(volume_mounts),
            security_context: Some(container_security()),
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            ..Container::default()
        };
        Pod {
            metadata,
            spec: Some(PodSpec {
                restart_policy: Some("Never".into()),
                automount_service_account_token: Some(false),
                enable_service_links: Some(false),
                service_account_name: template.service_account_name,
                security_context: Some(template.security_context.unwrap_or_else(pod_security)),
                node_selector: (!template.node_selector.is_empty()).then_some(template.node_selector),
                tolerations: (!template.tolerations.is_empty()).then_some(template.tolerations),
                priority_class_name: template.priority_class_name,
                runtime_class_name: template.runtime_class_name,
                image_pull_secrets: self.pull_secrets(),
                containers: vec![container],
                volumes: Some(volumes),
                ..PodSpec::default()
            }),
            status: None,
        }
    }
}

/// The image of members.
pub fn image(wanted: &Wanted, settings: &Settings) -> String {
    match (&wanted.image, wanted.engine, &wanted.version) {
        (Some(image), _, _) => image.clone(),
        (None, Engine::Etcd, Some(version)) => format!("{}:v{version}", settings.etcd_repository),
        (None, Engine::Etcd | Engine::Quorate, _) => settings.server_image.clone(),
    }
}

fn url(tls: bool, host: &str, port: i32) -> String {
    format!("{}://{host}:{port}", if tls { "https" } else { "http" })
}

/// Hash of a pod as it is rendered, without its resources and without what changes by itself.
fn shape(pod: &Pod) -> String {
    let mut plain = pod.clone();
    plain.metadata.annotations = None;
    if let Some(spec) = &mut plain.spec {
        for container in &mut spec.containers {
            container.resources = None;
            // The token of a bootstrap is read once.
            if let Some(arguments) = &mut container.args {
                arguments.retain(|argument| !argument.starts_with("--initial-cluster-token="));
            }
        }
    }
    short_hash(&serde_json::to_string(&plain).unwrap_or_default())
}

fn data_volume(member: &str) -> Volume {
    Volume {
        name: "data".into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: member.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

fn service_port(name: &str, port: i32, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port,
        target_port: Some(IntOrString::String(name.into())),
        app_protocol: Some(protocol.into()),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".into(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".into()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert;
    use crate::plan::Timestamp;

    /// What is rendered for a manifest, as YAML documents; compared with a file, or written to it with UPDATE=1.
    fn check(name: &str, manifest: &str) {
        let mut object: EtcdCluster = serde_yaml::from_str(manifest).expect("reads");
        object.metadata.uid = Some("5a4c1f4e-0b52-4f0e-9a0e-6f2d6a0f7e11".into());
        object.metadata.namespace = Some("etcd".into());
        let settings = Settings {
            operator_namespace: Some("quorate-system".into()),
            ..Settings::default()
        };
        let mut wanted = convert::wanted(&object, &[], Timestamp(0)).expect("is valid");
        wanted.image = Some(image(&wanted, &settings));
        let names = Names::new(&wanted, "cluster.local");
        let render = Render {
            wanted: &wanted,
            object: &object,
            names: &names,
            settings: &settings,
        };
        let member = names.member(0);
        let start = Start::New {
            initial_cluster: vec![(member.clone(), render.peer_url(&member))],
            token: wanted.uid.clone(),
        };
        let mut documents = vec![
            serde_yaml::to_string(&render.claim(&member, "{}".into())),
            serde_yaml::to_string(&render.pod(&member, &start)),
            serde_yaml::to_string(&render.peer_service()),
            serde_yaml::to_string(&render.client_service(&wanted.client_service)),
        ];
        if wanted.disruption_budget {
            documents.push(serde_yaml::to_string(&render.disruption_budget(2)));
        }
        if wanted.network_policy {
            documents.push(serde_yaml::to_string(&render.network_policy()));
        }
        documents.push(serde_yaml::to_string(&render.work_pod(
            &member,
            "inspect",
            vec!["volume".into(), "inspect".into()],
            Some(&serde_yaml::from_str("s3: {bucket: abc, credentialsSecretRef: {name: s3}}").expect("a store")),
        )));
        let documents: Vec<String> = documents.into_iter().map(|text| text.expect("writes")).collect();
        let text = documents.join("---\n");
        let path = format!(
            "{}/src/platform/kubernetes/testdata/{name}.yaml",
            env!("CARGO_MANIFEST_DIR")
        );
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).expect("writes");
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            known == text,
            "{path} differs from what is rendered; look at it with UPDATE=1 and git diff"
        );
    }

    #[test]
    fn the_quick_start_is_rendered_as_the_file_shows() {
        check("quick-start", include_str!("../../../config/samples/quick-start.yaml"));
    }

    #[test]
    fn everything_that_an_owner_may_wish_is_in_the_pod() {
        check(
            "wishes",
            "apiVersion: quorate.dev/v1alpha1
kind: EtcdCluster
metadata: {name: wishes}
spec:
  replicas: 1
  engine: etcd
  version: 3.7.3
  imagePullPolicy: IfNotPresent
  imagePullSecrets: [{name: registry}]
  storage: {size: 20Gi, storageClassName: fast}
  tls: {insecure: true}
  networkPolicy: {enabled: false}
  podDisruptionBudget: {enabled: false}
  service: {client: {type: LoadBalancer, annotations: {a: b}, ipFamilyPolicy: SingleStack}}
  extraArgs: {pre-vote: \"true\"}
  resources: {requests: {cpu: \"1\", memory: 2Gi}, limits: {memory: 2Gi}}
  podTemplate:
    metadata: {labels: {team: storage}, annotations: {note: hello}}
    spec:
      nodeSelector: {disk: ssd}
      tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 60}]
      priorityClassName: high
      terminationGracePeriodSeconds: 60
",
        );
    }

    #[test]
    fn a_pod_goes_on_from_its_data_or_ends() {
        let wanted = Wanted::new("c", "u", 3);
        let names = Names::new(&wanted, "cluster.local");
        let (object, settings) = (EtcdCluster::new("c", EtcdClusterSpec::default()), Settings::default());
        let render = Render {
            wanted: &wanted,
            object: &object,
            names: &names,
            settings: &settings,
        };
        let resumed = render.initial("m", &Start::Resume);
        assert_eq!(resumed[INITIAL_STATE], "existing");
        assert!(!resumed[INITIAL_CLUSTER].contains(','), "nobody to join again");
        let mut bigger = object.clone();
        bigger.spec.resources = Some(ResourceRequirements::default());
        let other = Render {
            object: &bigger,
            ..render
        };
        let shape = |render: &Render<'_>| render.pod("m", &Start::Resume).metadata.annotations.unwrap()[SHAPE].clone();
        assert_eq!(shape(&render), shape(&other), "resources alone are no other shape");
    }
}
