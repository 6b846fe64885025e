//! The suite on a real Kubernetes: kube-apiserver, kubelets and containerd of e2e/kube/cluster.sh, the images of
//! `make images`, the chart as it is shipped, and a writer whose acknowledged writes are all looked for at the end.
//!
//! Invariants:
//! 1. Everything is done as a user does it: kubectl, helm, manifests. Only what happens to a machine (a process killed, a
//!    cable pulled) is done from outside.
//! 2. Cases come in the order of the list and leave a settled cluster behind, or say that they did not.

mod backup;
mod change;
mod cluster;
mod definitions;
mod install;
pub mod lab;
mod loss;
mod maintenance;
mod mistakes;
mod operator;
mod other;
mod plugin;
mod removal;
mod repair;

use crate::load::{Load, Target};
use crate::report::{Report, spread};
use anyhow::Context;
use clap::{Args, ValueEnum};
use cluster::Cluster;
use lab::Lab;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is run, and where.
#[derive(Debug, Args)]
pub struct Options {
    /// All when absent.
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// Directory of kube-apiserver, kubectl and the others; e2e/tools/build.sh DIR all makes DIR/bin.
    #[arg(long, env = "QUORATE_KUBE_BIN_DIR")]
    kube_bin_dir: PathBuf,
    /// Directory of the cluster's state.
    #[arg(long, env = "QUORATE_KUBE_STATE", default_value = "/tmp/quorate-kube")]
    state: PathBuf,
    /// Archives of the images.
    #[arg(long, default_value = "target/images")]
    images: PathBuf,
    /// How often that which is quick is done: a pod deleted, a container killed, a volume deleted.
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Cases that are left out.
    #[arg(long, value_enum, value_delimiter = ',')]
    without: Vec<Case>,
    /// The cluster runs already, with its images, and stays.
    #[arg(long)]
    running: bool,
    /// The cluster that this starts stays, for a look at it.
    #[arg(long)]
    keep: bool,
    /// This process is on the network of a node: set by the suite itself.
    #[arg(long, hide = true)]
    inside: bool,
}

/// The cases, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// The definitions are established, structural, and explain themselves.
    Definitions,
    /// Every manifest of e2e/kube/refused is refused with its remedy.
    Refused,
    /// Every manifest of config/samples is accepted.
    Samples,
    /// What kustomize renders from config/ is accepted.
    Kustomize,
    /// helm install into a restricted namespace.
    Install,
    /// From apply to Available, in a restricted namespace; what kubectl shows.
    QuickStart,
    /// A pod is deleted.
    PodDeleted,
    /// A member's process is killed.
    ContainerKilled,
    /// A pod and its volume are deleted.
    VolumeDeleted,
    /// All pods are deleted at once.
    AllPodsDeleted,
    /// A flag is changed: one member at a time.
    FlagChanged,
    /// Requests are changed, in place.
    Resources,
    /// An image that does not exist is rolled, and taken back.
    BadRoll,
    /// Three members become five and three again.
    Scale,
    /// Leaf certificates are renewed under connections that stay.
    Certificates,
    /// The disruption budget and the network policy are switched off and on.
    SwitchedOff,
    /// Every member is defragmented under load.
    Defragment,
    /// A quota is exceeded under load, and healed.
    NoSpace,
    /// A backup every minute, with the operator killed, and a restore. QUORATE_KUBE_BACKUP_MINUTES: how many.
    Backups,
    /// Wrong credentials, no bucket, another key, a flipped bit.
    BackupFaults,
    /// `kubectl quorate`, through the API server.
    Plugin,
    /// All volumes deleted: back from the store.
    AllVolumesDeleted,
    /// Objects with our labels and another owner.
    ForeignObjects,
    /// The operator is killed while members are added.
    OperatorKilled,
    /// The operator's process stands still.
    OperatorFrozen,
    /// Zero members, and three again with the same content.
    Hibernate,
    /// Images, storage classes and sizes that do not exist.
    BadSpecs,
    /// Names at their limit, and names of somebody else.
    Names,
    /// Volumes grow.
    VolumesGrow,
    /// A namespace is deleted, and the same cluster made again.
    NamespaceDeleted,
    /// deletionPolicy, each of its values.
    DeletionPolicies,
    /// Members of real etcd.
    EngineEtcd,
    /// Authorities are replaced; begun with the first case, beside all before this one.
    AuthorityRotation,
    /// The node of a member is cut off, with its volume.
    NodeCut,
    /// A node loses power and is deleted.
    NodeDeleted,
    /// A node loses power and is tainted as out of service.
    NodeOutOfService,
    /// What the writer was told is what the cluster holds.
    Acknowledged,
    /// Two of three nodes are lost for good.
    QuorumLost,
    /// What the operator did so far needed no right that it does not have, and it has none that is not written down.
    Rights,
    /// A cluster in order costs no write.
    Settled,
    /// An operator that is allowed one namespace.
    OneNamespace,
    /// Two hundred clusters that hibernate, applied at once.
    Hibernated,
    /// Thirty clusters that live.
    Living,
}

