//! Replays, unchanged, the scripts that come with etcd raft 3.7: interactions of whole groups, quorums and configuration
//! changes. Output is compared byte for byte, log lines included.
//!
//! The scripts are read from the Go module and are not part of this repository. Without Go, or without the module, these
//! tests say so and pass.

mod confchange_scripts;
mod datadriven;
mod environment;
mod output;
mod quorum_scripts;

use std::path::PathBuf;
use std::process::Command;

const MODULE: &str = "go.etcd.io/raft/v3@v3.7.0";

/// Where the Go module lies, if Go is there and has it or can get it.
fn module_dir() -> Option<PathBuf> {
    let go = |arguments: &[&str]| {
        let output = Command::new("go")
            .args(arguments)
            .current_dir(std::env::temp_dir())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let dir = PathBuf::from(go(&["env", "GOMODCACHE"])?).join(MODULE);
    if dir.is_dir() {
        return Some(dir);
    }
    go(&["mod", "download", MODULE])?;
    dir.is_dir().then_some(dir)
}

/// Runs every script below `dir` of the module with a fresh `handler` each, and insists on `count` of them.
fn replay<H: FnMut(&datadriven::Directive) -> String>(dir: &str, count: usize, handler: impl Fn() -> H) {
    let Some(module) = module_dir() else {
        println!("skipped: {MODULE} is not there (it needs a Go toolchain)");
        return;
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(module.join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert_eq!(paths.len(), count, "scripts in {dir}");
    let failures: Vec<String> = paths
        .iter()
        .filter_map(|path| datadriven::run(path, handler()).err())
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {count} scripts failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn interaction_scripts() {
    replay("testdata", 28, || {
        let mut environment = environment::Environment::new();
        move |directive: &datadriven::Directive| environment.handle(directive)
    });
}

#[test]
fn quorum_scripts() {
    replay("quorum/testdata", 4, || quorum_scripts::handle);
}

#[test]
fn confchange_scripts() {
    replay("confchange/testdata", 9, || {
        let mut state = confchange_scripts::State::new();
        move |directive: &datadriven::Directive| state.handle(directive)
    });
}
