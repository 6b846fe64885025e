//! What the operator serves: `/metrics`, `/healthz` and `/readyz`, in plain HTTP, with nothing secret behind them.
//!
//! Invariants:
//! - `/healthz` fails only for what a restart of the process cures; a cluster in trouble is no such thing.
//! - `/readyz` says whether the watches have delivered what they watch, and not whether this process leads: a rollout of
//!   the operator must not wait for a second leader.

use crate::clock;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// A request that takes longer to arrive is dropped, and so is a connection that is silent for as long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at one time.
const CONNECTIONS: usize = 32;

/// What is asked for the answers.
pub struct Site {
    /// Rendered for `/metrics`.
    pub registry: Registry,
    /// Why the process should be restarted, if it should.
    pub ill: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// What is not there yet.
    pub missing: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, site: Arc<Site>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the metrics port");
                clock::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            let _place = place;
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| {
                let answer = answer(&site, request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the metrics port ended");
            }
        });
    }
}

fn answer(site: &Site, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".into());
    }
    let verdict = |trouble: Option<String>| match trouble {
        None => text(StatusCode::OK, "ok\n".into()),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    match path {
        "/healthz" => verdict((site.ill)()),
        "/readyz" => verdict((site.missing)()),
        "/metrics" => metrics(&site.registry),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n".into(),
        ),
    }
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut body = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut body, registry) {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
    }
    let mut answer = text(StatusCode::OK, body);
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
