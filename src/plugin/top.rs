//! `kubectl quorate top`: what fills the database, by prefix.
//!
//! Invariant: reads one member's own store at one revision, page by page; nothing is held but the counts.

use super::table::{self, bytes, plain};
use super::target::{Reach, Target};
use super::{Format, Place};
use crate::member::usage::{Prefix, Usage};
use crate::member::{Member, Status};
use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// What to count.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The cluster; may be left out when there is one only.
    pub cluster: Option<String>,
    /// Only keys that begin with this.
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// Parts of the path that are told apart: 2 tells /registry/pods/ from /registry/events/, 3 tells namespaces apart.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub depth: u64,
    /// Prefixes to show.
    #[arg(long, default_value_t = 15)]
    pub count: usize,
    /// The member to read from; a follower when absent.
    #[arg(long)]
    pub member: Option<String>,
}

#[derive(Debug, Serialize)]
struct Shown {
    member: String,
    #[serde(flatten)]
    usage: Usage,
}

pub(super) async fn run(place: &Place, options: &Options, output: Format) -> anyhow::Result<()> {
    let target = Target::open(place).await?;
    let reach = match &target {
        Target::Endpoints { .. } => target.reach_endpoints().await?,
        Target::Kubernetes { .. } | Target::Directory(_) => {
            target.reach(&target.one(options.cluster.as_deref()).await?).await?
        }
    };
    let (name, member) = chosen(&reach, options.member.as_deref()).await?;
    let (begun, mut told) = (Instant::now(), Instant::now());
    let depth = usize::try_from(options.depth)?;
    let mut usage = member
        .usage(options.prefix.as_bytes(), depth, |keys, read| {
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                eprintln!(
                    "{keys} keys, {} read from {name} in {} s",
                    bytes(read),
                    begun.elapsed().as_secs()
                );
            }
        })
        .await?;
    if usage.prefixes.len() > options.count {
        let rest = usage.prefixes.split_off(options.count);
        let others = rest.iter().fold(Prefix::default(), |mut all, prefix| {
            all.keys += prefix.keys;
            all.bytes += prefix.bytes;
            all.largest_bytes = all.largest_bytes.max(prefix.largest_bytes);
            all
        });
        usage.prefixes.push(others);
    }
    let shown = Shown { member: name, usage };
    table::print(&shown, output, |colours| text(&shown, colours))
}

/// The member of that name; else a follower that answers, so that the leader is left alone; else who answers.
async fn chosen(reach: &Reach, name: Option<&str>) -> anyhow::Result<(String, Member)> {
    if let Some(name) = name {
        let names: Vec<&str> = reach.doors.iter().map(|door| door.name.as_str()).collect();
        let door = reach.doors.iter().find(|door| door.name == name);
        let door = door.with_context(|| format!("--member {name} does not run; these do: {}", names.join(", ")))?;
        return Ok((door.name.clone(), reach.member(door).await?));
    }
    let mut answered: Vec<(bool, String, Member)> = Vec::new();
    for door in &reach.doors {
        let Ok(member) = reach.member(door).await else { continue };
        if let Ok(Status {
            leader,
            member_id,
            is_learner: false,
            ..
        }) = member.status().await
        {
            answered.push((leader == member_id, door.name.clone(), member));
        }
    }
    answered.sort_by_key(|(leads, ..)| *leads);
    match answered.into_iter().next() {
        Some((_, name, member)) => Ok((name, member)),
        None => bail!("no member answers"),
    }
}

fn text(shown: &Shown, colours: bool) -> String {
    let usage = &shown.usage;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} keys hold {} at revision {} ({}); the database file has {}, {} of them in use{}",
        usage.keys,
        bytes(usage.bytes),
        usage.revision,
        shown.member,
        bytes(usage.db_bytes),
        bytes(usage.db_in_use_bytes),
        match usage.quota_bytes {
            0 => String::new(),
            quota => format!(", quota {}", bytes(quota)),
        }
    );
    let rows: Vec<_> = usage
        .prefixes
        .iter()
        .map(|prefix| {
            let name = if prefix.prefix.is_empty() {
                "(others)"
            } else {
                &prefix.prefix
            };
            [
                plain(name.escape_debug().to_string()),
                plain(prefix.keys.to_string()),
                plain(bytes(prefix.bytes)),
                plain(format!(
                    "{:.1} %",
                    prefix.bytes as f64 * 100.0 / usage.bytes.max(1) as f64
                )),
                plain(bytes(prefix.bytes / prefix.keys.max(1))),
                plain(bytes(prefix.largest_bytes)),
            ]
        })
        .collect();
    text.push_str(&table::table(
        ["PREFIX", "KEYS", "BYTES", "SHARE", "AVERAGE", "LARGEST"],
        &rows,
        colours,
    ));
    text
}
