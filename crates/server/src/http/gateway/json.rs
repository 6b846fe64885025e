//! JSON of messages, as Go's protojson has it with proto names: zero values are left out, 64-bit numbers are strings, bytes are
//! base64, fields that are not known are ignored.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};
use tonic::Status;

/// A message behind gRPC's five bytes: not compressed, and its length.
fn framed(message: &DynamicMessage) -> Bytes {
    let len = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + len);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    // A buffer that grows takes all of it.
    message.encode(&mut frame).ok();
    frame.freeze()
}

fn message(value: Value, descriptor: &MessageDescriptor) -> Result<DynamicMessage, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options)
        .map_err(|error| Status::invalid_argument(format!("proto: {error}")))
}

fn malformed(error: &serde_json::Error) -> Status {
    Status::invalid_argument(format!("proto: syntax error: {error}"))
}

/// The message of a whole body, framed. Nothing is the empty message, and what follows the first value is ignored, as in Go.
pub fn read(body: &[u8], descriptor: MessageDescriptor) -> Result<Bytes, Status> {
    let value = match serde_json::Deserializer::from_slice(body).into_iter::<Value>().next() {
        None => return Ok(framed(&DynamicMessage::new(descriptor))),
        Some(value) => value.map_err(|error| malformed(&error))?,
    };
    message(value, &descriptor).map(|message| framed(&message))
}

/// Takes the next message off a body that is still coming, framed. `None`: more of it is needed.
pub fn next(unread: &mut BytesMut, descriptor: &MessageDescriptor) -> Result<Option<Bytes>, Status> {
    let mut values = serde_json::Deserializer::from_slice(unread).into_iter::<Value>();
    let value = match values.next() {
        None => return Ok(None),
        Some(Err(error)) if error.is_eof() => return Ok(None),
        Some(value) => value.map_err(|error| malformed(&error))?,
    };
    let taken = values.byte_offset();
    unread.advance(taken);
    message(value, descriptor).map(|message| Some(framed(&message)))
}

/// Spaces where etcd's build of protojson puts them.
struct Spaces;

impl Formatter for Spaces {
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

/// The JSON of an encoded message.
pub fn write(encoded: Bytes, descriptor: &MessageDescriptor) -> Result<Bytes, Status> {
    let internal = |error: &dyn std::fmt::Display| Status::internal(format!("failed to marshal: {error}"));
    let message = DynamicMessage::decode(descriptor.clone(), encoded).map_err(|error| internal(&error))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(true)
        .stringify_64_bit_integers(true);
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Spaces);
    message
        .serialize_with_options(&mut serializer, &options)
        .map_err(|error| internal(&error))?;
    Ok(text.into())
}

/// One line of a streamed answer.
pub(super) fn line(name: &str, json: &[u8]) -> Bytes {
    [b"{\"", name.as_bytes(), b"\":", json, b"}\n"].concat().into()
}

/// The JSON of an error.
pub(super) fn status(status: &Status) -> Bytes {
    let message = Value::from(status.message());
    format!("{{\"code\":{}, \"message\":{message}}}", status.code() as i32).into()
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{PutRequest, RangeResponse, ResponseHeader, WatchRequest};
    use proto::mvccpb::KeyValue;

    use super::super::POOL;
    use super::*;

    fn descriptor(name: &str) -> MessageDescriptor {
        POOL.get_message_by_name(name).unwrap()
    }

    #[test]
    fn requests_are_read_as_protojson_reads_them() {
        let put = |json: &str| {
            let frame = read(json.as_bytes(), descriptor("etcdserverpb.PutRequest"))?;
            assert_eq!(frame[..5], [0, 0, 0, 0, (frame.len() - 5) as u8]);
            Ok::<_, Status>(PutRequest::decode(&frame[5..]).unwrap())
        };
        let expected = PutRequest {
            key: "k".into(),
            lease: 7,
            prev_kv: true,
            ..PutRequest::default()
        };
        // Numbers and strings, either name of a field, fields of the future, what comes after.
        assert_eq!(
            put(r#"{"key":"aw==","lease":"7","prev_kv":true,"x":[1]} {"#).unwrap(),
            expected
        );
        assert_eq!(put(r#"{"key":"aw","lease":7,"prevKv":true}"#).unwrap(), expected);
        assert_eq!(put("").unwrap(), PutRequest::default());
        for bad in ["{", "nonsense", r#"{"key":1}"#, r#"{"lease":"x"}"#, "[]"] {
            assert_eq!(put(bad).unwrap_err().code(), tonic::Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn streamed_requests_are_taken_off_as_they_come() {
        let descriptor = descriptor("etcdserverpb.WatchRequest");
        let mut unread = BytesMut::from(&b" {\"create_request\":{\"key\":\"aw==\"}}\n{\"progress_req"[..]);
        let first = next(&mut unread, &descriptor).unwrap().unwrap();
        assert!(WatchRequest::decode(&first[5..]).unwrap().request_union.is_some());
        assert!(next(&mut unread, &descriptor).unwrap().is_none());
        unread.extend_from_slice(b"uest\":{}}");
        assert!(next(&mut unread, &descriptor).unwrap().is_some());
        assert!(next(&mut unread, &descriptor).unwrap().is_none());
        unread.extend_from_slice(b"]");
        assert!(next(&mut unread, &descriptor).is_err());
    }

    #[test]
    fn answers_are_written_as_protojson_writes_them() {
        let response = RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                revision: 2,
                ..ResponseHeader::default()
            }),
            kvs: vec![KeyValue {
                key: "a?".into(),
                ..KeyValue::default()
            }],
            count: 1,
            ..RangeResponse::default()
        };
        let json = write(
            response.encode_to_vec().into(),
            &descriptor("etcdserverpb.RangeResponse"),
        )
        .unwrap();
        assert_eq!(
            json,
            r#"{"header":{"cluster_id":"18446744073709551615", "revision":"2"}, "kvs":[{"key":"YT8="}], "count":"1"}"#
        );
        assert_eq!(
            status(&Status::not_found("a \"b\"")),
            r#"{"code":5, "message":"a \"b\""}"#
        );
    }
}