/// What the cases share.
struct Suite {
    lab: Lab,
    /// The cluster that most cases happen to, and the writer on it.
    main: Option<(Cluster, Load)>,
    /// What runs beside other cases.
    beside: Option<tokio::task::JoinHandle<anyhow::Result<String>>>,
    times: usize,
}

impl Suite {
    /// The quick start's cluster, made when it is not there yet, with a writer on it.
    async fn main(&mut self) -> anyhow::Result<(&Cluster, &Load)> {
        if self.main.is_none() {
            let cluster = Cluster::quick_start(&self.lab, "e2e-main").await?;
            let access = cluster.access().await?;
            let load = Load::start(
                Target::Fixed(access),
                "e2e/",
                Duration::from_millis(10),
                Duration::from_secs(3),
            )?;
            load.mark();
            load.back(Duration::from_secs(30))
                .await
                .context("the writer cannot begin")?;
            self.main = Some((cluster, load));
        }
        let (cluster, load) = self.main.as_ref().context("there is no cluster")?;
        Ok((cluster, load))
    }

    async fn run(&mut self, case: Case) -> anyhow::Result<String> {
        let lab = self.lab.clone();
        match case {
            Case::Definitions => definitions::definitions(&lab).await,
            Case::Refused => definitions::refused(&lab).await,
            Case::Samples => definitions::samples(&lab).await,
            Case::Kustomize => install::kustomize(&lab).await,
            Case::Install => install::chart(&lab).await,
            Case::QuickStart => {
                let (cluster, _) = self.main().await?;
                cluster.looks_as_it_should().await
            }
            Case::Rights => install::rights(&lab).await,
            Case::PodDeleted => {
                let times = self.times;
                let (cluster, load) = self.main().await?;
                repeated(times, async |time| repair::pod_deleted(cluster, load, time).await).await
            }
            Case::ContainerKilled => {
                let times = self.times;
                let (cluster, load) = self.main().await?;
                repeated(times, async |time| repair::container_killed(cluster, load, time).await).await
            }
            Case::VolumeDeleted => {
                let times = self.times;
                let (cluster, load) = self.main().await?;
                repeated(times, async |time| repair::volume_deleted(cluster, load, time).await).await
            }
            Case::AllPodsDeleted => {
                let (cluster, load) = self.main().await?;
                repair::all_pods_deleted(cluster, load).await
            }
            Case::OperatorKilled => {
                let (cluster, load) = self.main().await?;
                repair::operator_killed(cluster, load).await
            }
            Case::NodeCut => {
                let (cluster, load) = self.main().await?;
                repair::node_cut(cluster, load).await
            }
            Case::FlagChanged => {
                let (cluster, load) = self.main().await?;
                change::flag(cluster, load).await
            }
            Case::Scale => {
                let (cluster, load) = self.main().await?;
                change::scale(cluster, load).await
            }
            Case::Certificates => {
                let (cluster, load) = self.main().await?;
                change::certificates(cluster, load).await
            }
            Case::Hibernate => {
                let (cluster, load) = self.main().await?;
                change::hibernate(cluster, load).await
            }
            Case::Defragment => {
                let (cluster, load) = self.main().await?;
                maintenance::defragment(cluster, load).await
            }
            Case::NoSpace => maintenance::no_space(&lab).await,
            Case::Backups => {
                let (cluster, load) = self.main().await?;
                backup::every_minute(cluster, load).await
            }
            Case::BackupFaults => {
                let (cluster, _) = self.main().await?;
                backup::faults(cluster).await
            }
            Case::Plugin => {
                let (cluster, load) = self.main().await?;
                plugin::plugin(cluster, load).await
            }
            Case::AllVolumesDeleted => backup::all_volumes_deleted(&lab).await,
            Case::ForeignObjects => {
                let (cluster, _) = self.main().await?;
                removal::foreign_objects(cluster).await
            }
            Case::Resources => {
                let (cluster, load) = self.main().await?;
                change::resources(cluster, load).await
            }
            Case::BadRoll => {
                let (cluster, load) = self.main().await?;
                mistakes::bad_roll(cluster, load).await
            }
            Case::SwitchedOff => {
                let (cluster, _) = self.main().await?;
                mistakes::switched_off(cluster).await
            }
            Case::OperatorFrozen => {
                let (cluster, _) = self.main().await?;
                operator::frozen(cluster).await
            }
            Case::NodeDeleted => {
                let (cluster, load) = self.main().await?;
                loss::node_lost(cluster, load, loss::Lost::Deleted).await
            }
            Case::NodeOutOfService => {
                let (cluster, load) = self.main().await?;
                loss::node_lost(cluster, load, loss::Lost::OutOfService).await
            }
            Case::AuthorityRotation => match self.beside.take() {
                Some(task) => task.await?,
                None => change::authority_rotation(lab).await,
            },
            Case::BadSpecs => mistakes::bad_specs(&lab).await,
            Case::Names => mistakes::names(&lab).await,
            Case::VolumesGrow => mistakes::volumes_grow(&lab).await,
            Case::QuorumLost => loss::quorum_lost(&lab).await,
            Case::Settled => operator::settled(&lab).await,
            Case::Hibernated => operator::many(&lab, operator::HIBERNATED).await,
            Case::Living => operator::many(&lab, operator::LIVING).await,
            Case::NamespaceDeleted => removal::namespace_deleted(&lab).await,
            Case::DeletionPolicies => removal::deletion_policies(&lab).await,
            Case::EngineEtcd => other::engine_etcd(&lab).await,
            Case::OneNamespace => other::one_namespace(&lab).await,
            Case::Acknowledged => {
                self.main().await?;
                let (cluster, load) = self.main.take().context("there is no cluster")?;
                let summary = load.stop().await;
                let told = summary.judged(&cluster.access().await?).await?;
                let gap = summary.longest_gap.as_secs_f64();
                // Its members would be in the way of what comes.
                lab.kubectl(&["delete", "namespace", &cluster.namespace, "--wait=false"])
                    .await?;
                Ok(format!(
                    "{told}; longest time without one {gap:.1} s; {} calls retried, {} failed twice",
                    summary.retried,
                    summary.failed.len()
                ))
            }
        }
    }
}

