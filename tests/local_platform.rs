//! The local platform as a user runs it: the program itself, a manifest, a directory. Members are our own server.
//!
//! One cluster goes through all of it, because a cluster takes seconds to make: bootstrap, a refused edit, the operator
//! killed and started again, a member killed, a directory deleted, down, up again. What is acknowledged is read back.

#![cfg(feature = "local")]

mod bench;

use bench::Bench;
use etcd_client::{Client, GetOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quorate::api::status::EtcdClusterStatus;
use quorate::certificates::Pair;
use quorate::member::{Access, connect};
use quorate::platform::local::process::Process;
use std::path::Path;
use std::time::{Duration, Instant};

/// A step that takes longer has failed. Generous: the machine may be shared.
const PATIENCE: Duration = Duration::from_secs(60);

impl Bench {
    fn manifest(&self, replicas: &str) {
        let text = format!(
            "apiVersion: quorate.dev/v1alpha1\nkind: EtcdCluster\nmetadata:\n  name: db\nspec:\n  replicas: {replicas}\n"
        );
        self.write_manifest(&text);
    }

    fn status(&self) -> Option<EtcdClusterStatus> {
        serde_yaml::from_str(&std::fs::read_to_string(self.cluster().join("status.yaml")).ok()?).ok()
    }

    fn wait(&self, what: &str, done: impl Fn(&EtcdClusterStatus) -> bool) -> EtcdClusterStatus {
        let (begun, end) = (Instant::now(), Instant::now() + PATIENCE);
        loop {
            if let Some(status) = self.status().filter(|status| done(status)) {
                println!("{what} after {:.1} s", begun.elapsed().as_secs_f64());
                return status;
            }
            if Instant::now() > end {
                panic!(
                    "waited for {what}; status {:#?}\noperator:\n{}",
                    self.status(),
                    self.log()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn process(&self, member: &str) -> Option<Process> {
        let text = std::fs::read(self.cluster().join("members").join(member).join("pid")).ok()?;
        serde_json::from_slice::<Process>(&text).ok().filter(Process::alive)
    }

    fn endpoints(&self) -> Vec<String> {
        let env = std::fs::read_to_string(self.cluster().join("client.env")).expect("client.env");
        let line = env
            .lines()
            .find_map(|line| line.strip_prefix("export ETCDCTL_ENDPOINTS="))
            .expect("endpoints");
        line.split(',').map(str::to_owned).collect()
    }

    async fn client(&self) -> Client {
        let read = |name: &str| std::fs::read_to_string(self.cluster().join("tls").join(name)).expect("TLS file");
        let identity = Pair {
            certificate: read("client.crt"),
            key: read("client.key"),
        };
        let access = Access {
            authorities: read("ca.crt"),
            identity,
        };
        let endpoints = self.endpoints();
        let list: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        connect(&list, Some(&access)).await.expect("connects")
    }

    /// Writes keys until one is acknowledged for each number; a failed try is done again.
    async fn write(&self, numbers: std::ops::Range<u32>) {
        let end = Instant::now() + PATIENCE;
        for number in numbers {
            loop {
                let mut client = self.client().await;
                let put = client.put(format!("key-{number}"), format!("{number}"), None);
                match tokio::time::timeout(Duration::from_secs(3), put).await {
                    Ok(Ok(_)) => break,
                    other => assert!(Instant::now() < end, "write {number}: {other:?}"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn count(&self) -> i64 {
        let options = GetOptions::new().with_prefix().with_count_only();
        self.client()
            .await
            .get("key-", Some(options))
            .await
            .expect("reads")
            .count()
    }
}

fn settled(status: &EtcdClusterStatus) -> bool {
    status.replicas == 3
        && status.ready_replicas == 3
        && status.members.len() == 3
        && status.plan.as_ref().is_some_and(|plan| plan.next_action == "Settled")
}

/// Moved first, so that it vanishes at once: the operator may be writing into it.
fn remove(path: &Path, away: &Path) {
    std::fs::rename(path, away).expect("moves");
    std::fs::remove_dir_all(away).expect("removes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lives_through_what_happens_on_a_machine() {
    let mut bench = Bench::new();

    bench.manifest("4");
    let refused = bench.quorate(&[
        "plan",
        "-f",
        bench.directory.path().join("db.yaml").to_str().expect("utf-8"),
        "--dir",
    ]);
    assert!(!refused.0 && refused.1.contains("spec.replicas"), "{}", refused.1);

    bench.manifest("3");
    bench.up();
    bench.wait("bootstrap", settled);
    bench.write(0..20).await;

    // Another operator is turned away, and a bad edit changes nothing.
    let second = {
        let file = bench.directory.path().join("db.yaml");
        bench.quorate(&["local", "up", "-f", file.to_str().expect("utf-8"), "--dir"])
    };
    assert!(!second.0 && second.1.contains("another operator"), "{}", second.1);
    bench.manifest("two");
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        bench
            .operator
            .as_mut()
            .expect("runs")
            .try_wait()
            .expect("waits")
            .is_none(),
        "it must go on"
    );
    bench.manifest("3");

    // The operator is killed: members do not notice, and the next operator finds them again.
    let members: Vec<String> = bench
        .wait("status", settled)
        .members
        .into_iter()
        .map(|m| m.name)
        .collect();
    let pids: Vec<_> = members.iter().map(|member| bench.process(member)).collect();
    let mut operator = bench.operator.take().expect("runs");
    operator.kill().expect("kills");
    operator.wait().expect("waits");
    bench.write(20..30).await;
    std::fs::remove_file(bench.cluster().join("status.yaml")).expect("removes");
    bench.up();
    bench.wait("the next operator", settled);
    assert_eq!(
        pids,
        members.iter().map(|member| bench.process(member)).collect::<Vec<_>>(),
        "none was restarted"
    );

    // A member is killed: it comes back on its own data.
    let killed = bench.process(&members[0]).expect("runs");
    kill(Pid::from_raw(killed.pid), Signal::SIGKILL).expect("kills");
    let name = members[0].clone();
    bench.wait("the killed member", |status| {
        settled(status)
            && bench.process(&name).is_some_and(|process| process.pid != killed.pid)
            && status.members.iter().any(|member| member.name == name)
    });
    bench.write(30..40).await;

    // A member's directory is deleted: it is replaced under another name.
    let lost = members[1].clone();
    remove(
        &bench.cluster().join("members").join(&lost),
        &bench.directory.path().join("away"),
    );
    bench.wait("the replacement", |status| {
        settled(status) && status.members.iter().all(|member| member.name != lost)
    });
    assert_eq!(bench.count().await, 40);

    // Down keeps the data, up resumes it.
    let (stopped, said) = bench.quorate(&["local", "down", "--dir"]);
    assert!(stopped, "{said}");
    bench.operator.take().expect("ran").wait().expect("has ended");
    std::fs::remove_file(bench.cluster().join("status.yaml")).expect("removes");
    bench.up();
    bench.wait("the same cluster again", settled);
    assert_eq!(bench.count().await, 40);
    let (shown, table) = bench.quorate(&["local", "status", "--dir"]);
    assert!(shown && table.contains("3/3 ready"), "{table}");
}
