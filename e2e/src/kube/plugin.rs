//! `kubectl quorate` as kubectl's plugin, from where only the API server is needed: members are reached by port-forwards.

use super::cluster::Cluster;
use super::lab::Lab;
use crate::load::Load;
use crate::process::{Said, run};
use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::process::Command;

/// What takes longest is a defragmentation of three members with a pause between each.
const PATIENCE: Duration = Duration::from_secs(150);

/// The plugin where kubectl finds it.
struct Plugin<'a> {
    cluster: &'a Cluster,
    path: String,
    _directory: tempfile::TempDir,
}

impl Plugin<'_> {
    fn new(cluster: &Cluster) -> anyhow::Result<Plugin<'_>> {
        let beside = std::env::current_exe()?.with_file_name("quorate");
        if !beside.is_file() {
            bail!("{} is missing: make release builds it", beside.display());
        }
        let directory = tempfile::tempdir()?;
        std::os::unix::fs::symlink(&beside, directory.path().join("kubectl-quorate"))?;
        let mut path: Vec<PathBuf> = vec![directory.path().to_owned()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        Ok(Plugin {
            cluster,
            path: std::env::join_paths(path)?.to_string_lossy().into_owned(),
            _directory: directory,
        })
    }

    /// `kubectl quorate ARGUMENTS`.
    async fn says(&self, arguments: &[&str]) -> anyhow::Result<Said> {
        let mut command = Command::new(self.cluster.lab.program("kubectl")?);
        command
            .arg("quorate")
            .args(["-n", &self.cluster.namespace])
            .args(arguments)
            .env("PATH", &self.path)
            .env("KUBECONFIG", self.cluster.lab.kubeconfig());
        run(command, PATIENCE).await
    }

    /// The same for machines, where it must succeed.
    async fn tells(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        let said = self.says(&all).await?;
        let out = said
            .ok()
            .with_context(|| format!("kubectl quorate {}", arguments.join(" ")))?;
        serde_json::from_str(&out).with_context(|| format!("kubectl quorate {} printed {out}", arguments.join(" ")))
    }
}

/// Port-forwards that the API server has carried out.
async fn forwarded(lab: &Lab) -> anyhow::Result<u64> {
    let metrics = lab.kubectl(&["get", "--raw", "/metrics"]).await?;
    let mut count = 0.0;
    for line in metrics.lines() {
        if line.starts_with("apiserver_request_total{") && line.contains("subresource=\"portforward\"") {
            let (_, value) = line.rsplit_once(' ').context("a metric without a value")?;
            count += value.parse::<f64>()?;
        }
    }
    Ok(count as u64)
}

/// status, explain, doctor, top, defrag and move-leader, under the writer.
pub async fn plugin(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    let pods = cluster.settled(3, PATIENCE).await?;
    let plugin = Plugin::new(cluster)?;
    let before = forwarded(&cluster.lab).await?;
    let failed_before = load.failures();
    let name = cluster.name.as_str();

    let status = plugin.tells(&["status", name]).await?;
    let members = status[0]["status"]["members"]
        .as_array()
        .context("status has no members")?;
    let told: BTreeSet<&str> = members.iter().filter_map(|member| member["name"].as_str()).collect();
    if told != pods.iter().map(|pod| pod.name.as_str()).collect() {
        bail!("status tells of {told:?}, the pods are {pods:?}");
    }
    let table = plugin.says(&["status"]).await?.ok()?;
    if !told.iter().all(|member| table.contains(member)) || table.contains('\u{1b}') {
        bail!("the table lacks a member, or has colours in a pipe: {table}");
    }
    plugin.says(&["explain", name]).await?.ok()?;

    let doctor = plugin.says(&["-o", "json", "doctor", name]).await?;
    let report: Value = serde_json::from_str(&doctor.out)
        .with_context(|| format!("the doctor printed {}{}", doctor.out, doctor.err))?;
    let findings = report["findings"].as_array().context("the doctor found nothing")?;
    let judged = |verdict: &str| -> Vec<String> {
        let of_it = findings.iter().filter(|finding| finding["verdict"] == verdict);
        of_it
            .map(|finding| {
                let text = |field: &str| finding[field].as_str().unwrap_or_default();
                format!("{}: {}", text("check"), text("seen"))
            })
            .collect()
    };
    // How fast this machine is, is no matter of how the cluster was set up; and it has no policy, or a suspended one.
    let failed: Vec<String> = judged("fail")
        .into_iter()
        .filter(|line| !crate::doctor::is_timing(line) && !line.starts_with("automated daily backups"))
        .collect();
    if !failed.is_empty() {
        bail!("the doctor blames a cluster of ours: {}", failed.join("; "));
    }
    let top = plugin.says(&["top", name]).await?.ok()?;
    if !top.contains("e2e/") {
        bail!("top does not show the writer's prefix e2e/: {top}");
    }
    let forwards = forwarded(&cluster.lab).await? - before;
    if forwards == 0 {
        bail!("no port-forward went through the API server");
    }

    let defrag = plugin.tells(&["defrag", name]).await?;
    let leader = cluster.object().await?["status"]["leader"].clone();
    let moved = plugin.tells(&["move-leader", name]).await?;
    for (what, outcome) in [("defrag", &defrag), ("move-leader", &moved)] {
        if outcome["done"] != true {
            bail!("{what} was not done: {outcome}");
        }
    }
    if moved["leader"] == leader {
        bail!("{leader} leads as before");
    }
    let none = plugin.says(&["status", "nobody"]).await?;
    if none.code == Some(0) || !none.err.contains("nobody") {
        bail!("a cluster that does not exist is not refused by name: {none:?}");
    }
    let failed = load.failures() - failed_before;
    if failed > 0 {
        bail!("{failed} calls failed meanwhile");
    }
    Ok(format!(
        "{forwards} port-forwards through the API server; doctor: {} pass, {} unseen, warned of: {}; defrag and move-leader \
         without a failed call",
        judged("pass").len(),
        judged("unseen").len(),
        judged("warn").join("; "),
    ))
}
