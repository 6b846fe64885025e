//! Entries that change the members.
//!
//! Invariants (etcd server/etcdserver/server.go, applyConfChange):
//! - A change is validated when it is applied, by the state before it. A refused one goes to raft with node id 0: it changes nothing
//!   there and yet counts, so that the next change may be proposed.
//! - An entry that the database includes already is neither validated nor given to raft: raft was started with the configuration after it.

use bytes::Bytes;
use disk::Disk;
use prost::Message;
use proto::raftpb::{ConfChange, Entry, EntryType};

use super::{BadEntry, Fatal};
use crate::error::Error;
use crate::machine::StateMachine;
use crate::membership::{Change, Member, REMOVED, member_key};
use crate::schema::Bucket;

/// What an entry that changes the members did.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfChangeApplied {
    /// The entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Which proposal it was.
    pub id: u64,
    /// What raft must apply now; its answer goes to [`StateMachine::set_conf_state`] unless the change was refused. `None` for an
    /// entry that had been applied before a restart.
    pub for_raft: Option<ConfChange>,
    /// What became of it; `None` for an entry that had been applied before a restart.
    pub result: Option<Result<Change, Error>>,
    /// Whether this member is no longer one: it must stop, after the others could learn of it.
    pub removed_self: bool,
}

impl ConfChangeApplied {
    /// The members after the change, as the answer to the proposal lists them.
    pub fn answer<D: Disk>(&self, machine: &StateMachine<D>) -> Option<Result<Vec<Member>, Error>> {
        let members = || machine.membership().members().cloned().collect();
        Some(self.result.as_ref()?.as_ref().map(|_| members()).map_err(Error::clone))
    }
}

impl<D: Disk> StateMachine<D> {
    /// Applies an entry that changes the members.
    ///
    /// # Errors
    /// [`Fatal`]: the member must stop.
    pub fn apply_conf_change(&mut self, entry: &Entry) -> Result<ConfChangeApplied, Fatal> {
        if entry.r#type != EntryType::EntryConfChange as i32 {
            return Err(self.bad(entry, BadEntry::UnknownType(entry.r#type)));
        }
        let mut change =
            ConfChange::decode(entry.data.clone()).map_err(|error| self.bad(entry, BadEntry::Undecodable(error)))?;
        let mut applied = ConfChangeApplied {
            index: entry.index,
            term: entry.term,
            id: change.id,
            for_raft: None,
            result: None,
            removed_self: false,
        };
        if !self.is_due(entry)? {
            return Ok(applied);
        }
        self.backend.take_writes_hash();
        match self
            .cluster
            .validate(&change)
            .map_err(|reason| self.bad(entry, reason.into()))?
        {
            Ok(valid) => {
                applied.removed_self = valid == Change::Remove(self.config.member_id);
                self.carry_out(valid.clone());
                applied.result = Some(Ok(valid));
            }
            Err(refusal) => {
                change.node_id = 0;
                applied.result = Some(Err(refusal));
            }
        }
        applied.for_raft = Some(change);
        self.advance(entry);
        Ok(applied)
    }

    /// Carries out a valid change, here and in the database. Also how a new member writes down its first members.
    pub fn carry_out(&mut self, change: Change) {
        let promotes = matches!(change, Change::Promote(_));
        let gone = match change {
            Change::Remove(id) => Some(id),
            Change::Add(_) | Change::Promote(_) | Change::Update(_) => None,
        };
        if let Some(member) = self.cluster.carry_out(change)
            && !(promotes && mutant::planted("H46"))
        {
            self.backend
                .put(Bucket::Members, member_key(member.id), member.to_json().into());
        }
        if let Some(id) = gone {
            self.backend.delete(Bucket::Members, member_key(id));
            self.backend
                .put(Bucket::MembersRemoved, member_key(id), Bytes::from_static(REMOVED));
        }
    }
}
