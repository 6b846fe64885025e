//! Members killed, stalled and all killed at once under a steady load: nothing acknowledged may be lost.

use crate::load::Load;
use crate::local::Local;
use crate::process::Programs;
use crate::report::{Report, spread};
use anyhow::Context;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// How much is done.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// SIGKILL of a random member, so many times.
    #[arg(long, default_value_t = 50)]
    pub kills: usize,
    /// SIGSTOP of the leader for five seconds, so many times.
    #[arg(long, default_value_t = 10)]
    pub stalls: usize,
    /// SIGKILL of all members at once, so many times.
    #[arg(long, default_value_t = 10)]
    pub blackouts: usize,
    /// Writes per second.
    #[arg(long, default_value_t = 100)]
    pub rate: u32,
    /// No new fault is begun after so many seconds.
    #[arg(long, default_value_t = 1800)]
    pub seconds: u64,
}

/// The faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stall,
    Blackout,
}

/// How long until writes were back, by what was done.
#[derive(Debug, Default)]
struct Times {
    leader_killed: Vec<Duration>,
    follower_killed: Vec<Duration>,
    stalled: Vec<Duration>,
    blackout: Vec<Duration>,
    whole_again: Vec<Duration>,
}

/// Runs the suite.
pub async fn suite(programs: &Programs, options: &Options) -> anyhow::Result<bool> {
    let mut report = Report::new("chaos");
    let local = match Local::running(programs, "replicas: 3", 3).await {
        Ok(local) => local,
        Err(error) => {
            report.check::<String>("three members with TLS", Err(error));
            return Ok(report.end());
        }
    };
    let interval = Duration::from_secs(1) / options.rate.max(1);
    let load = Load::start(local.target(), "load/", interval, Duration::from_secs(3))?;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let mut faults = Vec::new();
    faults.extend(std::iter::repeat_n(Fault::Kill, options.kills));
    faults.extend(std::iter::repeat_n(Fault::Stall, options.stalls));
    faults.extend(std::iter::repeat_n(Fault::Blackout, options.blackouts));
    // In random order: what one leaves behind is the next one's beginning.
    for n in (1..faults.len()).rev() {
        faults.swap(n, rand::random_range(0..=n));
    }
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut times = Times::default();
    let mut done = [0; 3];
    let mut result = Ok(());
    for fault in &faults {
        if Instant::now() > end {
            break;
        }
        result = inject(&local, &load, *fault, &mut times).await;
        if result.is_err() {
            break;
        }
        done[*fault as usize] += 1;
    }
    let counts = format!("{} kills, {} stalls, {} blackouts", done[0], done[1], done[2]);
    report.check(
        "after every fault writes and all members come back",
        result.map(|()| counts),
    );
    let summary = load.stop().await;
    let access = local.access()?;
    report.check(
        "nothing acknowledged is lost, no revision goes back",
        summary.judged(&access).await,
    );
    report.check("all members have the same content", access.equal_hash().await);
    report.figure("writes back after the leader was killed", spread(&times.leader_killed));
    report.figure(
        "writes back after a follower was killed",
        spread(&times.follower_killed),
    );
    report.figure("writes back after the leader was stopped", spread(&times.stalled));
    report.figure("writes back after all were killed", spread(&times.blackout));
    report.figure("all members back after a fault", spread(&times.whole_again));
    report.figure(
        "longest time without an acknowledgement",
        format!("{:.2} s", summary.longest_gap.as_secs_f64()),
    );
    report.figure("writes not begun because too many were in flight", summary.skipped);
    Ok(report.end())
}

async fn inject(local: &Local, load: &Load, fault: Fault, times: &mut Times) -> anyhow::Result<()> {
    let leader = local.access()?.settled(3, Duration::from_secs(30)).await?.name;
    let names = local.member_names();
    let limit = Duration::from_secs(30);
    load.mark();
    let began = Instant::now();
    let back = |what: String| async move {
        load.back(limit)
            .await
            .with_context(|| format!("{what}\n{}", local.last_words()))
    };
    match fault {
        Fault::Kill => {
            let victim = names.get(rand::random_range(0..names.len())).context("no members")?;
            anyhow::ensure!(local.signal(victim, Signal::SIGKILL), "{victim} has no process");
            let time = back(format!("after the kill of {victim}, leader {leader}")).await?;
            if *victim == leader {
                times.leader_killed.push(time)
            } else {
                times.follower_killed.push(time)
            }
        }
        Fault::Stall => {
            anyhow::ensure!(local.signal(&leader, Signal::SIGSTOP), "{leader} has no process");
            let time = back(format!("after the stop of {leader}")).await;
            tokio::time::sleep(Duration::from_secs(5).saturating_sub(began.elapsed())).await;
            local.signal(&leader, Signal::SIGCONT);
            times.stalled.push(time?);
        }
        Fault::Blackout => {
            for name in &names {
                anyhow::ensure!(local.signal(name, Signal::SIGKILL), "{name} has no process");
            }
            times.blackout.push(back("after the kill of all".to_owned()).await?);
        }
    }
    local
        .access()?
        .settled(3, limit)
        .await
        .with_context(|| format!("after {fault:?}\n{}", local.last_words()))?;
    times.whole_again.push(began.elapsed());
    // Some time in peace, of random length, so that faults meet different moments.
    tokio::time::sleep(Duration::from_millis(rand::random_range(100..1000))).await;
    Ok(())
}
