//! `quorate demo`: the whole promise on this machine, narrated, and every claim checked.
//!
//! It uses what a user uses: a manifest that is edited, files that lie in the directory, the etcd API. The operator
//! runs in this process exactly as `quorate local up` runs it; members are child processes.
//!
//! Invariants:
//! 1. The exit code is 0 only if every claim held.
//! 2. An acknowledged write is never forgotten: one writer runs through all acts, and all it was told is read back.
//! 3. Whatever happens, the members are stopped, and the directory is removed unless `--keep` was given.

mod stage;
mod writer;

use crate::platform::local::process::Process;
use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use stage::{Stage, ready};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use writer::Writer;

/// How the demo is run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Keep the directory with all data, logs and events.
    #[arg(long)]
    pub keep: bool,
    /// Where to work, instead of a new directory below the system's temporary one.
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// Runs it. Fails with the first claim that did not hold.
pub async fn run(options: &Options, exe: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let directory = options
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("quorate-demo-{}", std::process::id())));
    println!(
        "quorate demo: a cluster's life, on this machine alone, in {}",
        directory.display()
    );
    let mut stage = Stage::open(&directory, exe).await?;
    let played = tokio::select! {
        played = play(&mut stage) => played,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if played.is_err() {
        stage.show_trouble();
    }
    stage.close().await;
    match options.keep {
        true => println!("\nkept: {}", directory.display()),
        false => {
            std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?
        }
    }
    let claims = played?;
    println!("\nall {claims} claims held, in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// All acts; how many claims were checked.
async fn play(stage: &mut Stage) -> anyhow::Result<usize> {
    stage.act("Three members from a manifest, with TLS for clients and among members");
    stage.write_manifest()?;
    stage
        .wait("three healthy members", Duration::from_secs(60), ready(3))
        .await?;
    let status = stage.status()?;
    stage.claim(format!(
        "cluster {} serves, {} leads",
        or_none(&status.cluster_id),
        or_none(&status.leader)
    ));
    ensure!(
        stage.plain_text_is_refused().await?,
        "a client without a certificate was let in"
    );
    stage.claim("a client without a certificate is turned away".to_owned());

    stage.act("A writer begins; from now on everything that it is told is remembered");
    let mut writer = Writer::start(stage.layout().clone());
    writer.more(50, Duration::from_secs(20)).await?;
    stage.claim(format!("{} writes acknowledged", writer.acknowledged()));

    stage.act("The leader is killed");
    let leader = stage.status()?.leader.context("no leader in status")?;
    let pid = process_of(stage, &leader)?.pid;
    writer.forget_gap();
    process_of(stage, &leader)?.signal(Signal::SIGKILL);
    writer.more(20, Duration::from_secs(30)).await?;
    stage.claim(format!(
        "writes went on, with a gap of {:.1} s",
        writer.longest_gap().as_secs_f64()
    ));
    let resumed = process_resumed(stage, &leader, pid);
    let name = leader.clone();
    stage
        .wait("the killed member to be back", Duration::from_secs(60), move |status| {
            resumed() && ready(3)(status) && status.members.iter().any(|member| member.name == name)
        })
        .await?;
    stage.claim(format!("{leader} is back on its own data"));

    stage.act("A member's whole directory is deleted");
    let lost = stage.follower()?;
    let since = Instant::now();
    delete(stage, &lost)?;
    let name = lost.clone();
    stage
        .wait("its replacement", Duration::from_secs(60), move |status| {
            ready(3)(status) && status.members.iter().all(|member| member.name != name)
        })
        .await?;
    stage.claim(format!(
        "replaced by a new member after {:.1} s; the name is not used again",
        since.elapsed().as_secs_f64()
    ));

    stage.act("The manifest is edited: three become five, and three again, while the writer writes");
    writer.forget_gap();
    stage.replicas = 5;
    stage.write_manifest()?;
    stage.wait("five voters", Duration::from_secs(90), ready(5)).await?;
    stage.replicas = 3;
    stage.write_manifest()?;
    stage.wait("three voters", Duration::from_secs(60), ready(3)).await?;
    writer.more(20, Duration::from_secs(20)).await?;
    stage.claim(format!(
        "3 -> 5 -> 3, the longest gap between two writes was {:.1} s",
        writer.longest_gap().as_secs_f64()
    ));
    writer
        .check("all acknowledged writes are there")
        .await
        .map(|what| stage.claim(what))?;

    stage.act("A backup into an S3 store: signed requests through TLS, read back and verified");
    stage.with_backup().await?;
    stage.write_manifest()?;
    let backup = stage.wait_for_backup(Duration::from_secs(60)).await?;
    stage.claim(format!(
        "{} holds revision {}, hash {}",
        backup.uri, backup.revision, backup.hash
    ));

    stage.act("Quorum is lost: two of three members are killed, and their directories deleted");
    writer.pause().await;
    stage.wait_for_equal_members(Duration::from_secs(20)).await?;
    let survivor = stage.status()?.leader.context("no leader in status")?;
    let gone: Vec<String> = stage
        .status()?
        .members
        .into_iter()
        .map(|member| member.name)
        .filter(|name| *name != survivor)
        .collect();
    for name in &gone {
        delete(stage, name)?;
    }
    let since = Instant::now();
    let names = gone.clone();
    stage
        .wait("recovery and two new members", Duration::from_secs(90), move |status| {
            ready(3)(status) && status.members.iter().all(|member| !names.contains(&member.name))
        })
        .await?;
    stage.claim(format!(
        "recovered from {survivor} and grown again after {:.0} s",
        since.elapsed().as_secs_f64()
    ));
    writer
        .check("all acknowledged writes survived")
        .await
        .map(|what| stage.claim(what))?;
    writer.resume();
    writer.more(20, Duration::from_secs(20)).await?;
    stage.claim("new writes are taken, at revisions above all that were seen".to_owned());

    stage.act("The backup is restored as a new cluster");
    stage.with_restored();
    stage.write_manifest()?;
    stage
        .wait_other(
            "three healthy members of the new cluster",
            Duration::from_secs(90),
            ready(3),
        )
        .await?;
    let what = writer
        .compare_restored(&stage.restored_layout(), backup.revision)
        .await?;
    stage.claim(what);
    writer.pause().await;
    writer
        .check("and in the first cluster nothing is missing")
        .await
        .map(|what| stage.claim(what))?;
    Ok(stage.claims())
}

fn or_none(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or("(none)")
}

fn process_of(stage: &Stage, member: &str) -> anyhow::Result<Process> {
    stage.process(member).with_context(|| format!("{member} does not run"))
}

/// Whether the member runs under another pid than before.
fn process_resumed(stage: &Stage, member: &str, pid: i32) -> impl Fn() -> bool + use<> {
    let (layout, member) = (stage.layout().clone(), member.to_owned());
    move || stage::process_in(&layout, &member).is_some_and(|process| process.pid != pid)
}

/// A disk that dies: the process ends, and nothing is left of its data.
fn delete(stage: &Stage, member: &str) -> anyhow::Result<()> {
    let process = process_of(stage, member)?;
    process.signal(Signal::SIGKILL);
    // Moved first, so that it vanishes at once: the operator may be writing into it.
    let (place, away) = (stage.layout().member(member), stage.layout().file("deleted"));
    std::fs::rename(&place, &away).with_context(|| format!("cannot remove {}", place.display()))?;
    std::fs::remove_dir_all(&away).with_context(|| format!("cannot remove {}", away.display()))
}
