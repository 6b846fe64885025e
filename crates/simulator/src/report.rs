//! What a run tells: its story, its trace hash, and figures.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::Time;

/// Counts what happened in worlds.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Worlds.
    pub seeds: u64,
    /// Simulated microseconds.
    pub simulated: Time,
    /// Events taken from the queue.
    pub events: u64,
    /// Raft messages sent.
    pub messages: u64,
    /// Requests of clients whose answers were checked.
    pub checked: u64,
    /// Requests whose outcome the client never learned.
    pub unknown: u64,
    /// Requests that were refused or lost before they could do anything.
    pub refused: u64,
    /// Keep-alives answered.
    pub renewals: u64,
    /// Events and notices of watches that were checked.
    pub watched: u64,
    /// Entries whose effect was compared between members.
    pub entries: u64,
    /// Full comparisons of two members' content.
    pub compared: u64,
    /// Starts of members.
    pub starts: u64,
    /// Database files checked page by page.
    pub fsck: u64,
    /// Snapshots that reached a member.
    pub snapshots: u64,
    /// Troubles, by kind.
    pub troubles: BTreeMap<&'static str, u64>,
    /// Messages lost or doubled by the network.
    pub lost: u64,
    /// See `lost`.
    pub doubled: u64,
    /// Where power was cut in the middle of a call: which thread, call and file.
    pub crash_points: BTreeSet<String>,
}

impl Figures {
    /// Adds those of another run.
    pub fn add(&mut self, other: Figures) {
        self.seeds += other.seeds;
        self.simulated += other.simulated;
        self.events += other.events;
        self.messages += other.messages;
        self.checked += other.checked;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.renewals += other.renewals;
        self.watched += other.watched;
        self.entries += other.entries;
        self.compared += other.compared;
        self.starts += other.starts;
        self.fsck += other.fsck;
        self.snapshots += other.snapshots;
        self.lost += other.lost;
        self.doubled += other.doubled;
        for (what, count) in other.troubles {
            *self.troubles.entry(what).or_default() += count;
        }
        self.crash_points.extend(other.crash_points);
    }

    /// All troubles, without lost and doubled messages.
    pub fn faults(&self) -> u64 {
        self.troubles.values().sum()
    }
}

/// What happened, as lines for a person and as a hash.
#[derive(Debug)]
pub struct Story {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Story {
    /// `told`: keep the lines.
    pub fn new(told: bool) -> Story {
        Story {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: told.then(Vec::new),
        }
    }

    /// Takes note of something by numbers.
    pub fn note(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        }
    }

    /// Tells something.
    pub fn tell(&mut self, now: Time, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>9.3} s  {}", now as f64 / 1e6, line()));
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
