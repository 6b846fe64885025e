//! How a cluster is reached: endpoints and certificates, and what is asked of single members.

use anyhow::{Context, bail};
use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, SortOrder, SortTarget, TlsOptions, WatchOptions,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::history::Event;

/// Endpoints and, with TLS, the client's certificates.
#[derive(Debug, Clone)]
pub struct Access {
    /// URLs.
    pub endpoints: Vec<String>,
    tls: Option<TlsOptions>,
}

/// What a member says of itself.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// Where it was asked.
    pub endpoint: String,
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The leader that it knows; 0 when none.
    pub leader: u64,
}

impl Access {
    /// Plain TCP.
    pub fn plain(endpoints: Vec<String>) -> Access {
        Access { endpoints, tls: None }
    }

    /// TLS with a client certificate. Files that cannot be read show when the client connects.
    pub fn secure(endpoints: Vec<String>, ca: &Path, cert: &Path, key: &Path) -> Access {
        let read = |path: &Path| std::fs::read(path).unwrap_or_default();
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read(ca)))
            .identity(Identity::from_pem(read(cert), read(key)));
        Access {
            endpoints,
            tls: Some(tls),
        }
    }

    /// TLS with a certificate of the client's own; servers are known under `server`, whatever address they have.
    pub fn secure_as(endpoints: Vec<String>, authority: &str, certificate: &str, key: &str, server: &str) -> Access {
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(authority))
            .identity(Identity::from_pem(certificate, key))
            .domain_name(server);
        Access {
            endpoints,
            tls: Some(tls),
        }
    }

    /// The newest revision, by a linearizable read.
    pub async fn revision(&self) -> anyhow::Result<i64> {
        let answer = self.client().await?.get("none", None).await?;
        Ok(answer.header().context("no header")?.revision())
    }

    /// What a client.env (lines `export ETCDCTL_NAME=value`) says.
    pub fn from_client_env(path: &Path) -> anyhow::Result<Access> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let values: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .map(|(name, value)| (name, value.trim_matches(['\'', '"'])))
            .collect();
        let endpoints = values
            .get("ETCDCTL_ENDPOINTS")
            .context("client.env has no ETCDCTL_ENDPOINTS")?;
        let read = |name: &str| -> anyhow::Result<Option<Vec<u8>>> {
            values
                .get(name)
                .map(|file| std::fs::read(file).with_context(|| format!("{name} names {file}, which cannot be read")))
                .transpose()
        };
        let mut tls = None;
        if let Some(ca) = read("ETCDCTL_CACERT")? {
            let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
            if let (Some(cert), Some(key)) = (read("ETCDCTL_CERT")?, read("ETCDCTL_KEY")?) {
                options = options.identity(Identity::from_pem(cert, key));
            }
            tls = Some(options);
        }
        Ok(Access {
            endpoints: endpoints.split(',').map(str::to_owned).collect(),
            tls,
        })
    }

    /// A client of some endpoints; connects when it is used.
    pub async fn client_of(&self, endpoints: &[String], timeout: Duration) -> anyhow::Result<Client> {
        let mut options = ConnectOptions::new()
            .with_timeout(timeout)
            .with_connect_timeout(Duration::from_secs(1));
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.clone());
        }
        Ok(Client::connect(endpoints, Some(options)).await?)
    }

    /// A client of the first endpoint that answers.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let mut last = anyhow::anyhow!("no endpoints");
        for endpoint in &self.endpoints {
            let mut client = self
                .client_of(std::slice::from_ref(endpoint), Duration::from_secs(10))
                .await?;
            match tokio::time::timeout(Duration::from_secs(2), client.status()).await {
                Ok(Ok(_)) => return Ok(client),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = anyhow::anyhow!("{endpoint} does not answer"),
            }
        }
        Err(last)
    }

    /// What each endpoint says within two seconds; those that say nothing are left out.
    pub async fn views(&self) -> Vec<MemberView> {
        let asked = self.endpoints.iter().map(|endpoint| {
            let (access, endpoint) = (self.clone(), endpoint.clone());
            tokio::spawn(async move { access.view(&endpoint).await.ok() })
        });
        let mut found = Vec::new();
        for one in asked.collect::<Vec<_>>() {
            found.extend(one.await.ok().flatten());
        }
        found
    }

    async fn view(&self, endpoint: &str) -> anyhow::Result<MemberView> {
        let mut client = self.client_of(&[endpoint.to_owned()], Duration::from_secs(2)).await?;
        let limit = Duration::from_secs(2);
        let status = tokio::time::timeout(limit, client.status()).await??;
        let header = status.header().context("no header")?;
        // A serializable list: members are wanted also when there is no quorum. The client asks a linearizable one, so
        // without a leader there is no name.
        let mut name = String::new();
        if status.leader() != 0 {
            let members = tokio::time::timeout(limit, client.member_list()).await??;
            let me = members
                .members()
                .iter()
                .find(|member| member.id() == header.member_id());
            name = me.map(|member| member.name().to_owned()).unwrap_or_default();
        }
        Ok(MemberView {
            endpoint: endpoint.to_owned(),
            id: header.member_id(),
            name,
            leader: status.leader(),
        })
    }

    /// The leader, once `n` members answer and agree on it.
    pub async fn settled(&self, n: usize, limit: Duration) -> anyhow::Result<MemberView> {
        let end = Instant::now() + limit;
        loop {
            let views = self.views().await;
            let leader = views.iter().find(|view| view.id == view.leader);
            if let Some(leader) = leader
                && views.len() == n
                && views.iter().all(|view| view.leader == leader.id)
            {
                return Ok(leader.clone());
            }
            if Instant::now() > end {
                bail!("after {limit:?} there are not {n} members that agree on a leader: {views:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Hash of the key space at one revision, which must be the same at every endpoint.
    pub async fn equal_hash(&self) -> anyhow::Result<String> {
        let mut first = self.client().await?;
        // A linearizable read tells the newest revision; the others are given time to reach it.
        let revision = first.get("none", None).await?.header().context("no header")?.revision();
        let mut hashes = Vec::new();
        for endpoint in &self.endpoints {
            let mut client = self
                .client_of(std::slice::from_ref(endpoint), Duration::from_secs(10))
                .await?;
            let end = Instant::now() + Duration::from_secs(20);
            let hash = loop {
                match client.hash_kv(revision).await {
                    Ok(hash) => break hash,
                    Err(error) if Instant::now() > end => return Err(error).with_context(|| endpoint.clone()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            };
            hashes.push((endpoint.clone(), hash.hash(), hash.compact_version()));
        }
        let (_, hash, compacted) = hashes.first().context("no endpoints")?.clone();
        if hashes.iter().any(|one| (one.1, one.2) != (hash, compacted)) {
            bail!("HashKV at revision {revision} differs: {hashes:?}");
        }
        Ok(format!(
            "{hash} at revision {revision}, compacted {compacted}, {} members",
            hashes.len()
        ))
    }

    /// Every put of keys with a prefix, and the revision up to which the history is compacted.
    pub async fn history(&self, prefix: &str) -> anyhow::Result<(Vec<Event>, i64)> {
        let mut client = self.client().await?;
        let newest = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_sort(SortTarget::Mod, SortOrder::Descend)
            .with_limit(1);
        let newest = client.get(prefix, Some(newest)).await?;
        let Some(last) = newest.kvs().first().map(|kv| kv.mod_revision()) else {
            return Ok((Vec::new(), 0));
        };
        let (mut events, mut compacted) = (Vec::new(), 0);
        let mut client = self.client_of(&self.endpoints, Duration::from_secs(60)).await?;
        let mut stream = client
            .watch(prefix, Some(WatchOptions::new().with_prefix().with_start_revision(1)))
            .await?;
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), stream.message()).await;
            let next = next.context("the history did not come within 30 s")??;
            let response = next.context("the watch ended")?;
            if response.canceled() {
                if response.compact_revision() == 0 || compacted != 0 {
                    bail!("the watch was cancelled: {}", response.cancel_reason());
                }
                // Of what was compacted the current state is left; the history begins after it.
                compacted = response.compact_revision() - 1;
                let options = WatchOptions::new().with_prefix().with_start_revision(compacted + 1);
                stream = client.watch(prefix, Some(options)).await?;
                if compacted >= last {
                    return Ok((events, compacted));
                }
                continue;
            }
            for kv in response.events().iter().filter_map(|event| event.kv()) {
                events.push(Event {
                    revision: kv.mod_revision(),
                    key: kv.key_str()?.to_owned(),
                    value: kv.value_str()?.to_owned(),
                });
            }
            if events.last().is_some_and(|event| event.revision >= last) {
                return Ok((events, compacted));
            }
        }
    }
}
