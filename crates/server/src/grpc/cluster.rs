//! Members (etcd server/etcdserver/api/v3rpc/member.go). Headers of these calls carry no revision.

use proto::etcdserverpb::cluster_server::Cluster;
use proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use super::Api;
use crate::auth::Credentials;
use crate::metrics::rpc::Method;

#[tonic::async_trait]
impl Cluster for Api {
    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::MemberAdd, &metadata, |_| async move {
            let (member, members) = self.member.add_member(&request.peer_ur_ls, request.is_learner).await?;
            let header = Some(self.member.header_without_revision());
            Ok(MemberAddResponse {
                header,
                member: Some(member),
                members,
            })
        })
        .await
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::MemberRemove, &metadata, |_| async move {
            let members = self.member.remove_member(request.id).await?;
            Ok(MemberRemoveResponse {
                header: Some(self.member.header_without_revision()),
                members,
            })
        })
        .await
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::MemberUpdate, &metadata, |_| async move {
            let members = self.member.update_member(request.id, request.peer_ur_ls).await?;
            Ok(MemberUpdateResponse {
                header: Some(self.member.header_without_revision()),
                members,
            })
        })
        .await
    }

    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::MemberList, &metadata, |_| async move {
            if request.linearizable {
                self.member.handle.linearizable().await?;
            }
            let header = Some(self.member.header_without_revision());
            Ok(MemberListResponse {
                header,
                members: self.member.handle.members(),
            })
        })
        .await
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let credentials = Credentials {
            metadata: &metadata,
            connection: &self.connection,
        };
        let token = credentials.token().map(str::to_owned);
        self.unary(Method::MemberPromote, &metadata, |_| async move {
            let members = self.member.promote(request.id, token).await?;
            Ok(MemberPromoteResponse {
                header: Some(self.member.header_without_revision()),
                members,
            })
        })
        .await
    }
}
