//! The layer that asks whether the asker may, and what entries do to users and roles (etcd server/etcdserver/apply/auth.go).
//!
//! Invariant: a request is judged when it is applied, by the rights of that moment, also when it passed when it came in.

use disk::Disk;
use proto::etcdserverpb as pb;

use super::{Action, BadEntry, Request, Response};
use crate::auth::{Auth, AuthInfo};
use crate::error::Error;
use crate::lease::Uptime;
use crate::machine::StateMachine;

/// The refusal of a request, on behalf of whom it is made.
pub(super) fn refusal(auth: &Auth, info: &AuthInfo, request: &Request) -> Option<Error> {
    let verdict = match request {
        Request::Put(put) => auth.check_put(info, put),
        Request::Range(range) => auth.check_range(info, range),
        Request::DeleteRange(delete) => auth.check_delete(info, delete),
        Request::Txn(txn) => auth.check_txn(info, txn),
        Request::LeaseRevoke(revoke) => auth.check_lease(info, revoke.id),
        Request::AuthEnable(_)
        | Request::AuthDisable(_)
        | Request::AuthUserAdd(_)
        | Request::AuthUserDelete(_)
        | Request::AuthUserChangePassword(_)
        | Request::AuthUserGrantRole(_)
        | Request::AuthUserRevokeRole(_)
        | Request::AuthUserList(_)
        | Request::AuthRoleAdd(_)
        | Request::AuthRoleGrantPermission(_)
        | Request::AuthRoleRevokePermission(_)
        | Request::AuthRoleDelete(_)
        | Request::AuthRoleList(_) => auth.check_admin(info),
        // One may look at oneself and at one's own roles.
        Request::AuthUserGet(get) if get.name == info.username => Ok(()),
        Request::AuthRoleGet(get) if auth.read().has_role(&info.username, &get.role) => Ok(()),
        Request::AuthUserGet(_) | Request::AuthRoleGet(_) => auth.check_admin(info),
        // Whoever may propose these was judged before; the log holds them without a user.
        Request::Compaction(_)
        | Request::LeaseGrant(_)
        | Request::LeaseCheckpoint(_)
        | Request::Alarm(_)
        | Request::Authenticate(_)
        | Request::AuthStatus(_)
        | Request::ClusterVersionSet(_)
        | Request::ClusterMemberAttrSet(_)
        | Request::DowngradeInfoSet(_)
        | Request::DowngradeVersionTest(_) => Ok(()),
    };
    verdict.err()
}

/// Logs before 3.5 hold passwords, to be hashed with a random salt by each member: that cannot be done alike everywhere.
pub(super) fn bad_entry(request: &Request) -> Option<BadEntry> {
    let plain = |password: &str, hashed: &str| !password.is_empty() && hashed.is_empty();
    let is_plain = match request {
        Request::AuthUserAdd(add) => {
            let without = add.options.as_ref().is_some_and(|options| options.no_password);
            !without && plain(&add.password, &add.hashed_password)
        }
        Request::AuthUserChangePassword(change) => plain(&change.password, &change.hashed_password),
        _ => false,
    };
    is_plain.then_some(BadEntry::PlainPassword)
}

