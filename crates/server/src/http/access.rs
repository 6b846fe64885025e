//! Who may call from a browser: CORS and the host whitelist (etcd server/embed/serve.go, accessController).

use http::header::{HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, Request, StatusCode};

use super::{Answer, error};
use crate::config::{Config, split_host_port};
use crate::listener::Connection;
use crate::member::Member;

/// A refusal when the request came over plaintext for a host that is not on the whitelist.
pub(super) fn refuse<B>(config: &Config, secure: bool, request: &Request<B>) -> Option<Answer> {
    let list = &config.host_whitelist;
    if secure || list.is_empty() || list.contains("*") {
        return None;
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority
        .or_else(|| request.headers().get(http::header::HOST)?.to_str().ok())
        .unwrap_or_default();
    let host = split_host_port(host).map_or(host, |(host, _)| host);
    if list.contains(host) {
        return None;
    }
    tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
    let text = format!(
        "\netcd received your request, but the Host header was unrecognized.\n\nTo fix this, choose one of the following \
         options:\n- Enable TLS, then any HTTPS request will be allowed.\n- Add the hostname you want to use to the whitelist \
         in settings.\n  - e.g. etcd --host-whitelist {host:?}\n\nThis requirement has been added to help prevent \"DNS \
         Rebinding\" attacks (CVE-2018-5702).\n"
    );
    Some(error(StatusCode::MISDIRECTED_REQUEST, &text))
}

/// A refusal for a connection whose certificate names a user while authentication is on: through the gateway that name does not count,
/// and whoever relies on it must hear so.
pub(super) fn refuse_named(member: &Member, from: &Connection) -> Option<Answer> {
    let named = from.common_name.as_ref().is_some_and(|name| !name.is_empty());
    let text = "CommonName of client sending a request against gateway will be ignored and not used as expected";
    let refused = named && member.config.client_tls.client_cert_auth && member.auth.table.is_enabled();
    refused.then(|| error(StatusCode::BAD_REQUEST, text))
}

/// Adds the CORS headers when the origin may call.
pub(super) fn allow_origin<B>(config: &Config, request: &Request<B>, headers: &mut HeaderMap) {
    let origin = match request.headers().get(ORIGIN) {
        _ if config.cors.is_empty() || config.cors.contains("*") => HeaderValue::from_static("*"),
        Some(origin) if origin.to_str().is_ok_and(|origin| config.cors.contains(origin)) => origin.clone(),
        _ => return,
    };
    let mut add = |name: &'static str, value| headers.insert(HeaderName::from_static(name), value);
    add(
        "access-control-allow-methods",
        HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"),
    );
    add("access-control-allow-origin", origin);
    add(
        "access-control-allow-headers",
        HeaderValue::from_static("accept, content-type, authorization"),
    );
}
