//! What goes to a client.
//!
//! Invariants: an event is made once and shared by all watchers; a delivery knows which of its parts its watcher asked for.

use std::sync::Arc;

use prost::Message;
use proto::etcdserverpb::{ResponseHeader, WatchResponse};
use proto::mvccpb::event::EventType;
use proto::mvccpb::{self, KeyValue};

/// A change as watchers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The key; of a deletion only key and mod revision.
    pub kv: KeyValue,
    /// Whether it was deleted.
    pub deleted: bool,
    /// The key before, if a watcher asked for it and it was there.
    pub previous: Option<KeyValue>,
}

impl Event {
    /// Whether the key was not there before, as far as the event alone tells.
    pub(super) fn creates(&self) -> bool {
        !self.deleted && self.kv.create_revision == self.kv.mod_revision
    }

    /// What it takes in memory, roughly; in bytes.
    pub(super) fn cost(&self) -> usize {
        let kv = |kv: &KeyValue| kv.key.len() + kv.value.len();
        128 + kv(&self.kv) + self.previous.as_ref().map_or(0, kv)
    }

    fn to_proto(&self, prev_kv: bool) -> mvccpb::Event {
        mvccpb::Event {
            r#type: if self.deleted {
                EventType::Delete
            } else {
                EventType::Put
            } as i32,
            kv: Some(self.kv.clone()),
            prev_kv: self.previous.clone().filter(|_| prev_kv),
        }
    }
}

/// Something for one client to read, in the order of the queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Delivery {
    /// A watcher is there.
    Created {
        /// The watcher.
        watch_id: i64,
        /// The store's revision.
        revision: i64,
    },
    /// A watcher was not made.
    Refused {
        /// What the client reads.
        reason: String,
        /// The store's revision.
        revision: i64,
    },
    /// A watcher is gone because the client asked.
    Canceled {
        /// The watcher.
        watch_id: i64,
        /// The store's revision.
        revision: i64,
    },
    /// A watcher is gone because what it had yet to read is compacted away.
    Compacted {
        /// The watcher.
        watch_id: i64,
        /// The compaction.
        compact_revision: i64,
    },
    /// Nothing at or below the revision is still to come.
    Progress {
        /// The watcher; -1 for all of the stream.
        watch_id: i64,
        /// The store's revision.
        revision: i64,
    },
    /// Changes.
    Events {
        /// The watcher.
        watch_id: i64,
        /// The store's revision, not below any of the events.
        revision: i64,
        /// By revision.
        events: Vec<Arc<Event>>,
        /// Whether the watcher wants what was before.
        prev_kv: bool,
        /// Whether the watcher bears large deliveries in pieces.
        fragment: bool,
    },
}

impl Delivery {
    /// What it takes in memory, roughly; in bytes.
    pub(super) fn cost(&self) -> usize {
        match self {
            Delivery::Events { events, .. } => 128 + events.iter().map(|event| event.cost()).sum::<usize>(),
            _ => 128,
        }
    }

    /// The messages for the client: one, or several when it is larger than `fragment_bytes` and the watcher asked for fragments. `header` is
    /// that of the member; its revision is set here.
    pub fn into_responses(self, header: ResponseHeader, fragment_bytes: usize) -> Vec<WatchResponse> {
        let header = |revision: i64| Some(ResponseHeader { revision, ..header });
        let response = match self {
            Delivery::Created { watch_id, revision } => WatchResponse {
                header: header(revision),
                watch_id,
                created: true,
                ..WatchResponse::default()
            },
            Delivery::Refused { reason, revision } => WatchResponse {
                header: header(revision),
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: reason,
                ..WatchResponse::default()
            },
            Delivery::Canceled { watch_id, revision } => WatchResponse {
                header: header(revision),
                watch_id,
                canceled: true,
                ..WatchResponse::default()
            },
            Delivery::Compacted {
                watch_id,
                compact_revision,
            } => WatchResponse {
                header: header(0),
                watch_id,
                canceled: true,
                compact_revision,
                ..WatchResponse::default()
            },
            Delivery::Progress { watch_id, revision } => WatchResponse {
                header: header(revision),
                watch_id,
                ..WatchResponse::default()
            },
            Delivery::Events {
                watch_id,
                revision,
                events,
                prev_kv,
                fragment,
            } => {
                let events = events.iter().map(|event| event.to_proto(prev_kv)).collect();
                let whole = WatchResponse {
                    header: header(revision),
                    watch_id,
                    events,
                    ..WatchResponse::default()
                };
                if fragment && whole.events.len() > 1 && whole.encoded_len() >= fragment_bytes {
                    return fragments(whole, fragment_bytes);
                }
                whole
            }
        };
        vec![response]
    }
}

/// Cuts a response so that each piece stays below `bytes`, one event at least; all but the last are marked.
fn fragments(whole: WatchResponse, bytes: usize) -> Vec<WatchResponse> {
    let empty = WatchResponse {
        events: Vec::new(),
        fragment: true,
        ..whole.clone()
    };
    let frame = empty.encoded_len();
    let mut pieces = Vec::new();
    let mut piece = empty.clone();
    let mut size = frame;
    for event in whole.events {
        let len = event.encoded_len();
        // Tag, length, event: as the message would count them.
        let cost = 1 + prost::length_delimiter_len(len) + len;
        if !piece.events.is_empty() && size + cost >= bytes {
            pieces.push(std::mem::replace(&mut piece, empty.clone()));
            size = frame;
        }
        piece.events.push(event);
        size += cost;
    }
    piece.fragment = false;
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(count: usize, bytes: usize) -> Vec<Arc<Event>> {
        let kv = |i: usize| KeyValue {
            key: format!("k{i}").into(),
            value: vec![b'v'; bytes].into(),
            mod_revision: 5,
            create_revision: 4,
            ..KeyValue::default()
        };
        (0..count)
            .map(|i| {
                Arc::new(Event {
                    kv: kv(i),
                    deleted: false,
                    previous: Some(kv(i)),
                })
            })
            .collect()
    }

    #[test]
    fn fragments_only_when_asked_and_all_but_the_last_are_marked() {
        for (fragment, count, pieces) in [(false, 10, 1), (true, 10, 10), (true, 1, 1)] {
            let delivery = Delivery::Events {
                watch_id: 7,
                revision: 9,
                events: events(count, 600),
                prev_kv: false,
                fragment,
            };
            let responses = delivery.into_responses(ResponseHeader::default(), 1000);
            assert_eq!(responses.len(), pieces);
            for (i, response) in responses.iter().enumerate() {
                assert_eq!(response.fragment, i + 1 < pieces);
                assert_eq!((response.watch_id, response.header.unwrap().revision), (7, 9));
                assert!(
                    response.events.iter().all(|event| event.prev_kv.is_none()),
                    "nobody asked for it"
                );
            }
            assert_eq!(
                responses.iter().map(|response| response.events.len()).sum::<usize>(),
                count
            );
        }
    }

    #[test]
    fn pieces_are_as_large_as_allowed() {
        let delivery = Delivery::Events {
            watch_id: 1,
            revision: 9,
            events: events(100, 90),
            prev_kv: true,
            fragment: true,
        };
        let responses = delivery.into_responses(ResponseHeader::default(), 1000);
        assert!(responses.len() > 10 && responses.iter().all(|response| response.encoded_len() < 1000));
        let one_more = responses[0].encoded_len() + responses[1].events[0].encoded_len();
        assert!(one_more + 3 >= 1000, "the first piece had room for another event");
    }
}
