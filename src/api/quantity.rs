//! Sizes and durations as Kubernetes and Go write them: `16Gi`, `1h30m`.
//!
//! Invariant: a value of these types that came through [`Quantity::bytes`] or [`Duration::get`] without an error is in
//! range for every flag that it is used for (bytes fit an `i64`, durations are not negative).

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

/// A size: a whole number of bytes, or a number with a suffix (`k M G T P`, `Ki Mi Gi Ti Pi`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quantity(pub String);

/// A span of time as Go writes it: numbers with `ms`, `s`, `m` or `h`, e.g. `500ms`, `36s`, `1h30m`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duration(pub String);

/// What is wrong with a size or a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not a size.
    #[error("{0:?} is not a size: write a number of bytes or one with a suffix, such as 512Mi, 8Gi or 100G")]
    Quantity(String),
    /// Not a duration.
    #[error("{0:?} is not a duration: write numbers with ms, s, m or h, such as 500ms, 36s, 5m or 1h30m")]
    Duration(String),
}

const QUANTITY_PATTERN: &str = "^[0-9]+([.][0-9]+)?(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$";
const DURATION_PATTERN: &str = "^([0-9]+([.][0-9]+)?(ms|s|m|h))+$";

impl Quantity {
    /// The size in bytes, rounded up as Kubernetes does.
    pub fn bytes(&self) -> Result<u64, Malformed> {
        let bad = || Malformed::Quantity(self.0.clone());
        let end = self
            .0
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(self.0.len());
        let (number, suffix) = self.0.split_at(end);
        let unit: u64 = match suffix {
            "" => 1,
            "k" => 1000,
            "M" => 1000_u64.pow(2),
            "G" => 1000_u64.pow(3),
            "T" => 1000_u64.pow(4),
            "P" => 1000_u64.pow(5),
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            _ => return Err(bad()),
        };
        scale(number, unit)
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .ok_or_else(bad)
    }
}

impl Duration {
    /// The span, to the millisecond.
    pub fn get(&self) -> Result<std::time::Duration, Malformed> {
        let bad = || Malformed::Duration(self.0.clone());
        let mut rest = self.0.as_str();
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let (number, after) = rest.split_at(end);
            let length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(length);
            let unit = match unit {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(bad()),
            };
            total = scale(number, unit)
                .and_then(|ms| total.checked_add(ms))
                .ok_or_else(bad)?;
            rest = after;
        }
        if self.0.is_empty() || total > 1 << 53 {
            return Err(bad());
        }
        Ok(std::time::Duration::from_millis(total))
    }
}

/// `number` (decimal, perhaps with a fraction) times `unit`, rounded up; none when malformed or too large.
fn scale(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    if whole.is_empty() || fraction.len() > 12 || fraction.contains('.') {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?) * u128::from(unit);
    let part = match fraction {
        "" => 0,
        digits => {
            let denominator = 10_u128.pow(u32::try_from(digits.len()).ok()?);
            (u128::from(digits.parse::<u64>().ok()?) * u128::from(unit)).div_ceil(denominator)
        }
    };
    u64::try_from(whole + part).ok()
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Quantity(text.into())
    }
}

impl From<&str> for Duration {
    fn from(text: &str) -> Self {
        Duration(text.into())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum IntOrString {
            Int(u64),
            Text(String),
        }
        Ok(match IntOrString::deserialize(deserializer)? {
            IntOrString::Int(bytes) => Quantity(bytes.to_string()),
            IntOrString::Text(text) => Quantity(text),
        })
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": format!("string(self).matches('{QUANTITY_PATTERN}')"),
                "message": "a size is a number of bytes or a number with a suffix: write it as in 512Mi, 8Gi or 100G",
            }],
        })
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{DURATION_PATTERN}')"),
                "message": "a duration is numbers with ms, s, m or h: write it as in 500ms, 36s, 5m or 1h30m",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_kubernetes_reads_them() {
        let bytes = |text: &str| Quantity::from(text).bytes().ok();
        assert_eq!(bytes("0"), Some(0));
        assert_eq!(bytes("8Gi"), Some(8 << 30));
        assert_eq!(bytes("1.5Ki"), Some(1536));
        assert_eq!(bytes("100M"), Some(100_000_000));
        assert_eq!(bytes("0.0001k"), Some(1));
        for bad in [
            "",
            "Gi",
            "8GiB",
            "-1",
            "1..5",
            "1.",
            "8 Gi",
            "99999999999999999999",
            "9000Pi",
            "1e3",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_read_as_go_writes_them() {
        let millis = |text: &str| Duration::from(text).get().ok().map(|d| d.as_millis());
        assert_eq!(millis("100ms"), Some(100));
        assert_eq!(millis("1h30m"), Some(5_400_000));
        assert_eq!(millis("1.5s"), Some(1500));
        assert_eq!(millis("0s"), Some(0));
        for bad in ["", "5", "5 m", "m", "5d", "-5s", "1h30", "5mm"] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }
}
