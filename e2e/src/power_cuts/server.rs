//! Cuts of the shipped server under a load of clients, alone and as three members on one machine.

use super::volume::{Kind, Volume, kinds};
use crate::history::Outcome;
use crate::load::{Load, Summary, Target};
use crate::servers::Servers;
use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;

/// Cuts of one data directory.
const CUTS_EACH: u64 = 3;

/// Makes so many cuts; what was seen.
pub async fn campaign(server: &Path, root: &Path, cuts: u64) -> anyhow::Result<String> {
    let all = kinds();
    let (mut done, mut acknowledged, mut n) = (0, 0, 0usize);
    while done < cuts {
        let members = if n.is_multiple_of(2) { 1 } else { 3 };
        let kind = all[n % all.len()];
        let here = root.join(n.to_string());
        let (made, acked) = life(server, &here, kind, members, CUTS_EACH.min(cuts - done))
            .await
            .with_context(|| format!("{members} members on {}", kind.name))?;
        (done, acknowledged, n) = (done + made, acknowledged + acked, n + 1);
    }
    Ok(format!("{done} cuts, {acknowledged} writes acknowledged"))
}

async fn life(server: &Path, root: &Path, kind: Kind, members: usize, cuts: u64) -> anyhow::Result<(u64, usize)> {
    let mut volume = Volume::make(&root.join("volume"), kind)?;
    let programs = vec![server.to_owned(); members];
    // Small limits: files of the log and snapshots come and go.
    let flags = ["--snapshot-count=200", "--backend-batch-interval=20ms"];
    let mut servers = Servers::new(root, &programs, &flags)?;
    for member in &servers.members {
        // The data is on the volume, what they print is not.
        let place = volume.dir.join(&member.name);
        std::os::unix::fs::symlink(&place, &member.data)?;
        std::fs::create_dir(&place)?;
        std::fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    }
    std::fs::File::open(&volume.dir)?.sync_all()?;
    let mut summaries: Vec<Summary> = Vec::new();
    for cut in 0..cuts {
        servers.start_all().await?;
        judge(&summaries, &servers).await?;
        let target = Target::Fixed(servers.access());
        let load = Load::start(
            target,
            &format!("cut{cut}/"),
            Duration::from_millis(2),
            Duration::from_secs(1),
        )?;
        let cutter = volume.cutter()?;
        let begin = tokio::time::Instant::now();
        while load.acked() == 0 && begin.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..600))).await;
        // What is told later does not count: without power there is nobody to tell it.
        let before = load.attempts();
        cutter.cut()?;
        for n in 0..members {
            // A failed sync ends the process; it must not serve on.
            let ended = servers.ended(n, Duration::from_secs(20)).await;
            if let Err(error) = ended {
                servers.end(n, Signal::SIGKILL).await?;
                return Err(error.context(format!("cut {cut}")));
            }
        }
        let mut summary = load.stop().await;
        for attempt in summary.attempts.iter_mut().skip(before) {
            attempt.outcome = Outcome::Unknown;
        }
        ensure!(
            summary
                .attempts
                .iter()
                .any(|attempt| attempt.outcome != Outcome::Unknown),
            "cut {cut}: no write was acknowledged before it"
        );
        summaries.push(summary);
        volume.unmount()?;
        volume
            .mount()
            .with_context(|| format!("{} does not survive the cut", kind.name))?;
    }
    servers.start_all().await?;
    let acknowledged = judge(&summaries, &servers).await?;
    servers.stop().await?;
    Ok((cuts, acknowledged))
}

/// All that was acknowledged before any cut is there; returns how much that is.
async fn judge(summaries: &[Summary], servers: &Servers) -> anyhow::Result<usize> {
    let access = servers.access();
    let mut acknowledged = 0;
    for (cut, summary) in summaries.iter().enumerate() {
        let verdict = summary.verdict(&access).await?;
        ensure!(verdict.good(), "cut {cut}: {}", verdict.describe());
        acknowledged += verdict.acked;
    }
    Ok(acknowledged)
}
