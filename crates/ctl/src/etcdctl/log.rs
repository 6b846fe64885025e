//! Log lines on stderr, in the form of etcd's client: JSON, one a line.

use std::time::{SystemTime, UNIX_EPOCH};

use super::json::{Json, Object};

/// The time as RFC 3339 in UTC with microseconds.
fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = ((now.as_secs() / 86400) as i64, now.as_secs() % 86400);
    // Days since 0000-03-01 make leap days the last of their years.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        now.subsec_micros()
    )
}

/// Writes a line.
pub(super) fn log(level: &str, logger: Option<&str>, caller: &str, message: &str, fields: &[(&'static str, Json)]) {
    let mut line = Object::new()
        .always("level", Json::text(level))
        .always("ts", Json::text(timestamp()))
        .some("logger", logger.map(Json::text))
        .always("caller", Json::text(caller))
        .always("msg", Json::text(message));
    for (name, value) in fields {
        line = line.always(name, value.clone());
    }
    eprintln!("{}", line.done());
}

#[cfg(test)]
mod tests {
    #[test]
    fn timestamps_look_as_they_should() {
        let text = super::timestamp();
        assert_eq!(text.len(), "2026-11-30T17:04:55.068953Z".len(), "{text}");
        assert!(text.starts_with("20") && text.ends_with('Z'));
    }
}
