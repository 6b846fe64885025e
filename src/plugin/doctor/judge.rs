//! The verdicts, one function a line of the guide. Pure.
//!
//! Invariants:
//! 1. Every check gives exactly one finding, so a report of one cluster has the lines of every other's.
//! 2. A finding that does not pass says what to do: a field of the manifest where an operator of ours runs the cluster, a
//!    flag elsewhere.

mod health;
mod monitoring;
mod security;
#[cfg(test)]
mod tests;
mod tuning;

use super::facts::{Facts, MemberFacts, Stranger};
use super::{Finding, Section, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

/// A p99 over fewer observations than this says little.
const OBSERVATIONS_MIN: u64 = 100;

/// All findings, in the order of the guide.
pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let checks = [
        health::members,
        health::alarms,
        health::versions,
        health::same_data,
        health::certificates,
        tuning::heartbeat,
        tuning::election,
        tuning::quota,
        tuning::compaction,
        tuning::defragmentation,
        monitoring::scraped,
        monitoring::leader_changes,
        monitoring::wal_fsync,
        monitoring::backend_commit,
        monitoring::round_trip,
        monitoring::size,
        security::client_tls,
        security::client_certificates,
        security::peer_tls,
        security::separate_authority,
        security::secrets_encrypted,
        security::config_maps_encrypted,
        security::reachable,
        security::backups,
        security::alerting,
        security::quota_with_compaction,
    ];
    checks.iter().map(|check| check(facts)).collect()
}

fn finding(section: Section, check: &'static str, verdict: Verdict, seen: String, remedy: &str) -> Finding {
    Finding {
        section,
        check,
        seen,
        remedy: if verdict == Verdict::Pass {
            String::new()
        } else {
            remedy.to_owned()
        },
        verdict,
    }
}

/// A check of which nothing can be seen.
fn unseen(section: Section, check: &'static str, why: &str, remedy: &str) -> Finding {
    finding(section, check, Verdict::Unseen, why.to_owned(), remedy)
}

fn pass_if(good: bool) -> Verdict {
    if good { Verdict::Pass } else { Verdict::Fail }
}

/// The remedy for a cluster of ours, or for any other.
fn remedy<'a>(facts: &Facts, ours: &'a str, other: &'a str) -> &'a str {
    if facts.managed.is_some() { ours } else { other }
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    texts.join(", ")
}

/// Those of `urls` that are not https.
fn plain<'a>(urls: impl IntoIterator<Item = &'a String>) -> BTreeSet<&'a str> {
    let urls = urls.into_iter().map(String::as_str);
    urls.filter(|url| !url.starts_with("https://")).collect()
}

/// Somebody is served without TLS.
fn in_the_clear(facts: &Facts) -> bool {
    facts
        .members
        .iter()
        .any(|member| member.stranger == Stranger::PlainText)
}

const UNTOLD: &str = "no member tells its flags (GET /debug/vars)";

fn statuses(facts: &Facts) -> impl Iterator<Item = (&MemberFacts, &crate::member::Status)> {
    facts
        .members
        .iter()
        .filter_map(|member| member.status.as_ref().map(|status| (member, status)))
}

fn told(facts: &Facts) -> impl Iterator<Item = &BTreeMap<String, String>> {
    // With a file of settings the command line tells nothing.
    facts
        .members
        .iter()
        .filter_map(|member| member.flags.as_ref())
        .filter(|flags| !flags.contains_key("config-file"))
}

/// The smallest quota of the members.
fn smallest_quota(facts: &Facts) -> Option<u64> {
    facts
        .members
        .iter()
        .filter_map(|member| {
            let told = member
                .status
                .as_ref()
                .map(|status| status.db_size_quota)
                .filter(|quota| *quota > 0);
            let samples = member.samples.as_ref();
            told.or_else(|| {
                samples
                    .and_then(|s| s.sum("etcd_server_quota_backend_bytes"))
                    .map(|quota| quota as u64)
            })
        })
        .min()
}

/// The worst p99 over the members, with the number of observations.
fn worst(facts: &Facts, histogram: &str) -> Option<(f64, u64)> {
    facts
        .members
        .iter()
        .filter_map(|member| member.samples.as_ref()?.quantile(histogram, 0.99))
        .filter(|(_, count)| *count >= OBSERVATIONS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
}