/// Runs the cases on a cluster of its own, or on one that runs.
pub async fn suite(options: &Options) -> anyhow::Result<bool> {
    let lab = Lab::new(&options.kube_bin_dir, &options.state)?;
    if options.inside {
        return inside(lab, options).await;
    }
    if !options.running {
        let began = Instant::now();
        lab.script(&["down"], Duration::from_secs(120)).await?;
        lab.script(&["up", "3"], Duration::from_secs(400)).await?;
        println!("    Kubernetes: {:.0} s", began.elapsed().as_secs_f64());
        for image in ["quorate.tar", "quorate-server.tar"] {
            let archive = options.images.join(image);
            let archive = archive
                .to_str()
                .context("the directory of images has a name that is no text")?;
            lab.script(&["load", archive], Duration::from_secs(120))
                .await
                .context("make images builds the archives")?;
        }
    }
    // Services and pods have addresses on the nodes' networks alone: this program goes on there.
    let mut arguments = vec!["in".to_owned(), "1".to_owned()];
    arguments.push(std::env::current_exe()?.to_string_lossy().into_owned());
    arguments.extend(["kube", "--inside", "--times", &options.times.to_string()].map(str::to_owned));
    for case in options.wanted() {
        let value = case.to_possible_value().context("a case without a name")?;
        arguments.push(value.get_name().to_owned());
    }
    let good = lab.go_on(&arguments).await;
    if !options.running && !options.keep {
        lab.script(&["down"], Duration::from_secs(120)).await?;
    }
    good
}

impl Options {
    /// The cases to run, in their order.
    fn wanted(&self) -> impl Iterator<Item = Case> {
        let all = Case::value_variants().iter().copied();
        all.filter(|case| (self.cases.is_empty() || self.cases.contains(case)) && !self.without.contains(case))
    }
}

/// Does something again and again, which says what it took; the last words, and the times of all.
async fn repeated(
    times: usize,
    mut once: impl AsyncFnMut(usize) -> anyhow::Result<repair::Told>,
) -> anyhow::Result<String> {
    let (mut healthy, mut gaps) = (Vec::new(), Vec::new());
    let mut what = String::new();
    for time in 1..=times {
        let told = once(time).await.with_context(|| format!("time {time} of {times}"))?;
        healthy.push(told.healthy);
        gaps.push(told.gap);
        what = told.what;
    }
    Ok(format!(
        "{what}: {}; longest time without a write: {}",
        spread(&healthy),
        spread(&gaps)
    ))
}

async fn inside(lab: Lab, options: &Options) -> anyhow::Result<bool> {
    let mut report = Report::new("kube");
    let mut suite = Suite {
        lab,
        main: None,
        beside: None,
        times: options.times,
    };
    let wanted: Vec<Case> = options.wanted().collect();
    let mut rows = Vec::new();
    for case in &wanted {
        let name = case.to_possible_value().context("a case without a name")?;
        let name = name.get_name().to_owned();
        let began = Instant::now();
        let seen = suite.run(*case).await;
        if seen.is_err() {
            suite.lab.explain_failure(&name).await;
        }
        let held = report.check(&name, seen);
        rows.push((name, began.elapsed(), held));
        // It takes minutes, nearly all of them waiting: it begins as soon as there is an operator.
        if *case == Case::QuickStart && wanted.contains(&Case::AuthorityRotation) {
            let lab = suite.lab.clone();
            suite.beside = Some(tokio::spawn(change::authority_rotation(lab)));
        }
    }
    println!("    {:<20} {:>7}", "case", "time");
    for (name, time, held) in &rows {
        let word = if *held { "ok" } else { "FAIL" };
        println!("    {name:<20} {:>5.1} s  {word}", time.as_secs_f64());
    }
    Ok(report.end())
}
