//! Texts as Go's standard library prints and reads them: scripts compare etcd's outputs byte for byte.

use std::time::Duration;

/// A string in double quotes with Go's escapes (`%q`); bytes that are no UTF-8 become `\x..`.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x0b' => out.push_str("\\v"),
                '\'' => out.push('\''),
                c if (c as u32) < 0x20 || c == '\x7f' => out.push_str(&format!("\\x{:02x}", c as u32)),
                // What Rust's Debug escapes is what Go does not hold printable, up to combining characters.
                c if c.escape_debug().count() == 1 => out.push(c),
                c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
                c => out.push_str(&format!("\\U{:08x}", c as u32)),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

/// The inverse of [`quote`], for double quotes: the bytes and what follows the closing quote; `None` when it is no such string.
pub(crate) fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut out = Vec::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((out, rest)),
            '\n' => return None,
            '\\' => {
                let escape = rest.chars().next()?;
                rest = &rest[escape.len_utf8()..];
                let mut digits = |count: usize, radix: u32| {
                    let digits = rest.get(..count)?;
                    rest = &rest[count..];
                    u32::from_str_radix(digits, radix).ok()
                };
                match escape {
                    'a' => out.push(7),
                    'b' => out.push(8),
                    'f' => out.push(12),
                    'n' => out.push(b'\n'),
                    'r' => out.push(b'\r'),
                    't' => out.push(b'\t'),
                    'v' => out.push(11),
                    '\\' | '"' => out.push(escape as u8),
                    'x' => out.push(digits(2, 16)? as u8),
                    'u' | 'U' => {
                        let c = char::from_u32(digits(if escape == 'u' { 4 } else { 8 }, 16)?)?;
                        out.extend_from_slice(c.to_string().as_bytes());
                    }
                    '0'..='7' => {
                        let more = digits(2, 8)?;
                        let value = (escape as u32 - '0' as u32) * 64 + more;
                        out.push(u8::try_from(value).ok()?);
                    }
                    _ => return None,
                }
            }
            c => out.extend_from_slice(c.to_string().as_bytes()),
        }
    }
}

/// A duration as Go's `String` prints it: `1m30s`, `2.5ms`, `0s`.
pub(crate) fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |value: u128, unit: u128, name: &str| {
        let digits = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        let whole = value / unit;
        if digits.is_empty() {
            format!("{whole}{name}")
        } else {
            format!("{whole}.{digits}{name}")
        }
    };
    match nanos {
        0 => "0s".into(),
        1..=999 => format!("{nanos}ns"),
        1_000..=999_999 => fraction(nanos, 1_000, "µs"),
        1_000_000..=999_999_999 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// Reads a duration such as `1m30s` or `500ms`; a negative one counts as zero.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let mut rest = unsigned;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| invalid())?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (unit, after) = rest.split_at(end);
        let factor = match unit {
            "" => return Err(format!("time: missing unit in duration {}", quote(text.as_bytes()))),
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => {
                let (unit, all) = (quote(unit.as_bytes()), quote(text.as_bytes()));
                return Err(format!("time: unknown unit {unit} in duration {all}"));
            }
        };
        seconds += number * factor;
        rest = after;
    }
    if text.starts_with('-') {
        return Ok(Duration::ZERO);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| invalid())
}

fn number_error(function: &str, text: &str, why: &str) -> String {
    format!("strconv.{function}: parsing {}: {why}", quote(text.as_bytes()))
}

/// Splits sign, base and digits as Go does for base 0 and for a given base.
fn parse_number(function: &str, text: &str, base: u32) -> Result<(bool, u128), String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if base != 0 {
        (base, lower)
    } else if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex.to_owned())
    } else if let Some(binary) = lower.strip_prefix("0b") {
        (2, binary.to_owned())
    } else if let Some(octal) = lower.strip_prefix("0o") {
        (8, octal.to_owned())
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower[1..].to_owned())
    } else {
        (10, lower)
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(number_error(function, text, "invalid syntax"));
    }
    match u128::from_str_radix(&digits, radix) {
        Ok(value) => Ok((negative, value)),
        Err(_) => Err(number_error(function, text, "value out of range")),
    }
}

