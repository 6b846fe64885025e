//! Watch clients: each holds one stream with one watcher, resumes on another member when it breaks, and checks every guarantee.
//!
//! Checked at each delivery, against the model's changes:
//! - *filter*, *ordered*, *unique*, *atomic*, *reliable*: the events are exactly the next ones that the watcher asked for, whole revisions;
//! - *is create* and *prev_kv*: every event equals the model's, its previous pair too unless that is compacted away;
//! - *bookmarkable*: after a progress notice nothing at or below it comes; *resumable*: a watcher goes on where it was, elsewhere;
//! - "created" comes first, nothing after a cancellation, and a compaction is named only when it did remove what the watcher needs.

use std::sync::Arc;

use bytes::Bytes;
use disk::MemoryDisk;
use proto::etcdserverpb::WatchCreateRequest;
use proto::etcdserverpb::watch_create_request::FilterType;
use replica::state_machine::mvcc::{Delivery, StreamOptions, WatchStream};

use crate::model::{Change, Model};
use crate::world::{Event, Life, MS, SECOND, World, uptime};

/// See the module.
pub struct Watching {
    number: usize,
    on: Option<(Life, WatchStream<MemoryDisk>)>,
    key: Bytes,
    range_end: Bytes,
    puts: bool,
    deletes: bool,
    prev_kv: bool,
    /// The first revision that it has not seen; 0 before the first stream is made.
    next: i64,
    created: bool,
    turns: u64,
    patience: u64,
}

impl Watching {
    /// A watch client by its number.
    pub fn new(number: usize) -> Watching {
        Watching {
            number,
            on: None,
            key: Bytes::new(),
            range_end: Bytes::new(),
            puts: true,
            deletes: true,
            prev_kv: false,
            next: 0,
            created: false,
            turns: 0,
            patience: 0,
        }
    }

    fn wants(&self, change: &Change) -> bool {
        let key = &change.kv.key;
        let within = match self.range_end.as_ref() {
            [] => *key == self.key,
            end => *key >= self.key && key.as_ref() < end,
        };
        within && if change.deleted { self.deletes } else { self.puts }
    }

    /// The next revision with something for this watcher.
    fn due(&self, model: &Model) -> Option<i64> {
        let mut later = model.changes.range(self.next..);
        later
            .find(|(_, changes)| changes.iter().any(|change| self.wants(change)))
            .map(|(revision, _)| *revision)
    }

    /// What keeps it from being up to date.
    pub fn behind(&self, model: &Model) -> Option<String> {
        if self.next == 0 {
            return Some(format!("watcher {} has not begun", self.number));
        }
        let due = self.due(model)?;
        Some(format!("watcher {} has not seen revision {due}", self.number))
    }
}

impl World {
    /// A watch client opens its stream, reads some of it, or leaves it.
    pub(crate) fn watcher_turn(&mut self, number: usize) {
        let fast = self.calm || self.random.chance(700);
        let pause = if fast {
            self.random.within(MS, 60 * MS)
        } else {
            self.random.within(100 * MS, 2 * SECOND)
        };
        self.after(pause, Event::Watcher(number));
        let life = self.watchers[number].on.as_ref().map(|(life, _)| *life);
        if let Some(life) = life {
            let Some(member) = self.members.get(&life.member) else {
                return;
            };
            if member.life != life.number || member.process.is_none() {
                self.watchers[number].on = None;
            } else if member.paused_until > self.now {
                // It may wait, or try elsewhere.
                if self.random.chance(200) {
                    self.watchers[number].on = None;
                }
                return;
            }
        }
        if self.watchers[number].on.is_none() {
            return self.open_stream(number);
        }
        let most = self.random.within(1, 8);
        for _ in 0..most {
            let Some((_, stream)) = &self.watchers[number].on else {
                return;
            };
            let Some(delivery) = stream.pop() else {
                break;
            };
            self.figures.watched += 1;
            if let Err(reason) = self.delivered(number, delivery) {
                return self.fail(format!("watcher {number}: {reason}"));
            }
        }
        let leave = !self.calm && self.random.chance(20);
        let watching = &mut self.watchers[number];
        watching.turns += 1;
        if let Some((_, stream)) = &watching.on {
            if watching.turns.is_multiple_of(7) {
                stream.request_progress();
            }
            // A member cut off from the others serves watchers that see nothing; clients look elsewhere after a while.
            watching.patience += 1;
            if leave || watching.patience > 200 {
                watching.on = None;
            }
        }
    }

