//! Going back to the version before (etcd server/etcdserver/v3_server.go, version/version.go).
//!
//! Invariants:
//! - A job goes down by one minor version, and there is one at a time; what is decided here becomes true through the log.
//! - The leader lowers the cluster version for a job, and ends the job when all members run the target (crates/replica, versions).

use proto::etcdserverpb::{DowngradeInfo, InternalRaftRequest};
use proto::membershippb::DowngradeInfoSetRequest;
use replica::state_machine::Error as Refusal;
use replica::state_machine::version::Version;

use super::Member;
use crate::auth::Asker;
use crate::handle::Error;

impl Member {
    /// The job, as `Status` shows it.
    pub fn downgrade_info(&self) -> DowngradeInfo {
        let membership = self.handle.membership();
        DowngradeInfo {
            enabled: membership.downgrade_target.is_some(),
            target_version: membership.downgrade_target.clone().unwrap_or_default(),
        }
    }

    fn known_cluster_version(&self) -> Result<Version, Error> {
        let version = self.cluster_version().and_then(|version| version.parse().ok());
        version.ok_or(Error::Refused(Refusal::ClusterVersionUnavailable))
    }

    /// Whether the cluster could go down to `target`; its version now, as MAJOR.MINOR.
    ///
    /// # Errors
    /// A target that is none or not the version before, a job that runs already, no cluster version yet.
    pub async fn downgrade_validate(&self, target: &str) -> Result<String, Error> {
        let target = read_target(target)?;
        let before = short(&self.known_cluster_version()?);
        self.check_target(&target).await?;
        Ok(before)
    }

    async fn check_target(&self, target: &Version) -> Result<(), Error> {
        // What another member has been told just now counts.
        self.handle.linearizable().await?;
        let now = self.known_cluster_version()?;
        let allowed = now.minor.checked_sub(1).map(|minor| Version::new(now.major, minor, 0));
        if allowed.as_ref() != Some(target) {
            return Err(Error::Refused(Refusal::InvalidDowngradeTargetVersion));
        }
        match self.handle.membership().downgrade_target {
            Some(_) => Err(Error::Refused(Refusal::DowngradeInProcess)),
            None => Ok(()),
        }
    }

    /// Begins a job; the cluster's version now, as MAJOR.MINOR.
    ///
    /// # Errors
    /// As [`Member::downgrade_validate`].
    pub async fn downgrade_enable(&self, asker: &Asker, target: &str) -> Result<String, Error> {
        let begun = async {
            let target = read_target(target)?;
            self.check_target(&target).await?;
            self.set_downgrade(asker, true, target.to_string()).await
        };
        if let Err(error) = begun.await {
            tracing::warn!(%error, "reject downgrade request");
            return Err(error);
        }
        Ok(short(&self.known_cluster_version()?))
    }

    /// Ends a job; the cluster's version now, as MAJOR.MINOR.
    ///
    /// # Errors
    /// No cluster version yet. That there is no job is only logged, as in etcd.
    pub async fn downgrade_cancel(&self, asker: &Asker) -> Result<String, Error> {
        let cancelled = async {
            self.handle.linearizable().await?;
            if self.handle.membership().downgrade_target.is_none() {
                return Err(Error::Refused(Refusal::NoInflightDowngrade));
            }
            self.set_downgrade(asker, false, String::new()).await
        };
        if let Err(error) = cancelled.await {
            tracing::warn!(%error, "failed to cancel downgrade");
        }
        Ok(short(&self.known_cluster_version()?))
    }

    async fn set_downgrade(&self, asker: &Asker, enabled: bool, ver: String) -> Result<(), Error> {
        let request = InternalRaftRequest {
            downgrade_info_set: Some(DowngradeInfoSetRequest { enabled, ver }),
            ..InternalRaftRequest::default()
        };
        self.propose("DowngradeInfoSet", asker, request).await.map(drop)
    }
}

/// A target as MAJOR.MINOR or in full; only MAJOR.MINOR counts.
fn read_target(text: &str) -> Result<Version, Error> {
    let target = Version::parse_lenient(text).map_err(|_| Error::Refused(Refusal::WrongDowngradeVersionFormat))?;
    Ok(target.minor_only())
}

fn short(version: &Version) -> String {
    format!("{}.{}", version.major, version.minor)
}
