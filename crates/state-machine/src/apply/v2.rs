//! Requests to etcd's old key space, as logs up to 3.6 hold them: members publish their attributes and the leader sets the cluster
//! version through it. Nothing else of the old key space is supported, as in etcd 3.6 (its etcdserver/apply_v2.go).
//!
//! Invariant: the message is decoded by hand, because 3.7 removed it from the protocol (`InternalRaftRequest.v2`, field 2).

use prost::Message;

use super::BadEntry;
use super::request::Request;
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};

/// The fields of the removed message that matter.
#[derive(Clone, PartialEq, Message)]
struct V2Request {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(string, tag = "3")]
    path: String,
    #[prost(string, tag = "4")]
    value: String,
}

/// What is left of `InternalRaftRequest` when one looks for field 2 only.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, optional, tag = "2")]
    v2: Option<V2Request>,
}

#[derive(serde::Deserialize)]
struct StoredAttributes {
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Option<Vec<String>>,
}

/// The membership request inside a modern request's field 2; `None` when there is no such field.
pub(super) fn embedded(data: &[u8]) -> Option<Result<Request, BadEntry>> {
    let request = Envelope::decode(data).ok()?.v2?;
    Some(translate(request))
}

/// An entry that is a bare v2 request, as etcd up to 3.5 proposed them: its id and what it does.
pub(super) fn bare(data: &[u8]) -> Option<(u64, Result<Request, BadEntry>)> {
    let request = V2Request::decode(data).ok()?;
    let plausible = matches!(
        request.method.as_str(),
        "PUT" | "POST" | "DELETE" | "QGET" | "GET" | "SYNC"
    );
    plausible.then(|| (request.id, translate(request)))
}

fn translate(request: V2Request) -> Result<Request, BadEntry> {
    let refuse = || BadEntry::V2 {
        method: request.method.clone(),
        path: request.path.clone(),
    };
    if request.method != "PUT" {
        return Err(refuse());
    }
    if request.path == "/0/version" {
        return Ok(Request::ClusterVersionSet(ClusterVersionSetRequest {
            ver: request.value,
        }));
    }
    let id = request
        .path
        .strip_prefix("/0/members/")
        .and_then(|rest| rest.strip_suffix("/attributes"));
    let member_id = id
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .ok_or_else(refuse)?;
    let stored: StoredAttributes = serde_json::from_str(&request.value).map_err(|_| refuse())?;
    let attributes = Attributes {
        name: stored.name,
        client_urls: stored.client_urls.unwrap_or_default(),
    };
    Ok(Request::ClusterMemberAttrSet(ClusterMemberAttrSetRequest {
        member_id,
        member_attributes: Some(attributes),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(method: &str, path: &str, value: &str) -> V2Request {
        V2Request {
            id: 5,
            method: method.into(),
            path: path.into(),
            value: value.into(),
        }
    }

    #[test]
    fn membership_is_taken_over_and_nothing_else() {
        let attributes = v2(
            "PUT",
            "/0/members/8e9e05c52164694d/attributes",
            r#"{"name":"a","clientURLs":["http://c:1"]}"#,
        );
        let data = Envelope {
            v2: Some(attributes.clone()),
        }
        .encode_to_vec();
        let Some(Ok(Request::ClusterMemberAttrSet(request))) = embedded(&data) else {
            panic!("not taken over")
        };
        assert_eq!(request.member_id, 0x8e9e_05c5_2164_694d);
        assert_eq!(request.member_attributes.unwrap().client_urls, ["http://c:1"]);
        let Some((5, Ok(_))) = bare(&attributes.encode_to_vec()) else {
            panic!("not taken over")
        };
        let version = Envelope {
            v2: Some(v2("PUT", "/0/version", "3.5.0")),
        }
        .encode_to_vec();
        assert!(matches!(embedded(&version), Some(Ok(Request::ClusterVersionSet(request))) if request.ver == "3.5.0"));
        for (method, path) in [
            ("PUT", "/1/user"),
            ("DELETE", "/0/version"),
            ("PUT", "/0/members/x/attributes"),
        ] {
            let data = Envelope {
                v2: Some(v2(method, path, "{}")),
            }
            .encode_to_vec();
            assert!(
                matches!(embedded(&data), Some(Err(BadEntry::V2 { .. }))),
                "{method} {path}"
            );
        }
        assert!(embedded(&[]).is_none());
        assert!(bare(b"\x12\x03abc").is_none());
    }
}
