//! Nodes that are lost for good, with the volumes on them.

use super::cluster::{Cluster, Pod};
use super::lab::Lab;
use super::repair::replaced;
use crate::load::{Load, Target};
use anyhow::{Context, bail};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// How Kubernetes is told that a node does not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Its Node is deleted.
    Deleted,
    /// A human's taint says so.
    OutOfService,
}

const TAINT: &str = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";

/// A member alone on its node, which is not the first: what the suite itself needs is there.
pub fn spare(pods: &[Pod]) -> anyhow::Result<(&Pod, String)> {
    let alone = |pod: &&Pod| pod.node != "n1" && pods.iter().filter(|other| other.node == pod.node).count() == 1;
    let pod = pods.iter().rev().find(alone);
    let pod = pod.with_context(|| format!("no member is alone on a node that can be spared: {pods:?}"))?;
    Ok((pod, pod.node.trim_start_matches('n').to_owned()))
}

/// One member a node, as their owner would bring it about: `quorate.dev/replace-member` names one of two on a node. A member
/// that was made while a node was away is where there was room then.
pub async fn spread_out(cluster: &Cluster) -> anyhow::Result<Vec<Pod>> {
    loop {
        let pods = cluster.settled(3, Duration::from_secs(120)).await?;
        let double = pods.iter().find(|pod| {
            pods.iter()
                .any(|other| other.name != pod.name && other.node == pod.node)
        });
        let Some(double) = double else { return Ok(pods) };
        let name = format!("etcd/{}", cluster.name);
        let annotation = format!("quorate.dev/replace-member={}", double.name);
        let annotate = ["-n", &cluster.namespace, "annotate", "--overwrite", &name, &annotation];
        cluster.lab.kubectl(&annotate).await?;
        let what = format!("{} is replaced as its owner wishes", double.name);
        cluster
            .lab
            .until(Duration::from_secs(120), &what, || async {
                match cluster.pods().await?.iter().any(|pod| pod.name == double.name) {
                    true => bail!("{}", cluster.object().await?["status"]["plan"]),
                    false => Ok(()),
                }
            })
            .await?;
    }
}

async fn power(lab: &Lab, word: &str, number: &str) -> anyhow::Result<()> {
    lab.script(&[word, number], LIMIT).await.map(drop)
}

/// The node is there again and takes pods.
pub async fn back(lab: &Lab, number: &str) -> anyhow::Result<()> {
    power(lab, "start", number).await?;
    let node = format!("node/n{number}");
    let wait = ["wait", "--for=condition=Ready", &node, "--timeout=90s"];
    lab.tool("kubectl", &wait, Duration::from_secs(100)).await?.ok()?;
    Ok(())
}

/// A node loses power for good, and Kubernetes is told: its member is replaced at once, for its volume is gone with it.
pub async fn node_lost(cluster: &Cluster, load: &Load, how: Lost) -> anyhow::Result<String> {
    let before = spread_out(cluster).await?;
    let (victim, number) = spare(&before)?;
    let lab = &cluster.lab;
    power(lab, "kill", &number).await?;
    load.mark();
    let node = format!("n{number}");
    let began = Instant::now();
    match how {
        Lost::Deleted => lab.kubectl(&["delete", "node", &node, "--wait=false"]).await?,
        Lost::OutOfService => lab.kubectl(&["taint", "node", &node, TAINT]).await?,
    };
    let result = replaced(cluster, load, &victim.name).await;
    let healthy = began.elapsed().as_secs_f64();
    if how == Lost::OutOfService {
        lab.kubectl(&["taint", "node", &node, &format!("{TAINT}-")]).await?;
    }
    back(lab, &number).await?;
    result?;
    let gap = load.gap();
    cluster.settled(3, Duration::from_secs(120)).await?;
    Ok(format!(
        "{node}: three healthy voters after {healthy:.1} s; at most {:.2} s without a write",
        gap.as_secs_f64()
    ))
}

/// Two of three nodes are lost for good with their volumes: the plan is published, is carried out because the loss is
/// proven, and every write that the survivor held is there.
pub async fn quorum_lost(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-lost";
    let cluster = Cluster::quick_start(lab, namespace).await?;
    let pods = spread_out(&cluster).await?;
    let target = Target::Fixed(cluster.access().await?);
    let load = Load::start(target, "lost/", Duration::from_millis(10), Duration::from_secs(3))?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let summary = load.stop().await;
    // All members are made to hold all of it, so that what the survivor held is what was acknowledged.
    cluster.access_of_members().await?.equal_hash().await?;
    let revision = cluster.access().await?.revision().await?;

    let (one, other) = tokio::join!(power(lab, "kill", "2"), power(lab, "kill", "3"));
    one.and(other)?;
    let began = Instant::now();
    lab.kubectl(&["delete", "node", "n2", "n3", "--wait=false"]).await?;
    let result = recovered(&cluster, began).await;
    let (first, second) = (back(lab, "2").await, back(lab, "3").await);
    let (planned, bound, serves) = result?;
    first.and(second)?;
    let settled = cluster.settled(3, Duration::from_secs(180)).await?;
    let healthy = began.elapsed().as_secs_f64();
    if settled
        .iter()
        .any(|pod| pods.iter().any(|old| old.name == pod.name && pod.node != "n1"))
    {
        bail!("a lost member is back: {settled:?}");
    }
    let access = cluster.access().await?;
    let kept = summary.newest_kept(&access).await?;
    let now = access.revision().await?;
    if now <= revision {
        bail!("the revision went back from {revision} to {now}");
    }
    let hash = cluster.access_of_members().await?.equal_hash().await?;
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    Ok(format!(
        "plan after {planned:.1} s ({bound}); serves after {serves:.1} s, three members after {healthy:.1} s; {kept} keys \
         of {} writes kept, revision {revision}, then {now}; hash {hash}",
        summary.attempts.len()
    ))
}

/// Seconds until the plan was published, what it says may be lost, and seconds until the cluster served again.
async fn recovered(cluster: &Cluster, began: Instant) -> anyhow::Result<(f64, String, f64)> {
    let lab = &cluster.lab;
    let bound = lab
        .until(LIMIT, "the plan of the recovery is published", || async {
            let object = cluster.object().await?;
            let recovery = &object["status"]["recovery"];
            match recovery["lossBound"].as_str() {
                Some(bound) => Ok(bound.to_owned()),
                None => bail!("{}", object["status"]["plan"]),
            }
        })
        .await?;
    let planned = began.elapsed().as_secs_f64();
    lab.until(Duration::from_secs(240), "the cluster serves again", || async {
        let object = cluster.object().await?;
        if Cluster::condition(&object, "Available").as_deref() != Some("True") {
            bail!("{}", object["status"]["plan"]);
        }
        cluster.access().await?.revision().await
    })
    .await?;
    Ok((planned, bound, began.elapsed().as_secs_f64()))
}
