//! Clusters of real etcd and ours together: the peer protocol in both directions, also across the death of a leader.

use crate::history::Verdict;
use crate::load::{Load, Target};
use crate::process::Programs;
use crate::report::Report;
use crate::servers::Servers;
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs the suite.
pub async fn suite(programs: &Programs) -> anyhow::Result<bool> {
    let (etcd, ours) = (programs.upstream("etcd")?, programs.server.clone());
    let temp = tempfile::Builder::new().prefix("quorate-e2e-").tempdir()?;
    let mut report = Report::new("mixed");
    let mixes = [
        ("two of etcd, one of ours", [etcd.clone(), ours.clone(), etcd.clone()]),
        ("two of ours, one of etcd", [ours.clone(), etcd.clone(), ours.clone()]),
    ];
    for (n, (title, mix)) in mixes.iter().enumerate() {
        mixed(title, mix, &temp.path().join(n.to_string()), &mut report).await;
    }
    Ok(report.end())
}

async fn mixed(title: &str, mix: &[PathBuf], directory: &Path, report: &mut Report) {
    let result = async {
        // Few entries between snapshots, so that a member that was away gets a snapshot from its leader.
        let flags = ["--snapshot-count=200", "--snapshot-catchup-entries=50"];
        let mut servers = Servers::new(directory, mix, &flags)?;
        servers.start_all().await?;
        let access = servers.access();
        let load = Load::start(
            Target::Fixed(access.clone()),
            "load/",
            Duration::from_millis(5),
            Duration::from_secs(3),
        )?;
        let mut leaders = Vec::new();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let leader = access.settled(3, Duration::from_secs(20)).await?;
            let n = servers
                .members
                .iter()
                .position(|member| member.endpoint == leader.endpoint)
                .context("no leader")?;
            leaders.push(n);
            load.mark();
            servers.end(n, Signal::SIGKILL).await?;
            load.back(Duration::from_secs(20)).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            servers.start(n)?;
        }
        access
            .settled(3, Duration::from_secs(30))
            .await
            .with_context(|| servers.last_words())?;
        let summary = load.stop().await;
        let verdict: Verdict = summary.verdict(&access).await?;
        if !verdict.good() || verdict.acked == 0 {
            bail!("{}", verdict.describe());
        }
        let hash = access.equal_hash().await?;
        servers.stop().await?;
        Ok(format!(
            "leaders killed {leaders:?}; {}; hash {hash}",
            verdict.describe()
        ))
    }
    .await;
    report.check(title, result);
}
