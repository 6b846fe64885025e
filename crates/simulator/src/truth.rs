//! What the members did, compared with each other and with the model.
//!
//! Invariants checked here, at every entry and every start:
//! - Every member applies the same entry at the same index, with the same effect on its database.
//! - One leader a term; a member's term never falls and it votes once a term, over restarts too.
//! - No lease ends by itself before its time.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::etcdserverpb::InternalRaftRequest;
use replica::state_machine::{Audit, Error, Response};

use crate::model::Model;
use crate::world::Time;

/// What became of an entry with a request.
#[derive(Debug, Clone)]
pub struct Fate {
    /// Its index.
    pub index: u64,
    /// The store's revision after it.
    pub revision: i64,
    /// What it should have answered.
    pub verdict: Option<Result<Response, Error>>,
}

/// See the module.
#[derive(Debug)]
pub struct Truth {
    /// What the log does.
    pub model: Model,
    log: Vec<Audit>,
    /// The store's revision after each entry.
    revisions: Vec<i64>,
    /// By request id.
    fates: BTreeMap<u64, Fate>,
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    terms: BTreeMap<u64, u64>,
    /// Until when a lease must live, by what its clients were told.
    alive: BTreeMap<i64, Time>,
    /// Leases that a client wants to end.
    pub given_up: std::collections::BTreeSet<i64>,
    /// What drifting clocks may take from a lease, in a thousand.
    drift: u64,
}

impl Truth {
    /// Nothing yet.
    pub fn new(ttl_min: i64, drift: u64) -> Truth {
        Truth {
            model: Model::new(ttl_min),
            log: Vec::new(),
            revisions: Vec::new(),
            fates: BTreeMap::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            terms: BTreeMap::new(),
            alive: BTreeMap::new(),
            given_up: std::collections::BTreeSet::new(),
            drift,
        }
    }

    /// The last index that any member applied.
    pub fn last(&self) -> u64 {
        self.log.len() as u64
    }

    /// The store's revision after an entry; `None` for one that nobody applied.
    pub fn revision_at(&self, index: u64) -> Option<i64> {
        match index.checked_sub(1) {
            None => Some(1),
            Some(place) => self.revisions.get(place as usize).copied(),
        }
    }

    /// The term of an entry.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        Some(self.log.get(index.checked_sub(1)? as usize)?.term)
    }

    /// What became of a request.
    pub fn fate(&self, id: u64) -> Option<&Fate> {
        self.fates.get(&id)
    }

    /// A member applied an entry.
    pub fn applied(&mut self, member: u64, audit: Audit, now: Time) -> Result<bool, String> {
        let place = audit.index as usize - 1;
        if let Some(known) = self.log.get(place) {
            if known.term != audit.term || known.data != audit.data || known.kind != audit.kind {
                return Err(format!(
                    "{member:x} applied another entry at index {}: term {} where others applied term {}: a committed entry was lost",
                    audit.index, audit.term, known.term
                ));
            }
            if known.writes != audit.writes {
                let request = InternalRaftRequest::decode(audit.data.clone());
                return Err(format!(
                    "{member:x} did something else than others at index {}: the state machines differ ({request:?})",
                    audit.index
                ));
            }
            return Ok(false);
        }
        if place != self.log.len() {
            return Err(format!(
                "{member:x} applied index {} while nobody applied {}",
                audit.index,
                self.log.len() + 1
            ));
        }
        if audit.kind == 0 && !audit.data.is_empty() {
            let request = InternalRaftRequest::decode(audit.data.clone())
                .map_err(|error| format!("index {}: {error}", audit.index))?;
            self.take(&request, audit.index, now)?;
        }
        self.log.push(audit);
        self.revisions.push(self.model.revision);
        Ok(true)
    }

    fn take(&mut self, request: &InternalRaftRequest, index: u64, now: Time) -> Result<(), String> {
        if let Some(revoke) = &request.lease_revoke
            && !self.given_up.contains(&revoke.id)
            && self.model.leases.contains_key(&revoke.id)
        {
            let until = self.alive.get(&revoke.id).copied().unwrap_or(0);
            if now < until {
                return Err(format!(
                    "lease {} was revoked at index {index}, {} ms before its time",
                    revoke.id,
                    (until - now) / 1000
                ));
            }
        }
        let verdict = self.model.apply(request);
        let id = request.header.as_ref().map_or(request.id, |header| header.id);
        let fate = Fate {
            index,
            revision: self.model.revision,
            verdict,
        };
        if self.fates.insert(id, fate).is_some() {
            return Err(format!("request {id:x} was applied twice"));
        }
        Ok(())
    }

    /// A client was told that a lease lives for `ttl` seconds, when it asked at `asked`.
    pub fn lease_lives(&mut self, id: i64, ttl: i64, asked: Time) {
        let life = (ttl.max(0) as u64) * (1000 - self.drift.min(1000) * 2) * 1000;
        let until = self.alive.entry(id).or_default();
        *until = (*until).max(asked + life);
    }

    /// A member calls itself leader.
    pub fn leads(&mut self, member: u64, term: u64) -> Result<(), String> {
        match *self.leaders.entry(term).or_insert(member) {
            first if first == member => Ok(()),
            first => Err(format!("two leaders in term {term}: {first:x} and {member:x}")),
        }
    }

    /// A member grants its vote.
    pub fn votes(&mut self, member: u64, term: u64, candidate: u64) -> Result<(), String> {
        match *self.votes.entry((member, term)).or_insert(candidate) {
            first if first == candidate => Ok(()),
            first => Err(format!(
                "{member:x} voted for {first:x} and for {candidate:x} in term {term}"
            )),
        }
    }

    /// A member said something in a term: it must never fall below it again.
    pub fn is_in_term(&mut self, member: u64, term: u64) -> Result<(), String> {
        let known = self.terms.entry(member).or_default();
        if term < *known {
            return Err(format!("{member:x} fell from term {known} back to {term}"));
        }
        *known = term;
        Ok(())
    }

    /// A member's past is forgotten: its disk was lost.
    pub fn forget(&mut self, member: u64) {
        self.terms.remove(&member);
        self.votes.retain(|(voter, _), _| *voter != member);
    }
}
