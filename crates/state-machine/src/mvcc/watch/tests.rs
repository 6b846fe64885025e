//! What a client of a watch stream can see, case by case.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use disk::RealDisk;
use proto::etcdserverpb::watch_create_request::FilterType;

use super::super::index::Span;
use super::super::store::Store;
use super::*;
use crate::backend::{Backend, Options};

#[derive(Default)]
struct Count(AtomicUsize);

impl Notify for Count {
    fn notify(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    backend: Backend<RealDisk>,
    store: Store<RealDisk>,
    hub: WatchHub<RealDisk>,
    driver: Arc<Count>,
}

const START: Uptime = Uptime::ZERO;

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(RealDisk, &dir.path().join("db"), Options::default()).unwrap();
        let (store, _) = Store::open(&backend).unwrap();
        let hub = store.watch_hub();
        let driver = Arc::new(Count::default());
        hub.set_driver(driver.clone());
        Fixture {
            _dir: dir,
            backend,
            store,
            hub,
            driver,
        }
    }

    fn put(&mut self, key: &str, value: &str) -> i64 {
        let mut write = self.store.write(&mut self.backend);
        write.put(key.to_owned().into(), value.to_owned().into(), 0);
        write.end().revision
    }

    fn delete(&mut self, key: &str) -> i64 {
        let mut write = self.store.write(&mut self.backend);
        write.delete_range(Span::Key(key.as_bytes()));
        write.end().revision
    }

    fn open(&self) -> WatchStream<RealDisk> {
        self.hub
            .open(StreamOptions::default(), Arc::new(Count::default()), START)
    }

    fn catch_up(&self) {
        while self.hub.step(START, StepBudget::default()).unwrap() == Caught::More {}
    }

    fn compact(&mut self, revision: i64) {
        self.store.compact(&mut self.backend, revision).unwrap();
        while self.store.is_compacting() {
            self.store.compact_step(&mut self.backend, 100).unwrap();
        }
    }
}

fn watch(key: &'static str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

/// The deliveries that wait, in words.
fn read(stream: &WatchStream<RealDisk>) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let event = |event: &Arc<Event>, prev_kv: bool| {
        let what = if event.deleted {
            "del".to_owned()
        } else {
            format!("put {}", text(&event.kv.value))
        };
        let before = event
            .previous
            .as_ref()
            .filter(|_| prev_kv)
            .map(|kv| format!(" was {}", text(&kv.value)));
        format!(
            "{}@{} {what}{}",
            text(&event.kv.key),
            event.kv.mod_revision,
            before.unwrap_or_default()
        )
    };
    let say = |delivery| match delivery {
        Delivery::Created { watch_id, .. } => format!("{watch_id} created"),
        Delivery::Refused { reason, .. } => format!("refused: {reason}"),
        Delivery::Canceled { watch_id, .. } => format!("{watch_id} canceled"),
        Delivery::Compacted {
            watch_id,
            compact_revision,
        } => format!("{watch_id} compacted at {compact_revision}"),
        Delivery::Progress { watch_id, revision } => format!("{watch_id} progress {revision}"),
        Delivery::Events {
            watch_id,
            events,
            prev_kv,
            ..
        } => {
            let events: Vec<_> = events.iter().map(|e| event(e, prev_kv)).collect();
            format!("{watch_id}: {}", events.join(", "))
        }
    };
    std::iter::from_fn(|| stream.pop()).map(say).collect()
}

#[test]
fn ids_are_given_from_zero_and_refusals_say_why() {
    let f = Fixture::new();
    let stream = f.open();
    let with_end = |key, end| WatchCreateRequest {
        range_end: Bytes::from_static(end),
        ..watch(key, 0)
    };
    let with_id = |watch_id| WatchCreateRequest {
        watch_id,
        ..watch("a", 0)
    };
    for request in [
        watch("a", 0),
        with_id(1),
        with_id(1),
        watch("a", 0),
        with_id(-7),
        with_end("b", b"a"),
    ] {
        stream.create(&request);
    }
    for request in [
        with_end("b", b"b"),
        with_end("b", b"\0"),
        with_end("", b"\0"),
        watch("a", -1),
    ] {
        stream.create(&request);
    }
    stream.cancel(99);
    stream.cancel(1);
    stream.refuse("rpc error: code = PermissionDenied desc = etcdserver: permission denied".into());
    let expected = [
        "0 created",
        "1 created",
        "refused: mvcc: duplicate watch ID provided on the WatchStream",
        "2 created",
        "-7 created",
        "refused: mvcc: watcher range is empty",
        "refused: mvcc: watcher range is empty",
        "3 created",
        "4 created",
        "refused: etcdserver: mvcc: required revision has been compacted",
        "1 canceled",
        "refused: rpc error: code = PermissionDenied desc = etcdserver: permission denied",
    ];
    assert_eq!(read(&stream), expected);
}

