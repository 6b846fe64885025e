//! The guide's monitoring table.

use super::super::facts::Facts;
use super::super::{Finding, Section, Verdict};
use super::{OBSERVATIONS_MIN, finding, joined, pass_if, remedy, smallest_quota, statuses, unseen, worst};
use crate::plugin::table::bytes;

pub(super) fn scraped(facts: &Facts) -> Finding {
    let check = "every member serves metrics";
    let without: Vec<&str> = facts
        .members
        .iter()
        .filter(|member| member.samples.is_none())
        .map(|member| member.name.as_str())
        .collect();
    let seen = match without.is_empty() {
        true => format!("{} members", facts.members.len()),
        false => format!("not {}", joined(&without)),
    };
    let fix = "let Prometheus scrape /metrics of every member: --listen-metrics-urls=http://0.0.0.0:2381 serves it apart from the data";
    finding(
        Section::Monitoring,
        check,
        pass_if(without.is_empty() && !facts.members.is_empty()),
        seen,
        fix,
    )
}

pub(super) fn leader_changes(facts: &Facts) -> Finding {
    let check = "etcd_server_leader_changes_seen_total stays near 0";
    let fix = "look at the disk and the network of the leader (the next checks), then at --election-timeout";
    let rates: Vec<(f64, f64, &str)> = facts
        .members
        .iter()
        .filter_map(|member| {
            let samples = member.samples.as_ref()?;
            let changes = samples.sum("etcd_server_leader_changes_seen_total")?;
            let since = samples.sum("process_start_time_seconds")?;
            Some((changes, (facts.now as f64 - since).max(0.0), member.name.as_str()))
        })
        .collect();
    let Some((changes, uptime, name)) = rates.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)) else {
        return unseen(Section::Monitoring, check, "no member tells", fix);
    };
    // The first election, and those of planned moves, are no sickness.
    let allowed = 5.0 + uptime / 3600.0;
    let seen = format!("{changes:.0} in the {:.1} hours that {name} runs", uptime / 3600.0);
    finding(Section::Monitoring, check, pass_if(changes <= allowed), seen, fix)
}

fn latency(facts: &Facts, check: &'static str, histogram: &str, limit: f64, fix: &str) -> Finding {
    let Some((seconds, count)) = worst(facts, histogram) else {
        let lonely = histogram.contains("peer") && facts.list.len() == 1;
        let (verdict, seen) = match lonely {
            true => (Verdict::Pass, "one member only".to_owned()),
            false => (
                Verdict::Unseen,
                format!("fewer than {OBSERVATIONS_MIN} observations yet"),
            ),
        };
        return finding(
            Section::Monitoring,
            check,
            verdict,
            seen,
            "look again when the cluster has worked for a while",
        );
    };
    let seen = format!("p99 {:.1} ms over {count} observations", seconds * 1000.0);
    finding(Section::Monitoring, check, pass_if(seconds < limit), seen, fix)
}

const SLOW_DISK: &str = "give members a disk of their own (SSD, no network file system), and look at who else writes to it: docs/runbooks/slow-disk.md";

pub(super) fn wal_fsync(facts: &Facts) -> Finding {
    let check = "etcd_disk_wal_fsync_duration_seconds p99 below 10ms";
    latency(facts, check, "etcd_disk_wal_fsync_duration_seconds", 0.010, SLOW_DISK)
}

pub(super) fn backend_commit(facts: &Facts) -> Finding {
    let check = "etcd_disk_backend_commit_duration_seconds p99 below 25ms";
    latency(
        facts,
        check,
        "etcd_disk_backend_commit_duration_seconds",
        0.025,
        SLOW_DISK,
    )
}

pub(super) fn round_trip(facts: &Facts) -> Finding {
    let check = "etcd_network_peer_round_trip_time_seconds below 10ms";
    let fix =
        "bring members closer together, or raise --heartbeat-interval and --election-timeout to what the network is";
    latency(facts, check, "etcd_network_peer_round_trip_time_seconds", 0.010, fix)
}

pub(super) fn size(facts: &Facts) -> Finding {
    let check = "etcd_mvcc_db_total_size_in_bytes below 80% of the quota";
    let fix = remedy(
        facts,
        "kubectl quorate top tells what fills it; delete that, or raise spec.options.quotaBackendBytes",
        "compact, defragment, find what fills it (kubectl quorate top --endpoints ...), or raise --quota-backend-bytes",
    );
    let largest = statuses(facts).map(|(_, status)| status.db_size).max();
    let (Some(size), Some(quota)) = (largest, smallest_quota(facts)) else {
        return unseen(Section::Monitoring, check, "no member tells", fix);
    };
    let percent = size * 100 / quota.max(1);
    let seen = format!("{} of {}, {percent} %", bytes(size), bytes(quota));
    finding(Section::Monitoring, check, pass_if(percent < 80), seen, fix)
}
