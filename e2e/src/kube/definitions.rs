//! What the real API server makes of the definitions and of manifests, good and bad.

use super::lab::Lab;
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::time::Duration;

/// Applies crds/ and looks at what became of them.
pub async fn definitions(lab: &Lab) -> anyhow::Result<String> {
    lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "crds/"])
        .await?;
    let names = ["etcdclusters.quorate.dev", "etcdbackups.quorate.dev"];
    for name in names {
        let limit = Duration::from_secs(20);
        lab.until(limit, "the definition is established", || async {
            let crd = lab.get(&["crd", name]).await?;
            let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if let Some(bad) = conditions
                .iter()
                .find(|c| c["type"] == "NonStructuralSchema" && c["status"] == "True")
            {
                bail!("{name} is not structural: {bad}");
            }
            let established = conditions
                .iter()
                .any(|c| c["type"] == "Established" && c["status"] == "True");
            if established {
                Ok(())
            } else {
                bail!("{name} is not established: {conditions:?}")
            }
        })
        .await?;
    }
    // The words of a few fields that people look up, and the short names and the category.
    let explained = lab
        .until(Duration::from_secs(20), "kubectl explains the fields", || async {
            let mut length = 0;
            for (field, word) in [
                ("etcdcluster.spec.replicas", "hibernates"),
                ("etcdcluster.spec.storage.size", "never shrink"),
                ("etcdcluster.spec.recovery.mode", "Automatic"),
                ("etcdcluster.status.plan.blockedBy", "remedy"),
                ("etcdbackup.spec.verify", "reads the stored object back"),
            ] {
                let said = lab.kubectl(&["explain", field]).await?;
                if !said.contains(word) {
                    bail!("kubectl explain {field} does not say {word:?}: {said}");
                }
                length += said.len();
            }
            Ok(length)
        })
        .await?;
    for name in ["etcd", "etcdb", "quorate"] {
        lab.kubectl(&["get", name, "-A"]).await?;
    }
    Ok(format!(
        "both established; kubectl explain of 5 fields: {explained} characters"
    ))
}

fn manifests(lab: &Lab, folder: &str) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(lab.file(folder)).with_context(|| folder.to_owned())? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|e| e == "yaml") && stem != "kustomization" {
            found.push((stem, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Every manifest of e2e/kube/refused: `# refused:` and the words that must be in the answer. Of two documents the first is
/// made, and the second is the change that is refused.
pub async fn refused(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-refused";
    lab.restricted_namespace(namespace).await?;
    let mut wrong = Vec::new();
    let all = manifests(lab, "e2e/kube/refused")?;
    for (name, path) in &all {
        let text = std::fs::read_to_string(path)?;
        let expected = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# refused: "))
            .with_context(|| format!("{name} does not say why it is refused"))?;
        let said = match text.split_once("\n---\n") {
            None => lab.try_apply(namespace, &text, true).await?,
            Some((before, after)) => {
                lab.apply(namespace, before)
                    .await
                    .with_context(|| format!("{name}: the first document"))?;
                let said = lab.try_apply(namespace, after, true).await?;
                remove(lab, namespace).await?;
                said
            }
        };
        if said.code == Some(0) {
            wrong.push(format!("{name} is accepted"));
        } else if !said.err.contains(expected) {
            wrong.push(format!("{name}: {expected:?} is not in: {}", said.err.trim()));
        }
    }
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(format!("{} manifests, each with its remedy", all.len()))
}

async fn remove(lab: &Lab, namespace: &str) -> anyhow::Result<()> {
    let arguments = [
        "-n",
        namespace,
        "delete",
        "etcd,etcdb",
        "refused",
        "--ignore-not-found",
        "--timeout=20s",
    ];
    lab.kubectl(&arguments).await.map(drop)
}

/// Every sample, with a dry run. The one for this machine alone is refused with the reason.
pub async fn samples(lab: &Lab) -> anyhow::Result<String> {
    let all = manifests(lab, "config/samples")?;
    for (name, path) in &all {
        let text = std::fs::read_to_string(path)?;
        let said = lab.try_apply("default", &text, true).await?;
        if name == "backup-directory" {
            if !said.err.contains("on Kubernetes give s3 or pvc") {
                bail!("a directory is a destination on Kubernetes: {said:?}");
            }
            continue;
        }
        said.ok().with_context(|| name.clone())?;
    }
    Ok(format!("{} files", all.len()))
}
