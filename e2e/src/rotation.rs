//! Certificates and authorities rotated under load: no restart, no failed call, and afterwards nobody trusts the old ones.

use crate::load::Load;
use crate::local::{Local, Status};
use crate::process::Programs;
use crate::report::Report;
use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::process::Command;

/// Short-lived authorities and certificates, not yet near their ends.
const BEFORE: [&str; 4] = ["1h", "30m", "2h", "1h"];
/// With these they are: what there is has less left than it is renewed before, what is issued now has more.
const AFTER: [&str; 4] = ["50h", "90m", "100h", "3h"];
/// A stage lasts until every member has read its files again.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs the suite.
pub async fn suite(programs: &Programs) -> anyhow::Result<bool> {
    let mut report = Report::new("rotation");
    if let Err(error) = rotate(programs, &mut report).await {
        report.check::<String>("rotation of both authorities and all certificates", Err(error));
    }
    Ok(report.end())
}

fn spec([validity, renew, ca_validity, ca_renew]: [&str; 4]) -> String {
    let side = |side: &str| {
        format!(
            "\n  {side}:\n    selfSigned: {{}}\n    rotation:\n      validity: {validity}\n      renewBefore: {renew}\n      \
             caValidity: {ca_validity}\n      caRenewBefore: {ca_renew}"
        )
    };
    format!("replicas: 3\ntls:{}{}", side("client"), side("peer"))
}

