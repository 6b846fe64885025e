//! Which addresses a store may have when its endpoint was written by somebody else than the owner of the machine.
//!
//! Invariant: an address that means the node or the pod itself is never connected to: loopback, link-local (where clouds
//! serve credentials), unspecified and multicast ones. Private addresses are fine: most S3 servers in a cluster have one.

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is refused, if it is.
pub fn refused(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => refused_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => refused_v4(mapped),
            None => refused_v6(address),
        },
    }
}

fn refused_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_loopback() {
        Some("loopback")
    } else if address.is_link_local() {
        Some("link-local")
    } else if address.is_unspecified() || address.octets()[0] == 0 {
        Some("unspecified")
    } else if address.is_multicast() || address.is_broadcast() {
        Some("multicast")
    } else {
        None
    }
}

fn refused_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_loopback() {
        Some("loopback")
    } else if address.is_unicast_link_local() || address.segments()[..2] == [0xfd00, 0x0ec2] {
        // fd00:ec2::254 is the metadata service of AWS.
        Some("link-local")
    } else if address.is_unspecified() {
        Some("unspecified")
    } else if address.is_multicast() {
        Some("multicast")
    } else {
        None
    }
}

/// The host of a URL, without port and brackets.
pub fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// Refuses a host that is written as a number, or as the name of the machine itself.
pub fn check_host(host: &str) -> Result<(), String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return match refused(address) {
            Some(kind) => Err(format!(
                "{address} is a {kind} address: write the address of the server"
            )),
            None => Ok(()),
        };
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    // 127.1 or 0x7f000001 are addresses too, for a resolver.
    let number = |label: &str| label.starts_with("0x") || label.chars().all(|c| c.is_ascii_digit());
    if name == "localhost" || name.ends_with(".localhost") || name.rsplit('.').next().is_some_and(number) {
        return Err(format!(
            "{host:?} is no name of a server: write its name, or its address in full"
        ));
    }
    Ok(())
}

/// Asks the system, and leaves out what is refused; an error when nothing is left.
#[derive(Debug, Clone, Copy)]
pub struct Resolver;

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let found = tokio::net::lookup_host((name, 0)).await.map_err(ResolveDnsError::new)?;
            let all: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            let good: Vec<IpAddr> = all
                .iter()
                .copied()
                .filter(|address| refused(*address).is_none())
                .collect();
            match (good.is_empty(), all.first()) {
                (true, Some(address)) => {
                    let kind = refused(*address).unwrap_or_default();
                    Err(ResolveDnsError::new(format!(
                        "{name} leads to {address}, a {kind} address, which is refused"
                    )))
                }
                _ => Ok(good),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_node_itself_are_refused_in_every_spelling() {
        for bad in [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "::",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
        ] {
            assert!(refused(bad.parse().unwrap()).is_some(), "{bad}");
            assert!(check_host(bad).is_err(), "{bad}");
        }
        for bad in [
            "localhost",
            "LOCALHOST.",
            "s3.localhost",
            "127.1",
            "0x7f000001",
            "2130706433",
        ] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
        for good in [
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
            "s3.eu.example.com",
            "minio",
        ] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn the_host_of_a_url() {
        for (url, wanted) in [
            ("https://s3.example.com:9000/x", "s3.example.com"),
            ("http://user:word@[fe80::1]:80", "fe80::1"),
            ("https://10.0.0.1", "10.0.0.1"),
            ("https://a@169.254.169.254/", "169.254.169.254"),
        ] {
            assert_eq!(host(url), wanted, "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_home_is_refused_when_it_is_resolved() {
        let error = Resolver.resolve_dns("localhost").await.unwrap_err();
        assert!(
            std::error::Error::source(&error)
                .unwrap()
                .to_string()
                .contains("loopback")
        );
    }
}
