//! Users, roles and logging in (etcd server/etcdserver/api/v3rpc/auth.go, v3_server.go).
//!
//! Invariants:
//! - A password is taken out of its request before the request is proposed; what is proposed in its place is a hash, or nothing.
//! - Who logs in is let in by the rights at which the password was checked: if they change meanwhile, it is checked again.

use proto::etcdserverpb::auth_server::Auth;
use proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest,
    AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse, AuthRoleGetRequest, AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest, AuthStatusResponse,
    AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse,
    AuthUserDeleteRequest, AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest,
    AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, InternalAuthenticateRequest,
    InternalRaftRequest,
};
use replica::state_machine::Error as Refusal;
use tonic::{Request, Response, Status};

use super::Api;
use super::kv::unexpected;
use crate::auth::Asker;
use crate::handle::{Error, Response as Applied};
use crate::metrics::rpc::Method;

/// A call that is one entry: `field` of `InternalRaftRequest`, answered by the variant `kind`.
macro_rules! entry {
    ($api:expr, $request:expr, $method:ident, $kind:ident, $field:ident) => {{
        let (metadata, _, request) = $request.into_parts();
        $api.unary(Method::$method, &metadata, |asker| async move {
            let request = InternalRaftRequest {
                $field: Some(request),
                ..InternalRaftRequest::default()
            };
            match $api.member.propose(stringify!($kind), &asker, request).await? {
                Applied::$kind(mut response) => {
                    $api.member.fill(&mut response.header);
                    Ok(response)
                }
                other => Err(unexpected(&other)),
            }
        })
        .await
    }};
}

#[tonic::async_trait]
impl Auth for Api {
    async fn auth_enable(&self, request: Request<AuthEnableRequest>) -> Result<Response<AuthEnableResponse>, Status> {
        entry!(self, request, AuthEnable, AuthEnable, auth_enable)
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        entry!(self, request, AuthDisable, AuthDisable, auth_disable)
    }

    async fn auth_status(&self, request: Request<AuthStatusRequest>) -> Result<Response<AuthStatusResponse>, Status> {
        entry!(self, request, AuthStatus, AuthStatus, auth_status)
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.unary(Method::Authenticate, &metadata, |_| self.let_in(request))
            .await
    }

    async fn user_add(&self, request: Request<AuthUserAddRequest>) -> Result<Response<AuthUserAddResponse>, Status> {
        let (metadata, _, mut request) = request.into_parts();
        self.unary(Method::UserAdd, &metadata, |asker| async move {
            // Hashing is work: whoever may not add users makes none.
            self.may_administer(&asker)?;
            let password = std::mem::take(&mut request.password);
            if !request.options.is_some_and(|options| options.no_password) {
                request.hashed_password = self.member.auth.passwords.hash(password).await?;
            }
            let request = InternalRaftRequest {
                auth_user_add: Some(request),
                ..InternalRaftRequest::default()
            };
            match self.member.propose("AuthUserAdd", &asker, request).await? {
                Applied::AuthUserAdd(mut response) => {
                    self.member.fill(&mut response.header);
                    Ok(response)
                }
                other => Err(unexpected(&other)),
            }
        })
        .await
    }

    async fn user_get(&self, request: Request<AuthUserGetRequest>) -> Result<Response<AuthUserGetResponse>, Status> {
        entry!(self, request, UserGet, AuthUserGet, auth_user_get)
    }

