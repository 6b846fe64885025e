//! What a connection is made of: TCP or unix, plain or TLS, with its bytes counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::pings::{self, Pings};

/// Bytes read from and written to the connections of a listener, TLS taken off.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes from clients.
    pub received: AtomicU64,
    /// Bytes to clients.
    pub sent: AtomicU64,
}

/// A connection before TLS.
#[derive(Debug)]
pub(super) enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection as HTTP sees it.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(Raw),
    Tls(Box<TlsStream<Raw>>),
}

/// A stream whose bytes are counted.
#[derive(Debug)]
pub(super) struct Counted {
    stream: Stream,
    traffic: Arc<Traffic>,
    /// Where clients may ping too often.
    pings: Option<Box<Pings>>,
    /// Of HTTP/2's preface, how much has come; `None` once that is settled.
    preface: Option<usize>,
    /// Whether the client has begun to speak HTTP/2.
    begun: Arc<AtomicBool>,
}

macro_rules! each {
    ($on:expr, $($variant:path)|+, $inner:ident => $call:expr) => {
        match $on {
            $($variant($inner) => $call,)+
        }
    };
}

impl AsyncRead for Raw {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), Raw::Tcp | Raw::Unix, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Raw {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), Raw::Tcp | Raw::Unix, inner => Pin::new(inner).poll_write(cx, buf))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), Raw::Tcp | Raw::Unix, inner => Pin::new(inner).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), Raw::Tcp | Raw::Unix, inner => Pin::new(inner).poll_shutdown(cx))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), Raw::Tcp | Raw::Unix, inner => Pin::new(inner).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        each!(self, Raw::Tcp | Raw::Unix, inner => inner.is_write_vectored())
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = each!(&mut this.stream, Stream::Plain | Stream::Tls, inner => Pin::new(inner).poll_read(cx, buf));
        this.traffic
            .received
            .fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        this.look_for_preface(&buf.filled()[before..]);
        if let Some(pings) = &mut this.pings
            && buf.filled().len() > before
            && pings.received(&buf.filled()[before..], Instant::now())
        {
            if pings.may_write_frame() {
                // Best effort: a client that does not read does not learn why.
                let goaway = pings::GOAWAY;
                let _sent = each!(&mut this.stream, Stream::Plain | Stream::Tls, inner => Pin::new(inner).poll_write(cx, goaway));
                let _sent =
                    each!(&mut this.stream, Stream::Plain | Stream::Tls, inner => Pin::new(inner).poll_flush(cx));
            }
            return Poll::Ready(Err(io::Error::other(
                "too many pings: the client's keepalive is shorter than --grpc-keepalive-min-time",
            )));
        }
        polled
    }
}

impl Counted {
    /// `begun` is set once the client has sent HTTP/2's preface.
    pub fn new(stream: Stream, traffic: Arc<Traffic>, pings: Option<Box<Pings>>, begun: Arc<AtomicBool>) -> Counted {
        Counted {
            stream,
            traffic,
            pings,
            preface: Some(0),
            begun,
        }
    }

    fn look_for_preface(&mut self, received: &[u8]) {
        let Some(have) = self.preface else {
            return;
        };
        let taken = (pings::PREFACE.len() - have).min(received.len());
        if received[..taken] != pings::PREFACE[have..have + taken] {
            self.preface = None;
        } else if have + taken == pings::PREFACE.len() {
            self.preface = None;
            self.begun.store(true, Ordering::Relaxed);
        } else {
            self.preface = Some(have + taken);
        }
    }

    fn count_vectored(&mut self, polled: &Poll<io::Result<usize>>, bufs: &[io::IoSlice<'_>]) {
        if let (Some(pings), Poll::Ready(Ok(written))) = (&mut self.pings, polled) {
            let mut left = *written;
            for buf in bufs {
                let part = left.min(buf.len());
                pings.sent(&buf[..part]);
                left -= part;
            }
        }
    }

    fn count(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.traffic.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = each!(&mut this.stream, Stream::Plain | Stream::Tls, inner => Pin::new(inner).poll_write(cx, buf));
        this.count_vectored(&polled, &[io::IoSlice::new(buf)]);
        this.count(polled)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().stream, Stream::Plain | Stream::Tls, inner => Pin::new(inner).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.get_mut().stream, Stream::Plain | Stream::Tls, inner => Pin::new(inner).poll_shutdown(cx))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = each!(&mut this.stream, Stream::Plain | Stream::Tls, inner => Pin::new(inner).poll_write_vectored(cx, bufs));
        this.count_vectored(&polled, bufs);
        this.count(polled)
    }
    fn is_write_vectored(&self) -> bool {
        each!(&self.stream, Stream::Plain | Stream::Tls, inner => inner.is_write_vectored())
    }
}