#[test]
fn events_carry_what_was_asked_for() {
    let mut f = Fixture::new();
    f.put("a", "1");
    let stream = f.open();
    let filtered = |filter: FilterType| WatchCreateRequest {
        filters: vec![filter as i32],
        ..watch("a", 0)
    };
    stream.create(&watch("a", 0));
    stream.create(&filtered(FilterType::Noput));
    stream.create(&filtered(FilterType::Nodelete));
    stream.create(&WatchCreateRequest {
        prev_kv: true,
        ..watch("a", 2)
    });
    f.catch_up();
    f.put("a", "2");
    f.delete("a");
    f.delete("a");
    f.put("a", "3");
    let mut deliveries = read(&stream);
    assert_eq!(deliveries.drain(..5).collect::<Vec<_>>()[4], "3: a@2 put 1");
    let expected = [
        "0: a@3 put 2",
        "2: a@3 put 2",
        "3: a@3 put 2 was 1",
        "0: a@4 del",
        "1: a@4 del",
        "3: a@4 del was 2",
        "0: a@5 put 3",
        "2: a@5 put 3",
        "3: a@5 put 3",
    ];
    assert_eq!(deliveries, expected);
    // The same out of the store.
    let stream = f.open();
    stream.create(&WatchCreateRequest {
        prev_kv: true,
        ..watch("a", 3)
    });
    f.catch_up();
    assert_eq!(
        read(&stream),
        ["0 created", "0: a@3 put 2 was 1, a@4 del was 2, a@5 put 3"]
    );
}

/// H29 (etcd #18089, #19179).
#[test]
fn a_deletion_at_the_compaction_is_still_seen() {
    let mut f = Fixture::new();
    f.put("a", "1");
    let deleted = f.delete("a");
    f.put("b", "1");
    f.compact(deleted);
    let stream = f.open();
    stream.create(&watch("a", deleted));
    stream.create(&watch("a", deleted - 1));
    f.catch_up();
    assert_eq!(
        read(&stream),
        ["0 created", "1 created", "1 compacted at 3", "0: a@3 del"]
    );
    assert_eq!(
        f.hub.stats(),
        WatchStats {
            streams: 1,
            watchers: 1,
            slow_watchers: 0
        }
    );
    // The id stays taken until it is cancelled, once.
    stream.create(&WatchCreateRequest {
        watch_id: 1,
        ..watch("a", 0)
    });
    stream.cancel(1);
    stream.cancel(1);
    stream.create(&WatchCreateRequest {
        watch_id: 1,
        ..watch("a", 0)
    });
    assert_eq!(
        read(&stream),
        [
            "refused: mvcc: duplicate watch ID provided on the WatchStream",
            "1 canceled",
            "1 created"
        ]
    );
}

/// H30 (etcd #15220) and H33 (#20221).
#[test]
fn progress_is_told_only_when_all_are_in_sync() {
    let mut f = Fixture::new();
    f.put("a", "1");
    let stream = f.open();
    stream.request_progress();
    assert_eq!(read(&stream), [] as [&str; 0], "nobody watches");
    stream.create(&watch("a", 0));
    stream.request_progress();
    stream.create(&watch("a", 2));
    stream.request_progress();
    assert_eq!(read(&stream), ["0 created", "-1 progress 2", "1 created"]);
    f.catch_up();
    stream.request_progress();
    f.put("z", "1");
    stream.request_progress();
    assert_eq!(
        read(&stream),
        ["1: a@2 put 1", "-1 progress 3"],
        "the later one replaces the one that waits"
    );
    // Somebody waits for the future: neither older events nor progress.
    stream.create(&watch("a", 6));
    stream.request_progress();
    f.put("a", "2");
    f.put("a", "3");
    stream.request_progress();
    assert_eq!(
        read(&stream),
        [
            "2 created",
            "0: a@4 put 2",
            "1: a@4 put 2",
            "0: a@5 put 3",
            "1: a@5 put 3"
        ]
    );
    f.put("a", "4");
    stream.request_progress();
    assert_eq!(
        read(&stream),
        ["0: a@6 put 4", "1: a@6 put 4", "2: a@6 put 4", "-1 progress 6"]
    );
}

