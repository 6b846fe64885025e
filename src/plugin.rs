//! `kubectl quorate`: to look at clusters, and to ask for what the operator does by itself otherwise.
//!
//! ```text
//! target  which cluster, and how it is reached     status explain doctor top   look, change nothing
//! forward, fetch, exposition, table                backup restore ask          write objects that the operator reads
//! ```
//! Invariants:
//! 1. Nothing is done behind the planner's back: what changes a cluster is asked for in an object that the operator reads,
//!    and happens when the planner finds it safe.
//! 2. What machines read (`-o json`, `-o yaml`) goes to stdout alone; progress and hints go to stderr.
//! 3. Colours are for terminals, and for those who did not set NO_COLOR.

mod ask;
mod backup;
mod doctor;
mod explain;
mod exposition;
mod fetch;
mod follow;
mod forward;
mod restore;
mod status;
mod table;
mod target;
mod top;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::process::ExitCode;

/// Looks at etcd clusters, and asks the operator for what they need.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-quorate",
    bin_name = "kubectl quorate",
    version,
    about,
    disable_help_subcommand = true
)]
pub struct Options {
    /// Where the clusters are.
    #[command(flatten)]
    pub place: Place,
    /// How the result is printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the clusters are: on Kubernetes as kubectl finds it, in a directory of `quorate local up`, or at endpoints.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// The kubeconfig file; KUBECONFIG or ~/.kube/config when absent.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; the current one when absent.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The namespace; the context's when absent.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// The directory of `quorate local up`, instead of Kubernetes.
    #[arg(long, global = true, conflicts_with_all = ["kubeconfig", "context", "namespace"])]
    pub dir: Option<PathBuf>,
    /// Client URLs of an etcd that nobody here runs; the other members are found by its member list.
    #[arg(long, global = true, value_delimiter = ',', conflicts_with_all = ["kubeconfig", "context", "namespace", "dir"])]
    pub endpoints: Vec<String>,
    /// Authorities that the endpoints' certificates are checked against.
    #[arg(long, global = true, requires = "endpoints")]
    pub cacert: Option<PathBuf>,
    /// The certificate to present to the endpoints.
    #[arg(long, global = true, requires_all = ["endpoints", "key"])]
    pub cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, global = true, requires_all = ["endpoints", "cert"])]
    pub key: Option<PathBuf>,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For machines.
    Json,
    /// For machines.
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Members with role, lag, size and quota, alarms and the days that their certificates have left.
    Status {
        /// The cluster; all of the namespace when absent.
        cluster: Option<String>,
    },
    /// What the operator does next, and what is in its way.
    Explain {
        /// The cluster; may be left out when there is one only.
        cluster: Option<String>,
    },
    /// Checks tuning, metrics and security, with what was seen and the remedy; also for an etcd at --endpoints.
    /// The exit code is 1 when something fails.
    Doctor(doctor::Options),
    /// Takes a backup now, to where the cluster's policy has its own, and follows it.
    Backup(backup::Options),
    /// What a restore would bring back and lose, and the manifest that does it.
    Restore(restore::Options),
    /// Asks that every member is defragmented: one at a time, the leader last, when the others are in order.
    Defrag(ask::Request),
    /// Asks that another member leads.
    MoveLeader(ask::MoveLeader),
    /// Asks that a member is replaced by a new one; its data is kept aside.
    Replace(ask::Replace),
    /// What fills the database: prefixes by keys and bytes. Reads at one revision, page by page.
    Top(top::Options),
}

/// Does what was asked for; the code that the program ends with.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let Options { place, output, command } = options;
    match command {
        Command::Status { cluster } => status::run(&place, cluster.as_deref(), output).await?,
        Command::Explain { cluster } => explain::run(&place, cluster.as_deref(), output).await?,
        Command::Backup(options) => backup::run(&place, &options, output).await?,
        Command::Restore(options) => restore::run(&place, &options, output).await?,
        Command::Defrag(options) => ask::defrag(&place, &options, output).await?,
        Command::MoveLeader(options) => ask::move_leader(&place, &options, output).await?,
        Command::Replace(options) => ask::replace(&place, &options, output).await?,
        Command::Top(options) => top::run(&place, &options, output).await?,
        Command::Doctor(options) => {
            return Ok(match doctor::run(&place, &options, output).await? {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}
