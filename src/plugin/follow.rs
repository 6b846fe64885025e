//! Follows what the operator does about something that was asked for, until it is done.
//!
//! Invariant: giving up changes nothing: what was asked for stays asked for.

use super::target::{Known, Target};
use anyhow::bail;
use clap::Args;
use std::time::Duration;
use tokio::time::Instant;

const EVERY: Duration = Duration::from_millis(700);

/// How long to follow.
#[derive(Debug, Clone, Args)]
pub struct Patience {
    /// Returns at once; `explain` tells later how it goes.
    #[arg(long)]
    pub no_wait: bool,
    /// Seconds until following is given up; the operator goes on.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    pub timeout: u64,
}

/// Prints every new next action to stderr until `done` holds.
pub(super) async fn follow(
    target: &Target,
    cluster: &str,
    patience: &Patience,
    done: impl Fn(&Known) -> bool,
) -> anyhow::Result<Known> {
    let end = Instant::now() + Duration::from_secs(patience.timeout);
    let mut told = String::new();
    loop {
        let known = target.one(Some(cluster)).await?;
        if done(&known) {
            return Ok(known);
        }
        let line = match &known.status.plan {
            Some(plan) => match &plan.blocked_by {
                Some(why) => format!("blocked: {why}"),
                None => plan.next_action.clone(),
            },
            None => "not planned yet".to_owned(),
        };
        if line != told {
            eprintln!("{cluster}: {line}");
            told = line;
        }
        if Instant::now() > end {
            bail!(
                "not done within {} s; the operator goes on: kubectl quorate explain {cluster}",
                patience.timeout
            );
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Nothing is left to do.
pub(super) fn settled(known: &Known) -> bool {
    known
        .status
        .plan
        .as_ref()
        .is_some_and(|plan| plan.next_action == "Settled")
}
