//! What goes wrong, and the time until it is right again. Every case says after how long the writer was served again.

use super::cluster::Cluster;
use crate::load::Load;
use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

const BACK: Duration = Duration::from_secs(60);

/// What was done, and how long it took.
#[derive(Debug)]
pub struct Told {
    /// What it was.
    pub what: String,
    /// From the blow until everything is in order.
    pub healthy: Duration,
    /// The longest time without an acknowledged write meanwhile.
    pub gap: Duration,
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (healthy, gap) = (self.healthy.as_secs_f64(), self.gap.as_secs_f64());
        write!(f, "{} in {healthy:.1} s; at most {gap:.2} s without a write", self.what)
    }
}

fn told(what: &str, began: Instant, load: &Load) -> Told {
    Told {
        what: what.to_owned(),
        healthy: began.elapsed(),
        gap: load.gap(),
    }
}

/// A pod is deleted; the member comes back with its volume.
pub async fn pod_deleted(cluster: &Cluster, load: &Load, time: usize) -> anyhow::Result<Told> {
    let before = cluster.settled(3, BACK).await?;
    let victim = before.get(time % 3).context("no pods")?;
    load.mark();
    let began = Instant::now();
    let delete = ["-n", &cluster.namespace, "delete", "pod", &victim.name, "--wait=false"];
    cluster.lab.kubectl(&delete).await?;
    load.back(BACK).await?;
    let gone = |pods: &[super::cluster::Pod]| !pods.iter().any(|pod| pod.uid == victim.uid);
    cluster
        .lab
        .until(BACK, "the pod is replaced", || async {
            if gone(&cluster.pods().await?) {
                Ok(())
            } else {
                bail!("{} is still there", victim.name)
            }
        })
        .await?;
    let after = cluster.settled(3, Duration::from_secs(90)).await?;
    if !after.iter().any(|pod| pod.name == victim.name) {
        bail!("{} was replaced though its volume was good: {after:?}", victim.name);
    }
    Ok(told("the member is back", began, load))
}

/// A member's process is killed; the kubelet starts it again.
pub async fn container_killed(cluster: &Cluster, load: &Load, time: usize) -> anyhow::Result<Told> {
    let before = cluster.settled(3, BACK).await?;
    // In turn: a kubelet waits ever longer before it starts the same one again.
    let victim = before.get(time % 3).context("no pods")?;
    let flag = format!("--name={}", victim.name);
    let pid = crate::process::all_pids()
        .find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == flag.as_bytes()))
        })
        .with_context(|| format!("no process of this machine runs with {flag}"))?;
    load.mark();
    let began = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    load.back(BACK).await?;
    cluster
        .lab
        .until(BACK, "the container is started again", || async {
            let pods = cluster.pods().await?;
            match pods.iter().find(|pod| pod.uid == victim.uid) {
                Some(pod) if pod.restarts > victim.restarts && pod.ready => Ok(()),
                other => bail!("{other:?}"),
            }
        })
        .await?;
    cluster.settled(3, Duration::from_secs(60)).await?;
    Ok(told("the container runs again", began, load))
}

/// A pod and its volume are deleted; the member is replaced under another name.
pub async fn volume_deleted(cluster: &Cluster, load: &Load, time: usize) -> anyhow::Result<Told> {
    let before = cluster.settled(3, BACK).await?;
    let victim = before.get(time % 3).context("no pods")?;
    load.mark();
    let began = Instant::now();
    let namespace = &cluster.namespace;
    cluster
        .lab
        .kubectl(&["-n", namespace, "delete", "pvc", &victim.name, "--wait=false"])
        .await?;
    cluster
        .lab
        .kubectl(&["-n", namespace, "delete", "pod", &victim.name, "--wait=false"])
        .await?;
    load.back(BACK).await?;
    let what = format!("{} is replaced", victim.name);
    cluster
        .lab
        .until(Duration::from_secs(150), &what, || async {
            let pods = cluster.pods().await?;
            if pods.iter().any(|pod| pod.name == victim.name) {
                bail!("{pods:?}")
            }
            Ok(())
        })
        .await?;
    cluster.settled(3, Duration::from_secs(120)).await?;
    Ok(told("replaced under another name", began, load))
}

