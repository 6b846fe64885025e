//! Checks and execution, with the quirks that a client can see.

use bytes::Bytes;
use disk::RealDisk;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{Compare, RangeRequest, RequestOp, ResponseOp};

use super::*;
use crate::backend::{Backend, Options};
use crate::mvcc::Store;

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_of(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    }
}

fn puts(key: &str) -> RequestOp {
    op(Request::RequestPut(put_of(key, "v")))
}

fn deletes(key: &str, end: &'static [u8]) -> RequestOp {
    let range_end = Bytes::from_static(end);
    op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end,
        prev_kv: false,
    }))
}

fn range_of(key: &str, end: &'static [u8]) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        range_end: Bytes::from_static(end),
        ..RangeRequest::default()
    }
}

fn ranges(key: &str) -> RequestOp {
    op(Request::RequestRange(range_of(key, b"")))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest {
        success,
        failure,
        ..TxnRequest::default()
    }))
}

fn then(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        success,
        ..TxnRequest::default()
    }
}

#[test]
fn requests_are_refused_for_the_reason_etcd_gives() {
    let put = put_of("k", "v");
    assert_eq!(check_put(&put), Ok(()));
    assert_eq!(check_put(&put_of("", "v")), Err(Error::EmptyKey));
    assert_eq!(
        check_put(&PutRequest {
            ignore_value: true,
            ..put.clone()
        }),
        Err(Error::ValueProvided)
    );
    assert_eq!(
        check_put(&PutRequest {
            ignore_lease: true,
            lease: 1,
            ..put
        }),
        Err(Error::LeaseProvided)
    );
    assert_eq!(check_delete_range(&DeleteRangeRequest::default()), Err(Error::EmptyKey));
    let range = range_of("k", b"");
    assert_eq!(check_range(&RangeRequest::default()), Err(Error::EmptyKey));
    assert_eq!(
        check_range(&RangeRequest {
            sort_order: 3,
            ..range.clone()
        }),
        Err(Error::InvalidSortOption)
    );
    assert_eq!(
        check_range(&RangeRequest {
            sort_target: -1,
            ..range.clone()
        }),
        Err(Error::InvalidSortOption)
    );
    let by_key = RangeRequest {
        sort_order: 1,
        ..range.clone()
    };
    assert_eq!(check_range_stream(&by_key), Ok(()));
    assert_eq!(
        check_range_stream(&RangeRequest {
            sort_target: 2,
            ..by_key
        }),
        Err(Error::RangeStreamSort)
    );
    assert_eq!(
        check_range_stream(&RangeRequest {
            min_mod_revision: 1,
            ..range
        }),
        Err(Error::RangeStreamFilter)
    );
    assert_eq!(
        check_txn(&then(vec![RequestOp::default()]), 128),
        Err(Error::KeyNotFound)
    );
    let compare = TxnRequest {
        compare: vec![Compare::default()],
        ..TxnRequest::default()
    };
    assert_eq!(check_txn(&compare, 128), Err(Error::EmptyKey));
}

#[test]
fn nested_transactions_share_the_limit_of_operations() {
    let three = || vec![ranges("a"), ranges("b"), ranges("c")];
    assert_eq!(check_txn(&then(three()), 3), Ok(()));
    assert_eq!(check_txn(&then(three()), 2), Err(Error::TooManyOps));
    let deeper = TxnRequest {
        failure: vec![nested(three(), vec![])],
        ..TxnRequest::default()
    };
    assert_eq!(check_txn(&deeper, 4), Ok(()));
    assert_eq!(
        check_txn(&deeper, 3),
        Err(Error::TooManyOps),
        "one of them is the nested transaction itself"
    );
}

#[test]
fn no_key_may_be_written_twice() {
    let ok = |request: TxnRequest| assert_eq!(check_txn(&request, 128), Ok(()), "{request:?}");
    let twice = |request: TxnRequest| assert_eq!(check_txn(&request, 128), Err(Error::DuplicateKey), "{request:?}");
    twice(then(vec![puts("a"), puts("a")]));
    twice(then(vec![puts("b"), deletes("a", b"c")]));
    twice(then(vec![deletes("a", b""), puts("a")]));
    twice(then(vec![nested(vec![puts("a")], vec![]), puts("a")]));
    twice(then(vec![
        nested(vec![puts("a")], vec![]),
        nested(vec![], vec![puts("a")]),
    ]));
    twice(then(vec![nested(vec![deletes("a", b"c")], vec![]), puts("b")]));
    ok(then(vec![deletes("a", b"c"), deletes("b", b"d"), puts("d")]));
    ok(then(vec![nested(vec![puts("a")], vec![puts("a")])]));
    ok(TxnRequest {
        success: vec![puts("a")],
        failure: vec![puts("a")],
        ..TxnRequest::default()
    });
    ok(then(vec![ranges("a"), puts("a"), ranges("a")]));
    // etcd takes the open end for the key "\0" here, and a range that ends before it begins holds nothing.
    ok(then(vec![deletes("a", b"\0"), puts("b")]));
    ok(then(vec![deletes("a", b"\0"), puts("a")]));
    ok(then(vec![deletes("c", b"b"), puts("c")]));
    ok(then(vec![deletes("c", b"c"), puts("c")]));
}

