//! What can be asked of a member, and the way to it: over the network to a real one, or to one that a test holds.
//!
//! Invariant: nothing here has a deadline; [`super::Member`] gives each question its own.

use super::range::{Entry, Page};
use super::{Access, Alarm, Error, HashKv, Listed, QUICK, Status};
use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Certificate, Client, CompactionOptions, ConnectOptions, GetOptions, Identity,
    MemberAddOptions, SnapshotStreaming, TlsOptions,
};
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// The member said so, or cannot be reached.
    Refused(Box<etcd_client::Error>),
    /// This part of the answer is absent.
    Missing(&'static str),
}

impl From<etcd_client::Error> for Trouble {
    fn from(error: etcd_client::Error) -> Trouble {
        Trouble::Refused(Box::new(error))
    }
}

/// An answer that is under way.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send + 'a>>;
/// A connection that is being made.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Arc<dyn Calls>, Error>> + Send + 'a>>;
/// A stream of bytes that is being opened.
pub type Opening<'a> = Pin<Box<dyn Future<Output = std::io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// A stream of bytes to a member.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The way to members.
pub trait Reach: Debug + Send + Sync {
    /// A connection to the member that serves clients at `endpoint`; its certificate must be valid for `name`, where one
    /// is given.
    fn dial<'a>(&'a self, endpoint: &'a str, name: Option<&'a str>, access: Option<&'a Access>) -> Dialling<'a>;

    /// A plain stream to a port of a member, to shake hands over.
    fn open<'a>(&'a self, address: &'a str, port: i32) -> Opening<'a>;
}

/// The network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Network;

impl Reach for Network {
    fn dial<'a>(&'a self, endpoint: &'a str, name: Option<&'a str>, access: Option<&'a Access>) -> Dialling<'a> {
        Box::pin(async move {
            let client = dial(&[endpoint], name, access).await?;
            Ok(Arc::new(client) as Arc<dyn Calls>)
        })
    }

    fn open<'a>(&'a self, address: &'a str, port: i32) -> Opening<'a> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(format!("{address}:{port}")).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// Questions to one member: etcd's API, as far as the operator uses it. What each means is told at [`super::Member`].
#[allow(missing_docs)]
pub trait Calls: Send + Sync {
    fn status(&self) -> Answering<'_, Status>;
    fn members(&self) -> Answering<'_, Vec<Listed>>;
    fn linearizable(&self) -> Answering<'_, ()>;
    fn add(&self, peer_urls: Vec<String>, learner: bool) -> Answering<'_, Listed>;
    fn promote(&self, id: u64) -> Answering<'_, ()>;
    fn remove(&self, id: u64) -> Answering<'_, ()>;
    fn update(&self, id: u64, peer_urls: Vec<String>) -> Answering<'_, ()>;
    fn move_leader(&self, target: u64) -> Answering<'_, ()>;
    fn defragment(&self) -> Answering<'_, ()>;
    fn compact(&self, revision: i64, physical: bool) -> Answering<'_, ()>;
    fn alarms(&self) -> Answering<'_, Vec<(u64, Alarm)>>;
    fn disarm(&self, id: u64, alarm: Alarm) -> Answering<'_, ()>;
    fn hash_kv(&self, revision: i64) -> Answering<'_, HashKv>;
    fn count_keys(&self, revision: i64) -> Answering<'_, u64>;
    fn snapshot(&self) -> Answering<'_, SnapshotStreaming>;
    /// Keys of `[from, end)` at a revision (0: the latest) from the member's own store. Not every member that a test
    /// holds has keys.
    fn range(&self, _from: Vec<u8>, _end: Vec<u8>, _limit: i64, _revision: i64) -> Answering<'_, Page> {
        Box::pin(async { Err(Trouble::Missing("keys")) })
    }
}

