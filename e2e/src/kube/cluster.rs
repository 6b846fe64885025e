//! One `EtcdCluster` on the Kubernetes cluster: what it says of itself, its pods, and how a client reaches it.

use super::lab::Lab;
use crate::access::Access;
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An `EtcdCluster`.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Where it is.
    pub lab: Lab,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// From apply to Available, where that was seen.
    pub became_available: Option<Duration>,
}

/// A member's pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// Its name, which is the member's.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its address.
    pub ip: String,
    /// Its node.
    pub node: String,
    /// Whether all of its containers are ready, and nobody deletes it.
    pub ready: bool,
    /// How often its containers were restarted.
    pub restarts: i64,
    /// The command line of its first container.
    pub arguments: Vec<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Cluster {
    /// A cluster that somebody made, or will make.
    pub fn new(lab: &Lab, namespace: &str, name: &str) -> Cluster {
        Cluster {
            lab: lab.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            became_available: None,
        }
    }

    /// The quick start's cluster in a restricted namespace, Available and settled.
    pub async fn quick_start(lab: &Lab, namespace: &str) -> anyhow::Result<Cluster> {
        let manifest = std::fs::read_to_string(lab.file("config/samples/quick-start.yaml"))?;
        Cluster::make(lab, namespace, "db", &manifest, 3).await
    }

    /// Applies a manifest in a restricted namespace and waits until its cluster of `members` is Available and settled.
    pub async fn make(
        lab: &Lab,
        namespace: &str,
        name: &str,
        manifest: &str,
        members: usize,
    ) -> anyhow::Result<Cluster> {
        lab.restricted_namespace(namespace).await?;
        let mut cluster = Cluster::new(lab, namespace, name);
        let began = Instant::now();
        lab.apply(namespace, manifest).await?;
        cluster.available(Duration::from_secs(180)).await?;
        cluster.became_available = Some(began.elapsed());
        cluster.settled(members, Duration::from_secs(120)).await?;
        Ok(cluster)
    }

    /// `kubectl wait --for=condition=Available`, as a user would.
    pub async fn available(&self, limit: Duration) -> anyhow::Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let name = format!("etcd/{}", self.name);
        let wait = [
            "-n",
            &self.namespace,
            "wait",
            "--for=condition=Available",
            &name,
            &timeout,
        ];
        let said = self.lab.tool("kubectl", &wait, limit + Duration::from_secs(10)).await?;
        said.ok().map(drop)
    }

    /// The object.
    pub async fn object(&self) -> anyhow::Result<Value> {
        self.lab.get(&["-n", &self.namespace, "etcd", &self.name]).await
    }

    /// Merges a JSON text into the object.
    pub async fn patch(&self, patch: &str) -> anyhow::Result<()> {
        let arguments = [
            "-n",
            &self.namespace,
            "patch",
            "etcd",
            &self.name,
            "--type=merge",
            "-p",
            patch,
        ];
        self.lab.kubectl(&arguments).await.map(drop)
    }

    /// The status of a condition: True, False, Unknown, or nothing.
    pub fn condition(object: &Value, kind: &str) -> Option<String> {
        let conditions = object["status"]["conditions"].as_array()?;
        let found = conditions.iter().find(|condition| condition["type"] == kind)?;
        Some(text(&found["status"]))
    }

    /// The members' pods, by name.
    pub async fn pods(&self) -> anyhow::Result<Vec<Pod>> {
        let selector = format!("quorate.dev/cluster={},quorate.dev/role=member", self.name);
        let list = self.lab.list(&["-n", &self.namespace, "pods", "-l", &selector]).await?;
        let mut pods: Vec<Pod> = list
            .iter()
            .map(|pod| {
                let statuses = pod["status"]["containerStatuses"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let arguments = pod["spec"]["containers"][0]["args"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                Pod {
                    name: text(&pod["metadata"]["name"]),
                    uid: text(&pod["metadata"]["uid"]),
                    ip: text(&pod["status"]["podIP"]),
                    node: text(&pod["spec"]["nodeName"]),
                    ready: pod["metadata"]["deletionTimestamp"].is_null()
                        && !statuses.is_empty()
                        && statuses.iter().all(|status| status["ready"] == true),
                    restarts: statuses
                        .iter()
                        .filter_map(|status| status["restartCount"].as_i64())
                        .sum(),
                    arguments: arguments.iter().map(text).collect(),
                }
            })
            .collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// Pods once there are `members`, all ready, and the operator has nothing left to do for the newest spec.
    pub async fn settled(&self, members: usize, limit: Duration) -> anyhow::Result<Vec<Pod>> {
        let what = format!("{} settles with {members} members", self.name);
        self.lab
            .until(limit, &what, || async {
                let object = self.object().await?;
                let status = &object["status"];
                let next = text(&status["plan"]["nextAction"]);
                if status["observedGeneration"] != object["metadata"]["generation"] {
                    bail!("the status is of an older spec; next: {next}");
                }
                if next != "Settled" {
                    bail!("next: {next}; blocked by: {}", status["plan"]["blockedBy"]);
                }
                let pods = self.pods().await?;
                let listed = status["members"].as_array().map_or(0, Vec::len);
                if pods.len() != members || !pods.iter().all(|pod| pod.ready) || listed != members {
                    bail!("{listed} members in status, pods: {pods:?}");
                }
                Ok(pods)
            })
            .await
    }

    /// How clients reach it: the Service and the Secret that are made for them.
    pub async fn access(&self) -> anyhow::Result<Access> {
        self.access_of(None).await
    }

    /// The same for every member, each by its pod's address.
    pub async fn access_of_members(&self) -> anyhow::Result<Access> {
        let addresses = self.pods().await?.into_iter().map(|pod| pod.ip).collect();
        self.access_of(Some(addresses)).await
    }

    async fn access_of(&self, addresses: Option<Vec<String>>) -> anyhow::Result<Access> {
        let (cluster, service, secret) = (
            format!("etcdclusters.quorate.dev/{}", self.name),
            format!("services/{}", self.name),
            format!("secrets/{}-client", self.name),
        );
        let wanted = ["-n", &self.namespace, &cluster, &service, &secret, "--ignore-not-found"];
        let found = self.lab.list(&wanted).await?;
        let of_kind = |kind: &str| {
            let object = found.iter().find(|object| object["kind"] == kind);
            object.with_context(|| format!("{} has no {kind}", self.name))
        };
        let addresses = match addresses {
            Some(addresses) => addresses,
            None => vec![text(&of_kind("Service")?["spec"]["clusterIP"])],
        };
        if of_kind("EtcdCluster")?["spec"]["tls"]["insecure"] == true {
            let urls = addresses.iter().map(|address| format!("http://{address}:2379"));
            return Ok(Access::plain(urls.collect()));
        }
        let endpoints = addresses
            .iter()
            .map(|address| format!("https://{address}:2379"))
            .collect();
        let secret = of_kind("Secret")?;
        let file = |key: &str| -> anyhow::Result<String> {
            let data = secret["data"][key].as_str();
            let data = data.with_context(|| format!("the clients' Secret has no {key}"))?;
            Ok(String::from_utf8(STANDARD.decode(data)?)?)
        };
        let server = format!("{}.{}.svc", self.name, self.namespace);
        Ok(Access::secure_as(
            endpoints,
            &file("ca.crt")?,
            &file("tls.crt")?,
            &file("tls.key")?,
            &server,
        ))
    }

    /// What a program that has the clients' Secret mounted sees of it, until the handle is used.
    pub async fn mounted(&self, every: Duration) -> anyhow::Result<(Arc<Mutex<Access>>, tokio::task::AbortHandle)> {
        let shared = Arc::new(Mutex::new(self.access().await?));
        let (cluster, kept) = (self.clone(), Arc::clone(&shared));
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                // What cannot be read at this moment stays as it was, as on a node without an API server.
                if let Ok(access) = cluster.access().await {
                    *kept.lock().unwrap_or_else(PoisonError::into_inner) = access;
                }
            }
        });
        Ok((shared, task.abort_handle()))
    }

    /// What a person sees, and that every pod meets the restricted Pod Security Standard.
    pub async fn looks_as_it_should(&self) -> anyhow::Result<String> {
        let table = self
            .lab
            .kubectl(&["-n", &self.namespace, "get", "etcd", &self.name])
            .await?;
        for column in [
            "REPLICAS", "READY", "VERSION", "LEADER", "DB%", "REVISION", "STATUS", "AGE",
        ] {
            if !table.contains(column) {
                bail!("kubectl get does not show {column}: {table}");
            }
        }
        let object = self.object().await?;
        for kind in ["Available", "QuorumHealthy"] {
            if Cluster::condition(&object, kind).as_deref() != Some("True") {
                bail!("{kind} is not True: {}", object["status"]["conditions"]);
            }
        }
        if Cluster::condition(&object, "Degraded").as_deref() == Some("True") {
            bail!("it is degraded: {}", object["status"]["conditions"]);
        }
        for member in object["status"]["members"].as_array().context("no members in status")? {
            for field in [
                "name",
                "id",
                "role",
                "health",
                "node",
                "volume",
                "version",
                "observedAt",
            ] {
                if member[field].as_str().is_none_or(str::is_empty) {
                    bail!("status.members[].{field} is empty: {member}");
                }
            }
        }
        let scale = format!(
            "/apis/quorate.dev/v1alpha1/namespaces/{}/etcdclusters/{}/scale",
            self.namespace, self.name
        );
        let scale: Value = serde_json::from_str(&self.lab.kubectl(&["get", "--raw", &scale]).await?)?;
        if scale["spec"]["replicas"] != 3 || scale["status"]["replicas"] != 3 || scale["status"]["selector"].is_null() {
            bail!("/scale says {scale}");
        }
        // A dry run of the label on the namespace lists every pod that would break it.
        let warn = [
            "label",
            "--dry-run=server",
            "--overwrite",
            "namespace",
            &self.namespace,
            "pod-security.kubernetes.io/enforce=restricted",
        ];
        let said = self.lab.tool("kubectl", &warn, Duration::from_secs(30)).await?;
        if said.err.contains("violate") {
            bail!("{}", said.err);
        }
        let line = table.lines().nth(1).unwrap_or_default().to_owned();
        let time = self.became_available.map_or("was there before".to_owned(), |time| {
            format!("Available {:.1} s after apply", time.as_secs_f64())
        });
        Ok(format!("{time}; {line}"))
    }
}
