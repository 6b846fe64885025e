//! What clients and peers send.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use proto::etcdserverpb as pb;
use server::http::gateway::json as gateway;
use server::peer::codec::{Decoder, Encoder, StreamKind};
use state_machine::txn;
use std::sync::LazyLock;

/// A peer's stream: `data[0]` says which and in pieces of which size. What is read is written and read again.
pub fn peer(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let kind = if how & 1 == 0 { StreamKind::Message } else { StreamKind::MsgApp };
    let size = usize::from(how >> 1) * 8 + 1;
    let (mut decoder, mut input) = (Decoder::new(kind, 1, 2), BytesMut::new());
    let (mut encoder, mut wire, mut read) = (Encoder::new(kind), BytesMut::new(), Vec::new());
    'all: for part in rest.chunks(size) {
        input.extend_from_slice(part);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(message)) => {
                    encoder.encode(&message, &mut wire);
                    read.push(message);
                }
                Ok(None) => break,
                Err(_) => break 'all,
            }
        }
    }
    if kind == StreamKind::Message {
        let mut again = Decoder::new(kind, 1, 2);
        for message in &read {
            assert_eq!(again.decode(&mut wire).expect("what was written is read").as_ref(), Some(message));
        }
    }
}

fn same<M: Message + Default + PartialEq>(bytes: &Bytes) -> Option<M> {
    let message = M::decode(bytes.clone()).ok()?;
    let again = M::decode(message.encode_to_vec().as_slice()).expect("what was written is read");
    assert!(again == message);
    Some(message)
}

/// `data[0]` says which message. What is read is checked as a request would be.
pub fn messages(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    match which % 16 {
        0 => drop(same::<proto::raftpb::Message>(&bytes)),
        1 => drop(same::<proto::raftpb::Snapshot>(&bytes)),
        2 => drop(same::<proto::raftpb::ConfChangeV2>(&bytes)),
        3 => drop(same::<pb::InternalRaftRequest>(&bytes)),
        4 => drop(same::<pb::WatchRequest>(&bytes)),
        5 => {
            if let Some(request) = same::<pb::RangeRequest>(&bytes) {
                let _ = txn::check_range(&request);
                let _ = txn::check_range_stream(&request);
            }
        }
        6 => {
            if let Some(request) = same::<pb::PutRequest>(&bytes) {
                let _ = txn::check_put(&request);
            }
        }
        7 => {
            if let Some(request) = same::<pb::DeleteRangeRequest>(&bytes) {
                let _ = txn::check_delete_range(&request);
            }
        }
        8 => drop(same::<proto::leasepb::LeaseInternalRequest>(&bytes)),
        9 => drop(same::<pb::AuthRoleGrantPermissionRequest>(&bytes)),
        10 => drop(same::<pb::MemberAddRequest>(&bytes)),
        11 => drop(same::<pb::AlarmRequest>(&bytes)),
        12 => drop(same::<proto::authpb::User>(&bytes)),
        13 => drop(same::<pb::HashKvResponse>(&bytes)),
        _ => {
            if let Some(request) = same::<pb::TxnRequest>(&bytes) {
                let _ = txn::check_txn(&request, 128);
                let _ = txn::is_read_only(&request);
                let _ = txn::is_serializable(&request);
            }
        }
    }
}

static METHODS: LazyLock<Vec<(MessageDescriptor, MessageDescriptor)>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors are those that were compiled");
    let services: Vec<_> = pool.services().collect();
    let methods = services.iter().flat_map(|service| service.methods());
    methods.map(|method| (method.input(), method.output())).collect()
});

/// JSON of a request (whole, and in pieces as of a stream), and of an answer: `data[0]` says of which call.
pub fn json(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    let (input, output) = &METHODS[usize::from(*which) % METHODS.len()];
    if let Ok(framed) = gateway::read(rest, input.clone()) {
        let message = framed.slice(5..);
        let text = gateway::write(message.clone(), input).expect("what was read is written");
        let again = gateway::read(&text, input.clone()).expect("what was written is read");
        let parse = |bytes: Bytes| DynamicMessage::decode(input.clone(), bytes).expect("a message");
        assert!(parse(again.slice(5..)) == parse(message), "{}", String::from_utf8_lossy(&text));
    }
    let mut unread = BytesMut::new();
    for part in rest.chunks(11) {
        unread.extend_from_slice(part);
        while let Ok(Some(_)) = gateway::next(&mut unread, input) {}
    }
    let _ = gateway::write(Bytes::copy_from_slice(rest), output);
}
