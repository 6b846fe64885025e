//! The command line of `quorate`, and what its commands print.
//!
//! Invariant: an error says what to do, goes to stderr, and makes the exit code 1; wrong usage makes it 2.

use crate::api;
use crate::api::status::EtcdClusterStatus;
use crate::backup::{Etcdutl, in_pod, trial};
#[cfg(feature = "local")]
use crate::demo;
use crate::operator;
use crate::plan::{Ensure, explain, plan};
use crate::platform::Platform;
use crate::platform::kubernetes::{render, volume};
use crate::platform::local::records::Layout;
use crate::platform::local::up::{self, Desired, Manifests};
use crate::platform::local::{LocalCluster, Programs, backups, lock, stop_directory};
use crate::plugin;
use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::watch;

/// Runs etcd clusters: on Kubernetes, or as processes of this machine.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// How log lines are written to stderr.
    #[arg(long, global = true, env = "QUORATE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run clusters on Kubernetes: reconcile every EtcdCluster and EtcdBackup.
    Operator(operator::Options),
    /// Take one backup, in a pod that the operator made.
    Backup(in_pod::Take),
    /// Bring a stored backup back as a snapshot file, in a pod that the operator made.
    Restore(in_pod::Restore),
    /// Show the whole promise on this machine: a cluster with TLS, failures and their repair, backup and restore.
    #[cfg(feature = "local")]
    Demo(demo::Options),
    /// Run clusters as processes of this machine.
    Local {
        /// What to do with them.
        #[command(subcommand)]
        command: Local,
    },
    /// Explain what would be done next for the clusters of a file, and why; changes nothing.
    Plan {
        /// The manifests.
        #[arg(short, long)]
        file: PathBuf,
        /// The directory of `local up`.
        #[arg(long, default_value = "quorate-data")]
        dir: PathBuf,
    },
    /// Look at clusters, and ask the operator for what they need; the same as `kubectl quorate`.
    Kubectl(plugin::Options),
    /// Print the custom resource definitions as YAML.
    Crds,
    /// Work on the volume of a member that does not run; the operator starts this in a pod.
    #[command(hide = true)]
    Volume {
        /// Where the volume is mounted.
        #[arg(long, global = true, default_value = render::MOUNT)]
        root: PathBuf,
        /// What to do.
        #[command(subcommand)]
        work: volume::Work,
    },
}

/// Clusters on this machine.
#[derive(Debug, Subcommand)]
pub enum Local {
    /// Reconcile every manifest of a file until interrupted; edits of the file are followed.
    Up {
        /// EtcdCluster, EtcdBackup and Secret documents.
        #[arg(short, long)]
        file: PathBuf,
        /// Holds the data; `up` again resumes it.
        #[arg(long, default_value = "quorate-data")]
        dir: PathBuf,
    },
    /// Serve an S3 store on loopback, to try backups with; prints the Secret and the destination to write.
    #[cfg(feature = "local")]
    ObjectStore {
        /// Holds the buckets, one directory each.
        #[arg(long, default_value = "quorate-objects")]
        dir: PathBuf,
        /// Made if it is not there.
        #[arg(long, default_value = "backups")]
        bucket: String,
    },
    /// Show how the clusters of a directory stand.
    Status(Show),
    /// Stop the operator of a directory and all members; the data stays.
    Down {
        /// The directory of `local up`.
        #[arg(long, default_value = "quorate-data")]
        dir: PathBuf,
    },
}

