//! Backups to a real S3 server (versitygw) that runs on a node's network, and what is restored from them.

use super::cluster::Cluster;
use super::lab::Lab;
use crate::load::Load;
use crate::process::Background;
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::process::Command;

const ACCESS: &str = "quorate-e2e";
const SECRET: &str = "a-secret-of-the-suite";
const BUCKET: &str = "backups";
const PORT: u16 = 7480;
const CALM: Duration = Duration::from_secs(90);

/// versitygw with a directory of this machine behind it.
struct Gateway {
    process: Background,
    objects: PathBuf,
    endpoint: String,
    _directory: tempfile::TempDir,
}

impl Gateway {
    async fn start(lab: &Lab) -> anyhow::Result<Gateway> {
        // The node's own address: what a packet to the API server would leave with. Nothing is sent.
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((lab.api_server()?.as_str(), 6443))?;
        let address = socket.local_addr()?.ip();
        let directory = tempfile::tempdir()?;
        let objects = directory.path().join("objects");
        std::fs::create_dir_all(objects.join(BUCKET))?;
        let mut command = Command::new(lab.program("versitygw")?);
        command
            .env("ROOT_ACCESS_KEY", ACCESS)
            .env("ROOT_SECRET_KEY", SECRET)
            .arg("--port")
            .arg(format!("{address}:{PORT}"))
            .arg("posix")
            .arg(&objects);
        let process = Background::start(command, &directory.path().join("versitygw.log"))?;
        let end = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect((address, PORT)).await.is_err() {
            if Instant::now() > end {
                bail!("versitygw does not listen: {}", process.last_words(5));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(Gateway {
            process,
            objects,
            endpoint: format!("http://{address}:{PORT}"),
            _directory: directory,
        })
    }

    /// Where a backup goes, as a manifest has it.
    fn destination(&self, bucket: &str, secret: &str, rest: &str) -> String {
        format!(
            "{{encryptionSecretRef: {{name: sealing}}, s3: {{endpoint: '{}', bucket: {bucket}, region: us-east-1, forcePathStyle: \
             true, allowHTTP: true, credentialsSecretRef: {{name: {secret}}}{rest}}}}}",
            self.endpoint
        )
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.process.end(Signal::SIGTERM, Duration::from_secs(10)).await
    }
}

/// Credentials that are right and wrong, and two keys to seal with.
async fn secrets(lab: &Lab, namespace: &str) -> anyhow::Result<()> {
    let credentials = |name: &str, secret: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{accessKeyID: {ACCESS}, secretAccessKey: \
             {secret}}}\n"
        )
    };
    let key = |name: &str, letter: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{key: {}}}\n",
            letter.repeat(32)
        )
    };
    let text = [
        credentials("s3", SECRET),
        credentials("s3-wrong", "wrong"),
        key("sealing", "a"),
        key("sealing-other", "b"),
    ]
    .concat();
    lab.apply(namespace, &text).await.map(drop)
}

fn backup(name: &str, cluster: &str, destination: &str, rest: &str) -> String {
    format!(
        "apiVersion: quorate.dev/v1alpha1\nkind: EtcdBackup\nmetadata: {{name: {name}}}\nspec:\n  clusterRef: {{name: {cluster}}}\n  \
         destination: {destination}\n  timeout: 90s\n{rest}"
    )
}

async fn ended(lab: &Lab, namespace: &str, name: &str, limit: Duration) -> anyhow::Result<Value> {
    lab.until(limit, &format!("EtcdBackup {name} ends"), || async {
        let object = lab.get(&["-n", namespace, "etcdbackup", name]).await?;
        match object["status"]["phase"].as_str() {
            Some("Completed" | "Failed") => Ok(object),
            phase => bail!("{phase:?}: {}", object["status"]["message"]),
        }
    })
    .await
}

