//! `quorate operator`: the planner at work on a Kubernetes cluster.
//!
//! ```text
//! watches   what there is, and whom a change wakes      lease    one operator at a time
//! workers   one worker per object                       tenure   the lease is held aside from all work
//! clusters  the work of a cluster's worker              guard    no write without the lease
//! backups   the work of a backup's worker               events   what `kubectl describe` shows
//! metrics, http, pulse   what it tells about itself
//! ```
//! Invariants:
//! 1. Nothing is written without a live lease, whoever asks for it (see [`guard`]).
//! 2. Losing the lease ends all work at once and the process with it; being told to stop lets every worker end the step
//!    that it is about, and gives the lease away.
//! 3. Neither a renewal of the lease nor an answer to a probe ever waits behind work (see [`tenure`]).
//! 4. Nothing that matters is in this process alone: another one goes on from what it observes.

pub mod backups;
pub mod clusters;
pub mod events;
pub mod guard;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod pulse;
pub mod tenure;
pub mod watches;
pub mod workers;

use crate::api::{EtcdBackup, EtcdCluster};
use crate::clock;
use crate::platform::kubernetes::{Settings, names};
use crate::platform::surroundings::{Aside, Machine, Surroundings};
use anyhow::{Context as _, bail};
use clap::Args;
use clusters::Pauses;
use events::Recorder;
use guard::Guard;
use k8s_openapi::api::coordination::v1::Lease;
use kube::client::ClientBuilder;
use kube::{Api, Client};
use lease::{Election, Gate, Terms};
use metrics::{Metrics, Objects};
use pulse::Pulses;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tenure::Tenure;
use tokio::sync::watch;
use tower::limit::ConcurrencyLimitLayer;
use watches::{Cache, Key, Watches};
use workers::Workers;

/// Workers that were told to stop have this long to end what they are about.
const GRACE: Duration = Duration::from_secs(20);
/// Every object is given its worker this often, whatever was missed.
const SWEEP: Duration = Duration::from_secs(5);
/// Requests of one client that wait for the API server at one time, beginnings of watches included: hundreds of clusters that
/// are looked at for the first time leave the API server to others too.
const AT_ONCE: usize = 24;
/// What is done every few seconds has stopped when it was not done for this long.
const STOPPED: Duration = Duration::from_secs(60);

/// What `quorate operator` is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Namespaces to manage, separated by commas; all of them when absent.
    #[arg(long, env = "QUORATE_NAMESPACES", value_delimiter = ',')]
    pub namespace: Vec<String>,
    /// Image of this program: it works on volumes of stopped members, and takes backups.
    #[arg(long, env = "QUORATE_IMAGE", default_value = "localhost/quorate:dev")]
    pub image: String,
    /// Image of members, for clusters that name none.
    #[arg(long, env = "QUORATE_SERVER_IMAGE", default_value = "localhost/quorate-server:dev")]
    pub server_image: String,
    /// Repository of upstream's image, for clusters with engine etcd that name none.
    #[arg(long, env = "QUORATE_ETCD_REPOSITORY", default_value = "registry.k8s.io/etcd")]
    pub etcd_repository: String,
    /// DNS domain of the Kubernetes cluster.
    #[arg(long, env = "QUORATE_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Seconds after which a cluster in order is looked at again; changes are seen at once whatever this is.
    #[arg(long, env = "QUORATE_RESYNC_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub resync_seconds: u64,
    /// Where metrics and health are served; empty serves none.
    #[arg(long, env = "QUORATE_METRICS_ADDRESS", default_value = "[::]:8080")]
    pub metrics_address: String,
    /// Whether one operator leads by a Lease; without, nothing keeps a second one from writing.
    #[arg(long, env = "QUORATE_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// Name of the Lease.
    #[arg(long, env = "QUORATE_LEASE_NAME", default_value = "quorate-operator")]
    pub lease_name: String,
    /// Namespace of the Lease, and of this operator; that of the pod when absent.
    #[arg(long, env = "QUORATE_OPERATOR_NAMESPACE")]
    pub operator_namespace: Option<String>,
    /// Name of this process in the Lease and in events; that of the pod.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
}

/// What all workers share.
pub struct Context {
    /// Guarded: see [`guard`].
    pub client: Client,
    /// The machine.
    pub around: Arc<dyn Surroundings>,
    /// The same for every cluster.
    pub settings: Arc<Settings>,
    /// All clusters.
    pub clusters: Cache<EtcdCluster>,
    /// All backups and policies.
    pub backups: Cache<EtcdBackup>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told.
    pub events: Recorder,
    /// How long to pause.
    pub pauses: Pauses,
    /// What must go on.
    pub pulses: Pulses,
}

