//! The API server as a tower service: what a `kube::Client` is built on.

use super::kinds::{Target, target};
use super::store::{Change, Deletion, Refused, refuse, selected};
use crate::control::{Call, Caller, Fate};
use crate::world::World;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use kube::client::Body as Sent;
use quorate::clock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// An answer's body.
#[derive(Debug)]
pub enum Body {
    /// All of it.
    Whole(Option<Bytes>),
    /// A watch.
    Watch(mpsc::UnboundedReceiver<Bytes>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Watch(lines) => lines
                .poll_recv(context)
                .map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }
}

/// The way of one caller to the API server.
#[derive(Debug, Clone)]
pub struct Service {
    /// Where.
    pub world: World,
    /// Who.
    pub caller: Caller,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower::Service<Request<Sent>> for Service {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Sent>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { service.serve(request).await })
    }
}

/// A request, read.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who asks.
    pub caller: Caller,
    /// How.
    pub method: Method,
    /// What about.
    pub target: Target,
    /// Parameters.
    pub query: BTreeMap<String, String>,
    /// Metadata alone is wanted.
    pub partial: bool,
    /// Kind of patch.
    pub content: String,
    /// What is sent.
    pub body: Value,
}

fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = || u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok();
        match byte {
            b'%' if hex().is_some() => {
                out.extend(hex());
                at += 3;
            }
            b'+' => {
                out.push(b' ');
                at += 1;
            }
            other => {
                out.push(*other);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Service {
    async fn serve(self, request: Request<Sent>) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        debug_assert!(!body.is_end_stream() || parts.method != Method::POST);
        let bytes = body.collect().await?.to_bytes();
        let Some(target) = target(parts.uri.path()) else {
            return Ok(refused(&refuse(
                404,
                "NotFound",
                "the server could not find the requested resource",
            )));
        };
        let query = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (unescape(key), unescape(value)))
            .collect();
        let header = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let content = header("content-type");
        let body = match bytes.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&bytes).or_else(|_| serde_yaml::from_slice(&bytes))?,
        };
        let asked = Asked {
            caller: self.caller,
            method: parts.method,
            target,
            query,
            partial: header("accept").contains("PartialObjectMetadata"),
            content,
            body,
        };
        if asked.query.get("watch").map(String::as_str) == Some("true") {
            return Ok(self.watch(asked));
        }
        let latency = self.world.latency();
        clock::sleep(latency).await;
        let call = Call::of(&asked);
        match self.world.fate(&call) {
            Fate::Answer => Ok(answer(self.world.execute(&asked), asked.partial)),
            Fate::Refuse(code) => Ok(refused(&refuse(code, reason_of(code), "as the simulator wants it"))),
            Fate::Lost => {
                let _ = self.world.execute(&asked);
                Err("the connection was closed before the answer came".into())
            }
            Fate::Unreachable => {
                clock::sleep(Duration::from_secs(5)).await;
                Err("operation timed out".into())
            }
            Fate::Never => std::future::pending().await,
            Fate::LastWords => {
                let _ = self.world.execute(&asked);
                std::future::pending().await
            }
            Fate::Late(pause) => {
                // It is on its way whatever becomes of who sent it.
                let world = self.world.clone();
                let task = tokio::spawn(async move {
                    clock::sleep(pause).await;
                    answer(world.execute(&asked), asked.partial)
                });
                Ok(task.await?)
            }
        }
    }

    fn watch(self, asked: Asked) -> Response<Body> {
        let from: u64 = asked
            .query
            .get("resourceVersion")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let from = if from == 0 { self.world.api().revision } else { from };
        let (send, lines) = mpsc::unbounded_channel();
        let seconds = asked.query.get("timeoutSeconds").and_then(|text| text.parse().ok());
        let end = clock::now() + Duration::from_secs(seconds.unwrap_or(300));
        let world = self.world.clone();
        tokio::spawn(async move {
            let mut at = from;
            let mut changed = world.changes();
            let line = |what: &str, object: Value| {
                let text = json!({"type": what, "object": object}).to_string() + "\n";
                send.send(Bytes::from(text)).is_ok()
            };
            loop {
                if world.api().compacted > at {
                    let gone = refuse(410, "Expired", "too old resource version");
                    line("ERROR", status_of(&gone));
                    return;
                }
                let seen = world.seen_by_watches(asked.caller);
                for change in world.changes_after(at, seen, &asked.target) {
                    at = change.revision;
                    for (what, object) in told(&change, asked.query.get("labelSelector")) {
                        if world.drops_event(asked.caller, &change) {
                            continue;
                        }
                        let object = if asked.partial {
                            partial(&object)
                        } else {
                            object.as_ref().clone()
                        };
                        if !line(what, object) {
                            return;
                        }
                    }
                }
                let rest = end.saturating_duration_since(clock::now());
                if rest.is_zero() || send.is_closed() {
                    let bookmark = json!({
                        "apiVersion": asked.target.kind.api_version, "kind": asked.target.kind.kind,
                        "metadata": {"resourceVersion": at.max(seen.min(world.api().revision)).to_string()},
                    });
                    line("BOOKMARK", bookmark);
                    return;
                }
                let _ = clock::timeout(rest.min(world.watch_pause(asked.caller)), changed.changed()).await;
                clock::sleep(Duration::from_millis(2)).await;
            }
        });
        Response::builder()
            .header("content-type", "application/json")
            .body(Body::Watch(lines))
            .unwrap_or_default()
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::Whole(None)
    }
}

