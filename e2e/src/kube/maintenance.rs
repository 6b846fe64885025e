//! Space: a quota that is exceeded under a writer, and a defragmentation that nobody notices.

use super::cluster::Cluster;
use super::lab::Lab;
use crate::load::{Load, Target};
use anyhow::{Context, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(90);

/// A small quota is filled with large values under a writer: reads go on, no member leaves the clients' Service, and writes
/// are back by themselves.
pub async fn no_space(lab: &Lab) -> anyhow::Result<String> {
    let manifest = "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata: {name: full}\nspec:\n  replicas: 3\n  \
                    options: {quotaBackendBytes: 32Mi, autoCompactionMode: 'off'}\n  storage: {size: 1Gi}\n";
    let cluster = Cluster::make(lab, "e2e-space", "full", manifest, 3).await?;
    let access = cluster.access().await?;
    let load = Load::start(
        Target::Fixed(access.clone()),
        "small/",
        Duration::from_millis(10),
        Duration::from_secs(3),
    )?;
    load.mark();
    load.back(CALM).await.context("the writer cannot begin")?;
    let mut client = access.client().await?;
    let began = Instant::now();
    let mut filled = None;
    for _ in 0..400 {
        match client.put("large/value", vec![b'x'; 500_000], None).await {
            Ok(_) => {}
            Err(error) if error.to_string().contains("database space exceeded") => {
                filled = Some(began.elapsed());
                break;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    let filled = filled.context("400 values of 500 kB did not exceed a quota of 32 MiB")?;
    load.mark();
    let since = Instant::now();
    // What readers see until writes are back.
    let mut fewest = 3;
    let mut reads = 0_usize;
    let back = loop {
        client
            .get("large/value", None)
            .await
            .context("a read while the quota was exceeded")?;
        reads += 1;
        let ready = ready_endpoints(&cluster).await?;
        fewest = fewest.min(ready);
        if let Ok(took) = load.back(Duration::from_millis(300)).await {
            break took;
        }
        if since.elapsed() > Duration::from_secs(180) {
            bail!("no write for 180 s: {}", cluster.object().await?["status"]["plan"]);
        }
    };
    if fewest < 3 {
        bail!("only {fewest} members were in the clients' Service meanwhile");
    }
    cluster.settled(3, Duration::from_secs(180)).await?;
    let events = events(&cluster).await?;
    let used = events
        .iter()
        .find(|(reason, _)| reason == "SpaceUsed")
        .map(|(_, note)| note.clone())
        .context("no event says what filled the database")?;
    for reason in ["Compact", "Defragment", "DisarmAlarm"] {
        if !events.iter().any(|(known, _)| known == reason) {
            bail!("no event {reason}: {events:?}");
        }
    }
    let judged = load.stop().await.judged(&cluster.access().await?).await?;
    lab.kubectl(&["delete", "namespace", "e2e-space", "--wait=false"])
        .await?;
    Ok(format!(
        "full after {:.1} s; {reads} reads meanwhile, all 3 members in the Service; writes back after {:.1} s; {judged}; {used}",
        filled.as_secs_f64(),
        back.as_secs_f64()
    ))
}

/// Every member is defragmented under the writer, as the owner asks by annotation: no call fails.
pub async fn defragment(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    cluster.settled(3, CALM).await?;
    cluster
        .patch(r#"{"spec":{"maintenance":{"defrag":{"settle":"2s"}}}}"#)
        .await?;
    cluster.settled(3, CALM).await?;
    let failed_before = load.failures();
    let began = Instant::now();
    load.mark();
    let token = format!("{}", std::process::id());
    cluster
        .patch(&format!(
            r#"{{"metadata":{{"annotations":{{"quorate.dev/defrag":"{token}"}}}}}}"#
        ))
        .await?;
    let done = || async {
        let all = events(cluster).await?;
        let found = all.iter().filter(|(reason, _)| reason == "Defragment").count();
        if found >= 3 {
            Ok(found)
        } else {
            bail!("{found} of 3 members")
        }
    };
    cluster
        .lab
        .until(Duration::from_secs(120), "every member is defragmented", done)
        .await?;
    cluster.settled(3, CALM).await?;
    let failed = load.failures() - failed_before;
    if failed > 0 {
        bail!("{failed} calls failed");
    }
    load.back(CALM).await?;
    Ok(format!(
        "three members in {:.1} s, 0 failed calls",
        began.elapsed().as_secs_f64()
    ))
}

/// Events of a cluster: reason and note.
pub async fn events(cluster: &Cluster) -> anyhow::Result<Vec<(String, String)>> {
    let selector = format!("regarding.kind=EtcdCluster,regarding.name={}", cluster.name);
    let arguments = [
        "-n",
        &cluster.namespace,
        "events.v1.events.k8s.io",
        "--field-selector",
        &selector,
    ];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = cluster.lab.list(&arguments).await?;
    Ok(list
        .iter()
        .map(|event| (text(&event["reason"]), text(&event["note"])))
        .collect())
}

/// Members that the clients' Service leads to.
async fn ready_endpoints(cluster: &Cluster) -> anyhow::Result<usize> {
    let selector = format!("kubernetes.io/service-name={}", cluster.name);
    let slices = cluster
        .lab
        .list(&["-n", &cluster.namespace, "endpointslices", "-l", &selector])
        .await?;
    let mut ready = std::collections::BTreeSet::new();
    for endpoint in slices
        .iter()
        .filter_map(|slice| slice["endpoints"].as_array())
        .flatten()
    {
        if endpoint["conditions"]["ready"] != false {
            ready.insert(endpoint["targetRef"]["name"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(ready.len())
}
