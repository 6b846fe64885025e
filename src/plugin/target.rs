//! Which cluster is meant, and how its members are reached from here.
//!
//! Invariant: a cluster that is not named is taken only when there is no other.

use super::Place;
use super::fetch::{self, Answer, Asker};
use super::forward::{self, Forward};
use crate::api::status::EtcdClusterStatus;
use crate::api::{EtcdBackup, EtcdCluster};
use crate::certificates::Pair;
use crate::member::{Access, Connections, Member};
use crate::plan::Wanted;
use crate::platform::kubernetes::names::{CLIENT_PORT, CLUSTER, MEMBER, Names, ROLE};
use crate::platform::local::backups;
use crate::platform::local::records::{ClusterRecord, Layout};
use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, ResourceExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where clusters are looked for.
pub enum Target {
    /// In a namespace.
    Kubernetes {
        /// The API server.
        client: Client,
        /// The namespace.
        namespace: String,
        /// Authorities of the API server's certificate, in DER.
        authorities: Vec<Vec<u8>>,
    },
    /// In a directory of `quorate local up`.
    Directory(PathBuf),
    /// At endpoints.
    Endpoints {
        /// Client URLs.
        urls: Vec<String>,
        /// What is shown to them.
        access: Option<Access>,
    },
}

/// A cluster.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// The object; on one machine it is in a file that is not known here.
    pub object: Option<EtcdCluster>,
    /// What the operator published last.
    pub status: EtcdClusterStatus,
}

/// A member that can be talked to.
#[derive(Debug, Clone)]
pub struct Door {
    /// The member's name; its URL until it told its name.
    pub name: String,
    /// Where it is reached from here.
    pub url: String,
    /// The name that its certificate must be valid for, where it is not the URL's host.
    pub host: Option<String>,
}

/// The members of a cluster, and what is shown to them.
pub struct Reach {
    /// Members that run.
    pub doors: Vec<Door>,
    /// What is shown to them.
    pub access: Option<Access>,
    connections: Arc<Connections>,
    _forwards: Vec<Forward>,
}

impl Target {
    /// As the flags say.
    pub async fn open(place: &Place) -> anyhow::Result<Target> {
        if let Some(directory) = &place.dir {
            let directory = std::fs::canonicalize(directory).with_context(|| {
                format!(
                    "no such directory: {}; give --dir the directory of `local up`",
                    directory.display()
                )
            })?;
            return Ok(Target::Directory(directory));
        }
        if !place.endpoints.is_empty() {
            return Ok(Target::Endpoints {
                urls: place
                    .endpoints
                    .iter()
                    .map(|url| url.trim_end_matches('/').to_owned())
                    .collect(),
                access: access(place)?,
            });
        }
        if let Some(file) = &place.kubeconfig {
            let loaded = kube::config::Kubeconfig::read_from(file);
            let loaded = loaded.with_context(|| format!("--kubeconfig {}", file.display()))?;
            return Target::kubernetes(
                place,
                kube::Config::from_custom_kubeconfig(loaded, &options(place)).await,
            );
        }
        Target::kubernetes(place, kube::Config::from_kubeconfig(&options(place)).await)
    }

    fn kubernetes(
        place: &Place,
        config: Result<kube::Config, kube::config::KubeconfigError>,
    ) -> anyhow::Result<Target> {
        let config = config.context(
            "finding the Kubernetes cluster: set KUBECONFIG or --kubeconfig, or give --dir for clusters of this machine",
        )?;
        let namespace = place
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let authorities = config.root_cert.clone().unwrap_or_default();
        let client = Client::try_from(config).context("preparing the client of the API server")?;
        Ok(Target::Kubernetes {
            client,
            namespace,
            authorities,
        })
    }

    /// All clusters, or the one of that name.
    pub async fn clusters(&self, name: Option<&str>) -> anyhow::Result<Vec<Known>> {
        match self {
            Target::Kubernetes { client, namespace, .. } => {
                let api: Api<EtcdCluster> = Api::namespaced(client.clone(), namespace);
                let objects = match name {
                    Some(name) => {
                        let object = api.get_opt(name).await.context("asking the API server")?;
                        vec![
                            object
                                .with_context(|| format!("there is no EtcdCluster {name} in namespace {namespace}"))?,
                        ]
                    }
                    None => {
                        api.list(&ListParams::default())
                            .await
                            .context("listing EtcdClusters")?
                            .items
                    }
                };
                Ok(objects.into_iter().map(Known::from).collect())
            }
            Target::Directory(directory) => {
                let mut found = of_directory(directory)?;
                if let Some(name) = name {
                    found.retain(|known| known.name == name);
                    if found.is_empty() {
                        bail!("there is no cluster {name} in {}", directory.display());
                    }
                }
                Ok(found)
            }
            Target::Endpoints { urls, .. } => bail!(
                "at --endpoints there is an etcd, and no EtcdCluster: use `doctor`, `top`, or `etcdctl --endpoints {} endpoint status --cluster`",
                urls.join(",")
            ),
        }
    }

