//! The path that a transaction takes, decided on the state before it.
//!
//! Invariants: all compares, those of nested transactions too, look at the state before the first write; what the plan says is executed
//! without another decision.

use std::cmp::Ordering;

use disk::Disk;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, ResponseHeader, ResponseOp, TxnRequest,
    TxnResponse,
};
use proto::mvccpb::KeyValue;

use super::{LeaseExists, Ranges, delete_range, execute_put, header};
use crate::error::Error;
use crate::mvcc::{ReadView, Span, WriteTxn};

/// What a transaction will do.
pub(super) struct Plan<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    Delete(&'a DeleteRangeRequest),
    Nested(Plan<'a>),
    /// An operation without a request; servers refuse it, so it can only come from elsewhere.
    Nothing,
}

impl<'a> Plan<'a> {
    /// Evaluates all compares on the way.
    pub(super) fn new<D: Disk>(view: &ReadView<D>, request: &'a TxnRequest) -> Result<Plan<'a>, Error> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !holds(view, compare)? {
                succeeded = false;
                break;
            }
        }
        let ops = if succeeded || mutant::planted("Q55") {
            &request.success
        } else {
            &request.failure
        };
        let mut steps = Vec::with_capacity(ops.len());
        for op in ops {
            steps.push(match &op.request {
                Some(Request::RequestRange(range)) => Step::Range(range),
                Some(Request::RequestPut(put)) => Step::Put(put),
                Some(Request::RequestDeleteRange(delete)) => Step::Delete(delete),
                Some(Request::RequestTxn(txn)) => Step::Nested(Plan::new(view, txn)?),
                None => Step::Nothing,
            });
        }
        Ok(Plan { succeeded, steps })
    }

    /// Whether all steps can be executed.
    pub(super) fn check<D: Disk>(&self, view: &ReadView<D>, leases: LeaseExists<'_>) -> Result<(), Error> {
        for step in &self.steps {
            match step {
                Step::Range(range) => check_range(view, range)?,
                Step::Put(put) => check_put(view, put, leases)?,
                Step::Nested(plan) => plan.check(view, leases)?,
                Step::Delete(_) | Step::Nothing => {}
            }
        }
        Ok(())
    }

    pub(super) fn execute<D: Disk>(&self, write: &mut WriteTxn<'_, D>, ranges: Ranges) -> Result<TxnResponse, Error> {
        let mut responses = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let response = match step {
                Step::Range(range) if ranges == Ranges::Execute => {
                    Some(Response::ResponseRange(write.view().range(range)?))
                }
                Step::Range(_) => Some(Response::ResponseRange(RangeResponse {
                    header: header(write.revision()),
                    ..RangeResponse::default()
                })),
                Step::Put(put) => Some(Response::ResponsePut(execute_put(write, put)?)),
                Step::Delete(delete) => Some(Response::ResponseDeleteRange(delete_range(write, delete)?)),
                Step::Nested(plan) => Some(Response::ResponseTxn(plan.execute(write, ranges)?)),
                Step::Nothing => None,
            };
            responses.push(ResponseOp { response });
        }
        Ok(self.response(responses))
    }

    /// Executes a plan of ranges alone.
    pub(super) fn read<D: Disk>(&self, view: &ReadView<D>) -> Result<TxnResponse, Error> {
        let mut responses = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let Step::Range(range) = step else {
                return Err(Error::Other("a transaction with writes must go through the log".into()));
            };
            responses.push(ResponseOp {
                response: Some(Response::ResponseRange(view.range(range)?)),
            });
        }
        Ok(self.response(responses))
    }

    /// The header of a nested response stays empty; the outermost is filled by the caller.
    fn response(&self, responses: Vec<ResponseOp>) -> TxnResponse {
        TxnResponse {
            header: Some(ResponseHeader::default()),
            succeeded: self.succeeded,
            responses,
        }
    }
}

/// Whether a range inside a transaction can be answered. A negative revision is below every compaction here, unlike outside.
fn check_range<D: Disk>(view: &ReadView<D>, request: &RangeRequest) -> Result<(), Error> {
    match request.revision {
        0 => Ok(()),
        revision if revision > view.current_revision() => Err(Error::FutureRevision),
        revision if revision < view.compact_revision() => Err(Error::Compacted),
        _ => Ok(()),
    }
}

/// Whether a put can be executed: its lease exists, and so does the key when something of it is to be kept.
pub(super) fn check_put<D: Disk>(
    view: &ReadView<D>,
    request: &PutRequest,
    leases: LeaseExists<'_>,
) -> Result<(), Error> {
    if request.lease != 0 && !leases(request.lease) {
        return Err(Error::LeaseNotFound);
    }
    if (request.ignore_value || request.ignore_lease) && view.count(Span::Key(&request.key), 0)? == 0 {
        return Err(Error::KeyNotFound);
    }
    Ok(())
}

/// Whether a compare holds for every key of its span. An empty span fails a compare of values and counts as one key of zeros otherwise.
fn holds<D: Disk>(view: &ReadView<D>, compare: &Compare) -> Result<bool, Error> {
    let span = Span::new(&compare.key, &compare.range_end);
    let target = CompareTarget::try_from(compare.target);
    // Lease and value are in the records alone; for the rest the index is enough.
    let kvs = match target {
        Ok(CompareTarget::Value | CompareTarget::Lease) => view.all(span)?,
        _ => view.all_without_values(span),
    };
    if kvs.is_empty() {
        return Ok(target != Ok(CompareTarget::Value) && holds_for(compare, &KeyValue::default()));
    }
    Ok(kvs.iter().all(|kv| holds_for(compare, kv)))
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    // A union that does not fit the target counts as absent, and that as zero.
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let wanted = match union {
                Some(TargetUnion::Value(value)) => value.as_ref(),
                _ => b"",
            };
            kv.value.as_ref().cmp(wanted)
        }
        Ok(CompareTarget::Create) => kv.create_revision.cmp(&match union {
            Some(TargetUnion::CreateRevision(wanted)) => *wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Mod) => kv.mod_revision.cmp(&match union {
            Some(TargetUnion::ModRevision(wanted)) => *wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Version) => kv.version.cmp(&match union {
            Some(TargetUnion::Version(wanted)) => *wanted,
            _ => 0,
        }),
        Ok(CompareTarget::Lease) => kv.lease.cmp(&match union {
            Some(TargetUnion::Lease(wanted)) => *wanted,
            _ => 0,
        }),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) if mutant::planted("Q54") => order.is_ge(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}
