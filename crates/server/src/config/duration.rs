//! Durations in the syntax of Go's `time.ParseDuration` ("1h30m", "100ms", "1.5s"), the only one etcd's flags take.

use std::time::Duration;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// A span of time in nanoseconds. Signed, because Go's durations are and etcd accepts some negative ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub i64);

impl Nanos {
    /// So many whole seconds.
    pub const fn from_secs(seconds: i64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    /// So many whole milliseconds.
    pub const fn from_millis(millis: i64) -> Nanos {
        Nanos(millis * 1_000_000)
    }

    /// The same as an unsigned duration; `None` when zero or negative, which in etcd's flags means "off".
    pub fn positive(self) -> Option<Duration> {
        (self.0 > 0).then(|| Duration::from_nanos(self.0.unsigned_abs()))
    }

    /// Parses Go's duration syntax. The error repeats what Go would say.
    pub fn parse(text: &str) -> Result<Nanos, String> {
        let invalid = || format!("time: invalid duration {text:?}");
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Nanos(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total = 0f64;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let letters = rest
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(rest.len());
            if letters == 0 {
                return Err(format!("time: missing unit in duration {text:?}"));
            }
            let unit = &rest[..letters];
            let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
            };
            total += number * scale;
            rest = &rest[letters..];
        }
        if total >= i64::MAX as f64 {
            return Err(invalid());
        }
        let nanos = total.round() as i64;
        Ok(Nanos(if negative { -nanos } else { nanos }))
    }
}

impl std::fmt::Display for Nanos {
    /// As Go's `Duration.String()` prints it: "5s", "1m0s", "300ms", "1.5s", "0s".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let fraction = |value: u64, scale: u64| {
            let text = format!(
                "{}.{:0width$}",
                value / scale,
                value % scale,
                width = scale.ilog10() as usize
            );
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{sign}{nanos}ns"),
            1_000..1_000_000 => write!(f, "{sign}{}\u{b5}s", fraction(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{sign}{}ms", fraction(nanos, 1_000_000)),
            _ => {
                let minutes = nanos / 60_000_000_000;
                let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
                match (minutes / 60, minutes % 60) {
                    (0, 0) => write!(f, "{sign}{seconds}s"),
                    (0, m) => write!(f, "{sign}{m}m{seconds}s"),
                    (h, m) => write!(f, "{sign}{h}h{m}m{seconds}s"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Nanos;

    #[test]
    fn parses_and_prints_like_go() {
        let cases = [
            ("0", 0, "0s"),
            ("5s", 5_000_000_000, "5s"),
            ("100ms", 100_000_000, "100ms"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("2h45m10.5s", 9_910_500_000_000, "2h45m10.5s"),
            ("-1s", -1_000_000_000, "-1s"),
            ("10us", 10_000, "10\u{b5}s"),
            ("1m", 60_000_000_000, "1m0s"),
        ];
        for (text, nanos, printed) in cases {
            let parsed = Nanos::parse(text).unwrap();
            assert_eq!(parsed, Nanos(nanos), "{text}");
            assert_eq!(parsed.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn refuses_like_go() {
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("10", "time: missing unit in duration \"10\""),
            ("1x", "time: unknown unit \"x\" in duration \"1x\""),
            ("s", "time: invalid duration \"s\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
        ] {
            assert_eq!(Nanos::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