/// Every minute under load, with the operator killed in between: every tick once, none twice, all verified, and what is
/// restored is what was there.
pub async fn every_minute(cluster: &Cluster, load: &Load) -> anyhow::Result<String> {
    let (lab, namespace) = (&cluster.lab, cluster.namespace.as_str());
    let minutes: u64 = std::env::var("QUORATE_KUBE_BACKUP_MINUTES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let gateway = Gateway::start(lab).await?;
    secrets(lab, namespace).await?;
    let destination = gateway.destination(BUCKET, "s3", ", prefix: minute");
    let policy = backup(
        "minute",
        &cluster.name,
        &destination,
        "  schedule: '* * * * *'\n  retention: {keepLast: 100, minKeep: 1}\n  verify: Restore\n",
    );
    lab.apply(namespace, &policy).await?;
    let end = Instant::now() + Duration::from_secs(minutes * 60 + 20);
    let mut killed = 0;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_secs(25)).await;
        let selector = "app.kubernetes.io/name=quorate";
        lab.kubectl(&[
            "-n",
            "quorate-system",
            "delete",
            "pods",
            "-l",
            selector,
            "--grace-period=0",
            "--force",
        ])
        .await?;
        killed += 1;
    }
    lab.kubectl(&[
        "-n",
        namespace,
        "patch",
        "etcdbackup",
        "minute",
        "--type=merge",
        "-p",
        r#"{"spec":{"suspend":true}}"#,
    ])
    .await?;
    let children = lab
        .until(Duration::from_secs(120), "all backups end", || async {
            let children = lab
                .list(&["-n", namespace, "etcdbackups", "-l", "quorate.dev/scheduled-by=minute"])
                .await?;
            match children.iter().find(|child| child["status"]["phase"] != "Completed") {
                None if children.is_empty() => bail!("there are none"),
                None => Ok(children),
                Some(open) => bail!("{}: {}", open["metadata"]["name"], open["status"]),
            }
        })
        .await?;
    let mut ticks: BTreeMap<String, usize> = BTreeMap::new();
    for child in &children {
        let name = child["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if child["status"]["verified"].is_null() {
            bail!("{name} is not verified: {}", child["status"]);
        }
        *ticks.entry(name).or_default() += 1;
    }
    let names: Vec<&str> = ticks.keys().map(|name| name.trim_start_matches("minute-")).collect();
    let numbers: Vec<i64> = names.iter().filter_map(|name| name.parse().ok()).collect();
    let gaps = numbers.windows(2).filter(|pair| !follows(pair[0], pair[1])).count();
    if gaps > 0 || numbers.len() as u64 + 1 < minutes {
        bail!("ticks are missing: {names:?} in {minutes} minutes");
    }
    let stored = std::fs::read_dir(gateway.objects.join(BUCKET).join("minute"))?.count();
    load.back(CALM).await?;
    // The newest one as a new cluster, with the content of its revision.
    let newest = children.last().context("no backup")?;
    let name = newest["metadata"]["name"].as_str().unwrap_or_default();
    let restored = restored(cluster, "again", name, "sealing").await?;
    let keys = restored
        .0
        .access()
        .await?
        .client()
        .await?
        .get("e2e/", Some(counting()))
        .await?
        .count();
    let told = newest["status"]["verified"]["keys"].as_i64().unwrap_or(0);
    if keys == 0 || keys > told {
        bail!("{keys} keys of the writer were restored, of {told} in all");
    }
    lab.kubectl(&["-n", namespace, "delete", "etcd", "again", "--wait=false"])
        .await?;
    let said = format!(
        "{} ticks, each once, all verified, operator killed {killed} times, {stored} objects; restored {keys} keys in {:.1} s",
        ticks.len(),
        restored.1.as_secs_f64()
    );
    gateway.stop().await?;
    Ok(said)
}

/// Whether a time of the form YYYYMMDDHHMM is a minute after another.
fn follows(before: i64, after: i64) -> bool {
    after - before == 1 || (before % 100 == 59 && after % 100 == 0)
}

fn counting() -> etcd_client::GetOptions {
    etcd_client::GetOptions::new().with_prefix().with_count_only()
}

async fn restored(cluster: &Cluster, name: &str, backup: &str, key: &str) -> anyhow::Result<(Cluster, Duration)> {
    let lab = &cluster.lab;
    let object = lab.get(&["-n", &cluster.namespace, "etcdbackup", backup]).await?;
    let mut source = object["spec"]["destination"].clone();
    let uri = object["status"]["artifact"]["uri"]
        .as_str()
        .context("it stored nothing")?;
    let place = format!("s3://{}/", source["s3"]["bucket"].as_str().unwrap_or_default());
    let stored = uri
        .strip_prefix(&place)
        .with_context(|| format!("{uri} does not lie in {place}"))?;
    source["s3"]["key"] = stored.into();
    if let Some(s3) = source["s3"].as_object_mut() {
        s3.remove("prefix");
    }
    source["encryptionSecretRef"]["name"] = key.into();
    let manifest = serde_json::json!({
        "apiVersion": "quorate.dev/v1alpha1", "kind": "EtcdCluster", "metadata": { "name": name },
        "spec": { "replicas": 1, "bootstrap": { "restore": { "source": source } } },
    });
    let began = Instant::now();
    lab.apply(&cluster.namespace, &manifest.to_string()).await?;
    let restored = Cluster::new(lab, &cluster.namespace, name);
    restored.available(Duration::from_secs(120)).await?;
    Ok((restored, began.elapsed()))
}

