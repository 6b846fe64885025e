//! One of the two servers: its process, its connection, its tokens and its watch stream.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse, WatchResponse};
use tokio::sync::mpsc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Messages as they are, for requests that no generated type would encode.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let len = from.remaining();
        Ok(Some(from.copy_to_bytes(len)))
    }
}

/// What a call answered: the messages, and how it ended where not well.
pub struct Answer {
    pub messages: Vec<Bytes>,
    pub failed: Option<(Code, String)>,
}

/// An open watch stream.
struct Watching {
    requests: mpsc::UnboundedSender<Bytes>,
    answers: mpsc::UnboundedReceiver<Result<WatchResponse, Status>>,
}

pub struct Side {
    child: Child,
    channel: Channel,
    tokens: HashMap<String, String>,
    watching: Option<Watching>,
    /// What each watcher was told since the last checkpoint.
    pub told: BTreeMap<i64, Vec<String>>,
}

impl Drop for Side {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const LONG: Duration = Duration::from_secs(30);

impl Side {
    pub async fn start(program: &Path, name: &'static str, dir: &Path, ports: (u16, u16)) -> Side {
        let (client, peer) = (
            format!("http://127.0.0.1:{}", ports.0),
            format!("http://127.0.0.1:{}", ports.1),
        );
        let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
        let child = Command::new(program)
            .args([
                "--name",
                "m",
                "--bcrypt-cost",
                "4",
                "--log-level",
                "warn",
                "--unsafe-no-fsync",
                "--data-dir",
            ])
            .arg(dir.join(name))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let channel = Channel::from_shared(client).unwrap().connect_lazy();
        let mut side = Side {
            child,
            channel,
            tokens: HashMap::new(),
            watching: None,
            told: BTreeMap::new(),
        };
        let begin = Instant::now();
        loop {
            let status = side.call("Maintenance/Status", &[], None).await;
            let ranged = side.call("KV/Range", b"\x0a\x01a", None).await;
            if status.failed.is_none() && ranged.failed.is_none() {
                // The cluster version is known only a little later, and answers differ before.
                let list = side.call("Maintenance/Downgrade", b"\x12\x053.7.0", None).await;
                if list
                    .failed
                    .is_none_or(|(_, text)| !text.contains("cluster version not found"))
                {
                    break;
                }
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{name} does not start");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        side.open(None).await;
        side
    }

    fn request<T>(&self, message: T, token: Option<&str>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(user) = token {
            let token = self.tokens.get(user).map_or("not.a.token", String::as_str);
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        request
    }

    fn grpc(&self) -> tonic::client::Grpc<Channel> {
        tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// One request; for methods that stream, everything until the end.
    pub async fn call(&mut self, method: &str, request: &[u8], token: Option<&str>) -> Answer {
        let path = http::uri::PathAndQuery::try_from(format!("/etcdserverpb.{method}")).unwrap();
        let mut grpc = self.grpc();
        let bytes = Bytes::copy_from_slice(request);
        let outcome = tokio::time::timeout(LONG, async {
            grpc.ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let mut messages = Vec::new();
            match method {
                "KV/RangeStream" | "Lease/LeaseKeepAlive" => {
                    let mut stream = if method == "KV/RangeStream" {
                        grpc.server_streaming(self.request(bytes, token), path, Raw)
                            .await?
                            .into_inner()
                    } else {
                        let requests = self.request(tokio_stream::once(bytes), token);
                        grpc.streaming(requests, path, Raw).await?.into_inner()
                    };
                    while let Some(message) = stream.message().await? {
                        messages.push(message);
                    }
                }
                _ => messages.push(grpc.unary(self.request(bytes, token), path, Raw).await?.into_inner()),
            }
            Ok::<_, Status>(messages)
        });
        match outcome.await {
            Ok(Ok(messages)) => {
                self.remember(method, request, &messages);
                Answer { messages, failed: None }
            }
            Ok(Err(status)) => Answer {
                messages: Vec::new(),
                failed: Some((status.code(), status.message().to_owned())),
            },
            Err(_) => Answer {
                messages: Vec::new(),
                failed: Some((Code::DeadlineExceeded, "no answer".into())),
            },
        }
    }

    fn remember(&mut self, method: &str, request: &[u8], messages: &[Bytes]) {
        if method == "Auth/Authenticate" {
            let name = AuthenticateRequest::decode(request).unwrap().name;
            let token = AuthenticateResponse::decode(messages[0].clone()).unwrap().token;
            self.tokens.insert(name, token);
        }
    }

    /// A new watch stream in place of the open one.
    pub async fn open(&mut self, token: Option<&str>) {
        self.told.clear();
        let (requests, outgoing) = mpsc::unbounded_channel::<Bytes>();
        let (sender, answers) = mpsc::unbounded_channel();
        let outgoing = tokio_stream::wrappers::UnboundedReceiverStream::new(outgoing);
        let request = self.request(outgoing, token);
        let mut grpc = self.grpc();
        tokio::spawn(async move {
            if let Err(error) = grpc.ready().await {
                sender.send(Err(Status::unavailable(error.to_string()))).ok();
                return;
            }
            let path = http::uri::PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
            let mut stream = match grpc.streaming(request, path, Raw).await {
                Ok(stream) => stream.into_inner(),
                Err(status) => {
                    sender.send(Err(status)).ok();
                    return;
                }
            };
            loop {
                let next = match stream.message().await {
                    Ok(Some(bytes)) => Ok(WatchResponse::decode(bytes).unwrap()),
                    Ok(None) => Err(Status::ok("ended")),
                    Err(status) => Err(status),
                };
                let over = next.is_err();
                if sender.send(next).is_err() || over {
                    return;
                }
            }
        });
        self.watching = Some(Watching { requests, answers });
    }

    /// Sends a request, and waits for an answer that `is` the one, where there must be one. Returns it.
    pub async fn watch(
        &mut self,
        request: &[u8],
        is: impl Fn(&WatchResponse) -> bool,
        patience: Duration,
    ) -> Option<WatchResponse> {
        let watching = self.watching.as_ref()?;
        watching.requests.send(Bytes::copy_from_slice(request)).ok();
        let end = Instant::now() + patience;
        loop {
            let watching = self.watching.as_mut()?;
            let left = end.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, watching.answers.recv()).await {
                Err(_) => return None,
                Ok(Some(Ok(response))) => {
                    self.note(&response);
                    if is(&response) {
                        return Some(response);
                    }
                }
                Ok(Some(Err(status))) => {
                    let line = format!("stream over: {:?} {}", status.code(), status.message());
                    self.told.entry(-99).or_default().push(line);
                    self.watching = None;
                }
                Ok(None) => self.watching = None,
            }
        }
    }

    pub fn watches(&self) -> bool {
        self.watching.is_some()
    }

    fn note(&mut self, response: &WatchResponse) {
        let told = self.told.entry(response.watch_id).or_default();
        if response.created {
            told.push(format!(
                "created at {}",
                response.header.as_ref().map_or(0, |header| header.revision)
            ));
        }
        if response.canceled {
            told.push(format!(
                "canceled, compacted {}: {}",
                response.compact_revision, response.cancel_reason
            ));
        }
        told.extend(response.events.iter().map(|event| format!("{event:?}")));
    }
}
