//! What a cluster must do with its log: the keys, revisions, leases and compactions that entries make, written down independently of
//! the state machine and as simply as possible. All history is kept, so that any answer can be compared.
//!
//! Invariant: entries are given once each, in order of their index.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, InternalRaftRequest, LeaseGrantResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use proto::mvccpb::KeyValue;
use replica::state_machine::{Error, Response};

/// A change of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key after it; of a deletion only key and mod revision.
    pub kv: KeyValue,
    /// Whether it is gone.
    pub deleted: bool,
    /// The key before it.
    pub previous: Option<KeyValue>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The revision of the last change; 1 at first.
    pub revision: i64,
    /// The last compaction; -1 when there was none.
    pub compacted: i64,
    /// Every revision that was ever compacted to.
    pub compactions: BTreeSet<i64>,
    /// TTL by lease.
    pub leases: BTreeMap<i64, i64>,
    /// All changes, by revision and in order.
    pub changes: BTreeMap<i64, Vec<Change>>,
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    ttl_min: i64,
}

/// What an entry should have answered: `None` for those whose answers nobody compares.
pub type Verdict = Option<Result<Response, Error>>;

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

fn covers(key: &[u8], end: &[u8], candidate: &[u8]) -> bool {
    match end {
        [] => candidate == key,
        [0] => candidate >= key,
        end => candidate >= key && candidate < end,
    }
}

/// A transaction as it goes: changes that are not yet told.
struct Writing<'a> {
    model: &'a mut Model,
    made: Vec<Change>,
}

impl Writing<'_> {
    fn revision(&self) -> i64 {
        self.model.revision + i64::from(!self.made.is_empty())
    }

    fn record(&mut self, kv: KeyValue, deleted: bool) -> Option<KeyValue> {
        let previous = self.model.get(&kv.key, i64::MAX);
        let state = (!deleted).then(|| kv.clone());
        let history = self.model.keys.entry(kv.key.clone()).or_default();
        history.push((kv.mod_revision, state));
        self.made.push(Change {
            kv,
            deleted,
            previous: previous.clone(),
        });
        previous
    }

    fn put(&mut self, put: &PutRequest) -> PutResponse {
        let revision = self.model.revision + 1;
        let before = self.model.get(&put.key, i64::MAX);
        let kv = KeyValue {
            key: put.key.clone(),
            create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            value: match (&before, put.ignore_value) {
                (Some(kv), true) => kv.value.clone(),
                _ => put.value.clone(),
            },
            lease: match (&before, put.ignore_lease) {
                (Some(kv), true) => kv.lease,
                _ => put.lease,
            },
        };
        let previous = self.record(kv, false);
        PutResponse {
            header: header(self.revision()),
            prev_kv: previous.filter(|_| put.prev_kv),
        }
    }

    fn delete(&mut self, key: &[u8], end: &[u8], prev: bool) -> DeleteRangeResponse {
        let victims = self.model.range_at(key, end, i64::MAX);
        let revision = self.model.revision + 1;
        for victim in &victims {
            let kv = KeyValue {
                key: victim.key.clone(),
                mod_revision: revision,
                ..KeyValue::default()
            };
            self.record(kv, true);
        }
        DeleteRangeResponse {
            header: header(self.revision()),
            deleted: victims.len() as i64,
            prev_kvs: if prev { victims } else { Vec::new() },
        }
    }

    fn end(self) {
        if !self.made.is_empty() {
            self.model.revision += 1;
            self.model.changes.insert(self.model.revision, self.made);
        }
    }
}

impl Model {
    /// Nothing yet.
    pub fn new(ttl_min: i64) -> Model {
        Model {
            revision: 1,
            compacted: -1,
            ttl_min,
            ..Model::default()
        }
    }

    /// A key at a revision.
    pub fn get(&self, key: &[u8], at: i64) -> Option<KeyValue> {
        let history = self.keys.get(key)?;
        history.iter().rev().find(|(revision, _)| *revision <= at)?.1.clone()
    }

