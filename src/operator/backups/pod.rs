//! The pod that takes one backup, or removes it. Pure.
//!
//! Invariants:
//! 1. It meets the `restricted` Pod Security Standard and has no token for the API server.
//! 2. Its name is a function of the backup's, so that two operators cannot make two of it.
//! 3. It ends by itself: by the work's own timeout, and by the kubelet's deadline after that.

use crate::api::EtcdBackup;
use crate::api::parts::PodTemplate;
use crate::backup::in_pod::TLS;
use crate::backup::mounts;
use crate::plan::resources::short_hash;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile, SecurityContext,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;
use std::time::Duration;

/// Label: the backup that a pod works for.
pub const BACKUP_LABEL: &str = "quorate.dev/backup";
/// Annotation: which try it is, counted from 1.
pub const ATTEMPT: &str = "quorate.dev/attempt";
/// The one container.
pub const CONTAINER: &str = "backup";
/// Service account of backups that name none: it may do nothing, and is there to be given an identity by a cloud.
pub const SERVICE_ACCOUNT: &str = "quorate-backup";
/// Nobody in particular, and in no image.
const USER: i64 = 65532;
/// The kubelet ends the pod this long after the work should have ended by itself.
pub const SLACK: Duration = Duration::from_secs(60);

/// What a pod is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Take the backup.
    Take,
    /// Remove what is stored.
    Remove,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Purpose::Take => "backup",
            Purpose::Remove => "remove",
        }
    }
}

/// Whom a backup is read from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Name of the cluster in keys and manifests.
    pub cluster: String,
    /// Client URLs.
    pub endpoints: Vec<String>,
    /// The cluster id that members must state.
    pub cluster_id: Option<String>,
    /// Secret with the client certificate.
    pub tls_secret: Option<String>,
}

/// The name of a backup's pod.
pub fn name(backup: &str, purpose: Purpose) -> String {
    let word = purpose.word();
    if backup.len() + word.len() < 63 {
        return format!("{backup}-{word}");
    }
    let mut end = 38;
    while !backup.is_char_boundary(end) {
        end -= 1;
    }
    format!(
        "{}-{}-{word}",
        backup[..end].trim_end_matches(['.', '-']),
        short_hash(backup)
    )
}