/// All pods are deleted at once; no data was lost, so all come back.
pub async fn all_pods_deleted(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    let before = cluster.settled(3, BACK).await?;
    load.mark();
    let began = Instant::now();
    let selector = format!("quorate.dev/cluster={}", cluster.name);
    let delete = [
        "-n",
        &cluster.namespace,
        "delete",
        "pods",
        "-l",
        &selector,
        "--wait=false",
    ];
    cluster.lab.kubectl(&delete).await?;
    load.back(Duration::from_secs(120)).await?;
    let after = cluster.settled(3, Duration::from_secs(120)).await?;
    let names = |pods: &[super::cluster::Pod]| pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>();
    if names(&before) != names(&after) {
        bail!("members were replaced: {:?}, then {:?}", names(&before), names(&after));
    }
    Ok(told("the same three members", began, load).to_string())
}

/// The operator is killed again and again while members are added and removed.
pub async fn operator_killed(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    cluster.settled(3, BACK).await?;
    load.mark();
    let began = Instant::now();
    let mut killed = 0;
    for (replicas, seconds) in [(5, [2, 5, 7]), (3, [1, 4, 6])] {
        cluster
            .patch(&format!("{{\"spec\":{{\"replicas\":{replicas}}}}}"))
            .await?;
        for pause in seconds {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            let delete = [
                "-n",
                "quorate-system",
                "delete",
                "pods",
                "-l",
                "app.kubernetes.io/name=quorate",
                "--grace-period=0",
                "--force",
                "--wait=false",
            ];
            cluster.lab.kubectl(&delete).await?;
            killed += 1;
        }
        cluster.settled(replicas, Duration::from_secs(240)).await?;
    }
    load.back(BACK).await?;
    let members = cluster.access_of_members().await?;
    let hash = members.equal_hash().await?;
    Ok(format!(
        "{}; killed {killed} times; hash {hash}",
        told("3 to 5 to 3", began, load)
    ))
}

/// The node of a member is cut off with its volume on it: the member is replaced on what is left, and what comes back
/// with the node is no member any more.
pub async fn node_cut(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    let before = super::loss::spread_out(cluster).await?;
    let (victim, number) = super::loss::spare(&before)?;
    cluster.patch(r#"{"spec":{"repair":{"after":"30s"}}}"#).await?;
    let limit = Duration::from_secs(30);
    cluster.lab.script(&["cut", &number], limit).await?;
    load.mark();
    let began = Instant::now();
    let replaced = replaced(cluster, load, &victim.name).await;
    cluster.lab.script(&["join", &number], limit).await?;
    let after = replaced?;
    cluster
        .lab
        .until(
            Duration::from_secs(180),
            "the old pod goes once its node is back",
            || async {
                let pods = cluster.pods().await?;
                if pods.iter().any(|pod| pod.uid == victim.uid) {
                    bail!("{} is still there", victim.name)
                }
                Ok(())
            },
        )
        .await?;
    cluster.settled(3, Duration::from_secs(120)).await?;
    let said = format!("replaced after {:.0} s (repair.after 30 s)", after.as_secs_f64());
    Ok(told(&format!("{said}, settled with the node back"), began, load).to_string())
}

pub async fn replaced(cluster: &Cluster, load: &Load, victim: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    load.back(BACK).await?;
    cluster
        .lab
        .until(Duration::from_secs(240), "the member is replaced", || async {
            let object = cluster.object().await?;
            let members = object["status"]["members"].as_array().cloned().unwrap_or_default();
            let voters = members
                .iter()
                .filter(|member| member["role"] == "Voter" && member["health"] == "Healthy")
                .count();
            let old = members
                .iter()
                .any(|member| member["name"] == victim && member["role"] != "None");
            if voters == 3 && !old {
                Ok(())
            } else {
                bail!("next: {}; {members:?}", object["status"]["plan"])
            }
        })
        .await?;
    Ok(began.elapsed())
}