/// Whether a request is about users, roles and tokens; all others must not wait for their lock.
fn is_about_auth(request: &Request) -> bool {
    !matches!(
        request,
        Request::Put(_)
            | Request::Range(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::Compaction(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseCheckpoint(_)
    )
}

impl<D: Disk> StateMachine<D> {
    /// Requests about users, roles and tokens; `None` for all others.
    pub(super) fn execute_auth(
        &mut self,
        request: &Request,
        term: u64,
        now: Uptime,
        actions: &mut Vec<Action>,
    ) -> Option<Result<Response, Error>> {
        if !is_about_auth(request) {
            return None;
        }
        let applied = self.applied().index;
        let header = || Some(self.header(term));
        let auth = self.auth.clone();
        let mut table = auth.write();
        let before = (table.is_enabled(), table.revision());
        let mut writes = Vec::new();
        let sink = &mut |bucket, key, value| writes.push((bucket, key, value));
        // Each answer is a header, and a field or two for those that tell something.
        macro_rules! done {
            ($kind:ident($response:ident), $result:expr) => {
                $result.map(|()| Response::$kind(pb::$response { header: header() }))
            };
        }
        let answer = match request {
            Request::Authenticate(who) => table
                .authenticate(&who.name, &who.simple_token, applied, now)
                .map(|token| {
                    Response::Authenticate(pb::AuthenticateResponse {
                        header: header(),
                        token,
                    })
                }),
            Request::AuthEnable(_) => done!(AuthEnable(AuthEnableResponse), table.enable(sink)),
            Request::AuthDisable(_) => {
                table.disable(sink);
                Ok(Response::AuthDisable(pb::AuthDisableResponse { header: header() }))
            }
            Request::AuthStatus(_) => Ok(Response::AuthStatus(pb::AuthStatusResponse {
                header: header(),
                enabled: table.is_enabled(),
                auth_revision: table.revision(),
            })),
            Request::AuthUserAdd(add) => done!(AuthUserAdd(AuthUserAddResponse), table.user_add(add, sink)),
            Request::AuthUserDelete(delete) => {
                done!(AuthUserDelete(AuthUserDeleteResponse), table.user_delete(delete, sink))
            }
            Request::AuthUserChangePassword(change) => {
                let result = table.user_change_password(change, sink);
                done!(AuthUserChangePassword(AuthUserChangePasswordResponse), result)
            }
            Request::AuthUserGrantRole(grant) => {
                done!(
                    AuthUserGrantRole(AuthUserGrantRoleResponse),
                    table.user_grant_role(grant, sink)
                )
            }
            Request::AuthUserRevokeRole(revoke) => {
                done!(
                    AuthUserRevokeRole(AuthUserRevokeRoleResponse),
                    table.user_revoke_role(revoke, sink)
                )
            }
            Request::AuthUserGet(get) => table.user(&get.name).ok_or(Error::UserNotFound).map(|user| {
                Response::AuthUserGet(pb::AuthUserGetResponse {
                    header: header(),
                    roles: user.roles.clone(),
                })
            }),
            Request::AuthUserList(_) => Ok(Response::AuthUserList(pb::AuthUserListResponse {
                header: header(),
                users: table.user_names(),
            })),
            Request::AuthRoleAdd(add) => done!(AuthRoleAdd(AuthRoleAddResponse), table.role_add(add, sink)),
            Request::AuthRoleDelete(delete) => {
                done!(AuthRoleDelete(AuthRoleDeleteResponse), table.role_delete(delete, sink))
            }
            Request::AuthRoleGet(get) => table
                .role_permissions(&get.role)
                .map(|perm| Response::AuthRoleGet(pb::AuthRoleGetResponse { header: header(), perm })),
            Request::AuthRoleList(_) => Ok(Response::AuthRoleList(pb::AuthRoleListResponse {
                header: header(),
                roles: table.role_names(),
            })),
            Request::AuthRoleGrantPermission(grant) => {
                let result = table.role_grant_permission(grant, sink);
                done!(AuthRoleGrantPermission(AuthRoleGrantPermissionResponse), result)
            }
            Request::AuthRoleRevokePermission(revoke) => {
                let result = table.role_revoke_permission(revoke, sink);
                done!(AuthRoleRevokePermission(AuthRoleRevokePermissionResponse), result)
            }
            _ => return None,
        };
        if before != (table.is_enabled(), table.revision()) {
            actions.push(Action::AuthChanged);
        }
        drop(table);
        for (bucket, key, value) in writes {
            match value {
                Some(value) => self.backend.put(bucket, key, value),
                None => self.backend.delete(bucket, key),
            }
        }
        Some(answer)
    }
}
