//! The operator itself: what it costs, and what becomes of one that hangs.

use super::cluster::Cluster;
use super::install::NAMESPACE;
use super::lab::Lab;
use crate::process::{cpu_seconds, rss_mib};
use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Many clusters of a kind.
pub struct Many {
    name: &'static str,
    count: usize,
    replicas: usize,
}

/// Those that hibernate.
pub const HIBERNATED: Many = Many {
    name: "rest",
    count: 200,
    replicas: 0,
};
/// Those that live.
pub const LIVING: Many = Many {
    name: "live",
    count: 30,
    replicas: 1,
};

/// The process of the operator that the chart installed, on whatever node of this machine.
fn process() -> anyhow::Result<i32> {
    crate::process::all_pids()
        .find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
                words.first() == Some(&b"/usr/local/bin/quorate".as_slice()) && words.contains(&b"operator".as_slice())
            })
        })
        .context("the operator does not run")
}

/// Requests to the API server by verb, resource and code, as the operator's metrics count them.
async fn requests(lab: &Lab) -> anyhow::Result<BTreeMap<String, u64>> {
    let metrics = metrics(lab).await?;
    let mut found = BTreeMap::new();
    for line in metrics.lines() {
        if let Some(rest) = line.strip_prefix("quorate_api_requests_total{") {
            let (labels, value) = rest.rsplit_once("} ").context("a metric without a value")?;
            found.insert(labels.to_owned(), value.trim().parse::<f64>()? as u64);
        }
    }
    Ok(found)
}

/// What the operator's one pod serves at /metrics.
pub async fn metrics(lab: &Lab) -> anyhow::Result<String> {
    let pods = lab
        .list(&["-n", NAMESPACE, "pods", "-l", "app.kubernetes.io/name=quorate"])
        .await?;
    let alive = pods.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let name = alive.and_then(|pod| pod["metadata"]["name"].as_str());
    let name = name.context("the operator has no pod")?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:8080/proxy/metrics");
    lab.kubectl(&["get", "--raw", &path]).await
}

/// What it costs to look after clusters that need nothing.
struct Cost {
    reads: u64,
    writes: BTreeMap<String, u64>,
    cpu: f64,
    rss: f64,
}

async fn cost(lab: &Lab, span: Duration) -> anyhow::Result<Cost> {
    let pid = process()?;
    let (before, cpu) = (requests(lab).await?, cpu_seconds(pid).context("no CPU time")?);
    tokio::time::sleep(span).await;
    let (after, now) = (requests(lab).await?, cpu_seconds(pid).context("no CPU time")?);
    let mut cost = Cost {
        reads: 0,
        writes: BTreeMap::new(),
        cpu: (now - cpu) / span.as_secs_f64() * 100.0,
        rss: rss_mib(pid).context("no RSS")?,
    };
    for (labels, count) in after {
        let more = count - before.get(&labels).copied().unwrap_or(0);
        let read = labels.contains("verb=\"GET\"") || labels.contains("verb=\"WATCH\"");
        if read || labels.contains("resource=\"leases\"") {
            cost.reads += if read { more } else { 0 };
        } else if more > 0 {
            cost.writes.insert(labels, more);
        }
    }
    Ok(cost)
}

/// A cluster in order costs no write but that of the lease; and the memory of an operator with one cluster.
pub async fn settled(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-idle";
    let cluster = Cluster::quick_start(lab, namespace).await?;
    // What a settling cluster still has to write (that it is healthy for long enough) is written by then.
    tokio::time::sleep(Duration::from_secs(35)).await;
    let cost = cost(lab, Duration::from_secs(60)).await?;
    let members = cluster.settled(3, Duration::from_secs(5)).await?.len();
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    let line = format!(
        "{members} members: {} reads a minute, CPU {:.2} % of a core, RSS {:.1} MiB",
        cost.reads, cost.cpu, cost.rss
    );
    if !cost.writes.is_empty() {
        bail!("a settled cluster costs writes: {:?}; {line}", cost.writes);
    }
    Ok(format!("no write but the lease's; {line}"))
}

