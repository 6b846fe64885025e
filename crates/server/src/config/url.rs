//! The URLs of etcd's flags: a scheme and `host:port`, or a unix socket path.
//!
//! Invariants:
//! - An http or https [`Url`] has a host part that splits into host and port, and no path.
//! - A list of them is sorted by text and has no duplicates, as etcd keeps it (client/pkg/types.NewURLs): member ids are
//!   derived from the sorted list.

use std::collections::BTreeMap;
use std::fmt;

/// How a URL is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A unix socket.
    Unix,
    /// TLS over a unix socket.
    Unixs,
}

impl Scheme {
    /// Whether TLS is spoken.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    /// Whether the address is a path of a socket.
    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }
}

/// A URL to listen on or to advertise.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Url {
    /// How it is reached.
    pub scheme: Scheme,
    /// `host:port` for http and https; the path of the socket for unix and unixs.
    pub address: String,
    text: String,
}

impl Url {
    /// Parses one URL; the error is etcd's text.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let unknown = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(unknown());
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(unknown()),
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        if scheme.is_unix() {
            return Ok(Url {
                scheme,
                address: rest.to_owned(),
                text: text.to_owned(),
            });
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let address = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if let Some((_, port)) = address.rsplit_once(':')
            && !port.ends_with(']')
            && !port.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(format!(
                "parse {text:?}: invalid port {:?} after host",
                format!(":{port}")
            ));
        }
        if split_host_port(address).is_err() {
            return Err(format!("URL address does not have the form \"host:port\": {text}"));
        }
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Url {
            scheme,
            address: address.to_owned(),
            text: text.to_owned(),
        })
    }

    /// The host without brackets; empty for a unix socket.
    pub fn host(&self) -> &str {
        if self.scheme.is_unix() {
            return "";
        }
        split_host_port(&self.address).map_or("", |(host, _)| host)
    }

    /// The text of the port; empty for a unix socket.
    pub fn port(&self) -> &str {
        if self.scheme.is_unix() {
            return "";
        }
        split_host_port(&self.address).map_or("", |(_, port)| port)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits `host:port` or `[host]:port` as Go's `net.SplitHostPort` does; the error is Go's text.
pub fn split_host_port(address: &str) -> Result<(&str, &str), String> {
    let fail = |why: &str| Err(format!("address {address}: {why}"));
    if let Some(rest) = address.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return fail("missing ']' in address");
        };
        return match rest.strip_prefix(':') {
            Some(port) if !port.contains(':') => Ok((host, port)),
            Some(_) => fail("too many colons in address"),
            None => fail("missing port in address"),
        };
    }
    match address.rsplit_once(':') {
        None => fail("missing port in address"),
        Some((host, _)) if host.contains(':') => fail("too many colons in address"),
        Some((host, port)) => Ok((host, port)),
    }
}

/// Parses a comma-separated list; sorted, without duplicates. An empty text is an empty list.
pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort_by(|a, b| a.text.cmp(&b.text));
    urls.dedup();
    Ok(urls)
}

/// The members of `--initial-cluster`: "a=http://h:1,b=http://h:2,b=http://h:3". Names sorted, URLs sorted per name.
pub fn parse_members(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        members.entry(name.to_owned()).or_default().push(Url::parse(url)?);
    }
    for urls in members.values_mut() {
        urls.sort_by(|a, b| a.text.cmp(&b.text));
    }
    Ok(members)
}

/// The URLs as texts.
pub fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// The URLs as one comma-separated text.
pub fn joined(urls: &[Url]) -> String {
    texts(urls).join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_hosts_like_go() {
        assert_eq!(split_host_port("localhost:1"), Ok(("localhost", "1")));
        assert_eq!(split_host_port("[::1]:2379"), Ok(("::1", "2379")));
        assert_eq!(split_host_port(":1"), Ok(("", "1")));
        assert_eq!(
            split_host_port("localhost").unwrap_err(),
            "address localhost: missing port in address"
        );
        assert_eq!(
            split_host_port("::1:2").unwrap_err(),
            "address ::1:2: too many colons in address"
        );
        assert_eq!(
            split_host_port("[::1]").unwrap_err(),
            "address [::1]: missing port in address"
        );
    }

    #[test]
    fn keeps_lists_sorted_and_unique() {
        let urls = parse_list("https://b:2,http://a:1, http://a:1,unix://localhost:20000").unwrap();
        assert_eq!(texts(&urls), ["http://a:1", "https://b:2", "unix://localhost:20000"]);
        assert_eq!(urls[2].address, "localhost:20000");
        assert_eq!(urls[2].host(), "");
        assert_eq!(parse_list("unix:///run/a.sock").unwrap()[0].address, "/run/a.sock");
    }

    #[test]
    fn refuses_with_etcds_words() {
        for (text, error) in [
            ("tcp://a:1", "URL scheme must be http, https, unix, or unixs: tcp://a:1"),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            ("http://a:x", "parse \"http://a:x\": invalid port \":x\" after host"),
        ] {
            assert_eq!(parse_list(text).unwrap_err(), error);
        }
    }

    #[test]
    fn groups_members_by_name() {
        let members = parse_members("b=http://h:2,a=http://h:1,b=http://g:3").unwrap();
        assert_eq!(members.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(joined(&members["b"]), "http://g:3,http://h:2");
        assert!(parse_members("a").is_err());
    }
}
