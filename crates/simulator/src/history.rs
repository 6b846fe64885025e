//! What clients asked and were told, and whether that can be: linearizability.
//!
//! Two checks, of which neither trusts the other:
//! - *By revision*: every answer names a revision, so the order of all writes is known. The model runs the log; each answer must be what the
//!   model says at its place, and the places must not contradict the order in which requests were asked and answered. Requests whose outcome
//!   the client never learned are placed by the log: they are there, or they never happened.
//! - *By search*: for each key, puts, deletes and reads alone, without revisions and without the log: some order of them must explain all
//!   answers (Wing, Gong, Lowe), those without an answer being free to happen late or never.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use replica::state_machine::{Error, Response};

use crate::client::{Answer, Request};
use crate::model::{bare, revision_of};
use crate::report::Figures;
use crate::truth::Truth;
use crate::world::Time;

/// A request and what became of it.
#[derive(Debug, Clone)]
struct Operation {
    request: Request,
    called: Time,
    /// The raft request, if it got that far.
    id: Option<u64>,
    answer: Option<(Time, Answer)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    operations: BTreeMap<(usize, u64), Operation>,
}

impl History {
    /// A client asks.
    pub fn call(&mut self, client: usize, turn: u64, now: Time, request: Request) {
        let operation = Operation {
            request,
            called: now,
            id: None,
            answer: None,
        };
        self.operations.insert((client, turn), operation);
    }

    /// A member proposed the request.
    pub fn proposed(&mut self, client: usize, turn: u64, id: u64) {
        if let Some(operation) = self.operations.get_mut(&(client, turn)) {
            operation.id = Some(id);
        }
    }

    /// A client is answered.
    pub fn answered(&mut self, client: usize, turn: u64, now: Time, answer: Answer) {
        if let Some(operation) = self.operations.get_mut(&(client, turn)) {
            operation.answer = Some((now, answer));
        }
    }

    /// When a client asked.
    pub fn asked(&self, client: usize, turn: u64) -> Time {
        self.operations
            .get(&(client, turn))
            .map_or(0, |operation| operation.called)
    }

    /// What a client asked.
    pub fn request(&self, client: usize, turn: u64) -> Option<&Request> {
        self.operations.get(&(client, turn)).map(|operation| &operation.request)
    }

