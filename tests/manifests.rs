//! What is generated is what is committed, and every sample is a manifest that is accepted.

use std::path::{Path, PathBuf};

use quorate::api::manifest::Document;
use quorate::api::{convert, crds, manifest};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// The folders that hold the definitions: by themselves, for helm, and for kustomize, neither of which reads above its own.
const DEFINITIONS: [&str; 3] = ["crds", "charts/quorate/crds", "config/crd"];

/// With `UPDATE=1` in the environment the files are written instead.
#[test]
fn the_committed_definitions_are_the_generated_ones() {
    for (name, text) in crds::files() {
        for folder in DEFINITIONS {
            let path = root().join(folder).join(name);
            if std::env::var_os("UPDATE").is_some() {
                std::fs::create_dir_all(root().join(folder)).expect("the folder can be made");
                std::fs::write(&path, &text).expect("the folder can be written");
            }
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == text,
                "{} is stale: run UPDATE=1 cargo test --test manifests",
                path.display()
            );
        }
    }
}

/// The rules of a role are written once, in the chart; kustomize's roles hold the same.
#[test]
fn both_ways_to_install_give_the_same_rights() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file of the project");
    let rules = |file: &str| -> Vec<serde_yaml::Value> {
        serde_yaml::from_str(&read(&format!("charts/quorate/rules/{file}.yaml"))).expect("a list of rules")
    };
    let roles = read("config/rbac/role.yaml");
    let roles: Vec<serde_yaml::Value> = roles
        .split("\n---\n")
        .map(|text| serde_yaml::from_str(text).expect("a role"))
        .collect();
    let [everywhere, own] = roles.as_slice() else {
        panic!("{} roles", roles.len())
    };
    let shipped: Vec<_> = rules("cluster").into_iter().chain(rules("managed")).collect();
    assert_eq!(everywhere["rules"], serde_yaml::Value::Sequence(shipped));
    assert_eq!(own["rules"], serde_yaml::Value::Sequence(rules("own")));
    for rule in rules("cluster").iter().chain(&rules("managed")).chain(&rules("own")) {
        let text = serde_yaml::to_string(rule).expect("a rule");
        assert!(!text.contains('*'), "a wildcard: {text}");
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

/// The manifests of e2e/kube/refused, of which the suite on Kubernetes shows that the API server refuses each, are
/// refused without an API server too. A second document is a change of the first.
#[test]
fn what_the_api_server_refuses_is_refused_here() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("e2e/kube/refused")).expect("the folder exists") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a manifest can be read");
        assert!(text.starts_with("# refused: "), "{name} does not say why");
        count += 1;
        let accepted_here = text.contains("# on the local platform: accepted");
        match refusal(&text) {
            Ok(_) if accepted_here => {}
            Ok(None) => wrong.push(format!("{name} is accepted")),
            Ok(Some(_)) if !accepted_here => {}
            Ok(Some(why)) => wrong.push(format!("{name} is refused: {why}")),
            Err(why) => wrong.push(format!("{name}: the first document is refused: {why}")),
        }
    }
    assert!(count >= 40, "{count} manifests");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Why the last document of a text is refused; an error when the first of two is.
fn refusal(text: &str) -> Result<Option<String>, String> {
    let read = |text: &str| {
        manifest::read(text)
            .map(|mut documents| documents.remove(0))
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let Some((before, after)) = text.split_once("\n---\n") else {
        return Ok(read(text).err());
    };
    let before = read(before)?;
    let after = match read(after) {
        Ok(after) => after,
        Err(why) => return Ok(Some(why)),
    };
    let broken = match (&before, &after) {
        (Document::Cluster(before), Document::Cluster(after)) => convert::check_change(&before.spec, &after.spec),
        (Document::Backup(before), Document::Backup(after)) => convert::check_backup_change(&before.spec, &after.spec),
        _ => return Err("two kinds in one text".into()),
    };
    Ok(broken.first().map(ToString::to_string))
}