    /// The keys of a span at a revision.
    pub fn range_at(&self, key: &[u8], end: &[u8], at: i64) -> Vec<KeyValue> {
        let all = self.keys.range(Bytes::copy_from_slice(key)..);
        all.take_while(|(name, _)| name.as_ref() == key || covers(key, end, name))
            .filter_map(|(name, _)| self.get(name, at))
            .collect()
    }

    /// The answer to a range at a moment: `now` is the revision that the reader saw.
    pub fn range(&self, request: &RangeRequest, now: i64) -> RangeResponse {
        let at = if request.revision > 0 { request.revision } else { now };
        let mut kvs = self.range_at(&request.key, &request.range_end, at);
        let count = kvs.len() as i64;
        let mut more = false;
        if request.limit > 0 && count > request.limit {
            kvs.truncate(request.limit as usize);
            more = true;
        }
        if request.keys_only {
            // etcd 3.7 answers these from its index, which knows no leases.
            kvs.iter_mut().for_each(|kv| (kv.value, kv.lease) = (Bytes::new(), 0));
        }
        if request.count_only {
            (kvs, more) = (Vec::new(), false);
        }
        RangeResponse {
            header: header(now),
            kvs,
            more,
            count,
        }
    }

    /// Takes the next entry.
    pub fn apply(&mut self, request: &InternalRaftRequest) -> Verdict {
        if let Some(range) = &request.range {
            return Some(Ok(Response::Range(self.range(range, self.revision))));
        }
        if let Some(put) = &request.put {
            return Some(self.put(put).map(Response::Put));
        }
        if let Some(delete) = &request.delete_range {
            let mut writing = Writing {
                model: self,
                made: Vec::new(),
            };
            let response = writing.delete(&delete.key, &delete.range_end, delete.prev_kv);
            writing.end();
            return Some(Ok(Response::DeleteRange(response)));
        }
        if let Some(txn) = &request.txn {
            return Some(self.txn(txn).map(Response::Txn));
        }
        if let Some(compaction) = &request.compaction {
            let revision = compaction.revision;
            if revision <= self.compacted {
                return Some(Err(Error::Compacted));
            }
            if revision > self.revision {
                return Some(Err(Error::FutureRevision));
            }
            self.compacted = revision;
            self.compactions.insert(revision);
            return Some(Ok(Response::Compaction(proto::etcdserverpb::CompactionResponse {
                header: header(self.revision),
            })));
        }
        if let Some(grant) = &request.lease_grant {
            if self.leases.contains_key(&grant.id) {
                return Some(Err(Error::LeaseExists));
            }
            let ttl = grant.ttl.max(self.ttl_min);
            self.leases.insert(grant.id, ttl);
            return Some(Ok(Response::LeaseGrant(LeaseGrantResponse {
                header: header(self.revision),
                id: grant.id,
                ttl,
                error: String::new(),
            })));
        }
        if let Some(revoke) = &request.lease_revoke {
            if self.leases.remove(&revoke.id).is_none() {
                return Some(Err(Error::LeaseNotFound));
            }
            let mut keys: Vec<Bytes> = self
                .range_at(b"", b"\0", i64::MAX)
                .into_iter()
                .filter(|kv| kv.lease == revoke.id)
                .map(|kv| kv.key)
                .collect();
            keys.sort();
            let mut writing = Writing {
                model: self,
                made: Vec::new(),
            };
            for key in keys {
                writing.delete(&key, b"", false);
            }
            writing.end();
            return Some(Ok(Response::LeaseRevoke(proto::etcdserverpb::LeaseRevokeResponse {
                header: header(self.revision),
            })));
        }
        None
    }

    fn put(&mut self, put: &PutRequest) -> Result<PutResponse, Error> {
        self.check_put(put)?;
        let mut writing = Writing {
            model: self,
            made: Vec::new(),
        };
        let response = writing.put(put);
        writing.end();
        Ok(response)
    }

