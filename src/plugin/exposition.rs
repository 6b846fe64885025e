//! Reads what `/metrics` says, as far as a verdict needs it.
//!
//! Pure. Invariant: a line that is not understood is skipped; nothing is made up for it.

use std::collections::BTreeMap;

/// What tells one series of a name from the others.
type Labels = BTreeMap<String, String>;

/// The samples of one scrape, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(BTreeMap<String, Vec<(Labels, f64)>>);

impl Samples {
    /// From the text format of Prometheus.
    pub fn parse(text: &str) -> Samples {
        let mut samples = Samples::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, labels, value)) = sample(line) {
                samples.0.entry(name).or_default().push((labels, value));
            }
        }
        samples
    }

    /// The sum over all series of a name.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.0
            .get(name)
            .map(|series| series.iter().map(|(_, value)| value).sum())
    }

    /// An upper bound of a quantile of a histogram, in its unit, with the number of observations: the worst over all
    /// series that differ in other labels than `le`. None when nothing was observed.
    pub fn quantile(&self, histogram: &str, quantile: f64) -> Option<(f64, u64)> {
        let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for (labels, count) in self.0.get(&format!("{histogram}_bucket"))? {
            let Some(bound) = labels.get("le").and_then(|bound| bound.parse::<f64>().ok()) else {
                continue;
            };
            let others = labels.iter().filter(|(key, _)| *key != "le");
            let key = others.map(|(key, value)| (key.clone(), value.clone())).collect();
            series.entry(key).or_default().push((bound, *count));
        }
        let mut worst: Option<(f64, u64)> = None;
        for mut buckets in series.into_values() {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let total = buckets.last().map_or(0.0, |(_, count)| *count);
            if total < 1.0 {
                continue;
            }
            let bound = interpolate(&buckets, quantile * total);
            if worst.is_none_or(|(known, _)| bound > known) {
                worst = Some((bound, total as u64));
            }
        }
        worst
    }
}

/// As PromQL's `histogram_quantile`: linear within the bucket; beyond the last bound, that bound.
fn interpolate(buckets: &[(f64, f64)], rank: f64) -> f64 {
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            if bound.is_infinite() {
                return lower;
            }
            let within = count - below;
            let share = if within > 0.0 { (rank - below) / within } else { 1.0 };
            return lower + (bound - lower) * share;
        }
        (lower, below) = (*bound, *count);
    }
    lower
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let line = line.trim();
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => {
            let mut labels = BTreeMap::new();
            let mut rest = rest;
            loop {
                rest = rest.trim_start_matches([',', ' ']);
                if let Some(after) = rest.strip_prefix('}') {
                    break (labels, after);
                }
                let (key, after) = rest.split_once("=\"")?;
                let (value, after) = quoted(after)?;
                labels.insert(key.trim().to_owned(), value);
                rest = after;
            }
        }
        None => (BTreeMap::new(), rest),
    };
    let value = rest.split_whitespace().next()?;
    Some((name.to_owned(), labels, value.parse().ok()?))
}

/// What stands before the closing quote, unescaped, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_labels_and_the_worst_series_counts() {
        let text = "# HELP x y\nup 1\nrtt_bucket{To=\"a\",le=\"0.01\"} 99\nrtt_bucket{To=\"a\",le=\"+Inf\"} 100\n\
            rtt_bucket{To=\"b\",le=\"0.01\"} 0\nrtt_bucket{To=\"b\",le=\"0.02\"} 10\nrtt_bucket{To=\"b\",le=\"+Inf\"} 10\n\
            odd{a=\"x\\\"}\",b=\"\"} 2.5e1 1700000000\nnot a sample\nhalf{a=\"\n";
        let samples = Samples::parse(text);
        assert_eq!(samples.sum("up"), Some(1.0));
        assert_eq!(samples.sum("odd"), Some(25.0));
        assert_eq!(samples.sum("absent"), None);
        let (bound, count) = samples.quantile("rtt", 0.99).expect("observed");
        assert!((bound - 0.0199).abs() < 1e-9, "{bound}");
        assert_eq!(count, 10);
        assert_eq!(samples.quantile("up", 0.99), None);
    }

    #[test]
    fn what_lies_beyond_the_last_bound_is_told_as_that_bound() {
        let samples = Samples::parse("f_bucket{le=\"8\"} 1\nf_bucket{le=\"+Inf\"} 100\n");
        assert_eq!(samples.quantile("f", 0.99), Some((8.0, 100)));
    }
}
