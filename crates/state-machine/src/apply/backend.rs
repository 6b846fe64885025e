//! The bottom layer: requests do what they say.
//!
//! Invariant: a method that writes has checked everything before its first write, and takes no longer than the request is large; the
//! one exception is the revocation of a lease, which takes as long as it has keys.

use bytes::Bytes;
use disk::Disk;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, AlarmType};
use proto::membershippb;
use proto::raftpb::Entry;

use super::{Action, BadEntry, Decoded, Fatal, Request, Response, auth, capped, corrupt};
use crate::alarm::alarm_key;
use crate::auth::AuthInfo;
use crate::error::Error;
use crate::lease::{Uptime, encode_lease, lease_key};
use crate::machine::StateMachine;
use crate::membership::{member_key, to_go_json};
use crate::mvcc::Span;
use crate::quota::{LEASE_COST, put_cost, txn_cost};
use crate::schema::{self, Bucket};
use crate::txn::{self, Ranges};
use crate::version::{DowngradeInfo, Version};

type Answer = Result<Response, Error>;

impl<D: Disk> StateMachine<D> {
    /// Passes a request through the layers.
    pub(crate) fn apply_request(
        &mut self,
        decoded: Decoded,
        entry: &Entry,
        now: Uptime,
        actions: &mut Vec<Action>,
    ) -> Result<Answer, Fatal> {
        let request = decoded.request;
        if let Some(reason) = auth::bad_entry(&request) {
            return Err(Fatal::Entry {
                index: entry.index,
                reason,
            });
        }
        let asker = AuthInfo {
            username: decoded.username,
            revision: decoded.auth_revision,
        };
        if let Some(refusal) = self.refusal(&asker, &request) {
            return Ok(Err(refusal));
        }
        if let Some(answer) = self.execute_auth(&request, entry.term, now, actions) {
            return Ok(answer);
        }
        let fits = self.fits(&request);
        let mut answer = self.execute(request, entry, now, actions)?;
        if let Err(error @ Error::Storage(_)) = answer {
            return Err(Fatal::Storage {
                index: entry.index,
                error,
            });
        }
        if answer.is_ok() && !fits {
            // It is done, and yet refused: that is how the client and, by the alarm, the cluster come to know.
            answer = Err(Error::NoSpace);
            if !self.alarms.stands(AlarmType::Nospace) {
                actions.push(Action::RaiseNoSpace);
            }
        }
        Ok(answer)
    }

    fn refusal(&self, asker: &AuthInfo, request: &Request) -> Option<Error> {
        let stands = |alarm| self.alarms.stands(alarm);
        let by_corrupt = stands(AlarmType::Corrupt).then(|| corrupt::refusal(request)).flatten();
        by_corrupt
            .or_else(|| stands(AlarmType::Nospace).then(|| capped::refusal(request)).flatten())
            .or_else(|| auth::refusal(&self.auth, asker, request))
    }

    fn fits(&self, request: &Request) -> bool {
        let cost = match request {
            Request::Put(put) => put_cost(put),
            Request::Txn(txn) => txn_cost(txn),
            Request::LeaseGrant(_) => LEASE_COST,
            _ => 0,
        };
        self.config.quota.fits(self.backend.size(), cost)
    }