/// The pod for one try.
pub fn render(object: &EtcdBackup, purpose: Purpose, origin: &Origin, attempt: i32, image: &str) -> Pod {
    let own = object.spec.pod_template.clone().unwrap_or_default();
    let (mut volumes, mut volume_mounts) = mounts::of_store(&object.spec.destination, false);
    let (spool, spool_mount) = mounts::spool();
    volumes.push(spool);
    volume_mounts.push(spool_mount);
    if let Some(secret) = &origin.tls_secret {
        volumes.push(mounts::secret("tls", secret));
        volume_mounts.push(VolumeMount {
            name: "tls".into(),
            mount_path: TLS.into(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    let container = Container {
        name: CONTAINER.into(),
        image: Some(image.to_owned()),
        args: Some(arguments(object, purpose, origin)),
        resources: Some(object.spec.resources.clone().unwrap_or_else(resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                add: None,
            }),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            ..SecurityContext::default()
        }),
        // What a work that was killed said last is better than nothing.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(volume_mounts),
        ..Container::default()
    };
    let deadline = object.spec.timeout.get().unwrap_or(Duration::from_secs(900)) + SLACK;
    let spec = PodSpec {
        restart_policy: Some("Never".into()),
        active_deadline_seconds: i64::try_from(deadline.as_secs()).ok(),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        containers: vec![container],
        volumes: Some(volumes),
        termination_grace_period_seconds: Some(5),
        ..template(&own)
    };
    Pod {
        metadata: metadata(object, purpose, &own, attempt),
        spec: Some(spec),
        status: None,
    }
}

fn metadata(object: &EtcdBackup, purpose: Purpose, own: &PodTemplate, attempt: i32) -> ObjectMeta {
    let given = own.metadata.clone().unwrap_or_default();
    let mut labels = given.labels;
    for (key, value) in [
        ("app.kubernetes.io/name", "etcd-backup"),
        ("app.kubernetes.io/managed-by", "quorate"),
        ("quorate.dev/role", "backup"),
    ] {
        labels.insert(key.into(), value.into());
    }
    let backup = object.name_any();
    // A label holds 63 characters; without it, the pod's end is seen at the next look instead of at once.
    if backup.len() <= 63 {
        labels.insert(BACKUP_LABEL.into(), backup.clone());
    }
    let mut annotations = given.annotations;
    annotations.insert(ATTEMPT.into(), attempt.to_string());
    ObjectMeta {
        name: Some(name(&backup, purpose)),
        namespace: object.namespace(),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: object.controller_owner_ref(&()).map(|mut owner| {
            owner.block_owner_deletion = Some(false);
            vec![owner]
        }),
        ..ObjectMeta::default()
    }
}

fn arguments(object: &EtcdBackup, purpose: Purpose, origin: &Origin) -> Vec<String> {
    let mut told = EtcdBackup::new(&object.name_any(), object.spec.clone());
    told.metadata.namespace = object.namespace();
    // Where and how the pod runs is no business of what runs in it.
    told.spec.pod_template = None;
    if purpose == Purpose::Remove {
        told.status.clone_from(&object.status);
    }
    let mut arguments = vec![
        "backup".to_owned(),
        format!("--object={}", serde_json::to_string(&told).unwrap_or_default()),
        format!("--cluster={}", origin.cluster),
    ];
    match purpose {
        Purpose::Remove => arguments.push("--remove".into()),
        Purpose::Take => {
            arguments.push(format!("--endpoints={}", origin.endpoints.join(",")));
            arguments.extend(origin.cluster_id.iter().map(|id| format!("--cluster-id={id}")));
        }
    }
    arguments
}

/// What the template leaves open is the operator's default.
fn template(own: &PodTemplate) -> PodSpec {
    let own = own.spec.clone().unwrap_or_default();
    let some = |map: BTreeMap<String, String>| (!map.is_empty()).then_some(map);
    PodSpec {
        affinity: own.affinity,
        node_selector: some(own.node_selector),
        tolerations: (!own.tolerations.is_empty()).then_some(own.tolerations),
        topology_spread_constraints: (!own.topology_spread_constraints.is_empty())
            .then_some(own.topology_spread_constraints),
        priority_class_name: own.priority_class_name,
        service_account_name: own.service_account_name.or_else(|| Some(SERVICE_ACCOUNT.into())),
        runtime_class_name: own.runtime_class_name,
        security_context: own.security_context.or_else(|| {
            Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                fs_group_change_policy: Some("OnRootMismatch".into()),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".into(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            })
        }),
        ..PodSpec::default()
    }
}

/// A backup streams: what it needs does not grow with the database.
fn resources() -> ResourceRequirements {
    let map = |entries: &[(&str, &str)]| {
        let quantities = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Quantity((*value).to_owned())));
        Some(quantities.collect())
    };
    ResourceRequirements {
        requests: map(&[("cpu", "50m"), ("memory", "64Mi")]),
        limits: map(&[("memory", "256Mi")]),
        ..ResourceRequirements::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> EtcdBackup {
        let spec = serde_yaml::from_str(
            "{clusterRef: {name: db}, destination: {s3: {bucket: abc, credentialsSecretRef: {name: s3}}}}",
        )
        .unwrap();
        let mut object = EtcdBackup::new(name, spec);
        object.metadata.uid = Some("u".into());
        object.metadata.namespace = Some("n".into());
        object
    }

    #[test]
    fn the_pod_is_restricted_and_finite_and_has_no_secret_in_its_arguments_or_environment() {
        let origin = Origin {
            cluster: "db".into(),
            endpoints: vec!["https://a:2379".into(), "https://b:2379".into()],
            cluster_id: Some("cafe".into()),
            tls_secret: Some("db-client".into()),
        };
        let pod = render(&object("one"), Purpose::Take, &origin, 2, "image");
        let spec = pod.spec.unwrap();
        let container = &spec.containers[0];
        assert_eq!(spec.active_deadline_seconds, Some(960));
        assert_eq!(spec.automount_service_account_token, Some(false));
        assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
        assert!(container.env.is_none() && container.env_from.is_none());
        let arguments = container.args.clone().unwrap();
        assert!(
            arguments.contains(&"--endpoints=https://a:2379,https://b:2379".to_owned()),
            "{arguments:?}"
        );
        assert!(arguments.contains(&"--cluster-id=cafe".to_owned()));
        assert_eq!(pod.metadata.annotations.unwrap()[ATTEMPT], "2");
        let secure = container.security_context.clone().unwrap();
        assert_eq!(
            (secure.read_only_root_filesystem, secure.run_as_non_root),
            (Some(true), Some(true))
        );
    }

    #[test]
    fn names_of_pods_are_names_however_long_the_backups_are() {
        assert_eq!(
            name("nightly-202601010300", Purpose::Take),
            "nightly-202601010300-backup"
        );
        let (a, b) = (format!("{}a", "x".repeat(200)), format!("{}b", "x".repeat(200)));
        assert!(name(&a, Purpose::Take).len() <= 63);
        assert_ne!(name(&a, Purpose::Take), name(&b, Purpose::Take));
        assert_ne!(name(&a, Purpose::Take), name(&a, Purpose::Remove));
    }
}
