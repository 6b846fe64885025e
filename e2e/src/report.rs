//! What a suite found: checks that held or did not, and figures beside them.
//!
//! Invariant: every check is printed when it is known, so that a suite that is cut short has said what it saw.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// The checks of one suite.
#[derive(Debug)]
pub struct Report {
    suite: &'static str,
    began: Instant,
    checks: usize,
    /// Lines go to standard error: standard output is for something else.
    aside: bool,
    failed: Vec<String>,
}

impl Report {
    /// A suite that begins now.
    pub fn new(suite: &'static str) -> Report {
        let report = Report::begin(suite, false);
        report.line(format_args!("--- {suite}"));
        report
    }

    /// As [`Report::new`], with all lines on standard error.
    pub fn aside(suite: &'static str) -> Report {
        let report = Report::begin(suite, true);
        report.line(format_args!("--- {suite}"));
        report
    }

    fn begin(suite: &'static str, aside: bool) -> Report {
        Report {
            suite,
            began: Instant::now(),
            checks: 0,
            aside,
            failed: Vec::new(),
        }
    }

    fn line(&self, line: std::fmt::Arguments<'_>) {
        if self.aside {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// A check with what was seen; an error is a failed check. Returns whether it held.
    pub fn check<T: Display>(&mut self, what: &str, seen: anyhow::Result<T>) -> bool {
        self.checks += 1;
        match seen {
            Ok(seen) => {
                self.line(format_args!("  ok    {what:<58} {seen}"));
                true
            }
            Err(error) => {
                self.line(format_args!("  FAIL  {what:<58} {error:#}"));
                self.failed.push(what.to_owned());
                false
            }
        }
    }

    /// A check of one condition.
    pub fn that(&mut self, what: &str, holds: bool, seen: impl Display) -> bool {
        let seen = seen.to_string();
        let result = if holds {
            Ok(seen)
        } else {
            Err(anyhow::anyhow!("{seen}"))
        };
        self.check(what, result)
    }

    /// A figure that no check depends on.
    pub fn figure(&self, what: &str, value: impl Display) {
        self.line(format_args!("        {what:<58} {value}"));
    }

    /// The last line; whether all checks held.
    pub fn end(self) -> bool {
        let seconds = self.began.elapsed().as_secs_f64();
        let (suite, checks) = (self.suite, self.checks);
        if self.failed.is_empty() && checks > 0 {
            self.line(format_args!("--- {suite}: all {checks} checks held, {seconds:.1} s"));
            true
        } else {
            self.line(format_args!(
                "--- {suite}: {} of {checks} checks FAILED: {}; {seconds:.1} s",
                self.failed.len(),
                self.failed.join("; ")
            ));
            false
        }
    }
}

/// Median and greatest of some times, or a dash.
pub fn spread(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort();
    match (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.last()) {
        (Some(median), Some(max)) => format!(
            "median {:.2} s, max {:.2} s, of {}",
            median.as_secs_f64(),
            max.as_secs_f64(),
            sorted.len()
        ),
        _ => "none measured".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_holds_when_every_check_did_and_there_was_one() {
        assert!(!Report::new("empty").end());
        let mut report = Report::new("good");
        assert!(report.that("one", true, "seen"));
        assert!(report.end());
        let mut report = Report::new("bad");
        report.that("one", true, "seen");
        assert!(!report.check::<String>("two", Err(anyhow::anyhow!("no"))));
        assert!(!report.end());
    }

    #[test]
    fn spread_tells_median_and_greatest() {
        let times: Vec<_> = [3, 1, 2].map(Duration::from_secs).to_vec();
        assert_eq!(spread(&times), "median 2.00 s, max 3.00 s, of 3");
        assert_eq!(spread(&[]), "none measured");
    }
}