#[test]
fn only_ranges_make_a_transaction_read_only() {
    let serializable = op(Request::RequestRange(RangeRequest {
        serializable: true,
        ..range_of("k", b"")
    }));
    let cases = [
        (vec![], true, true),
        (vec![serializable.clone()], true, true),
        (vec![serializable, ranges("a")], true, false),
        (vec![puts("a")], false, false),
        (vec![nested(vec![], vec![])], false, false),
        (vec![RequestOp::default()], false, false),
    ];
    for (ops, reads, local) in cases {
        assert_eq!(
            (is_read_only(&then(ops.clone())), is_serializable(&then(ops.clone()))),
            (reads, local),
            "{ops:?}"
        );
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    backend: Backend<RealDisk>,
    store: Store<RealDisk>,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(RealDisk, &dir.path().join("db"), Options::default()).unwrap();
        let (store, _) = Store::open(&backend).unwrap();
        Fixture {
            _dir: dir,
            backend,
            store,
        }
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let mut write = self.store.write(&mut self.backend);
        let response = txn(&mut write, request, &|lease| lease == 7, Ranges::Execute);
        let changes = write.end();
        assert!(
            response.is_ok() || changes.changes.is_empty(),
            "a refused transaction changed something"
        );
        response
    }

    fn put(&mut self, request: PutRequest) -> Result<PutResponse, Error> {
        let mut write = self.store.write(&mut self.backend);
        let response = put(&mut write, &request, &|lease| lease == 7);
        write.end();
        response
    }

    fn values(&self) -> Vec<String> {
        let kvs = self.store.reader().range(&range_of("\0", b"\0")).unwrap().kvs;
        let text = |kv: &proto::mvccpb::KeyValue| {
            let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
            format!(
                "{key}={value} c{} m{} v{} l{}",
                kv.create_revision, kv.mod_revision, kv.version, kv.lease
            )
        };
        kvs.iter().map(text).collect()
    }
}

#[test]
fn a_put_keeps_what_it_is_told_to_keep() {
    let mut f = Fixture::new();
    let keep_value = PutRequest {
        ignore_value: true,
        lease: 7,
        ..put_of("k", "")
    };
    let keep_lease = PutRequest {
        ignore_lease: true,
        prev_kv: true,
        ..put_of("k", "w")
    };
    assert_eq!(f.put(keep_value.clone()), Err(Error::KeyNotFound));
    assert_eq!(
        f.put(PutRequest {
            lease: 8,
            ..put_of("k", "v")
        }),
        Err(Error::LeaseNotFound)
    );
    assert_eq!(f.put(put_of("k", "v")).unwrap().header.unwrap().revision, 2);
    f.put(keep_value).unwrap();
    assert_eq!(f.values(), ["k=v c2 m3 v2 l7"]);
    let response = f.put(keep_lease).unwrap();
    assert_eq!(f.values(), ["k=w c2 m4 v3 l7"]);
    assert_eq!(response.prev_kv.unwrap().value, "v");
}

#[test]
fn compares_look_at_the_state_before_and_ranges_at_the_state_so_far() {
    let mut f = Fixture::new();
    f.put(put_of("a", "1")).unwrap();
    let version_of = |key: &'static str, version: i64| Compare {
        key: key.into(),
        target: CompareTarget::Version as i32,
        result: CompareResult::Equal as i32,
        target_union: Some(TargetUnion::Version(version)),
        ..Compare::default()
    };
    // The nested compare still sees version 1, though a second version was written before it.
    let inner = TxnRequest {
        compare: vec![version_of("a", 1)],
        success: vec![ranges("a"), puts("b")],
        failure: vec![],
    };
    let request = TxnRequest {
        compare: vec![version_of("a", 1), version_of("zzz", 0)],
        success: vec![
            puts("a"),
            ranges("a"),
            op(Request::RequestTxn(inner)),
            deletes("b", b""),
            ranges("b"),
        ],
        failure: vec![],
    };
    let response = f.txn(&request).unwrap();
    assert!(response.succeeded);
    assert_eq!(response.header.unwrap().revision, 3);
    let responses: Vec<_> = response
        .responses
        .into_iter()
        .map(|ResponseOp { response }| response.unwrap())
        .collect();
    let Response::ResponseRange(seen) = &responses[1] else {
        panic!("{responses:?}")
    };
    assert_eq!(
        (
            seen.kvs[0].version,
            seen.kvs[0].mod_revision,
            seen.header.unwrap().revision
        ),
        (2, 3, 3)
    );
    let Response::ResponseTxn(inner) = &responses[2] else {
        panic!("{responses:?}")
    };
    assert!(inner.succeeded && inner.header.unwrap().revision == 0);
    let Response::ResponseDeleteRange(deleted) = &responses[3] else {
        panic!("{responses:?}")
    };
    assert_eq!((deleted.deleted, deleted.header.unwrap().revision), (1, 3));
    let Response::ResponseRange(gone) = &responses[4] else {
        panic!("{responses:?}")
    };
    assert!(gone.kvs.is_empty());
    assert_eq!(f.values(), ["a=v c2 m3 v2 l0"]);
}

