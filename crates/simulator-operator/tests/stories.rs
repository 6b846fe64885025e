//! Scenarios without a fault, some faults of the first one, and every story that once failed.
//!
//! `QUORATE_SIM_EVERY=100 cargo test -p simulator-operator` tells every hundredth fault of every scenario as well; all of
//! them take hours, and are for `make simulate-operator`.

use simulator_operator::campaign::{Extent, explore, own, scenarios, table};
use simulator_operator::control::Fault;
use simulator_operator::run::{End, run};
use std::path::Path;
use std::time::Duration;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn one_seed_makes_one_story() {
    let scripts = own();
    let script = scripts
        .iter()
        .find(|script| script.name == "scale")
        .expect("there is one");
    let [a, b] = [(); 2].map(|()| run(script, 3, Fault::CrashAfter(9), End::Short));
    assert_eq!(a.story, b.story);
    assert_eq!(a.hash, b.hash);
    assert_ne!(a.hash, run(script, 4, Fault::CrashAfter(9), End::Short).hash);
}

#[test]
fn a_cluster_is_made_whatever_fails_on_the_way() {
    let scripts = own();
    let script = scripts
        .iter()
        .find(|script| script.name == "create")
        .expect("there is one");
    for words in ["crash before 9", "crash after 9", "lost 17", "refuse 20 0", "pause 14"] {
        let told = run(script, script.seed, words.parse().expect("a fault"), End::Short);
        assert!(
            told.struck && told.broken.is_empty(),
            "{words}: {:?}\n{}",
            told.broken,
            told.story.join("\n")
        );
    }
}

#[test]
fn scenarios_hold_without_and_with_faults() {
    let extent = Extent {
        every: number("QUORATE_SIM_EVERY").unwrap_or(0),
        jobs: std::thread::available_parallelism().map_or(1, |n| n.get()),
        limit: number("QUORATE_SIM_SECONDS").map(Duration::from_secs),
        only: std::env::var("QUORATE_SIM_ONLY").ok(),
        mutant: "",
        failures_max: 20,
    };
    let done = explore(&own(), &extent);
    let table = table(&done);
    println!("{table}");
    assert!(done.failures.is_empty(), "{table}");
}

#[test]
fn what_once_failed_holds() {
    for script in scenarios(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/found")) {
        let fault: Fault = script.fault.parse().expect("a fault");
        let told = run(&script, script.seed, fault, End::Short);
        assert!(
            told.broken.is_empty(),
            "{}: {:?}\n{}",
            script.name,
            told.broken,
            told.story.join("\n")
        );
    }
}
