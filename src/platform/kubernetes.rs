//! One `EtcdCluster` on Kubernetes: members are bare Pods, each with a volume of its own.
//!
//! ```text
//! names    what things are called              steps         carry out
//! render   what things are (pure)              work          pods that work on a stopped member's volume
//! observe  one look                            certificates  Secrets with TLS material, and their rotation
//! record   the journal and the volumes         status        publish
//! apply    write objects, never another's      volume        what runs inside those pods
//! ```
//! Invariants:
//! 1. Whose an object is, is told by the uid of its owner reference; a volume has none (nothing may cascade to data) and
//!    is told by the cluster's record. Objects of others with our names are refused, with our labels ignored.
//! 2. Deletes carry the uid and the resource version that were read in the same step.
//! 3. The journal is written with the resource version that it was read at: of two operators one is told to look again.
//! 4. The spec of an `EtcdCluster` is never written.

pub mod names;

use crate::api::{EtcdBackup, EtcdCluster, convert};
use crate::plan::{Due, Ensure, Journal, Observed, Plan, Step, Timestamp, Wanted};
use crate::platform::{Error, Event, Platform};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the operator knows that is the same for every cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Image with this program: runs the work on volumes of stopped members.
    pub operator_image: String,
    /// Image of members with engine `quorate`, unless `spec.image` names another.
    pub server_image: String,
    /// Repository of upstream's image, for engine `etcd` without `spec.image`; the tag is `v` and the version.
    pub etcd_repository: String,
    /// DNS domain of the Kubernetes cluster, unless `spec.clusterDomain` names another.
    pub cluster_domain: String,
    /// Namespace of the operator, which network policies let in; none when it runs outside.
    pub operator_namespace: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            operator_image: "localhost/quorate:dev".to_owned(),
            server_image: "localhost/quorate-server:dev".to_owned(),
            etcd_repository: "registry.k8s.io/etcd".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            operator_namespace: None,
        }
    }
}

/// One cluster.
pub struct Cluster {
    client: kube::Client,
    namespace: String,
    name: String,
    settings: Arc<Settings>,
    /// The object and the backups that were last given to [`Cluster::wanted`].
    object: Option<Arc<EtcdCluster>>,
    backups: Vec<Arc<EtcdBackup>>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster `name` of `namespace`. Looks at nothing yet.
    pub fn new(client: kube::Client, namespace: &str, name: &str, settings: Arc<Settings>) -> Cluster {
        Cluster {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            settings,
            object: None,
            backups: Vec::new(),
        }
    }

    /// What is wanted, from the object as it was last seen and the `EtcdBackup`s of its namespace; keep calling it with
    /// what is newest before each round. All that is wrong with the object is told at once.
    pub fn wanted(
        &mut self,
        object: Arc<EtcdCluster>,
        backups: Vec<Arc<EtcdBackup>>,
    ) -> Result<Wanted, convert::Invalid> {
        let plain: Vec<EtcdBackup> = backups.iter().map(|backup| backup.as_ref().clone()).collect();
        let wanted = convert::wanted(&object, &plain, self.now())?;
        self.object = Some(object);
        self.backups = backups;
        Ok(wanted)
    }
}

impl Platform for Cluster {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    async fn observe(&mut self, _wanted: &Wanted) -> Result<Observed, Error> {
        Err(Error::platform("the Kubernetes platform cannot look yet"))
    }

    async fn ensure(&mut self, _wanted: &Wanted, _what: &Ensure) -> Result<(), Error> {
        Err(Error::platform("the Kubernetes platform cannot look yet"))
    }

    async fn begin(&mut self, _wanted: &Wanted, _due: &Due) -> Result<(), Error> {
        Err(Error::platform("the Kubernetes platform cannot look yet"))
    }

    async fn carry_out(&mut self, _wanted: &Wanted, _step: &Step) -> Result<(), Error> {
        Err(Error::platform("the Kubernetes platform cannot look yet"))
    }

    async fn persist(&mut self, _journal: &Journal) -> Result<(), Error> {
        Err(Error::platform("the Kubernetes platform cannot look yet"))
    }

    async fn publish(&mut self, _wanted: &Wanted, _plan: &Plan) -> Result<(), Error> {
        Err(Error::platform("the Kubernetes platform cannot look yet"))
    }

    async fn tell(&mut self, _event: &Event) {}
}
