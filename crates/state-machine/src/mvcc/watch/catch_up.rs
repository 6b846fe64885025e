//! How watchers that lag read what they missed.
//!
//! Invariants:
//! - A step reads one window of revisions, once for all watchers that need it, without holding up the store. A window ends between two
//!   revisions, never within one.
//! - What was written during the step is read under the lock, when it is little; else the next step goes on. So a busy store cannot keep a
//!   watcher from catching up.
//! - The turn goes around, so that one watcher far behind does not hold up those that are nearly there.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use disk::Disk;
use proto::mvccpb::KeyValue;

use super::super::read::ReadView;
use super::super::revision::Revision;
use super::super::store::{Shared, decode_record};
use super::delivery::Event;
use super::matcher::{Matcher, WatcherId};
use super::watchers::{Watcher, Watchers};
use super::{detached, previous_of};
use crate::backend::Pairs;
use crate::error::Error;

/// Revisions that may be read while the store waits; they are in memory, having been written just now.
const LAST_STRETCH: i64 = 64;

/// What one step may cost.
#[derive(Debug, Clone, Copy)]
pub struct StepBudget {
    /// Watchers that catch up together.
    pub watchers_max: usize,
    /// Revisions in one window, which is also what one delivery holds at most.
    pub revisions_max: usize,
    /// Bytes of records in one window.
    pub bytes_max: usize,
}

