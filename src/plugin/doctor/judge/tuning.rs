//! The guide's tuning table.

use super::super::facts::Facts;
use super::super::{Finding, Section, Verdict};
use super::{UNTOLD, finding, joined, pass_if, remedy, smallest_quota, statuses, told, unseen, worst};
use crate::plugin::table::bytes;
use std::collections::BTreeSet;

const GIB: u64 = 1 << 30;
/// etcd's quota when none is set.
const QUOTA_DEFAULT: u64 = 2 * GIB;
/// The guide's 8 GB.
const QUOTA_GOOD: u64 = 8_000_000_000;

const ONE_VALUE: &str = "give all members the same value: with different ones they call elections against each other";

/// A flag's values over the members that tell, in milliseconds; etcd's default where it is not on the command line.
fn milliseconds(facts: &Facts, flag: &str, default: u64) -> BTreeSet<u64> {
    told(facts)
        .map(|flags| flags.get(flag).and_then(|value| value.parse().ok()).unwrap_or(default))
        .collect()
}

pub(super) fn heartbeat(facts: &Facts) -> Finding {
    let check = "--heartbeat-interval (default 100ms, on slow networks 250ms)";
    let values = milliseconds(facts, "heartbeat-interval", 100);
    let Some(value) = values.first().copied() else {
        return unseen(Section::Tuning, check, UNTOLD, "look at the members' flags");
    };
    let trip = worst(facts, "etcd_network_peer_round_trip_time_seconds");
    let mut seen = format!("{}ms", joined(&values));
    if let Some((seconds, _)) = trip {
        seen.push_str(&format!(
            ", round trips of members take {:.1} ms (p99)",
            seconds * 1000.0
        ));
    }
    let too_short = value < 100 || trip.is_some_and(|(seconds, _)| seconds * 1000.0 > value as f64);
    let fix = if values.len() > 1 {
        ONE_VALUE
    } else {
        remedy(
            facts,
            "write spec.options.heartbeatInterval: 250ms and electionTimeout: 1250ms",
            "start members with --heartbeat-interval=250 and --election-timeout=1250",
        )
    };
    finding(
        Section::Tuning,
        check,
        pass_if(values.len() == 1 && !too_short),
        seen,
        fix,
    )
}

pub(super) fn election(facts: &Facts) -> Finding {
    let check = "--election-timeout (default 1000ms, on slow disks 1250ms)";
    let values = milliseconds(facts, "election-timeout", 1000);
    let Some(value) = values.first().copied() else {
        return unseen(Section::Tuning, check, UNTOLD, "look at the members' flags");
    };
    let beat = milliseconds(facts, "heartbeat-interval", 100)
        .last()
        .copied()
        .unwrap_or(100);
    let fix = if values.len() > 1 {
        ONE_VALUE
    } else {
        remedy(
            facts,
            "write spec.options.electionTimeout: 1250ms (at least five times heartbeatInterval)",
            "start members with --election-timeout=1250: a disk that stalls for less must not cost the leader",
        )
    };
    let good = values.len() == 1 && value >= 1000 && value >= 5 * beat;
    finding(
        Section::Tuning,
        check,
        pass_if(good),
        format!("{}ms", joined(&values)),
        fix,
    )
}

pub(super) fn quota(facts: &Facts) -> Finding {
    let check = "--quota-backend-bytes (default 2GB, recommended 8GB)";
    let fix = remedy(
        facts,
        "write spec.options.quotaBackendBytes: 8Gi (and a volume of 1.5 times as much)",
        "start members with --quota-backend-bytes=8589934592, on disks that have room for twice as much",
    );
    let Some(quota) = smallest_quota(facts) else {
        return unseen(Section::Tuning, check, "no member tells it", fix);
    };
    let chosen = told(facts).any(|flags| flags.get("quota-backend-bytes").is_some_and(|value| value != "0"));
    let verdict = match quota {
        QUOTA_GOOD.. => Verdict::Pass,
        QUOTA_DEFAULT if !chosen => Verdict::Fail,
        // Somebody chose it, and it is no toy.
        GIB.. => Verdict::Pass,
        _ => Verdict::Warn,
    };
    let how = if chosen {
        "chosen"
    } else {
        "not chosen, as far as members tell"
    };
    finding(Section::Tuning, check, verdict, format!("{}, {how}", bytes(quota)), fix)
}

pub(super) fn compaction(facts: &Facts) -> Finding {
    let check = "--auto-compaction-retention (default off, recommended 1h)";
    let fix = remedy(
        facts,
        "write spec.options.autoCompactionMode: periodic and autoCompactionRetention: 1h",
        "start members with --auto-compaction-retention=1h: without compaction every revision stays until the quota is full",
    );
    let off = |value: Option<&String>| {
        value.is_none_or(|value| {
            value
                .trim_end_matches(['h', 'm', 's'])
                .chars()
                .all(|digit| digit == '0')
        })
    };
    let values: Vec<Option<&String>> = told(facts)
        .map(|flags| flags.get("auto-compaction-retention"))
        .collect();
    let (verdict, seen) = match (values.is_empty(), values.iter().any(|value| off(*value))) {
        (false, false) => (Verdict::Pass, joined(values.iter().flatten().collect::<BTreeSet<_>>())),
        _ if facts.compacted_by_api_server => (
            Verdict::Pass,
            "kube-apiserver compacts (compact_rev_key is there)".to_owned(),
        ),
        (true, _) => (Verdict::Unseen, UNTOLD.to_owned()),
        (false, true) => (Verdict::Fail, "off, and nobody else compacts".to_owned()),
    };
    finding(Section::Tuning, check, verdict, seen, fix)
}

pub(super) fn defragmentation(facts: &Facts) -> Finding {
    let check = "compact, then defragment";
    let fix = remedy(
        facts,
        "kubectl quorate defrag, or lower spec.maintenance.defrag.rule.freeSpaceAbove",
        "etcdctl defrag on one member after the other, the leader last, in a quiet hour",
    );
    let worst = statuses(facts)
        .map(|(member, status)| {
            (
                status.db_size.saturating_sub(status.db_size_in_use),
                status.db_size,
                member,
            )
        })
        .max_by_key(|(free, ..)| *free);
    let Some((free, size, member)) = worst else {
        return unseen(Section::Tuning, check, "no member tells its size", fix);
    };
    let much = free > 200 << 20 && free * 2 > size;
    let seen = format!(
        "at most {} of {} are free, on {}",
        bytes(free),
        bytes(size),
        member.name
    );
    let verdict = if much { Verdict::Warn } else { Verdict::Pass };
    finding(Section::Tuning, check, verdict, seen, fix)
}