/// Many clusters, applied fifty at a time: all are settled, by one and the same operator, which never lost its lease.
pub async fn many(lab: &Lab, kind: Many) -> anyhow::Result<String> {
    let Many { name, count, replicas } = kind;
    let namespace = format!("e2e-{name}");
    lab.restricted_namespace(&namespace).await?;
    let manifest = |number: usize| {
        format!(
            "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata: {{name: {name}{number:03}}}\nspec:\n  \
             replicas: {replicas}\n  storage: {{size: 1Gi}}\n  options: {{quotaBackendBytes: 512Mi}}\n  \
             resources: {{requests: {{cpu: 5m, memory: 16Mi}}}}\n  deletionPolicy: Delete\n"
        )
    };
    let leader = lease_holder(lab).await?;
    let began = Instant::now();
    for first in (0..count).step_by(50) {
        let texts: Vec<String> = (first..count.min(first + 50)).map(manifest).collect();
        lab.apply(&namespace, &texts.join("---\n")).await?;
    }
    lab.until(Duration::from_secs(300), "all are settled", || async {
        let objects = lab.list(&["-n", &namespace, "etcd"]).await?;
        let settled = objects
            .iter()
            .filter(|object| object["status"]["plan"]["nextAction"] == "Settled");
        match settled.count() {
            all if all == count => Ok(()),
            some => bail!("{some} of {count}"),
        }
    })
    .await?;
    let took = began.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(35)).await;
    let cost = cost(lab, Duration::from_secs(60)).await?;
    let now = lease_holder(lab).await?;
    if now != leader {
        bail!("{} lost the lease to {}", leader.0, now.0);
    }
    lab.kubectl(&["delete", "namespace", &namespace, "--wait=false"])
        .await?;
    let writes: u64 = cost.writes.values().sum();
    Ok(format!(
        "{count} with {replicas} members settled in {took:.0} s under one lease; then {} reads and {writes} writes a minute, CPU \
         {:.1} % of a core, RSS {:.1} MiB",
        cost.reads, cost.cpu, cost.rss
    ))
}

/// Who holds the operators' lease, and how often it changed hands.
async fn lease_holder(lab: &Lab) -> anyhow::Result<(String, i64)> {
    let lease = lab.get(&["-n", NAMESPACE, "lease", "quorate"]).await?;
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    if holder.is_empty() {
        bail!("nobody holds the lease");
    }
    Ok((
        holder.to_owned(),
        lease["spec"]["leaseTransitions"].as_i64().unwrap_or(0),
    ))
}

/// An operator whose process stands still is started again by its probe, and goes on.
pub async fn frozen(cluster: &Cluster) -> anyhow::Result<String> {
    cluster.settled(3, Duration::from_secs(60)).await?;
    let pid = process()?;
    let began = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGSTOP)?;
    let again = cluster
        .lab
        .until(Duration::from_secs(150), "the operator is started again", || async {
            match process()? {
                new if new != pid => Ok(began.elapsed()),
                _ => bail!("it still stands still"),
            }
        })
        .await;
    // Whatever came of it, it does not stay as it is.
    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    let again = again?;
    let victim = cluster.pods().await?.first().context("no pods")?.clone();
    let delete = ["-n", &cluster.namespace, "delete", "pod", &victim.name, "--wait=false"];
    cluster.lab.kubectl(&delete).await?;
    cluster
        .lab
        .until(Duration::from_secs(90), "the new one works", || async {
            let pods = cluster.pods().await?;
            match pods
                .iter()
                .any(|pod| pod.name == victim.name && pod.uid != victim.uid && pod.ready)
            {
                true => Ok(()),
                false => bail!("{pods:?}"),
            }
        })
        .await?;
    cluster.settled(3, Duration::from_secs(60)).await?;
    Ok(format!(
        "started again after {:.0} s, and a deleted pod is back {:.0} s after the freeze",
        again.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ))
}
