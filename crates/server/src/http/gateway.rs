//! The JSON gateway: `POST /v3/...` (etcd server/embed/serve.go, grpc-gateway).
//!
//! Invariants:
//! - A route is a gRPC call: its JSON is turned into the call's message, the call goes through the same services with the same checks
//!   as one from the wire, and the answer is turned back. There is no second way to any data.
//! - A certificate does not speak for a call that comes in here, only a token does: the connection may be that of a proxy.
//! - What the JSON looks like follows from the `.proto` files alone (decision 0006).

mod frames;
pub mod json;
mod routes;

use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::Frame;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status};

use self::frames::Answers;
use crate::grpc::Grpc;
use crate::listener::Connection;
use crate::member::Member;

/// How much longer JSON may be than the message that it says: base64 takes a third more, names and digits take theirs.
const JSON_FACTOR: usize = 4;
/// Headers with this prefix become metadata of the call.
const METADATA_PREFIX: &str = "grpc-metadata-";

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors are those that were compiled"));

/// See the module. One for each connection.
#[derive(Debug, Clone)]
pub struct Gateway {
    grpc: Grpc,
    body_bytes_max: usize,
}

/// Whether a path is the gateway's.
pub(super) fn is_gateway(path: &str) -> bool {
    path.starts_with("/v3/") || path.starts_with("/v3beta/")
}

impl Gateway {
    /// Serves `member` on a connection.
    pub fn new(member: &Arc<Member>, connection: &Connection) -> Gateway {
        let connection = Connection {
            common_name: None,
            ..connection.clone()
        };
        let request_bytes = usize::try_from(member.config.max_request_bytes).unwrap_or(usize::MAX);
        Gateway {
            grpc: Grpc::new(member.clone(), Arc::new(connection)),
            body_bytes_max: request_bytes.saturating_mul(JSON_FACTOR).max(1 << 20),
        }
    }

    /// Answers a request whose path is the gateway's.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        match self.route(request).await {
            Ok(answer) => answer,
            Err(status) => refusal(&status, http_status(status.code())),
        }
    }

    async fn route<B>(&self, request: Request<B>) -> Result<Response<Body>, Status>
    where
        B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let path = request.uri().path();
        let path = path.strip_prefix("/v3beta/").or_else(|| path.strip_prefix("/v3/"));
        let Some((service, name)) = path.and_then(routes::find) else {
            return Ok(refusal(&Status::not_found("Not Found"), StatusCode::NOT_FOUND));
        };
        if *request.method() != Method::POST {
            let status = Status::unimplemented("Method Not Allowed");
            return Ok(refusal(&status, StatusCode::NOT_IMPLEMENTED));
        }
        let method =
            method(service, name).ok_or_else(|| Status::internal(format!("no descriptor of {service}/{name}")))?;
        let (head, body) = request.into_parts();
        let messages = if method.is_client_streaming() {
            streamed(body, method.input())
        } else {
            Body::new(Full::new(self.single(body, &method).await?))
        };
        let mut call = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("/{service}/{name}"))
            .body(messages)
            .map_err(|error| Status::internal(error.to_string()))?;
        *call.headers_mut() = metadata(&head.headers);
        let answers = Answers::new(self.grpc.call(call).await, method.output());
        if method.is_server_streaming() {
            Ok(stream(answers).await)
        } else {
            unary(answers).await
        }
    }

    /// The one message of a request, framed.
    async fn single<B>(&self, body: B, method: &MethodDescriptor) -> Result<Bytes, Status>
    where
        B: hyper::body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let body = Limited::new(body, self.body_bytes_max).collect().await;
        let body = body.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
            true => Status::resource_exhausted(format!(
                "grpc: received message larger than max (more than {} bytes of JSON)",
                self.body_bytes_max
            )),
            false => Status::invalid_argument(error.to_string()),
        })?;
        json::read(&body.to_bytes(), method.input())
    }
}

fn method(service: &str, name: &str) -> Option<MethodDescriptor> {
    let service = POOL.get_service_by_name(service)?;
    service.methods().find(|method| method.name() == name)
}

