//! What a pod must have mounted so that [`super::in_pod`] can open a store in it. Pure.
//!
//! Invariants: Secrets become files, never environment; a Secret that two fields name is mounted once.

use super::in_pod::{SECRETS, SPOOL, VOLUME};
use crate::api::parts::Store;
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, PersistentVolumeClaimVolumeSource, SecretVolumeSource, Volume, VolumeMount,
};
use std::collections::BTreeSet;

/// The Secrets that a store names, each with the field that names it.
pub fn secrets(store: &Store) -> Vec<(&'static str, String)> {
    let s3 = store.s3.as_ref();
    let credentials = s3.and_then(|s3| s3.credentials_secret_ref.as_ref());
    let ca = s3.and_then(|s3| s3.ca_secret_ref.as_ref());
    [
        ("s3.credentialsSecretRef", credentials),
        ("s3.caSecretRef", ca),
        ("encryptionSecretRef", store.encryption_secret_ref.as_ref()),
    ]
    .into_iter()
    .filter_map(|(field, named)| Some((field, named?.name.clone())))
    .collect()
}

/// A volume for spool files.
pub fn spool() -> (Volume, VolumeMount) {
    let volume = Volume {
        name: "spool".into(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let mount = VolumeMount {
        name: "spool".into(),
        mount_path: SPOOL.into(),
        ..VolumeMount::default()
    };
    (volume, mount)
}

/// Volumes and mounts for a store.
pub fn of_store(store: &Store, read_only: bool) -> (Vec<Volume>, Vec<VolumeMount>) {
    let (mut volumes, mut mounts) = (Vec::new(), Vec::new());
    let names: BTreeSet<String> = secrets(store).into_iter().map(|(_, name)| name).collect();
    for (number, name) in names.into_iter().enumerate() {
        let volume = format!("secret-{number}");
        mounts.push(VolumeMount {
            name: volume.clone(),
            mount_path: format!("{SECRETS}/{name}"),
            read_only: Some(true),
            ..VolumeMount::default()
        });
        volumes.push(secret(&volume, &name));
    }
    if let Some(pvc) = &store.pvc {
        volumes.push(Volume {
            name: "backups".into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: pvc.claim_name.clone(),
                read_only: None,
            }),
            ..Volume::default()
        });
        mounts.push(VolumeMount {
            name: "backups".into(),
            mount_path: VOLUME.into(),
            read_only: Some(read_only),
            ..VolumeMount::default()
        });
    }
    (volumes, mounts)
}

/// A volume with the entries of a Secret as files that the pod's group alone reads.
pub fn secret(volume: &str, name: &str) -> Volume {
    Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.into()),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_two_fields_name_is_mounted_once() {
        let store: Store =
            serde_yaml::from_str("s3: {bucket: abc, credentialsSecretRef: {name: s3}, caSecretRef: {name: s3}}")
                .unwrap();
        let (volumes, mounts) = of_store(&store, true);
        assert_eq!((volumes.len(), mounts.len()), (1, 1));
        assert_eq!(mounts[0].mount_path, "/run/quorate/secrets/s3");
        assert_eq!(secrets(&store).len(), 2);
    }
}
