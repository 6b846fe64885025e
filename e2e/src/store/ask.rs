//! The API servers, and requests that are asked again once.

use anyhow::{Context, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret};
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::NAMESPACE;

/// As long as the API server itself takes for a request at most.
const REQUEST: Duration = Duration::from_secs(60);
/// Before a request is asked again: an election takes up to two seconds, and what is asked during it is lost with etcd as with us.
const PAUSE: Duration = Duration::from_secs(3);

/// Clients of both API servers.
#[derive(Clone)]
pub struct Servers {
    /// One each.
    pub clients: [Client; 2],
}

/// What became of the requests of one run.
#[derive(Debug)]
pub struct Requests {
    /// When the first was made.
    began: Instant,
    /// All that were made, retries not counted.
    pub made: AtomicUsize,
    /// Those that were asked twice.
    pub retried: AtomicUsize,
    /// First errors of those.
    pub reasons: Mutex<Vec<String>>,
    /// Those that failed twice.
    pub failed: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests {
            began: Instant::now(),
            made: AtomicUsize::new(0),
            retried: AtomicUsize::new(0),
            reasons: Mutex::default(),
            failed: Mutex::default(),
            slowest: Mutex::default(),
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Asked<T> {
    /// It was answered.
    Answered(T),
    /// The second try found that the first had its effect.
    Before,
    /// It failed twice.
    Failed,
}

/// Whether an answer says so: 404, 409, 410.
pub fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

impl Requests {
    /// Asks, and once more after a failure. `fine` says which errors are an answer to a second try: the first had its effect.
    pub async fn once_more<T, F: Future<Output = kube::Result<T>>>(
        &self,
        what: &str,
        fine: impl Fn(&kube::Error) -> bool,
        mut ask: impl FnMut() -> F,
    ) -> Asked<T> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let begin = Instant::now();
        let mut answer = tokio::time::timeout(REQUEST, ask()).await;
        if !matches!(answer, Ok(Ok(_))) {
            let took = begin.elapsed().as_secs_f64();
            let at = self.began.elapsed().as_secs_f64();
            let reason = format!("{what} after {took:.1} s, at {at:.1} s: {}", why(answer.err_text()));
            self.reasons.lock().expect("no one panics").push(reason);
            self.retried.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
            answer = tokio::time::timeout(REQUEST, ask()).await;
            if let Ok(Err(error)) = &answer
                && fine(error)
            {
                return Asked::Before;
            }
        }
        let mut slowest = self.slowest.lock().expect("no one panics");
        *slowest = slowest.max(begin.elapsed());
        match answer {
            Ok(Ok(value)) => Asked::Answered(value),
            other => {
                let at = self.began.elapsed().as_secs_f64();
                let text = format!("{what}, at {at:.1} s: {}", why(other.err_text()));
                self.failed.lock().expect("no one panics").push(text);
                Asked::Failed
            }
        }
    }

    /// Seconds since they began.
    pub fn elapsed(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// The longest that one took, with its retry.
    pub fn slowest(&self) -> Duration {
        *self.slowest.lock().expect("no one panics")
    }
}

fn why(text: Option<String>) -> String {
    text.map_or_else(
        || format!("no answer within {REQUEST:?}"),
        |text| text.chars().take(200).collect(),
    )
}

trait ErrText {
    fn err_text(&self) -> Option<String>;
}

impl<T> ErrText for Result<kube::Result<T>, tokio::time::error::Elapsed> {
    fn err_text(&self) -> Option<String> {
        match self {
            Ok(Err(kube::Error::Api(status))) => Some(format!("{} {}: {}", status.code, status.reason, status.message)),
            Ok(Err(error)) => Some(format!("{error:?}")),
            _ => None,
        }
    }
}

impl Servers {
    /// Those that cluster.sh started, by the file for administrators.
    pub async fn new(kubeconfig: &Path) -> anyhow::Result<Servers> {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let first = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        let mut second = first.clone();
        let url = first.cluster_url.to_string().replace(":6443", ":6444");
        second.cluster_url = url.parse()?;
        Ok(Servers {
            clients: [Client::try_from(first)?, Client::try_from(second)?],
        })
    }

    /// ConfigMaps at one of them.
    pub fn config_maps(&self, n: usize) -> Api<ConfigMap> {
        Api::namespaced(self.clients[n % 2].clone(), NAMESPACE)
    }

    /// Leases at one of them.
    pub fn leases(&self, n: usize) -> Api<Lease> {
        Api::namespaced(self.clients[n % 2].clone(), NAMESPACE)
    }

    /// Secrets at one of them.
    pub fn secrets(&self, n: usize) -> Api<Secret> {
        Api::namespaced(self.clients[n % 2].clone(), NAMESPACE)
    }

    /// Makes a namespace.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.clients[0].clone());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        api.create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    /// Writes objects of kind Event, which live as long as a lease of etcd.
    pub async fn tell_events(&self, count: usize) -> anyhow::Result<()> {
        let api: Api<Event> = Api::namespaced(self.clients[1].clone(), NAMESPACE);
        for n in 0..count {
            let mut event = Event::default();
            event.metadata.name = Some(format!("told-{n}"));
            event.involved_object.namespace = Some(NAMESPACE.to_owned());
            event.reason = Some("Told".to_owned());
            api.create(&PostParams::default(), &event).await.context("an Event")?;
        }
        Ok(())
    }

    /// Once none of those is left.
    pub async fn events_gone(&self) -> anyhow::Result<String> {
        let begin = Instant::now();
        self.tell_events(100).await?;
        let api: Api<Event> = Api::namespaced(self.clients[0].clone(), NAMESPACE);
        let ours = |list: &kube::api::ObjectList<Event>| {
            let ours = list
                .items
                .iter()
                .filter(|event| event.reason.as_deref() == Some("Told"));
            ours.count()
        };
        let before = ours(&api.list(&ListParams::default()).await?);
        if before < 100 {
            bail!("only {before} of 100 Events are there after they were told");
        }
        loop {
            let left = ours(&api.list(&ListParams::default()).await?);
            if left == 0 {
                let seconds = begin.elapsed().as_secs_f64();
                return Ok(format!(
                    "100 Events with a TTL of {} were gone after {seconds:.0} s",
                    super::EVENT_TTL
                ));
            }
            if begin.elapsed() > Duration::from_secs(120) {
                bail!("{left} of 100 Events are still there after two minutes");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What the API servers say about their store.
    pub async fn figures(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for (n, client) in self.clients.iter().enumerate() {
            let request = http::Request::get("/metrics").body(Vec::new())?;
            let text = client.request_text(request).await?;
            for line in text.lines() {
                let wanted = (line.starts_with("apiserver_watch_cache_consistent_read_total")
                    && (line.contains("configmaps") || line.contains("leases")))
                    || line.starts_with("apiserver_storage_events_received_total") && line.contains("configmaps")
                    || line.starts_with("apiserver_terminated_watchers_total")
                    || line.starts_with("etcd_request_errors_total")
                        && (line.contains("configmaps") || line.contains("leases"))
                    || line.starts_with("apiserver_watch_cache_initializations_total") && line.contains("configmaps");
                if wanted && let Some((name, value)) = line.rsplit_once(' ') {
                    found.push((format!("API server {}: {name}", n + 1), value.to_owned()));
                }
            }
        }
        Ok(found)
    }
}
