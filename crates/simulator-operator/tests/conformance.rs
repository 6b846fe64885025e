//! The simulated API server against a real one: random requests to both, and every answer compared.
//!
//! Needs kube-apiserver and etcd in `QUORATE_KUBE_BIN_DIR` (`make kube-tools`); without, it says so and does nothing.
//! `QUORATE_SIM_REQUESTS` is how many requests are made, `QUORATE_SIM_SEED` which.
//!
//! Compared are the code, the reason of a refusal, and the object without what differs by nature: uids, dates, versions,
//! managed fields, and defaults of the real one's kinds.

use http::{Method, Request};
use kube::client::Body;
use rcgen::KeyPair;
use serde_json::{Value, json};
use simulator_operator::api::service::Service;
use simulator_operator::control::Fault;
use simulator_operator::random::Random;
use simulator_operator::world::World;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Real {
    children: Vec<Child>,
    directory: PathBuf,
    client: kube::Client,
}

impl Drop for Real {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn real(bin: &Path) -> Real {
    let directory = std::env::temp_dir().join(format!("quorate-conformance-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let (client_port, peer_port, port) = (free_port(), free_port(), free_port());
    let start = |name: &str, arguments: &[String]| {
        let log = std::fs::File::create(directory.join(format!("{name}.log"))).expect("a log");
        Command::new(bin.join(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("it starts")
    };
    let etcd = format!("http://127.0.0.1:{client_port}");
    let path = |name: &str| directory.join(name).display().to_string();
    let key = KeyPair::generate().expect("a key");
    std::fs::write(directory.join("sa.key"), key.serialize_pem()).expect("written");
    std::fs::write(directory.join("sa.pub"), key.public_key_pem()).expect("written");
    std::fs::write(directory.join("tokens.csv"), "secret,admin,admin,system:masters\n").expect("written");
    let children = vec![
        start(
            "etcd",
            &[
                format!("--data-dir={}", path("etcd")),
                "--unsafe-no-fsync".to_owned(),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            ],
        ),
        start(
            "kube-apiserver",
            &[
                format!("--etcd-servers={etcd}"),
                format!("--secure-port={port}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--cert-dir={}", path("certs")),
                format!("--token-auth-file={}", path("tokens.csv")),
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", path("sa.pub")),
                format!("--service-account-signing-key-file={}", path("sa.key")),
                "--disable-admission-plugins=ServiceAccount".to_owned(),
            ],
        ),
    ];
    let mut config = kube::Config::new(format!("https://127.0.0.1:{port}").parse().expect("a URL"));
    config.accept_invalid_certs = true;
    config.auth_info.token = Some("secret".to_owned().into());
    let client = kube::Client::try_from(config).expect("a client");
    // From here on whatever happens ends what was started.
    let real = Real {
        children,
        directory,
        client,
    };
    let end = std::time::Instant::now() + Duration::from_secs(120);
    while ask(&real.client, Method::GET, "/readyz", None, "").await.0 != 200 {
        let log = std::fs::read_to_string(real.directory.join("kube-apiserver.log")).unwrap_or_default();
        let last = log.lines().last().unwrap_or_default().to_owned();
        assert!(std::time::Instant::now() < end, "kube-apiserver is not ready: {last}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    real
}

async fn ask(client: &kube::Client, method: Method, uri: &str, body: Option<&Value>, content: &str) -> (u16, Value) {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header("accept", "application/json");
    if !content.is_empty() {
        request = request.header("content-type", content);
    }
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = request.body(Body::from(body)).expect("a request");
    match client.send(request).await {
        Ok(answer) => {
            let code = answer.status().as_u16();
            let bytes = answer.into_body().collect_bytes().await.unwrap_or_default();
            (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
        }
        Err(error) => (0, json!(error.to_string())),
    }
}

/// What is known of one side: versions and uids of objects, old ones too.
#[derive(Default)]
struct Side {
    known: BTreeMap<String, Vec<(String, String)>>,
}

impl Side {
    fn note(&mut self, path: &str, value: &Value) {
        let text = |pointer: &str| {
            value
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (version, uid) = (text("/metadata/resourceVersion"), text("/metadata/uid"));
        if !uid.is_empty() {
            let all = self.known.entry(path.to_owned()).or_default();
            if all.last().is_none_or(|(last, _)| *last != version) {
                all.push((version, uid));
            }
        }
    }

    /// The newest, or the one before it.
    fn version(&self, path: &str, old: bool) -> Option<(String, String)> {
        let all = self.known.get(path)?;
        all.get(all.len().checked_sub(if old { 2 } else { 1 })?).cloned()
    }
}

/// An object without what differs by nature.
fn plain(value: &Value) -> Value {
    let mut plain = value.clone();
    if value["kind"] == "Status" {
        return json!({"status": value["status"], "reason": value["reason"]});
    }
    if let Some(metadata) = plain["metadata"].as_object_mut() {
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
            "deletionTimestamp",
        ] {
            metadata.remove(field);
        }
        metadata.retain(|_, value| value.as_object().is_none_or(|map| !map.is_empty()));
        // A kind without a spec has no generation.
        if value["kind"] != "EtcdCluster" {
            metadata.remove("generation");
        }
    }
    plain
}

const CLUSTERS: &str = "/apis/quorate.dev/v1alpha1/namespaces/default/etcdclusters";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn the_simulated_api_server_answers_as_the_real_one() {
    let Some(bin) = std::env::var_os("QUORATE_KUBE_BIN_DIR").map(PathBuf::from) else {
        eprintln!("skipped: QUORATE_KUBE_BIN_DIR names no directory with kube-apiserver and etcd");
        return;
    };
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let real = real(&bin).await;
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "etcdclusters.quorate.dev"},
        "spec": {"group": "quorate.dev", "scope": "Namespaced",
            "names": {"plural": "etcdclusters", "kind": "EtcdCluster", "singular": "etcdcluster", "listKind": "EtcdClusterList"},
            "versions": [{"name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    ask(&real.client, Method::POST, crds, Some(&crd), "application/json").await;
    for _ in 0..100 {
        if ask(&real.client, Method::GET, CLUSTERS, None, "").await.0 == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let world = World::new(1, Fault::None);
    let service = Service { world, caller: 0 };
    let simulated = kube::Client::new(service, "default");

    let mut random = Random::new(number("QUORATE_SIM_SEED", 1));
    let (mut there, mut here) = (Side::default(), Side::default());
    let mut differ = Vec::new();
    let requests = number("QUORATE_SIM_REQUESTS", 400);
    for count in 0..requests {
        let base = if random.below(2) == 0 { CLUSTERS } else { MAPS };
        let cluster = base == CLUSTERS;
        let name = format!("n{}", random.below(3));
        let path = format!("{base}/{name}");
        let (version, kind) = if cluster {
            ("quorate.dev/v1alpha1", "EtcdCluster")
        } else {
            ("v1", "ConfigMap")
        };
        let content = |random: &mut Random| {
            let value = random.below(3).to_string();
            let key = format!("k{}", random.below(3));
            let other = format!("k{}", random.below(3));
            let part = json!({key.clone(): value, other: "x"});
            if cluster {
                json!({"spec": part})
            } else {
                json!({"data": part})
            }
        };
        let finalizers = match random.below(6) {
            0 => Some(json!(["quorate.dev/data"])),
            1 => Some(json!([])),
            _ => None,
        };
        let pins = (random.below(4), random.below(4));
        let manager = format!("m{}", random.below(2));
        let force = if random.below(2) == 0 { "&force=true" } else { "" };
        let what = random.below(9);
        let body = content(&mut random);
        let mut codes = Vec::new();
        for (client, side) in [(&real.client, &mut there), (&simulated, &mut here)] {
            let mut object = body.clone();
            object["apiVersion"] = json!(version);
            object["kind"] = json!(kind);
            object["metadata"] = json!({"name": name});
            if let Some(finalizers) = &finalizers {
                object["metadata"]["finalizers"] = finalizers.clone();
            }
            let pinned = side.version(&path, pins.0 == 0);
            if pins.0 < 2
                && let Some((version, _)) = &pinned
            {
                object["metadata"]["resourceVersion"] = json!(version);
            }
            let update = format!("{path}?fieldManager={manager}");
            let (code, answer) = match what {
                0 | 1 => {
                    if let Some(map) = object["metadata"].as_object_mut() {
                        map.remove("resourceVersion");
                    }
                    let uri = format!("{base}?fieldManager={manager}");
                    ask(client, Method::POST, &uri, Some(&object), "application/json").await
                }
                2 => {
                    if let (false, Some((version, _))) = (pins.0 < 2, side.version(&path, false)) {
                        object["metadata"]["resourceVersion"] = json!(version);
                    }
                    ask(client, Method::PUT, &update, Some(&object), "application/json").await
                }
                3 | 4 => {
                    if let Some(map) = object["metadata"].as_object_mut() {
                        map.remove("resourceVersion");
                    }
                    let uri = format!("{update}{force}");
                    ask(
                        client,
                        Method::PATCH,
                        &uri,
                        Some(&object),
                        "application/apply-patch+yaml",
                    )
                    .await
                }
                5 => {
                    ask(
                        client,
                        Method::PATCH,
                        &update,
                        Some(&object),
                        "application/merge-patch+json",
                    )
                    .await
                }
                6 if cluster => {
                    let mut status = json!({"metadata": object["metadata"], "status": object["spec"]});
                    status["apiVersion"] = json!(version);
                    status["kind"] = json!(kind);
                    if let Some(map) = status["metadata"].as_object_mut() {
                        map.remove("finalizers");
                        map.remove("resourceVersion");
                    }
                    let uri = format!("{path}/status?fieldManager={manager}{force}");
                    ask(
                        client,
                        Method::PATCH,
                        &uri,
                        Some(&status),
                        "application/apply-patch+yaml",
                    )
                    .await
                }
                7 => {
                    let mut options =
                        json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
                    if pins.1 < 2
                        && let Some((version, uid)) = side.version(&path, pins.1 == 0)
                    {
                        options["preconditions"] = json!({"uid": uid, "resourceVersion": version});
                    }
                    ask(client, Method::DELETE, &path, Some(&options), "application/json").await
                }
                _ => ask(client, Method::GET, &path, None, "").await,
            };
            side.note(&path, &answer);
            codes.push((code, answer));
        }
        let words = [
            "create", "create", "replace", "apply", "apply", "merge", "status", "delete", "get",
        ];
        let word = words[usize::try_from(what).unwrap_or(8)];
        let [(a, there_said), (b, here_said)] = codes.as_slice() else {
            unreachable!("two sides")
        };
        // 201 and 200 are told apart by who made it; the operator takes both.
        let alike = a / 100 == b / 100 && (a == b || a / 100 == 2);
        let same = word == "delete" || plain(there_said) == plain(here_said);
        if !alike || !same {
            differ.push(format!(
                "{count} {word} {path} {body} finalizers {finalizers:?} pins {pins:?} {manager}{force}\n  real      {a} {}\n  simulated {b} {}",
                if *a >= 400 { there_said.clone() } else { plain(there_said) },
                if *b >= 400 { here_said.clone() } else { plain(here_said) }
            ));
            if differ.len() > 5 {
                break;
            }
        }
    }
    assert!(
        differ.is_empty(),
        "{} of {requests} answers differ:\n{}",
        differ.len(),
        differ.join("\n")
    );
    println!("{requests} requests, every answer alike");
}
