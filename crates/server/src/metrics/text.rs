//! Prometheus' text format 0.0.4: `# HELP`, `# TYPE`, samples. A family without samples is left out, as client_golang does.

use std::collections::BTreeMap;
use std::fmt::Write;

/// What kind of numbers a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Collects families in any order; prints them sorted.
#[derive(Debug, Default)]
pub struct Text {
    families: BTreeMap<&'static str, String>,
}

impl Text {
    /// Begins a family. A name that was used already is replaced.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> FamilyText<'_> {
        FamilyText {
            name,
            kind,
            help,
            text: self.families.entry(name).and_modify(String::clear).or_default(),
        }
    }

    /// A family of one number without labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &'static str, value: f64) {
        self.family(name, kind, help).sample("", &[], value);
    }

    /// All families, sorted by name.
    pub fn finish(self) -> String {
        self.families.into_values().collect()
    }
}

/// One family being written.
#[derive(Debug)]
pub struct FamilyText<'a> {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    text: &'a mut String,
}

impl FamilyText<'_> {
    /// A line: name plus suffix, labels, value.
    pub fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        if self.text.is_empty() {
            let help = self.help.replace('\\', "\\\\").replace('\n', "\\n");
            // Writing to a String cannot fail.
            let _ = write!(
                self.text,
                "# HELP {0} {help}\n# TYPE {0} {1}\n",
                self.name,
                self.kind.name()
            );
        }
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (i, (label, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{label}=\"{value}\"", if i == 0 { '{' } else { ',' });
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = match value {
            value if value.is_infinite() => write!(self.text, "{}Inf", if value > 0.0 { '+' } else { '-' }),
            value => write!(self.text, "{value}"),
        };
        self.text.push('\n');
    }

    /// The lines of a histogram; `counts` has one more element than `bounds` and is not cumulative.
    pub fn histogram(&mut self, labels: &[(&str, &str)], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut below = 0;
        for (i, count) in counts.iter().enumerate() {
            below += count;
            let bound = bounds.get(i).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.sample("_bucket", &labels, below as f64);
        }
        self.sample("_sum", labels, sum);
        self.sample("_count", labels, below as f64);
    }
}
