//! What only the leader knows: it is asked where this member does not lead (etcd server/etcdserver/v3_server.go).
//!
//! Invariants: a forwarded request is retried until it is answered or the request timeout is over, every 50 ms; answers that
//! say "no" end it at once.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proto::etcdserverpb::{
    HashKvResponse, InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Member as PbMember, ResponseHeader,
};
use proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use replica::state_machine::Error as Refusal;
use replica::state_machine::lease::Renewal;
use tonic::metadata::MetadataMap;

use super::{Member, off_thread};
use crate::auth::{Asker, Credentials};
use crate::handle::Error;
use crate::listener::Connection;
use crate::peer::dial::Identity;
use crate::peer::serve::Requests;

const RETRY_AFTER: Duration = Duration::from_millis(50);

impl Member {
    /// Renews a lease, here or on the leader; its TTL in seconds.
    ///
    /// # Errors
    /// `requested lease not found`, and those of waiting.
    pub async fn lease_renew(&self, asker: &Asker, id: i64) -> Result<i64, Error> {
        self.may_renew(asker, id)?;
        match self.lease_renew_here(id).await {
            Err(Error::NotLeader) => {}
            answer => return answer,
        }
        let request = LeaseKeepAliveRequest { id };
        let ask =
            |identity: Identity, urls: Vec<String>| async move { identity.forward_lease_renew(&urls, &request).await };
        let answer = self.ask_leader(ask, is_lease_refusal).await?;
        // The leader answers 0 for a lease that it does not know.
        if answer.ttl <= 0 {
            Err(Error::Refused(Refusal::LeaseNotFound))
        } else {
            Ok(answer.ttl)
        }
    }

