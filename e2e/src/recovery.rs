//! Quorum lost where nothing proves the loss, and all data lost with a backup at hand: a plan is published and waits, the
//! acknowledgement of that very plan makes it act, and nothing else does.

use crate::load::{Load, Summary};
use crate::local::{Local, Status, StatusRecovery};
use crate::process::Programs;
use crate::report::Report;
use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs the suite.
pub async fn suite(programs: &Programs) -> anyhow::Result<bool> {
    let mut report = Report::new("recovery");
    let result = out_of_reach(programs).await;
    report.check(
        "two of three disks out of reach: waits, heals, acts when agreed",
        result,
    );
    let result = manual(programs).await;
    report.check("recovery.mode Manual: a proven loss waits as well", result);
    let result = from_backup(programs).await;
    report.check(
        "all directories gone, a verified backup: waits, acts when agreed",
        result,
    );
    let result = automatic_from_manifest(programs).await;
    report.check("the same with Automatic, and no status of the backup left", result);
    let result = nothing_left(programs).await;
    report.check(
        "nothing left but the store: bootstrap.restore by name and by place",
        result,
    );
    if programs.etcd.is_some() {
        let result = engine_etcd(programs).await;
        report.check(
            "engine etcd, one directory left: its log's end is read, the tail told",
            result,
        );
    } else {
        report.figure("engine etcd", "not tried: QUORATE_ETCD_BIN_DIR is not set");
    }
    Ok(report.end())
}

const LIMIT: Duration = Duration::from_secs(120);

