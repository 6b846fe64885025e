//! A member and the ids that follow from names and URLs.

use proto::etcdserverpb;
use serde::{Deserialize, Deserializer, Serialize};
use sha1::{Digest, Sha1};

use super::json::to_go_json;

/// A member, as it is stored (bucket `members`), proposed (context of a configuration change) and listed (`GET /members` of a
/// peer): one JSON form for all three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The id; decimal in JSON, hex wherever people see it.
    #[serde(default)]
    pub id: u64,
    /// Where its peers reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_as_empty")]
    pub peer_urls: Vec<String>,
    /// Whether it learns only, without a vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Its name; empty until it has started for the first time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has started.
    #[serde(
        rename = "clientURLs",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_empty"
    )]
    pub client_urls: Vec<String>,
}

/// The context of a configuration change that adds or promotes a member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeContext {
    /// The member.
    #[serde(flatten)]
    pub member: Member,
    /// Adding a voter and promoting a learner are the same to raft; this tells them apart.
    #[serde(rename = "isPromote", default)]
    pub is_promote: bool,
}

impl Member {
    /// A member with the id that follows from its peer URLs, the cluster's token and, for one that joins a running cluster, the
    /// time in seconds since 1970.
    pub fn new(name: &str, peer_urls: &[String], cluster_token: &str, now_unix: Option<i64>) -> Member {
        Member {
            id: member_id(peer_urls, cluster_token, now_unix),
            peer_urls: peer_urls.to_vec(),
            name: name.to_owned(),
            ..Member::default()
        }
    }

    /// Whether it has ever started: it tells its name when it does.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        to_go_json(self).expect("strings, numbers and flags always have a JSON form")
    }
}

impl From<&Member> for etcdserverpb::Member {
    fn from(member: &Member) -> etcdserverpb::Member {
        etcdserverpb::Member {
            id: member.id,
            name: member.name.clone(),
            peer_ur_ls: member.peer_urls.clone(),
            client_ur_ls: member.client_urls.clone(),
            is_learner: member.is_learner,
        }
    }
}

impl ChangeContext {
    /// The JSON form.
    pub fn to_json(&self) -> String {
        to_go_json(self).expect("strings, numbers and flags always have a JSON form")
    }
}

/// The id of a member: SHA-1 over its sorted peer URLs, the cluster token and the time (etcd
/// server/etcdserver/api/membership/member.go). The token is empty for members that join a running cluster.
pub fn member_id(peer_urls: &[String], cluster_token: &str, now_unix: Option<i64>) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    urls.iter().for_each(|url| hash.update(url));
    hash.update(cluster_token);
    if let Some(now) = now_unix {
        hash.update(now.to_string());
    }
    first_eight(hash)
}

/// The id of a new cluster: SHA-1 over the ids of its first members, ascending.
pub fn cluster_id(member_ids: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<u64> = member_ids.into_iter().collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    ids.iter().for_each(|id| hash.update(id.to_be_bytes()));
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    digest
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn null_as_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_false(flag: &bool) -> bool {
    !flag
}