    /// Renews a lease on this member, which must lead. In the common case that is one look at the lease table: who leads is known
    /// from the last ticks, and a lease that is known needs no waiting for entries (feature gate FastLeaseKeepAlive).
    async fn lease_renew_here(&self, id: i64) -> Result<i64, Error> {
        if self.leader() != self.handle.member_id() {
            return Err(Error::NotLeader);
        }
        let renewed = match self.leases.renew(id, self.uptime()) {
            // Checked after the renewal: leadership that was lost before it shows by then.
            Renewal::Renewed { ttl } if self.handle.leads_for_sure() => Ok(ttl),
            Renewal::NotPrimary => Err(Error::NotLeader),
            // A new leader must not go by what was left before this renewal.
            Renewal::ClearCheckpointFirst => {
                let checkpoints = vec![LeaseCheckpoint { id, remaining_ttl: 0 }];
                let request = InternalRaftRequest {
                    lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }),
                    ..InternalRaftRequest::default()
                };
                self.handle.propose(request).await?;
                self.handle.lease_renew(id).await
            }
            Renewal::Renewed { .. } | Renewal::NotFound | Renewal::Expired => {
                // The lease may be in an entry that is not applied yet, and this member may have been asleep.
                self.handle.linearizable().await?;
                self.handle.lease_renew(id).await
            }
        };
        if renewed.is_ok() {
            self.metrics.lease_renewed.inc();
        }
        renewed
    }

    /// Looks a lease up, here or on the leader. An unknown lease is an error.
    ///
    /// # Errors
    /// `requested lease not found`, and those of waiting.
    pub async fn lease_time_to_live(
        &self,
        asker: &Asker,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        let judged_at = if request.keys {
            let revision = self.auth.table.revision();
            self.may_see_keys(asker, request.id)?;
            if self.auth.table.is_enabled() { revision } else { 0 }
        } else {
            0
        };
        let answer = self.lease_time_to_live_somewhere(request).await?;
        self.check_auth_revision(judged_at)?;
        Ok(answer)
    }

    async fn lease_time_to_live_somewhere(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        if self.leader() == self.handle.member_id() {
            match self.lease_time_to_live_here(&request).await {
                Err(Error::NotLeader) => {}
                answer => return answer,
            }
        }
        let request = LeaseInternalRequest {
            lease_time_to_live_request: Some(request),
        };
        let ask = |identity: Identity, urls: Vec<String>| async move {
            identity.forward_lease_time_to_live(&urls, &request).await
        };
        let answer = self.ask_leader(ask, is_lease_refusal).await?;
        answer
            .lease_time_to_live_response
            .ok_or(Error::Refused(Refusal::LeaseNotFound))
    }

    async fn lease_time_to_live_here(
        &self,
        request: &LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Error> {
        self.handle.wait_applied(self.handle.status().commit).await?;
        let info = self
            .leases
            .info(request.id)
            .ok_or(Error::Refused(Refusal::LeaseNotFound))?;
        let ttl = info.ttl_seconds(self.uptime()).ok_or(Error::NotLeader)?;
        Ok(LeaseTimeToLiveResponse {
            header: Some(ResponseHeader::default()),
            id: request.id,
            ttl,
            granted_ttl: info.granted_ttl,
            keys: if request.keys { info.keys } else { Vec::new() },
        })
    }

    /// Promotes a learner, here or on the leader; all members afterwards. The asker may do it, as this member sees it; `token` is what the
    /// leader finds out by.
    ///
    /// # Errors
    /// Why the learner cannot be promoted, and those of waiting.
    pub async fn promote(&self, id: u64, token: Option<String>) -> Result<Vec<PbMember>, Error> {
        match self.promote_here(id).await {
            Err(Error::NotLeader) => {}
            Ok(members) => {
                self.metrics.promote_successes.inc();
                return Ok(members);
            }
            Err(error) => {
                self.metrics.promote_failures.with(&[&error.to_string()]).inc();
                return Err(error);
            }
        }
        let ask = |identity: Identity, urls: Vec<String>| {
            let token = token.clone();
            async move { identity.forward_promote(&urls, id, token.as_deref()).await }
        };
        let ends = |error: &Error| {
            matches!(
                error,
                Error::LearnerNotReady | Error::MemberNotFound | Error::MemberNotLearner
            )
        };
        self.ask_leader(ask, ends).await
    }

    /// Asks the leader until it answers, `ends` says that an error is an answer, or time is over.
    async fn ask_leader<T, F>(
        &self,
        ask: impl Fn(Identity, Vec<String>) -> F,
        ends: impl Fn(&Error) -> bool,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let limit = self.handle.limits().request_timeout;
        let attempts = async {
            loop {
                let urls = self.leader_urls().await?;
                match ask(self.transport.identity().within(limit), urls).await {
                    Err(error) if !ends(&error) => tracing::debug!(%error, "the leader did not answer, asking again"),
                    answer => return answer,
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
        };
        match tokio::time::timeout(limit, attempts).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout),
        }
    }

    /// The leader's peer URLs, once there is a leader.
    async fn leader_urls(&self) -> Result<Vec<String>, Error> {
        let mut leadership = self.handle.leadership();
        loop {
            let leader = leadership
                .wait_for(|now| now.leader != 0)
                .await
                .map_err(|_| Error::Stopped)?
                .leader;
            let membership = self.handle.membership();
            if let Some(member) = membership.members.iter().find(|member| member.id == leader) {
                return Ok(member.peer_ur_ls.clone());
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// The hash of the key space at a revision (0: now) and the current revision.
    ///
    /// # Errors
    /// A compacted or future revision.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error> {
        let started = std::time::Instant::now();
        let kv = self.kv.clone();
        let (hash, now) = off_thread(move || kv.hash_kv(revision)).await??;
        self.metrics.hash_rev.took(started.elapsed());
        Ok(HashKvResponse {
            header: Some(ResponseHeader {
                revision: now,
                ..self.header_without_revision()
            }),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.revision,
        })
    }
}

fn is_lease_refusal(error: &Error) -> bool {
    matches!(error, Error::Refused(Refusal::LeaseNotFound))
}

/// What peers ask of this member: the leader's half of the methods above. Weak, because the transport that asks belongs to the
/// member.
#[async_trait]
impl Requests for Weak<Member> {
    async fn promote(&self, id: u64, token: Option<&str>) -> Result<Vec<PbMember>, Error> {
        let member = running(self)?;
        let mut metadata = MetadataMap::new();
        if let Some(token) = token.and_then(|token| token.parse().ok()) {
            metadata.insert("authorization", token);
        }
        let credentials = Credentials {
            metadata: &metadata,
            connection: &Connection::default(),
        };
        let asker = member.auth.asker(&credentials, &member.handle, member.uptime()).await;
        member.auth.table.check_admin(&asker.info()?)?;
        member.promote_here(id).await
    }

    async fn lease_renew(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Error> {
        let member = running(self)?;
        let header = Some(member.header());
        let ttl = member.lease_renew_here(request.id).await?;
        Ok(LeaseKeepAliveResponse {
            header,
            id: request.id,
            ttl,
        })
    }

    async fn lease_time_to_live(&self, request: LeaseInternalRequest) -> Result<LeaseInternalResponse, Error> {
        let member = running(self)?;
        let request = request.lease_time_to_live_request.unwrap_or_default();
        let mut response = member.lease_time_to_live_here(&request).await?;
        member.fill(&mut response.header);
        Ok(LeaseInternalResponse {
            lease_time_to_live_response: Some(response),
        })
    }

    async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Error> {
        running(self)?.hash_kv(revision).await
    }

    fn version(&self) -> Bytes {
        running(self).map_or_else(|_| Bytes::new(), |member| member.versions_json())
    }

    async fn downgrade_enabled(&self) -> Result<bool, Error> {
        let member = running(self)?;
        member.handle.linearizable().await?;
        Ok(member.downgrade_info().enabled)
    }
}

fn running(member: &Weak<Member>) -> Result<Arc<Member>, Error> {
    member.upgrade().ok_or(Error::Stopped)
}
