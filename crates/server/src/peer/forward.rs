//! Requests to other members besides raft: joining a cluster, asking versions, and handing to the leader what only it may do.
//!
//! Invariants: every URL of the other member is tried once, and the last error is the one that is told.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use prost::Message as _;
use proto::etcdserverpb::{HashKvResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, Member, ResponseHeader};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};

use super::dial::{Identity, full};
use super::{incarnations, parse_members};
use crate::handle::Error;

/// The versions that a member states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// The server's own, e.g. `3.7.3`.
    pub server: String,
    /// The cluster's, or `not_decided`.
    pub cluster: String,
}

impl Identity {
    /// The members as another member knows them, and the cluster id that it states.
    ///
    /// # Errors
    /// No URL answered with a list of members.
    pub async fn fetch_members(&self, urls: &[String]) -> io::Result<(u64, Vec<Member>)> {
        let mut last = io::Error::other("no peer URL was given");
        for url in urls {
            let fetched = async {
                let mut connection = self.connect(url).await?;
                let request = self.request(Method::GET, url, "/members", full(""))?;
                let response = self.send(&mut connection, request).await?;
                if response.status() != StatusCode::OK {
                    return Err(io::Error::other(format!(
                        "{url}/members answered {}",
                        response.status()
                    )));
                }
                let cluster = response
                    .headers()
                    .get("x-etcd-cluster-id")
                    .and_then(|value| value.to_str().ok());
                let cluster = cluster.and_then(|id| u64::from_str_radix(id, 16).ok());
                let cluster = cluster.ok_or_else(|| io::Error::other(format!("{url}/members names no cluster id")))?;
                let body =
                    http_body_util::BodyExt::collect(http_body_util::Limited::new(response.into_body(), 16 << 20));
                let body = tokio::time::timeout(self.timeout, body)
                    .await
                    .map_err(io::Error::other)?;
                Ok((cluster, parse_members(&body.map_err(io::Error::other)?.to_bytes())?))
            };
            match fetched.await {
                Ok(members) => return Ok(members),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Why another member takes this one's data directory for a new, empty one; `None` when it does not, or does not answer.
    pub async fn refused_incarnation(&self, urls: &[String]) -> Option<String> {
        let answer = self.first(urls, Method::GET, "/members", &[], Bytes::new()).await;
        let (status, body) = answer.ok()?;
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        (status == StatusCode::PRECONDITION_FAILED && incarnations::is_refusal(&text)).then_some(text)
    }

    /// The versions of another member.
    ///
    /// # Errors
    /// No URL answered.
    pub async fn fetch_versions(&self, urls: &[String]) -> io::Result<Versions> {
        let (_, body) = self.first(urls, Method::GET, "/version", &[], Bytes::new()).await?;
        let json: serde_json::Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        let text = |name: &str| {
            json.get(name)
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        Ok(Versions {
            server: text("etcdserver"),
            cluster: text("etcdcluster"),
        })
    }

    /// Has the leader promote a learner, on behalf of a token's holder.
    ///
    /// # Errors
    /// What the leader answered.
    pub async fn forward_promote(&self, urls: &[String], id: u64, token: Option<&str>) -> Result<Vec<Member>, Error> {
        let path = format!("/members/promote/{id}");
        let headers: Vec<_> = token.map(|token| ("authorization", token)).into_iter().collect();
        let (status, body) = self
            .first(urls, Method::POST, &path, &headers, Bytes::new())
            .await
            .map_err(failed)?;
        let text = String::from_utf8_lossy(&body);
        match status {
            StatusCode::OK => parse_members(&body).map_err(failed),
            StatusCode::NOT_FOUND => Err(Error::MemberNotFound),
            StatusCode::PRECONDITION_FAILED if text.contains("in sync with leader") => Err(Error::LearnerNotReady),
            StatusCode::PRECONDITION_FAILED => Err(Error::MemberNotLearner),
            StatusCode::REQUEST_TIMEOUT => Err(Error::Timeout),
            other => Err(Error::Internal(format!(
                "promote: the leader answered {other}: {}",
                text.trim()
            ))),
        }
    }

    /// Has the leader renew a lease.
    ///
    /// # Errors
    /// `requested lease not found`, or what went wrong on the way (worth another try).
    pub async fn forward_lease_renew(
        &self,
        urls: &[String],
        request: &LeaseKeepAliveRequest,
    ) -> Result<LeaseKeepAliveResponse, Error> {
        let body = self.lease(urls, "/leases", request.encode_to_vec()).await?;
        LeaseKeepAliveResponse::decode(body).map_err(|error| Error::Internal(error.to_string()))
    }

    /// Has the leader look a lease up.
    ///
    /// # Errors
    /// As [`Identity::forward_lease_renew`].
    pub async fn forward_lease_time_to_live(
        &self,
        urls: &[String],
        request: &LeaseInternalRequest,
    ) -> Result<LeaseInternalResponse, Error> {
        let body = self.lease(urls, "/leases/internal", request.encode_to_vec()).await?;
        LeaseInternalResponse::decode(body).map_err(|error| Error::Internal(error.to_string()))
    }

    /// The hash of another member's key space at a revision.
    ///
    /// # Errors
    /// What the member answered: a future or compacted revision, another cluster, or no answer.
    pub async fn fetch_hash_kv(&self, urls: &[String], revision: i64) -> io::Result<HashKvResponse> {
        let body = format!("{{\"revision\":{revision}}}");
        let headers = [("content-type", "application/json")];
        let (status, body) = self
            .first(urls, Method::GET, "/members/hashkv", &headers, body.into())
            .await?;
        if status != StatusCode::OK {
            return Err(io::Error::other(String::from_utf8_lossy(&body).trim().to_owned()));
        }
        let json: serde_json::Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        let number =
            |value: &serde_json::Value, name: &str| value.get(name).and_then(serde_json::Value::as_i64).unwrap_or(0);
        let header = json.get("header").cloned().unwrap_or_default();
        Ok(HashKvResponse {
            header: Some(ResponseHeader {
                revision: number(&header, "revision"),
                ..ResponseHeader::default()
            }),
            hash: number(&json, "hash") as u32,
            compact_revision: number(&json, "compact_revision"),
            hash_revision: number(&json, "hash_revision"),
        })
    }

    async fn lease(&self, urls: &[String], path: &str, body: Vec<u8>) -> Result<Bytes, Error> {
        let headers = [("content-type", "application/protobuf")];
        let asked = Bytes::from(body);
        let mut answer = Err(io::Error::other("no peer URL was given"));
        for url in urls {
            answer = self.call_again(Method::POST, url, path, &headers, &asked).await;
            if answer.is_ok() {
                break;
            }
        }
        let (status, body) = answer.map_err(failed)?;
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::NOT_FOUND => Err(Error::Refused(replica::state_machine::Error::LeaseNotFound)),
            StatusCode::REQUEST_TIMEOUT => Err(Error::Timeout),
            other => Err(Error::Internal(format!(
                "lease: unknown error({other} {})",
                String::from_utf8_lossy(&body).trim()
            ))),
        }
    }

    /// The first answer that any of the URLs gives.
    async fn first(
        &self,
        urls: &[String],
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> io::Result<(StatusCode, Bytes)> {
        let mut last = io::Error::other("no peer URL was given");
        for url in urls {
            match self.call(method.clone(), url, path, headers, full(body.clone())).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The same identity with another bound on every call.
    #[must_use]
    pub fn within(&self, timeout: Duration) -> Identity {
        Identity {
            timeout,
            ..self.clone()
        }
    }
}

fn failed(error: io::Error) -> Error {
    Error::Internal(error.to_string())
}
