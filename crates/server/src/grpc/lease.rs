//! Leases (etcd server/etcdserver/api/v3rpc/lease.go).

use proto::etcdserverpb::lease_server::Lease;
use proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use replica::state_machine::Error as Refusal;
use replica::state_machine::quota::LEASE_COST;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Api;
use super::call::{Call, status, stream_over};
use super::generator::{Generator, Items};
use super::kv::unexpected;
use crate::auth::Asker;
use crate::handle::{Error, Response as Applied};
use crate::metrics::rpc::Method;

#[tonic::async_trait]
impl Lease for Api {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::LeaseGrant, &metadata, |asker| async move {
            self.do_lease_grant(&asker, request).await
        })
        .await
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::LeaseRevoke, &metadata, |asker| async move {
            let request = InternalRaftRequest {
                lease_revoke: Some(request),
                ..InternalRaftRequest::default()
            };
            match self.member.propose("LeaseRevoke", &asker, request).await? {
                Applied::LeaseRevoke(mut response) => {
                    self.member.metrics.lease_revoked.inc();
                    self.member.fill(&mut response.header);
                    Ok(response)
                }
                other => Err(unexpected(&other)),
            }
        })
        .await
    }

    type LeaseKeepAliveStream = Generator<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (call, requires_leader, _) = self.stream(Method::LeaseKeepAlive, request.metadata()).await?;
        let (metadata, _, mut requests) = request.into_parts();
        let api = self.clone();
        let member = self.member.clone();
        let answers = Generator::new(|answers| async move {
            let over = stream_over(member.clone(), requires_leader);
            let code = tokio::select! {
                code = keep_alive(&api, &metadata, &mut requests, &answers, &call) => code,
                error = over => {
                    let status = status(error);
                    let code = status.code();
                    answers.give(Err(status)).await;
                    code
                }
            };
            call.end(code);
        });
        Ok(Response::new(answers.begun().await))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::LeaseTimeToLive, &metadata, |asker| async move {
            let id = request.id;
            let mut response = match self.member.lease_time_to_live(&asker, request).await {
                Err(Error::Refused(Refusal::LeaseNotFound)) => LeaseTimeToLiveResponse {
                    id,
                    ttl: -1,
                    ..LeaseTimeToLiveResponse::default()
                },
                answer => answer?,
            };
            // Forwarded answers bring the leader's header; the client is told who it asked.
            response.header = None;
            self.member.fill(&mut response.header);
            Ok(response)
        })
        .await
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.unary(Method::LeaseLeases, request.metadata(), |asker| async move {
            // etcd waits until all that is committed is applied, so that a lease just granted is listed.
            self.member
                .handle
                .wait_applied(self.member.handle.status().commit)
                .await?;
            let ids = self.member.leases.ids_by_expiry();
            self.member.may_see_leases(&asker, &ids)?;
            let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
            Ok(LeaseLeasesResponse {
                header: Some(self.member.header()),
                leases,
            })
        })
        .await
    }
}

impl Api {
    pub(super) async fn do_lease_grant(
        &self,
        asker: &Asker,
        mut request: LeaseGrantRequest,
    ) -> Result<LeaseGrantResponse, Error> {
        self.member.fits_quota(LEASE_COST).await?;
        while request.id == 0 {
            request.id = (self.member.handle.next_id() & (i64::MAX as u64)) as i64;
        }
        let ttl = request.ttl;
        asker.user()?;
        let request = InternalRaftRequest {
            lease_grant: Some(request),
            ..InternalRaftRequest::default()
        };
        match self.member.propose("LeaseGrant", asker, request).await? {
            Applied::LeaseGrant(mut response) => {
                self.member.metrics.lease_granted.inc();
                self.member.metrics.lease_ttl.observe(ttl as f64);
                self.member.fill(&mut response.header);
                Ok(response)
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// Answers keep-alives until the client is done; the code with which the stream ends.
async fn keep_alive(
    api: &Api,
    metadata: &MetadataMap,
    requests: &mut Streaming<LeaseKeepAliveRequest>,
    answers: &Items<Result<LeaseKeepAliveResponse, Status>>,
    call: &Call,
) -> Code {
    let member = &api.member;
    loop {
        let id = match requests.message().await {
            Ok(Some(request)) => request.id,
            Ok(None) => return Code::Ok,
            Err(status) => return status.code(),
        };
        call.received();
        // Before the renewal: a client must not see a revision at which the lease may already have been revoked.
        let header = Some(member.header());
        // A stream outlives tokens and rights: who asks is found out for each renewal.
        let asker = api.asker(metadata).await;
        let ttl = match member.lease_renew(&asker, id).await {
            Ok(ttl) => ttl,
            Err(Error::Refused(Refusal::LeaseNotFound)) => 0,
            Err(error) => {
                let status = status(error);
                let code = status.code();
                answers.give(Err(status)).await;
                return code;
            }
        };
        call.sent();
        answers.give(Ok(LeaseKeepAliveResponse { header, id, ttl })).await;
    }
}
