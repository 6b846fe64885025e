//! Clients that ping too often (google.golang.org/grpc internal/transport, handlePing): hyper answers every ping, so the frames are looked
//! at on their way to it.
//!
//! Invariants:
//! - Only frame headers are read, never what is in them; a connection that does not begin with HTTP/2's preface is left alone.
//! - Four pings that each come sooner than allowed after the one before are one too many; whatever the server sends besides answers
//!   to pings makes up for them, so that a client that works is never cut off.

use std::time::{Duration, Instant};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
/// Pings beyond what is allowed that are borne: etcd 3.7.3 answers four in a row and cuts off at the fifth.
const STRIKES_MAX: u32 = 3;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;

/// GOAWAY: last stream 2^31-1, ENHANCE_YOUR_CALM, and the words that clients look for.
pub(super) const GOAWAY: &[u8] = b"\x00\x00\x16\x07\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x0btoo_many_pings";

/// Finds frame headers in bytes that come in pieces.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER],
    have: usize,
    skip: usize,
}

impl Frames {
    /// Calls `each` with type and flags of every frame that begins in here.
    fn scan(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8, u8)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEADER {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.header;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                each(kind, flags);
            }
        }
    }

    fn between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}

/// Watches one connection.
#[derive(Debug)]
pub(super) struct Pings {
    interval_min: Duration,
    /// Of the preface, what has come.
    preface: usize,
    off: bool,
    read: Frames,
    written: Frames,
    last: Option<Instant>,
    strikes: u32,
}

impl Pings {
    pub fn new(interval_min: Duration) -> Pings {
        Pings {
            interval_min,
            preface: 0,
            off: false,
            read: Frames::default(),
            written: Frames::default(),
            last: None,
            strikes: 0,
        }
    }

    /// Looks at bytes from the client; true when it has pinged too often.
    pub fn received(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        if self.off {
            return false;
        }
        if self.preface < PREFACE.len() {
            let taken = (PREFACE.len() - self.preface).min(bytes.len());
            if bytes[..taken] != PREFACE[self.preface..self.preface + taken] {
                self.off = true;
                return false;
            }
            self.preface += taken;
            bytes = &bytes[taken..];
        }
        let (last, strikes, interval) = (&mut self.last, &mut self.strikes, self.interval_min);
        self.read.scan(bytes, |kind, flags| {
            if kind == PING && flags & ACK == 0 {
                if last.is_some_and(|last| now.duration_since(last) < interval) {
                    *strikes += 1;
                }
                *last = Some(now);
            }
        });
        self.strikes > STRIKES_MAX
    }

    /// Looks at bytes to the client.
    pub fn sent(&mut self, bytes: &[u8]) {
        if self.off {
            return;
        }
        let (last, strikes) = (&mut self.last, &mut self.strikes);
        self.written.scan(bytes, |kind, _| {
            if matches!(kind, DATA | HEADERS) {
                *strikes = 0;
                *last = None;
            }
        });
    }

    /// Whether a frame may be put in now.
    pub fn may_write_frame(&self) -> bool {
        self.written.between_frames()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678";
    const AN_ACK: &[u8] = b"\x00\x00\x08\x06\x01\x00\x00\x00\x0012345678";
    const SOME_DATA: &[u8] = b"\x00\x00\x03\x00\x00\x00\x00\x00\x01abc";

    fn begun(start: Instant) -> Pings {
        let mut pings = Pings::new(Duration::from_secs(5));
        assert!(!pings.received(PREFACE, start));
        pings
    }

    #[test]
    fn too_many_pings_are_told_whichever_way_they_are_cut() {
        for cut in 1..20 {
            let now = Instant::now();
            let mut pings = begun(now);
            let stream = [SOME_DATA, A_PING, AN_ACK, A_PING, SOME_DATA, A_PING, A_PING].concat();
            assert!(!stream.chunks(cut).any(|piece| pings.received(piece, now)), "{cut}");
            assert!(A_PING.chunks(cut).any(|piece| pings.received(piece, now)), "{cut}");
        }
    }

    #[test]
    fn patience_and_work_make_up_for_pings() {
        let start = Instant::now();
        let mut pings = begun(start);
        for seconds in (0..100).step_by(5) {
            assert!(!pings.received(A_PING, start + Duration::from_secs(seconds)));
        }
        let mut pings = begun(start);
        for _ in 0..100 {
            assert!(!pings.received(A_PING, start) && !pings.received(A_PING, start));
            pings.sent(AN_ACK);
            pings.sent(SOME_DATA);
        }
        pings.sent(&SOME_DATA[..10]);
        assert!(!pings.may_write_frame());
        pings.sent(&SOME_DATA[10..]);
        assert!(pings.may_write_frame());
    }

    #[test]
    fn other_protocols_are_left_alone() {
        let now = Instant::now();
        let mut pings = Pings::new(Duration::from_secs(5));
        assert!(!pings.received(b"PRI", now) && !pings.received(b"NT / HTTP/1.1\r\n", now));
        assert!((0..100).all(|_| !pings.received(A_PING, now)));
        assert_eq!(GOAWAY.len(), 9 + 8 + 14);
    }
}