/// Runs until `stop` is set; an error when the lease was lost, or when it cannot even begin.
pub async fn run(options: Options, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let config = kube::Config::infer()
        .await
        .context("finding the API server: run in a pod, or set KUBECONFIG")?;
    let namespace = config.default_namespace.clone();
    let connect = move |guard: Guard| -> anyhow::Result<Client> {
        let builder = ClientBuilder::try_from(config.clone()).context("preparing the client of the API server")?;
        // The lease has a client, and so a limit, of its own.
        let limit = ConcurrencyLimitLayer::new(AT_ONCE);
        Ok(builder.with_layer(&guard).with_layer(&limit).build())
    };
    run_on(options, Arc::new(Machine), connect, namespace, stop).await
}

/// The same on other surroundings, with clients of the API server from `connect`. The lease is in `namespace`, unless
/// the options name another.
pub async fn run_on(
    mut options: Options,
    around: Arc<dyn Surroundings>,
    connect: impl Fn(Guard) -> anyhow::Result<Client>,
    namespace: String,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    // An empty variable of the environment names nothing.
    options.namespace.retain(|namespace| !namespace.is_empty());
    let metrics = Arc::new(Metrics::default());
    let namespace = options.operator_namespace.clone().unwrap_or(namespace);
    let identity = identity(&options, around.as_ref());
    let gate = if options.leader_elect {
        Gate::default()
    } else {
        Gate::without_election()
    };
    let guarded = |gate: Gate| connect(Guard::new(gate, Arc::clone(&metrics)));
    let client = guarded(gate.clone())?;

    let settings = Settings {
        operator_image: options.image.clone(),
        server_image: options.server_image.clone(),
        etcd_repository: options.etcd_repository.clone(),
        cluster_domain: options.cluster_domain.clone(),
        // Members are reached from outside all the same when this operator is no pod.
        operator_namespace: options.operator_namespace.clone().or_else(in_pod),
    };
    let context = Arc::new(Context {
        client: client.clone(),
        around: Arc::clone(&around),
        settings: Arc::new(settings),
        clusters: Cache::default(),
        backups: Cache::default(),
        metrics: Arc::clone(&metrics),
        events: Recorder::new(client.clone(), &identity, Arc::clone(&around)),
        pauses: Pauses {
            calm: Duration::from_secs(options.resync_seconds),
        },
        pulses: Pulses::default(),
    });

    let aside = around.aside().context("starting the thread of the lease")?;
    let mut crew = Crew::new(&context, stop.clone());
    let watches = crew.watch(&context, client, &options.namespace);
    let _site = serve(&options, &context, watches.missing(), &aside).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity,
        namespaces = if options.namespace.is_empty() {
            "all".to_owned()
        } else {
            options.namespace.join(",")
        },
        "the operator is up"
    );

    let mut tenure = if options.leader_elect {
        // The lease's own writes pass while the gate is shut.
        let client = aside.inside(|| guarded(Gate::without_election()))?;
        let leases = Api::<Lease>::namespaced(client, &namespace);
        let terms = Terms::new(&options.lease_name, &identity);
        Tenure::begin(Election::new(leases, terms, gate, around), &aside)
    } else {
        Tenure::without_election()
    };
    tokio::select! {
        biased;
        () = tenure.held() => {}
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    }
    tracing::info!(lease = options.lease_name, namespace, "leads");
    metrics.lead(true);
    let ended = tokio::select! {
        biased;
        lost = tenure.lost() => Err(lost),
        () = crew.work(&watches) => Ok(()),
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    };
    metrics.lead(false);
    match ended {
        Ok(()) => {
            tracing::info!("stopping: every worker ends the step that it is about");
            // The lease is renewed meanwhile: what is under way may still write.
            let finish = async {
                crew.clusters.finish(GRACE).await;
                crew.backups.finish(GRACE).await;
            };
            tokio::select! {
                biased;
                () = finish => {}
                _ = tenure.lost() => {}
            }
            tenure.release().await;
            Ok(())
        }
        Err(lost) => {
            crew.clusters.abort();
            crew.backups.abort();
            bail!("{lost}: all work was ended at once")
        }
    }
}

/// All workers.
struct Crew {
    clusters: Workers,
    backups: Workers,
    /// Nobody works before the lease is held.
    leads: Arc<std::sync::atomic::AtomicBool>,
    context: Arc<Context>,
}

impl Crew {
    fn new(context: &Arc<Context>, stop: watch::Receiver<bool>) -> Crew {
        let (for_clusters, for_backups) = (Arc::clone(context), Arc::clone(context));
        Crew {
            clusters: Workers::new("EtcdCluster", stop.clone(), move |key, pace| {
                clusters::work(Arc::clone(&for_clusters), key, pace)
            }),
            backups: Workers::new("EtcdBackup", stop, move |key, pace| {
                backups::work(Arc::clone(&for_backups), key, pace)
            }),
            leads: Arc::default(),
            context: Arc::clone(context),
        }
    }