    /// Both checks.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self, truth: &Truth, figures: &mut Figures) -> Result<(), String> {
        self.check_by_revision(truth, figures)?;
        self.check_by_search()
    }

    fn check_by_revision(&self, truth: &Truth, figures: &mut Figures) -> Result<(), String> {
        // (time, is an answer, what): answers come after calls of the same moment.
        let mut moments: Vec<(Time, bool, (usize, u64))> = Vec::new();
        for (key, operation) in &self.operations {
            moments.push((operation.called, false, *key));
            if let Some((at, _)) = &operation.answer {
                moments.push((*at, true, *key));
            }
        }
        moments.sort_unstable();
        let mut floors: BTreeMap<(usize, u64), (i64, u64)> = BTreeMap::new();
        let (mut revision, mut index) = (0i64, 0u64);
        for (at, is_answer, key) in moments {
            let operation = &self.operations[&key];
            if !is_answer {
                floors.insert(key, (revision, index));
                // A write that nobody was told of must not stand before what was told when it was asked for.
                if operation.answer.is_none()
                    && let Some(fate) = operation.id.and_then(|id| truth.fate(id))
                    && fate.index <= index
                {
                    return Err(format!(
                        "{:?}, asked at {at}, stands at index {} before what was known",
                        operation.request, fate.index
                    ));
                }
                continue;
            }
            let Some((_, answer)) = &operation.answer else {
                continue;
            };
            let (floor, floor_index) = floors.get(&key).copied().unwrap_or_default();
            match (&operation.request, answer) {
                (_, Answer::Refused) => figures.refused += 1,
                (Request::Renew(_), _) => {}
                (Request::Propose(request), Answer::Applied(id, result)) => {
                    figures.checked += 1;
                    let Some(fate) = truth.fate(*id) else {
                        return Err(format!(
                            "{request:?} was answered with {result:?} and no member ever applied it"
                        ));
                    };
                    if let Some(verdict) = &fate.verdict {
                        let (given, right) = (result.as_ref().as_ref().map(bare), verdict.as_ref().map(bare));
                        // Where a transaction has several faults, which one is named first is not for the model to say.
                        let same = match (&given, &right) {
                            (Err(_), Err(_)) if request.txn.is_some() => true,
                            (given, right) => given == right,
                        };
                        if !same {
                            return Err(format!(
                                "index {}: {request:?} was answered with {given:?}, {right:?} is right",
                                fate.index
                            ));
                        }
                    }
                    if fate.index <= floor_index {
                        return Err(format!(
                            "{request:?} stands at index {}, but {floor_index} was told before it was asked for",
                            fate.index
                        ));
                    }
                    index = index.max(fate.index);
                    revision = revision.max(fate.revision);
                    if let Ok(response) = result.as_ref()
                        && let Some(named) = revision_of(response)
                        && named < floor
                    {
                        return Err(format!("{request:?} was answered at revision {named} after {floor}"));
                    }
                }
                (Request::Read(range) | Request::Serializable(range), Answer::Range(result)) => {
                    figures.checked += 1;
                    let linearizable = matches!(operation.request, Request::Read(_));
                    match result {
                        Ok(response) => {
                            let seen = response.header.as_ref().map_or(0, |header| header.revision);
                            if linearizable && seen < floor {
                                return Err(format!(
                                    "a stale read: {range:?} asked after revision {floor} was known sees revision {seen}"
                                ));
                            }
                            if seen > truth.model.revision {
                                return Err(format!("{range:?} sees revision {seen}, which does not exist"));
                            }
                            let right = truth.model.range(range, seen);
                            if *response != right {
                                return Err(format!(
                                    "{range:?} at revision {seen} gives {response:?}, {right:?} is right"
                                ));
                            }
                            if linearizable {
                                revision = revision.max(seen);
                            }
                        }
                        Err(Error::Compacted) => {
                            let known = truth.model.compactions.last().copied().unwrap_or(-1);
                            if range.revision >= known {
                                return Err(format!(
                                    "{range:?} is compacted, they say, but nothing was beyond {known}"
                                ));
                            }
                        }
                        Err(Error::FutureRevision) => {
                            if linearizable && range.revision <= floor {
                                return Err(format!("{range:?} is called future, but revision {floor} was known"));
                            }
                        }
                        Err(error) => return Err(format!("{range:?}: {error}")),
                    }
                }
                (request, answer) => return Err(format!("{request:?} was answered with {answer:?}")),
            }
        }
        Ok(())
    }

    fn check_by_search(&self) -> Result<(), String> {
        let mut by_key: BTreeMap<Bytes, Vec<Step>> = BTreeMap::new();
        // What else writes keys: transactions, leases that end, ranges of deletions. Keys that they touch are left to the other check.
        let mut others: HashSet<Bytes> = HashSet::new();
        let mut spans: Vec<(Bytes, Bytes, Step)> = Vec::new();
        for operation in self.operations.values() {
            let ended = operation.answer.as_ref().map(|(at, _)| *at);
            let mut add = |key: &Bytes, what: What, ended: Option<Time>| {
                by_key.entry(key.clone()).or_default().push(Step {
                    called: operation.called,
                    ended,
                    what,
                });
            };
            match (&operation.request, operation.answer.as_ref().map(|(_, answer)| answer)) {
                (_, Some(Answer::Refused)) => {}
                (Request::Propose(request), answer) => {
                    let failed = matches!(answer, Some(Answer::Applied(_, result)) if result.is_err());
                    if failed || (operation.id.is_none() && answer.is_none()) {
                        continue;
                    }
                    if let Some(put) = &request.put {
                        if put.ignore_value || put.lease != 0 || put.ignore_lease {
                            others.insert(put.key.clone());
                        }
                        add(&put.key, What::Put(put.value.clone()), ended);
                    } else if let Some(delete) = &request.delete_range {
                        match (delete.range_end.is_empty(), answer) {
                            (true, Some(Answer::Applied(_, result))) => {
                                let gone = matches!(result.as_ref(), Ok(Response::DeleteRange(response)) if response.deleted > 0);
                                add(&delete.key, What::Delete(Some(gone)), ended);
                            }
                            (true, _) => add(&delete.key, What::Delete(None), ended),
                            (false, _) => spans.push((
                                delete.key.clone(),
                                delete.range_end.clone(),
                                Step {
                                    called: operation.called,
                                    ended,
                                    what: What::Delete(None),
                                },
                            )),
                        }
                    } else if let Some(txn) = &request.txn {
                        for op in txn.success.iter().chain(&txn.failure) {
                            use proto::etcdserverpb::request_op::Request as Op;
                            match &op.request {
                                Some(Op::RequestPut(put)) => drop(others.insert(put.key.clone())),
                                Some(Op::RequestDeleteRange(delete)) => drop(others.insert(delete.key.clone())),
                                _ => {}
                            }
                        }
                    }
                }
                (Request::Read(range), Some(Answer::Range(Ok(response))))
                    if range.range_end.is_empty() && range.revision == 0 && !range.count_only && !range.keys_only =>
                {
                    let value = response.kvs.first().map(|kv| kv.value.clone());
                    add(&range.key, What::Read(value), ended);
                }
                _ => {}
            }
        }
        for (key, mut steps) in by_key {
            let covering = spans.iter().filter(|(from, to, _)| key >= *from && key < *to);
            steps.extend(covering.map(|(_, _, step)| step.clone()));
            if !others.contains(&key) && !explained(steps) {
                return Err(format!("no order of the requests explains what clients saw of {key:?}"));
            }
        }
        Ok(())
    }
}

