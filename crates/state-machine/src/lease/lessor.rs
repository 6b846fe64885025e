//! The lease table and its clockwork.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb::LeaseCheckpoint;
use proto::leasepb;

use crate::error::Error;

use super::{CHECKPOINT_BATCH, LeaseConfig, LeaseInfo, REVOKE_RATE, TTL_SECONDS_MAX, Uptime};

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed, for this many seconds.
    Renewed {
        /// The TTL that was granted, in seconds.
        ttl: i64,
    },
    /// A checkpoint shortened it: propose a checkpoint with remaining TTL 0, then ask again.
    ClearCheckpointFirst,
    /// It has expired and waits for its revocation: ask again until it is gone or this member is no longer the primary.
    Expired,
    /// No such lease.
    NotFound,
    /// Another member decides.
    NotPrimary,
}

#[derive(Debug, Clone)]
struct Lease {
    ttl: i64,
    /// What a checkpoint left of the TTL, in seconds; 0 = unset.
    remaining_ttl: i64,
    /// `None` = never, as on every member that is not the primary.
    expiry: Option<Uptime>,
    /// Its place in [`Lessor::expiring`]; later than the expiry while a revocation is awaited.
    due: Option<Uptime>,
    keys: BTreeSet<Bytes>,
}

impl Lease {
    fn new(ttl: i64, remaining_ttl: i64) -> Lease {
        Lease {
            ttl,
            remaining_ttl,
            expiry: None,
            due: None,
            keys: BTreeSet::new(),
        }
    }

    fn lifetime(&self) -> Duration {
        let seconds = if self.remaining_ttl > 0 {
            self.remaining_ttl
        } else {
            self.ttl
        };
        Duration::from_secs(seconds.max(0) as u64)
    }
}

/// All leases of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Lessor {
    config: LeaseConfig,
    leases: BTreeMap<i64, Lease>,
    /// Which lease a key is attached to. Looked up, never iterated.
    attached: HashMap<Bytes, i64>,
    primary: bool,
    /// On the primary: when to look at which lease next.
    expiring: BTreeSet<(Uptime, i64)>,
    /// On the primary with checkpoints: when to note the rest of which lease.
    checkpoints: BTreeSet<(Uptime, i64)>,
}

impl Lessor {
    /// No leases yet.
    pub fn new(config: LeaseConfig) -> Lessor {
        Lessor {
            config,
            ..Lessor::default()
        }
    }

    /// Replaces all leases by stored ones; keys are attached afterwards from the key-value records. Not primary.
    pub fn recover(&mut self, records: impl IntoIterator<Item = leasepb::Lease>) {
        *self = Lessor::new(self.config);
        for record in records {
            let ttl = record.ttl.max(self.config.ttl_seconds_min);
            self.leases.insert(record.id, Lease::new(ttl, record.remaining_ttl));
        }
    }

