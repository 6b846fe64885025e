//! What the operator must mend by itself, or refuse with a reason: lost directories, lost quorum, scaling, a full quota,
//! and its own death.

use crate::load::Load;
use crate::local::{Local, Status};
use crate::process::Programs;
use crate::report::Report;
use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Which parts are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// One directory deleted.
    Directory,
    /// Two of three directories deleted.
    Quorum,
    /// 3, 5, 3 members, and 4 refused.
    Scale,
    /// NOSPACE.
    Space,
    /// The operator killed at random moments.
    Operator,
}

/// All parts.
pub const ALL: &[Part] = &[Part::Directory, Part::Quorum, Part::Scale, Part::Space, Part::Operator];

/// Runs the suite.
pub async fn suite(programs: &Programs, parts: &[Part]) -> anyhow::Result<bool> {
    let mut report = Report::new("repair");
    for part in parts {
        let began = Instant::now();
        match part {
            Part::Directory => {
                let result = directory(programs).await;
                report.check("a member's directory deleted: replaced, new identity", result);
            }
            Part::Quorum => {
                let result = quorum(programs).await;
                report.check("two of three directories deleted: recovered", result);
            }
            Part::Scale => {
                scale(programs, &mut report).await;
            }
            Part::Space => {
                let result = space(programs).await;
                report.check("NOSPACE: compacted, defragmented, disarmed, writable", result);
            }
            Part::Operator => {
                let result = operator(programs).await;
                report.check("operator killed at random moments of 3 -> 5 -> 3", result);
            }
        }
        report.figure(
            &format!("part {part:?} took"),
            format!("{:.1} s", began.elapsed().as_secs_f64()),
        );
    }
    Ok(report.end())
}

/// A load whose calls may be retried once.
fn load(local: &Local) -> anyhow::Result<Load> {
    Load::start(
        local.target(),
        "load/",
        Duration::from_millis(20),
        Duration::from_secs(5),
    )
}

fn identities(status: &Status) -> BTreeSet<String> {
    status.members.iter().filter_map(|member| member.id.clone()).collect()
}

async fn directory(programs: &Programs) -> anyhow::Result<String> {
    let local = Local::running(programs, "replicas: 3", 3).await?;
    let load = load(&local)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = local.status().context("no status")?;
    let victim = before
        .members
        .get(rand::random_range(0..before.members.len()))
        .context("no members")?
        .clone();
    let old = victim.id.clone().context("a member without an id")?;
    let leads = before.leader.as_deref() == Some(victim.name.as_str());
    local.delete_member_directory(&victim.name)?;
    let began = Instant::now();
    let detected = local
        .wait("detected", Duration::from_secs(60), |status| {
            let seen = status.members.iter().find(|member| member.name == victim.name);
            seen.is_none_or(|member| member.health != "Healthy") || status.phase != "Running"
        })
        .await?;
    local
        .wait("replaced", Duration::from_secs(120), |status| {
            !identities(status).contains(&old)
                && status.phase == "Running"
                && status.ready_replicas == 3
                && status.members.len() == 3
        })
        .await?;
    let replaced = began.elapsed();
    local.wait_settled(3, Duration::from_secs(30)).await?;
    let after = local.status().context("no status")?;
    ensure!(
        after.cluster_id == before.cluster_id,
        "a new cluster was begun: {} is now {}",
        before.cluster_id,
        after.cluster_id
    );
    ensure!(
        identities(&after).difference(&identities(&before)).count() == 1,
        "identities {before:?}, then {after:?}"
    );
    ensure!(
        after.members.iter().all(|member| member.name != victim.name),
        "the name {} is used again",
        victim.name
    );
    let summary = load.stop().await;
    let judged = summary.judged(&local.access()?).await?;
    let since = (replaced - detected).as_secs_f64();
    Ok(format!(
        "{}: detected after {:.1} s, replaced {since:.1} s later (wanted: 30 s); {judged}",
        if leads { "leader" } else { "follower" },
        detected.as_secs_f64(),
    ))
}