/// What a request did to one key.
#[derive(Debug, Clone)]
enum What {
    Put(Bytes),
    /// Whether there was something to delete.
    Delete(Option<bool>),
    Read(Option<Bytes>),
}

#[derive(Debug, Clone)]
struct Step {
    called: Time,
    ended: Option<Time>,
    what: What,
}

impl What {
    /// The key after it; `None` when it cannot have been answered so.
    fn after(&self, now: &Option<Bytes>) -> Option<Option<Bytes>> {
        match self {
            What::Put(value) => Some(Some(value.clone())),
            What::Delete(None) => Some(None),
            What::Delete(Some(gone)) => (*gone == now.is_some()).then_some(None),
            What::Read(seen) => (seen == now).then(|| now.clone()),
        }
    }
}

/// How many states a search may look at; beyond that, the other check alone counts.
const SEARCH_MAX: usize = 20_000;

/// Whether some order explains all answers of one key.
fn explained(mut steps: Vec<Step>) -> bool {
    steps.sort_by_key(|step| step.called);
    // Depth first: which steps are done, and the value.
    let mut seen: HashSet<(Vec<u64>, Option<Bytes>)> = HashSet::new();
    let words = steps.len().div_ceil(64);
    let mut stack: Vec<(Vec<u64>, Option<Bytes>)> = vec![(vec![0; words], None)];
    let done = |set: &[u64], at: usize| set[at / 64] & (1 << (at % 64)) != 0;
    while let Some((set, value)) = stack.pop() {
        // Whatever must be done before anything else can: all that are answered end some time.
        let mut deadline = Time::MAX;
        let mut left = false;
        for (at, step) in steps.iter().enumerate() {
            if !done(&set, at)
                && let Some(ended) = step.ended
            {
                deadline = deadline.min(ended);
                left = true;
            }
        }
        if !left {
            return true;
        }
        for (at, step) in steps.iter().enumerate() {
            if step.called > deadline {
                break;
            }
            if done(&set, at) {
                continue;
            }
            if let Some(after) = step.what.after(&value) {
                let mut next = set.clone();
                next[at / 64] |= 1 << (at % 64);
                if seen.insert((next.clone(), after.clone())) {
                    stack.push((next, after));
                }
            }
        }
        if seen.len() > SEARCH_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(called: Time, ended: Option<Time>, what: What) -> Step {
        Step { called, ended, what }
    }

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_stale_read_has_no_explanation() {
        let put = |called, ended, text| step(called, ended, What::Put(value(text)));
        let read = |called, ended, text: Option<&'static str>| step(called, Some(ended), What::Read(text.map(value)));
        assert!(explained(vec![
            put(1, Some(2), "a"),
            put(3, Some(6), "b"),
            read(4, 5, Some("a"))
        ]));
        assert!(!explained(vec![
            put(1, Some(2), "a"),
            put(3, Some(4), "b"),
            read(5, 6, Some("a"))
        ]));
        assert!(!explained(vec![put(1, Some(2), "a"), read(3, 4, None)]));
    }

    #[test]
    fn what_nobody_was_told_of_may_happen_late_or_never() {
        let lost = step(1, None, What::Put(value("a")));
        let read = |called, text: Option<&'static str>| step(called, Some(called + 1), What::Read(text.map(value)));
        assert!(explained(vec![lost.clone(), read(5, None), read(7, Some("a"))]));
        assert!(explained(vec![lost.clone(), read(5, None)]));
        assert!(!explained(vec![lost, read(5, Some("a")), read(7, None)]));
    }

    #[test]
    fn a_deletion_tells_whether_there_was_something() {
        let delete = |called, gone| step(called, Some(called + 1), What::Delete(Some(gone)));
        let put = step(1, Some(2), What::Put(value("a")));
        assert!(explained(vec![put.clone(), delete(3, true), delete(5, false)]));
        assert!(!explained(vec![put, delete(3, false)]));
    }
}