/// Everything that is published while a watch lasts.
struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Status>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn begin(local: &Local) -> Watch {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (until, into, path) = (Arc::clone(&stop), Arc::clone(&seen), local.root().join("status.yaml"));
        let task = tokio::spawn(async move {
            while !until.load(Ordering::Relaxed) {
                if let Some(status) = crate::local::read_status(&path) {
                    into.lock().unwrap_or_else(PoisonError::into_inner).push(status);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Watch { stop, seen, task }
    }

    /// How many were seen; an error when one of them called the cluster available or ready.
    async fn never_ready(self) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?;
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(lie) = seen.iter().find(|s| s.phase == "Running" || s.is("Available")) {
            bail!("the status said {} with Available={}", lie.phase, lie.is("Available"));
        }
        Ok(seen.len())
    }
}

/// A disk that is not mounted: the data is behind a link that leads nowhere, and the process ended with it.
fn unplug(local: &Local, members: &[String]) -> anyhow::Result<()> {
    for member in members {
        let data = local.member(member).join("data");
        std::fs::rename(&data, local.scratch(&format!("disk-{member}")))?;
        std::os::unix::fs::symlink(plug(local, member), &data)?;
    }
    for member in members {
        local.signal(member, Signal::SIGKILL);
    }
    Ok(())
}

fn plug(local: &Local, member: &str) -> PathBuf {
    local.scratch(&format!("mounted-{member}"))
}

/// The disks are mounted again.
fn replug(local: &Local, members: &[String]) -> anyhow::Result<()> {
    for member in members {
        std::fs::rename(local.scratch(&format!("disk-{member}")), plug(local, member))?;
    }
    Ok(())
}

/// The disk is taken away again.
fn unplug_again(local: &Local, members: &[String]) -> anyhow::Result<()> {
    for member in members {
        std::fs::rename(plug(local, member), local.scratch(&format!("disk-{member}")))?;
    }
    for member in members {
        local.signal(member, Signal::SIGKILL);
    }
    Ok(())
}

fn followers(status: &Status) -> anyhow::Result<(String, Vec<String>)> {
    let leader = status.leader.clone().context("no leader")?;
    let others = status.members.iter().map(|member| member.name.clone());
    Ok((leader.clone(), others.filter(|name| *name != leader).collect()))
}

async fn revision(local: &Local) -> anyhow::Result<i64> {
    let mut client = local.access()?.client().await?;
    Ok(client.get("x", None).await?.header().context("no header")?.revision())
}

/// Writes for a moment.
async fn written(local: &Local) -> anyhow::Result<Summary> {
    let load = Load::start(
        local.target(),
        "load/",
        Duration::from_millis(10),
        Duration::from_secs(5),
    )?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let summary = load.stop().await;
    ensure!(summary.failed.is_empty(), "{:?}", summary.failed.first());
    Ok(summary)
}

/// Waits for a published plan that does not act, with all that the owner needs in it.
async fn published(local: &Local) -> anyhow::Result<StatusRecovery> {
    local
        .wait("a recovery plan", LIMIT, |status| {
            status.recovery.as_ref().is_some_and(|plan| !plan.acting)
        })
        .await?;
    let status = local.status().context("no status")?;
    let plan = status.recovery.clone().context("the plan vanished")?;
    ensure!(
        plan.hash.len() == 16 && !plan.loss_bound.is_empty() && plan.plan.contains("evidence:"),
        "incomplete: {plan:?}"
    );
    ensure!(status.is("RecoveryRequired"), "condition RecoveryRequired is not True");
    let blocked = status.plan.and_then(|plan| plan.blocked_by).unwrap_or_default();
    ensure!(
        blocked.contains(&format!("spec.recovery.acknowledge to {}", plan.hash)),
        "plan.blockedBy does not name the remedy: {blocked:?}"
    );
    local
        .wait_told(&format!("spec.recovery.acknowledge to {}", plan.hash), LIMIT)
        .await
        .context("no event")?;
    Ok(plan)
}

/// It stays so for a while.
async fn waits(local: &Local, plan: &StatusRecovery, time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let status = local.status().context("no status")?;
        let now = status.recovery.context("the plan vanished")?;
        ensure!(!now.acting && now.hash == plan.hash, "{plan:?} became {now:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Each of these was an event.
fn all_told(local: &Local, steps: &[&str]) -> anyhow::Result<()> {
    let told = local.told();
    let missing: Vec<&&str> = steps.iter().filter(|step| !told.contains(**step)).collect();
    ensure!(missing.is_empty(), "no event says {missing:?}\n{told}");
    Ok(())
}

async fn out_of_reach(programs: &Programs) -> anyhow::Result<String> {
    let local = Local::running(programs, "replicas: 3", 3).await?;
    let before = local.status().context("no status")?;
    let summary = written(&local).await?;
    let (survivor, others) = followers(&before)?;

    unplug(&local, &others)?;
    let began = Instant::now();
    local.wait("noticed", LIMIT, |status| status.phase != "Running").await?;
    let watch = Watch::begin(&local);
    let plan = published(&local).await?;
    let after = began.elapsed();
    ensure!(
        others
            .iter()
            .all(|name| plan.plan.contains(&format!("{name}: its data is out of reach"))),
        "the evidence is not told: {}",
        plan.plan
    );
    waits(&local, &plan, Duration::from_secs(5)).await?;
    // A hash of another plan agrees to nothing.
    local.write_spec("replicas: 3\nrecovery:\n  acknowledge: \"0123456789abcdef\"")?;
    waits(&local, &plan, Duration::from_secs(5)).await?;
    let looks = watch.never_ready().await?;

    // The disks come back: nothing had been done to anybody, so all is as it was.
    replug(&local, &others)?;
    local
        .wait_settled(3, LIMIT)
        .await
        .context("after the disks came back")?;
    let healed = local.status().context("no status")?;
    ensure!(healed.cluster_id == before.cluster_id, "another cluster");
    let kept = summary.judged(&local.access()?).await?;

    // They go again, and the owner knows that it is for good.
    let high = revision(&local).await?;
    unplug_again(&local, &others)?;
    local.wait("noticed", LIMIT, |status| status.phase != "Running").await?;
    let plan = published(&local).await?;
    let spec = format!("replicas: 3\nrecovery:\n  acknowledge: {:?}", plan.hash);
    local.write_spec(&spec)?;
    let agreed = Instant::now();
    local
        .wait("recovered", LIMIT, |status| {
            status.phase == "Running" && status.cluster_id != before.cluster_id
        })
        .await?;
    local.wait_settled(3, LIMIT).await?;
    let recovered = agreed.elapsed();
    summary.newest_kept(&local.access()?).await?;
    let now = revision(&local).await?;
    ensure!(now > high, "revision {now} after the recovery, {high} before");
    all_told(
        &local,
        &[
            &format!("record that recovery {} begins", plan.hash),
            &format!("read the end of the log of {survivor}"),
            &format!("copy the data of {survivor} aside"),
            &format!("recover the cluster from {survivor} alone"),
            &format!("retire {}", others[0]),
            &format!("retire {}", others[1]),
            "promote",
        ],
    )?;
    // The former members come back to find themselves retired; the acknowledgement that is left agrees to nothing new.
    replug(&local, &others)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let settled = local.status().context("no status")?;
    ensure!(settled.phase == "Running" && settled.members.len() == 3, "{settled:?}");
    let (_, next) = followers(&settled)?;
    unplug(&local, &next)?;
    local.wait("noticed", LIMIT, |status| status.phase != "Running").await?;
    let another = published(&local).await?;
    ensure!(another.hash != plan.hash, "the same hash for another plan");
    waits(&local, &another, Duration::from_secs(3)).await?;
    replug(&local, &next)?;
    local.wait_settled(3, LIMIT).await?;
    Ok(format!(
        "plan after {:.1} s, {looks} looks none of them ready; healed: {kept}; acted {:.1} s from the hash to 3 members; \
         revision {high} -> {now}; loss bound: {}",
        after.as_secs_f64(),
        recovered.as_secs_f64(),
        plan.loss_bound
    ))
}

async fn manual(programs: &Programs) -> anyhow::Result<String> {
    let spec = "replicas: 3\nrecovery:\n  mode: Manual";
    let local = Local::running(programs, spec, 3).await?;
    let before = local.status().context("no status")?;
    let summary = written(&local).await?;
    let (_, others) = followers(&before)?;
    for member in &others {
        local.signal(member, Signal::SIGKILL);
        local.delete_member_directory(member)?;
    }
    let plan = published(&local).await?;
    ensure!(plan.plan.contains("its data directory is lost"), "{}", plan.plan);
    waits(&local, &plan, Duration::from_secs(5)).await?;
    local.write_spec(&format!("{spec}\n  acknowledge: {:?}", plan.hash))?;
    local
        .wait("recovered", LIMIT, |status| {
            status.phase == "Running" && status.cluster_id != before.cluster_id
        })
        .await?;
    local.wait_settled(3, LIMIT).await?;
    Ok(format!(
        "{} keys kept; {}",
        summary.newest_kept(&local.access()?).await?,
        plan.loss_bound
    ))
}

/// Real etcd as the members: its log is read by our tool, and its `--force-new-cluster` drops what is not committed.
async fn engine_etcd(programs: &Programs) -> anyhow::Result<String> {
    let spec = "replicas: 3\nengine: etcd\nversion: 3.7.3\nrecovery:\n  mode: Manual";
    let mut local = Local::prepared(programs, spec, String::new())?;
    local.environment = vec![
        ("QUORATE_SERVER_BIN", programs.upstream("etcd")?),
        ("QUORATE_ETCDUTL_BIN", programs.upstream("etcdutl")?),
    ];
    local.start_operator()?;
    local.wait_settled(3, LIMIT).await?;
    let before = local.status().context("no status")?;
    let summary = written(&local).await?;
    let high = revision(&local).await?;
    let (survivor, others) = followers(&before)?;
    for member in &others {
        local.signal(member, Signal::SIGKILL);
        local.delete_member_directory(member)?;
    }
    let plan = published(&local).await?;
    ensure!(
        plan.loss_bound.contains("which upstream drops"),
        "the tail is not counted as lost: {}",
        plan.loss_bound
    );
    local.write_spec(&format!("{spec}\n  acknowledge: {:?}", plan.hash))?;
    local
        .wait("recovered", LIMIT, |status| {
            status.phase == "Running" && status.cluster_id != before.cluster_id
        })
        .await?;
    local.wait_settled(3, LIMIT).await?;
    all_told(&local, &[&format!("read the end of the log of {survivor}")])?;
    let told = local.told();
    let tail = told.lines().find(|line| line.contains("entries of the survivor's log"));
    let now = revision(&local).await?;
    ensure!(now > high, "revision {now} after the recovery, {high} before");
    Ok(format!(
        "{} keys kept; revision {high} -> {now}; {}",
        summary.newest_kept(&local.access()?).await?,
        tail.map_or("no entry above the commit index", |line| line)
    ))
}

/// A one-shot backup into a directory beside the manifest.
fn backup_document(name: &str) -> String {
    format!(
        "---\napiVersion: quorate.dev/v1alpha1\nkind: EtcdBackup\nmetadata:\n  name: {name}\nspec:\n  clusterRef:\n    \
         name: db\n  destination:\n    directory:\n      path: backups\n"
    )
}

/// A cluster with a verified backup, and writes that are newer than it.
async fn backed_up(programs: &Programs, spec: &str) -> anyhow::Result<(Local, i64)> {
    let mut local = Local::running(programs, spec, 3).await?;
    let mut client = local.access()?.client().await?;
    for n in 0..100 {
        client.put(format!("before/{n}"), format!("{n}"), None).await?;
    }
    let held = revision(&local).await?;
    local.others = backup_document("kept");
    local.write_spec(spec)?;
    local
        .wait_told("read back and verified", Duration::from_secs(60))
        .await?;
    for n in 0..20 {
        client.put(format!("after/{n}"), "newer than the backup", None).await?;
    }
    Ok((local, held))
}

/// Every process dies, and every directory is gone.
fn lose_all(local: &Local) -> anyhow::Result<()> {
    let names = local.member_names();
    for member in &names {
        local.signal(member, Signal::SIGKILL);
    }
    for member in &names {
        local.delete_member_directory(member)?;
    }
    Ok(())
}

/// The content is the backup's, and the revisions are above all that were seen.
async fn is_the_backup(local: &Local, high: i64) -> anyhow::Result<i64> {
    let mut client = local.access()?.client().await?;
    let mut counts = Vec::new();
    for prefix in ["before/", "after/"] {
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        counts.push(client.get(prefix, Some(options)).await?.count());
    }
    ensure!(counts == [100, 0], "{counts:?} keys of before and after the backup");
    let now = revision(local).await?;
    ensure!(now > high, "revision {now}, before the loss {high}");
    local.access()?.equal_hash().await?;
    Ok(now)
}

async fn from_backup(programs: &Programs) -> anyhow::Result<String> {
    let (local, held) = backed_up(programs, "replicas: 3").await?;
    let before = local.status().context("no status")?;
    let high = revision(&local).await?;
    lose_all(&local)?;
    local.wait("noticed", LIMIT, |status| status.phase != "Running").await?;
    let watch = Watch::begin(&local);
    let plan = published(&local).await?;
    ensure!(
        plan.plan.contains("backup kept")
            && plan.loss_bound.contains(&format!("revision {held}"))
            && plan.loss_bound.contains(" ago"),
        "the backup, its revision {held} and its age are not all told: {plan:?}"
    );
    waits(&local, &plan, Duration::from_secs(5)).await?;
    local.write_spec("replicas: 3\nrecovery:\n  acknowledge: \"0123456789abcdef\"")?;
    waits(&local, &plan, Duration::from_secs(3)).await?;
    let looks = watch.never_ready().await?;
    local.write_spec(&format!("replicas: 3\nrecovery:\n  acknowledge: {:?}", plan.hash))?;
    let agreed = Instant::now();
    local
        .wait("recovered", LIMIT, |status| {
            status.phase == "Running" && status.cluster_id != before.cluster_id
        })
        .await?;
    local.wait_settled(3, LIMIT).await?;
    let took = agreed.elapsed();
    let now = is_the_backup(&local, high).await?;
    all_told(&local, &["from backup kept", "promote", "retire"])?;
    let names: BTreeSet<String> = before.members.iter().map(|member| member.name.clone()).collect();
    let reused = local
        .status()
        .context("no status")?
        .members
        .into_iter()
        .any(|m| names.contains(&m.name));
    ensure!(!reused, "a name is used again");
    Ok(format!(
        "{looks} looks none of them ready; 3 members {:.1} s after the hash; revision {high} -> {now}; loss bound: {}",
        took.as_secs_f64(),
        plan.loss_bound
    ))
}

async fn automatic_from_manifest(programs: &Programs) -> anyhow::Result<String> {
    let spec = "replicas: 3\nrecovery:\n  fromBackup: Automatic";
    let (mut local, _) = backed_up(programs, spec).await?;
    let before = local.status().context("no status")?;
    let high = revision(&local).await?;
    // What the operator remembers of backups is lost, too: the store alone tells.
    local.kill_operator().await?;
    lose_all(&local)?;
    std::fs::remove_dir_all(local.root().join("backups"))?;
    local.start_operator()?;
    let began = Instant::now();
    local
        .wait("recovered", LIMIT, |status| {
            status.phase == "Running" && status.cluster_id != before.cluster_id
        })
        .await?;
    local.wait_settled(3, LIMIT).await?;
    let took = began.elapsed();
    let now = is_the_backup(&local, high).await?;
    let found = local.wait_told("BackupFound", Duration::from_secs(1)).await?;
    Ok(format!(
        "by itself within {:.1} s; revision {high} -> {now}; {}",
        took.as_secs_f64(),
        found.split("BackupFound").nth(1).unwrap_or_default().trim()
    ))
}

async fn nothing_left(programs: &Programs) -> anyhow::Result<String> {
    let (mut local, _) = backed_up(programs, "replicas: 3").await?;
    let high = revision(&local).await?;
    let mut seen = Vec::new();
    for (how, restore) in [
        ("backupRef", "backupRef:\n      name: kept"),
        ("source", "source:\n      directory:\n        path: backups"),
    ] {
        local.kill_operator().await?;
        lose_all(&local)?;
        std::fs::remove_dir_all(local.directory())?;
        local.write_spec(&format!("replicas: 3\nbootstrap:\n  restore:\n    {restore}"))?;
        local.start_operator()?;
        let began = Instant::now();
        local.wait_settled(3, LIMIT).await.with_context(|| how.to_owned())?;
        let now = is_the_backup(&local, high).await.with_context(|| how.to_owned())?;
        seen.push(format!(
            "{how}: {:.1} s, revision {high} -> {now}",
            began.elapsed().as_secs_f64()
        ));
        // The one backup that there is was not written over by the new cluster's.
        local
            .wait_told("holds a backup of cluster db", Duration::from_secs(30))
            .await?;
    }
    Ok(seen.join("; "))
}
