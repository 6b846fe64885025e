//! `kubectl quorate doctor`: the tuning table, the monitoring table and the security checklist of the guide for etcd below
//! Kubernetes, and what else a cluster in order has, against a live cluster: one that an operator runs, or any etcd.
//!
//! ```text
//! gather -> Facts -> judge -> findings -> table
//! ```
//! Invariants:
//! 1. Nothing is changed: it reads from members, from objects and from files.
//! 2. [`judge`] is pure: the same facts give the same findings.
//! 3. What could not be seen is said to be unseen; it never passes.

mod facts;
mod gather;
mod judge;

use super::table::{self, Paint};
use super::target::Target;
use super::{Format, Place};
use clap::Args;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;

/// What the doctor is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The cluster; may be left out when there is one only.
    pub cluster: Option<String>,
    /// The authority of the Kubernetes API server, to see that etcd has one of its own; the kubeconfig's when there is one.
    #[arg(long)]
    pub kubernetes_cacert: Option<PathBuf>,
    /// Only what does not pass.
    #[arg(long)]
    pub failing: bool,
}

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// In order.
    Pass,
    /// Works, and should be otherwise.
    Warn,
    /// Wrong.
    Fail,
    /// Cannot be seen from here.
    Unseen,
}

/// The part of the guide that a check is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Section {
    /// The tuning table.
    Tuning,
    /// The monitoring table.
    Monitoring,
    /// The security checklist.
    Security,
    /// What a cluster in order has besides.
    Health,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub section: Section,
    /// What is checked, in the words of the guide.
    pub check: &'static str,
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do; empty when it passes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    cluster: &'a str,
    passed: usize,
    warned: usize,
    failed: usize,
    unseen: usize,
    findings: &'a [Finding],
}

/// Examines and prints; true when nothing fails.
pub(super) async fn run(place: &Place, options: &Options, output: Format) -> anyhow::Result<bool> {
    let target = Target::open(place).await?;
    let facts = gather::gather(&target, options).await?;
    let mut findings = judge::judge(&facts);
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let [passed, warned, failed, unseen] = [Verdict::Pass, Verdict::Warn, Verdict::Fail, Verdict::Unseen].map(count);
    if options.failing {
        findings.retain(|finding| finding.verdict != Verdict::Pass);
    }
    let report = Report {
        cluster: &facts.name,
        passed,
        warned,
        failed,
        unseen,
        findings: &findings,
    };
    table::print(&report, output, |colours| text(&report, colours))?;
    Ok(failed == 0)
}

fn text(report: &Report<'_>, colours: bool) -> String {
    let mut text = String::new();
    for (section, title) in [
        (Section::Health, "Health"),
        (Section::Tuning, "Performance tuning"),
        (Section::Monitoring, "Monitoring"),
        (Section::Security, "Security checklist"),
    ] {
        let mut of = report
            .findings
            .iter()
            .filter(|finding| finding.section == section)
            .peekable();
        if of.peek().is_none() {
            continue;
        }
        let _ = writeln!(text, "{}", table::paint(title, Paint::Strong, colours));
        for finding in of {
            let (word, style) = match finding.verdict {
                Verdict::Pass => ("pass", Paint::Good),
                Verdict::Warn => ("warn", Paint::Doubtful),
                Verdict::Fail => ("FAIL", Paint::Bad),
                Verdict::Unseen => ("  ? ", Paint::Doubtful),
            };
            let word = table::paint(word, style, colours);
            let _ = writeln!(text, "  {word}  {}: {}", finding.check, finding.seen);
            if !finding.remedy.is_empty() {
                let _ = writeln!(text, "        -> {}", finding.remedy);
            }
        }
    }
    let _ = writeln!(
        text,
        "{}: {} passed, {} to look at, {} failed, {} unseen",
        report.cluster, report.passed, report.warned, report.failed, report.unseen
    );
    text
}