/// The headers of the call: the token, and what is marked as meant for it.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    metadata.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert("te", HeaderValue::from_static("trailers"));
    for (name, value) in headers {
        let marked = name.as_str().strip_prefix(METADATA_PREFIX);
        // Names that HTTP/2 or gRPC itself speak through are not a client's to set.
        let free = |name: &&str| !name.starts_with("grpc-") && !["content-type", "te", "connection"].contains(name);
        if let Some(name) = marked.filter(free).and_then(|name| HeaderName::try_from(name).ok()) {
            metadata.append(name, value.clone());
        }
    }
    if let Some(token) = headers.get(AUTHORIZATION) {
        metadata.insert(AUTHORIZATION, token.clone());
    }
    metadata.insert("grpcgateway-accept", HeaderValue::from_static("*/*"));
    metadata
}

/// The messages of a request that goes on while it is answered.
fn streamed<B>(mut body: B, input: prost_reflect::MessageDescriptor) -> Body
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let (messages, stream) = mpsc::channel::<Result<Frame<Bytes>, Status>>(16);
    tokio::spawn(async move {
        let mut unread = BytesMut::new();
        loop {
            match json::next(&mut unread, &input) {
                Ok(Some(message)) => {
                    if messages.send(Ok(Frame::data(message))).await.is_err() {
                        return;
                    }
                }
                Ok(None) => match body.frame().await {
                    Some(Ok(frame)) => unread.extend_from_slice(&frame.into_data().unwrap_or_default()),
                    // The client's half is over; the call may go on.
                    Some(Err(_)) | None => return,
                },
                Err(status) => {
                    tracing::info!(%status, "failed to decode a request of the gateway");
                    messages.send(Err(status)).await.ok();
                    return;
                }
            }
        }
    });
    Body::new(StreamBody::new(ReceiverStream::new(stream)))
}

async fn unary(mut answers: Answers) -> Result<Response<Body>, Status> {
    let answer = match answers.next().await {
        Some(answer) => answer?,
        None => return Err(Status::internal("the call ended without an answer")),
    };
    // What comes after it is the status.
    if let Some(Err(status)) = answers.next().await {
        return Err(status);
    }
    Ok(typed(Body::new(Full::new(answer))))
}

/// One line for each answer; the head of the response waits for the first, since an error there is one of the whole.
async fn stream(mut answers: Answers) -> Response<Body> {
    let first = match answers.next().await {
        // Without an answer there is no type either.
        None => return Response::new(Body::empty()),
        Some(Err(status)) => {
            let line = json::line("error", &json::status(&status));
            let mut response = Response::new(Body::new(Full::new(line)));
            *response.status_mut() = http_status(status.code());
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            return response;
        }
        Some(Ok(first)) => json::line("result", &first),
    };
    let rest = answers.map(|answer| match answer {
        Ok(answer) => json::line("result", &answer),
        Err(status) => json::line("error", &json::status(&status)),
    });
    let lines = tokio_stream::once(first).chain(rest);
    let frames = lines.map(|line| Ok::<_, Status>(Frame::data(line)));
    typed(Body::new(StreamBody::new(frames)))
}

fn typed(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        HeaderName::from_static("grpc-metadata-content-type"),
        HeaderValue::from_static("application/grpc"),
    );
    response
}

fn refusal(status: &Status, code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(json::status(status))));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code() == Code::Unauthenticated
        && let Ok(text) = HeaderValue::from_str(status.message())
    {
        headers.insert(WWW_AUTHENTICATE, text);
    }
    response
}

/// As grpc-gateway maps them (runtime/errors.go).
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_headers_and_the_token_reach_a_call() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "abc.7"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-grpc-timeout", "1n"),
            ("grpc-metadata-content-type", "text/plain"),
            ("x-forwarded-for", "1.2.3.4"),
            ("token", "abc.8"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let metadata = metadata(&headers);
        assert_eq!(metadata["authorization"], "abc.7");
        assert_eq!(metadata["hasleader"], "true");
        assert_eq!(metadata["content-type"], "application/grpc");
        assert!(
            metadata.contains_key("grpcgateway-accept"),
            "or a certificate would speak for the call"
        );
        assert_eq!(metadata.len(), 5, "{metadata:?}");
    }

    #[test]
    fn paths_are_told_apart() {
        assert!(is_gateway("/v3/kv/range") && is_gateway("/v3beta/kv/range"));
        assert!(!is_gateway("/v3alpha/kv/range") && !is_gateway("/version") && !is_gateway("/v3"));
    }
}