    /// Begins to watch; changes wake workers once [`Crew::work`] was called.
    fn watch(&mut self, context: &Context, client: Client, namespaces: &[String]) -> Watches {
        use std::sync::atomic::Ordering::Acquire;
        let mut watches = Watches::new(client, namespaces, Arc::clone(&context.metrics), context.pulses.clone());
        let (workers, leads) = (self.clusters.clone(), Arc::clone(&self.leads));
        watches.keep(&context.clusters, move |change| {
            if let Some(object) = change.now.or(change.before)
                && leads.load(Acquire)
                && clusters::asks_for_round(&change)
            {
                workers.wake(&Key::of(object));
            }
        });
        let (clusters, backups, leads) = (self.clusters.clone(), self.backups.clone(), Arc::clone(&self.leads));
        watches.keep(&context.backups, move |change| {
            if let Some(object) = change.now.or(change.before)
                && leads.load(Acquire)
            {
                let key = Key::of(object);
                if let Some(cluster) = &object.spec.cluster_ref {
                    clusters.wake(&Key {
                        namespace: key.namespace.clone(),
                        name: cluster.name.clone(),
                    });
                }
                // A policy looks at its backups.
                if let Some(policy) = backups::policy_of(object) {
                    backups.wake(&Key {
                        namespace: key.namespace.clone(),
                        name: policy,
                    });
                }
                backups.wake(&key);
            }
        });
        let (clusters, backups, leads) = (self.clusters.clone(), self.backups.clone(), Arc::clone(&self.leads));
        watches.owned(move |namespace, labels| {
            if !leads.load(Acquire) {
                return;
            }
            let key = |name: &String| Key {
                namespace: namespace.to_owned(),
                name: name.clone(),
            };
            if let Some(name) = labels.get(names::CLUSTER) {
                clusters.wake(&key(name));
            }
            if let Some(name) = labels.get(backups::BACKUP_LABEL) {
                backups.wake(&key(name));
            }
        });
        watches
    }

    /// Gives every object its worker, now and again.
    async fn work(&self, watches: &Watches) {
        watches.ready().await;
        self.leads.store(true, std::sync::atomic::Ordering::Release);
        let pulse = self
            .context
            .pulses
            .begin("the sweep over all objects".to_owned(), STOPPED);
        loop {
            pulse.beat();
            self.clusters.sweep(
                self.context
                    .clusters
                    .all()
                    .iter()
                    .map(|object| Key::of(object.as_ref())),
            );
            self.backups
                .sweep(self.context.backups.all().iter().map(|object| Key::of(object.as_ref())));
            clock::sleep(SWEEP).await;
        }
    }
}

/// Serves metrics and health; dropping what is returned ends that.
async fn serve(
    options: &Options,
    context: &Context,
    missing: impl Fn() -> Option<String> + Send + Sync + 'static,
    aside: &Aside,
) -> anyhow::Result<Option<Aborts>> {
    if options.metrics_address.is_empty() {
        return Ok(None);
    }
    let address: SocketAddr = options.metrics_address.parse().with_context(|| {
        format!(
            "--metrics-address: {:?} is no address and port, write one such as [::]:8080",
            options.metrics_address
        )
    })?;
    let listener = aside
        .spawn(tokio::net::TcpListener::bind(address))
        .await?
        .with_context(|| format!("--metrics-address: cannot listen on {address}"))?;
    let objects = Objects {
        clusters: context.clusters.clone(),
        backups: context.backups.clone(),
    };
    let site = http::Site {
        registry: context.metrics.registry(objects),
        ill: {
            let pulses = context.pulses.clone();
            Box::new(move || pulses.stopped())
        },
        missing: Box::new(missing),
    };
    let task = aside.spawn(http::serve(listener, Arc::new(site)));
    Ok(Some(Aborts(task.abort_handle())))
}

/// Ends a task when dropped.
struct Aborts(tokio::task::AbortHandle);

impl Drop for Aborts {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A name for this process that no other has: a restarted container must not take the former one's lease for its own.
fn identity(options: &Options, around: &dyn Surroundings) -> String {
    let name = options
        .identity
        .clone()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|| "operator".to_owned());
    format!("{name}_{:08x}", around.random() & 0xffff_ffff)
}

/// The namespace of the pod that this process runs in.
fn in_pod() -> Option<String> {
    let text = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok()?;
    Some(text.trim().to_owned()).filter(|namespace| !namespace.is_empty())
}
