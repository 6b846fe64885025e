//! Peer and client URLs, and the list of first members (`--initial-cluster`).

use std::collections::BTreeMap;

/// URLs that cannot be used; the text names the one at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrls {
    /// An empty list.
    #[error("no valid URLs given")]
    None,
    /// No URL at all.
    #[error("not a URL (expected scheme://host:port): {0}")]
    NotAUrl(String),
    /// A scheme that etcd does not know.
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    /// No port.
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    /// A path.
    #[error("URL must not contain a path: {0}")]
    Path(String),
}

/// Checks URLs and sorts them, as etcd does before it computes ids from them (etcd client/pkg/types/urls.go).
pub fn parse_urls<S: AsRef<str>>(texts: &[S]) -> Result<Vec<String>, BadUrls> {
    if texts.is_empty() {
        return Err(BadUrls::None);
    }
    let mut urls = texts
        .iter()
        .map(|text| parse_url(text.as_ref().trim()))
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    Ok(urls)
}

fn parse_url(text: &str) -> Result<String, BadUrls> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| BadUrls::NotAUrl(text.to_owned()))?;
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" => {
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            if !has_host_and_port(host) {
                return Err(BadUrls::HostPort(text.to_owned()));
            }
            if !path.is_empty() {
                return Err(BadUrls::Path(text.to_owned()));
            }
        }
        "unix" | "unixs" => {}
        _ => return Err(BadUrls::Scheme(text.to_owned())),
    }
    Ok(format!("{scheme}://{rest}"))
}

fn has_host_and_port(host: &str) -> bool {
    let Some((name, port)) = host.rsplit_once(':') else {
        return false;
    };
    let bracketed = name.starts_with('[') && name.ends_with(']');
    (bracketed || !name.contains([':', '[', ']'])) && port.bytes().all(|b| b.is_ascii_digit())
}

/// Reads `name=url,name=url,…`: the URLs of each member; a name may come more than once.
pub fn parse_initial_cluster(text: &str) -> Result<BTreeMap<String, Vec<String>>, BadUrls> {
    let mut members: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').unwrap_or((part, ""));
        members.entry(name.to_owned()).or_default().push(url);
    }
    members
        .into_iter()
        .map(|(name, urls)| Ok((name, parse_urls(&urls)?)))
        .collect()
}
