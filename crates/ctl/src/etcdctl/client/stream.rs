//! Calls that stream: snapshots and ranges, watches, lease renewals.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

use super::{Client, Failure};

/// How long to wait before a broken watch is opened again.
const REOPEN_WAIT: Duration = Duration::from_millis(100);

/// What a server streams.
pub(crate) struct Answers<R> {
    stream: Streaming<R>,
    deadline: Option<Instant>,
}

impl<R> Answers<R> {
    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// What the server says, or [`Failure::Deadline`].
    pub async fn next(&mut self) -> Result<Option<R>, Failure> {
        let next = self.stream.message();
        let next = match self.deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), next).await {
                Ok(next) => next,
                Err(_) => return Err(Failure::Deadline),
            },
            None => next.await,
        };
        next.map_err(|status| Failure::of(status, self.deadline))
    }
}

impl Client {
    /// Begins a call that streams answers.
    ///
    /// # Errors
    /// What the server says, or [`Failure::Deadline`].
    pub async fn answers<Q, R>(
        &self,
        method: &'static str,
        request: &Q,
        deadline: Option<Instant>,
    ) -> Result<Answers<R>, Failure>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let (_, connection) = self.connection(deadline).await.map_err(|_| Failure::Deadline)?;
        let mut grpc = self.grpc(&connection);
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        let message = self.dress(Request::new(request.clone()));
        let path = PathAndQuery::from_static(method);
        let begin = async {
            let ready = grpc.ready().await;
            ready.map_err(|error| tonic::Status::from_error(error.into()))?;
            grpc.server_streaming(message, path, codec).await
        };
        let begun = match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), begin).await {
                Ok(begun) => begun,
                Err(_) => return Err(Failure::Deadline),
            },
            None => begin.await,
        };
        let stream = begun.map_err(|status| Failure::of(status, deadline))?.into_inner();
        Ok(Answers { stream, deadline })
    }

    async fn both_ways<Q, R>(
        &self,
        method: &'static str,
        receiver: mpsc::UnboundedReceiver<Q>,
        require_leader: bool,
    ) -> Result<Streaming<R>, Failure>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let (index, connection) = self.connection(None).await.map_err(|_| Failure::Deadline)?;
        let mut grpc = self.grpc(&connection);
        let codec: ProstCodec<Q, R> = ProstCodec::default();
        let mut message = self.dress(Request::new(UnboundedReceiverStream::new(receiver)));
        if require_leader {
            message
                .metadata_mut()
                .insert("hasleader", MetadataValue::from_static("true"));
        }
        let path = PathAndQuery::from_static(method);
        let begin = async {
            let ready = grpc.ready().await;
            ready.map_err(|error| tonic::Status::from_error(error.into()))?;
            grpc.streaming(message, path, codec).await
        };
        match begin.await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => {
                let failure = Failure::of(status, None);
                if failure.code() == Some(Code::Unavailable) {
                    self.leave(index);
                }
                Err(failure)
            }
        }
    }

    /// Renews a lease once and returns the two ends: send its id to renew it again, receive what is left of it.
    ///
    /// # Errors
    /// What the server says.
    pub async fn renewals(
        &self,
        id: i64,
    ) -> Result<
        (
            mpsc::UnboundedSender<pb::LeaseKeepAliveRequest>,
            Answers<pb::LeaseKeepAliveResponse>,
        ),
        Failure,
    > {
        let (sender, receiver) = mpsc::unbounded_channel();
        // The server answers the call itself together with the first renewal. The receiver is right here.
        let _open = sender.send(pb::LeaseKeepAliveRequest { id });
        let stream = self
            .both_ways("/etcdserverpb.Lease/LeaseKeepAlive", receiver, false)
            .await?;
        let deadline = None;
        Ok((sender, Answers { stream, deadline }))
    }

    /// Begins a watch.
    pub fn watch(&self, create: pb::WatchCreateRequest) -> Watching {
        Watching {
            client: self.clone(),
            next: create.start_revision,
            create,
            requests: Watcher::default(),
            stream: None,
            pieces: None,
            over: false,
        }
    }
}

