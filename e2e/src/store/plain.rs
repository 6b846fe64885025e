//! Secrets, which the API server encrypts: read through it they are plain, in our members' memory and files they are not.

use super::NAMESPACE;
use super::ask::Servers as Apis;
use crate::servers::Servers;
use anyhow::{Context, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use std::collections::BTreeMap;
use std::path::Path;

/// Part of every ConfigMap: what is not encrypted is found in the files, or looking there would tell nothing.
pub const VISIBLE: &str = "anybody may read this ";
/// How many are made.
const COUNT: usize = 50;
/// With what the value of an encrypted object begins.
const PREFIX: &[u8] = b"k8s:enc:aescbc:v1:key1:";

/// What was written.
pub struct Secrets {
    value: String,
}

/// Standard base64, as Kubernetes writes bytes.
pub fn base64(bytes: &[u8]) -> String {
    let json = serde_json::to_value(ByteString(bytes.to_vec())).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

impl Secrets {
    /// Writes some through both API servers.
    pub async fn create(apis: &Apis) -> anyhow::Result<Secrets> {
        let value = format!("nobody may read this {:032x}", rand::random::<u128>());
        for n in 0..COUNT {
            let mut secret = Secret::default();
            secret.metadata.name = Some(format!("secret-{n}"));
            let bytes = ByteString(value.clone().into_bytes());
            secret.data = Some(BTreeMap::from([("password".to_owned(), bytes)]));
            apis.secrets(n).create(&PostParams::default(), &secret).await?;
        }
        Ok(Secrets { value })
    }

    /// Looks at them from both sides.
    pub async fn ciphertext(&self, apis: &Apis, members: &Servers) -> anyhow::Result<String> {
        for n in 0..COUNT {
            let secret = apis.secrets(n + 1).get(&format!("secret-{n}")).await?;
            let data = secret.data.unwrap_or_default();
            let read = data.get("password").context("a Secret without its data")?;
            ensure!(read.0 == self.value.as_bytes(), "secret-{n} is read as something else");
        }
        let mut client = members.access().client().await?;
        let prefix = format!("/registry/secrets/{NAMESPACE}/");
        let options = etcd_client::GetOptions::new().with_prefix();
        let stored = client.get(prefix, Some(options)).await?;
        ensure!(stored.kvs().len() >= COUNT, "{} Secrets are stored", stored.kvs().len());
        for kv in stored.kvs() {
            let key = String::from_utf8_lossy(kv.key());
            ensure!(kv.value().starts_with(PREFIX), "{key} is not encrypted");
            ensure!(
                !contains(kv.value(), self.value.as_bytes()),
                "{key} holds its plain text"
            );
        }
        let (mut files, mut visible) = (0, 0);
        for member in &members.members {
            for file in files_below(&member.data)? {
                let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
                files += 1;
                visible += usize::from(contains(&bytes, VISIBLE.as_bytes()));
                for secret in [self.value.clone(), base64(self.value.as_bytes())] {
                    ensure!(
                        !contains(&bytes, secret.as_bytes()),
                        "{} holds a Secret",
                        file.display()
                    );
                }
            }
        }
        ensure!(
            visible > 0,
            "what is not encrypted is in none of {files} files: they were not read right"
        );
        Ok(format!(
            "{} Secrets; in {files} files of members no plain text, in {visible} of them that of ConfigMaps",
            stored.kvs().len()
        ))
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    let mut rest = bytes;
    // Logs are mostly zeros: looking for the first byte alone passes over them quickly.
    while let Some(at) = rest.iter().position(|byte| Some(byte) == part.first()) {
        if rest[at..].starts_with(part) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

fn files_below(directory: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