    fn execute(
        &mut self,
        request: Request,
        entry: &Entry,
        now: Uptime,
        actions: &mut Vec<Action>,
    ) -> Result<Answer, Fatal> {
        let bad = |reason: BadEntry| Fatal::Entry {
            index: entry.index,
            reason,
        };
        let term = entry.term;
        Ok(match request {
            Request::Range(range) => self.store.reader().range(&range).map(Response::Range),
            Request::Put(put) => self.put(&put),
            Request::DeleteRange(delete) => self.delete_range(&delete),
            Request::Txn(txn) => self.txn(&txn),
            Request::Compaction(compaction) => self.compaction(&compaction, actions),
            Request::LeaseGrant(grant) => self.lease_grant(&grant, term, now),
            Request::LeaseRevoke(revoke) => self.lease_revoke(&revoke, term),
            Request::LeaseCheckpoint(checkpoint) => Ok(self.lease_checkpoint(&checkpoint, term, now)),
            Request::Alarm(alarm) => Ok(self.alarm(&alarm, actions)),
            Request::ClusterVersionSet(set) => self
                .cluster_version_set(&set, actions)
                .map_err(bad)?
                .map(|()| Response::Empty),
            Request::ClusterMemberAttrSet(set) => {
                self.member_attributes_set(set, actions).map_err(bad)?;
                Ok(Response::Empty)
            }
            Request::DowngradeInfoSet(set) => {
                self.downgrade_set(&set, actions);
                Ok(Response::Empty)
            }
            // Tests of etcd put it into logs to look like a log of the future.
            Request::DowngradeVersionTest(_) => Ok(Response::Empty),
            // Taken by the layer above.
            Request::Authenticate(_)
            | Request::AuthEnable(_)
            | Request::AuthDisable(_)
            | Request::AuthStatus(_)
            | Request::AuthUserAdd(_)
            | Request::AuthUserDelete(_)
            | Request::AuthUserChangePassword(_)
            | Request::AuthUserGrantRole(_)
            | Request::AuthUserGet(_)
            | Request::AuthUserRevokeRole(_)
            | Request::AuthRoleAdd(_)
            | Request::AuthRoleGrantPermission(_)
            | Request::AuthRoleGet(_)
            | Request::AuthRoleRevokePermission(_)
            | Request::AuthRoleDelete(_)
            | Request::AuthUserList(_)
            | Request::AuthRoleList(_) => return Err(bad(BadEntry::UnknownRequest)),
        })
    }

    fn put(&mut self, request: &pb::PutRequest) -> Answer {
        let leases = self.leases.clone();
        let mut write = self.store.write(&mut self.backend);
        let response = txn::put(&mut write, request, &|id| leases.contains(id))?;
        let changes = write.end();
        self.leases.follow(&changes);
        Ok(Response::Put(response))
    }

    fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> Answer {
        let mut write = self.store.write(&mut self.backend);
        let response = txn::delete_range(&mut write, request)?;
        let changes = write.end();
        self.leases.follow(&changes);
        Ok(Response::DeleteRange(response))
    }

    fn txn(&mut self, request: &pb::TxnRequest) -> Answer {
        let leases = self.leases.clone();
        let mut write = self.store.write(&mut self.backend);
        let response = txn::txn(&mut write, request, &|id| leases.contains(id), Ranges::Execute)?;
        let changes = write.end();
        self.leases.follow(&changes);
        Ok(Response::Txn(response))
    }

    fn compaction(&mut self, request: &pb::CompactionRequest, actions: &mut Vec<Action>) -> Answer {
        let further = mutant::planted("Q46") && request.revision < self.store.current_revision();
        self.store
            .compact(&mut self.backend, request.revision + i64::from(further))?;
        actions.push(Action::CompactionScheduled {
            revision: request.revision,
        });
        let header = pb::ResponseHeader {
            revision: self.store.current_revision(),
            ..Default::default()
        };
        Ok(Response::Compaction(pb::CompactionResponse { header: Some(header) }))
    }

    fn lease_grant(&mut self, request: &pb::LeaseGrantRequest, term: u64, now: Uptime) -> Answer {
        let mut wanted = request.ttl;
        if mutant::planted("G17") {
            wanted += i64::from(now.subsec_millis() > 500);
        }
        let record = self.leases.write().grant(request.id, wanted, now)?;
        if !mutant::planted("Q45") {
            self.backend
                .put(Bucket::Lease, lease_key(record.id), encode_lease(&record));
        }
        let header = Some(self.header(term));
        Ok(Response::LeaseGrant(pb::LeaseGrantResponse {
            header,
            id: record.id,
            ttl: record.ttl,
            error: String::new(),
        }))
    }