impl Calls for Client {
    fn status(&self) -> Answering<'_, Status> {
        let mut client = self.maintenance_client();
        Box::pin(async move {
            let answer = client.status().await?;
            let header = answer.header().ok_or(Trouble::Missing("header"))?;
            Ok(Status {
                member_id: header.member_id(),
                cluster_id: header.cluster_id(),
                revision: header.revision(),
                term: answer.raft_term(),
                leader: answer.leader(),
                raft_index: answer.raft_index(),
                applied_index: answer.raft_applied_index(),
                is_learner: answer.is_learner(),
                version: answer.version().to_owned(),
                db_size: unsigned(answer.db_size()),
                db_size_in_use: unsigned(answer.raft_used_db_size()),
                db_size_quota: unsigned(answer.db_size_quota()),
                errors: answer.errors().to_vec(),
            })
        })
    }

    fn members(&self) -> Answering<'_, Vec<Listed>> {
        let mut client = self.cluster_client();
        Box::pin(async move { Ok(client.member_list().await?.members().iter().map(listed).collect()) })
    }

    fn linearizable(&self) -> Answering<'_, ()> {
        let mut client = self.kv_client();
        let options = GetOptions::new().with_count_only().with_limit(1);
        Box::pin(async move { Ok(client.get("health", Some(options)).await.map(drop)?) })
    }

    fn add(&self, peer_urls: Vec<String>, learner: bool) -> Answering<'_, Listed> {
        let mut client = self.cluster_client();
        let options = learner.then(|| MemberAddOptions::new().with_is_learner());
        Box::pin(async move {
            let answer = client.member_add(peer_urls, options).await?;
            Ok(listed(answer.member().ok_or(Trouble::Missing("member"))?))
        })
    }

    fn promote(&self, id: u64) -> Answering<'_, ()> {
        let mut client = self.cluster_client();
        Box::pin(async move { Ok(client.member_promote(id).await.map(drop)?) })
    }

    fn remove(&self, id: u64) -> Answering<'_, ()> {
        let mut client = self.cluster_client();
        Box::pin(async move { Ok(client.member_remove(id).await.map(drop)?) })
    }

    fn update(&self, id: u64, peer_urls: Vec<String>) -> Answering<'_, ()> {
        let mut client = self.cluster_client();
        Box::pin(async move { Ok(client.member_update(id, peer_urls).await.map(drop)?) })
    }

    fn move_leader(&self, target: u64) -> Answering<'_, ()> {
        let mut client = self.maintenance_client();
        Box::pin(async move { Ok(client.move_leader(target).await.map(drop)?) })
    }

    fn defragment(&self) -> Answering<'_, ()> {
        let mut client = self.maintenance_client();
        Box::pin(async move { Ok(client.defragment().await.map(drop)?) })
    }

    fn compact(&self, revision: i64, physical: bool) -> Answering<'_, ()> {
        let mut client = self.kv_client();
        let options = physical.then(|| CompactionOptions::new().with_physical());
        Box::pin(async move { Ok(client.compact(revision, options).await.map(drop)?) })
    }

    fn alarms(&self) -> Answering<'_, Vec<(u64, Alarm)>> {
        let mut client = self.maintenance_client();
        Box::pin(async move {
            let answer = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
            Ok(answer
                .alarms()
                .iter()
                .filter_map(|alarm| match alarm.alarm() {
                    AlarmType::Nospace => Some((alarm.member_id(), Alarm::NoSpace)),
                    AlarmType::Corrupt => Some((alarm.member_id(), Alarm::Corrupt)),
                    AlarmType::None => None,
                })
                .collect())
        })
    }

    fn disarm(&self, id: u64, alarm: Alarm) -> Answering<'_, ()> {
        let mut client = self.maintenance_client();
        let kind = match alarm {
            Alarm::NoSpace => AlarmType::Nospace,
            Alarm::Corrupt => AlarmType::Corrupt,
        };
        let mut options = AlarmOptions::new();
        options.with_member(id);
        Box::pin(async move {
            Ok(client
                .alarm(AlarmAction::Deactivate, kind, Some(options))
                .await
                .map(drop)?)
        })
    }

    fn hash_kv(&self, revision: i64) -> Answering<'_, HashKv> {
        let mut client = self.maintenance_client();
        Box::pin(async move {
            let answer = client.hash_kv(revision).await?;
            let header = answer.header().ok_or(Trouble::Missing("header"))?;
            // hash_revision came with etcd 3.6; before, the header's is the one that was hashed when none was asked for.
            let hashed = match answer.hash_revision() {
                0 if revision == 0 => header.revision(),
                0 => revision,
                hashed => hashed,
            };
            Ok(HashKv {
                hash: answer.hash(),
                revision: hashed,
                compact_revision: answer.compact_version(),
            })
        })
    }

    fn count_keys(&self, revision: i64) -> Answering<'_, u64> {
        let mut client = self.kv_client();
        let options = GetOptions::new()
            .with_all_keys()
            .with_count_only()
            .with_serializable()
            .with_revision(revision);
        Box::pin(async move { Ok(unsigned(client.get("", Some(options)).await?.count())) })
    }

    fn snapshot(&self) -> Answering<'_, SnapshotStreaming> {
        let mut client = self.maintenance_client();
        Box::pin(async move { Ok(client.snapshot().await?) })
    }

    fn range(&self, from: Vec<u8>, end: Vec<u8>, limit: i64, revision: i64) -> Answering<'_, Page> {
        let mut client = self.kv_client();
        let options = GetOptions::new()
            .with_range(end)
            .with_limit(limit)
            .with_revision(revision)
            .with_serializable();
        Box::pin(async move {
            let mut answer = client.get(from, Some(options)).await?;
            let header = answer.header().ok_or(Trouble::Missing("header"))?;
            let (revision, more) = (header.revision(), answer.more());
            let pairs = answer.take_kvs().into_iter().map(|pair| {
                let (key, value) = pair.into_key_value();
                Entry { key, value }
            });
            Ok(Page {
                entries: pairs.collect(),
                more,
                revision,
            })
        })
    }
}

/// A client of all `endpoints`; certificates are checked against `name` where one is given.
pub(super) async fn dial(endpoints: &[&str], name: Option<&str>, access: Option<&Access>) -> Result<Client, Error> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(QUICK)
        .with_keep_alive(Duration::from_secs(5), Duration::from_secs(3))
        .with_keep_alive_while_idle(false);
    if let Some(access) = access.filter(|_| endpoints.iter().any(|url| url.starts_with("https://"))) {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(&access.authorities));
        if !access.identity.certificate.is_empty() {
            tls = tls.identity(Identity::from_pem(&access.identity.certificate, &access.identity.key));
        }
        if let Some(name) = name {
            tls = tls.domain_name(name);
        }
        options = options.with_tls(tls);
    }
    let refused = |source| Error::Refused {
        endpoint: endpoints.join(","),
        what: "connect",
        source: Box::new(source),
    };
    Client::connect(endpoints, Some(options)).await.map_err(refused)
}

fn listed(member: &etcd_client::Member) -> Listed {
    Listed {
        id: member.id(),
        name: member.name().to_owned(),
        peer_urls: member.peer_urls().to_vec(),
        client_urls: member.client_urls().to_vec(),
        is_learner: member.is_learner(),
    }
}

/// Sizes travel as signed numbers; a negative one would be a fault of the member and counts as nothing.
fn unsigned(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}