async fn rotate(programs: &Programs, report: &mut Report) -> anyhow::Result<()> {
    let local = Arc::new(Local::running(programs, &spec(BEFORE), 3).await?);
    let old = local.scratch("old-tls");
    std::fs::create_dir(&old)?;
    for file in ["ca.crt", "client.crt", "client.key"] {
        std::fs::copy(local.root().join("tls").join(file), old.join(file))?;
    }
    let names = local.member_names();
    let pids: BTreeMap<String, Option<i32>> = names.iter().map(|name| (name.clone(), local.pid(name))).collect();
    let leaves: Vec<Vec<u8>> = leaf_files(&local, &names)?;

    // One load with connections that stay, and one that connects anew for every call as etcdctl does.
    let load = Load::start(
        local.target(),
        "load/",
        Duration::from_millis(20),
        Duration::from_secs(5),
    )?;
    let anew = Anew::begin(Arc::clone(&local));
    tokio::time::sleep(Duration::from_secs(2)).await;
    local.write_spec(&spec(AFTER))?;
    let began = Instant::now();
    let mut stages = Vec::new();
    for stage in ["1 of 3", "2 of 3", "3 of 3"] {
        for side in ["clients", "peers"] {
            let end = Instant::now() + LIMIT;
            while !local
                .told()
                .lines()
                .any(|line| line.contains(&format!("authority of {side}")) && line.contains(stage))
            {
                ensure!(
                    Instant::now() < end,
                    "authority of {side} does not reach stage {stage}:\n{}",
                    local.last_words()
                );
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        stages.push(format!("{stage} after {:.0} s", began.elapsed().as_secs_f64()));
    }
    // Members read their files again within seconds of the last stage.
    tokio::time::sleep(Duration::from_secs(10)).await;
    report.check("both authorities go through all stages", Ok(stages.join(", ")));

    let summary = load.stop().await;
    let judged = summary.judged(&local.access()?).await?;
    report.that(
        "no call fails on connections that stay",
        summary.failed.is_empty() && summary.retried == 0,
        format!(
            "{} retried, {} failed; {judged}; {}",
            summary.retried,
            summary.failed.len(),
            summary.failed.first().cloned().unwrap_or_default()
        ),
    );
    let (calls, failed) = anew.end().await?;
    report.that(
        "no call fails that connects anew (etcdctl)",
        failed.is_empty() && calls > 20,
        format!(
            "{calls} calls, {} failed; {}",
            failed.len(),
            failed.first().cloned().unwrap_or_default()
        ),
    );
    let now: BTreeMap<String, Option<i32>> = names.iter().map(|name| (name.clone(), local.pid(name))).collect();
    report.that("no member was restarted", now == pids, format!("{now:?}"));
    let renewed = leaf_files(&local, &names)?
        .iter()
        .zip(&leaves)
        .filter(|(new, old)| new != old)
        .count();
    report.that(
        "every certificate of every member is new",
        renewed == leaves.len(),
        format!("{renewed} of {}", leaves.len()),
    );

    // Who still shows or trusts the old ones is turned away.
    let current = local.root().join("tls");
    let with = |ca: &Path, identity: &Path| health(&local, ca, identity);
    report.check(
        "the new client certificate and authority are accepted",
        with(&current, &current)?.await,
    );
    let refused = |result: anyhow::Result<String>| match result {
        Ok(said) => Err(anyhow::anyhow!("accepted: {said}")),
        Err(error) => Ok(handshake(&format!("{error:#}"))),
    };
    report.check(
        "a client certificate of the old authority is refused",
        refused(with(&current, &old)?.await),
    );
    report.check(
        "a client that trusts the old authority alone refuses",
        refused(with(&old, &current)?.await),
    );

    // Members find one another with what they have now.
    let victim = names.first().context("no members")?;
    let before = local.pid(victim);
    local.signal(victim, Signal::SIGKILL);
    // It is back before anybody could count on seeing the status without it.
    let another = |_: &Status| local.pid(victim).is_some_and(|pid| Some(pid) != before);
    let back = local.wait("started again", Duration::from_secs(30), another).await?
        + local.wait_settled(3, Duration::from_secs(60)).await?;
    report.check(
        "a member killed afterwards rejoins with the new certificates",
        Ok(format!("{:.1} s", back.as_secs_f64())),
    );
    Ok(())
}

/// What etcdctl says of a handshake that failed, out of all that it prints.
fn handshake(text: &str) -> String {
    let start = ["remote error: tls", "x509:", "tls:"]
        .iter()
        .find_map(|words| text.find(words));
    let told = start.and_then(|start| text.get(start..)).unwrap_or(text);
    told.chars()
        .take_while(|c| !matches!(c, '"' | '\\' | '\n'))
        .take(120)
        .collect()
}

fn leaf_files(local: &Local, names: &[String]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for name in names {
        for file in ["server.crt", "peer.crt"] {
            let path = local.member(name).join("tls").join(file);
            all.push(std::fs::read(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(all)
}

/// `etcdctl endpoint health` with certificates of the caller's choice.
fn health(
    local: &Local,
    ca: &Path,
    identity: &Path,
) -> anyhow::Result<impl Future<Output = anyhow::Result<String>> + use<>> {
    let endpoints = local.access()?.endpoints.join(",");
    let mut command = Command::new(local.upstream("etcdctl")?);
    command
        .arg(format!("--endpoints={endpoints}"))
        .arg(format!("--cacert={}", ca.join("ca.crt").display()))
        .arg(format!("--cert={}", identity.join("client.crt").display()))
        .arg(format!("--key={}", identity.join("client.key").display()))
        .args(["endpoint", "health", "--command-timeout=3s"]);
    Ok(async move {
        let said = crate::process::run(command, Duration::from_secs(30)).await?;
        let text = format!("{}{}", said.out, said.err);
        ensure!(said.code == Some(0), "{}", text.trim());
        Ok(format!("{} endpoints healthy", text.matches("is healthy").count()))
    })
}

/// Calls of etcdctl, one after the other, each of which reads all files and connects anew.
struct Anew {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Anew {
    fn begin(local: Arc<Local>) -> Anew {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (Arc::clone(&stop), Arc::clone(&calls));
        let task = tokio::spawn(async move {
            let mut failed = Vec::new();
            while !until.load(Ordering::Relaxed) {
                let n = count.fetch_add(1, Ordering::Relaxed).to_string();
                match local.etcdctl(&["put", "anew", &n]).await {
                    Ok(said) if said.code == Some(0) => {}
                    Ok(said) => failed.push(said.err),
                    Err(error) => failed.push(format!("{error:#}")),
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            failed
        });
        Anew { stop, calls, task }
    }

    async fn end(self) -> anyhow::Result<(usize, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.task.await?;
        Ok((self.calls.load(Ordering::Relaxed), failed))
    }
}
