//! What is counted about `GET /metrics` itself.

use std::sync::atomic::{AtomicU64, Ordering};

use super::text::{Kind, Text};

/// Scrapes begun and not ended, and ended.
#[derive(Debug, Default)]
pub struct Scrapes {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A scrape ends when this is dropped.
#[derive(Debug)]
pub struct Scraping<'a>(&'a Scrapes);

impl Drop for Scraping<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl Scrapes {
    /// A scrape begins.
    pub fn begin(&self) -> Scraping<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Scraping(self)
    }

    pub(super) fn write(&self, text: &mut Text) {
        let ended = self.ended.load(Ordering::Relaxed);
        let in_flight = self.begun.load(Ordering::Relaxed).saturating_sub(ended);
        text.single(
            "promhttp_metric_handler_requests_in_flight",
            Kind::Gauge,
            "Current number of scrapes being served.",
            in_flight as f64,
        );
        let help = "Total number of scrapes by HTTP status code.";
        let mut family = text.family("promhttp_metric_handler_requests_total", Kind::Counter, help);
        for (code, count) in [("200", ended), ("500", 0), ("503", 0)] {
            family.sample("", &[("code", code)], count as f64);
        }
    }
}
