//! Claims that wait for a storage class that is not wanted any more: made again with the one that is.
//!
//! Invariants:
//! 1. Only a claim that was never bound is given up, and only before the cluster has an id: nothing can be on it.
//! 2. The record forgets it before it is deleted, so that a crash in between leaves a claim that is looked at again.

use super::steps::unbound;
use super::{Cluster, Failure, apply};
use crate::plan::Wanted;
use crate::platform::Platform;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::Api;

impl Cluster {
    /// Gives up claims of another class than the wanted one; their members are then created anew, under their names.
    pub(super) async fn give_up_claims(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        let (Some(record), Some(class)) = (self.record.clone(), wanted.storage.class.clone()) else {
            return Ok(());
        };
        if record.journal.cluster_id.is_some() {
            return Ok(());
        }
        let claims: Api<PersistentVolumeClaim> = self.api();
        let mut given_up = Vec::new();
        for (name, kept) in record.volumes.iter().filter(|(_, kept)| !kept.note.wrote) {
            let live = claims.get_opt(name).await?;
            let wrong = live.filter(|claim| {
                let of_class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
                claim.uid().as_deref() == Some(&kept.uid) && unbound(claim) && of_class != Some(&class)
            });
            if let Some(claim) = wrong {
                tracing::info!(
                    claim = name,
                    class,
                    "was never bound; it is made again with the wanted class"
                );
                self.stop(wanted, name).await?;
                given_up.push(claim);
            }
        }
        if given_up.is_empty() {
            return Ok(());
        }
        if let Some(record) = &mut self.record {
            for claim in &given_up {
                record.volumes.remove(&claim.name_any());
            }
        }
        self.persist(&record.journal)
            .await
            .map_err(|error| Failure::Other(error.to_string()))?;
        for claim in &given_up {
            // It may have been bound since: then it is another version, and stays.
            let now = claims.get_opt(&claim.name_any()).await?;
            if let Some(now) = now.filter(|now| now.uid() == claim.uid() && unbound(now)) {
                apply::delete(&claims, &now, None).await?;
            }
        }
        Ok(())
    }
}
