//! Power cuts for real: a file system on a loop device in a mount namespace of its own, shut down in the middle of a load.
//!
//! The cut is FS_IOC_SHUTDOWN without a flush of the journal: what was not synced is gone, as it would be with the machine's memory.
//! What a disk's own cache may lose it does not show. Then: unmount, mount, start again, and compare with all that was acknowledged.
//! - *storage*: log, database and snapshots of one member without a server (`storage-load`), thousands of cuts, also while it starts;
//! - *control*: the same with all syncs left out, which must lose something, or the cuts are none;
//! - *servers*: the shipped program with clients, alone and as three, all cut at once.

mod server;
mod storage;
mod volume;

use crate::process::Programs;
use crate::report::Report;
use anyhow::Context;
use std::path::PathBuf;
use std::time::Instant;

/// How much is done.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Cuts of storage under load.
    #[arg(long, default_value_t = 2000)]
    pub cuts: u64,
    /// Cuts of servers under load.
    #[arg(long, default_value_t = 36)]
    pub servers: u64,
    /// Cuts at the same time.
    #[arg(long, default_value_t = 2)]
    pub jobs: usize,
    /// What is written and when it is cut; random when absent.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where the images of the file systems lie; /dev/shm when there is one.
    #[arg(long)]
    pub images: Option<PathBuf>,
}

/// Set for the program that runs in the namespace.
const INSIDE: &str = "QUORATE_E2E_PRIVATE_MOUNTS";

/// Runs the suite.
pub async fn suite(programs: &Programs, options: &Options) -> anyhow::Result<bool> {
    volume::ready()?;
    if std::env::var_os(INSIDE).is_none() {
        return again_inside().await;
    }
    let load = programs.quorate.with_file_name("storage-load");
    anyhow::ensure!(
        load.is_file(),
        "{} is missing: cargo build --release --workspace --bins",
        load.display()
    );
    let images = options.images.clone().unwrap_or_else(|| {
        let memory = PathBuf::from("/dev/shm");
        if memory.is_dir() { memory } else { std::env::temp_dir() }
    });
    let temp = tempfile::Builder::new()
        .prefix("quorate-e2e-cuts-")
        .tempdir_in(images)?;
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut report = Report::new("power-cuts");
    report.figure("seed", seed);

    let began = Instant::now();
    let (root, cuts, jobs) = (temp.path().to_owned(), options.cuts, options.jobs.max(1));
    let (synced, control) = tokio::task::spawn_blocking(move || {
        let synced = storage::campaign(&load, &root.join("storage"), seed, cuts, jobs, true);
        let control = storage::campaign(
            &load,
            &root.join("control"),
            seed,
            (cuts / 50).clamp(4, 40),
            jobs,
            false,
        );
        (synced, control)
    })
    .await?;
    let (synced, control) = (synced?, control?);
    report.that(
        "storage: nothing acknowledged is lost, nothing is damaged",
        synced.losses.is_empty() && synced.cuts >= cuts,
        if synced.losses.is_empty() {
            format!("{} cuts, {} writes acknowledged", synced.cuts, synced.acknowledged)
        } else {
            format!(
                "{} of {} cuts: {}",
                synced.losses.len(),
                synced.cuts,
                synced.losses.join("; ")
            )
        },
    );
    for (kind, n) in &synced.kinds {
        report.figure(&format!("cuts with {kind}"), n);
    }
    report.figure("cuts while it started", synced.at_start);
    report.figure("cuts after something was acknowledged", synced.with_acknowledged);
    report.figure("writes that survived although nobody was told", synced.untold);
    report.figure(
        "time",
        format!("{:.1} s for all cuts of storage", began.elapsed().as_secs_f64()),
    );
    report.that(
        "control: without syncs it loses what was acknowledged",
        !control.losses.is_empty(),
        format!(
            "{} of {} directories lost something{}",
            control.losses.len(),
            control.directories,
            control
                .losses
                .first()
                .map(|first| format!(": {first}"))
                .unwrap_or_default()
        ),
    );
    if options.servers > 0 {
        let result = server::campaign(&programs.server, &temp.path().join("servers"), options.servers).await;
        report.check("servers: nothing acknowledged is lost, all come back", result);
    }
    Ok(report.end())
}

/// Runs this program once more where nobody else sees its mounts, and they end with it.
async fn again_inside() -> anyhow::Result<bool> {
    let status = tokio::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--kill-child"])
        .arg("--fork")
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .kill_on_drop(true)
        .status()
        .await
        .context("cannot run unshare (package util-linux)")?;
    Ok(status.success())
}