/// `strconv.ParseInt(text, base, 64)`; base 0 reads the base from the prefix.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let (negative, value) = parse_number("ParseInt", text, base)?;
    let value = i128::try_from(value).map_err(|_| number_error("ParseInt", text, "value out of range"))?;
    let value = if negative { -value } else { value };
    i64::try_from(value).map_err(|_| number_error("ParseInt", text, "value out of range"))
}

/// `strconv.ParseUint(text, base, 64)`.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_uint(text: &str, base: u32) -> Result<u64, String> {
    if text.starts_with(['-', '+']) {
        return Err(number_error("ParseUint", text, "invalid syntax"));
    }
    let (_, value) = parse_number("ParseUint", text, base)?;
    u64::try_from(value).map_err(|_| number_error("ParseUint", text, "value out of range"))
}

/// `strconv.ParseBool(text)`.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(number_error("ParseBool", text, "invalid syntax")),
    }
}

/// Bytes in powers of ten with at most one decimal, as the Go package humanize has it.
pub(crate) fn human_bytes(bytes: u64) -> String {
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let power = (bytes.ilog10() / 3) as usize;
    let value = (bytes as f64 / 1000f64.powi(power as i32) * 10.0 + 0.5).floor() / 10.0;
    let decimals = usize::from(value < 10.0);
    format!("{value:.decimals$} {}", units[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_and_read_as_in_go() {
        for (bytes, text) in [
            (&b"a"[..], r#""a""#),
            (b"a\"\\\n\x00\xff", r#""a\"\\\n\x00\xff""#),
            ("ü\u{a0}\u{1f600}'".as_bytes(), "\"ü\\u00a0\u{1f600}'\""),
            (b"\x7f\x1b", r#""\x7f\x1b""#),
        ] {
            assert_eq!(quote(bytes), text);
            assert_eq!(unquote(text), Some((bytes.to_vec(), "")), "{text}");
        }
        assert_eq!(unquote(r#""\101" rest"#), Some((b"A".to_vec(), " rest")));
        for bad in ["a", "\"a", r#""\q""#, r#""\x1""#, r#""\u12""#, ""] {
            assert_eq!(unquote(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_printed_and_read_as_in_go() {
        for (nanos, text) in [
            (0u64, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (3_747_724, "3.747724ms"),
            (1_000_000_000, "1s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            let value = Duration::from_nanos(nanos);
            assert_eq!(duration(value), text);
            assert_eq!(parse_duration(text), Ok(value));
        }
        assert_eq!(parse_duration("3").unwrap_err(), "time: missing unit in duration \"3\"");
        assert_eq!(parse_duration("soon").unwrap_err(), "time: invalid duration \"soon\"");
        assert_eq!(
            parse_duration("3d").unwrap_err(),
            "time: unknown unit \"d\" in duration \"3d\""
        );
        assert_eq!(parse_duration("-1s"), Ok(Duration::ZERO));
    }

    #[test]
    fn numbers_are_read_as_in_go() {
        assert_eq!(parse_int("0x10", 0), Ok(16));
        assert_eq!(parse_int("010", 0), Ok(8));
        assert_eq!(parse_int("-7f", 16), Ok(-127));
        assert_eq!(parse_int("9223372036854775807", 10), Ok(i64::MAX));
        assert_eq!(
            parse_int("9223372036854775808", 10).unwrap_err(),
            "strconv.ParseInt: parsing \"9223372036854775808\": value out of range"
        );
        assert_eq!(
            parse_int("xx", 16).unwrap_err(),
            "strconv.ParseInt: parsing \"xx\": invalid syntax"
        );
        assert_eq!(parse_uint("ffffffffffffffff", 16), Ok(u64::MAX));
        assert!(parse_uint("-1", 16).is_err() && parse_uint("", 16).is_err());
        assert_eq!(parse_bool("T"), Ok(true));
        assert!(parse_bool("yes").is_err());
    }

    #[test]
    fn sizes_are_rounded_as_go_does() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1049, "1.0 kB"),
            (1050, "1.1 kB"),
            (20480, "20 kB"),
            (82_854_982, "83 MB"),
            (2_147_483_648, "2.1 GB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