impl Default for StepBudget {
    /// etcd's numbers, and a bound on bytes that etcd does not have.
    fn default() -> Self {
        StepBudget {
            watchers_max: 512,
            revisions_max: 1000,
            bytes_max: 16 << 20,
        }
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caught {
    /// Nobody lags.
    All,
    /// There is more to do at once.
    More,
    /// Who lags has a full queue: there is nothing to do until the driver is told.
    Blocked,
}

/// The watchers of one step, as they were when it began.
struct Group {
    watchers: BTreeMap<WatcherId, Watcher>,
    matcher: Matcher,
}

/// What a window holds for each watcher.
struct Window {
    /// The last revision that was read completely.
    end: i64,
    events: BTreeMap<WatcherId, Vec<Arc<Event>>>,
}

pub(super) fn step<D: Disk>(shared: &Shared<D>, budget: StepBudget) -> Result<Caught, Error> {
    let (group, from, to, view) = {
        let mut watchers = shared.watchers();
        let view = ReadView::new(shared);
        watchers.cancel_compacted(view.compact_revision());
        let Some(from) = next_turn(&mut watchers, view.compact_revision()) else {
            return Ok(if watchers.lagging.is_empty() {
                Caught::All
            } else {
                Caught::Blocked
            });
        };
        (Group::choose(&watchers, from, budget), from, watchers.current, view)
    };
    let window = group.read(&view, from, to, budget)?;
    let mut watchers = shared.watchers();
    let end = window.end;
    group.deliver(&mut watchers, window);
    let missed = watchers.current - end;
    if end == to && missed > 0 && missed <= LAST_STRETCH {
        let group = Group::choose(&watchers, end + 1, budget);
        let view = ReadView::new(shared);
        let unbounded = StepBudget {
            revisions_max: usize::MAX,
            bytes_max: usize::MAX,
            ..budget
        };
        let window = group.read(&view, end + 1, watchers.current, unbounded)?;
        group.deliver(&mut watchers, window);
    }
    Ok(if watchers.lagging.is_empty() {
        Caught::All
    } else {
        Caught::More
    })
}

/// The revision where the next window begins: what the next watcher in turn needs, that has room for it.
fn next_turn(watchers: &mut Watchers, compacted: i64) -> Option<i64> {
    let mut room = BTreeMap::new();
    let mut free = |(next, id): &&(i64, WatcherId)| {
        // Those below could not be told of the compaction yet: their queue is full.
        *next >= compacted && *room.entry(id.0).or_insert_with(|| watchers.has_room(id.0))
    };
    let after = (Bound::Excluded(watchers.turn), Bound::Unbounded);
    let found = watchers
        .lagging
        .range(after)
        .find(&mut free)
        .or_else(|| watchers.lagging.iter().find(&mut free));
    let turn = *found?;
    watchers.turn = turn;
    Some(turn.0)
}

impl Group {
    /// The watchers whose next revision is closest to `from`, from there on.
    fn choose(watchers: &Watchers, from: i64, budget: StepBudget) -> Group {
        let mut group = Group {
            watchers: BTreeMap::new(),
            matcher: Matcher::default(),
        };
        let mut room = BTreeMap::new();
        for (_, id) in watchers.lagging.range((from, (0, i64::MIN))..) {
            if group.watchers.len() == budget.watchers_max {
                break;
            }
            if *room.entry(id.0).or_insert_with(|| watchers.has_room(id.0))
                && let Some(watcher) = watchers.watcher(*id)
            {
                group.matcher.insert(&watcher.keys, *id);
                group.watchers.insert(*id, watcher.clone());
            }
        }
        group
    }

    /// Reads the events of `[from, to]`, as far as the budget goes.
    fn read<D: Disk>(&self, view: &ReadView<D>, from: i64, to: i64, budget: StepBudget) -> Result<Window, Error> {
        let mut window = Window {
            end: to,
            events: BTreeMap::new(),
        };
        let (mut current, mut revisions, mut bytes) = (from - 1, 0, 0);
        let start = Revision::start_of(from).encode();
        let stop = Revision::start_of(to + 1).encode();
        if from > to {
            return Ok(window);
        }
        view.records.for_each(&start, Some(&stop), |key, record| {
            let (revision, tombstone) = Revision::decode(&key)?;
            if revision.main != current {
                if revisions >= budget.revisions_max || bytes >= budget.bytes_max {
                    window.end = revision.main - 1;
                    return Ok(Pairs::Enough);
                }
                current = revision.main;
                revisions += 1;
            }
            bytes += key.len() + record.len();
            let kv = decode_record(revision, record)?;
            self.add_event(view, revision.main, kv, tombstone, &mut window)?;
            Ok(Pairs::More)
        })?;
        Ok(window)
    }

    /// Adds the event of a record for all who want it.
    fn add_event<D: Disk>(
        &self,
        view: &ReadView<D>,
        revision: i64,
        mut kv: KeyValue,
        deleted: bool,
        window: &mut Window,
    ) -> Result<(), Error> {
        let (mut ids, mut asked) = (Vec::new(), false);
        self.matcher.for_each(&kv.key, |id| {
            if let Some(watcher) = self.watchers.get(&id)
                && watcher.wants(revision, deleted)
            {
                ids.push(id);
                asked |= watcher.prev_kv;
            }
        });
        if ids.is_empty() {
            return Ok(());
        }
        if deleted {
            kv.mod_revision = revision;
        }
        let mut event = Event {
            kv: detached(kv),
            deleted,
            previous: None,
        };
        if asked && !event.creates() {
            event.previous = previous_of(view, &event.kv.key, revision)?;
        }
        let event = Arc::new(event);
        for id in ids {
            window.events.entry(id).or_default().push(event.clone());
        }
        Ok(())
    }

    /// Delivers a window to all that it is for, unless they changed in the meantime or have no room.
    fn deliver(&self, watchers: &mut Watchers, mut window: Window) {
        let current = watchers.current;
        for (id, before) in &self.watchers {
            // Those further on have no use for this window, except that nothing may be left for them to read.
            if before.next > window.end && before.next <= current {
                continue;
            }
            if watchers
                .watcher(*id)
                .is_none_or(|now| now.serial != before.serial || now.next != before.next)
            {
                continue;
            }
            let sent = match window.events.remove(id) {
                Some(events) => watchers.deliver(*id, current, events),
                None => true,
            };
            if sent {
                watchers.advance(*id, before.next.max(window.end + 1));
            }
        }
    }
}
