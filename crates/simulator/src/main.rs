//! `simulate`: one seed with its story, many seeds with their figures, or planted bugs.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use simulator::campaign::{self, Plan};

/// Breaks simulated clusters of the real server, from seeds.
#[derive(Debug, Parser)]
#[command(name = "simulate", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Which world.
    #[arg(default_value = "server")]
    world: Which,
    /// Run this seed and tell its story.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds and print figures.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Threads [default: one for each processor].
    #[arg(long)]
    jobs: Option<usize>,
    /// Stop after so many minutes; without --seeds there is no other end.
    #[arg(long)]
    minutes: Option<f64>,
    /// Run this part of the seeds twice and compare their traces.
    #[arg(long, default_value = "1%")]
    recheck: String,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 20)]
    failures: usize,
    /// With --seed: only the result, not the story.
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// Replicas, disks, network, clients.
    Server,
    /// The operator on a simulated platform.
    Operator,
    /// The operator on simulated servers.
    Both,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plant bugs, one after the other, and see how soon the simulator finds each.
    Mutants {
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
        /// Seeds to try for each.
        #[arg(long, default_value_t = 400)]
        budget: u64,
        /// Find each so many times, from different seeds, for the median.
        #[arg(long, default_value_t = 1)]
        times: u64,
        /// Threads [default: one for each processor].
        #[arg(long)]
        jobs: Option<usize>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    if let Some(Command::Mutants {
        only,
        budget,
        times,
        jobs,
    }) = arguments.command
    {
        return mutants(only.as_deref(), budget, times, jobs.unwrap_or(processors));
    }
    match arguments.world {
        Which::Server => {}
        Which::Operator | Which::Both => {
            eprintln!("simulate: only the world \"server\" is built so far; leave the argument out, or say server");
            return ExitCode::from(2);
        }
    }
    if let Some(seed) = arguments.seed {
        return story(seed, arguments.quiet);
    }
    if arguments.seeds.is_none() && arguments.minutes.is_none() {
        eprintln!("simulate: say --seed N for one seed and its story, or --seeds N or --minutes M for many");
        return ExitCode::from(2);
    }
    let Some(recheck) = per_mille(&arguments.recheck) else {
        eprintln!(
            "simulate: --recheck {}: give a percentage, such as 1% or 0.5%",
            arguments.recheck
        );
        return ExitCode::from(2);
    };
    let plan = Plan {
        from: arguments.from,
        seeds: arguments.seeds.unwrap_or(u64::MAX),
        jobs: arguments.jobs.unwrap_or(processors),
        limit: arguments
            .minutes
            .map(|minutes| Duration::from_secs_f64(minutes.max(0.0) * 60.0)),
        recheck,
        progress: true,
        failures_max: arguments.failures.max(1),
    };
    std::panic::set_hook(Box::new(|_| {}));
    let done = campaign::run(&plan);
    print!("{}", campaign::table(&done));
    if done.failures.is_empty() && done.different.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn story(seed: u64, quiet: bool) -> ExitCode {
    let outcome = campaign::run_seed(seed, !quiet);
    println!("seed {seed}\n{}\n", outcome.swarm);
    for line in &outcome.story {
        println!("{line}");
    }
    println!("trace {:016x}", outcome.hash);
    match outcome.failure {
        None => ExitCode::SUCCESS,
        Some(reason) => {
            println!("FAILED: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// `1%` is 10 of a thousand.
fn per_mille(text: &str) -> Option<u64> {
    let percent: f64 = text.strip_suffix('%').unwrap_or(text).parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some((percent * 10.0) as u64)
}

#[cfg(feature = "mutants")]
fn mutants(only: Option<&str>, budget: u64, times: u64, jobs: usize) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    simulator::mutants::run(only, budget, times, jobs)
}

#[cfg(not(feature = "mutants"))]
fn mutants(_: Option<&str>, _: u64, _: u64, _: usize) -> ExitCode {
    eprintln!(
        "simulate: this build has no planted bugs; run: cargo run --release -p simulator --features mutants -- mutants"
    );
    ExitCode::from(2)
}
