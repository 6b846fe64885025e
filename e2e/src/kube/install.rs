//! The chart and the kustomization, and the rights that come with them.

use super::lab::Lab;
use anyhow::{Context, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The release and its namespace.
pub const NAMESPACE: &str = "quorate-system";
/// Images that are on the nodes already, and the node that no case takes away.
pub const VALUES: [&str; 8] = [
    "--set",
    "nodeSelector.kubernetes\\.io/hostname=n1",
    "--set",
    "image.pullPolicy=Never",
    "--set",
    "image.tag=dev",
    "--set",
    "serverImage.tag=dev",
];

/// `helm lint`, `helm install` into a restricted namespace, with nothing but the values that name the images.
pub async fn chart(lab: &Lab) -> anyhow::Result<String> {
    lab.tool("helm", &["lint", "--strict", "charts/quorate"], Duration::from_secs(30))
        .await?
        .ok()?;
    let bad = lab
        .tool(
            "helm",
            &["template", "charts/quorate", "--set", "replicaCount=2"],
            Duration::from_secs(30),
        )
        .await?;
    if bad.code == Some(0) || !bad.err.contains("replicaCount") {
        bail!("a value that does not exist is not refused by name: {bad:?}");
    }
    lab.restricted_namespace(NAMESPACE).await?;
    let began = Instant::now();
    let mut install = vec![
        "upgrade",
        "--install",
        "quorate",
        "charts/quorate",
        "-n",
        NAMESPACE,
        "--wait",
        "--timeout=180s",
    ];
    install.extend(VALUES);
    let notes = lab.tool("helm", &install, Duration::from_secs(200)).await?.ok()?;
    if !notes.contains("kubectl wait --for=condition=Available") {
        bail!("the notes do not say how to go on: {notes}");
    }
    let ready = began.elapsed().as_secs_f64();
    let roles = lab.get(&["clusterrole", "quorate-quorate-system"]).await?;
    let rules = roles["rules"].as_array().context("no rules")?;
    Ok(format!("ready in {ready:.1} s, {} rules", rules.len()))
}

/// Renders config/default, config/prometheus and config/samples; the API server accepts what it knows.
pub async fn kustomize(lab: &Lab) -> anyhow::Result<String> {
    let rendered = lab.kubectl(&["kustomize", "config/default"]).await?;
    lab.restricted_namespace(NAMESPACE).await?;
    let said = lab.try_apply(NAMESPACE, &rendered, true).await?.ok()?;
    for word in [
        "deployment.apps/quorate",
        "etcdclusters.quorate.dev",
        "etcdbackups.quorate.dev",
    ] {
        if !said.contains(word) {
            bail!("{word} is not in what config/default renders: {said}");
        }
    }
    // The Prometheus operator's kinds are not here: that it renders is all that is shown.
    lab.kubectl(&["kustomize", "config/prometheus"]).await?;
    Ok(format!("{} objects", said.lines().count()))
}

/// The roles are those of the chart's files, hold no wildcard, and were enough for everything so far.
pub async fn rights(lab: &Lab) -> anyhow::Result<String> {
    let role = lab.get(&["clusterrole", "quorate-quorate-system"]).await?;
    let mut shipped: Vec<Value> = Vec::new();
    for file in ["cluster", "managed"] {
        let text = std::fs::read_to_string(lab.file(&format!("charts/quorate/rules/{file}.yaml")))?;
        shipped.extend(serde_yaml::from_str::<Vec<Value>>(&text)?);
    }
    if role["rules"].as_array() != Some(&shipped) {
        bail!("the role is not what the chart's files say: {}", role["rules"]);
    }
    if serde_json::to_string(&shipped)?.contains("\"*\"") {
        bail!("a rule holds a wildcard");
    }
    let asked = lab.asked("system:serviceaccount:quorate-system:quorate")?;
    if let Some(ask) = asked.iter().find(|ask| !ask.allowed) {
        bail!("a right is missing: {} {}, {}", ask.verb, ask.resource, ask.path);
    }
    // Rights of what the suite does not do: backups, cert-manager.
    let elsewhere = ["etcdbackups", "etcdbackups/status", "serviceaccounts", "certificates"];
    let own = serde_yaml::from_str::<Vec<Value>>(&std::fs::read_to_string(lab.file("charts/quorate/rules/own.yaml"))?)?;
    let mut unused = Vec::new();
    for rule in shipped.iter().chain(&own) {
        let words = |key: &str| rule[key].as_array().cloned().unwrap_or_default();
        for resource in words("resources") {
            for verb in words("verbs") {
                let used = asked.iter().any(|ask| ask.resource == resource && ask.verb == verb);
                if !used && !elsewhere.iter().any(|name| resource == *name) {
                    unused.push(format!("{verb} {resource}"));
                }
            }
        }
    }
    let kinds: std::collections::BTreeSet<(&str, &str)> = asked
        .iter()
        .map(|ask| (ask.resource.as_str(), ask.verb.as_str()))
        .collect();
    Ok(format!(
        "{} rules, no wildcard; {} requests of {} kinds, none was forbidden; not used here: {}",
        shipped.len(),
        asked.len(),
        kinds.len(),
        if unused.is_empty() {
            "none".to_owned()
        } else {
            unused.join(", ")
        }
    ))
}
