//! Cron schedules: five fields and a time zone, turned into the ticks that the planner is given.
//!
//! Invariant: the same schedule, zone and moment always give the same ticks; no clock is read here.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::plan::Timestamp;

/// A schedule that was read.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// What is wrong with a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not a cron expression.
    #[error(
        "{text:?} is not a schedule ({why}): write five fields, minute hour day month weekday, e.g. \"30 3 * * *\""
    )]
    Cron {
        /// What was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// It can never come true, such as the 30th of February.
    #[error("{0:?} never comes: no date has that day and month")]
    Never(String),
    /// Not a time zone.
    #[error("{0:?} is not a time zone: write a name of the IANA database, e.g. Europe/Berlin, or leave it out for UTC")]
    Zone(String),
}

impl Schedule {
    /// Reads a schedule; without a zone it is in UTC.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Schedule, ScheduleError> {
        let bad = |why: String| ScheduleError::Cron {
            text: text.to_string(),
            why,
        };
        let fields = text.split_whitespace().count();
        if fields != 5 {
            return Err(bad(format!("{fields} fields")));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(text).map_err(|error| bad(error.to_string()))?;
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| ScheduleError::Zone(name.to_string()))?,
        };
        let schedule = Schedule { cron, zone };
        match schedule.next(Timestamp::default()) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(text.to_string())),
        }
    }

    /// The newest tick that is not after `now`.
    pub fn last(&self, now: Timestamp) -> Option<Timestamp> {
        self.cron
            .find_previous_occurrence(&self.zoned(now)?, true)
            .ok()
            .and_then(timestamp)
    }

    /// The first tick after `now`.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.cron
            .find_next_occurrence(&self.zoned(now)?, false)
            .ok()
            .and_then(timestamp)
    }

    fn zoned(&self, moment: Timestamp) -> Option<Zoned> {
        let millis = i64::try_from(moment.0).ok()?;
        Some(
            jiff::Timestamp::from_millisecond(millis)
                .ok()?
                .to_zoned(self.zone.clone()),
        )
    }
}

fn timestamp(moment: Zoned) -> Option<Timestamp> {
    u64::try_from(moment.timestamp().as_millisecond()).ok().map(Timestamp)
}

/// A moment as RFC 3339 in UTC, to the second, as Kubernetes writes it.
pub fn rfc3339(moment: Timestamp) -> String {
    let seconds = i64::try_from(moment.0 / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::new(), |t| t.to_string())
}

/// Reads RFC 3339; fractions are kept to the millisecond.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_millisecond()).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        parse_rfc3339(text).expect("a moment")
    }

    #[test]
    fn ticks_are_in_the_zone_of_the_schedule() {
        let berlin = Schedule::parse("30 3 * * *", Some("Europe/Berlin")).expect("a schedule");
        let now = at("2026-01-15T12:00:00Z");
        assert_eq!(berlin.last(now), Some(at("2026-01-15T02:30:00Z")));
        assert_eq!(berlin.next(now), Some(at("2026-01-16T02:30:00Z")));
        let summer = at("2026-07-15T12:00:00Z");
        assert_eq!(berlin.last(summer), Some(at("2026-07-15T01:30:00Z")));
    }

    #[test]
    fn a_tick_at_this_very_moment_is_the_last_one_not_the_next() {
        let hourly = Schedule::parse("0 * * * *", None).expect("a schedule");
        let now = at("2026-01-15T12:00:00Z");
        assert_eq!(
            (hourly.last(now), hourly.next(now)),
            (Some(now), Some(at("2026-01-15T13:00:00Z")))
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_an_example() {
        for bad in ["", "* * * *", "0 0 3 * * *", "60 * * * *", "a b c d e", "0 0 30 2 *"] {
            assert!(Schedule::parse(bad, None).is_err(), "{bad:?}");
        }
        let error = Schedule::parse("0 3 * * *", Some("Mars/Olympus")).expect_err("no such zone");
        assert_eq!(error, ScheduleError::Zone("Mars/Olympus".into()));
        assert!(
            Schedule::parse("0 25 * * *", None)
                .expect_err("hour 25")
                .to_string()
                .contains("30 3 * * *")
        );
    }
}
