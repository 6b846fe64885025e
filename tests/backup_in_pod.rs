//! `quorate backup` and `quorate restore` as they run in a pod: with a real member, mounted directories, and nothing else.

#![cfg(feature = "local")]

use quorate::api::EtcdBackup;
use quorate::backup::in_pod::Outcome;
use quorate::member::connect;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const QUORATE: &str = env!("CARGO_BIN_EXE_quorate");

struct Served {
    child: Child,
    url: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// One member with 300 keys, some of them deleted.
async fn member(dir: &Path) -> Served {
    let (url, peer) = (free_url(), free_url());
    let child = Command::new(QUORATE)
        .arg("server")
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let served = Served { child, url };
    let end = Instant::now() + Duration::from_secs(60);
    let mut client = loop {
        if let Ok(mut client) = connect(&[&served.url], None).await
            && client.get("ready", None).await.is_ok()
        {
            break client;
        }
        assert!(Instant::now() < end, "the member does not serve");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for n in 0..300 {
        client.put(format!("key-{n:03}"), "v".repeat(n), None).await.unwrap();
    }
    client.delete("key-007", None).await.unwrap();
    served
}

struct Pod {
    root: PathBuf,
}

impl Pod {
    /// The directories that a pod has mounted.
    fn new(root: &Path) -> Pod {
        for directory in ["secrets/seal", "volume", "spool"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::fs::write(root.join("secrets/seal/key"), [3; 32]).unwrap();
        Pod { root: root.to_owned() }
    }

    fn quorate(&self, word: &str, arguments: &[String]) -> Output {
        let mount = |name: &str| format!("--{name}={}", self.root.join(name).display());
        Command::new(QUORATE)
            .arg(word)
            .args([mount("secrets"), mount("volume"), mount("spool")])
            .args(arguments)
            .output()
            .unwrap()
    }

    fn backup(&self, object: &EtcdBackup, endpoint: &str, more: &[String]) -> (Output, Outcome) {
        let result = self.root.join("result");
        let mut arguments = vec![
            format!("--object={}", serde_json::to_string(object).unwrap()),
            "--cluster=db".to_owned(),
            format!("--endpoints={endpoint}"),
            format!("--result={}", result.display()),
        ];
        arguments.extend_from_slice(more);
        let output = self.quorate("backup", &arguments);
        let text = std::fs::read_to_string(&result).unwrap_or_default();
        let outcome = Outcome::parse(&text).unwrap_or_else(|| panic!("{text:?}\n{}", said(&output)));
        (output, outcome)
    }

    fn restore(&self, source: &str, key: &str) -> Output {
        let into = self.root.join("restored.db");
        let arguments = [
            format!("--source={source}"),
            format!("--key={key}"),
            format!("--into={}", into.display()),
        ];
        self.quorate("restore", &arguments)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn object(spec: &str) -> EtcdBackup {
    let mut object = EtcdBackup::new("one", serde_yaml::from_str(spec).unwrap());
    object.metadata.namespace = Some("n".into());
    object
}

const SEALED: &str = "{clusterRef: {name: db}, verify: Restore, \
    destination: {pvc: {claimName: c, subPath: etcd}, encryptionSecretRef: {name: seal}}}";

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_backup_is_opened_in_a_member_restored_with_its_key_alone_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let served = member(dir.path()).await;
    let pod = Pod::new(dir.path());
    let mut object = object(SEALED);
    let (output, outcome) = pod.backup(&object, &served.url, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(outcome.status.phase.as_deref(), Some("Completed"));
    let verified = outcome
        .status
        .verified
        .clone()
        .expect("verified in a throw-away member");
    let artifact = outcome.status.artifact.clone().unwrap();
    assert_eq!((artifact.revision, verified.revision), (302, 302));
    let key = artifact.store["key"].clone();
    assert!(key.ends_with("db/one.db.zst.sealed"), "{key}");

    let stored = std::fs::read(dir.path().join("volume/etcd").join(&key)).unwrap();
    let manifest = std::fs::read_to_string(dir.path().join(format!("volume/etcd/{key}.manifest.json"))).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!((&manifest["liveKeys"], &manifest["format"]), (&299.into(), &2.into()));
    assert_eq!(manifest["encryption"]["keyID"], artifact.store["encryptionKeyID"]);
    assert!(
        !stored.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        "zstd is to be seen: not encrypted"
    );

    let source = serde_json::to_string(&object.spec.destination).unwrap();
    let restored = pod.restore(&source, &key);
    assert!(restored.status.success(), "{}", said(&restored));
    assert!(dir.path().join("restored.db").exists());
    std::fs::remove_file(dir.path().join("restored.db")).unwrap();

    std::fs::write(dir.path().join("secrets/seal/key"), [4; 32]).unwrap();
    let wrong = pod.restore(&source, &key);
    assert!(
        !wrong.status.success() && said(&wrong).contains("encryptionSecretRef"),
        "{}",
        said(&wrong)
    );
    std::fs::write(dir.path().join("secrets/seal/key"), [3; 32]).unwrap();
    let mut bad = stored.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(dir.path().join("volume/etcd").join(&key), bad).unwrap();
    let damaged = pod.restore(&source, &key);
    assert!(
        !damaged.status.success() && said(&damaged).contains("damaged"),
        "{}",
        said(&damaged)
    );
    assert!(
        !dir.path().join("restored.db").exists(),
        "nothing is left of what is damaged"
    );

    object.status = Some(outcome.status);
    let (output, outcome) = pod.backup(&object, &served.url, &["--remove".to_owned()]);
    assert!(output.status.success() && outcome == Outcome::default(), "{outcome:?}");
    assert!(!dir.path().join("volume/etcd").join(&key).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_reported_with_its_field_and_whether_another_try_is_worth_it() {
    let dir = tempfile::tempdir().unwrap();
    let served = member(dir.path()).await;
    let pod = Pod::new(dir.path());
    let cases = [
        (
            "{s3: {bucket: abc, credentialsSecretRef: {name: absent}}}",
            "credentialsSecretRef: there is no Secret",
            false,
        ),
        (
            "{s3: {bucket: abc, endpoint: 'https://169.254.169.254'}}",
            "credentialsSecretRef",
            false,
        ),
        (
            "{directory: {path: /tmp}}",
            "spec.destination.directory: a directory of a machine",
            false,
        ),
        (
            "{pvc: {claimName: c, subPath: ../..}}",
            "destination.pvc.subPath",
            false,
        ),
    ];
    for (destination, wanted, may_pass) in cases {
        let object = object(&format!("{{clusterRef: {{name: db}}, destination: {destination}}}"));
        let (output, outcome) = pod.backup(&object, &served.url, &[]);
        let message = outcome.status.message.unwrap_or_default();
        assert!(
            !output.status.success() && message.contains(wanted),
            "{destination}: {message}"
        );
        assert_eq!(outcome.may_pass, may_pass, "{message}");
    }
    std::fs::create_dir_all(dir.path().join("secrets/s3")).unwrap();
    for entry in ["accessKeyID", "secretAccessKey"] {
        std::fs::write(dir.path().join("secrets/s3").join(entry), "x").unwrap();
    }
    for endpoint in [
        "https://169.254.169.254",
        "https://[::1]:9000",
        "https://localhost:9000",
    ] {
        let destination =
            format!("{{s3: {{bucket: abc, endpoint: '{endpoint}', credentialsSecretRef: {{name: s3}}}}}}");
        let object = object(&format!("{{clusterRef: {{name: db}}, destination: {destination}}}"));
        let (_, outcome) = pod.backup(&object, &served.url, &[]);
        let message = outcome.status.message.unwrap_or_default();
        assert!(
            message.contains("spec.destination.s3.endpoint"),
            "{endpoint}: {message}"
        );
    }
    // Another cluster, and nobody at all.
    let object = object("{clusterRef: {name: db}, destination: {pvc: {claimName: c}}}");
    let (_, outcome) = pod.backup(&object, &served.url, &["--cluster-id=beef".to_owned()]);
    assert!(outcome.status.message.unwrap().contains("belongs to another cluster"));
    let (_, outcome) = pod.backup(&object, &free_url(), &[]);
    assert!(outcome.may_pass && outcome.status.phase.as_deref() == Some("Failed"));
}