    fn open_stream(&mut self, number: usize) {
        let up: Vec<u64> = self
            .listed()
            .iter()
            .map(|member| member.id)
            .filter(|id| {
                let member = self.members.get(id);
                member.is_some_and(|member| member.process.is_some() && member.paused_until <= self.now)
            })
            .collect();
        if up.is_empty() {
            return;
        }
        let id = *self.random.pick(&up);
        let life = self.life(id);
        let (now, buffer) = (self.now, self.swarm.watch_buffer);
        if self.watchers[number].next == 0 {
            let wide = self.random.chance(500);
            let key = format!("k{}", self.random.below(self.swarm.keys));
            let watching = &mut self.watchers[number];
            (watching.key, watching.range_end) = if wide {
                (Bytes::from_static(b"k"), Bytes::from_static(b"l"))
            } else {
                (key.into(), Bytes::new())
            };
            let filter = self.random.below(5);
            watching.puts = filter != 0;
            watching.deletes = filter != 1;
            watching.prev_kv = self.random.chance(500);
            let revision = self.truth.model.revision;
            // Some begin in the past, some in the future.
            let start = self.random.within(1, revision as u64 + 20) as i64;
            self.watchers[number].next = start;
        }
        let Some(process) = self.process(id) else {
            return;
        };
        let options = StreamOptions {
            deliveries_max: buffer,
            progress_interval: uptime(700 * MS),
            ..StreamOptions::default()
        };
        let uptime = process.uptime(now);
        let stream = process.hub.open(options, Arc::new(crate::world::Nobody), uptime);
        let watching = &mut self.watchers[number];
        let mut filters = Vec::new();
        if !watching.puts {
            filters.push(FilterType::Noput as i32);
        }
        if !watching.deletes {
            filters.push(FilterType::Nodelete as i32);
        }
        stream.create(&WatchCreateRequest {
            key: watching.key.clone(),
            range_end: watching.range_end.clone(),
            start_revision: watching.next,
            progress_notify: true,
            filters,
            prev_kv: watching.prev_kv,
            ..WatchCreateRequest::default()
        });
        watching.created = false;
        watching.patience = 0;
        watching.on = Some((life, stream));
    }

    fn delivered(&mut self, number: usize, delivery: Delivery) -> Result<(), String> {
        let model = &self.truth.model;
        let watching = &mut self.watchers[number];
        if !watching.created && !matches!(delivery, Delivery::Created { .. }) {
            return Err(format!("{delivery:?} came before \"created\""));
        }
        match delivery {
            Delivery::Created { .. } if watching.created => Err("created twice".into()),
            Delivery::Created { revision, .. } => {
                watching.created = true;
                if revision > model.revision {
                    return Err(format!("created at revision {revision}, which does not exist"));
                }
                Ok(())
            }
            Delivery::Refused { reason, .. } => Err(format!("refused: {reason}")),
            Delivery::Canceled { .. } => Err("canceled, and nobody asked for it".into()),
            Delivery::Compacted { compact_revision, .. } => {
                if !model.compactions.contains(&compact_revision) {
                    return Err(format!(
                        "canceled for a compaction at {compact_revision}, which never was"
                    ));
                }
                if watching.next >= compact_revision {
                    return Err(format!(
                        "canceled for the compaction at {compact_revision}, but it has seen all before {}",
                        watching.next
                    ));
                }
                watching.next = compact_revision;
                watching.on = None;
                Ok(())
            }
            Delivery::Progress { revision, .. } => {
                if revision > model.revision {
                    return Err(format!("progress to revision {revision}, which does not exist"));
                }
                if let Some(due) = watching.due(model).filter(|due| *due <= revision) {
                    return Err(format!("progress to {revision}, but revision {due} did not come"));
                }
                watching.next = watching.next.max(revision + 1);
                Ok(())
            }
            Delivery::Events {
                revision,
                events,
                prev_kv,
                ..
            } => {
                watching.patience = 0;
                let mut events = events.iter().peekable();
                while let Some(first) = events.peek() {
                    let at = first.kv.mod_revision;
                    if at > revision || revision > model.revision {
                        return Err(format!(
                            "an event of revision {at} in a delivery at {revision} of {}",
                            model.revision
                        ));
                    }
                    if watching.due(model) != Some(at) {
                        return Err(format!(
                            "events of revision {at} where those of {:?} are due",
                            watching.due(model)
                        ));
                    }
                    let changes = model.changes.get(&at).map(Vec::as_slice).unwrap_or_default();
                    for change in changes.iter().filter(|change| watching.wants(change)) {
                        let Some(event) = events.next() else {
                            return Err(format!("revision {at} came in part"));
                        };
                        let same = event.kv == change.kv && event.deleted == change.deleted;
                        if !same {
                            return Err(format!("{event:?} came, {change:?} is right"));
                        }
                        let compacted = model.compacted >= at;
                        if prev_kv && event.previous != change.previous && !(compacted && event.previous.is_none()) {
                            return Err(format!(
                                "revision {at}: the previous pair is {:?}, {:?} is right",
                                event.previous, change.previous
                            ));
                        }
                    }
                    watching.next = at + 1;
                }
                Ok(())
            }
        }
    }
}
