//! What a cluster in order has besides what the guide's tables name.

use super::super::facts::Facts;
use super::super::{Finding, Section, Verdict};
use super::{finding, in_the_clear, joined, pass_if, remedy, statuses};
use crate::member::Alarm;
use std::collections::BTreeSet;

const DAY: i64 = 86_400;

pub(super) fn members(facts: &Facts) -> Finding {
    let check = "odd number of members, three or more, all answering";
    let voters = facts.list.iter().filter(|member| !member.is_learner).count();
    let silent: Vec<String> = facts
        .members
        .iter()
        .filter_map(|member| {
            member
                .silent
                .as_ref()
                .map(|why| format!("{} does not answer ({why})", member.name))
        })
        .collect();
    let mut seen = vec![format!(
        "{voters} voters, which tolerate {} failures",
        voters.saturating_sub(1) / 2
    )];
    seen.extend(silent.iter().cloned());
    let good = voters >= 3 && voters % 2 == 1 && silent.is_empty();
    let fix = match (voters, silent.is_empty()) {
        (_, false) => {
            "bring it back or replace it: kubectl quorate explain says what the operator does; elsewhere etcdctl member remove, then member add --learner"
        }
        _ => remedy(
            facts,
            "write spec.replicas: 3 or 5",
            "run 3 or 5 members (etcdctl member add --learner): an even number costs one more vote and tolerates no more failures",
        ),
    };
    finding(Section::Health, check, pass_if(good), seen.join("; "), fix)
}

pub(super) fn alarms(facts: &Facts) -> Finding {
    let all: Vec<String> = facts
        .alarms
        .iter()
        .map(|(id, alarm)| format!("{} of {}", format!("{alarm:?}").to_uppercase(), name_of(facts, *id)))
        .collect();
    let fix = if facts.alarms.iter().any(|(_, alarm)| *alarm == Alarm::Corrupt) {
        "CORRUPT: compare etcdctl endpoint hashkv, and replace the member that differs from the majority"
    } else {
        remedy(
            facts,
            "kubectl quorate explain tells what the operator does about it; kubectl quorate top tells what fills the database",
            "etcdctl compact REVISION, etcdctl defrag on one member after the other, etcdctl alarm disarm",
        )
    };
    let seen = if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    };
    finding(Section::Health, "no alarm", pass_if(all.is_empty()), seen, fix)
}

fn name_of(facts: &Facts, id: u64) -> String {
    let listed = facts.list.iter().find(|member| member.id == id);
    listed.map_or_else(|| format!("{id:x}"), |member| member.name.clone())
}

pub(super) fn versions(facts: &Facts) -> Finding {
    let versions: BTreeSet<&str> = statuses(facts).map(|(_, status)| status.version.as_str()).collect();
    let verdict = match versions.len() {
        0 => Verdict::Unseen,
        1 => Verdict::Pass,
        _ => Verdict::Warn,
    };
    let fix = "end the upgrade: bring the older members to the newer version, one at a time";
    finding(
        Section::Health,
        "all members run one version",
        verdict,
        joined(versions),
        fix,
    )
}

pub(super) fn same_data(facts: &Facts) -> Finding {
    let hashes: Vec<_> = facts
        .members
        .iter()
        .filter_map(|member| member.hash.map(|hash| (member, hash)))
        .collect();
    let comparable = hashes.first().is_some_and(|(_, first)| {
        hashes
            .iter()
            .all(|(_, hash)| (hash.revision, hash.compact_revision) == (first.revision, first.compact_revision))
    });
    let check = "all members hold the same data";
    if !comparable || hashes.len() < 2 {
        let seen = if facts.list.len() == 1 {
            "one member only"
        } else {
            "no two hashes of one revision"
        };
        let verdict = if facts.list.len() == 1 && hashes.len() == 1 {
            Verdict::Pass
        } else {
            Verdict::Unseen
        };
        return finding(
            Section::Health,
            check,
            verdict,
            seen.to_owned(),
            "run it again while nothing compacts",
        );
    }
    let values: BTreeSet<u32> = hashes.iter().map(|(_, hash)| hash.hash).collect();
    let revision = hashes[0].1.revision;
    let seen = match values.len() {
        1 => format!(
            "hash {:08x} at revision {revision} on {} members",
            hashes[0].1.hash,
            hashes.len()
        ),
        _ => joined(
            hashes
                .iter()
                .map(|(member, hash)| format!("{}: {:08x}", member.name, hash.hash)),
        ),
    };
    let fix = "replace the member whose hash differs from the majority's: its data is corrupt";
    finding(Section::Health, check, pass_if(values.len() == 1), seen, fix)
}

pub(super) fn certificates(facts: &Facts) -> Finding {
    let check = "certificates are good for 30 days or more";
    let days = |end: i64| (end - facts.now).div_euclid(DAY);
    let first = facts
        .members
        .iter()
        .filter_map(|member| {
            member
                .certificate
                .as_ref()
                .map(|certificate| (member, days(certificate.not_after)))
        })
        .min_by_key(|(_, days)| *days);
    let Some((member, days)) = first else {
        let plain = in_the_clear(facts);
        let seen = if plain {
            "there are none: clients are served without TLS"
        } else {
            "none was presented"
        };
        let fix = "see: TLS between clients and members";
        return finding(
            Section::Health,
            check,
            if plain { Verdict::Fail } else { Verdict::Unseen },
            seen.to_owned(),
            fix,
        );
    };
    let verdict = match days {
        ..7 => Verdict::Fail,
        7..30 => Verdict::Warn,
        _ => Verdict::Pass,
    };
    let fix = remedy(
        facts,
        "the operator renews certificates by itself: kubectl quorate explain says what is in its way",
        "issue new certificates and write them over the old files: etcd reads them at the next handshake, no restart is needed",
    );
    finding(
        Section::Health,
        check,
        verdict,
        format!("{days} days, the first one that of {}", member.name),
        fix,
    )
}