#[test]
fn a_transaction_that_cannot_be_executed_changes_nothing() {
    let mut f = Fixture::new();
    for value in ["1", "2", "3"] {
        f.put(put_of("a", value)).unwrap();
    }
    f.store.compact(&mut f.backend, 3).unwrap();
    let at = |revision| {
        op(Request::RequestRange(RangeRequest {
            revision,
            ..range_of("a", b"")
        }))
    };
    let leased = op(Request::RequestPut(PutRequest {
        lease: 8,
        ..put_of("c", "v")
    }));
    let kept = op(Request::RequestPut(PutRequest {
        ignore_lease: true,
        ..put_of("c", "v")
    }));
    let cases = [
        (at(2), Error::Compacted),
        (at(-1), Error::Compacted),
        (at(5), Error::FutureRevision),
        (leased, Error::LeaseNotFound),
        (kept, Error::KeyNotFound),
    ];
    for (last, expected) in cases {
        assert_eq!(f.txn(&then(vec![puts("b"), nested(vec![last], vec![])])), Err(expected));
        assert_eq!(f.store.current_revision(), 4);
    }
    // H20: leaving the ranges out does not change the verdict.
    for ranges in [Ranges::Execute, Ranges::Skip] {
        let mut write = f.store.write(&mut f.backend);
        assert_eq!(
            txn(&mut write, &then(vec![puts("b"), at(2)]), &|_| true, ranges),
            Err(Error::Compacted)
        );
        write.end();
    }
    assert!(f.txn(&then(vec![puts("b"), at(3), at(0)])).is_ok());
}

#[test]
fn compares_of_spans_and_of_what_is_not_there() {
    let mut f = Fixture::new();
    f.put(put_of("a", "1")).unwrap();
    f.put(PutRequest {
        lease: 7,
        ..put_of("b", "1")
    })
    .unwrap();
    let view = f.store.reader().view();
    let holds = |key: &'static str, end: &'static str, target: i32, result: i32, union: Option<TargetUnion>| {
        let compare = Compare {
            key: key.into(),
            range_end: end.into(),
            target,
            result,
            target_union: union,
        };
        let request = TxnRequest {
            compare: vec![compare],
            ..TxnRequest::default()
        };
        read_only(&view, &request).unwrap().succeeded
    };
    let (version, value, lease) = (
        CompareTarget::Version as i32,
        CompareTarget::Value as i32,
        CompareTarget::Lease as i32,
    );
    let (equal, greater, less, not_equal) = (0, 1, 2, 3);
    assert!(holds("a", "z", version, equal, Some(TargetUnion::Version(1))));
    assert!(holds("a", "z", value, equal, Some(TargetUnion::Value("1".into()))));
    assert!(
        !holds("a", "z", lease, equal, Some(TargetUnion::Lease(7))),
        "only one of them has it"
    );
    assert!(holds("b", "", lease, equal, Some(TargetUnion::Lease(7))));
    assert!(holds("a", "\0", version, less, Some(TargetUnion::Version(2))));
    // Nothing there: zeros, except for values.
    assert!(holds("x", "", version, equal, None) && holds("x", "z", lease, less, Some(TargetUnion::Lease(1))));
    assert!(!holds("x", "", value, equal, None) && !holds("x", "", value, not_equal, None));
    // What does not fit counts as zero, what is unknown as equal or true.
    assert!(holds("a", "", version, greater, Some(TargetUnion::Lease(9))));
    assert!(holds("a", "", 99, equal, None) && !holds("a", "", 99, less, None));
    assert!(holds("a", "", version, 99, None));
}

#[test]
fn deleting_nothing_takes_no_revision() {
    let mut f = Fixture::new();
    f.put(put_of("a", "1")).unwrap();
    let delete = |f: &mut Fixture, key: &'static str| {
        let mut write = f.store.write(&mut f.backend);
        let request = DeleteRangeRequest {
            key: key.into(),
            prev_kv: true,
            ..DeleteRangeRequest::default()
        };
        let response = delete_range(&mut write, &request).unwrap();
        write.end();
        (
            response.deleted,
            response.header.unwrap().revision,
            response.prev_kvs.len(),
        )
    };
    assert_eq!(delete(&mut f, "x"), (0, 2, 0));
    assert_eq!(delete(&mut f, "a"), (1, 3, 1));
    assert_eq!(f.store.current_revision(), 3);
}
