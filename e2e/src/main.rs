//! The suites on real things: our programs against etcd's own, on the loopback address, in temporary directories.
//!
//! Every suite prints its checks as they are made and its figures beside them; the exit code is 0 only if all held.

mod access;
mod bad_input;
mod bench;
mod chaos;
mod conformance;
mod doctor;
mod etcdctl;
mod exchange;
mod history;
mod kube;
mod load;
mod local;
mod mixed;
mod overload;
mod power_cuts;
mod process;
mod recovery;
mod repair;
mod report;
mod rotation;
mod servers;
mod store;

use anyhow::Context;
use clap::{Parser, Subcommand};
use process::Programs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// End-to-end suites. QUORATE_E2E_KEEP=1 keeps the directories of clusters for a look at them.
#[derive(Debug, Parser)]
#[command(name = "e2e", version, about)]
struct Cli {
    /// Directory of `quorate` and `quorate-server`; that of this program when absent.
    #[arg(long, global = true)]
    bin_dir: Option<PathBuf>,
    /// The server to test in place of `quorate-server`, also under `quorate local up`.
    #[arg(long, global = true, env = "QUORATE_SERVER_BIN")]
    server: Option<PathBuf>,
    /// Directory of etcd, etcdctl, etcdutl and benchmark, as e2e/tools/build.sh makes it.
    #[arg(long, global = true, env = "QUORATE_ETCD_BIN_DIR")]
    etcd_bin_dir: Option<PathBuf>,
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Upstream etcdctl, command by command, against `quorate local up` with TLS.
    Etcdctl,
    /// Snapshots and data directories to real etcd and back.
    Exchange,
    /// Clusters of real etcd and ours together.
    Mixed,
    /// Members killed and stalled under load: nothing acknowledged is lost.
    Chaos(chaos::Options),
    /// Lost directories, lost quorum, scaling, a full quota, the operator's death.
    Repair {
        /// All when absent.
        #[arg(value_enum)]
        parts: Vec<repair::Part>,
    },
    /// Quorum or all data lost: plans that wait, acknowledgements, and backups found by their manifests.
    Recovery,
    /// Authorities and certificates rotated under load.
    Rotation,
    /// What users do wrong and what breaks under them: errors that name field, file and remedy. Full disks need root.
    BadInput,
    /// More than three members can do, and connections that are held and not used.
    Overload(overload::Options),
    /// `kubectl quorate doctor` against etcd that nobody here runs, set up with care and without.
    Doctor,
    /// Real power cuts under load, with a control that must lose something. Needs root.
    PowerCuts(power_cuts::Options),
    /// A real Kubernetes, the shipped chart and images.
    Kube(kube::Options),
    /// A real Kubernetes whose API servers keep everything in three of our members.
    KubernetesStore(store::Options),
    /// Upstream benchmark on real etcd and ours, alternating.
    Bench(bench::Options),
    /// etcd's own tests/common, whole or a selection, on our server.
    Conformance(conformance::Options),
    /// A selection of all suites that takes about so long.
    All {
        /// After this no further suite is begun.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // When interrupted, the suite is dropped, and with it everything that it started.
    let result = tokio::select! {
        result = run(cli) => result,
        why = interrupted() => Err(why),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() -> anyhow::Error {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return anyhow::anyhow!("signals cannot be listened to");
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    anyhow::anyhow!("interrupted")
}

async fn run(cli: Cli) -> anyhow::Result<bool> {
    let here = match cli.bin_dir {
        Some(dir) => dir,
        None => std::env::current_exe()?
            .parent()
            .context("this program has no directory")?
            .to_owned(),
    };
    let programs = Programs {
        quorate: here.join("quorate"),
        server: cli.server.unwrap_or_else(|| here.join("quorate-server")),
        etcd: cli.etcd_bin_dir,
    };
    match cli.suite {
        Suite::Etcdctl => etcdctl::suite(&programs).await,
        Suite::Exchange => exchange::suite(&programs).await,
        Suite::Mixed => mixed::suite(&programs).await,
        Suite::Chaos(options) => chaos::suite(&programs, &options).await,
        Suite::Repair { parts } => {
            let parts = if parts.is_empty() { repair::ALL } else { &parts };
            repair::suite(&programs, parts).await
        }
        Suite::Recovery => recovery::suite(&programs).await,
        Suite::Rotation => rotation::suite(&programs).await,
        Suite::BadInput => bad_input::suite(&programs).await,
        Suite::Doctor => doctor::suite(&programs).await,
        Suite::PowerCuts(options) => power_cuts::suite(&programs, &options).await,
        Suite::Kube(options) => kube::suite(&options).await,
        Suite::Overload(options) => overload::suite(&programs, &options).await,
        Suite::KubernetesStore(options) => store::suite(&programs, &options).await,
        Suite::Bench(options) => bench::suite(&programs, &options).await,
        Suite::Conformance(options) => conformance::suite(&programs, &options).await,
        Suite::All { seconds } => all(&programs, seconds).await,
    }
}

/// The suites in order of what they tell per second, as far as the time goes.
async fn all(programs: &Programs, seconds: u64) -> anyhow::Result<bool> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut good = true;
    let mut left_out = Vec::new();
    for name in [
        "etcdctl",
        "exchange",
        "chaos",
        "repair",
        "recovery",
        "bad-input",
        "mixed",
        "rotation",
        "doctor",
        "bench",
    ] {
        if Instant::now() > end {
            left_out.push(name);
            continue;
        }
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        good &= match name {
            "etcdctl" => etcdctl::suite(programs).await?,
            "exchange" => exchange::suite(programs).await?,
            "mixed" => mixed::suite(programs).await?,
            "chaos" => {
                let options = chaos::Options {
                    kills: 4,
                    stalls: 1,
                    blackouts: 1,
                    rate: 50,
                    seconds: left.min(30),
                };
                chaos::suite(programs, &options).await?
            }
            "repair" => repair::suite(programs, &[repair::Part::Directory]).await?,
            "recovery" => recovery::suite(programs).await?,
            "bad-input" => bad_input::suite(programs).await?,
            "doctor" => doctor::suite(programs).await?,
            "rotation" => rotation::suite(programs).await?,
            _ => {
                let options = bench::Options {
                    quick: true,
                    only: None,
                    clients: Vec::new(),
                    rounds: 1,
                    tls: false,
                    output: bench::Output::Table,
                    seconds: left.clamp(10, 60),
                };
                bench::suite(programs, &options).await?
            }
        };
    }
    if !left_out.is_empty() {
        println!(
            "not run within {seconds} s: {}; run them by name, or give more --seconds",
            left_out.join(", ")
        );
    }
    Ok(good)
}
