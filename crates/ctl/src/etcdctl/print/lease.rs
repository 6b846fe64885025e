//! Leases.
//!
//! For JSON, upstream's answers put the fields of the header beside their own; as protobuf they are the header alone.

use prost::Message;
use proto::etcdserverpb as pb;

use super::{Answer, Style, header_fields, header_json, header_lines};
use crate::etcdctl::json::{Json, Object};
use crate::gotext::quote;

pub(crate) struct Grant(pub pb::LeaseGrantResponse);
pub(crate) struct Revoke(pub i64, pub pb::LeaseRevokeResponse);
pub(crate) struct KeepAlive(pub pb::LeaseKeepAliveResponse);
/// The answer, and whether keys were asked for.
pub(crate) struct TimeToLive(pub pb::LeaseTimeToLiveResponse, pub bool);
pub(crate) struct Leases(pub pb::LeaseLeasesResponse);

fn id(hex: bool, id: i64) -> String {
    if hex { format!("{id:016x}") } else { id.to_string() }
}

fn flat(header: Option<&pb::ResponseHeader>) -> Object {
    match header {
        Some(header) => header_fields(Object::new(), header),
        None => Object::new(),
    }
}

fn header_bytes(header: Option<&pb::ResponseHeader>) -> Option<Vec<u8>> {
    Some(header.copied().unwrap_or_default().encode_to_vec())
}

impl Answer for Grant {
    fn simple(&self, _style: Style) -> Vec<u8> {
        format!("lease {:016x} granted with TTL({}s)\n", self.0.id, self.0.ttl).into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        flat(self.0.header.as_ref())
            .always("ID", Json::number(self.0.id))
            .always("TTL", Json::number(self.0.ttl))
            .always("Error", Json::text(self.0.error.clone()))
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let header = header_lines(self.0.header.as_ref(), hex);
        Some(format!(
            "{header}\"ID\" : {}\n\"TTL\" : {}\n",
            id(hex, self.0.id),
            self.0.ttl
        ))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        header_bytes(self.0.header.as_ref())
    }
}

impl Answer for Revoke {
    fn simple(&self, _style: Style) -> Vec<u8> {
        format!("lease {:016x} revoked\n", self.0).into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new().some("header", header_json(self.1.header.as_ref())).done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        Some(header_lines(self.1.header.as_ref(), hex))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.1.encode_to_vec())
    }
}

impl Answer for KeepAlive {
    fn simple(&self, _style: Style) -> Vec<u8> {
        format!("lease {:016x} keepalived with TTL({})\n", self.0.id, self.0.ttl).into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        flat(self.0.header.as_ref())
            .always("ID", Json::number(self.0.id))
            .always("TTL", Json::number(self.0.ttl))
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let header = header_lines(self.0.header.as_ref(), hex);
        Some(format!(
            "{header}\"ID\" : {}\n\"TTL\" : {}\n",
            id(hex, self.0.id),
            self.0.ttl
        ))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        header_bytes(self.0.header.as_ref())
    }
}

impl Answer for TimeToLive {
    fn simple(&self, _style: Style) -> Vec<u8> {
        let answer = &self.0;
        if answer.granted_ttl == 0 && answer.ttl == -1 {
            return format!("lease {:016x} already expired\n", answer.id).into_bytes();
        }
        let mut out = format!(
            "lease {:016x} granted with TTL({}s), remaining({}s)",
            answer.id, answer.granted_ttl, answer.ttl
        )
        .into_bytes();
        if self.1 {
            let keys: Vec<&[u8]> = answer.keys.iter().map(AsRef::as_ref).collect();
            out.extend_from_slice(b", attached keys([");
            out.extend_from_slice(&keys.join(&b" "[..]));
            out.extend_from_slice(b"])");
        }
        out.push(b'\n');
        out
    }

    fn json(&self, _hex: bool) -> Json {
        let keys = match &self.0.keys[..] {
            [] => Json::Null,
            keys => Json::Array(keys.iter().map(|key| Json::bytes(key)).collect()),
        };
        flat(self.0.header.as_ref())
            .always("id", Json::number(self.0.id))
            .always("ttl", Json::number(self.0.ttl))
            .always("granted-ttl", Json::number(self.0.granted_ttl))
            .always("keys", keys)
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        out.push_str(&format!(
            "\"ID\" : {}\n\"TTL\" : {}\n\"GrantedTTL\" : {}\n",
            id(hex, self.0.id),
            self.0.ttl,
            self.0.granted_ttl
        ));
        for key in &self.0.keys {
            out.push_str(&format!("\"Key\" : {}\n", quote(key)));
        }
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        header_bytes(self.0.header.as_ref())
    }
}

impl Answer for Leases {
    fn simple(&self, _style: Style) -> Vec<u8> {
        let mut out = format!("found {} leases\n", self.0.leases.len());
        for lease in &self.0.leases {
            out.push_str(&format!("{:016x}\n", lease.id));
        }
        out.into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        let leases = self.0.leases.iter();
        let leases = leases.map(|lease| Object::new().always("id", Json::number(lease.id)).done());
        flat(self.0.header.as_ref())
            .always("leases", Json::Array(leases.collect()))
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        for lease in &self.0.leases {
            out.push_str(&format!("\"ID\" : {}\n", id(hex, lease.id)));
        }
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        header_bytes(self.0.header.as_ref())
    }
}