#[test]
fn periodic_progress_skips_who_had_events() {
    let mut f = Fixture::new();
    f.put("a", "1");
    let options = StreamOptions {
        progress_interval: Uptime::from_secs(1),
        ..StreamOptions::default()
    };
    let stream = f.hub.open(options, Arc::new(Count::default()), START);
    for key in ["a", "b"] {
        stream.create(&WatchCreateRequest {
            progress_notify: true,
            ..watch(key, 0)
        });
    }
    stream.create(&watch("c", 0));
    f.put("a", "2");
    read(&stream);
    let step = |at: u64| {
        assert_eq!(
            f.hub.step(Uptime::from_millis(at), StepBudget::default()),
            Ok(Caught::All)
        )
    };
    step(999);
    assert_eq!(read(&stream), [] as [&str; 0]);
    step(1000);
    assert_eq!(read(&stream), ["1 progress 3"]);
    step(2000);
    assert_eq!(read(&stream), ["0 progress 3", "1 progress 3"]);
}

#[test]
fn a_client_that_does_not_read_costs_nothing_and_misses_nothing() {
    let mut f = Fixture::new();
    let options = StreamOptions {
        deliveries_max: 3,
        ..StreamOptions::default()
    };
    let consumer = Arc::new(Count::default());
    let stream = f.hub.open(options, consumer.clone(), START);
    stream.create(&watch("a", 0));
    for i in 0..50 {
        f.put("a", &i.to_string());
    }
    assert_eq!(stream.queued(), 3);
    assert_eq!(f.hub.stats().slow_watchers, 1);
    assert_eq!(f.hub.step(START, StepBudget::default()).unwrap(), Caught::Blocked);
    let told = f.driver.0.load(Ordering::Relaxed);
    let mut seen = read(&stream);
    assert!(
        f.driver.0.load(Ordering::Relaxed) > told,
        "the driver learns that there is room"
    );
    f.catch_up();
    seen.extend(read(&stream));
    let seen: Vec<_> = seen
        .iter()
        .skip(1)
        .flat_map(|line| line[3..].split(", "))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        seen,
        (0..50).map(|i| format!("a@{} put {i}", i + 2)).collect::<Vec<_>>()
    );
    assert_eq!(f.hub.stats().slow_watchers, 0);
    assert!(consumer.0.load(Ordering::Relaxed) >= 3);
}

/// The queue can be full without any event having been turned away: the driver must hear of room all the same.
#[test]
fn the_driver_learns_of_room_that_others_on_the_stream_took() {
    let mut f = Fixture::new();
    f.put("a", "1");
    let options = StreamOptions {
        deliveries_max: 4,
        ..StreamOptions::default()
    };
    let stream = f.hub.open(options, Arc::new(Count::default()), START);
    for _ in 0..8 {
        stream.create(&watch("a", 2));
    }
    // The answers alone fill the queue.
    assert_eq!(f.hub.step(START, StepBudget::default()), Ok(Caught::Blocked));
    let mut seen = 0;
    while f.hub.stats().slow_watchers > 0 {
        let told = f.driver.0.load(Ordering::Relaxed);
        seen += read(&stream).len();
        assert!(
            f.driver.0.load(Ordering::Relaxed) > told,
            "the queue is empty and nobody knows"
        );
        f.catch_up();
    }
    assert_eq!(seen + read(&stream).len(), 16);
}

/// H32 (etcd #17529): many watchers on one stream, one slow reader, compaction all the time.
#[test]
fn a_thousand_watchers_on_one_stream_get_all_events_or_a_compaction() {
    let mut f = Fixture::new();
    let options = StreamOptions {
        deliveries_max: 64,
        ..StreamOptions::default()
    };
    let stream = f.hub.open(options, Arc::new(Count::default()), START);
    // What each is to see next; MAX once it was told of a compaction.
    let mut next = vec![2i64; 1000];
    for id in 0..1000 {
        stream.create(&WatchCreateRequest {
            watch_id: id + 1,
            ..watch("a", 2)
        });
    }
    let mut read_some = |limit: usize| {
        for delivery in std::iter::from_fn(|| stream.pop()).take(limit) {
            match delivery {
                Delivery::Events { watch_id, events, .. } => {
                    for event in events {
                        let expected = &mut next[watch_id as usize - 1];
                        assert_eq!(event.kv.mod_revision, *expected, "watcher {watch_id}");
                        *expected += 1;
                    }
                }
                Delivery::Compacted {
                    watch_id,
                    compact_revision,
                } => {
                    assert!(next[watch_id as usize - 1] < compact_revision);
                    next[watch_id as usize - 1] = i64::MAX;
                }
                _ => {}
            }
        }
    };
    for round in 0..120i64 {
        f.put("a", &round.to_string());
        if round % 30 == 29 {
            f.compact(round - 10);
        }
        f.hub.step(START, StepBudget::default()).unwrap();
        read_some(90);
    }
    for _ in 0..2000 {
        f.hub.step(START, StepBudget::default()).unwrap();
        read_some(usize::MAX);
        if f.hub.stats().slow_watchers == 0 && stream.queued() == 0 {
            break;
        }
    }
    let told = next.iter().filter(|next| **next == i64::MAX).count();
    assert!(
        next.iter().all(|next| *next == i64::MAX || *next == 122),
        "somebody was left behind"
    );
    assert_eq!(
        f.hub.stats(),
        WatchStats {
            streams: 1,
            watchers: 1000 - told,
            slow_watchers: 0
        }
    );
    assert!(
        told > 0 && told < 1000,
        "{told} were told of a compaction: both ways out should be seen"
    );
}

