//! What stands between the operator and the API server: every request is counted, and no write passes a shut gate.
//!
//! Invariant: a request that changes something leaves this process only while the lease is held. Reads always pass.

use super::lease::Gate;
use super::metrics::Metrics;
use http::{Method, Request, Response};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::{BoxError, Layer, Service};

/// Why a write was not sent.
#[derive(Debug, thiserror::Error)]
#[error("not sent, because this operator does not hold the lease: {method} {path}")]
pub struct NoLease {
    method: Method,
    path: String,
}

/// The layer of a client.
#[derive(Debug, Clone)]
pub struct Guard {
    gate: Gate,
    metrics: Arc<Metrics>,
}

impl Guard {
    /// Lets writes pass while `gate` is open.
    pub fn new(gate: Gate, metrics: Arc<Metrics>) -> Guard {
        Guard { gate, metrics }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// A client's service behind the guard.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S, A, B> Service<Request<A>> for Guarded<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let method = request.method().clone();
        let read = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
        if !read && !self.guard.gate.open() {
            let path = request.uri().path().to_owned();
            return Box::pin(async move { Err(BoxError::from(NoLease { method, path })) });
        }
        let resource = resource(request.uri().path()).to_owned();
        let verb = match request.uri().query() {
            Some(query) if query.contains("watch=true") => "WATCH".to_owned(),
            _ => method.to_string(),
        };
        let metrics = Arc::clone(&self.guard.metrics);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await.map_err(Into::into);
            let code = answer
                .as_ref()
                .map_or_else(|_| "error".to_owned(), |answer| answer.status().as_str().to_owned());
            metrics.api_request(verb, resource, code);
            answer
        })
    }
}

/// The resource that a path of the API is about: `pods` of `/api/v1/namespaces/a/pods/b/status`.
fn resource(path: &str) -> &str {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    // /api/v1 or /apis/group/version
    let skip = match parts.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return "",
    };
    let rest: Vec<&str> = parts.skip(skip).collect();
    match rest.as_slice() {
        ["namespaces", _, resource, ..] => resource,
        [resource, ..] => resource,
        [] => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_is_read_from_the_path() {
        assert_eq!(resource("/api/v1/namespaces/a/pods/b/status"), "pods");
        assert_eq!(resource("/apis/quorate.dev/v1alpha1/etcdclusters"), "etcdclusters");
        assert_eq!(resource("/api/v1/nodes/n1"), "nodes");
        assert_eq!(resource("/version"), "");
    }

    #[tokio::test]
    async fn without_a_lease_reads_pass_and_writes_do_not() {
        let metrics = Arc::new(Metrics::default());
        let guard = Guard::new(Gate::default(), metrics);
        let service = |_: Request<()>| async { Ok::<_, BoxError>(Response::new(())) };
        let mut guarded = guard.layer(tower::service_fn(service));
        let request = |method| Request::builder().method(method).uri("/api/v1/pods").body(()).unwrap();
        assert!(guarded.call(request(Method::GET)).await.is_ok());
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let error = guarded.call(request(method)).await.unwrap_err();
            assert!(error.is::<NoLease>(), "{error}");
        }
    }
}
