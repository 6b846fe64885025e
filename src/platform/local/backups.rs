//! `EtcdBackup` objects of one cluster: what an API server would keep, kept in `backups/<name>.json`.
//!
//! Invariants:
//! 1. A backup is an object before it is work, and its name is taken once: a tick never makes two.
//! 2. What was under way when the operator died begins again; nothing that is in the store without a manifest counts.

use super::up::Desired;
use super::{LocalCluster, files};
use crate::api::{EtcdBackup, convert};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::path::PathBuf;

impl LocalCluster {
    fn backup_file(&self, name: &str) -> PathBuf {
        self.layout.file("backups").join(format!("{name}.json"))
    }

    /// Takes over the objects of the manifest, with the creation time of when they were first seen; returns the
    /// policies among them.
    pub(super) fn adopt_backups(&mut self, desired: &Desired) -> Result<Vec<EtcdBackup>, files::Error> {
        let mut policies = Vec::new();
        for written in &desired.backups {
            let file = self.backup_file(&written.name_any());
            let known = files::read_json::<EtcdBackup>(&file)?;
            let mut object = written.clone();
            object.metadata.creation_timestamp = known
                .as_ref()
                .and_then(|known| known.metadata.creation_timestamp.clone())
                .or_else(|| Some(Time(jiff::Timestamp::now())));
            object.status = known.and_then(|known| known.status);
            files::write_json(&file, &object)?;
            if object.spec.schedule.is_some() {
                policies.push(object);
            }
        }
        Ok(policies)
    }

    /// All objects that are kept, by name.
    pub(super) fn backup_objects(&self) -> Result<Vec<EtcdBackup>, files::Error> {
        let mut objects = Vec::new();
        let Ok(entries) = std::fs::read_dir(self.layout.file("backups")) else {
            return Ok(objects);
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                objects.extend(files::read_json::<EtcdBackup>(&path)?);
            }
        }
        objects.sort_by_key(ResourceExt::name_any);
        Ok(objects)
    }

    /// The backups as the planner sees them.
    pub(super) fn backup_runs(&self) -> Result<Vec<crate::plan::backup::Run>, files::Error> {
        Ok(self.backup_objects()?.iter().filter_map(convert::run).collect())
    }
}
