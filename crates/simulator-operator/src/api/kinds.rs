//! The kinds of the Kubernetes API that the simulated server serves, and how a path names them.

/// One kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Plural, as in paths.
    pub plural: &'static str,
    /// Group and version.
    pub api_version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// It lies in a namespace.
    pub namespaced: bool,
    /// Its status is written apart from the rest.
    pub status: bool,
}

const fn kind(plural: &'static str, api_version: &'static str, kind: &'static str, ns: bool, status: bool) -> Kind {
    Kind {
        plural,
        api_version,
        kind,
        namespaced: ns,
        status,
    }
}

/// All of them.
pub const KINDS: &[Kind] = &[
    kind("namespaces", "v1", "Namespace", false, true),
    kind("nodes", "v1", "Node", false, true),
    kind("persistentvolumes", "v1", "PersistentVolume", false, true),
    kind("persistentvolumeclaims", "v1", "PersistentVolumeClaim", true, true),
    kind("pods", "v1", "Pod", true, true),
    kind("secrets", "v1", "Secret", true, false),
    kind("configmaps", "v1", "ConfigMap", true, false),
    kind("services", "v1", "Service", true, true),
    kind("serviceaccounts", "v1", "ServiceAccount", true, false),
    kind("events", "events.k8s.io/v1", "Event", true, false),
    kind("leases", "coordination.k8s.io/v1", "Lease", true, false),
    kind("poddisruptionbudgets", "policy/v1", "PodDisruptionBudget", true, true),
    kind("networkpolicies", "networking.k8s.io/v1", "NetworkPolicy", true, false),
    kind("etcdclusters", "quorate.dev/v1alpha1", "EtcdCluster", true, true),
    kind("etcdbackups", "quorate.dev/v1alpha1", "EtcdBackup", true, true),
];

/// The kind with this plural.
pub fn of(plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.plural == plural)
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Kind.
    pub kind: &'static Kind,
    /// Namespace; none for what has none, and for all of them.
    pub namespace: Option<String>,
    /// One object.
    pub name: Option<String>,
    /// `status`, `resize`.
    pub subresource: Option<String>,
}

/// Reads a path.
pub fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() && *rest != ["status"] => {
            (Some((*namespace).to_owned()), rest)
        }
        rest => (None, rest),
    };
    let kind = of(rest.first()?).filter(|kind| kind.api_version == version)?;
    Some(Target {
        kind,
        namespace,
        name: rest.get(1).map(|name| (*name).to_owned()),
        subresource: rest.get(2).map(|name| (*name).to_owned()),
    })
}
