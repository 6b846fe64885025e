//! Keys and values: get, put, del, txn, watch.

use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::{Event, KeyValue, event::EventType};

use super::{Answer, Style, header_json, header_lines};
use crate::etcdctl::json::{Json, Object};
use crate::gotext::quote;

pub(crate) struct Get(pub pb::RangeResponse);
pub(crate) struct Put(pub pb::PutResponse);
pub(crate) struct Delete(pub pb::DeleteRangeResponse);
pub(crate) struct Txn(pub pb::TxnResponse);
/// A piece of a watch.
pub(crate) struct Watch(pub pb::WatchResponse);

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .map(|byte| format!("\\x{byte:02x}"))
        .collect::<String>()
        .into_bytes()
}

fn simple_kv(out: &mut Vec<u8>, style: Style, kv: &KeyValue) {
    let show = |bytes: &[u8]| if style.hex { hex(bytes) } else { bytes.to_vec() };
    if !style.value_only {
        out.extend_from_slice(&show(&kv.key));
        out.push(b'\n');
    }
    out.extend_from_slice(&show(&kv.value));
    out.push(b'\n');
}

fn fields_kv(prefix: &str, kv: &KeyValue, hex: bool) -> String {
    let lease = if hex {
        format!("{:016x}", kv.lease)
    } else {
        kv.lease.to_string()
    };
    format!(
        "\"{prefix}Key\" : {}\n\"{prefix}CreateRevision\" : {}\n\"{prefix}ModRevision\" : {}\n\"{prefix}Version\" : {}\n\"{prefix}Value\" : {}\n\"{prefix}Lease\" : {lease}\n",
        quote(&kv.key),
        kv.create_revision,
        kv.mod_revision,
        kv.version,
        quote(&kv.value),
    )
}

fn json_kv(kv: &KeyValue) -> Json {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .done()
}

impl Answer for Get {
    fn simple(&self, style: Style) -> Vec<u8> {
        let mut out = Vec::new();
        self.0.kvs.iter().for_each(|kv| simple_kv(&mut out, style, kv));
        out
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.0.header.as_ref()))
            .array("kvs", self.0.kvs.iter().map(json_kv).collect())
            .bool("more", self.0.more)
            .number("count", self.0.count)
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        self.0.kvs.iter().for_each(|kv| out.push_str(&fields_kv("", kv, hex)));
        out.push_str(&format!("\"More\" : {}\n\"Count\" : {}\n", self.0.more, self.0.count));
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

impl Answer for Put {
    fn simple(&self, style: Style) -> Vec<u8> {
        let mut out = b"OK\n".to_vec();
        self.0.prev_kv.iter().for_each(|kv| simple_kv(&mut out, style, kv));
        out
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.0.header.as_ref()))
            .some("prev_kv", self.0.prev_kv.as_ref().map(json_kv))
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        self.0
            .prev_kv
            .iter()
            .for_each(|kv| out.push_str(&fields_kv("Prev", kv, hex)));
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

impl Answer for Delete {
    fn simple(&self, style: Style) -> Vec<u8> {
        let mut out = format!("{}\n", self.0.deleted).into_bytes();
        self.0.prev_kvs.iter().for_each(|kv| simple_kv(&mut out, style, kv));
        out
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.0.header.as_ref()))
            .number("deleted", self.0.deleted)
            .array("prev_kvs", self.0.prev_kvs.iter().map(json_kv).collect())
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        out.push_str(&format!("\"Deleted\" : {}\n", self.0.deleted));
        self.0
            .prev_kvs
            .iter()
            .for_each(|kv| out.push_str(&fields_kv("Prev", kv, hex)));
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

