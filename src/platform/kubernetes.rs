//! One `EtcdCluster` on Kubernetes: members are bare Pods, each with a volume of its own.
//!
//! ```text
//! names    what things are called              steps         carry out
//! render   what things are (pure)              work          pods that work on a stopped member's volume
//! observe  one look                            volume        what runs inside those pods
//! record   the journal and the volumes         certificates  Secrets with TLS material, and their rotation
//! apply    write objects, never another's      probe         whom a member trusts
//! claims   claims that were never bound        status        publish
//! ```
//! Invariants:
//! 1. Whose an object is, is told by the uid of its owner reference; a volume has none (nothing may cascade to data) and
//!    is told by the cluster's record. Objects of others with our names are refused, with our labels ignored.
//! 2. Deletes carry the uid and the resource version that were read in the same step.
//! 3. The journal is written with the resource version that it was read at: of two operators one is told to look again.
//! 4. The spec of an `EtcdCluster` is never written.

mod apply;
mod certificates;
mod claims;
pub mod names;
mod observe;
mod probe;
mod record;
pub mod render;
pub mod status;
mod steps;
pub mod volume;
mod work;

use crate::api::{EtcdBackup, EtcdCluster, EtcdClusterSpec, convert};
use crate::member::Connections;
use crate::member::usage::{self, Usage};
use crate::plan::observed::Health;
use crate::plan::{Due, Ensure, Journal, Observed, Plan, Step, Timestamp, Wanted, backup};
use crate::platform::surroundings::Surroundings;
use crate::platform::{Error, Event, Platform};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::{Client, Resource, ResourceExt};
use names::Names;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::task::JoinHandle;

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

/// Why something on Kubernetes was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API server refused, or cannot be reached.
    #[error("{}", told(.0))]
    Api(#[from] kube::Error),
    /// An object of somebody else has a name that is needed.
    #[error(
        "there is a {kind} {name} that does not belong to this cluster: delete or rename it, or rename the cluster"
    )]
    Taken {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// TLS material cannot be made.
    #[error(transparent)]
    Certificate(#[from] crate::certificates::Error),
    /// Something else, in words.
    #[error("{0}")]
    Other(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::platform(failure)
    }
}

/// An error of the API in one sentence.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server refused: {} ({})", status.message, status.reason),
        other => other.to_string(),
    }
}

