//! What is deleted and what is not, and what is not ours.

use super::cluster::Cluster;
use super::lab::Lab;
use anyhow::{Context, bail};
use serde_json::Value;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn small(name: &str, deletion_policy: &str) -> String {
    format!(
        "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata:\n  name: {name}\nspec:\n  replicas: 1\n  \
         storage: {{size: 1Gi}}\n  options: {{quotaBackendBytes: 512Mi}}\n  deletionPolicy: {deletion_policy}\n  \
         resources: {{requests: {{cpu: 20m, memory: 64Mi}}}}\n"
    )
}

async fn put(cluster: &Cluster, value: &str) -> anyhow::Result<()> {
    let mut client = cluster.access().await?.client().await?;
    client.put("mark", value, None).await.map(drop).context("a write")
}

async fn volumes(cluster: &Cluster) -> anyhow::Result<usize> {
    let selector = format!("quorate.dev/cluster={}", cluster.name);
    let list = cluster
        .lab
        .list(&["-n", &cluster.namespace, "pvc", "-l", &selector])
        .await?;
    Ok(list
        .iter()
        .filter(|claim| claim["metadata"]["deletionTimestamp"].is_null())
        .count())
}

async fn delete(cluster: &Cluster) -> anyhow::Result<()> {
    let name = format!("etcd/{}", cluster.name);
    let arguments = ["-n", &cluster.namespace, "delete", &name, "--timeout=110s"];
    cluster.lab.tool("kubectl", &arguments, LIMIT).await?.ok().map(drop)
}

/// Objects of somebody else with all labels that ours have: none is changed, none is deleted, none is taken for a member.
pub async fn foreign_objects(cluster: &Cluster) -> anyhow::Result<String> {
    let labels = format!(
        "{{app.kubernetes.io/name: etcd, app.kubernetes.io/managed-by: quorate, app.kubernetes.io/instance: {0}, \
         quorate.dev/cluster: {0}, quorate.dev/role: member, quorate.dev/member: stranger}}",
        cluster.name
    );
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: stranger, labels: {labels}}}\ndata: {{a: b}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: stranger-tls, labels: {labels}}}\nstringData: {{a: b}}\n---\n\
         apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: stranger, labels: {labels}}}\n\
         spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: stranger, labels: {labels}}}\nspec:\n  \
         securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}\n  \
         containers: [{{name: sleep, image: 'localhost/busybox:1', imagePullPolicy: Never, command: [sleep, '3600'], \
         securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}]\n"
    );
    cluster.lab.apply(&cluster.namespace, &text).await?;
    let kinds = [
        "configmap/stranger",
        "secret/stranger-tls",
        "pvc/stranger",
        "pod/stranger",
    ];
    let look = || async {
        let mut found = Vec::new();
        for kind in kinds {
            let object = cluster.lab.get(&["-n", &cluster.namespace, kind]).await?;
            let metadata = &object["metadata"];
            let fields: Vec<&Value> = vec![
                &metadata["uid"],
                &metadata["labels"],
                &metadata["annotations"],
                &metadata["ownerReferences"],
                &metadata["deletionTimestamp"],
            ];
            found.push(serde_json::to_string(&fields)?);
        }
        anyhow::Ok(found)
    };
    let before = look().await?;
    // Work for the operator, next to them.
    cluster
        .patch(r#"{"spec":{"service":{"client":{"annotations":{"example.org/touched":"yes"}}}}}"#)
        .await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let after = look().await?;
    let object = cluster.object().await?;
    let members = object["status"]["members"].as_array().cloned().unwrap_or_default();
    for kind in kinds {
        cluster
            .lab
            .kubectl(&["-n", &cluster.namespace, "delete", kind, "--wait=false"])
            .await?;
    }
    if before != after {
        bail!("before {before:?}, after {after:?}");
    }
    if members.iter().any(|member| member["name"] == "stranger") || members.len() != 3 {
        bail!("a stranger is taken for a member: {members:?}");
    }
    Ok(format!("{} objects left as they were", kinds.len()))
}

/// A namespace with a cluster is deleted, and both are made again under the same names: a new cluster, nothing of the old.
pub async fn namespace_deleted(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-again";
    let manifest = small("again", "Retain");
    let cluster = Cluster::make(lab, namespace, "again", &manifest, 1).await?;
    put(&cluster, "first").await?;
    let old = cluster.object().await?["status"]["clusterID"].clone();
    let began = std::time::Instant::now();
    let arguments = ["delete", "namespace", namespace, "--timeout=110s"];
    lab.tool("kubectl", &arguments, LIMIT).await?.ok()?;
    let gone = began.elapsed().as_secs_f64();
    let cluster = Cluster::make(lab, namespace, "again", &manifest, 1).await?;
    let new = cluster.object().await?["status"]["clusterID"].clone();
    let mut client = cluster.access().await?.client().await?;
    let found = client.get("mark", None).await?.count();
    if old == new || found != 0 {
        bail!("cluster id {old}, then {new}; {found} keys of the old one");
    }
    put(&cluster, "second").await?;
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    Ok(format!("gone in {gone:.1} s; a new cluster id, an empty key space"))
}

/// Retain keeps volumes, Delete does not, SnapshotThenDelete deletes nothing before there is a snapshot.
pub async fn deletion_policies(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-deleted";
    let kept = Cluster::make(lab, namespace, "kept", &small("kept", "Retain"), 1).await?;
    put(&kept, "kept").await?;
    delete(&kept).await?;
    let left = volumes(&kept).await?;
    if left != 1 {
        bail!("deletionPolicy Retain left {left} volumes");
    }
    let gone = Cluster::make(lab, namespace, "gone", &small("gone", "Delete"), 1).await?;
    put(&gone, "gone").await?;
    delete(&gone).await?;
    lab.until(LIMIT, "deletionPolicy Delete deletes the volume", || async {
        match volumes(&gone).await? {
            0 => Ok(()),
            n => bail!("{n} volumes are left"),
        }
    })
    .await?;
    // Without a policy for its backups nothing says where the last one goes: it waits, and says for what.
    let last = Cluster::make(lab, namespace, "last", &small("last", "SnapshotThenDelete"), 1).await?;
    put(&last, "last").await?;
    lab.kubectl(&["-n", namespace, "delete", "etcd/last", "--wait=false"])
        .await?;
    let blocked = lab
        .until(LIMIT, "the deletion says what it waits for", || async {
            let object = last.object().await.context("it was deleted without a snapshot")?;
            let plan = &object["status"]["plan"];
            let text = format!("{} {}", plan["nextAction"], plan["blockedBy"]).to_lowercase();
            if text.contains("backup") || text.contains("snapshot") {
                Ok(text)
            } else {
                bail!("{plan}")
            }
        })
        .await?;
    if volumes(&last).await? != 1 {
        bail!("the volume is gone before there was a snapshot");
    }
    last.patch(r#"{"spec":{"deletionPolicy":"Delete"}}"#).await?;
    lab.until(LIMIT, "the cluster is gone after all", || async {
        match last.object().await {
            Err(_) => Ok(()),
            Ok(object) => bail!("{}", object["status"]["plan"]),
        }
    })
    .await?;
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    Ok(format!(
        "Retain, Delete, and SnapshotThenDelete, which waits: {blocked}"
    ))
}
