//! Watchers against the naive store: each event once, in order, whole revisions, exact `prev_kv`.

use super::*;

struct Ignore;

impl Notify for Ignore {
    fn notify(&self) {}
}

/// A watcher and what the model says it must see.
struct Watched {
    id: i64,
    keys: (Bytes, Bytes),
    /// The first revision of which nothing was seen yet.
    next: i64,
    start: i64,
    prev_kv: bool,
    gone: bool,
}

struct Client {
    stream: WatchStream<RealDisk>,
    watchers: BTreeMap<i64, Watched>,
    /// Requests not yet answered, in order.
    asked: Vec<Watched>,
    /// Cancelled when a compaction had ended them already, which was not read yet: that is answered as well.
    ended: Vec<i64>,
}

impl Client {
    /// Takes up to `limit` deliveries and compares each with the model.
    fn read(&mut self, model: &Model, limit: usize) {
        for _ in 0..limit {
            let Some(delivery) = self.stream.pop() else { return };
            match delivery {
                Delivery::Created { watch_id, revision } => {
                    let mut watched = self.asked.remove(0);
                    watched.id = watch_id;
                    watched.next = if watched.start == 0 {
                        revision + 1
                    } else {
                        watched.start
                    };
                    assert!(self.watchers.insert(watch_id, watched).is_none());
                }
                Delivery::Refused { reason, .. } => panic!("refused: {reason}"),
                Delivery::Canceled { watch_id, .. } => {
                    let cancelled = match self.watchers.remove(&watch_id) {
                        Some(watched) => watched.gone,
                        None => self.ended.contains(&watch_id),
                    };
                    assert!(cancelled, "nobody cancelled {watch_id}");
                }
                Delivery::Compacted {
                    watch_id,
                    compact_revision,
                } => {
                    let lost = self.watchers.remove(&watch_id).unwrap();
                    assert!(lost.next < compact_revision, "nothing was lost");
                    if lost.gone {
                        self.ended.push(watch_id);
                    }
                }
                Delivery::Progress { watch_id, revision } => {
                    for watched in self
                        .watchers
                        .values_mut()
                        .filter(|w| watch_id == -1 || w.id == watch_id)
                    {
                        let span = Span::new(&watched.keys.0, &watched.keys.1);
                        let missing = model.events(span, watched.next, revision);
                        assert_eq!(missing, [], "progress at {revision} ran ahead of an event");
                        assert!(watched.start <= revision, "progress for a watcher of the future (H33)");
                    }
                }
                Delivery::Events {
                    watch_id,
                    revision,
                    events,
                    prev_kv,
                    ..
                } => {
                    let watched = self.watchers.get_mut(&watch_id).expect("events before created");
                    assert_eq!(prev_kv, watched.prev_kv);
                    let last = events.last().unwrap().kv.mod_revision;
                    assert!(revision >= last);
                    let span = Span::new(&watched.keys.0, &watched.keys.1);
                    let expected: Vec<_> = model
                        .events(span, watched.next, last)
                        .into_iter()
                        .map(|entry| {
                            (
                                entry.kv.clone(),
                                entry.kv.version == 0,
                                entry.before.filter(|_| prev_kv),
                            )
                        })
                        .collect();
                    let got: Vec<_> = events
                        .iter()
                        .map(|event| {
                            (
                                event.kv.clone(),
                                event.deleted,
                                event.previous.clone().filter(|_| prev_kv),
                            )
                        })
                        .collect();
                    for (got, expected) in got.iter().zip(&expected) {
                        assert_eq!((&got.0, got.1), (&expected.0, expected.1));
                        // What was before is compacted away only if the event is right at the compaction.
                        if got.2 != expected.2 {
                            assert!(
                                got.2.is_none() && got.0.mod_revision <= model.compacted,
                                "prev_kv is not exact"
                            );
                        }
                    }
                    assert_eq!(got.len(), expected.len(), "events missing or twice, or a revision torn");
                    watched.next = last + 1;
                }
            }
        }
    }
}

