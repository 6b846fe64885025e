//! `kubectl quorate` on a cluster of the local platform: everything that it shows, and everything that it asks for.
//!
//! One cluster goes through all of it. On Kubernetes the same commands take another way to the objects and to the members.

#![cfg(feature = "local")]

mod bench;

use bench::Bench;
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// A step that takes longer has failed. Generous: the machine may be shared.
const PATIENCE: Duration = Duration::from_secs(120);

impl Bench {
    fn manifest(&self, options: &str) {
        let text = format!(
            "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata: {{name: db}}\nspec:\n  replicas: 3\n  \
             updateStrategy: {{minReadySeconds: 1}}\n  maintenance: {{defrag: {{settle: 1s}}}}\n{options}---\n\
             apiVersion: quorate.dev/v1alpha1\nkind: EtcdBackup\nmetadata: {{name: daily}}\nspec:\n  clusterRef: {{name: db}}\n  \
             schedule: '0 3 * * *'\n  destination: {{directory: {{path: backups}}}}\n"
        );
        self.write_manifest(&text);
    }

    /// Runs the plugin, by the name that kubectl calls it with: whether it succeeded, stdout, stderr.
    fn plugin(&self, arguments: &[&str]) -> (bool, String, String) {
        let link = self.directory.path().join("kubectl-quorate");
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quorate"), &link).expect("links");
        }
        let output = Command::new(link)
            .args(arguments)
            .arg("--dir")
            .arg(self.root())
            .output()
            .expect("runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let begun = Instant::now();
        let (good, out, err) = self.plugin(arguments);
        assert!(good, "{arguments:?}: {out}{err}\noperator:\n{}", self.log());
        println!("{arguments:?} took {:.1} s", begun.elapsed().as_secs_f64());
        out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        let out = self.ok(&arguments);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    fn wait(&self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            if self.cluster().join("status.yaml").exists() {
                let status = self.json(&["status"])[0]["status"].take();
                if done(&status) {
                    return status;
                }
            }
            assert!(Instant::now() < end, "waited for {what}\noperator:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn etcdctl(&self, arguments: &[&str]) -> (bool, String) {
        let env = std::fs::read_to_string(self.cluster().join("client.env")).expect("client.env");
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.arg("etcdctl").args(arguments);
        for line in env.lines().filter_map(|line| line.strip_prefix("export ")) {
            let (name, value) = line.split_once('=').expect("a variable");
            command.env(name, value.trim_matches(['"', '\'']));
        }
        let output = command.output().expect("runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

fn settled(status: &Value) -> bool {
    status["readyReplicas"] == 3 && status["plan"]["nextAction"] == "Settled"
}

fn names(status: &Value) -> Vec<String> {
    let members = status["members"].as_array().expect("members");
    members
        .iter()
        .map(|member| member["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn the_plugin_shows_and_asks() {
    let mut bench = Bench::new();
    bench.manifest("");
    let (good, _, said) = bench.plugin(&["status"]);
    assert!(!good && said.contains("no such directory"), "{said}");
    bench.up();
    let status = bench.wait("bootstrap", settled);
    let members = names(&status);
    for number in 0..150 {
        let (good, said) = bench.etcdctl(&["put", &format!("/registry/pods/default/p{number}"), "x"]);
        assert!(good, "{said}");
    }
    let (good, said) = bench.etcdctl(&["put", "/registry/events/default/e", &"y".repeat(100_000)]);
    assert!(good, "{said}");

    // What is shown.
    let text = bench.ok(&["status"]);
    for word in [
        "db: Running",
        "3 of 3 voters",
        "CERT DAYS",
        "(leads)",
        "daily (0 3 * * *)",
        members[0].as_str(),
    ] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colours for a pipe");
    let text = bench.ok(&["explain", "db"]);
    assert!(
        text.contains("next: nothing, the cluster is as wanted") && text.contains("last events"),
        "{text}"
    );
    let top = bench.json(&["top"]);
    assert_eq!(top["keys"], 151);
    assert_eq!(top["prefixes"][0]["prefix"], "/registry/events/");
    assert_eq!(top["prefixes"][1]["keys"], 150);
    let (good, _, said) = bench.plugin(&["explain", "other"]);
    assert!(!good && said.contains("there is no cluster other"), "{said}");
    let (good, _, said) = bench.plugin(&["status", "--endpoints", "http://127.0.0.1:1"]);
    assert!(!good && said.contains("cannot be used with"), "{said}");

    // A backup, and what it would bring back.
    let (good, _, said) = bench.plugin(&["restore", "--plan"]);
    assert!(!good && said.contains("no verified backup"), "{said}");
    let backup = bench.json(&["backup"]);
    assert_eq!(backup["status"]["phase"], "Completed");
    assert_eq!(backup["status"]["verified"]["keys"], 151);
    let plan = bench.json(&["restore", "--plan", "--into", "again"]);
    assert_eq!(plan["backup"], backup["name"]);
    assert_eq!(plan["manifest"]["metadata"]["name"], "again");
    assert_eq!(
        plan["manifest"]["spec"]["bootstrap"]["restore"]["backupRef"]["name"],
        backup["name"]
    );
    let text = bench.ok(&["restore", "--plan"]);
    assert!(
        text.contains("# careful: db serves") && text.contains("kind: EtcdCluster"),
        "{text}"
    );

    doctor_finds_nothing(&bench);

    // What is asked for happens, and is told when it has.
    let from = status["leader"].as_str().expect("a leader");
    let to = members.iter().find(|name| *name != from).expect("another");
    let moved = bench.json(&["move-leader", "--to", to]);
    assert_eq!(
        (&moved["leader"], &moved["done"]),
        (&Value::from(to.as_str()), &Value::from(true))
    );
    let (good, _, said) = bench.plugin(&["move-leader", "--to", "nobody"]);
    assert!(!good && said.contains("no voter of db"), "{said}");
    let before = std::fs::read_to_string(bench.cluster().join("events.log")).expect("events");
    bench.ok(&["defrag"]);
    let after = std::fs::read_to_string(bench.cluster().join("events.log")).expect("events");
    let defragmented = after[before.len()..].matches("Defragment ").count();
    assert_eq!(defragmented, 3, "{}", &after[before.len()..]);
    let replaced = bench.json(&["replace", "--member", &members[0]]);
    assert!(
        !replaced["members"]
            .as_array()
            .expect("members")
            .contains(&members[0].as_str().into())
    );
    assert_eq!(bench.json(&["top"])["keys"], 151);

    what_fills_a_database_is_told(&bench);
}

/// Everything passes that does not depend on how fast this machine's disk is; what cannot be seen is said to be unseen.
fn doctor_finds_nothing(bench: &Bench) {
    let (_, out, said) = bench.plugin(&["doctor", "-o", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{said}"));
    let findings = report["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 26);
    for finding in findings {
        let (check, verdict) = (
            finding["check"].as_str().expect("a check"),
            finding["verdict"].as_str().expect("a verdict"),
        );
        let timing =
            check.contains("duration_seconds") || check.contains("round_trip") || check.contains("--heartbeat");
        let unseen = check.contains("alerts on");
        println!("doctor: {verdict} {check}: {}", finding["seen"]);
        match verdict {
            "pass" => {}
            "unseen" => assert!(unseen || timing, "{finding}"),
            _ => assert!(timing, "{finding}"),
        }
    }
}

/// With a small quota that is exceeded, the operator says what fills the database, and heals it.
fn what_fills_a_database_is_told(bench: &Bench) {
    bench.manifest("  options: {quotaBackendBytes: 16Mi, autoCompactionMode: 'off'}\n");
    bench.wait("the new quota", |status| {
        settled(status) && status["observedGeneration"] == 2
    });
    let value = "z".repeat(120_000);
    let mut refused = false;
    for _ in 0..300 {
        let (good, said) = bench.etcdctl(&["put", "/registry/secrets/default/big", &value]);
        if !good {
            assert!(said.contains("database space exceeded"), "{said}");
            refused = true;
            break;
        }
    }
    assert!(refused, "the quota was never exceeded");
    let path = bench.cluster().join("events.log");
    let end = Instant::now() + PATIENCE;
    let told = loop {
        let events = std::fs::read_to_string(&path).expect("events");
        if let Some(line) = events.lines().find(|line| line.contains("SpaceUsed")) {
            break line.to_owned();
        }
        assert!(Instant::now() < end, "nobody said what fills the database:\n{events}");
        std::thread::sleep(Duration::from_millis(200));
    };
    println!("{told}");
    assert!(told.contains("largest prefixes: /registry/secrets/"), "{told}");
    bench.wait("the cure", |status| {
        let conditions = status["conditions"].as_array().expect("conditions");
        let clear = conditions.iter().find(|condition| condition["type"] == "AlarmsClear");
        settled(status) && clear.is_some_and(|condition| condition["status"] == "True")
    });
    let (good, said) = bench.etcdctl(&["put", "after", "x"]);
    assert!(good, "{said}");
}
