//! From an entry's bytes to one request.
//!
//! Invariants: exactly one kind is taken, in etcd's order (etcd server/etcdserver/apply/uber_applier.go), should a broken proposer
//! have set several. What is not understood is an error, never "nothing to do".

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::membershippb;

use super::{BadEntry, v2};

macro_rules! requests {
    ($($name:ident = $field:ident: $message:ty;)*) => {
        /// One request of the log.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)] // The variants are the fields of etcd's InternalRaftRequest.
        pub enum Request {
            $($name($message),)*
        }

        impl Request {
            /// The first kind that is set, in etcd's order.
            fn pick(request: pb::InternalRaftRequest) -> Option<Request> {
                $(if let Some(message) = request.$field {
                    return Some(Request::$name(message));
                })*
                None
            }

            /// The name of the kind, as etcd's metrics call it.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Request::$name(_) => stringify!($name),)*
                }
            }
        }
    };
}

requests! {
    ClusterVersionSet = cluster_version_set: membershippb::ClusterVersionSetRequest;
    ClusterMemberAttrSet = cluster_member_attr_set: membershippb::ClusterMemberAttrSetRequest;
    DowngradeInfoSet = downgrade_info_set: membershippb::DowngradeInfoSetRequest;
    DowngradeVersionTest = downgrade_version_test: pb::DowngradeVersionTestRequest;
    Range = range: pb::RangeRequest;
    Put = put: pb::PutRequest;
    DeleteRange = delete_range: pb::DeleteRangeRequest;
    Txn = txn: pb::TxnRequest;
    Compaction = compaction: pb::CompactionRequest;
    LeaseGrant = lease_grant: pb::LeaseGrantRequest;
    LeaseRevoke = lease_revoke: pb::LeaseRevokeRequest;
    LeaseCheckpoint = lease_checkpoint: pb::LeaseCheckpointRequest;
    Alarm = alarm: pb::AlarmRequest;
    Authenticate = authenticate: pb::InternalAuthenticateRequest;
    AuthEnable = auth_enable: pb::AuthEnableRequest;
    AuthDisable = auth_disable: pb::AuthDisableRequest;
    AuthStatus = auth_status: pb::AuthStatusRequest;
    AuthUserAdd = auth_user_add: pb::AuthUserAddRequest;
    AuthUserDelete = auth_user_delete: pb::AuthUserDeleteRequest;
    AuthUserChangePassword = auth_user_change_password: pb::AuthUserChangePasswordRequest;
    AuthUserGrantRole = auth_user_grant_role: pb::AuthUserGrantRoleRequest;
    AuthUserGet = auth_user_get: pb::AuthUserGetRequest;
    AuthUserRevokeRole = auth_user_revoke_role: pb::AuthUserRevokeRoleRequest;
    AuthRoleAdd = auth_role_add: pb::AuthRoleAddRequest;
    AuthRoleGrantPermission = auth_role_grant_permission: pb::AuthRoleGrantPermissionRequest;
    AuthRoleGet = auth_role_get: pb::AuthRoleGetRequest;
    AuthRoleRevokePermission = auth_role_revoke_permission: pb::AuthRoleRevokePermissionRequest;
    AuthRoleDelete = auth_role_delete: pb::AuthRoleDeleteRequest;
    AuthUserList = auth_user_list: pb::AuthUserListRequest;
    AuthRoleList = auth_role_list: pb::AuthRoleListRequest;
}

/// A request with what came around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Which proposal it was.
    pub id: u64,
    /// Who asked; empty without authentication.
    pub username: String,
    /// At which revision of the rights the asker was let in.
    pub auth_revision: u64,
    /// What is asked.
    pub request: Request,
}

impl Decoded {
    /// Reads the data of a normal entry, which must not be empty.
    ///
    /// # Errors
    /// Data that every etcd member would panic on.
    pub fn read(data: &Bytes) -> Result<Decoded, BadEntry> {
        let message = match pb::InternalRaftRequest::decode(data.clone()) {
            Ok(message) => message,
            // Up to 3.5, members published themselves by a bare v2 request.
            Err(error) => return read_bare(data).unwrap_or(Err(BadEntry::Undecodable(error))),
        };
        let header = message.header.clone();
        let id = match (message.id, &header) {
            (0, None) => return Err(BadEntry::NoId),
            (0, Some(header)) => header.id,
            (id, _) => id,
        };
        let header = header.unwrap_or_default();
        let request = match Request::pick(message) {
            Some(request) => request,
            None => match v2::embedded(data).or_else(|| v2::bare(data).map(|(_, request)| request)) {
                Some(request) => request?,
                None => return Err(BadEntry::UnknownRequest),
            },
        };
        Ok(Decoded {
            id,
            username: header.username,
            auth_revision: header.auth_revision,
            request,
        })
    }
}

fn read_bare(data: &[u8]) -> Option<Result<Decoded, BadEntry>> {
    let (id, request) = v2::bare(data)?;
    Some(request.map(|request| Decoded {
        id,
        username: String::new(),
        auth_revision: 0,
        request,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &pb::InternalRaftRequest) -> Result<Decoded, BadEntry> {
        Decoded::read(&message.encode_to_vec().into())
    }

    #[test]
    fn the_id_is_the_requests_own_or_the_headers() {
        let put = Some(pb::PutRequest::default());
        let header = Some(pb::RequestHeader {
            id: 7,
            username: "u".into(),
            auth_revision: 3,
        });
        let own = read(&pb::InternalRaftRequest {
            id: 5,
            put: put.clone(),
            ..Default::default()
        })
        .unwrap();
        assert_eq!((own.id, own.request.kind()), (5, "Put"));
        let theirs = read(&pb::InternalRaftRequest {
            header,
            put: put.clone(),
            ..Default::default()
        })
        .unwrap();
        assert_eq!((theirs.id, theirs.username.as_str(), theirs.auth_revision), (7, "u", 3));
        assert_eq!(
            read(&pb::InternalRaftRequest {
                put,
                ..Default::default()
            }),
            Err(BadEntry::NoId)
        );
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let empty = read(&pb::InternalRaftRequest {
            id: 5,
            ..Default::default()
        });
        assert_eq!(empty, Err(BadEntry::UnknownRequest));
        // A kind of the future: field 2000.
        let future = Decoded::read(&Bytes::from_static(&[0x08, 5, 0x82, 0x7d, 0]));
        assert_eq!(future, Err(BadEntry::UnknownRequest));
        assert!(matches!(
            Decoded::read(&Bytes::from_static(b"\xff\xff")),
            Err(BadEntry::Undecodable(_))
        ));
    }
}
