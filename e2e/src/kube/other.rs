//! Other ways to run: members of real etcd, and an operator with one namespace.

use super::cluster::Cluster;
use super::install::VALUES;
use super::lab::Lab;
use anyhow::{Context, bail};
use std::time::{Duration, Instant};

/// Three members of upstream's etcd under the same operator: a volume lost, a flag rolled, five members and three again, and
/// the content equal on all.
pub async fn engine_etcd(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-etcd";
    let manifest = "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata: {name: upstream}\nspec:\n  replicas: 3\n  \
        engine: etcd\n  version: 3.7.3\n  image: localhost/etcd:3.7.3\n  imagePullPolicy: Never\n  storage: {size: 1Gi}\n  \
        options: {quotaBackendBytes: 512Mi}\n  resources: {requests: {cpu: 20m, memory: 64Mi}}\n  deletionPolicy: Delete\n";
    let cluster = Cluster::make(lab, namespace, "upstream", manifest, 3).await?;
    let mut client = cluster.access().await?.client().await?;
    let version = client.status().await?.version().to_owned();
    for n in 0..100 {
        client
            .put(format!("key-{n:03}"), "value", None)
            .await
            .context("a write")?;
    }
    // A volume is lost: the member is replaced under another name.
    let victim = cluster.pods().await?.first().context("no pods")?.clone();
    let mut began = Instant::now();
    for kind in ["pvc", "pod"] {
        lab.kubectl(&["-n", namespace, "delete", kind, &victim.name, "--wait=false"])
            .await?;
    }
    lab.until(Duration::from_secs(120), "the member is replaced", || async {
        let pods = cluster.pods().await?;
        if pods.len() != 3 || pods.iter().any(|pod| pod.name == victim.name || !pod.ready) {
            bail!("{pods:?}")
        }
        Ok(())
    })
    .await?;
    cluster.settled(3, Duration::from_secs(120)).await?;
    let mut told = vec![format!("volume replaced in {:.1} s", began.elapsed().as_secs_f64())];
    for (what, patch, members) in [
        (
            "a flag rolled",
            r#"{"spec":{"options":{"snapshotCount":5000},"updateStrategy":{"minReadySeconds":2}}}"#,
            3,
        ),
        ("three to five", r#"{"spec":{"replicas":5}}"#, 5),
        ("five to three", r#"{"spec":{"replicas":3}}"#, 3),
    ] {
        began = Instant::now();
        cluster.patch(patch).await?;
        let pods = cluster.settled(members, Duration::from_secs(240)).await?;
        if !pods
            .iter()
            .all(|pod| pod.arguments.iter().any(|argument| argument == "--snapshot-count=5000"))
        {
            bail!("the flag is not with every member: {pods:?}");
        }
        told.push(format!("{what} in {:.1} s", began.elapsed().as_secs_f64()));
    }
    let hash = cluster.access_of_members().await?.equal_hash().await?;
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    let time = cluster.became_available.unwrap_or_default().as_secs_f64();
    Ok(format!(
        "etcd {version}, Available in {time:.1} s, {}; hash {hash}",
        told.join(", ")
    ))
}

/// A second operator that may look into one namespace: it makes a cluster there, and has no right elsewhere.
pub async fn one_namespace(lab: &Lab) -> anyhow::Result<String> {
    let (home, managed) = ("e2e-operator", "e2e-managed");
    for namespace in [home, managed] {
        lab.restricted_namespace(namespace).await?;
    }
    // The first operator looks everywhere: it rests while the second one works.
    lab.kubectl(&["-n", "quorate-system", "scale", "deployment/quorate", "--replicas=0"])
        .await?;
    let watch = format!("watchNamespaces={{{managed}}}");
    let mut install = vec![
        "upgrade",
        "--install",
        "one",
        "charts/quorate",
        "-n",
        home,
        "--set",
        &watch,
        "--wait",
        "--timeout=120s",
    ];
    install.extend(VALUES);
    let result = async {
        lab.tool("helm", &install, Duration::from_secs(150)).await?.ok()?;
        let manifest = std::fs::read_to_string(lab.file("config/samples/single-insecure.yaml"))?;
        let cluster = Cluster::make(lab, managed, "scratch", &manifest, 1).await?;
        let account = format!("--as=system:serviceaccount:{home}:one-quorate");
        for (verb, resource, namespace, right) in [
            ("create", "pods", managed, true),
            ("get", "secrets", managed, true),
            ("create", "pods", "e2e-main", false),
            ("get", "secrets", home, false),
            ("list", "secrets", "kube-system", false),
        ] {
            let said = lab
                .tool(
                    "kubectl",
                    &["auth", "can-i", verb, resource, "-n", namespace, &account],
                    Duration::from_secs(20),
                )
                .await?;
            if (said.out.trim() == "yes") != right {
                bail!("{verb} {resource} in {namespace}: {}", said.out.trim());
            }
        }
        anyhow::Ok(cluster.became_available.unwrap_or_default().as_secs_f64())
    }
    .await;
    lab.tool(
        "helm",
        &["uninstall", "one", "-n", home, "--wait"],
        Duration::from_secs(60),
    )
    .await?;
    lab.kubectl(&["-n", "quorate-system", "scale", "deployment/quorate", "--replicas=1"])
        .await?;
    lab.kubectl(&["delete", "namespace", home, managed, "--wait=false"])
        .await?;
    Ok(format!(
        "a cluster in {:.1} s, and no right in another namespace",
        result?
    ))
}
