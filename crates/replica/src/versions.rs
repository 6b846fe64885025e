//! What the cluster version should be (etcd etcdserver/version/monitor.go).
//!
//! Invariants: it follows the oldest server, is never lowered but by a downgrade job, and does not move while any member's
//! version is unknown.

use state_machine::version::{DowngradeInfo, Version};

/// What is proposed when nothing is known yet.
const MIN_CLUSTER_VERSION: Version = Version::new(3, 0, 0);

/// The cluster version to propose; `None` to leave it. `servers` holds one entry per member.
pub(crate) fn decide(
    current: Option<&Version>,
    servers: &[(u64, Option<String>)],
    downgrade: &DowngradeInfo,
) -> Option<Version> {
    let known = servers.iter().map(|(_, text)| text.as_deref()?.parse::<Version>().ok());
    let all = known.collect::<Option<Vec<Version>>>();
    let oldest = all
        .and_then(|all| all.into_iter().min())
        .map(|version| version.minor_only());
    let Some(current) = current else {
        return Some(oldest.unwrap_or(MIN_CLUSTER_VERSION));
    };
    let oldest = oldest?;
    if downgrade.enabled {
        let target: Version = downgrade.target_version.parse().ok()?;
        let one_above = |version: &Version| version.major == target.major && version.minor == target.minor + 1;
        let may = target != *current && one_above(current) && (one_above(&oldest) || oldest == target);
        return may.then_some(target);
    }
    (*current < oldest && current.major == oldest.major).then_some(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(texts: &[Option<&str>]) -> Vec<(u64, Option<String>)> {
        texts
            .iter()
            .zip(1..)
            .map(|(text, id)| (id, text.map(str::to_owned)))
            .collect()
    }

    #[test]
    fn the_oldest_server_decides() {
        let none = DowngradeInfo::default();
        let v = |text: &str| text.parse::<Version>().unwrap();
        let all = servers(&[Some("3.7.3"), Some("3.6.8"), Some("3.7.0")]);
        assert_eq!(decide(None, &all, &none), Some(v("3.6.0")));
        assert_eq!(decide(Some(&v("3.6.0")), &all, &none), None);
        assert_eq!(decide(Some(&v("3.5.0")), &all, &none), Some(v("3.6.0")));
        assert_eq!(decide(Some(&v("3.7.0")), &all, &none), None, "never down by itself");
        let missing = servers(&[Some("3.7.3"), None]);
        assert_eq!(decide(None, &missing, &none), Some(v("3.0.0")));
        assert_eq!(decide(Some(&v("3.6.0")), &missing, &none), None);
        assert_eq!(
            decide(Some(&v("3.6.0")), &servers(&[Some("3.7.3"), Some("later")]), &none),
            None
        );
    }

    #[test]
    fn a_downgrade_job_lowers_it_by_one_minor() {
        let job = DowngradeInfo {
            target_version: "3.6.0".into(),
            enabled: true,
        };
        let v = |text: &str| text.parse::<Version>().unwrap();
        let all = servers(&[Some("3.7.3"), Some("3.7.3")]);
        assert_eq!(decide(Some(&v("3.7.0")), &all, &job), Some(v("3.6.0")));
        assert_eq!(decide(Some(&v("3.6.0")), &all, &job), None);
        assert_eq!(decide(Some(&v("3.8.0")), &all, &job), None);
    }
}
