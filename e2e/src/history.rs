//! Judges writes: what was acknowledged must be in the history, at its revision, and revisions never go back.
//!
//! Pure. Invariants:
//! 1. An attempt whose outcome is unknown may have been applied once or not at all, at any later time.
//! 2. Every value is sent once in a run, so an event tells whose it is.

use std::collections::{BTreeMap, BTreeSet};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server said that it is done, at this revision.
    Acked(i64),
    /// An error or silence: perhaps done, perhaps not, perhaps later.
    Unknown,
}

/// One put.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Key.
    pub key: String,
    /// Value; never sent twice.
    pub value: String,
    /// The highest revision that any client had been told of when it was sent.
    pub floor: i64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A put as the server remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Revision.
    pub revision: i64,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// What is wrong, and some figures.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged writes.
    pub acked: usize,
    /// Attempts whose outcome is unknown.
    pub unknown: usize,
    /// Those of them that were applied.
    pub unknown_applied: usize,
    /// Acknowledged, and not in the history as acknowledged.
    pub lost: Vec<String>,
    /// Acknowledged at a revision that was given before.
    pub regressions: Vec<String>,
    /// In the history though nobody sent it, or more than once.
    pub strange: Vec<String>,
}

impl Verdict {
    /// Nothing is wrong.
    pub fn good(&self) -> bool {
        self.lost.is_empty() && self.regressions.is_empty() && self.strange.is_empty()
    }

    /// One line, with the first of each kind of problem.
    pub fn describe(&self) -> String {
        let first = |kind: &str, list: &[String]| {
            list.first()
                .map(|one| format!("; {} {kind}, first: {one}", list.len()))
                .unwrap_or_default()
        };
        format!(
            "{} acknowledged, {} unknown ({} applied), {} lost, {} regressions{}{}{}",
            self.acked,
            self.unknown,
            self.unknown_applied,
            self.lost.len(),
            self.regressions.len(),
            first("lost", &self.lost),
            first("regressions", &self.regressions),
            first("strange", &self.strange),
        )
    }
}

/// Compares attempts with the history after revision `after`; what was acknowledged at or before that is not looked for.
pub fn judge(attempts: &[Attempt], history: &[Event], after: i64) -> Verdict {
    let mut verdict = Verdict::default();
    let by_revision: BTreeMap<i64, &Event> = history.iter().map(|event| (event.revision, event)).collect();
    let sent: BTreeMap<&str, &Attempt> = attempts
        .iter()
        .map(|attempt| (attempt.value.as_str(), attempt))
        .collect();
    for attempt in attempts {
        let Outcome::Acked(revision) = attempt.outcome else {
            verdict.unknown += 1;
            continue;
        };
        verdict.acked += 1;
        if revision <= attempt.floor {
            let (value, floor) = (&attempt.value, attempt.floor);
            verdict
                .regressions
                .push(format!("{value} at revision {revision}, sent when {floor} was known"));
        }
        let kept = by_revision
            .get(&revision)
            .is_some_and(|event| event.key == attempt.key && event.value == attempt.value);
        if revision > after && !kept {
            let found = by_revision
                .get(&revision)
                .map(|event| format!("{} = {}", event.key, event.value));
            let found = found.unwrap_or_else(|| "nothing".to_owned());
            verdict.lost.push(format!(
                "{} = {} at revision {revision}, where there is {found}",
                attempt.key, attempt.value
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for event in history {
        let Some(attempt) = sent.get(event.value.as_str()) else {
            verdict.strange.push(format!("{event:?} was never sent"));
            continue;
        };
        if attempt.key != event.key || !seen.insert(event.value.as_str()) {
            verdict
                .strange
                .push(format!("{event:?} is there twice or under another key"));
        }
        if attempt.outcome == Outcome::Unknown {
            verdict.unknown_applied += 1;
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(value: &str, floor: i64, outcome: Outcome) -> Attempt {
        Attempt {
            key: "k".into(),
            value: value.into(),
            floor,
            outcome,
        }
    }

    fn event(revision: i64, value: &str) -> Event {
        Event {
            revision,
            key: "k".into(),
            value: value.into(),
        }
    }

    #[test]
    fn a_late_unknown_write_is_no_fault() {
        let attempts = [
            attempt("a", 1, Outcome::Acked(2)),
            attempt("b", 2, Outcome::Unknown),
            attempt("c", 2, Outcome::Acked(3)),
            attempt("d", 3, Outcome::Unknown),
        ];
        let verdict = judge(&attempts, &[event(2, "a"), event(3, "c"), event(4, "b")], 0);
        assert!(verdict.good(), "{}", verdict.describe());
        assert_eq!((verdict.acked, verdict.unknown, verdict.unknown_applied), (2, 2, 1));
    }

    #[test]
    fn what_was_acknowledged_and_is_gone_or_elsewhere_is_lost() {
        let attempts = [attempt("a", 1, Outcome::Acked(2)), attempt("b", 2, Outcome::Acked(3))];
        let verdict = judge(&attempts, &[event(2, "a")], 0);
        assert_eq!(verdict.lost.len(), 1);
        assert!(!verdict.good());
        assert_eq!(judge(&attempts, &[event(2, "b"), event(3, "a")], 0).lost.len(), 2);
        // Below what was compacted, the history says nothing.
        assert!(judge(&attempts, &[event(3, "b")], 2).good());
    }

    #[test]
    fn a_revision_that_was_given_before_is_a_regression() {
        let attempts = [attempt("a", 5, Outcome::Acked(5))];
        assert_eq!(judge(&attempts, &[event(5, "a")], 0).regressions.len(), 1);
    }

    #[test]
    fn what_nobody_sent_and_what_is_there_twice_is_strange() {
        let attempts = [attempt("a", 1, Outcome::Unknown)];
        let verdict = judge(&attempts, &[event(2, "a"), event(3, "a"), event(4, "x")], 0);
        assert_eq!(verdict.strange.len(), 2);
    }
}
