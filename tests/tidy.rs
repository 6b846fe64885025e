//! Watches what no compiler watches: which crate may use which, what must be absent, and that modules say what they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may use whom (ARCHITECTURE.md, "Arrows"). `quorate` may name the server's crates for its binary alone, see below.
const ARROWS: &[(&str, &[&str])] = &[
    ("disk", &[]),
    ("mutant", &[]),
    ("proto", &["tonic-prost-build"]),
    ("tonic-prost-build", &[]),
    ("raft", &["proto", "mutant"]),
    ("bolt", &["disk", "mutant"]),
    ("wal", &["disk", "proto", "mutant"]),
    ("state-machine", &["bolt", "disk", "proto", "mutant"]),
    ("replica", &["raft", "wal", "state-machine", "disk", "proto", "mutant"]),
    ("server", &["replica", "disk", "proto", "ctl"]),
    ("ctl", &["proto", "bolt", "wal", "state-machine", "disk"]),
    ("quorate", &["server", "ctl", "mutant"]),
    ("simulator", &["replica", "disk", "proto", "mutant"]),
    ("simulator-operator", &["quorate", "mutant"]),
    ("e2e", &[]),
];

/// Crates that know no clock, no thread, no socket and no randomness: the pure machines.
const PURE: &[&str] = &[
    "crates/raft/src",
    "crates/state-machine/src",
    "crates/replica/src",
    "src/plan",
];
const IMPURE: &[&str] = &[
    "tokio::",
    "SystemTime::now",
    "Instant::now",
    "thread::spawn",
    " rand::",
    "std::net",
    "std::env",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    found.sort();
    found
}

/// The part of a file before its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn crates_use_only_what_the_architecture_allows() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if ours.contains(used) && dependency["path"].is_string() && !for_tests && !allowed.contains(&used) {
                wrong.push(format!("{name} -> {used}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that ARCHITECTURE.md does not have:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_operators_library_does_not_know_the_server() {
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    let mut wrong = Vec::new();
    for path in found.iter().filter(|path| !path.ends_with("src/main.rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for name in [
                "server::",
                "replica::",
                "state_machine::",
                "bolt::",
                "wal::",
                "raft::",
                "ctl::",
            ] {
                let used = line
                    .trim_start()
                    .strip_prefix("use ")
                    .is_some_and(|rest| rest.starts_with(name));
                if used {
                    wrong.push(format!("{}: {line}", path.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "the operator knows members through etcd's API alone:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn pure_machines_stay_pure() {
    let mut wrong = Vec::new();
    for dir in PURE {
        let mut found = Vec::new();
        sources(&root().join(dir), &mut found);
        assert!(!found.is_empty(), "{dir} has moved: change this test");
        // Tests, and the planner's test model of a cluster, may make chance and time for the machine.
        let is_test = |path: &Path| {
            path.iter()
                .any(|part| ["tests", "tests.rs", "model", "model.rs"].contains(&&*part.to_string_lossy()))
        };
        for path in found.iter().filter(|path| !is_test(path.strip_prefix(root()).unwrap())) {
            let text = std::fs::read_to_string(path).unwrap();
            for line in without_tests(&text)
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
            {
                if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                    wrong.push(format!("{}: {word} in: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "time and chance enter these as values:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_module_opens_with_what_it_is() {
    let wrong: Vec<_> = all_sources()
        .into_iter()
        .filter(|path| !std::fs::read_to_string(path).unwrap().starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(
        wrong.is_empty(),
        "these do not begin with a //! line:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn there_is_no_drawer_for_odds_and_ends() {
    let wrong: Vec<_> = all_sources()
        .into_iter()
        .filter(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let is_drawer = |name: &str| ["common", "utils", "util", "types", "helpers", "misc"].contains(&name);
            is_drawer(&name)
                || path
                    .components()
                    .any(|part| is_drawer(&part.as_os_str().to_string_lossy()))
        })
        .filter(|path| path.starts_with(root()) && !path.to_string_lossy().contains("/proto/"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(
        wrong.is_empty(),
        "a shared type lives with its owner:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn nothing_committed_names_a_machine_or_a_registry() {
    let mut grep = Command::new("git");
    grep.args([
        "grep",
        "-nIE",
        concat!("(/wo", "rk/|/ro", "ot/|index\\.cra", "tes\\.io|proxy\\.gol", "ang)"),
    ]);
    let Ok(output) = grep.current_dir(root()).output() else {
        return;
    };
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        found.is_empty(),
        "paths of one machine or hosts of registries:\n{found}"
    );
}

#[test]
fn the_operator_waits_by_its_own_clock_alone() {
    let mut found = Vec::new();
    for part in ["operator", "platform/kubernetes", "member"] {
        found.push(root().join(format!("src/{part}.rs")));
        sources(&root().join("src").join(part), &mut found);
    }
    // What runs inside pods is not the operator.
    found.retain(|path| !path.ends_with("volume.rs"));
    let mut wrong = Vec::new();
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        let banned = ["tokio::time::", "Instant::now()", "SystemTime::now", ".elapsed()"];
        for line in without_tests(&text)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            if banned.iter().any(|banned| line.contains(banned)) {
                wrong.push(format!("{}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "use crate::clock, or the surroundings:\n{}",
        wrong.join("\n")
    );
}