    /// The cluster of that name, or the only one.
    pub async fn one(&self, name: Option<&str>) -> anyhow::Result<Known> {
        let mut found = self.clusters(name).await?;
        let place = match self {
            Target::Kubernetes { namespace, .. } => format!("namespace {namespace}"),
            Target::Directory(directory) => directory.display().to_string(),
            Target::Endpoints { .. } => String::new(),
        };
        match (found.pop(), found.is_empty()) {
            (Some(known), true) => Ok(known),
            (None, _) => bail!("there is no EtcdCluster in {place}"),
            (Some(last), false) => {
                let names: Vec<String> = found.into_iter().chain([last]).map(|known| known.name).collect();
                bail!("{place} has several clusters, name one of them: {}", names.join(", "))
            }
        }
    }

    /// The backups and policies of a cluster.
    pub async fn backups(&self, cluster: &str) -> anyhow::Result<Vec<EtcdBackup>> {
        let objects = match self {
            Target::Kubernetes { client, namespace, .. } => {
                let api: Api<EtcdBackup> = Api::namespaced(client.clone(), namespace);
                api.list(&ListParams::default())
                    .await
                    .context("listing EtcdBackups")?
                    .items
            }
            Target::Directory(directory) => backups::objects(&Layout::new(directory, cluster))?,
            Target::Endpoints { .. } => Vec::new(),
        };
        Ok(objects.into_iter().filter(|backup| backup.is_of(cluster)).collect())
    }

    /// Opens ways to the members of a cluster that run.
    pub async fn reach(&self, known: &Known) -> anyhow::Result<Reach> {
        match self {
            Target::Kubernetes { client, namespace, .. } => through_api_server(client, namespace, known).await,
            Target::Directory(directory) => on_this_machine(directory, &known.name),
            Target::Endpoints { .. } => self.reach_endpoints().await,
        }
    }

    /// The given endpoints, and of the members that their list names and they do not cover, the advertised ones.
    pub async fn reach_endpoints(&self) -> anyhow::Result<Reach> {
        let Target::Endpoints { urls, access } = self else {
            bail!("give --endpoints");
        };
        let door = |url: &String| Door {
            name: url.clone(),
            url: url.clone(),
            host: None,
        };
        let mut reach = Reach::new(urls.iter().map(door).collect(), access.clone(), Vec::new());
        let mut list = None;
        for door in &reach.doors {
            if let Ok(member) = reach.member(door).await
                && let Ok(members) = member.members().await
            {
                list = Some(members);
                break;
            }
        }
        let mut named: Vec<(u64, usize)> = Vec::new();
        for (at, door) in reach.doors.iter().enumerate() {
            if let Ok(member) = reach.member(door).await
                && let Ok(status) = member.status().await
            {
                named.push((status.member_id, at));
            }
        }
        for member in list.unwrap_or_default() {
            match named.iter().find(|(id, _)| *id == member.id) {
                Some((_, at)) => reach.doors[*at].name = member.name,
                None => {
                    if let Some(url) = member.client_urls.first() {
                        reach.doors.push(Door {
                            name: member.name,
                            url: url.clone(),
                            host: None,
                        });
                    }
                }
            }
        }
        Ok(reach)
    }
}

impl Reach {
    fn new(doors: Vec<Door>, access: Option<Access>, forwards: Vec<Forward>) -> Reach {
        let connections = Connections::new();
        connections.trust(access.clone());
        for door in &doors {
            if let Some(host) = &door.host {
                connections.call(&door.url, host);
            }
        }
        Reach {
            doors,
            access,
            connections,
            _forwards: forwards,
        }
    }

    /// A connection to one member.
    pub async fn member(&self, door: &Door) -> anyhow::Result<Member> {
        Ok(self.connections.member(&door.url).await?)
    }

    /// GET from one member; without `identified` as somebody who has no certificate.
    pub async fn get(&self, door: &Door, path: &str, identified: bool) -> anyhow::Result<Answer> {
        let access = self.access.as_ref();
        let identity = access
            .map(|access| &access.identity)
            .filter(|pair| identified && !pair.certificate.is_empty());
        let asker = Asker {
            authorities: access.map(|access| access.authorities.as_str()),
            identity,
            name: door.host.as_deref(),
        };
        fetch::get(&door.url, path, asker).await
    }
}