/// H34 (etcd #20709): all of i64 as a start.
#[test]
fn any_start_revision_is_answered() {
    let mut f = Fixture::new();
    f.put("a", "1");
    let starts = [i64::MIN, -1, 0, 1, 2, 3, i64::MAX - 1, i64::MAX];
    for start in starts {
        let stream = f.open();
        stream.create(&watch("a", start));
        f.catch_up();
        f.put("b", "1");
        stream.request_progress();
        f.catch_up();
        assert!(!read(&stream).is_empty(), "start {start}");
    }
    assert_eq!(f.hub.stats(), WatchStats::default());
}

/// H35 (etcd #11850, #18784).
#[test]
fn cancelled_watchers_leave_nothing_behind() {
    let mut f = Fixture::new();
    f.put("a", "1");
    let stream = f.open();
    for round in 0..20_000i64 {
        let range_end = if round % 3 == 0 {
            Bytes::new()
        } else {
            Bytes::from_static(b"z")
        };
        stream.create(&WatchCreateRequest {
            range_end,
            ..watch("a", round % 4)
        });
        let Some(Delivery::Created { watch_id, .. }) = stream.pop() else {
            panic!("round {round}: not created")
        };
        stream.cancel(watch_id);
        assert!(matches!(stream.pop(), Some(Delivery::Canceled { .. })));
    }
    assert_eq!(
        f.hub.stats(),
        WatchStats {
            streams: 1,
            watchers: 0,
            slow_watchers: 0
        }
    );
    drop(stream);
    assert_eq!(f.hub.stats(), WatchStats::default());
}

/// H31 and H36: after a snapshot of the leader nothing is replayed, nothing missed, and the future stays the future.
#[test]
fn another_database_goes_on_where_the_old_one_ended() {
    let mut f = Fixture::new();
    f.put("a", "1");
    f.put("a", "2");
    let stream = f.open();
    stream.create(&watch("a", 0));
    stream.create(&watch("a", i64::MAX - 2));
    stream.create(&watch("b", 2));
    f.catch_up();
    read(&stream);
    let mut other = Fixture::new();
    for value in ["1", "2", "3", "4"] {
        other.put("a", value);
    }
    f.store.restore(&other.backend).unwrap();
    stream.request_progress();
    f.catch_up();
    assert_eq!(read(&stream), ["0: a@4 put 3, a@5 put 4"]);
    let mut write = f.store.write(&mut other.backend);
    write.put("b".into(), "5".into(), 0);
    assert_eq!(write.end().revision, 6);
    assert_eq!(read(&stream), ["2: b@6 put 5"]);
    assert_eq!(f.hub.stats().slow_watchers, 0);
}

/// A stream may be used, stepped and dropped on other threads while the store writes.
#[test]
fn streams_on_other_threads_see_all() {
    let mut f = Fixture::new();
    let hub = f.hub.clone();
    let rounds = 500i64;
    std::thread::scope(|scope| {
        for start in [0, 2] {
            let hub = hub.clone();
            let options = StreamOptions {
                deliveries_max: 4,
                ..StreamOptions::default()
            };
            let stream = hub.open(options, Arc::new(Count::default()), START);
            stream.create(&WatchCreateRequest {
                prev_kv: true,
                ..watch("a", start)
            });
            scope.spawn(move || {
                let mut next = 2;
                while next < rounds + 2 {
                    hub.step(
                        START,
                        StepBudget {
                            revisions_max: 16,
                            ..StepBudget::default()
                        },
                    )
                    .unwrap();
                    while let Some(delivery) = stream.pop() {
                        let Delivery::Events { events, .. } = delivery else {
                            continue;
                        };
                        for event in events {
                            assert_eq!(event.kv.mod_revision, next);
                            let before = event.previous.as_ref().map(|kv| kv.mod_revision);
                            assert_eq!(before, (next > 2).then_some(next - 1));
                            next += 1;
                        }
                    }
                }
            });
        }
        for round in 0..rounds {
            f.put("a", &round.to_string());
            if round % 100 == 50 {
                f.backend.commit().unwrap();
            }
        }
    });
}
