//! The answers of a gRPC call, one by one, as JSON.
//!
//! Invariant: an answer that is no success ends with its status, whether it came in the head or in the trailers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Response};
use hyper::body::Body as _;
use prost_reflect::MessageDescriptor;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::{Code, Status};

use super::json;

/// See the module.
#[derive(Debug)]
pub(super) struct Answers {
    body: Option<Body>,
    unread: BytesMut,
    descriptor: MessageDescriptor,
    ready: VecDeque<Result<Bytes, Status>>,
}

impl Answers {
    pub fn new(response: Response<Body>, descriptor: MessageDescriptor) -> Answers {
        let (head, body) = response.into_parts();
        let mut answers = Answers {
            body: Some(body),
            unread: BytesMut::new(),
            descriptor,
            ready: VecDeque::new(),
        };
        // A call that fails before its first answer says so in the head, and has no body.
        if head.headers.contains_key("grpc-status") {
            answers.end(&head.headers);
        }
        answers
    }

    fn end(&mut self, trailers: &HeaderMap) {
        self.body = None;
        if let Some(status) = Status::from_header_map(trailers).filter(|status| status.code() != Code::Ok) {
            self.ready.push_back(Err(status));
        }
    }

    fn take(&mut self, data: &[u8]) {
        self.unread.extend_from_slice(data);
        while self.unread.len() >= 5 {
            let len = u32::from_be_bytes([self.unread[1], self.unread[2], self.unread[3], self.unread[4]]) as usize;
            if self.unread.len() - 5 < len {
                return;
            }
            self.unread.advance(5);
            let message = self.unread.split_to(len).freeze();
            self.ready.push_back(json::write(message, &self.descriptor));
        }
    }
}

impl Stream for Answers {
    type Item = Result<Bytes, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(answer) = this.ready.pop_front() {
                return Poll::Ready(Some(answer));
            }
            let Some(body) = &mut this.body else {
                return Poll::Ready(None);
            };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.take(&data),
                    Err(frame) => this.end(frame.trailers_ref().unwrap_or(&HeaderMap::new())),
                },
                Some(Err(status)) => {
                    this.body = None;
                    this.ready.push_back(Err(status));
                }
                None => this.body = None,
            }
        }
    }
}
