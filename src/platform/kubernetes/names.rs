//! Names, labels and annotations of all that is made for a cluster. Pure.
//!
//! Invariants:
//! 1. Two clusters never make objects of one name: what is not named by its owner's wish carries a hash of the owner's
//!    uid, so a cluster that is made again under an old name finds nothing of the old one in its way.
//! 2. A member's name is never given twice: it ends in random characters, and creation refuses what is there.
//! 3. Labels are for people and selectors. Whose an object is, is told by the uid of its owner reference (of a volume:
//!    by the cluster's record), never by labels.

use crate::plan::Wanted;
use crate::plan::resources::short_hash;
use std::collections::BTreeMap;

/// The field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "quorate";
/// Keeps an `EtcdCluster` until its deletion policy was carried out.
pub const FINALIZER: &str = "quorate.dev/data";

/// Label: name of the cluster.
pub const CLUSTER: &str = "quorate.dev/cluster";
/// Label: name of the member.
pub const MEMBER: &str = "quorate.dev/member";
/// Label: what a pod is, `member` or `volume-work`.
pub const ROLE: &str = "quorate.dev/role";
/// Label of a volume that is out of use.
pub const RETIRED: &str = "quorate.dev/retired";

/// Annotation: uid of the cluster that a volume belongs to.
pub const CLUSTER_UID: &str = "quorate.dev/cluster-uid";
/// Annotation: what a volume is, and what was learned about its content, as JSON.
pub const VOLUME: &str = "quorate.dev/volume";
/// Annotation: the planner's template that a pod runs with.
pub const TEMPLATE: &str = "quorate.dev/template";
/// Annotation: hash of a pod as it was rendered, resources left out.
pub const SHAPE: &str = "quorate.dev/shape";
/// Annotation that a member's environment reads: `--initial-cluster`.
pub const INITIAL_CLUSTER: &str = "quorate.dev/initial-cluster";
/// Annotation that a member's environment reads: `--initial-cluster-state`.
pub const INITIAL_STATE: &str = "quorate.dev/initial-cluster-state";

/// The clients' port.
pub const CLIENT_PORT: i32 = 2379;
/// The members' port.
pub const PEER_PORT: i32 = 2380;
/// Metrics and health, without data.
pub const METRICS_PORT: i32 = 2381;

/// Five characters of `text`'s hash that make no words.
fn short(text: &str) -> String {
    let hash = u64::from_str_radix(&short_hash(text), 16).unwrap_or_default();
    suffix(hash)
}

/// Five characters that make no words and are not mistaken for one another: about 14 million of them.
pub fn suffix(mut number: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| {
            let character = ALPHABET[usize::try_from(number % 27).unwrap_or(0)];
            number /= 27;
            char::from(character)
        })
        .collect()
}

/// Names for one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    namespace: String,
    cluster: String,
    own: String,
    domain: String,
}

impl Names {
    /// Names of the cluster `wanted` in a Kubernetes cluster with this DNS domain.
    pub fn new(wanted: &Wanted, domain: &str) -> Names {
        Names {
            namespace: wanted.namespace.clone(),
            cluster: wanted.name.clone(),
            own: format!("{}-{}", wanted.name, short(&wanted.uid)),
            domain: domain.to_owned(),
        }
    }

    /// A member, from a random number.
    pub fn member(&self, random: u64) -> String {
        format!("{}-{}", self.own, suffix(random))
    }

    /// The Service for clients, named as the cluster.
    pub fn client_service(&self) -> &str {
        &self.cluster
    }

    /// The headless Service under which members find each other.
    pub fn peer_service(&self) -> String {
        format!("{}-peers", self.own)
    }

    /// The disruption budget and the network policy.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The operator's memory of the cluster.
    pub fn record(&self) -> String {
        format!("{}-record", self.own)
    }

    /// The authority of clients or of peers, with its key.
    pub fn authority(&self, side: &str) -> String {
        format!("{}-{side}-ca", self.own)
    }

    /// The operator's own client certificate.
    pub fn operator_secret(&self) -> String {
        format!("{}-operator", self.own)
    }

    /// What users mount to be clients.
    pub fn client_secret(&self) -> String {
        format!("{}-client", self.cluster)
    }

    /// The same with the names that kubeadm and kube-apiserver use.
    pub fn apiserver_secret(&self) -> String {
        format!("{}-apiserver", self.cluster)
    }

    /// A member's certificates.
    pub fn member_secret(member: &str) -> String {
        format!("{member}-tls")
    }

    /// A pod that works on the volume of a member that does not run.
    pub fn work_pod(member: &str, work: &str) -> String {
        format!("{member}-{work}")
    }

    /// The name under which a member is reached from anywhere in the Kubernetes cluster.
    pub fn member_host(&self, member: &str) -> String {
        format!(
            "{member}.{}.{}.svc.{}",
            self.peer_service(),
            self.namespace,
            self.domain
        )
    }

    /// The Service's name as clients of other namespaces need it.
    pub fn client_host(&self) -> String {
        format!("{}.{}.svc", self.cluster, self.namespace)
    }

    /// What certificates of a member for clients are valid for.
    pub fn server_names(&self, member: &str) -> Vec<String> {
        let service = &self.cluster;
        let namespace = &self.namespace;
        let mut names = self.peer_names(member);
        names.extend([
            service.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.{}", self.domain),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ]);
        names
    }

    /// What certificates of a member for its peers are valid for. Names alone: etcd compares addresses, where a
    /// certificate has any, with the caller's.
    pub fn peer_names(&self, member: &str) -> Vec<String> {
        let short = format!("{member}.{}.{}.svc", self.peer_service(), self.namespace);
        vec![self.member_host(member), short]
    }

    /// Labels of every object of the cluster.
    pub fn labels(&self) -> BTreeMap<String, String> {
        [
            ("app.kubernetes.io/name", "etcd"),
            ("app.kubernetes.io/instance", self.cluster.as_str()),
            ("app.kubernetes.io/managed-by", "quorate"),
            (CLUSTER, self.cluster.as_str()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }

    /// Labels that select the members' pods.
    pub fn selector(&self) -> BTreeMap<String, String> {
        [(CLUSTER, self.cluster.as_str()), (ROLE, "member")]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// The same as text, for a list request and for `status.selector`.
    pub fn selector_text(&self) -> String {
        format!("{CLUSTER}={},{ROLE}=member", self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(namespace: &str, name: &str, uid: &str) -> Names {
        let mut wanted = Wanted::new(name, uid, 3);
        wanted.namespace = namespace.into();
        Names::new(&wanted, "cluster.local")
    }

    #[test]
    fn names_of_two_clusters_never_meet() {
        let (a, b) = (names("c", "a-b", "1"), names("b-c", "a", "2"));
        assert_ne!(a.peer_service(), b.peer_service());
        let reborn = names("c", "a-b", "3");
        assert_ne!(a.record(), reborn.record());
        assert_ne!(a.member(7), reborn.member(7));
    }

    #[test]
    fn the_longest_names_fit() {
        let longest = names("n", &"x".repeat(40), "0b0f9a3c-1f0c-4f5a-9d7e-1a2b3c4d5e6f");
        let member = longest.member(u64::MAX);
        assert!(member.len() <= 63, "{member}");
        assert!(longest.peer_service().len() <= 63);
        assert!(Names::work_pod(&member, "recover").len() <= 63);
        // A common name holds 64 characters.
        assert!(member.len() <= 64);
    }
}
