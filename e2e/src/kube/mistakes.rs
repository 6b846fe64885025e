//! Specs that no rule can refuse and that cannot be carried out: the cause is in the status, and the next apply cures it.
//! And what is changed in a spec without touching a member.

use super::cluster::Cluster;
use super::lab::Lab;
use crate::load::Load;
use anyhow::{Context, bail};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// A small cluster; `more` are lines of its spec, indented by two spaces.
fn small(name: &str, more: &str) -> String {
    format!(
        "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata: {{name: {name}}}\nspec:\n  replicas: 1\n  \
         options: {{quotaBackendBytes: 512Mi}}\n  deletionPolicy: Delete\n{more}"
    )
}

const SMALL: &str = "  storage: {size: 1Gi}\n  resources: {requests: {cpu: 20m, memory: 64Mi}}\n";

/// Waits until the plan, a member or a condition says `words`.
async fn says(cluster: &Cluster, words: &[&str], limit: Duration) -> anyhow::Result<String> {
    let what = format!("the status of {} tells the cause {words:?}", cluster.name);
    cluster
        .lab
        .until(limit, &what, || async {
            let status = cluster.object().await?["status"].clone();
            let mut lines = vec![
                format!("{} {}", status["plan"]["nextAction"], status["plan"]["blockedBy"]),
                format!("{}", status["members"]),
            ];
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            lines.extend(conditions.iter().map(|condition| condition["message"].to_string()));
            let found = lines
                .iter()
                .find(|line| words.iter().any(|word| line.contains(word)))
                .cloned();
            found.with_context(|| format!("{status}"))
        })
        .await
}

/// An image, a storage class and a size that do not exist, from the beginning and later.
pub async fn bad_specs(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-bad";
    lab.restricted_namespace(namespace).await?;
    let no_image = format!("{SMALL}  image: localhost/absent:1\n");
    let no_class = SMALL.replace("1Gi}", "1Gi, storageClassName: absent}");
    let too_big = SMALL.replace("20m", "'1000'");
    // What it is, what cures it, and what the status must say before that.
    let cases = [
        (
            "no-image",
            &no_image,
            SMALL.to_owned(),
            &["ErrImagePull", "ImagePullBackOff"][..],
        ),
        (
            "no-class",
            &no_class,
            SMALL.replace("1Gi}", "1Gi, storageClassName: standard}"),
            &["StorageClass \\\"absent\\\" does not exist"][..],
        ),
        ("too-big", &too_big, SMALL.to_owned(), &["Insufficient cpu"][..]),
    ];
    for (name, bad, _, _) in &cases {
        lab.apply(namespace, &small(name, bad)).await?;
    }
    let mut told = Vec::new();
    for (name, _, good, words) in &cases {
        let cluster = Cluster::new(lab, namespace, name);
        says(&cluster, words, Duration::from_secs(40)).await?;
        let began = Instant::now();
        lab.apply(namespace, &small(name, good)).await?;
        cluster.settled(1, LIMIT).await?;
        told.push(format!("{name} cured in {:.1} s", began.elapsed().as_secs_f64()));
    }
    // Later, with data: the only member does not run, so that there is no quorum either.
    let cluster = Cluster::new(lab, namespace, "no-image");
    let mut client = cluster.access().await?.client().await?;
    client.put("kept", "yes", None).await?;
    lab.apply(namespace, &small("no-image", &no_image)).await?;
    says(&cluster, &["ErrImagePull", "ImagePullBackOff"], LIMIT).await?;
    let began = Instant::now();
    lab.apply(namespace, &small("no-image", SMALL)).await?;
    cluster.settled(1, LIMIT).await?;
    let mut client = cluster.access().await?.client().await?;
    if client.get("kept", None).await?.count() != 1 {
        bail!("the key from before is gone");
    }
    told.push(format!("a rolled image in {:.1} s", began.elapsed().as_secs_f64()));
    // The cluster has begun: its class is what it is.
    let other = SMALL.replace("1Gi}", "1Gi, storageClassName: other}");
    let said = lab.try_apply(namespace, &small("no-class", &other), true).await?;
    if !said.err.contains("storage.storageClassName cannot be changed") {
        bail!("the class of a cluster that lives is changed: {said:?}");
    }
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    Ok(told.join(", "))
}