/// What can be wrong with a store, an artifact and a key: each is told, and nothing is restored from it.
pub async fn faults(cluster: &Cluster) -> anyhow::Result<String> {
    let (lab, namespace) = (&cluster.lab, cluster.namespace.as_str());
    let gateway = Gateway::start(lab).await?;
    secrets(lab, namespace).await?;
    let mut seen = Vec::new();
    for (name, destination, word) in [
        (
            "wrong-credentials",
            gateway.destination(BUCKET, "s3-wrong", ""),
            "credentials",
        ),
        ("no-bucket", gateway.destination("nothing-here", "s3", ""), "bucket"),
    ] {
        lab.apply(namespace, &backup(name, &cluster.name, &destination, ""))
            .await?;
        let object = ended(lab, namespace, name, Duration::from_secs(180)).await?;
        let message = object["status"]["message"].as_str().unwrap_or_default().to_owned();
        if object["status"]["phase"] != "Failed" || !message.contains(word) {
            bail!("{name}: {}", object["status"]);
        }
        seen.push(format!("{name}: {message}"));
    }
    lab.apply(
        namespace,
        &backup(
            "good",
            &cluster.name,
            &gateway.destination(BUCKET, "s3", ", prefix: good"),
            "",
        ),
    )
    .await?;
    let object = ended(lab, namespace, "good", Duration::from_secs(120)).await?;
    if object["status"]["phase"] != "Completed" {
        bail!("good: {}", object["status"]);
    }
    let told = |name: &'static str, word: &'static str| async move {
        lab.until(Duration::from_secs(120), "the restore is refused", || async {
            let object = lab.get(&["-n", namespace, "etcd", name]).await?;
            let text = object["status"].to_string();
            if object["status"]["readyReplicas"].as_i64().unwrap_or(0) > 0 {
                bail!("{name} serves");
            }
            if text.contains(word) { Ok(()) } else { bail!("{text}") }
        })
        .await
    };
    // With another key.
    let attempt = restored(cluster, "other-key", "good", "sealing-other");
    if tokio::time::timeout(Duration::from_secs(25), attempt)
        .await
        .is_ok_and(|done| done.is_ok())
    {
        bail!("it was restored with another key");
    }
    told("other-key", "key").await.context("another key")?;
    // With one bit flipped.
    let uri = object["status"]["artifact"]["uri"].as_str().context("no uri")?;
    let path = gateway.objects.join(uri.trim_start_matches("s3://"));
    let mut bytes = std::fs::read(&path).with_context(|| format!("{} behind the gateway", path.display()))?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes)?;
    let attempt = restored(cluster, "flipped", "good", "sealing");
    if tokio::time::timeout(Duration::from_secs(25), attempt)
        .await
        .is_ok_and(|done| done.is_ok())
    {
        bail!("it was restored with a bit flipped");
    }
    told("flipped", "is damaged").await.context("a flipped bit")?;
    for name in ["other-key", "flipped"] {
        lab.kubectl(&["-n", namespace, "delete", "etcd", name, "--wait=false"])
            .await?;
    }
    gateway.stop().await?;
    Ok(seen.join("; "))
}

/// All volumes of a cluster are deleted: back from the newest verified backup, as its owner allowed.
pub async fn all_volumes_deleted(lab: &Lab) -> anyhow::Result<String> {
    let namespace = "e2e-lost";
    let gateway = Gateway::start(lab).await?;
    let manifest = "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata: {name: db}\nspec:\n  replicas: 3\n  recovery: \
                    {fromBackup: Automatic}\n";
    let cluster = Cluster::make(lab, namespace, "db", manifest, 3).await?;
    secrets(lab, namespace).await?;
    let mut client = cluster.access().await?.client().await?;
    for number in 0..500 {
        client.put(format!("before/{number}"), "x", None).await?;
    }
    lab.apply(
        namespace,
        &backup("last", "db", &gateway.destination(BUCKET, "s3", ", prefix: lost"), ""),
    )
    .await?;
    let taken = ended(lab, namespace, "last", Duration::from_secs(120)).await?;
    if taken["status"]["verified"].is_null() {
        bail!("the backup is not verified: {}", taken["status"]);
    }
    let before = client.put("after", "the backup", None).await?;
    let before = before.header().map_or(0, etcd_client::ResponseHeader::revision);
    let began = Instant::now();
    lab.kubectl(&[
        "-n",
        namespace,
        "delete",
        "pvc",
        "-l",
        "quorate.dev/cluster=db",
        "--wait=false",
    ])
    .await?;
    lab.kubectl(&[
        "-n",
        namespace,
        "delete",
        "pods",
        "-l",
        "quorate.dev/cluster=db",
        "--grace-period=0",
        "--force",
    ])
    .await?;
    let back = lab.until(Duration::from_secs(300), "the cluster is back", || async {
        let mut client = cluster.access().await?.client().await?;
        let answer = client.get("before/", Some(counting())).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        if answer.count() == 500 && revision > before {
            Ok(revision)
        } else {
            bail!(
                "{} of 500 keys at revision {revision}, which was {before} before",
                answer.count()
            )
        }
    });
    let revision = back.await?;
    let took = began.elapsed();
    let pods = cluster.settled(3, Duration::from_secs(240)).await?;
    gateway.stop().await?;
    lab.kubectl(&["delete", "namespace", namespace, "--wait=false"]).await?;
    Ok(format!(
        "500 keys after {:.1} s, {} members after {:.1} s; revision {before} became {revision}",
        took.as_secs_f64(),
        pods.len(),
        began.elapsed().as_secs_f64()
    ))
}
