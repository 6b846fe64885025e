//! Leader election, the guard, watches and events against a real API server: that of QUORATE_TEST_KUBECONFIG. Without
//! the variable nothing here runs, and says so.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference};
use k8s_openapi::api::events::v1::Event as Written;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use quorate::operator::events::Recorder;
use quorate::operator::guard::Guard;
use quorate::operator::lease::{Election, Gate, Terms};
use quorate::operator::metrics::Metrics;
use quorate::operator::pulse::Pulses;
use quorate::operator::watches::{Cache, Watches};
use quorate::platform::Event;
use quorate::platform::surroundings::Machine;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The API server to test against, and a namespace of one's own.
struct Cluster {
    config: Config,
    client: Client,
    namespace: String,
}

impl Cluster {
    async fn open() -> Option<Cluster> {
        let Some(file) = std::env::var_os("QUORATE_TEST_KUBECONFIG") else {
            eprintln!("skipped: QUORATE_TEST_KUBECONFIG names no API server");
            return None;
        };
        let kubeconfig = Kubeconfig::read_from(file).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        let namespace = format!("quorate-test-{:08x}", rand_suffix());
        let mut object = Namespace::default();
        object.metadata.name = Some(namespace.clone());
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        Some(Cluster {
            config,
            client,
            namespace,
        })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn close(self) {
        let api: Api<Namespace> = Api::all(self.client);
        api.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }
}

fn rand_suffix() -> u32 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    now.subsec_nanos() ^ std::process::id()
}

fn map(name: &str) -> ConfigMap {
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.into());
    map
}

fn quick(identity: &str) -> Terms {
    Terms {
        duration: Duration::from_secs(3),
        deadline: Duration::from_secs(2),
        retry: Duration::from_millis(300),
        ..Terms::new("operator", identity)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_a_release_hands_over_at_once_and_a_silent_one_is_replaced_after_its_gate_shut() {
    let Some(cluster) = Cluster::open().await else { return };
    let (gate_a, gate_b) = (Gate::default(), Gate::default());
    let election = |identity: &str, gate: &Gate| {
        Election::new(cluster.api::<Lease>(), quick(identity), gate.clone(), Arc::new(Machine))
    };
    let (mut a, mut b) = (election("a", &gate_a), election("b", &gate_b));
    a.win().await;
    assert!(gate_a.open() && !gate_b.open());
    let patience = Duration::from_secs(5);
    tokio::select! {
        lost = a.keep() => panic!("a renews: {lost}"),
        () = b.win() => panic!("b took a lease that is renewed"),
        () = tokio::time::sleep(patience) => {}
    }
    a.release().await;
    let begun = Instant::now();
    b.win().await;
    println!("a release is seen after {:?}", begun.elapsed());
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "b did not wait for the lease to expire"
    );
    assert!(!gate_a.open() && gate_b.open());
    // b falls silent; a takes over, and by then the gate of b has been shut.
    let mut a = election("a", &gate_a);
    a.win().await;
    assert!(gate_a.open() && !gate_b.open(), "two at once");
    // b wakes up and finds out.
    let lost = b.keep().await;
    assert!(lost.contains('a'), "{lost}");
    let lease = cluster.api::<Lease>().get("operator").await.unwrap();
    let spec = lease.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("a"));
    assert!(spec.lease_transitions >= Some(2), "{:?}", spec.lease_transitions);
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_a_shut_gate_reads_and_does_not_write() {
    let Some(cluster) = Cluster::open().await else { return };
    let guard = Guard::new(Gate::default(), Arc::new(Metrics::default()));
    let client = ClientBuilder::try_from(cluster.config.clone())
        .unwrap()
        .with_layer(&guard)
        .build();
    let maps: Api<ConfigMap> = Api::namespaced(client, &cluster.namespace);
    maps.list(&ListParams::default()).await.unwrap();
    let error = maps.create(&PostParams::default(), &map("m")).await.unwrap_err();
    assert!(error.to_string().contains("does not hold the lease"), "{error}");
    assert!(cluster.api::<ConfigMap>().get_opt("m").await.unwrap().is_none());
    cluster.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_follows_and_the_same_sentence_is_one_event() {
    let Some(cluster) = Cluster::open().await else { return };
    let maps: Api<ConfigMap> = cluster.api();
    maps.create(&PostParams::default(), &map("before")).await.unwrap();
    let cache = Cache::<ConfigMap>::default();
    let changes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&changes);
    let namespaces = [cluster.namespace.clone()];
    let mut watches = Watches::new(
        cluster.client.clone(),
        &namespaces,
        Arc::new(Metrics::default()),
        Pulses::default(),
    );
    watches.keep(&cache, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    watches.ready().await;
    let names = || -> Vec<String> {
        let all = cache.all().iter().map(|map| map.name_any()).collect::<Vec<_>>();
        all.into_iter().filter(|name| name != "kube-root-ca.crt").collect()
    };
    assert_eq!(names(), ["before"]);
    maps.create(&PostParams::default(), &map("later")).await.unwrap();
    maps.delete("before", &DeleteParams::default()).await.unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while names() != ["later"] {
        assert!(Instant::now() < end, "{:?}", names());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(changes.load(Ordering::SeqCst) >= 3);

    let recorder = Recorder::new(cluster.client.clone(), "test", Arc::new(Machine));
    let about = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("ConfigMap".into()),
        name: Some("later".into()),
        namespace: Some(cluster.namespace.clone()),
        uid: Some("u".into()),
        ..ObjectReference::default()
    };
    for message in ["one", "one", "one", "two"] {
        let event = Event {
            normal: true,
            reason: "Test".to_owned(),
            message: message.to_owned(),
        };
        recorder.tell(&about, &event).await;
    }
    let events = cluster.api::<Written>().list(&ListParams::default()).await.unwrap();
    let mut notes: Vec<_> = events.items.into_iter().filter_map(|event| event.note).collect();
    notes.sort();
    assert_eq!(notes, ["one", "two"]);
    cluster.close().await;
}