impl Answer for Txn {
    fn simple(&self, style: Style) -> Vec<u8> {
        let mut out = if self.0.succeeded {
            b"SUCCESS\n".to_vec()
        } else {
            b"FAILURE\n".to_vec()
        };
        for response in &self.0.responses {
            out.push(b'\n');
            match response.response.clone() {
                Some(Response::ResponseDeleteRange(response)) => out.extend(Delete(response).simple(style)),
                Some(Response::ResponsePut(response)) => out.extend(Put(response).simple(style)),
                Some(Response::ResponseRange(response)) => out.extend(Get(response).simple(style)),
                other => out.extend(format!("unexpected response {other:?}\n").into_bytes()),
            }
        }
        out
    }

    fn json(&self, hex: bool) -> Json {
        let responses = self.0.responses.iter().map(|response| {
            let (name, value) = match response.response.clone() {
                Some(Response::ResponseRange(response)) => ("response_range", Get(response).json(hex)),
                Some(Response::ResponsePut(response)) => ("response_put", Put(response).json(hex)),
                Some(Response::ResponseDeleteRange(response)) => ("response_delete_range", Delete(response).json(hex)),
                Some(Response::ResponseTxn(response)) => ("response_txn", Txn(response).json(hex)),
                None => return Object::new().always("Response", Object::new().done()).done(),
            };
            Object::new()
                .always("Response", Object::new().always(name, value).done())
                .done()
        });
        Object::new()
            .some("header", header_json(self.0.header.as_ref()))
            .bool("succeeded", self.0.succeeded)
            .array("responses", responses.collect())
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        out.push_str(&format!("\"Succeeded\" : {}\n", self.0.succeeded));
        for response in &self.0.responses {
            let text = match response.response.clone() {
                Some(Response::ResponseDeleteRange(response)) => Delete(response).fields(hex),
                Some(Response::ResponsePut(response)) => Put(response).fields(hex),
                Some(Response::ResponseRange(response)) => Get(response).fields(hex),
                other => Some(format!("\"Unknown\" : {}\n", quote(format!("{other:?}").as_bytes()))),
            };
            out.push_str(&text.unwrap_or_default());
        }
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

fn type_name(event: &Event) -> &'static str {
    match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    }
}

impl Answer for Watch {
    fn simple(&self, style: Style) -> Vec<u8> {
        let mut out = Vec::new();
        for event in &self.0.events {
            out.extend_from_slice(format!("{}\n", type_name(event)).as_bytes());
            event.prev_kv.iter().for_each(|kv| simple_kv(&mut out, style, kv));
            simple_kv(&mut out, style, &event.kv.clone().unwrap_or_default());
        }
        out
    }

    fn json(&self, _hex: bool) -> Json {
        let events = self.0.events.iter().map(|event| {
            Object::new()
                .number("type", event.r#type)
                .some("kv", event.kv.as_ref().map(json_kv))
                .some("prev_kv", event.prev_kv.as_ref().map(json_kv))
                .done()
        });
        let events: Vec<Json> = events.collect();
        Object::new()
            .always("Header", header_json(self.0.header.as_ref()).unwrap_or(Json::Null))
            .always(
                "Events",
                if events.is_empty() {
                    Json::Array(Vec::new())
                } else {
                    Json::Array(events)
                },
            )
            .always("CompactRevision", Json::number(self.0.compact_revision))
            .always("Canceled", Json::Bool(self.0.canceled))
            .always("Created", Json::Bool(self.0.created))
            .always("CancelReason", Json::text(self.0.cancel_reason.clone()))
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        for event in &self.0.events {
            out.push_str(&format!("\"Type\" : {}\n", type_name(event)));
            event
                .prev_kv
                .iter()
                .for_each(|kv| out.push_str(&fields_kv("Prev", kv, hex)));
            out.push_str(&fields_kv("", &event.kv.clone().unwrap_or_default(), hex));
        }
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        let response = pb::WatchResponse {
            watch_id: 0,
            cancel_reason: String::new(),
            fragment: false,
            ..self.0.clone()
        };
        Some(response.encode_to_vec())
    }
}