    fn check_put(&self, put: &PutRequest) -> Result<(), Error> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        if (put.ignore_value || put.ignore_lease) && self.get(&put.key, i64::MAX).is_none() {
            return Err(Error::KeyNotFound);
        }
        Ok(())
    }

    fn holds(&self, compare: &Compare) -> bool {
        let range = !compare.range_end.is_empty();
        let mut found = self.range_at(&compare.key, &compare.range_end, i64::MAX);
        if found.is_empty() {
            if compare.target() == CompareTarget::Value {
                return false;
            }
            if range {
                return true;
            }
            found.push(KeyValue::default());
        }
        found.iter().all(|kv| {
            let order = match &compare.target_union {
                Some(TargetUnion::Value(value)) => kv.value.cmp(value),
                Some(TargetUnion::Version(version)) => kv.version.cmp(version),
                Some(TargetUnion::CreateRevision(revision)) => kv.create_revision.cmp(revision),
                Some(TargetUnion::ModRevision(revision)) => kv.mod_revision.cmp(revision),
                Some(TargetUnion::Lease(lease)) => kv.lease.cmp(lease),
                None => std::cmp::Ordering::Equal,
            };
            match compare.result() {
                CompareResult::Equal => order.is_eq(),
                CompareResult::Greater => order.is_gt(),
                CompareResult::Less => order.is_lt(),
                CompareResult::NotEqual => order.is_ne(),
            }
        })
    }

    fn txn(&mut self, txn: &TxnRequest) -> Result<TxnResponse, Error> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let begin = self.revision;
        for op in branch {
            match &op.request {
                Some(Op::RequestPut(put)) => self.check_put(put)?,
                Some(Op::RequestRange(range)) => {
                    if range.revision > begin {
                        return Err(Error::FutureRevision);
                    }
                    if range.revision > 0 && range.revision < self.compacted {
                        return Err(Error::Compacted);
                    }
                }
                _ => {}
            }
        }
        let mut writing = Writing {
            model: self,
            made: Vec::new(),
        };
        let responses = branch
            .iter()
            .map(|op| {
                let response = match &op.request {
                    Some(Op::RequestPut(put)) => Some(OpResponse::ResponsePut(writing.put(put))),
                    Some(Op::RequestDeleteRange(DeleteRangeRequest {
                        key,
                        range_end,
                        prev_kv,
                    })) => Some(OpResponse::ResponseDeleteRange(
                        writing.delete(key, range_end, *prev_kv),
                    )),
                    Some(Op::RequestRange(range)) => {
                        let now = writing.revision();
                        Some(OpResponse::ResponseRange(writing.model.range(range, now)))
                    }
                    _ => None,
                };
                ResponseOp { response }
            })
            .collect();
        let revision = writing.revision();
        writing.end();
        Ok(TxnResponse {
            header: header(revision),
            succeeded,
            responses,
        })
    }
}

/// Leaves of an answer what the model knows: headers keep their revision, and inner ones nothing.
pub fn bare(response: &Response) -> Response {
    let outer = |given: &Option<ResponseHeader>| given.as_ref().map(|given| given.revision).and_then(header);
    let mut bare = response.clone();
    match &mut bare {
        Response::Range(response) => response.header = outer(&response.header),
        Response::Put(response) => response.header = outer(&response.header),
        Response::DeleteRange(response) => response.header = outer(&response.header),
        Response::Compaction(response) => response.header = outer(&response.header),
        Response::LeaseGrant(response) => response.header = outer(&response.header),
        Response::LeaseRevoke(response) => response.header = outer(&response.header),
        Response::Txn(response) => {
            response.header = outer(&response.header);
            for op in &mut response.responses {
                match &mut op.response {
                    Some(OpResponse::ResponsePut(inner)) => inner.header = None,
                    Some(OpResponse::ResponseRange(inner)) => inner.header = None,
                    Some(OpResponse::ResponseDeleteRange(inner)) => inner.header = None,
                    _ => {}
                }
            }
        }
        _ => {}
    }
    bare
}

/// The revision that an answer names.
pub fn revision_of(response: &Response) -> Option<i64> {
    let header = match response {
        Response::Range(response) => &response.header,
        Response::Put(response) => &response.header,
        Response::DeleteRange(response) => &response.header,
        Response::Txn(response) => &response.header,
        Response::Compaction(response) => &response.header,
        Response::LeaseGrant(response) => &response.header,
        Response::LeaseRevoke(response) => &response.header,
        _ => &None,
    };
    header.as_ref().map(|header| header.revision)
}
