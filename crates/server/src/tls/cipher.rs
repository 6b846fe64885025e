//! `--cipher-suites`, `--tls-min-version` and `--tls-max-version` in terms of rustls.

use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::Error;

/// Suites that Go knows by name and that no client should be offered; accepted in the flag, with a warning.
const WEAK: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

fn suite(name: &str) -> Option<CipherSuite> {
    Some(match name {
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => {
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "TLS_AES_128_GCM_SHA256" => CipherSuite::TLS13_AES_128_GCM_SHA256,
        "TLS_AES_256_GCM_SHA384" => CipherSuite::TLS13_AES_256_GCM_SHA384,
        "TLS_CHACHA20_POLY1305_SHA256" => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        _ => return None,
    })
}

/// ring with the TLS 1.2 suites of `names`, in that order; all of them when there are none. TLS 1.3 suites always stay, as
/// in Go.
pub(super) fn provider(names: &[String]) -> Result<CryptoProvider, Error> {
    let mut provider = ring::default_provider();
    if names.is_empty() {
        return Ok(provider);
    }
    let (mut suites, all): (Vec<_>, Vec<_>) = provider
        .cipher_suites
        .iter()
        .copied()
        .partition(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)));
    for name in names {
        match suite(name) {
            Some(wanted) => suites.extend(all.iter().filter(|suite| suite.suite() == wanted)),
            None if WEAK.contains(&name.as_str()) => {
                tracing::warn!(suite = name, "ignoring a weak cipher suite of --cipher-suites");
            }
            None => {
                return Err(Error::Setting(format!(
                    "unexpected TLS cipher suite {name:?} in --cipher-suites"
                )));
            }
        }
    }
    provider.cipher_suites = suites;
    Ok(provider)
}

/// The versions between two flags; an empty maximum is the highest there is.
pub(super) fn versions(least: &str, most: &str) -> Vec<&'static SupportedProtocolVersion> {
    let mut versions = Vec::new();
    if most != "TLS1.2" {
        versions.push(&version::TLS13);
    }
    if least != "TLS1.3" {
        versions.push(&version::TLS12);
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_named_suites_and_tls13() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let provider_of = |list: &[&str]| provider(&names(list));
        let suites = provider_of(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA"])
            .unwrap()
            .cipher_suites;
        let tls12: Vec<_> = suites
            .iter()
            .filter(|suite| matches!(suite, SupportedCipherSuite::Tls12(_)))
            .collect();
        assert_eq!((tls12.len(), suites.len()), (1, 4));
        let error = provider_of(&["FOO"]).err().unwrap().to_string();
        assert_eq!(error, "unexpected TLS cipher suite \"FOO\" in --cipher-suites");
        assert_eq!(versions("TLS1.2", "").len(), 2);
        assert_eq!(versions("TLS1.3", "TLS1.3"), [&version::TLS13]);
        assert_eq!(versions("TLS1.2", "TLS1.2"), [&version::TLS12]);
    }
}