/// One cluster.
pub struct Cluster {
    client: Client,
    namespace: String,
    name: String,
    settings: Arc<Settings>,
    around: Arc<dyn Surroundings>,
    /// The object and the backups that were last given to [`Cluster::wanted`].
    object: Option<Arc<EtcdCluster>>,
    backups: Vec<Arc<EtcdBackup>>,
    /// Stands in for the object before there is one.
    nothing: EtcdCluster,
    connections: Arc<Connections>,
    /// None before the first look, and after somebody else wrote it.
    record: Option<record::Record>,
    kept_by_us: bool,
    known_volumes: BTreeSet<String>,
    health: BTreeMap<String, Health>,
    fresh: Vec<String>,
    /// Client URLs of the members that ran in the last look.
    endpoints: BTreeMap<String, String>,
    /// Members that may have run in the last look, with the address of those that can be asked.
    running: BTreeMap<String, Option<String>>,
    places: observe::Places,
    secrets: certificates::Secrets,
    applied: apply::Applied,
    /// Hashes of cert-manager's Certificates that were applied.
    ordered: BTreeMap<String, String>,
    published: status::Published,
    /// What could not be kept in place in the last round, by what it is.
    troubles: BTreeMap<&'static str, String>,
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
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        settings: Arc<Settings>,
        around: Arc<dyn Surroundings>,
    ) -> Cluster {
        let connections = Connections::by(around.reach());
        Cluster {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            settings,
            around,
            object: None,
            backups: Vec::new(),
            nothing: EtcdCluster::new(name, EtcdClusterSpec::default()),
            connections,
            record: None,
            kept_by_us: false,
            known_volumes: BTreeSet::new(),
            health: BTreeMap::new(),
            fresh: Vec::new(),
            endpoints: BTreeMap::new(),
            running: BTreeMap::new(),
            places: observe::Places::default(),
            secrets: certificates::Secrets::default(),
            applied: apply::Applied::default(),
            ordered: BTreeMap::new(),
            published: status::Published::default(),
            troubles: BTreeMap::new(),
        }
    }

    /// What is wanted, from the object as it was last seen and the `EtcdBackup`s of its namespace; call it with what is
    /// newest before each round. All that is wrong with the object is told at once.
    pub fn wanted(
        &mut self,
        object: Arc<EtcdCluster>,
        backups: Vec<Arc<EtcdBackup>>,
    ) -> Result<Wanted, convert::Invalid> {
        let plain: Vec<EtcdBackup> = backups.iter().map(|backup| backup.as_ref().clone()).collect();
        let mut wanted = convert::wanted(&object, &plain, self.now())?;
        // Members follow the operator's own images too.
        wanted.image = Some(render::image(&wanted, &self.settings));
        if let Some(status) = &object.status {
            self.published.seen(status);
        }
        self.object = Some(object);
        self.backups = backups;
        Ok(wanted)
    }

    /// Something happened to objects of this cluster (a watch says): they are looked at in the next round, instead of
    /// now and then.
    pub fn look_again(&mut self) {
        self.applied.look_again();
        self.secrets.look_again();
    }

    /// Connections to its members, shared with work in the background.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.connections)
    }

    fn names(&self, wanted: &Wanted) -> Names {
        let object = self.object.as_deref().unwrap_or(&self.nothing);
        let domain = object
            .spec
            .cluster_domain
            .as_deref()
            .unwrap_or(&self.settings.cluster_domain);
        Names::new(wanted, domain)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn ensure_object(&mut self, wanted: &Wanted, what: &Ensure) -> Result<(), Failure> {
        let names = self.names(wanted);
        match what {
            Ensure::Certificates { tls, members } => {
                // The one member that a plan is about to create gets its Secret in the round that starts it.
                self.ensure_certificates(wanted, tls, members).await
            }
            Ensure::UnboundVolumes => self.give_up_claims(wanted).await,
            Ensure::PeerService => {
                let service = self.render(wanted, &names).peer_service();
                let api: Api<Service> = self.api();
                self.applied.apply(&api, &service, &wanted.uid).await
            }
            Ensure::ClientService(settings) => {
                let service = self.render(wanted, &names).client_service(settings);
                let api: Api<Service> = self.api();
                self.applied.apply(&api, &service, &wanted.uid).await
            }
            Ensure::DisruptionBudget { min_available, .. } => {
                let budget = self.render(wanted, &names).disruption_budget(*min_available);
                let api: Api<PodDisruptionBudget> = self.api();
                self.applied.apply(&api, &budget, &wanted.uid).await
            }
            Ensure::NoDisruptionBudget => {
                let api: Api<PodDisruptionBudget> = self.api();
                self.applied.absent(&api, names.own(), &wanted.uid).await
            }
            Ensure::NoNetworkPolicy => {
                let api: Api<NetworkPolicy> = self.api();
                self.applied.absent(&api, names.own(), &wanted.uid).await
            }
            Ensure::NetworkPolicy => {
                let policy = self.render(wanted, &names).network_policy();
                let api: Api<NetworkPolicy> = self.api();
                self.applied.apply(&api, &policy, &wanted.uid).await
            }
        }
    }

    /// Makes or deletes an `EtcdBackup`; whoever reconciles those does the work.
    async fn due_backup(&mut self, action: &backup::Action) -> Result<(), Failure> {
        let api: Api<EtcdBackup> = self.api();
        match action {
            backup::Action::Create {
                policy,
                name,
                scheduled,
            } => {
                let policy = self.backups.iter().find(|object| object.name_any() == *policy);
                let Some(policy) = policy else { return Ok(()) };
                let child = convert::child(policy, name, *scheduled);
                match api.create(&apply::post(), &child).await {
                    Ok(_) => Ok(()),
                    // The name is a function of policy and tick: it was made already.
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            backup::Action::Prune { name } => match api.get_opt(name).await? {
                Some(object) => apply::delete(&api, &object, None).await,
                None => Ok(()),
            },
        }
    }
}

impl Platform for Cluster {
    fn now(&self) -> Timestamp {
        self.around.timestamp()
    }

    async fn observe(&mut self, wanted: &Wanted) -> Result<Observed, Error> {
        Ok(self.look(wanted).await?)
    }

    async fn ensure(&mut self, wanted: &Wanted, what: &Ensure) -> Result<(), Error> {
        let key = match what {
            Ensure::Certificates { .. } => "certificates",
            Ensure::UnboundVolumes => "PersistentVolumeClaims",
            Ensure::PeerService => "peer Service",
            Ensure::ClientService(_) => "client Service",
            Ensure::DisruptionBudget { .. } | Ensure::NoDisruptionBudget => "PodDisruptionBudget",
            Ensure::NetworkPolicy | Ensure::NoNetworkPolicy => "NetworkPolicy",
        };
        match self.ensure_object(wanted, what).await {
            Ok(()) => {
                self.troubles.remove(key);
                Ok(())
            }
            Err(failure) => {
                self.troubles.insert(key, format!("{key}: {failure}"));
                Err(failure.into())
            }
        }
    }

    async fn begin(&mut self, _wanted: &Wanted, due: &Due) -> Result<(), Error> {
        match due {
            Due::Backup(action) => Ok(self.due_backup(action).await?),
            Due::PurgeVolume { name, volume } => Ok(self.purge(name, volume).await?),
        }
    }

    async fn carry_out(&mut self, wanted: &Wanted, step: &Step) -> Result<(), Error> {
        self.step(wanted, step).await
    }

    async fn persist(&mut self, journal: &Journal) -> Result<(), Error> {
        let Some(object) = self.object.clone() else {
            return Err(Error::platform("there is no EtcdCluster to remember anything of"));
        };
        // Before anything is made, the object is kept from going without its deletion policy.
        let keeps = object
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == names::FINALIZER);
        if !keeps && !self.kept_by_us && object.metadata.deletion_timestamp.is_none() {
            self.finalize(true).await?;
        }
        self.kept_by_us = true;
        let wanted = convert::wanted(&object, &[], self.now()).map_err(Error::platform)?;
        let names = self.names(&wanted);
        let meta = self.render(&wanted, &names).meta(&names.record());
        let Some(record) = &mut self.record else {
            return Err(Error::platform("the record of the cluster was not read yet"));
        };
        if let Err(failure) = record.write(&self.client, meta, journal).await {
            // Whatever it is, what is known here may not be what is there: read it again.
            self.record = None;
            // In a namespace that is being deleted nothing can be made any more, and a deletion needs no memory.
            if object.metadata.deletion_timestamp.is_none() {
                return Err(failure.into());
            }
        }
        Ok(())
    }

    async fn publish(&mut self, wanted: &Wanted, plan: &Plan) -> Result<(), Error> {
        let selector = self.names(wanted).selector_text();
        let (client, namespace) = (self.client.clone(), self.namespace.clone());
        Ok(self
            .published
            .publish(&client, &namespace, &self.name, selector, plan)
            .await?)
    }

    fn measure(&mut self) -> Option<JoinHandle<Option<Usage>>> {
        let endpoints: Vec<String> = self.endpoints.values().cloned().collect();
        (!endpoints.is_empty()).then(|| usage::begin(Arc::clone(&self.connections), endpoints))
    }

    async fn tell(&mut self, event: &Event) {
        // Events of the Kubernetes API are made by the operator, which has one recorder for all clusters.
        tracing::info!(
            namespace = self.namespace,
            name = self.name,
            reason = event.reason,
            "{}",
            event.message
        );
    }
}
