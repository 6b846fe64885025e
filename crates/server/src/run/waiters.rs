//! Who waits for what.
//!
//! Invariants: everything in here ends: by an answer, by being swept after its client gave up, or by the end of the loop, which
//! drops all of it and thereby tells every client.

use std::collections::{BTreeMap, HashMap, VecDeque};

use disk::RealDisk;
use proto::etcdserverpb::Member;
use replica::state_machine::{self, FileView, Response};
use tokio::sync::oneshot::Sender;

use crate::handle::Error;

type Reply<T> = Sender<Result<T, Error>>;

struct Proposal {
    wait_compacted: Option<i64>,
    reply: Reply<Response>,
}

#[derive(Default)]
pub(super) struct Waiters {
    proposals: HashMap<u64, Proposal>,
    changes: HashMap<u64, Reply<Vec<Member>>>,
    reads: VecDeque<(u64, Reply<()>)>,
    reads_made: u64,
    indexes: BTreeMap<u64, Vec<Reply<()>>>,
    /// Compactions that are applied and not yet durable, with their answers.
    compactions: Vec<(i64, Response, Reply<Response>)>,
    compacted: i64,
    pub renewals: Vec<(i64, Reply<i64>)>,
    /// Renewals that wait until a read of this number is confirmed.
    renewals_to_confirm: VecDeque<(u64, i64, Reply<i64>)>,
    pub snapshots: Vec<Reply<FileView<RealDisk>>>,
}

impl Waiters {
    pub fn proposal(&mut self, id: u64, wait_compacted: Option<i64>, reply: Reply<Response>) {
        self.proposals.insert(id, Proposal { wait_compacted, reply });
    }

    pub fn proposals(&self) -> usize {
        self.proposals.len()
    }

    pub fn answer(&mut self, id: u64, result: Result<Response, state_machine::Error>) {
        let Some(Proposal { wait_compacted, reply }) = self.proposals.remove(&id) else {
            return;
        };
        match (result, wait_compacted) {
            (Ok(response), Some(revision)) if revision > self.compacted => {
                self.compactions.push((revision, response, reply));
            }
            (result, _) => {
                reply.send(result.map_err(Error::Refused)).ok();
            }
        }
    }

    pub fn compacted(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
        for (at, response, reply) in std::mem::take(&mut self.compactions) {
            if at <= revision {
                reply.send(Ok(response)).ok();
            } else {
                self.compactions.push((at, response, reply));
            }
        }
    }

    pub fn change(&mut self, id: u64, reply: Reply<Vec<Member>>) {
        self.changes.insert(id, reply);
    }

    pub fn configured(&mut self, id: u64, result: Result<Vec<Member>, state_machine::Error>) {
        if let Some(reply) = self.changes.remove(&id) {
            reply.send(result.map_err(Error::Refused)).ok();
        }
    }

    /// The number of a new read.
    pub fn read(&mut self, reply: Reply<()>) -> u64 {
        self.reads_made += 1;
        self.reads.push_back((self.reads_made, reply));
        self.reads_made
    }

    /// The number of the read that confirms who leads, before a lease is renewed.
    pub fn renewal_to_confirm(&mut self, id: i64, reply: Reply<i64>) -> u64 {
        self.reads_made += 1;
        self.renewals_to_confirm.push_back((self.reads_made, id, reply));
        self.reads_made
    }

    /// Reads up to this number are confirmed; whether renewals are among them.
    pub fn reads_ready(&mut self, up_to: u64) -> bool {
        let waiting = self.renewals.len();
        while self
            .renewals_to_confirm
            .front()
            .is_some_and(|(number, ..)| *number <= up_to)
        {
            let confirmed = self.renewals_to_confirm.pop_front();
            self.renewals.extend(confirmed.map(|(_, id, reply)| (id, reply)));
        }
        while self.reads.front().is_some_and(|(number, _)| *number <= up_to) {
            if let Some((_, reply)) = self.reads.pop_front() {
                reply.send(Ok(())).ok();
            }
        }
        self.renewals.len() > waiting
    }

    pub fn index(&mut self, index: u64, reply: Reply<()>) {
        self.indexes.entry(index).or_default().push(reply);
    }

    pub fn applied(&mut self, applied: u64) {
        while let Some(entry) = self.indexes.first_entry()
            && *entry.key() <= applied
        {
            for reply in entry.remove() {
                reply.send(Ok(())).ok();
            }
        }
    }

    pub fn snapshot(&mut self, view: &FileView<RealDisk>) {
        for reply in self.snapshots.drain(..) {
            reply.send(Ok(view.clone())).ok();
        }
    }

    /// Forgets those whose clients gave up.
    pub fn sweep(&mut self) {
        self.proposals.retain(|_, proposal| !proposal.reply.is_closed());
        self.changes.retain(|_, reply| !reply.is_closed());
        self.reads.retain(|(_, reply)| !reply.is_closed());
        self.renewals_to_confirm.retain(|(_, _, reply)| !reply.is_closed());
        self.indexes.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
        self.compactions.retain(|(_, _, reply)| !reply.is_closed());
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::channel;

    use super::*;

    #[test]
    fn a_physical_compaction_is_answered_when_it_is_durable() {
        let mut waiters = Waiters::default();
        let (reply, mut answer) = channel();
        waiters.proposal(1, Some(7), reply);
        waiters.answer(1, Ok(Response::Empty));
        waiters.compacted(6);
        assert!(answer.try_recv().is_err());
        waiters.compacted(7);
        assert_eq!(answer.try_recv().unwrap(), Ok(Response::Empty));
    }

    #[test]
    fn who_gave_up_is_forgotten() {
        let mut waiters = Waiters::default();
        let (reply, answer) = channel();
        waiters.proposal(1, None, reply);
        let (reply, mut kept) = channel();
        waiters.read(reply);
        drop(answer);
        waiters.sweep();
        assert_eq!(waiters.proposals(), 0);
        waiters.reads_ready(1);
        assert_eq!(kept.try_recv().unwrap(), Ok(()));
    }
}
