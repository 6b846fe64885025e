//! What its owner changes, under load.

use super::cluster::Cluster;
use super::lab::Lab;
use crate::load::{Load, Target};
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
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
    load.back(CALM).await?;
    Ok(format!(
        "three members in {:.1} s, never fewer than {fewest} ready; at most {:.2} s without a write",
        began.elapsed().as_secs_f64(),
        load.gap().as_secs_f64()
    ))
}

/// Requests are changed: in place where the kubelets can, and never more than one member at a time.
pub async fn resources(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    let before = cluster.settled(3, CALM).await?;
    load.mark();
    let began = Instant::now();
    cluster
        .patch(r#"{"spec":{"resources":{"requests":{"cpu":"150m","memory":"256Mi"}},"updateStrategy":{"minReadySeconds":2}}}"#)
        .await?;
    let asked = async || -> anyhow::Result<Vec<String>> {
        let selector = format!("quorate.dev/cluster={},quorate.dev/role=member", cluster.name);
        let pods = cluster
            .lab
            .list(&["-n", &cluster.namespace, "pods", "-l", &selector])
            .await?;
        Ok(pods
            .iter()
            .map(|pod| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].to_string())
            .collect())
    };
    cluster
        .lab
        .until(
            Duration::from_secs(240),
            "all members have the new requests",
            || async {
                let now = asked().await?;
                if now.len() == 3 && now.iter().all(|cpu| cpu.contains("150m")) {
                    Ok(())
                } else {
                    bail!("{now:?}; {}", cluster.object().await?["status"]["plan"])
                }
            },
        )
        .await?;
    let after = cluster.settled(3, CALM).await?;
    load.back(CALM).await?;
    let kept = after
        .iter()
        .filter(|pod| {
            before
                .iter()
                .any(|old| old.uid == pod.uid && old.restarts == pod.restarts)
        })
        .count();
    Ok(format!(
        "three members in {:.1} s, {kept} of them without a restart",
        began.elapsed().as_secs_f64()
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
        load.back(CALM).await?;
        times.push(format!(
            "{:.1} s (at most {:.2} s without a write)",
            began.elapsed().as_secs_f64(),
            load.gap().as_secs_f64()
        ));
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
    // What is there lives for a year: with a longer life wanted of what is left, it is due. Both sides, since the status tells
    // the first end of the two.
    let side = r#"{"rotation":{"validity":"9000h","renewBefore":"8800h"}}"#;
    cluster
        .patch(&format!(r#"{{"spec":{{"tls":{{"client":{side},"peer":{side}}}}}}}"#))
        .await?;
    cluster
        .lab
        .until(
            Duration::from_secs(180),
            "every member has a new certificate",
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
    Ok(format!("issued in {:.0} s, no restart", took.as_secs_f64()))
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

/// The authorities of a cluster, client's and peers', as their Secrets hold them.
async fn authorities(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let selector = format!("quorate.dev/cluster={}", cluster.name);
    let secrets = cluster
        .lab
        .list(&["-n", &cluster.namespace, "secrets", "-l", &selector])
        .await?;
    let mut found = Vec::new();
    for secret in secrets {
        if secret["metadata"]["name"]
            .as_str()
            .is_some_and(|name| name.ends_with("-ca"))
        {
            let text = secret["data"]["trust.json"]
                .as_str()
                .context("an authority without trust.json")?;
            found.push(serde_json::from_slice(&STANDARD.decode(text)?)?);
        }
    }
    if found.len() != 2 {
        bail!("{} authorities", found.len());
    }
    Ok(found)
}

/// Both authorities of a cluster are replaced under a writer that reads its Secret as a mounted one: all three stages, no
/// restart, no failed call, and in the end nobody trusts the former authority. Runs beside other cases: most of its time is
/// given to kubelets to bring changed Secrets to pods.
pub async fn authority_rotation(lab: Lab) -> anyhow::Result<String> {
    let manifest = "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata: {name: rotated}\nspec:\n  replicas: 3\n  \
        storage: {size: 1Gi}\n  options: {quotaBackendBytes: 512Mi}\n  resources: {requests: {cpu: 20m, memory: 64Mi}}\n  \
        deletionPolicy: Delete\n";
    let cluster = Cluster::make(&lab, "e2e-rotated", "rotated", manifest, 3).await?;
    let before = cluster.pods().await?;
    let first = authorities(&cluster).await?;
    let stale = cluster.access().await?;
    let (mounted, refresh) = cluster.mounted(Duration::from_secs(20)).await?;
    let load = Load::start(
        Target::Shared(mounted),
        "rotated/",
        Duration::from_millis(100),
        Duration::from_secs(3),
    )?;
    let early = |span: &str| {
        let side = format!("{{\"rotation\":{{\"caRenewBefore\":\"{span}\"}}}}");
        format!("{{\"spec\":{{\"tls\":{{\"client\":{side},\"peer\":{side}}}}}}}")
    };
    let stage =
        async |what: &str, limit: u64, holds: &(dyn Fn(&Value, &Value) -> bool + Sync)| -> anyhow::Result<f64> {
            let began = Instant::now();
            lab.until(Duration::from_secs(limit), what, || async {
                let now = authorities(&cluster).await?;
                match first.iter().zip(&now).all(|(first, now)| holds(first, now)) {
                    true => Ok(began.elapsed().as_secs_f64()),
                    false => {
                        let stages = now.iter().map(|trust| {
                            format!(
                                "next {}, previous {}",
                                !trust["next"].is_null(),
                                !trust["previous"].is_null()
                            )
                        });
                        bail!("{:?}", stages.collect::<Vec<_>>())
                    }
                }
            })
            .await
        };
    // Due at once, until the next authority is there; then not again for years.
    cluster.patch(&early("43799h59m")).await?;
    let begun = stage("the next authorities are distributed", 180, &|_, now| {
        !now["next"].is_null()
    })
    .await?;
    cluster.patch(&early("10m")).await?;
    let replaced = stage("the next authorities sign", 360, &|first, now| {
        now["next"].is_null() && !now["previous"].is_null() && now["current"] != first["current"]
    })
    .await?;
    let done = stage("the former authorities are trusted no more", 480, &|_, now| {
        now["next"].is_null() && now["previous"].is_null()
    })
    .await?;
    let after = cluster.settled(3, CALM).await?;
    let plain = |pods: &[super::cluster::Pod]| -> Vec<(String, i64)> {
        pods.iter().map(|pod| (pod.uid.clone(), pod.restarts)).collect()
    };
    if plain(&before) != plain(&after) {
        bail!("pods were restarted: {before:?}, then {after:?}");
    }
    let fresh = cluster.access().await?;
    fresh.revision().await.context("a client with the Secret of now")?;
    // Members look at their files every few seconds at the latest.
    lab.until(CALM, "a client with the Secret of before is refused", || async {
        match stale.revision().await {
            Ok(_) => bail!("it is served"),
            Err(_) => Ok(()),
        }
    })
    .await?;
    refresh.abort();
    let summary = load.stop().await;
    let told = summary.judged(&fresh).await?;
    if !summary.failed.is_empty() {
        bail!(
            "{} calls failed twice: {:?}",
            summary.failed.len(),
            summary.failed.first()
        );
    }
    lab.kubectl(&["delete", "namespace", "e2e-rotated", "--wait=false"])
        .await?;
    Ok(format!(
        "next after {begun:.0} s, signs after {replaced:.0} s, former one dropped after {done:.0} s; no restart; {told}, {} \
         retried",
        summary.retried
    ))
}