/// What is shown, and how.
#[derive(Debug, Args)]
pub struct Show {
    /// The directory of `local up`.
    #[arg(long, default_value = "quorate-data")]
    pub dir: PathBuf,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// How status is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One object with a key per cluster.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Does what was asked for; the code that the program ends with. `exe` is this program: members are run with it unless the environment says otherwise.
pub async fn run(cli: Cli, exe: &Path) -> anyhow::Result<ExitCode> {
    let done: anyhow::Result<()> = match cli.command {
        Command::Kubectl(options) => return plugin::run(options).await,
        #[cfg(feature = "local")]
        Command::Demo(options) => demo::run(&options, exe).await,
        Command::Operator(options) => {
            let stop = interrupted(
                "stopping after the steps that are under way (again: leave at once)",
                "left: the next operator goes on from what it finds",
            );
            operator::run(options, stop).await
        }
        Command::Backup(options) => {
            let server = Programs::of(exe).server;
            let server = trial::Server {
                program: server.path.into_os_string(),
                leading: server.first,
            };
            in_pod::take(&options, etcdutl(exe), server).await
        }
        Command::Restore(options) => in_pod::restore(&options, &etcdutl(exe)).await,
        Command::Crds => {
            use std::io::Write;
            match std::io::stdout().write_all(api::crds::yaml().as_bytes()) {
                // Whoever reads it has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
                written => written.context("writing to standard output"),
            }
        }
        Command::Volume { root, work } => work_on_volume(&work, &root, exe).await,
        Command::Plan { file, dir } => show_plan(&file, &dir, exe).await,
        Command::Local {
            command: Local::Up { file, dir },
        } => {
            let options = up::Options {
                file,
                directory: dir,
                programs: Programs::of(exe),
                verbose: true,
            };
            let stop = interrupted(
                "stopping the members; their data stays (again: leave at once)",
                "left: members that still run are resumed by the next `quorate local up`",
            );
            up::up(&options, stop).await?;
            Ok(())
        }
        #[cfg(feature = "local")]
        Command::Local {
            command: Local::ObjectStore { dir, bucket },
        } => serve_objects(&dir, &bucket).await,
        Command::Local {
            command: Local::Status(show),
        } => show_status(&show),
        Command::Local {
            command: Local::Down { dir },
        } => down(&dir, exe).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Says what came of it on stdout and in the pod's termination message, where the operator reads it.
async fn work_on_volume(work: &volume::Work, root: &Path, exe: &Path) -> anyhow::Result<()> {
    let said = volume::run(work, root, exe).await?;
    println!("{said}");
    let message = Path::new("/dev/termination-log");
    if message.exists() {
        std::fs::write(message, &said).with_context(|| format!("cannot write {}", message.display()))?;
    }
    Ok(())
}

/// Serves until interrupted. The documents go to stdout, so that they can be appended to a manifest.
#[cfg(feature = "local")]
async fn serve_objects(directory: &Path, bucket: &str) -> anyhow::Result<()> {
    let place = directory.join(bucket);
    std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let store = crate::object_store::ObjectStore::start(directory)
        .await
        .with_context(|| format!("cannot serve {}", directory.display()))?;
    println!("{}", store.documents(bucket));
    eprintln!("serving {} until interrupted", store.endpoint());
    let mut stop = interrupted("stopping; all data stays (again: leave at once)", "left");
    // An error means that nobody listens to signals any more; then there is nothing to wait for.
    let _ = stop.wait_for(|stop| *stop).await;
    Ok(())
}

/// The offline tool: this program, unless the environment names another.
fn etcdutl(exe: &Path) -> Etcdutl {
    let program = Programs::of(exe).etcdutl;
    Etcdutl {
        program: program.path.into_os_string(),
        leading: program.first,
    }
}

/// Becomes true at SIGINT or SIGTERM, and says so. A second one ends the process at once.
fn interrupted(first: &'static str, second: &'static str) -> watch::Receiver<bool> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        for stopping in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !stopping {
                eprintln!("{second}");
                std::process::exit(130);
            }
            eprintln!("{first}");
            // Nobody waits for it any more when up has ended by itself.
            let _ = sender.send(true);
        }
    });
    receiver
}

async fn show_plan(file: &Path, directory: &Path, exe: &Path) -> anyhow::Result<()> {
    let manifests = Manifests::read(file)?;
    let directory = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    for (name, cluster) in &manifests.clusters {
        let mut platform = LocalCluster::open_to_read(&directory, name, Programs::of(exe))?;
        let desired = Desired {
            cluster: cluster.clone(),
            backups: manifests.backups.clone(),
            secrets: manifests.secrets.clone(),
            base: file.parent().map(Path::to_owned).unwrap_or_default(),
        };
        let wanted = platform.wanted(&desired)?;
        let observed = platform.observe(&wanted).await?;
        println!("EtcdCluster {name}");
        let mut plan = plan(&wanted, &observed, platform.now());
        // On one machine the others are nothing to ensure.
        plan.ensure
            .retain(|ensure| matches!(ensure, Ensure::Certificates { .. }));
        for line in explain(&plan).lines() {
            println!("  {line}");
        }
    }
    Ok(())
}

