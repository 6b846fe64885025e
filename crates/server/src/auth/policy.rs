//! What every call takes: the one table that admission reads, for gRPC and the JSON gateway alike.
//!
//! Invariants:
//! - The match below has no wildcard, and a test compares its methods with those of the `.proto` files: a call that is not listed is
//!   not served.
//! - What is said here is the least that is demanded before a handler runs; handlers that touch keys are given the asker and cannot
//!   reach the key space without one.

use crate::metrics::rpc::Method;

/// What a call takes while authentication is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Nothing: it is how one gets a token, or tells nothing about the data.
    Anyone,
    /// Some user.
    User,
    /// A user with the role `root`.
    Root,
    /// The right to the keys that it names; the handler asks with the request in hand, or the state machine when it is applied.
    Keys,
    /// What the state machine says when the entry is applied.
    Entry,
}

/// The rule for a method (etcd server/etcdserver/api/v3rpc, v3_server.go, apply/auth.go).
pub fn rule(method: Method) -> Rule {
    match method {
        Method::Authenticate | Method::HealthCheck | Method::HealthWatch => Rule::Anyone,
        Method::AuthStatus
        | Method::AuthDisable
        | Method::AuthEnable
        | Method::RoleAdd
        | Method::RoleDelete
        | Method::RoleGet
        | Method::RoleGrantPermission
        | Method::RoleList
        | Method::RoleRevokePermission
        | Method::UserAdd
        | Method::UserChangePassword
        | Method::UserDelete
        | Method::UserGet
        | Method::UserGrantRole
        | Method::UserList
        | Method::UserRevokeRole => Rule::Entry,
        Method::MemberAdd | Method::MemberPromote | Method::MemberRemove | Method::MemberUpdate => Rule::Root,
        // Alarms are looked at by users and set by root: the handler tells them apart.
        Method::MemberList | Method::Status | Method::Alarm => Rule::User,
        Method::Compact
        | Method::Defragment
        | Method::Downgrade
        | Method::Hash
        | Method::HashKv
        | Method::MoveLeader
        | Method::Snapshot => Rule::Root,
        Method::LeaseGrant | Method::LeaseRevoke | Method::LeaseTimeToLive => Rule::User,
        Method::DeleteRange
        | Method::Put
        | Method::Range
        | Method::RangeStream
        | Method::Txn
        | Method::LeaseKeepAlive
        | Method::LeaseLeases
        | Method::Watch
        | Method::Lock
        | Method::Unlock
        | Method::Campaign
        | Method::Leader
        | Method::Observe
        | Method::Proclaim
        | Method::Resign => Rule::Keys,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::metrics::rpc::METHODS;

    /// Deny by default: what the `.proto` files declare is exactly what has a rule.
    #[test]
    fn every_method_of_every_service_has_a_rule() {
        let files = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap().file;
        let declared: BTreeSet<(String, String)> = files
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
            .flat_map(|(package, service)| {
                let name = format!("{package}.{}", service.name());
                service
                    .method
                    .iter()
                    .map(move |method| (name.clone(), method.name().to_owned()))
            })
            .collect();
        let listed: BTreeSet<(String, String)> = METHODS
            .iter()
            .map(|(service, method, _)| ((*service).to_owned(), (*method).to_owned()))
            .collect();
        assert_eq!(declared, listed);
        assert_eq!(listed.len(), METHODS.len());
        assert!(listed.len() >= 51, "{}", listed.len());
    }

    #[test]
    fn only_what_must_be_open_is_open() {
        let open: Vec<_> = (0..METHODS.len())
            .filter(|at| rule(Method::ALL[*at]) == Rule::Anyone)
            .map(|at| METHODS[at].1)
            .collect();
        assert_eq!(open, ["Authenticate", "Check", "Watch"]);
    }
}