    async fn user_list(&self, request: Request<AuthUserListRequest>) -> Result<Response<AuthUserListResponse>, Status> {
        entry!(self, request, UserList, AuthUserList, auth_user_list)
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        entry!(self, request, UserDelete, AuthUserDelete, auth_user_delete)
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let (metadata, _, mut request) = request.into_parts();
        self.unary(Method::UserChangePassword, &metadata, |asker| async move {
            self.may_administer(&asker)?;
            let password = std::mem::take(&mut request.password);
            if !password.is_empty() {
                request.hashed_password = self.member.auth.passwords.hash(password).await?;
            }
            let request = InternalRaftRequest {
                auth_user_change_password: Some(request),
                ..InternalRaftRequest::default()
            };
            match self.member.propose("AuthUserChangePassword", &asker, request).await? {
                Applied::AuthUserChangePassword(mut response) => {
                    self.member.fill(&mut response.header);
                    Ok(response)
                }
                other => Err(unexpected(&other)),
            }
        })
        .await
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        entry!(self, request, UserGrantRole, AuthUserGrantRole, auth_user_grant_role)
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        entry!(self, request, UserRevokeRole, AuthUserRevokeRole, auth_user_revoke_role)
    }

    async fn role_add(&self, request: Request<AuthRoleAddRequest>) -> Result<Response<AuthRoleAddResponse>, Status> {
        entry!(self, request, RoleAdd, AuthRoleAdd, auth_role_add)
    }

    async fn role_get(&self, request: Request<AuthRoleGetRequest>) -> Result<Response<AuthRoleGetResponse>, Status> {
        entry!(self, request, RoleGet, AuthRoleGet, auth_role_get)
    }

    async fn role_list(&self, request: Request<AuthRoleListRequest>) -> Result<Response<AuthRoleListResponse>, Status> {
        entry!(self, request, RoleList, AuthRoleList, auth_role_list)
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        entry!(self, request, RoleDelete, AuthRoleDelete, auth_role_delete)
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        entry!(
            self,
            request,
            RoleGrantPermission,
            AuthRoleGrantPermission,
            auth_role_grant_permission
        )
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        entry!(
            self,
            request,
            RoleRevokePermission,
            AuthRoleRevokePermission,
            auth_role_revoke_permission
        )
    }
}

impl Api {
    fn may_administer(&self, asker: &Asker) -> Result<(), Error> {
        Ok(self.member.auth.table.check_admin(&asker.info()?)?)
    }

    /// Checks a password and has all members let the user in.
    async fn let_in(&self, mut request: AuthenticateRequest) -> Result<AuthenticateResponse, Error> {
        let member = &self.member;
        let auth = &member.auth;
        member.handle.linearizable().await?;
        let password = std::mem::take(&mut request.password);
        loop {
            let checked_at = self
                .check_password(&request.name, &password)
                .await
                .inspect_err(|error| {
                    if *error != Error::Refused(Refusal::AuthNotEnabled) {
                        tracing::warn!(user = request.name, %error, "invalid authentication was requested");
                    }
                })?;
            let entry = InternalRaftRequest {
                authenticate: Some(InternalAuthenticateRequest {
                    name: request.name.clone(),
                    simple_token: auth.tokens.new_prefix(),
                    ..InternalAuthenticateRequest::default()
                }),
                ..InternalRaftRequest::default()
            };
            let mut response = match member.propose("Authenticate", &Asker::Unasked, entry).await? {
                Applied::Authenticate(response) => response,
                other => return Err(unexpected(&other)),
            };
            let now = auth.table.revision();
            if now == checked_at {
                response.token = auth.tokens.issue(&request.name, now, response.token)?;
                member.fill(&mut response.header);
                return Ok(response);
            }
            tracing::info!("revision when password checked became stale; retrying");
        }
    }

    /// The revision of the rights at which a password was right.
    async fn check_password(&self, name: &str, password: &str) -> Result<u64, Error> {
        let auth = &self.member.auth;
        if !auth.table.is_enabled() {
            return Err(Error::Refused(Refusal::AuthNotEnabled));
        }
        let (user, revision) = auth.table.user(name);
        let user = user.ok_or(Error::Refused(Refusal::AuthFailed))?;
        if user.options.is_some_and(|options| options.no_password) {
            return Err(Error::Refused(Refusal::NoPasswordUser));
        }
        match auth
            .passwords
            .verify(password.to_owned(), user.password.to_vec())
            .await?
        {
            true => Ok(revision),
            false => Err(Error::Refused(Refusal::AuthFailed)),
        }
    }
}