impl From<EtcdCluster> for Known {
    fn from(object: EtcdCluster) -> Known {
        Known {
            name: object.name_any(),
            status: object.status.clone().unwrap_or_default(),
            object: Some(object),
        }
    }
}

fn options(place: &Place) -> KubeConfigOptions {
    KubeConfigOptions {
        context: place.context.clone(),
        ..KubeConfigOptions::default()
    }
}

fn access(place: &Place) -> anyhow::Result<Option<Access>> {
    let read = |flag: &str, path: &Option<PathBuf>| -> anyhow::Result<String> {
        let Some(path) = path else { return Ok(String::new()) };
        std::fs::read_to_string(path).with_context(|| format!("{flag} {}", path.display()))
    };
    if place.cacert.is_none() {
        if place.endpoints.iter().any(|url| url.starts_with("https://")) {
            bail!("https endpoints need the authority of their certificates: give --cacert");
        }
        return Ok(None);
    }
    Ok(Some(Access {
        authorities: read("--cacert", &place.cacert)?,
        identity: Pair {
            certificate: read("--cert", &place.cert)?,
            key: read("--key", &place.key)?,
        },
    }))
}

fn of_directory(directory: &Path) -> anyhow::Result<Vec<Known>> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path().join("status.yaml");
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let name = path.parent().and_then(Path::file_name).unwrap_or_default();
        found.push(Known {
            name: name.to_string_lossy().into_owned(),
            object: None,
            status: serde_yaml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn on_this_machine(directory: &Path, cluster: &str) -> anyhow::Result<Reach> {
    let layout = Layout::new(directory, cluster);
    let record =
        ClusterRecord::load(&layout)?.with_context(|| format!("{} holds no cluster {cluster}", directory.display()))?;
    let tls = layout.file("tls");
    let read = |name: &str| {
        let path = tls.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let access = match tls.join("ca.crt").exists() {
        true => Some(Access {
            authorities: read("ca.crt")?,
            identity: Pair {
                certificate: read("client.crt")?,
                key: read("client.key")?,
            },
        }),
        false => None,
    };
    let scheme = if access.is_some() { "https" } else { "http" };
    let doors = record.volumes.iter().map(|(name, volume)| Door {
        name: name.clone(),
        url: format!("{scheme}://127.0.0.1:{}", volume.ports.client),
        host: None,
    });
    Ok(Reach::new(doors.collect(), access, Vec::new()))
}

async fn through_api_server(client: &Client, namespace: &str, known: &Known) -> anyhow::Result<Reach> {
    let object = known.object.as_ref().context("the EtcdCluster is not known")?;
    let mut wanted = Wanted::new(&known.name, &object.uid().unwrap_or_default(), 1);
    wanted.namespace = namespace.to_owned();
    let domain = object
        .spec
        .cluster_domain
        .clone()
        .unwrap_or_else(|| "cluster.local".to_owned());
    let names = Names::new(&wanted, &domain);
    let access = if object.spec.tls.insecure {
        None
    } else {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = secrets
            .get(&names.client_secret())
            .await
            .with_context(|| format!("reading the clients' Secret {namespace}/{}", names.client_secret()))?;
        let part = |key: &str| -> anyhow::Result<String> {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let bytes = bytes.with_context(|| format!("Secret {} has no {key}", secret.name_any()))?;
            Ok(String::from_utf8_lossy(&bytes.0).into_owned())
        };
        Some(Access {
            authorities: part("ca.crt")?,
            identity: Pair {
                certificate: part("tls.crt")?,
                key: part("tls.key")?,
            },
        })
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let selector = format!("{CLUSTER}={},{ROLE}=member", known.name);
    let list = pods
        .list(&ListParams::default().labels(&selector))
        .await
        .context("listing the members' pods")?;
    let scheme = if access.is_some() { "https" } else { "http" };
    let (mut doors, mut forwards) = (Vec::new(), Vec::new());
    for pod in list {
        let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let Some(member) = pod.labels().get(MEMBER).cloned().filter(|_| runs) else {
            continue;
        };
        let forward = forward::open(pods.clone(), pod.name_any(), u16::try_from(CLIENT_PORT)?).await?;
        doors.push(Door {
            url: format!("{scheme}://{}", forward.address),
            host: Some(names.member_host(&member)),
            name: member,
        });
        forwards.push(forward);
    }
    if doors.is_empty() {
        bail!("no member of {} runs", known.name);
    }
    Ok(Reach::new(doors, access, forwards))
}
