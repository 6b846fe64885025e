//! When a schedule ticks: five-field cron in a time zone.
//!
//! Invariants:
//! - A tick is a whole minute in UTC, and a function of expression, zone and time alone: whoever asks, whenever, gets the same ticks.
//! - Daylight saving: a local time that does not exist is skipped to the next one that does, one that exists twice ticks once
//!   for a fixed hour (the rules of the `croner` crate).

use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// Ticks that are looked up at most for one catch-up; older ones count as missed.
const TICKS_MAX: usize = 1000;

/// Why a schedule cannot be used. The text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a five-field cron expression.
    #[error(
        "schedule: {expression:?} is not a cron expression ({reason}); write minute, hour, day of month, month and day of week, \
         such as \"0 3 * * *\" for 03:00 every day"
    )]
    Expression {
        /// What was written.
        expression: String,
        /// What the parser says.
        reason: String,
    },
    /// Not a time zone of the IANA database.
    #[error("timeZone: {0:?} is not a time zone; write a name such as \"Etc/UTC\" or \"Europe/Berlin\"")]
    Zone(String),
}

/// A cron expression in its time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: croner::Cron,
    zone: TimeZone,
}

impl Schedule {
    /// Parses `minute hour day-of-month month day-of-week`; no zone means UTC.
    ///
    /// # Errors
    /// [`Error`], with the field's name and an example.
    pub fn parse(expression: &str, zone: Option<&str>) -> Result<Schedule, Error> {
        let wrong = |reason: String| Error::Expression {
            expression: expression.into(),
            reason,
        };
        if expression.contains("TZ=") {
            return Err(wrong("a time zone goes into the field timeZone".into()));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(expression).map_err(|error| wrong(error.to_string()))?;
        let name = zone.unwrap_or("UTC");
        let zone = TimeZone::get(name).map_err(|_| Error::Zone(name.into()))?;
        Ok(Schedule { cron, zone })
    }

    /// The first tick after a moment; `None` when there is none (such as 31 February).
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.cron
            .find_next_occurrence(&self.at(after), false)
            .ok()
            .map(|tick| tick.timestamp())
    }

    /// The ticks in (after, until], oldest first; only the newest thousand when there are more.
    pub fn between(&self, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let mut ticks = Vec::new();
        // Backwards from now: after a year of downtime the newest ticks are the ones that matter.
        let mut at = until;
        let mut inclusive = true;
        while ticks.len() < TICKS_MAX {
            let Ok(tick) = self.cron.find_previous_occurrence(&self.at(at), inclusive) else {
                break;
            };
            if tick.timestamp() <= after {
                break;
            }
            at = tick.timestamp();
            inclusive = false;
            ticks.push(at);
        }
        ticks.reverse();
        ticks
    }

    fn at(&self, moment: Timestamp) -> Zoned {
        moment.to_zoned(self.zone.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn ticks_are_the_same_whoever_asks() {
        let schedule = Schedule::parse("*/15 * * * *", None).unwrap();
        assert_eq!(
            schedule.next(at("2026-03-01T10:07:03Z")),
            Some(at("2026-03-01T10:15:00Z"))
        );
        assert_eq!(
            schedule.next(at("2026-03-01T10:15:00Z")),
            Some(at("2026-03-01T10:30:00Z"))
        );
        let ticks = schedule.between(at("2026-03-01T10:00:00Z"), at("2026-03-01T10:45:00Z"));
        let expected = ["2026-03-01T10:15:00Z", "2026-03-01T10:30:00Z", "2026-03-01T10:45:00Z"].map(at);
        assert_eq!(ticks, expected);
        assert!(
            schedule
                .between(at("2026-03-01T10:15:00Z"), at("2026-03-01T10:29:59Z"))
                .is_empty()
        );
    }

    #[test]
    fn a_long_absence_gives_the_newest_ticks() {
        let schedule = Schedule::parse("* * * * *", None).unwrap();
        let ticks = schedule.between(at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        assert_eq!(
            (ticks.len(), ticks.last().copied()),
            (TICKS_MAX, Some(at("2026-01-01T00:00:00Z")))
        );
    }

    #[test]
    fn a_zone_moves_the_tick_and_summer_time_counts() {
        let schedule = Schedule::parse("0 3 * * *", Some("Europe/Berlin")).unwrap();
        assert_eq!(
            schedule.next(at("2026-01-10T00:00:00Z")),
            Some(at("2026-01-10T02:00:00Z"))
        );
        assert_eq!(
            schedule.next(at("2026-07-10T00:00:00Z")),
            Some(at("2026-07-10T01:00:00Z"))
        );
    }

    #[test]
    fn mistakes_name_the_field_and_the_remedy() {
        let text = |expression, zone| Schedule::parse(expression, zone).unwrap_err().to_string();
        assert!(text("0 3 * *", None).starts_with("schedule: \"0 3 * *\" is not a cron expression"));
        assert!(
            text("0 3 * * * *", None).contains("0 3 * * *"),
            "seconds are not accepted"
        );
        assert!(text("CRON_TZ=UTC 0 3 * * *", None).contains("timeZone"));
        assert!(text("0 3 * * *", Some("Mars/Olympus")).starts_with("timeZone: \"Mars/Olympus\""));
    }
}
