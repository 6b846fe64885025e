//! `story NAME [FAULT]` tells one story, `story all` every scenario without a fault, `story explore [EVERY [SECONDS [NAME]]]` tells
//! every so manieth fault of every scenario.

use simulator_operator::campaign::{Extent, explore, own, table};
use simulator_operator::control::Fault;
use simulator_operator::run::{End, run};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.first().map_or("create", String::as_str);
    if name == "explore" {
        let number = |at: usize, default: u64| {
            let given = arguments.get(at).and_then(|text| text.parse().ok());
            given.unwrap_or(default)
        };
        let extent = Extent {
            every: number(1, 397),
            jobs: 2,
            limit: Some(std::time::Duration::from_secs(number(2, 60))),
            only: arguments.get(3).cloned(),
            mutant: "",
            failures_max: 40,
        };
        std::panic::set_hook(Box::new(|_| {}));
        print!("{}", table(&explore(&own(), &extent)));
        return;
    }
    let fault: Fault = arguments
        .get(1..)
        .unwrap_or_default()
        .join(" ")
        .parse()
        .unwrap_or(Fault::None);
    for script in own().iter().filter(|script| name == "all" || script.name == name) {
        let begun = std::time::Instant::now();
        let told = run(script, script.seed, fault, End::Short);
        if name != "all" {
            println!("{}", told.story.join("\n"));
        }
        println!(
            "{} trace {:016x} took {:?} of {:?}, {} effects {} calls {} events",
            script.name,
            told.hash,
            begun.elapsed(),
            told.took,
            told.effects.len(),
            told.calls,
            told.events
        );
        for (invariant, why) in &told.broken {
            println!("BROKEN {invariant}: {why}");
        }
    }
}
