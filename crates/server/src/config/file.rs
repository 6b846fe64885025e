//! `--config-file`: YAML whose keys are flag names, with TLS files in two sections (etcd server/embed/config.go,
//! configYAML). It replaces flags and environment.
//!
//! Invariants:
//! - Unknown keys are ignored, as in etcd; a known key with a value of the wrong shape is refused by name.
//! - Durations are integers of nanoseconds, as etcd's decoder demands; Go's syntax is accepted as well.

use serde_yaml::{Mapping, Value};

use super::{Config, TlsFiles, flag};

/// Keys that only the command line knows.
const NOT_IN_FILES: &[&str] = &["config-file", "version", "raft-read-timeout", "raft-write-timeout"];

pub(super) fn read(path: &str) -> Result<Config, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("open {path}: {error} (--config-file)"))?;
    parse(&text).map_err(|error| format!("{path}: {error}"))
}

pub(super) fn parse(text: &str) -> Result<Config, String> {
    let mut config = Config::default();
    let keys = match serde_yaml::from_str::<Value>(text).map_err(|error| format!("error unmarshaling YAML: {error}"))? {
        Value::Mapping(keys) => keys,
        Value::Null => Mapping::new(),
        _ => return Err("the file must be a map of flag names to values".into()),
    };
    let default_cluster = config.initial_cluster.clone();
    for (key, value) in &keys {
        let Some(key) = key.as_str() else { continue };
        match key {
            "client-transport-security" => security(key, value, &mut config.client_tls)?,
            "peer-transport-security" => security(key, value, &mut config.peer_tls)?,
            _ if NOT_IN_FILES.contains(&key) || is_tls_flag(key) => {}
            _ => {
                let Some(flag) = flag::find(key).filter(|flag| !flag.help.is_empty()) else {
                    continue;
                };
                if value.is_null() {
                    continue;
                }
                let value =
                    scalar(flag.kind, value).ok_or_else(|| format!("{key}: expected {}", expectation(flag.kind)))?;
                if value.is_empty() && matches!(flag.kind, flag::Kind::List) {
                    continue;
                }
                flag.set(&mut config, &value)
                    .map_err(|error| format!("invalid value {value:?} for {key}: {error}"))?;
            }
        }
    }
    if (!config.discovery_srv.is_empty() || !config.discovery_endpoints.is_empty())
        && config.initial_cluster == default_cluster
    {
        config.initial_cluster.clear();
    }
    Ok(config)
}

/// TLS files are flags on the command line and sections in a file.
fn is_tls_flag(key: &str) -> bool {
    let base = key.strip_prefix("peer-").unwrap_or(key);
    matches!(
        base,
        "cert-file"
            | "key-file"
            | "client-cert-auth"
            | "client-cert-file"
            | "client-key-file"
            | "client-crl-file"
            | "crl-file"
            | "trusted-ca-file"
            | "auto-tls"
            | "cert-allowed-cn"
            | "cert-allowed-hostname"
            | "client-cert-allowed-hostname"
            | "skip-client-san-verification"
    )
}

fn expectation(kind: flag::Kind) -> &'static str {
    match kind {
        flag::Kind::Bool => "true or false",
        flag::Kind::Duration => "an integer of nanoseconds",
        flag::Kind::Number => "a number",
        flag::Kind::List => "a list or a comma-separated string",
        flag::Kind::Text => "a string",
    }
}

/// The value in the syntax of the command line.
fn scalar(kind: flag::Kind, value: &Value) -> Option<String> {
    match (kind, value) {
        (flag::Kind::Bool, Value::Bool(on)) => Some(on.to_string()),
        (flag::Kind::Duration, Value::Number(nanos)) => Some(format!("{}ns", nanos.as_i64()?)),
        (flag::Kind::Number, Value::Number(number)) => Some(number.to_string()),
        (flag::Kind::Duration | flag::Kind::List | flag::Kind::Text, Value::String(text)) => Some(text.clone()),
        (flag::Kind::List, Value::Sequence(items)) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}

fn security(section: &str, value: &Value, files: &mut TlsFiles) -> Result<(), String> {
    let Value::Mapping(keys) = value else {
        return if value.is_null() {
            Ok(())
        } else {
            Err(format!("invalid {section}"))
        };
    };
    for (key, value) in keys {
        let Some(key) = key.as_str() else { continue };
        let wrong = |expected: &str| format!("{section}.{key}: expected {expected}");
        let text = || value.as_str().map(str::to_owned).ok_or_else(|| wrong("a string"));
        let boolean = || value.as_bool().ok_or_else(|| wrong("true or false"));
        let list = || match value {
            Value::Sequence(items) => items
                .iter()
                .map(|item| {
                    item.as_str()
                        .map(str::to_owned)
                        .ok_or_else(|| wrong("a list of strings"))
                })
                .collect::<Result<Vec<_>, _>>(),
            _ => Err(wrong("a list of strings")),
        };
        if value.is_null() {
            continue;
        }
        match key {
            "cert-file" => files.cert_file = text()?,
            "key-file" => files.key_file = text()?,
            "client-cert-file" => files.client_cert_file = text()?,
            "client-key-file" => files.client_key_file = text()?,
            "client-cert-auth" => files.client_cert_auth = boolean()?,
            "trusted-ca-file" => files.trusted_ca_file = text()?,
            "auto-tls" => files.auto = boolean()?,
            "allowed-cn" => files.allowed_cns = list()?,
            "allowed-hostname" => files.allowed_hostnames = list()?,
            "skip-client-san-verification" => files.skip_client_san_verification = boolean()?,
            _ => {}
        }
    }
    Ok(())
}