/// What a watch with a selector is told of a change.
fn told(change: &Change, selector: Option<&String>) -> Vec<(&'static str, Arc<Value>)> {
    let Some(selector) = selector else {
        return vec![(change.what, Arc::clone(&change.object))];
    };
    let before = change.before.as_ref().is_some_and(|before| selected(before, selector));
    let now = change.what != "DELETED" && selected(&change.object, selector);
    match (before, now) {
        (false, false) => Vec::new(),
        (false, true) => vec![("ADDED", Arc::clone(&change.object))],
        (true, true) => vec![("MODIFIED", Arc::clone(&change.object))],
        (true, false) => vec![("DELETED", Arc::clone(&change.object))],
    }
}

/// An object's metadata alone.
pub fn partial(object: &Value) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"],
    })
}

fn reason_of(code: u16) -> &'static str {
    match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        504 => "Timeout",
        _ => "InternalError",
    }
}

fn status_of(refused: &Refused) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": refused.message, "reason": refused.reason, "code": refused.code,
    })
}

fn respond(code: u16, body: &Value) -> Response<Body> {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::Whole(Some(Bytes::from(body.to_string()))))
        .unwrap_or_default()
}

fn refused(refused: &Refused) -> Response<Body> {
    respond(refused.code, &status_of(refused))
}

fn answer(result: Result<Value, Refused>, as_partial: bool) -> Response<Body> {
    match result {
        Err(error) => refused(&error),
        Ok(mut value) => {
            if as_partial {
                match value.get_mut("items").and_then(Value::as_array_mut) {
                    Some(items) => {
                        for item in items.iter_mut() {
                            *item = partial(item);
                        }
                        value["kind"] = json!("PartialObjectMetadataList");
                        value["apiVersion"] = json!("meta.k8s.io/v1");
                    }
                    None => value = partial(&value),
                }
            }
            respond(200, &value)
        }
    }
}

/// What a delete request says.
pub fn deletion(asked: &Asked) -> Deletion {
    let text = |path: &str| asked.body.pointer(path).and_then(Value::as_str).map(str::to_owned);
    Deletion {
        uid: text("/preconditions/uid"),
        resource_version: text("/preconditions/resourceVersion"),
        grace: asked.body["gracePeriodSeconds"].as_i64(),
    }
}
