//! Planted bugs of the operator, each of which must be found: how we know that the checks work.
//! `cargo test -p simulator-operator --features mutants --test mutants`
#![cfg(feature = "mutants")]

use simulator_operator::campaign::{Extent, explore, own};
use std::time::{Duration, Instant};

/// The bug, what is wrong, and the scenarios in which it is looked for.
const MUTANTS: &[(&str, &str, &str)] = &[
    ("G18", "the operator reads the cache before a delete", "config-roll"),
    ("G19", "the operator forgets one step after a crash", "create"),
    ("G20", "the operator treats a timeout as NotFound", "node-silent"),
];

#[test]
fn planted_bugs_are_found() {
    let mut missed = Vec::new();
    for &(mutant, what, only) in MUTANTS {
        let begun = Instant::now();
        let extent = Extent {
            every: 1,
            jobs: std::thread::available_parallelism().map_or(1, |n| n.get()),
            limit: Some(Duration::from_secs(120)),
            only: Some(only.to_owned()),
            mutant,
            failures_max: 1,
        };
        let done = explore(&own(), &extent);
        match done.failures.first() {
            Some(failure) => println!(
                "{mutant} {what}: found after {} stories, {:?}: {} with fault {}: {:?}",
                done.stories,
                begun.elapsed(),
                failure.script.name,
                failure.script.fault,
                failure.broken.first()
            ),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
