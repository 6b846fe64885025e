//! Counters, gauges and histograms, alone or by label values.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::text::{Kind, Text};

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds 1.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down, in whole numbers.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `by`, which may be negative.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// `count` bounds, each twice the one before: Prometheus' ExponentialBuckets with factor 2.
pub fn exponential(start: f64, count: usize) -> Vec<f64> {
    std::iter::successors(Some(start), |bound| Some(bound * 2.0))
        .take(count)
        .collect()
}

/// How often values fell into which range.
#[derive(Debug)]
pub struct Histogram {
    bounds: Vec<f64>,
    /// One per bound and one for all above; not cumulative.
    counts: Vec<AtomicU64>,
    /// The bits of a f64.
    sum: AtomicU64,
}

impl Histogram {
    /// With upper bounds in rising order.
    pub fn new(bounds: Vec<f64>) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram {
            bounds,
            counts,
            sum: AtomicU64::new(0f64.to_bits()),
        }
    }

    /// Counts a value.
    pub fn observe(&self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok();
    }

    /// Counts a duration, in seconds.
    pub fn took(&self, duration: Duration) {
        self.observe(duration.as_secs_f64());
    }

    fn read(&self) -> (Vec<u64>, f64) {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        (counts, f64::from_bits(self.sum.load(Ordering::Relaxed)))
    }

    pub(super) fn sample(&self, family: &mut super::text::FamilyText<'_>, labels: &[(&str, &str)]) {
        let (counts, sum) = self.read();
        family.histogram(labels, &self.bounds, &counts, sum);
    }
}

/// What a family can be made of; the three instruments of this module.
pub trait Instrument {
    /// What Prometheus calls it.
    const KIND: Kind;
    /// Writes the samples of one combination of label values.
    fn write_sample(&self, family: &mut super::text::FamilyText<'_>, labels: &[(&str, &str)]);
}

impl Instrument for Counter {
    const KIND: Kind = Kind::Counter;
    fn write_sample(&self, family: &mut super::text::FamilyText<'_>, labels: &[(&str, &str)]) {
        family.sample("", labels, self.get() as f64);
    }
}

impl Instrument for Gauge {
    const KIND: Kind = Kind::Gauge;
    fn write_sample(&self, family: &mut super::text::FamilyText<'_>, labels: &[(&str, &str)]) {
        family.sample("", labels, self.get() as f64);
    }
}

impl Instrument for Histogram {
    const KIND: Kind = Kind::Histogram;
    fn write_sample(&self, family: &mut super::text::FamilyText<'_>, labels: &[(&str, &str)]) {
        self.sample(family, labels);
    }
}

macro_rules! write_alone {
    ($($type:ident)*) => {
        $(impl $type {
            pub(super) fn write(&self, text: &mut Text, name: &'static str, help: &'static str) {
                self.write_sample(&mut text.family(name, Self::KIND, help), &[]);
            }
        })*
    };
}

write_alone!(Counter Gauge Histogram);

/// One instrument per combination of label values, made when first used.
#[derive(Debug)]
pub struct Family<T> {
    labels: &'static [&'static str],
    make: fn() -> T,
    by_values: RwLock<BTreeMap<Vec<String>, Arc<T>>>,
}

impl<T> Family<T> {
    /// With these labels; `make` makes a new instrument.
    pub fn new(labels: &'static [&'static str], make: fn() -> T) -> Family<T> {
        Family {
            labels,
            make,
            by_values: RwLock::default(),
        }
    }

    /// The instrument of these label values, in the order of the labels. Keep it where it is used often.
    pub fn with(&self, values: &[&str]) -> Arc<T> {
        debug_assert_eq!(values.len(), self.labels.len());
        let known = self.by_values.read().unwrap_or_else(PoisonError::into_inner);
        let same = |key: &&Vec<String>| key.iter().map(String::as_str).eq(values.iter().copied());
        if let Some(key) = known.keys().find(same) {
            return known[key].clone();
        }
        drop(known);
        let key = values.iter().map(|value| (*value).to_owned()).collect();
        let mut known = self.by_values.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(key).or_insert_with(|| Arc::new((self.make)())).clone()
    }
}

impl<T: Instrument> Family<T> {
    pub(super) fn write(&self, text: &mut Text, name: &'static str, help: &'static str) {
        let mut family = text.family(name, T::KIND, help);
        for (values, instrument) in self.by_values.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let labels: Vec<(&str, &str)> = self
                .labels
                .iter()
                .copied()
                .zip(values.iter().map(String::as_str))
                .collect();
            instrument.write_sample(&mut family, &labels);
        }
    }
}
