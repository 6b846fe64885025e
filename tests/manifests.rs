//! What is generated is what is committed, and every sample is a manifest that is accepted.

use std::path::{Path, PathBuf};

use quorate::api::manifest::Document;
use quorate::api::{crds, manifest};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// With `UPDATE=1` in the environment the files are written instead.
#[test]
fn the_committed_definitions_are_the_generated_ones() {
    for (name, text) in crds::files() {
        let path = root().join("crds").join(name);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(root().join("crds")).expect("crds/ can be made");
            std::fs::write(&path, &text).expect("crds/ can be written");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} is stale: run UPDATE=1 cargo test --test manifests",
            path.display()
        );
    }
}

#[test]
fn every_sample_is_accepted() {
    let mut clusters = 0;
    let mut backups = 0;
    for entry in std::fs::read_dir(root().join("config/samples")).expect("config/samples exists") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "yaml") || path.ends_with("kustomization.yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a sample can be read");
        let documents = manifest::read(&text).unwrap_or_else(|errors| {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("{}:\n{}", path.display(), all.join("\n"))
        });
        assert!(!documents.is_empty(), "{} holds nothing", path.display());
        for document in documents {
            match document {
                Document::Cluster(_) => clusters += 1,
                Document::Backup(_) => backups += 1,
                Document::Secret(_) => {}
            }
        }
    }
    assert!(
        clusters >= 5 && backups >= 2,
        "{clusters} clusters and {backups} backups in the samples"
    );
}