    /// Grants a lease; returns the record to store.
    pub fn grant(&mut self, id: i64, ttl: i64, now: Uptime) -> Result<leasepb::Lease, Error> {
        if id == 0 {
            return Err(Error::LeaseNotFound);
        }
        if ttl > TTL_SECONDS_MAX {
            return Err(Error::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let ttl = ttl.max(self.config.ttl_seconds_min);
        self.leases.insert(id, Lease::new(ttl, 0));
        if self.primary {
            self.refresh(id, Duration::ZERO, now);
            self.schedule_checkpoint(id, now);
        }
        Ok(leasepb::Lease {
            id,
            ttl,
            remaining_ttl: 0,
        })
    }

    /// The keys to delete when this lease is revoked, in the order in which every member deletes them.
    pub fn keys(&self, id: i64) -> Result<Vec<Bytes>, Error> {
        let lease = self.leases.get(&id).ok_or(Error::LeaseNotFound)?;
        Ok(lease.keys.iter().cloned().collect())
    }

    /// Forgets a lease, after its keys were deleted.
    pub fn remove(&mut self, id: i64) -> Result<(), Error> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        if let Some(due) = lease.due {
            self.expiring.remove(&(due, id));
        }
        for key in lease.keys {
            // Deleting the keys detached them; this is for a key that was attached but never stored.
            if self.attached.get(&key) == Some(&id) {
                self.attached.remove(&key);
            }
        }
        Ok(())
    }

    /// Notes what is left of a lease, in seconds (0 = the whole TTL again). Takes effect when a member becomes primary.
    /// Returns the record to store; `None` when there is no such lease, which is no error.
    pub fn checkpoint(&mut self, id: i64, remaining_ttl: i64, now: Uptime) -> Option<leasepb::Lease> {
        let lease = self.leases.get_mut(&id)?;
        lease.remaining_ttl = remaining_ttl;
        let record = leasepb::Lease {
            id,
            ttl: lease.ttl,
            remaining_ttl,
        };
        if self.primary {
            self.schedule_checkpoint(id, now);
        }
        Some(record)
    }

    /// Ties a key to a lease. A key is tied to one lease at most: detach it first.
    pub fn attach(&mut self, id: i64, key: Bytes) -> Result<(), Error> {
        let lease = self.leases.get_mut(&id).ok_or(Error::LeaseNotFound)?;
        // A copy: the key is a slice of the entry that wrote it, which would stay in memory with its value for as long as the lease.
        let key = Bytes::copy_from_slice(&key);
        lease.keys.insert(key.clone());
        self.attached.insert(key, id);
        Ok(())
    }

    /// Unties a key from its lease, if it has one; returns that lease.
    pub fn detach(&mut self, key: &[u8]) -> Option<i64> {
        let id = self.attached.remove(key)?;
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
        Some(id)
    }

    /// The lease a key is tied to.
    pub fn lease_of(&self, key: &[u8]) -> Option<i64> {
        self.attached.get(key).copied()
    }

    /// Whether there is such a lease.
    pub fn contains(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Whether this member decides when leases end.
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// One lease.
    pub fn info(&self, id: i64) -> Option<LeaseInfo> {
        let lease = self.leases.get(&id)?;
        Some(LeaseInfo {
            id,
            granted_ttl: lease.ttl,
            expiry: lease.expiry,
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    /// The ids of all leases: those that end first come first, ties by id.
    pub fn ids_by_expiry(&self) -> Vec<i64> {
        let mut ids: Vec<(Uptime, i64)> = self
            .leases
            .iter()
            .map(|(id, lease)| (lease.expiry.unwrap_or(Duration::MAX), *id))
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Renews a lease. Only the primary can, and only before the lease has expired.
    pub fn renew(&mut self, id: i64, now: Uptime) -> Renewal {
        if !self.primary {
            return Renewal::NotPrimary;
        }
        let Some(lease) = self.leases.get(&id) else {
            return Renewal::NotFound;
        };
        let ttl = lease.ttl;
        if lease.expiry.is_some_and(|expiry| expiry <= now) {
            return Renewal::Expired;
        }
        if self.config.checkpoint && lease.remaining_ttl > 0 {
            return Renewal::ClearCheckpointFirst;
        }
        self.refresh(id, Duration::ZERO, now);
        Renewal::Renewed { ttl }
    }

    /// Makes this member the primary: every lease gets its (checkpointed) TTL again, plus `extend`, since the last primary may
    /// have renewed it just before it went. Where more would end within a second than can be revoked, they are spread.
    pub fn promote(&mut self, extend: Duration, now: Uptime) {
        self.primary = true;
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            if mutant::planted("Q24") {
                let lease = self.leases.get_mut(&id);
                lease.into_iter().for_each(|lease| lease.remaining_ttl = 1);
            }
            self.refresh(id, extend, now);
            self.schedule_checkpoint(id, now);
        }
        if self.leases.len() < REVOKE_RATE {
            return;
        }
        // Fewer than the rate, so that a pile does not use up all of it.
        let per_second = (3 * REVOKE_RATE) / 4;
        let second = Duration::from_secs(1);
        let order = self.ids_by_expiry();
        let left = |lessor: &Lessor, id: i64| {
            let expiry = lessor.leases[&id].expiry.unwrap_or(Duration::MAX);
            expiry.saturating_sub(now)
        };
        let mut base = left(self, order[0]);
        let mut next = base + second;
        let mut ending = 0usize;
        for id in order {
            let remaining = left(self, id);
            if remaining > next {
                base = remaining;
                next = base + second;
                ending = 1;
                continue;
            }
            ending += 1;
            if ending <= per_second {
                continue;
            }
            // A lease that ends some time after the window opened needs that much less of a delay.
            let delay = second
                .mul_f64(ending as f64 / per_second as f64)
                .saturating_sub(remaining.saturating_sub(base));
            next = base + delay;
            self.refresh(id, extend + delay, now);
            self.schedule_checkpoint(id, now);
        }
    }

    /// Another member decides from now on: no lease ends here.
    pub fn demote(&mut self) {
        self.primary = false;
        self.expiring.clear();
        self.checkpoints.clear();
        for lease in self.leases.values_mut() {
            lease.expiry = None;
            lease.due = None;
        }
    }

    /// Up to `limit` leases that have ended and should be revoked, soonest first. Each is offered again after the retry interval
    /// for as long as it exists.
    pub fn expired(&mut self, now: Uptime, limit: usize) -> Vec<i64> {
        let mut ended = Vec::new();
        if !self.primary {
            return ended;
        }
        while ended.len() < limit {
            let Some((due, id)) = self.expiring.first().copied().filter(|(due, _)| *due <= now) else {
                break;
            };
            self.expiring.remove(&(due, id));
            let Some(lease) = self.leases.get_mut(&id) else {
                continue;
            };
            let again = now + self.config.retry_interval;
            lease.due = Some(again);
            self.expiring.insert((again, id));
            ended.push(id);
        }
        ended
    }

    /// When [`Lessor::expired`] or [`Lessor::due_checkpoints`] will have something to say; `None` = not by time alone.
    pub fn next_due(&self) -> Option<Uptime> {
        let first = |queue: &BTreeSet<(Uptime, i64)>| queue.first().map(|(due, _)| *due);
        first(&self.expiring).into_iter().chain(first(&self.checkpoints)).min()
    }

    /// What is left of leases whose checkpoint is due: one batch, to be proposed as one entry. Call again while the batch is full.
    pub fn due_checkpoints(&mut self, now: Uptime) -> Vec<LeaseCheckpoint> {
        let mut batch = Vec::new();
        while batch.len() < CHECKPOINT_BATCH {
            let Some((due, id)) = self.checkpoints.first().copied().filter(|(due, _)| *due <= now) else {
                break;
            };
            self.checkpoints.remove(&(due, id));
            let Some((lease, expiry)) = self.leases.get(&id).and_then(|lease| Some((lease, lease.expiry?))) else {
                continue;
            };
            if expiry <= now {
                continue;
            }
            let left = expiry - now;
            let whole = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            let remaining_ttl = i64::try_from(whole).unwrap_or(i64::MAX);
            if remaining_ttl < lease.ttl {
                batch.push(LeaseCheckpoint { id, remaining_ttl });
            }
        }
        batch
    }

    fn refresh(&mut self, id: i64, extend: Duration, now: Uptime) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        if let Some(due) = lease.due.take() {
            self.expiring.remove(&(due, id));
        }
        let expiry = now.saturating_add(extend).saturating_add(lease.lifetime());
        lease.expiry = Some(expiry);
        lease.due = Some(expiry);
        self.expiring.insert((expiry, id));
    }

    fn schedule_checkpoint(&mut self, id: i64, now: Uptime) {
        if !self.config.checkpoint {
            return;
        }
        if let Some(lease) = self.leases.get(&id)
            && lease.lifetime() > self.config.checkpoint_interval
        {
            self.checkpoints.insert((now + self.config.checkpoint_interval, id));
        }
    }
}