async fn quorum(programs: &Programs) -> anyhow::Result<String> {
    let local = Local::running(programs, "replicas: 3", 3).await?;
    let load = load(&local)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let summary = load.stop().await;
    let before = local.status().context("no status")?;
    let revision = local
        .access()?
        .client()
        .await?
        .get("x", None)
        .await?
        .header()
        .context("no header")?
        .revision();
    let leader = before.leader.clone().context("no leader")?;
    for member in before.members.iter().filter(|member| member.name != leader) {
        // Deleted alone, a directory takes nothing from a process that has its files open: it would go on to vote.
        local.signal(&member.name, Signal::SIGKILL);
        local.delete_member_directory(&member.name)?;
    }
    let began = Instant::now();
    local
        .wait("a recovery plan", Duration::from_secs(60), |status| {
            status.recovery.is_some()
                || (status.phase == "Running" && identities(status).is_disjoint(&gone(&before, &leader)))
        })
        .await?;
    let published = began.elapsed();
    let plan = local.status().and_then(|status| status.recovery);
    // Where the loss is proven it acts by itself; else it waits for the hash, and says so.
    let mut acknowledged = false;
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let status = local.status().unwrap_or_default();
        if status.phase == "Running"
            && status.ready_replicas == 3
            && status.members.len() == 3
            && identities(&status).is_disjoint(&gone(&before, &leader))
        {
            break;
        }
        if let Some(recovery) = &status.recovery
            && !recovery.acting
            && !acknowledged
            && began.elapsed() > published + Duration::from_secs(10)
        {
            local.write_spec(&format!("replicas: 3\nrecovery:\n  acknowledge: {:?}", recovery.hash))?;
            acknowledged = true;
        }
        if Instant::now() > end {
            bail!(
                "not recovered after {:?}; status {status:?}\n{}",
                began.elapsed(),
                local.last_words()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let recovered = began.elapsed();
    local.wait_settled(3, Duration::from_secs(30)).await?;
    let access = local.access()?;
    let mut client = access.client().await?;
    let now = client
        .put("after", "recovery", None)
        .await?
        .header()
        .context("no header")?
        .revision();
    ensure!(now > revision, "revision {now} after the recovery, {revision} before");
    // The leader survived, so everything acknowledged did. The history may be compacted: compare what keys hold now.
    let kept = summary.newest_kept(&access).await?;
    let hash = access.equal_hash().await?;
    Ok(format!(
        "plan after {:.1} s, {}, done after {:.1} s; {} keys kept; revision {revision} -> {now}; {}; hash {hash}",
        published.as_secs_f64(),
        if acknowledged {
            "waited for acknowledge"
        } else {
            "acted by itself"
        },
        recovered.as_secs_f64(),
        kept,
        plan.map(|plan| format!("loss bound: {}", plan.loss_bound))
            .unwrap_or_default()
    ))
}

/// Ids of all but the survivor.
fn gone(before: &Status, survivor: &str) -> BTreeSet<String> {
    let others = before.members.iter().filter(|member| member.name != survivor);
    others.filter_map(|member| member.id.clone()).collect()
}

async fn scale(programs: &Programs, report: &mut Report) {
    let result = async {
        let local = Local::running(programs, "replicas: 3", 3).await?;
        let load = load(&local)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = local.status().context("no status")?;
        local.write_spec("replicas: 5")?;
        let mut learner = false;
        let began = Instant::now();
        while !local
            .status()
            .is_some_and(|status| status.phase == "Running" && status.ready_replicas == 5)
        {
            let status = local.status().unwrap_or_default();
            let learners = status.members.iter().filter(|member| member.role == "Learner").count();
            learner |= learners > 0;
            ensure!(learners < 2, "two learners at once: {status:?}");
            if began.elapsed() > Duration::from_secs(120) {
                bail!("not 5 members after 120 s: {status:?}\n{}", local.last_words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let up = local.wait_settled(5, Duration::from_secs(30)).await? + began.elapsed();
        let grown = load.acked();
        local.write_spec("replicas: 3")?;
        let down = local.wait_settled(3, Duration::from_secs(120)).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = local.status().context("no status")?;
        ensure!(after.cluster_id == before.cluster_id, "a new cluster was begun");
        let summary = load.stop().await;
        let judged = summary.judged(&local.access()?).await?;
        ensure!(
            grown > 0 && learner,
            "{grown} writes while growing, learner seen: {learner}"
        );
        report.that(
            "3 -> 5 -> 3: no call fails beyond one retry",
            summary.failed.is_empty(),
            format!(
                "{} retried, {} failed; {}",
                summary.retried,
                summary.failed.len(),
                summary.failed.first().cloned().unwrap_or_default()
            ),
        );
        let times = (up.as_secs_f64(), down.as_secs_f64());
        Ok((
            local,
            format!("up {:.1} s, down {:.1} s, learners first; {judged}", times.0, times.1),
        ))
    }
    .await;
    let (local, result) = match result {
        Ok((local, seen)) => (Some(local), Ok(seen)),
        Err(error) => (None, Err(error)),
    };
    report.check("3 -> 5 -> 3 under load: nothing lost", result);
    let Some(local) = local else { return };
    let refused = async {
        local.write_spec("replicas: 4")?;
        let end = Instant::now() + Duration::from_secs(20);
        let message = loop {
            let told = local.told();
            if let Some(line) = told.lines().find(|line| line.contains("replicas: 4 is even")) {
                break line.trim().to_owned();
            }
            ensure!(Instant::now() < end, "nothing said about it:\n{}", local.last_words());
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let members = local.status().context("no status")?.members.len();
        ensure!(members == 3, "{members} members");
        local.access()?.client().await?.put("still", "there", None).await?;
        Ok(message)
    };
    report.check(
        "replicas: 4 is refused with a reason, the cluster goes on",
        refused.await,
    );
}

async fn space(programs: &Programs) -> anyhow::Result<String> {
    let spec = "replicas: 3\nstorage:\n  size: 1Gi\noptions:\n  quotaBackendBytes: 16Mi\nmaintenance:\n  defrag:\n    settle: 1s";
    let local = Local::running(programs, spec, 3).await?;
    let mut client = local.access()?.client().await?;
    let value = vec![b'v'; 512 << 10];
    let mut written = 0;
    let error = loop {
        ensure!(
            written < 500,
            "500 writes of 512 KiB and no NOSPACE with a quota of 16 MiB"
        );
        match client.put(format!("big/{}", written % 4), value.clone(), None).await {
            Ok(_) => written += 1,
            Err(error) => break error.to_string(),
        }
    };
    ensure!(
        error.contains("database space exceeded"),
        "refused with another error: {error}"
    );
    let began = Instant::now();
    let limit = Duration::from_secs(120);
    loop {
        let mut client = local.access()?.client().await?;
        if client.put("small", "again", None).await.is_ok() {
            break;
        }
        ensure!(
            began.elapsed() < limit,
            "no write was possible after {limit:?}\n{}",
            local.last_words()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let writable = began.elapsed();
    local.wait_settled(3, Duration::from_secs(60)).await?;
    let told = local.told().to_lowercase();
    let missing: Vec<&str> = ["compact", "defrag", "disarm"]
        .into_iter()
        .filter(|word| !told.contains(word))
        .collect();
    ensure!(missing.is_empty(), "no event says {missing:?}\n{}", local.last_words());
    Ok(format!(
        "full after {written} writes, writable {:.1} s later, with events",
        writable.as_secs_f64()
    ))
}

async fn operator(programs: &Programs) -> anyhow::Result<String> {
    let mut local = Local::running(programs, "replicas: 3", 3).await?;
    let before = local.status().context("no status")?;
    let load = load(&local)?;
    let mut killed = 0;
    for replicas in [5, 3] {
        local.write_spec(&format!("replicas: {replicas}"))?;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(rand::random_range(50..2500))).await;
            local.kill_operator().await?;
            killed += 1;
            local.start_operator()?;
        }
        local.wait_settled(replicas, Duration::from_secs(120)).await?;
    }
    let after = local.status().context("no status")?;
    ensure!(after.cluster_id == before.cluster_id, "a new cluster was begun");
    let summary = load.stop().await;
    let judged = summary.judged(&local.access()?).await?;
    let hash = local.access()?.equal_hash().await?;
    local.interrupt().await?;
    ensure!(!local.any_member_runs(), "members still run after Ctrl-C");
    Ok(format!(
        "{killed} times; {} retried, {} failed; {judged}; hash {hash}",
        summary.retried,
        summary.failed.len()
    ))
}
