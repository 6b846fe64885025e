//! What its owner changes, under load.

use super::cluster::Cluster;
use crate::load::Load;
use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(60);

/// A flag is changed: every pod is made again, and there were never two away at once.
pub async fn flag(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    let before = cluster.settled(3, CALM).await?;
    let old: BTreeSet<&str> = before.iter().map(|pod| pod.uid.as_str()).collect();
    load.mark();
    let began = Instant::now();
    cluster
        .patch(r#"{"spec":{"options":{"snapshotCount":5000},"updateStrategy":{"minReadySeconds":2}}}"#)
        .await?;
    let end = Instant::now() + Duration::from_secs(240);
    let mut fewest = 3;
    loop {
        let pods = cluster.pods().await?;
        fewest = fewest.min(pods.iter().filter(|pod| pod.ready).count());
        let new = |pod: &super::cluster::Pod| {
            pod.ready && !old.contains(pod.uid.as_str()) && pod.arguments.iter().any(|a| a == "--snapshot-count=5000")
        };
        if pods.len() == 3 && pods.iter().all(new) {
            break;
        }
        if Instant::now() > end {
            bail!(
                "not rolled after 240 s: {pods:?}; {}",
                cluster.object().await?["status"]["plan"]
            );
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    cluster.settled(3, CALM).await?;
    if fewest < 2 {
        bail!("at one time only {fewest} members were ready");
    }
    let writes = load.back(CALM).await?;
    Ok(format!(
        "three members in {:.1} s, never fewer than {fewest} ready; a write at the start took {:.2} s",
        began.elapsed().as_secs_f64(),
        writes.as_secs_f64()
    ))
}

/// Three become five and three again, by kubectl scale.
pub async fn scale(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    cluster.settled(3, CALM).await?;
    let mut times = Vec::new();
    for members in [5, 3] {
        load.mark();
        let began = Instant::now();
        let replicas = format!("--replicas={members}");
        let name = format!("etcd/{}", cluster.name);
        cluster
            .lab
            .kubectl(&["-n", &cluster.namespace, "scale", &name, &replicas])
            .await?;
        cluster.settled(members, Duration::from_secs(240)).await?;
        times.push(format!("{:.1} s", began.elapsed().as_secs_f64()));
        load.back(CALM).await?;
    }
    let hash = cluster.access_of_members().await?.equal_hash().await?;
    Ok(format!("to 5 in {}, to 3 in {}; hash {hash}", times[0], times[1]))
}

/// Leaf certificates with a life of their own are issued; nothing restarts, and the connection that was there goes on.
pub async fn certificates(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    let before = cluster.settled(3, CALM).await?;
    let ends = |object: &serde_json::Value| -> Vec<String> {
        let members = object["status"]["members"].as_array().cloned().unwrap_or_default();
        members
            .iter()
            .filter_map(|member| member["certNotAfter"].as_str().map(str::to_owned))
            .collect()
    };
    let old = ends(&cluster.object().await?);
    if old.len() != 3 {
        bail!("status tells {} certificate ends of 3 members", old.len());
    }
    let mut client = cluster.access().await?.client().await?;
    let began = Instant::now();
    load.mark();
    // What is there lives for a year: with a longer life wanted of what is left, it is due.
    cluster
        .patch(r#"{"spec":{"tls":{"client":{"rotation":{"validity":"9000h","renewBefore":"8800h"}}}}}"#)
        .await?;
    cluster
        .lab
        .until(
            Duration::from_secs(180),
            "every member presents a new certificate",
            || async {
                let now = ends(&cluster.object().await?);
                if now.len() == 3 && now.iter().all(|end| !old.contains(end)) {
                    Ok(())
                } else {
                    bail!("{old:?}, now {now:?}")
                }
            },
        )
        .await?;
    let took = began.elapsed();
    client
        .put("certificates", "the same connection", None)
        .await
        .context("the connection from before")?;
    let mut fresh = cluster.access().await?.client().await?;
    fresh.get("certificates", None).await.context("a new connection")?;
    let after = cluster.settled(3, CALM).await?;
    if before
        .iter()
        .map(|pod| (&pod.uid, pod.restarts))
        .ne(after.iter().map(|pod| (&pod.uid, pod.restarts)))
    {
        bail!("pods were restarted: {before:?}, then {after:?}");
    }
    load.back(CALM).await?;
    Ok(format!("renewed in {:.0} s, no restart", took.as_secs_f64()))
}

/// Zero replicas: no process, all volumes; and back with the same content.
pub async fn hibernate(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    cluster.settled(3, CALM).await?;
    cluster.patch(r#"{"spec":{"replicas":0}}"#).await?;
    let began = Instant::now();
    cluster
        .lab
        .until(Duration::from_secs(120), "no member runs", || async {
            let pods = cluster.pods().await?;
            if pods.is_empty() { Ok(()) } else { bail!("{pods:?}") }
        })
        .await?;
    let asleep = began.elapsed();
    let selector = format!("quorate.dev/cluster={}", cluster.name);
    let volumes = cluster
        .lab
        .list(&["-n", &cluster.namespace, "pvc", "-l", &selector])
        .await?
        .len();
    if volumes < 3 {
        bail!("{volumes} volumes are left");
    }
    load.mark();
    let woken = Instant::now();
    cluster.patch(r#"{"spec":{"replicas":3}}"#).await?;
    let writes = load.back(Duration::from_secs(120)).await?;
    cluster.settled(3, Duration::from_secs(120)).await?;
    Ok(format!(
        "asleep in {:.1} s, {volumes} volumes kept; writes {:.1} s after waking, settled in {:.1} s",
        asleep.as_secs_f64(),
        writes.as_secs_f64(),
        woken.elapsed().as_secs_f64()
    ))
}
