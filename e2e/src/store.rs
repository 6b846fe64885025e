//! A real Kubernetes that keeps everything in three of our members, with TLS: two API servers, controllers and, unless
//! `--nodes 0`, kubelets. While the leader is killed and another stalls, objects are created, changed, deleted, watched and
//! listed by pages through both API servers.
//!
//! Invariants:
//! 1. The two watches of a kind go to two API servers, each of which watches etcd for itself: what they agree on is etcd's.
//! 2. Every list is compared with the state that the events up to its revision make, so it need not be taken in peace.
//! 3. A request may be asked again once, three seconds after it failed, and no more.

mod ask;
mod judge;
mod plain;
mod watch;
mod work;

use crate::kube::lab::Lab;
use crate::process::Programs;
use crate::report::Report;
use crate::servers::{Servers, Tls};
use anyhow::Context;
use ask::Servers as Apis;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use work::{Amount, Done};

/// How much is done, and where.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory of kube-apiserver, kubectl and the others; e2e/tools/build.sh DIR etcd kube makes DIR/bin.
    #[arg(long, env = "QUORATE_KUBE_BIN_DIR")]
    kube_bin_dir: PathBuf,
    /// Directory of the cluster's state.
    #[arg(long, env = "QUORATE_STORE_STATE", default_value = "/tmp/quorate-store")]
    state: PathBuf,
    /// Nodes with kubelet, kube-proxy and containerd; with 0 there is the control plane alone.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// ConfigMaps that are created.
    #[arg(long, default_value_t = 5_000)]
    config_maps: usize,
    /// Leases (coordination.k8s.io) that are created, and renewed once.
    #[arg(long, default_value_t = 1_000)]
    leases: usize,
    /// Run real etcd in place of ours, for comparison.
    #[arg(long)]
    etcd: bool,
    /// This process is on the network of the control plane: set by the suite itself.
    #[arg(long, hide = true)]
    inside: bool,
}

/// Where everything of this suite is made.
const NAMESPACE: &str = "store";
/// Between two compactions by the API server; it compacts to where it was one interval before.
const COMPACTION: &str = "20s";
/// How long the objects of kind Event live, by leases of etcd.
const EVENT_TTL: &str = "20s";

/// Runs the suite: the network first, and everything else again below it.
pub async fn suite(programs: &Programs, options: &Options) -> anyhow::Result<bool> {
    let lab = Lab::new(&options.kube_bin_dir, &options.state)?;
    if options.inside {
        return inside(programs, options, lab).await;
    }
    lab.script(&["down"], Duration::from_secs(120)).await?;
    lab.script(&["net"], Duration::from_secs(30)).await?;
    let mut again = vec!["in".to_owned(), "0".to_owned()];
    again.push(std::env::current_exe()?.to_string_lossy().into_owned());
    again.push(format!("--server={}", programs.server.display()));
    again.extend(
        programs
            .etcd
            .iter()
            .map(|dir| format!("--etcd-bin-dir={}", dir.display())),
    );
    again.extend(["kubernetes-store".to_owned(), "--inside".to_owned()]);
    again.push(format!("--kube-bin-dir={}", options.kube_bin_dir.display()));
    again.push(format!("--state={}", options.state.display()));
    again.push(format!("--nodes={}", options.nodes));
    again.push(format!("--config-maps={}", options.config_maps));
    again.push(format!("--leases={}", options.leases));
    again.extend(options.etcd.then(|| "--etcd".to_owned()));
    let good = lab.go_on(&again).await;
    if std::env::var_os("QUORATE_E2E_KEEP").is_none() {
        lab.script(&["down"], Duration::from_secs(120)).await?;
    }
    good
}

/// aescbc for Secrets, with a key of this run.
fn encryption(file: &Path) -> anyhow::Result<()> {
    let key: [u8; 32] = rand::random();
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers:\n  - aescbc: {{keys: [{{name: key1, secret: {}}}]}}\n  - identity: {{}}\n",
        plain::base64(&key)
    );
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

async fn inside(programs: &Programs, options: &Options, lab: Lab) -> anyhow::Result<bool> {
    let mut report = Report::new("kubernetes-store");
    let directory = options.state.join("etcd");
    let tls = directory.join("tls");
    let program = if options.etcd {
        programs.upstream("etcd")?
    } else {
        programs.server.clone()
    };
    let mut members = Servers::with_tls(&directory, &vec![program; 3], &[], Some(Tls::new(&tls)?))?;
    members.start_all().await?;

    let secrets = directory.join("encryption.yaml");
    encryption(&secrets)?;
    let began = Instant::now();
    let endpoints = members.access().endpoints.join(",");
    let flags = format!(
        "--encryption-provider-config={} --etcd-compaction-interval={COMPACTION} --event-ttl={EVENT_TTL}",
        secrets.display()
    );
    let lab = lab.with_environment(&[
        ("ETCD_SERVERS", &endpoints),
        ("ETCD_TLS", &tls.to_string_lossy()),
        ("APISERVERS", "2"),
        ("APISERVER_FLAGS", &flags),
    ]);
    let nodes = options.nodes.to_string();
    lab.script(&["up", &nodes], Duration::from_secs(500))
        .await
        .with_context(|| members.last_words())?;
    report.figure(
        "two API servers and the nodes are ready after",
        format!("{:.0} s, {} nodes", began.elapsed().as_secs_f64(), options.nodes),
    );
    let apis = Apis::new(&options.state.join("admin.kubeconfig")).await?;
    apis.namespace(NAMESPACE).await?;
    if options.nodes > 0 {
        let seen = work::roll_out(&lab).await;
        report.check("a Deployment, a Job and a Service work on the nodes", seen);
    }
    let plain = plain::Secrets::create(&apis).await?;

    let amount = Amount {
        config_maps: options.config_maps,
        leases: options.leases,
        restart_pods: options.nodes > 0,
    };
    let done: anyhow::Result<Done> = work::run(&apis, &mut members, &lab, amount).await;
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            report.check::<String>("the work is done", Err(error));
            report.figure("members", members.last_words());
            return Ok(report.end());
        }
    };
    report.check("a member killed and one stalled meanwhile", Ok(done.faults.clone()));
    report.check("no request fails beyond one retry", done.requests());
    report.check(
        "two watches of ConfigMaps agree, event by event",
        judge::same_events(&done.config_maps),
    );
    report.check(
        "two watches of Leases agree, event by event",
        judge::same_events(&done.leases),
    );
    report.check(
        "every acknowledged change was told to both",
        judge::all_told(&done.config_maps, &done.leases),
    );
    report.check(
        "every list by pages is the state at its revision",
        judge::lists(&done.config_maps).and_then(|seen| Ok(format!("{seen}; {}", judge::lists(&done.leases)?))),
    );
    if options.nodes > 0 {
        let seen = work::rolled_out(&lab).await;
        report.check("the Deployment rolled on meanwhile, its Service answers", seen);
    }
    report.check("Secrets are read through the API and lie as ciphertext", {
        plain.ciphertext(&apis, &members).await
    });
    report.check(
        "the API server's own compaction ran",
        judge::compacted(&members.access()).await,
    );
    report.check("Events are gone with their leases", apis.events_gone().await);
    report.check("all members have the same content", members.access().equal_hash().await);
    for (what, value) in apis.figures().await? {
        report.figure(&what, value);
    }
    report.figure("requests", done.speed());
    Ok(report.end())
}