/// A new image that does not exist stops at the first member; the writer hardly notices, and the former image cures it.
pub async fn bad_roll(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    let before = cluster.settled(3, LIMIT).await?;
    load.mark();
    cluster.patch(r#"{"spec":{"image":"localhost/absent:2"}}"#).await?;
    let told = says(cluster, &["ErrImagePull", "ImagePullBackOff"], LIMIT).await?;
    load.mark();
    let writes = load.back(Duration::from_secs(30)).await?;
    let pods = cluster.pods().await?;
    let same = |pod: &&super::cluster::Pod| pod.ready && before.iter().any(|old| old.uid == pod.uid);
    if pods.iter().filter(same).count() != 2 {
        bail!("more than one member was touched: {before:?}, then {pods:?}");
    }
    let began = Instant::now();
    cluster.patch(r#"{"spec":{"image":null}}"#).await?;
    let after = cluster.settled(3, LIMIT).await?;
    let names = |pods: &[super::cluster::Pod]| pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>();
    if names(&before) != names(&after) {
        bail!("a member was replaced for a bad image: {before:?}, then {after:?}");
    }
    let told: String = told.chars().take(160).collect();
    Ok(format!(
        "one member waited, two served (a write took {:.2} s); cured in {:.1} s; said: {told}",
        writes.as_secs_f64(),
        began.elapsed().as_secs_f64()
    ))
}

/// Names at their limit, names that could be mistaken for one another, and a name that somebody else has.
pub async fn names(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-names";
    lab.restricted_namespace(namespace).await?;
    let longest = format!("l{}", "o".repeat(39));
    let too_long = format!("{longest}o");
    let said = lab.try_apply(namespace, &small(&too_long, SMALL), true).await?;
    if !said.err.contains("at most 40 characters") {
        bail!("a name of 41 characters: {said:?}");
    }
    // Somebody's Service has the name that clients of the third cluster would use.
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: taken}\nspec: {ports: [{port: 80}]}\n";
    lab.apply(namespace, service).await?;
    let theirs = lab.get(&["-n", namespace, "service", "taken"]).await?;
    let all = [longest.as_str(), "a", "a-client", "a-peers", "taken"];
    let manifests: Vec<String> = all.iter().map(|name| small(name, SMALL)).collect();
    lab.apply(namespace, &manifests.join("---\n")).await?;
    let mut ids = std::collections::BTreeSet::new();
    for name in &all[..4] {
        let cluster = Cluster::new(lab, namespace, name);
        cluster.settled(1, LIMIT).await?;
        let mut client = cluster.access().await?.client().await?;
        client.put("name", *name, None).await?;
        ids.insert(cluster.object().await?["status"]["clusterID"].to_string());
    }
    for name in &all[..4] {
        let mut client = Cluster::new(lab, namespace, name).access().await?.client().await?;
        let found = client.get("name", None).await?;
        if found.kvs().first().map(|kv| kv.value()) != Some(name.as_bytes()) {
            bail!("the clients of {name} reach another cluster: {found:?}");
        }
    }
    if ids.len() != 4 {
        bail!("cluster ids: {ids:?}");
    }
    let taken = Cluster::new(lab, namespace, "taken");
    says(&taken, &["there is a Service taken that does not belong"], LIMIT).await?;
    let now = lab.get(&["-n", namespace, "service", "taken"]).await?;
    if theirs["metadata"]["resourceVersion"] != now["metadata"]["resourceVersion"] {
        bail!("somebody's Service was changed: {theirs}, then {now}");
    }
    lab.kubectl(&["-n", namespace, "delete", "service", "taken"]).await?;
    lab.until(LIMIT, "the Service is made once the name is free", || async {
        taken.access().await?.revision().await
    })
    .await?;
    taken.settled(1, LIMIT).await?;
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    Ok("40 characters, a beside a-client and a-peers, and a Service of somebody else left as it was".to_owned())
}

/// The disruption budget and the network policy go when they are switched off, and come back.
pub async fn switched_off(cluster: &Cluster) -> anyhow::Result<String> {
    cluster.settled(3, LIMIT).await?;
    let selector = format!("quorate.dev/cluster={}", cluster.name);
    for (on, count) in [(false, 0), (true, 1)] {
        cluster
            .patch(&format!(
                r#"{{"spec":{{"podDisruptionBudget":{{"enabled":{on}}},"networkPolicy":{{"enabled":{on}}}}}}}"#
            ))
            .await?;
        for kind in ["poddisruptionbudgets", "networkpolicies"] {
            let what = format!("{count} {kind}");
            cluster
                .lab
                .until(Duration::from_secs(30), &what, || async {
                    let found = cluster
                        .lab
                        .list(&["-n", &cluster.namespace, kind, "-l", &selector])
                        .await?;
                    if found.len() == count {
                        Ok(())
                    } else {
                        bail!("{found:?}")
                    }
                })
                .await?;
        }
    }
    cluster.settled(3, LIMIT).await?;
    Ok("gone, and back".to_owned())
}

/// Volumes grow without a restart where their class lets them; where it does not, the status says what to change.
pub async fn volumes_grow(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-grow";
    let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: growing}\n\
                 provisioner: rancher.io/local-path\nvolumeBindingMode: WaitForFirstConsumer\nallowVolumeExpansion: true\n";
    lab.apply("default", class).await?;
    let grows = SMALL.replace("1Gi}", "1Gi, storageClassName: growing}");
    let stays = SMALL.to_owned();
    lab.restricted_namespace(namespace).await?;
    for (name, spec) in [("grows", &grows), ("stays", &stays)] {
        lab.apply(namespace, &small(name, spec)).await?;
    }
    let mut pods = Vec::new();
    for name in ["grows", "stays"] {
        pods.extend(Cluster::new(lab, namespace, name).settled(1, LIMIT).await?);
    }
    let began = Instant::now();
    for (name, spec) in [("grows", &grows), ("stays", &stays)] {
        lab.apply(namespace, &small(name, &spec.replace("1Gi", "2Gi"))).await?;
    }
    let asked = |pod: &str| {
        let claim = pod.to_owned();
        async move {
            let claim = lab.get(&["-n", namespace, "pvc", &claim]).await?;
            anyhow::Ok(claim["spec"]["resources"]["requests"]["storage"].clone())
        }
    };
    lab.until(LIMIT, "the volume grows", || async {
        let size = asked(&pods[0].name).await?;
        if size == "2Gi" { Ok(()) } else { bail!("{size}") }
    })
    .await?;
    let grown = began.elapsed().as_secs_f64();
    let stays = Cluster::new(lab, namespace, "stays");
    says(&stays, &["allowVolumeExpansion: true"], LIMIT).await?;
    // It serves all the same, and takes the size once its class allows it.
    stays.access().await?.revision().await?;
    let allow = |on: bool| format!(r#"{{"allowVolumeExpansion":{on}}}"#);
    lab.kubectl(&["patch", "storageclass", "standard", "-p", &allow(true)])
        .await?;
    let after = stays.settled(1, LIMIT).await;
    lab.kubectl(&["patch", "storageclass", "standard", "-p", &allow(false)])
        .await?;
    let after = after?;
    let size = asked(&pods[1].name).await?;
    if size != "2Gi" || after[0].uid != pods[1].uid || after[0].restarts != 0 {
        bail!("{size}; {pods:?}, then {after:?}");
    }
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    lab.kubectl(&["delete", "storageclass", "growing"]).await?;
    Ok(format!(
        "asked for in {grown:.1} s, no restart; refused with its remedy, and cured"
    ))
}