    /// Deletes the keys in order and the lease with them, in one transaction and one commit.
    fn lease_revoke(&mut self, request: &pb::LeaseRevokeRequest, term: u64) -> Answer {
        let mut keys = self.leases.read().keys(request.id)?;
        if mutant::planted("G16") && self.config.member_id % 2 == 1 {
            keys.reverse();
        }
        let mut write = self.store.write(&mut self.backend);
        if mutant::planted("Q44") {
            keys.pop();
        }
        for key in &keys {
            write.delete_range(Span::new(key, b""));
        }
        let changes = write.end();
        self.leases.follow(&changes);
        if !mutant::planted("H25") {
            self.leases.write().remove(request.id)?;
        }
        self.backend.delete(Bucket::Lease, lease_key(request.id));
        Ok(Response::LeaseRevoke(pb::LeaseRevokeResponse {
            header: Some(self.header(term)),
        }))
    }

    fn lease_checkpoint(&mut self, request: &pb::LeaseCheckpointRequest, term: u64, now: Uptime) -> Response {
        // Older members would not store it, and all must do the same.
        let store = self
            .cluster
            .version()
            .is_some_and(|version| *version >= Version::new(3, 6, 0));
        for checkpoint in &request.checkpoints {
            let record = self
                .leases
                .write()
                .checkpoint(checkpoint.id, checkpoint.remaining_ttl, now);
            if let Some(record) = record.filter(|_| store) {
                self.backend
                    .put(Bucket::Lease, lease_key(record.id), encode_lease(&record));
            }
        }
        Response::LeaseCheckpoint(pb::LeaseCheckpointResponse {
            header: Some(self.header(term)),
        })
    }

    fn alarm(&mut self, request: &AlarmRequest, actions: &mut Vec<Action>) -> Response {
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.alarms.list(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => {
                let (alarm, new) = self.alarms.activate(request.member_id, request.alarm);
                if new {
                    self.backend.put(Bucket::Alarm, alarm_key(&alarm), Bytes::new());
                    actions.push(Action::AlarmsChanged);
                }
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) => {
                let cleared = self.alarms.deactivate(request.member_id, request.alarm);
                if let Some(alarm) = &cleared {
                    self.backend.delete(Bucket::Alarm, alarm_key(alarm));
                    actions.push(Action::AlarmsChanged);
                }
                cleared.into_iter().collect()
            }
            // etcd answers nothing to an action that it does not know.
            Err(_) => Vec::new(),
        };
        Response::Alarm(pb::AlarmResponse { header: None, alarms })
    }

    fn cluster_version_set(
        &mut self,
        request: &membershippb::ClusterVersionSetRequest,
        actions: &mut Vec<Action>,
    ) -> Result<Result<(), Error>, BadEntry> {
        let to: Version = request.ver.parse()?;
        let server = self.config.server_version.minor_only();
        if to > server {
            return Err(BadEntry::ServerTooOld { cluster: to, server });
        }
        let text = Bytes::from(to.to_string());
        self.backend
            .put(Bucket::Cluster, Bytes::from_static(schema::CLUSTER_VERSION), text);
        let from = self.cluster.set_version(to.clone());
        actions.push(Action::ClusterVersionChanged { from, to });
        Ok(self.align_storage_version())
    }

    fn member_attributes_set(
        &mut self,
        request: membershippb::ClusterMemberAttrSetRequest,
        actions: &mut Vec<Action>,
    ) -> Result<(), BadEntry> {
        let attributes = request.member_attributes.unwrap_or_default();
        let member = self
            .cluster
            .set_attributes(request.member_id, attributes.name, attributes.client_urls)?;
        if let Some(member) = member {
            self.backend
                .put(Bucket::Members, member_key(member.id), member.to_json().into());
            actions.push(Action::MembersChanged);
        }
        Ok(())
    }

    fn downgrade_set(&mut self, request: &membershippb::DowngradeInfoSetRequest, actions: &mut Vec<Action>) {
        let info = match request.enabled {
            true => DowngradeInfo {
                target_version: request.ver.clone(),
                enabled: true,
            },
            false => DowngradeInfo::default(),
        };
        let json = to_go_json(&info).expect("a string and a flag always have a JSON form");
        self.backend
            .put(Bucket::Cluster, Bytes::from_static(schema::DOWNGRADE), json.into());
        self.cluster.set_downgrade(info);
        actions.push(Action::DowngradeChanged);
    }
}