#[test]
fn watchers_see_every_event_once_in_order_or_are_told_of_the_compaction() {
    for seed in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().join("db");
        let mut rng = Rng(0xABCD + seed * 7919);
        let mut pair = Pair::new(&path);
        let hub = pair.store.watch_hub();
        let options = StreamOptions {
            deliveries_max: 4,
            bytes_max: 20_000,
            progress_interval: Uptime::from_millis(50),
        };
        let mut clients: Vec<Client> = Vec::new();
        let mut now = Uptime::ZERO;
        for round in 0..1500u64 {
            now += Uptime::from_millis(1);
            if clients.len() < 6 && rng.chance(20) {
                let stream = hub.open(options.clone(), Arc::new(Ignore), now);
                clients.push(Client {
                    stream,
                    watchers: BTreeMap::new(),
                    asked: Vec::new(),
                    ended: Vec::new(),
                });
            }
            if !clients.is_empty() {
                let pick = rng.below(clients.len() as u64) as usize;
                let client = &mut clients[pick];
                if rng.chance(10) {
                    let keys = loop {
                        let keys = rng.span();
                        if keys.1.len() < 2 || keys.0 < keys.1 {
                            break keys;
                        }
                    };
                    let start = match rng.below(4) {
                        0 => 0,
                        1 => pair.model.current + 1 + rng.below(30) as i64,
                        _ => (pair.model.current - rng.below(60) as i64).max(1),
                    };
                    let prev_kv = rng.chance(2);
                    client.stream.create(&WatchCreateRequest {
                        key: keys.0.clone(),
                        range_end: keys.1.clone(),
                        start_revision: start,
                        prev_kv,
                        progress_notify: rng.chance(2),
                        ..WatchCreateRequest::default()
                    });
                    client.asked.push(Watched {
                        id: 0,
                        keys,
                        next: 0,
                        start,
                        prev_kv,
                        gone: false,
                    });
                }
                if rng.chance(60)
                    && let Some(watched) = client.watchers.values_mut().find(|watched| !watched.gone)
                {
                    watched.gone = true;
                    client.stream.cancel(watched.id);
                }
                if rng.chance(8) {
                    client.stream.request_progress();
                }
                // Some clients read little and fall behind.
                if !(pick == 0 && round % 400 < 200) {
                    client.read(&pair.model, rng.below(6) as usize);
                }
            }
            pair.write(&mut rng);
            if rng.chance(4) {
                let budget = StepBudget {
                    watchers_max: 3,
                    revisions_max: 1 + rng.below(20) as usize,
                    bytes_max: 2000,
                };
                hub.step(now, budget).unwrap();
            }
            if rng.chance(300) {
                let at = pair.model.current - rng.below(60) as i64;
                if at > pair.model.compacted {
                    pair.store.compact(&mut pair.backend, at).unwrap();
                    pair.model.compacted = at;
                }
            }
            pair.store.compact_step(&mut pair.backend, 40).unwrap();
            if rng.chance(40) {
                pair.backend.commit().unwrap();
            }
            if rng.chance(600) {
                // As after a snapshot of the leader: the same history, another database (H31).
                pair.backend.commit().unwrap();
                let copy = dir.path().join(format!("copy{round}"));
                std::fs::copy(&path, &copy).unwrap();
                path.clone_from(&copy);
                let mut backend = Backend::open(RealDisk, &copy, Options::default()).unwrap();
                for _ in 0..5 {
                    // The snapshot is ahead of what this store has applied.
                    let (mut ahead, _) = Store::open(&backend).unwrap();
                    std::mem::swap(&mut ahead, &mut pair.store);
                    std::mem::swap(&mut backend, &mut pair.backend);
                    pair.write(&mut rng);
                    std::mem::swap(&mut ahead, &mut pair.store);
                    std::mem::swap(&mut backend, &mut pair.backend);
                }
                pair.store.restore(&backend).unwrap();
                pair.backend = backend;
            }
        }
        // Left alone, everybody catches up, and the end of the log has been seen by all.
        for _ in 0..10_000 {
            let caught = hub.step(now, StepBudget::default()).unwrap();
            for client in &mut clients {
                client.read(&pair.model, 100);
            }
            if caught == Caught::All && clients.iter().all(|client| client.stream.queued() == 0) {
                break;
            }
        }
        assert_eq!(hub.stats().slow_watchers, 0);
        let mut watching = 0;
        for client in &mut clients {
            for watched in client.watchers.values() {
                watching += 1;
                let span = Span::new(&watched.keys.0, &watched.keys.1);
                assert_eq!(
                    pair.model.events(span, watched.next, i64::MAX),
                    [],
                    "seed {seed}: an event was never sent"
                );
            }
        }
        assert!(watching > 10, "only {watching} watchers were left to check");
        drop(clients);
        assert_eq!(hub.stats(), watch::WatchStats::default());
    }
}
