//! Some seeds at each test run; `QUORATE_SIM_SEEDS` runs more of them.

use std::time::Duration;

use simulator::campaign::{self, Plan};
use simulator::world;

fn seeds() -> u64 {
    std::env::var("QUORATE_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(24)
}

#[test]
fn nothing_breaks_what_is_promised() {
    let plan = Plan {
        from: 1,
        seeds: seeds(),
        jobs: std::thread::available_parallelism().map_or(1, |n| n.get()),
        limit: None::<Duration>,
        recheck: 0,
        progress: false,
        failures_max: 5,
    };
    let done = campaign::run(&plan);
    println!("{}", campaign::table(&done));
    assert!(done.failures.is_empty(), "{:#?}", done.failures);
    assert!(done.figures.checked > 0 && done.figures.entries > 0);
}

#[test]
fn the_same_seed_gives_the_same_trace_told_or_not() {
    for seed in [3, 4, 5] {
        let (first, second) = (world::run(seed, false), world::run(seed, true));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.failure, second.failure);
        assert!(first.story.is_empty() && !second.story.is_empty());
    }
    assert_ne!(world::run(3, false).hash, world::run(4, false).hash);
}

/// Seeds that once found something, as the ledger lists them.
#[test]
fn what_was_found_stays_fixed() {
    let ledger = include_str!("../testdata/ledger.txt");
    let mut wrong = Vec::new();
    for line in ledger
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let Some(seed) = line.split_whitespace().next().and_then(|seed| seed.parse().ok()) else {
            panic!("a line of the ledger begins with its seed: {line}");
        };
        if let Some(reason) = campaign::run_seed(seed, false).failure {
            wrong.push(format!("seed {seed}: {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
