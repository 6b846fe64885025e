//! The operator's world, for `simulate operator`: one seed with its story, or every fault of every scenario.

use simulator_operator::campaign::{Extent, explore, faults, own, table};
use simulator_operator::control::Fault;
use simulator_operator::random::Random;
use simulator_operator::run::{End, run};
use std::process::ExitCode;

/// Tells one story: the seed chooses the scenario and the fault.
pub fn story(seed: u64, quiet: bool) -> ExitCode {
    let mut random = Random::new(seed);
    let scripts = own();
    let pick = |random: &mut Random, count: usize| {
        usize::try_from(random.below(u64::try_from(count).unwrap_or(1))).unwrap_or(0)
    };
    let Some(script) = scripts.get(pick(&mut random, scripts.len())) else {
        eprintln!("simulate: there are no scenarios");
        return ExitCode::from(2);
    };
    let mut script = script.clone();
    script.seed = seed;
    let fair = run(&script, seed, Fault::None, End::Short);
    let all = faults(&fair, 1);
    let fault = all.get(pick(&mut random, all.len())).copied().unwrap_or(Fault::None);
    script.fault = fault.to_string();
    let told = run(&script, seed, fault, End::Long);
    println!("# {}\n{}", script.name, script.text());
    if !quiet {
        println!("{}", told.story.join("\n"));
    }
    println!("trace {:016x}", told.hash);
    for (invariant, why) in &told.broken {
        println!("FAILED: invariant {invariant}: {why}");
    }
    if told.broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Tells many, prints figures, and writes each that failed as a script.
pub fn many(extent: &Extent) -> ExitCode {
    let done = explore(&own(), extent);
    print!("{}", table(&done));
    for failure in &done.failures {
        println!(
            "--- a script that fails\n# {}\n{}",
            failure.script.name,
            failure.script.text()
        );
    }
    if done.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