/// Where requests to a running watch go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watcher(Arc<Mutex<Option<mpsc::UnboundedSender<pb::WatchRequest>>>>);

impl Watcher {
    /// Asks how far the watch has come; the answer comes as one of its responses.
    pub fn request_progress(&self) {
        let request_union = Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        let sender = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(sender) = &*sender {
            // A stream that has just broken is asked for no progress; the next one is.
            let _broken = sender.send(pb::WatchRequest { request_union });
        }
    }
}

/// A watch that goes on from where it was when its connection breaks.
pub(crate) struct Watching {
    client: Client,
    create: pb::WatchCreateRequest,
    /// The revision from which events are still to come; 0 = from now on.
    next: i64,
    requests: Watcher,
    stream: Option<Streaming<pb::WatchResponse>>,
    /// Events of a response that comes in pieces.
    pieces: Option<pb::WatchResponse>,
    over: bool,
}

impl Watching {
    pub fn handle(&self) -> Watcher {
        self.requests.clone()
    }

    /// Opens the stream, so that requests find it.
    ///
    /// # Errors
    /// What the server says, when opening it again would not help.
    pub async fn open(&mut self) -> Result<(), Failure> {
        while self.stream.is_none() {
            let (sender, receiver) = mpsc::unbounded_channel();
            let create = pb::WatchCreateRequest {
                start_revision: self.next,
                ..self.create.clone()
            };
            let request_union = Some(RequestUnion::CreateRequest(create));
            // The receiver is right here.
            let _open = sender.send(pb::WatchRequest { request_union });
            *self.requests.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(sender);
            match self.client.both_ways("/etcdserverpb.Watch/Watch", receiver, true).await {
                Ok(stream) => self.stream = Some(stream),
                Err(failure) => self.again(failure).await?,
            }
        }
        Ok(())
    }

    async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        self.stream = None;
        self.pieces = None;
        if failure.is("etcdserver: invalid auth token") {
            self.client.sign_in().await?;
        } else if !matches!(failure.code(), Some(Code::Unavailable | Code::Internal)) {
            return Err(failure);
        }
        tokio::time::sleep(REOPEN_WAIT).await;
        Ok(())
    }

    /// The next response with events, progress or the end; `None` behind the end.
    ///
    /// # Errors
    /// What the server says, when opening the watch again would not help.
    pub async fn next(&mut self) -> Result<Option<pb::WatchResponse>, Failure> {
        loop {
            if self.over {
                return Ok(None);
            }
            self.open().await?;
            let Some(stream) = &mut self.stream else { continue };
            let mut response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    self.stream = None;
                    tokio::time::sleep(REOPEN_WAIT).await;
                    continue;
                }
                Err(status) => {
                    let failure = Failure::of(status, None);
                    if failure.code() == Some(Code::Unavailable) {
                        self.client.current().take();
                    }
                    self.again(failure).await?;
                    continue;
                }
            };
            if let Some(mut pieces) = self.pieces.take() {
                pieces.events.append(&mut response.events);
                response.events = pieces.events;
            }
            if response.fragment {
                self.pieces = Some(response);
                continue;
            }
            if response.canceled {
                self.over = true;
                return Ok(Some(response));
            }
            if response.created {
                if self.next == 0 {
                    // From now on, also when the stream breaks before the first event.
                    self.next = response.header.as_ref().map_or(0, |header| header.revision + 1);
                }
                continue;
            }
            if let Some(last) = response.events.last().and_then(|event| event.kv.as_ref()) {
                self.next = last.mod_revision + 1;
            } else if let Some(header) = &response.header {
                self.next = self.next.max(header.revision + 1);
            }
            return Ok(Some(response));
        }
    }
}
