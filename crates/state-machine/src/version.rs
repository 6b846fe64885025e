//! Versions: of the server, of the cluster, of the storage; and the downgrade job.
//!
//! Invariants:
//! - The cluster version is the lowest the members agreed on, without a patch level. A member older than it must not run.
//! - The storage version says which fields the db may hold; it follows the cluster version and is written by each member for
//!   itself (etcd server/etcdserver/version/monitor.go), so it is no part of what members compare.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A semantic version, as far as etcd uses them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Breaking changes.
    pub major: u64,
    /// Features. Clusters move by one minor at a time.
    pub minor: u64,
    /// Fixes; 0 in cluster and storage versions.
    pub patch: u64,
    /// What follows a `-`; empty for a release.
    pub pre_release: String,
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a version of the form MAJOR.MINOR.PATCH")]
pub struct NotAVersion {
    /// The text.
    pub text: String,
}

impl Version {
    /// The etcd release whose behaviour this crate has.
    pub const SERVER: Version = Version::new(3, 7, 3);

    /// A release.
    pub const fn new(major: u64, minor: u64, patch: u64) -> Version {
        Version {
            major,
            minor,
            patch,
            pre_release: String::new(),
        }
    }

    /// The same without patch level and pre-release.
    pub fn minor_only(&self) -> Version {
        Version::new(self.major, self.minor, 0)
    }

    /// Reads a version or the short form MAJOR.MINOR, as downgrade requests may hold it.
    pub fn parse_lenient(text: &str) -> Result<Version, NotAVersion> {
        let error = || NotAVersion { text: text.to_owned() };
        text.parse()
            .or_else(|_| format!("{text}.0").parse())
            .map_err(|_: NotAVersion| error())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if !self.pre_release.is_empty() {
            write!(f, "-{}", self.pre_release)?;
        }
        Ok(())
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Version, NotAVersion> {
        let error = || NotAVersion { text: text.to_owned() };
        // Build metadata says nothing about order.
        let body = text.split_once('+').map_or(text, |(body, _)| body);
        let (numbers, pre_release) = body.split_once('-').unwrap_or((body, ""));
        let mut parts = numbers.split('.').map(|part| part.parse::<u64>().map_err(|_| error()));
        let mut next = || parts.next().unwrap_or_else(|| Err(error()));
        let (major, minor, patch) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(error());
        }
        Ok(Version {
            major,
            minor,
            patch,
            pre_release: pre_release.to_owned(),
        })
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Version) -> Ordering {
        let numbers = |v: &Version| (v.major, v.minor, v.patch);
        numbers(self)
            .cmp(&numbers(other))
            .then_with(|| match (self.pre_release.as_str(), other.pre_release.as_str()) {
                ("", "") => Ordering::Equal,
                ("", _) => Ordering::Greater,
                (_, "") => Ordering::Less,
                (a, b) => compare_pre_releases(a, b),
            })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Version) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By dot-separated parts: numbers below words, numbers by value, and a longer list above its own beginning.
fn compare_pre_releases(a: &str, b: &str) -> Ordering {
    let key = |part: &str| match part.parse::<u64>() {
        Ok(number) => (0, number, String::new()),
        Err(_) => (1, 0, part.to_owned()),
    };
    a.split('.').map(key).cmp(b.split('.').map(key))
}

/// The downgrade job of the cluster, as stored (bucket `cluster`, key `downgrade`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DowngradeInfo {
    /// The cluster version to go down to; empty without a job.
    #[serde(rename = "target-version", default)]
    pub target_version: String,
    /// Whether a job runs.
    #[serde(default)]
    pub enabled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let texts = [
            "3.5.0",
            "3.6.0-alpha",
            "3.6.0-alpha.1",
            "3.6.0-alpha.beta",
            "3.6.0-rc.2",
            "3.6.0-rc.10",
            "3.6.0",
            "3.6.14",
            "3.10.0",
        ];
        let versions: Vec<Version> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted());
        for (version, text) in versions.iter().zip(texts) {
            assert_eq!(version.to_string(), text);
        }
        assert_eq!("3.7.3+git".parse::<Version>().unwrap(), Version::SERVER);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "3", "3.7", "3.7.x", "v3.7.0", "3.7.0.1", "-1.2.3"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        assert_eq!(Version::parse_lenient("3.6").unwrap(), Version::new(3, 6, 0));
        assert_eq!(Version::parse_lenient("3.6.1").unwrap(), Version::new(3, 6, 1));
        assert!(Version::parse_lenient("three").is_err());
    }

    #[test]
    fn the_downgrade_job_is_stored_as_etcd_stores_it() {
        let info = DowngradeInfo {
            target_version: "3.6.0".into(),
            enabled: true,
        };
        assert_eq!(
            serde_json::to_string(&info).unwrap(),
            r#"{"target-version":"3.6.0","enabled":true}"#
        );
    }
}