/// The status of every cluster in a directory, by name.
fn statuses(directory: &Path) -> anyhow::Result<Vec<(String, EtcdClusterStatus)>> {
    let entries = std::fs::read_dir(directory).with_context(|| {
        format!(
            "cannot list {}: give --dir the directory of `local up`",
            directory.display()
        )
    })?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path().join("status.yaml");
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let status = serde_yaml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
        let name = path
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        found.push((name, status));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn show_status(show: &Show) -> anyhow::Result<()> {
    let statuses = statuses(&show.dir)?;
    if statuses.is_empty() && show.output == Format::Table {
        bail!(
            "no cluster in {}; `quorate local up -f FILE --dir ...` makes one",
            show.dir.display()
        );
    }
    match show.output {
        Format::Json => {
            let all: serde_json::Map<String, serde_json::Value> = statuses
                .into_iter()
                .map(|(name, status)| Ok((name, serde_json::to_value(status)?)))
                .collect::<Result<_, serde_json::Error>>()?;
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
        Format::Yaml => {
            let all: std::collections::BTreeMap<String, EtcdClusterStatus> = statuses.into_iter().collect();
            print!("{}", serde_yaml::to_string(&all)?);
        }
        Format::Table => {
            match lock::holder(&show.dir) {
                Some(pid) => println!("operator: pid {pid}"),
                None => println!("operator: none runs; what follows is what the last one saw"),
            }
            for (name, status) in &statuses {
                print_status(name, status);
                print_backups(&show.dir, name)?;
            }
        }
    }
    Ok(())
}

fn print_status(name: &str, status: &EtcdClusterStatus) {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    println!(
        "\n{name}: {} {}/{} ready, revision {}, leader {}, database {}% of quota",
        or_dash(&status.phase),
        status.ready_replicas,
        status.replicas,
        status.revision.unwrap_or(0),
        or_dash(&status.leader),
        status.quota_percent.unwrap_or(0),
    );
    let mut rows = vec![
        [
            "MEMBER",
            "ID",
            "ROLE",
            "HEALTH",
            "LAG",
            "VERSION",
            "DB",
            "CERT ENDS",
            "WHY",
        ]
        .map(str::to_owned),
    ];
    for member in &status.members {
        rows.push([
            member.name.clone(),
            or_dash(&member.id),
            if member.leader {
                format!("{} (leads)", member.role)
            } else {
                member.role.clone()
            },
            member.health.clone(),
            member.raft_index_lag.map_or("-".to_owned(), |lag| lag.to_string()),
            or_dash(&member.version),
            member.db_size.map_or("-".to_owned(), size),
            day(member.cert_not_after.as_deref()),
            match member.alarms.iter().chain(&member.message).cloned().collect::<Vec<_>>() {
                nothing if nothing.is_empty() => "-".to_owned(),
                some => some.join("; "),
            },
        ]);
    }
    print_table(&rows);
    if let Some(plan) = &status.plan {
        match (plan.next_action.as_str(), &plan.since) {
            ("Settled", _) => println!("next: nothing, the cluster is as wanted"),
            (next, Some(since)) => println!("next: {next} (since {since})"),
            (next, None) => println!("next: {next}"),
        }
        if let Some(blocked) = &plan.blocked_by {
            println!("blocked: {blocked}");
        }
    }
    // What waits for an answer is told in full by the reason above.
    if let Some(recovery) = status.recovery.as_ref().filter(|recovery| recovery.acting) {
        println!("recovery {}: {}", recovery.hash, recovery.plan);
        println!("may lose: {}", recovery.loss_bound);
    }
}

/// The backups of a cluster, newest last.
fn print_backups(directory: &Path, cluster: &str) -> anyhow::Result<()> {
    let objects = backups::objects(&Layout::new(directory, cluster))?;
    let mut rows = vec![["BACKUP", "PHASE", "REVISION", "SIZE", "VERIFIED", "WHERE"].map(str::to_owned)];
    for object in objects {
        let name = object.metadata.name.clone().unwrap_or_default();
        if let Some(schedule) = &object.spec.schedule {
            println!("backup policy {name}: {schedule}");
            continue;
        }
        let status = object.status.unwrap_or_default();
        let artifact = status.artifact.as_ref();
        rows.push([
            name,
            status.phase.clone().unwrap_or_else(|| "Pending".to_owned()),
            artifact.map_or("-".to_owned(), |artifact| artifact.revision.to_string()),
            artifact.map_or("-".to_owned(), |artifact| size(artifact.size_bytes)),
            status
                .verified
                .as_ref()
                .map_or("no".to_owned(), |verified| verified.time.clone()),
            artifact
                .map(|artifact| artifact.uri.clone())
                .or(status.message)
                .unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    if rows.len() > 1 {
        print_table(&rows);
    }
    Ok(())
}

/// The day of a time in RFC 3339.
fn day(time: Option<&str>) -> String {
    time.and_then(|time| time.split('T').next()).unwrap_or("-").to_owned()
}

fn print_table<const N: usize>(rows: &[[String; N]]) {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        println!("  {}", cells.join("  ").trim_end());
    }
}

/// Bytes for people.
fn size(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut amount = bytes;
    let mut unit = 0;
    while amount >= 10_240 && unit + 1 < UNITS.len() {
        amount /= 1024;
        unit += 1;
    }
    format!("{amount} {}", UNITS[unit])
}

async fn down(directory: &Path, exe: &Path) -> anyhow::Result<()> {
    let directory =
        std::fs::canonicalize(directory).with_context(|| format!("no such directory: {}", directory.display()))?;
    if let Some(pid) = lock::holder(&directory) {
        println!("asking the operator (pid {pid}) to stop");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM)
            .with_context(|| format!("cannot signal pid {pid}"))?;
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        while lock::holder(&directory).is_some() {
            if tokio::time::Instant::now() > end {
                bail!("the operator (pid {pid}) does not stop; end it by hand and run this again");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let stopped = stop_directory(&directory, &Programs::of(exe)).await?;
    match stopped.is_empty() {
        true => println!("no member runs"),
        false => println!("stopped {}", stopped.join(", ")),
    }
    Ok(())
}
