//! TLS material of one cluster in Secrets: authorities, certificates of members, of the operator and of users.
//!
//! Invariants:
//! 1. An authority's key is in a Secret of its own that no pod mounts, and is written with the resource version that it
//!    was read at: two operators never found two authorities.
//! 2. A rotation goes on only on evidence: every member that may run was seen to trust the new authority, or to present a
//!    certificate of it, in a handshake; and those who mount a client's Secret had time to read it.
//! 3. A member's Secret holds all that it needs, and is there before its pod.
//! 4. What users provide is copied, never changed.

use super::names::{CLUSTER, Names};
use super::{Cluster, Failure, apply, probe};
use crate::certificates::{Pair, Policy, Trust, Usage, expiry};
use crate::clock::{self, Instant};
use crate::member::Access;
use crate::plan::observed::Certificate;
use crate::plan::resources::short_hash;
use crate::plan::wanted::{Issuer, Tls, TlsSide};
use crate::plan::{Timestamp, Wanted};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A Secret of somebody else is read again after this long. Changes of our own wake whoever watches (see
/// [`Secrets::look_again`]); they are read again now and then all the same.
const READ_EVERY: Duration = Duration::from_secs(20);
/// A kubelet brings a changed Secret into a pod within this time (its sync period and the life of its cache), and
/// programs that look at their files have then looked.
const MOUNTED_WITHIN: Duration = Duration::from_secs(150);
/// An authority that signs no more stays trusted for this long at most, for clients that read their files rarely.
const LINGER: Duration = Duration::from_secs(24 * 3600);
/// Annotation of an authority's Secret: when its bundle last changed, in milliseconds since the epoch.
const CHANGED: &str = "quorate.dev/changed";
/// The key of an authority's Secret that holds all of it.
const TRUST: &str = "trust.json";

/// One side of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    word: &'static str,
    /// Stem of a member's certificate.
    leaf: &'static str,
    bundle: &'static str,
    port: i32,
}

const CLIENT: Side = Side {
    word: "client",
    leaf: "server",
    bundle: "client-ca.crt",
    port: super::names::CLIENT_PORT,
};
const PEER: Side = Side {
    word: "peer",
    leaf: "peer",
    bundle: "peer-ca.crt",
    port: super::names::PEER_PORT,
};

/// Secrets as they were last read.
#[derive(Debug, Default)]
pub struct Secrets {
    known: BTreeMap<String, (Option<Secret>, Instant)>,
    /// Something happened to objects of the cluster since.
    doubtful: bool,
    /// Certificates of members, for the look.
    certificates: BTreeMap<String, Certificate>,
}

impl Secrets {
    /// What is known of a member's certificates.
    pub fn certificate_of(&self, member: &str) -> Option<Certificate> {
        self.certificates.get(member).cloned()
    }

    /// Reads everything again when certificates are next ensured.
    pub fn look_again(&mut self) {
        self.doubtful = true;
    }
}

/// What one side issues from.
enum Source {
    /// An authority of the cluster's own.
    Own(Box<Trust>),
    /// Secrets that somebody else fills, by the name of what they are for.
    Given(BTreeMap<String, Material>),
}

/// A certificate, its key, and whom it trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Material {
    pair: Pair,
    authorities: String,
}

impl Cluster {
    /// Makes sure that everybody has valid certificates.
    pub(super) async fn ensure_certificates(
        &mut self,
        wanted: &Wanted,
        tls: &Tls,
        members: &[String],
    ) -> Result<(), Failure> {
        let names = self.names(wanted);
        let now = self.around.now();
        if self.secrets.doubtful {
            // One request instead of a dozen. What is not labelled as ours is asked for by name.
            let of_cluster = ListParams::default().labels(&format!("{CLUSTER}={}", wanted.name));
            let list = self.api::<Secret>().list(&of_cluster).await?;
            let read = clock::now();
            let known = list.into_iter().map(|secret| (secret.name_any(), (Some(secret), read)));
            self.secrets.known = known.collect();
            self.secrets.doubtful = false;
        }
        // A member that is only decided needs its Secret no later than its pod.
        let mut parts: BTreeMap<&str, BTreeMap<String, ByteString>> = BTreeMap::new();
        for (side, settings) in [(CLIENT, &tls.client), (PEER, &tls.peer)] {
            let Some(settings) = settings else { continue };
            let policy = policy(settings);
            let source = self.source(wanted, &names, side, settings, members, now).await?;
            for member in members {
                let san = match side == CLIENT {
                    true => names.server_names(member),
                    false => names.peer_names(member),
                };
                let old = self
                    .pair(
                        &Names::member_secret(member),
                        &format!("{}.crt", side.leaf),
                        &format!("{}.key", side.leaf),
                    )
                    .await?;
                let material = leaf(&source, member, member, &san, Usage::Member, old, &policy, now)?;
                let part = parts.entry(member.as_str()).or_default();
                part.insert(format!("{}.crt", side.leaf), bytes(&material.pair.certificate));
                part.insert(format!("{}.key", side.leaf), bytes(&material.pair.key));
                part.insert(side.bundle.to_owned(), bytes(&material.authorities));
            }
            if side == CLIENT {
                self.client_secrets(wanted, &names, &source, &policy, now).await?;
            }
        }
        for (member, data) in parts {
            if let Some(certificate) = certificate(&data) {
                self.secrets.certificates.insert(member.to_owned(), certificate);
            }
            self.put_secret(wanted, &names, &Names::member_secret(member), "Opaque", data)
                .await?;
        }
        self.secrets.certificates.retain(|member, _| members.contains(member));
        self.trust(wanted).await
    }

    /// Secrets of the operator and of users.
    async fn client_secrets(
        &mut self,
        wanted: &Wanted,
        names: &Names,
        source: &Source,
        policy: &Policy,
        now: SystemTime,
    ) -> Result<(), Failure> {
        // With etcd's auth the common name is the user (etcd server/auth/store.go, AuthInfoFromTLS): the operator is
        // root, so that it can maintain a cluster that has auth enabled.
        let of_operator = names.operator_secret();
        let of_clients = names.client_secret();
        let of_apiserver = names.apiserver_secret();
        for (secret, what, subject) in [
            (of_operator, "operator", "root"),
            (of_clients, "client", "client"),
            (of_apiserver, "apiserver", "kube-apiserver-etcd-client"),
        ] {
            let old = self.pair(&secret, "tls.crt", "tls.key").await?;
            let material = leaf(source, what, subject, &[], Usage::Client, old, policy, now)?;
            let (authorities, pair) = (bytes(&material.authorities), &material.pair);
            let mut data = BTreeMap::from([
                ("ca.crt".to_owned(), authorities.clone()),
                ("tls.crt".to_owned(), bytes(&pair.certificate)),
                ("tls.key".to_owned(), bytes(&pair.key)),
            ]);
            if what != "operator" {
                let endpoint = format!("https://{}:{}", names.client_host(), super::names::CLIENT_PORT);
                data.insert("endpoints".to_owned(), bytes(&endpoint));
            }
            if what == "apiserver" {
                // As kubeadm calls them, below /etc/kubernetes/pki.
                data.insert("etcd-ca.crt".to_owned(), authorities);
                data.insert("apiserver-etcd-client.crt".to_owned(), bytes(&pair.certificate));
                data.insert("apiserver-etcd-client.key".to_owned(), bytes(&pair.key));
            }
            self.put_secret(wanted, names, &secret, "kubernetes.io/tls", data)
                .await?;
        }
        Ok(())
    }

    async fn source(
        &mut self,
        wanted: &Wanted,
        names: &Names,
        side: Side,
        settings: &TlsSide,
        members: &[String],
        now: SystemTime,
    ) -> Result<Source, Failure> {
        match &settings.issuer {
            Issuer::SelfSigned => {
                let trust = self.authority(wanted, names, side, &policy(settings), now).await?;
                Ok(Source::Own(Box::new(trust)))
            }
            Issuer::Secret { name } => {
                let field = format!("spec.tls.{}.secretRef", side.word);
                let material = self.given(name, &field).await?;
                Ok(Source::Given(BTreeMap::from([(String::new(), material)])))
            }
            Issuer::CertManager { name, kind } => {
                self.issued_elsewhere(wanted, names, side, settings, members, name, kind)
                    .await
            }
        }
    }

    /// The authority of one side: founded when there is none, and its rotation led on.
    async fn authority(
        &mut self,
        wanted: &Wanted,
        names: &Names,
        side: Side,
        policy: &Policy,
        now: SystemTime,
    ) -> Result<Trust, Failure> {
        let name = names.authority(side.word);
        let title = format!("{} {}s", wanted.name, side.word);
        let api: Api<Secret> = self.api();
        let Some(secret) = self.secret(&name).await? else {
            let trust = Trust::found(&title, policy, now)?;
            let secret = self.authority_secret(wanted, names, &name, &trust, now, None);
            api.create(&apply::post(), &secret).await?;
            self.secrets.known.remove(&name);
            return Ok(trust);
        };
        apply::must_be_ours(&secret, &wanted.uid)?;
        let data = secret.data.clone().unwrap_or_default();
        let damaged = || {
            Failure::Other(format!(
                "Secret {name} holds no authority: restore it, or delete it and every certificate is issued anew"
            ))
        };
        let mut trust: Trust = data
            .get(TRUST)
            .and_then(|bytes| serde_json::from_slice(&bytes.0).ok())
            .ok_or_else(damaged)?;
        let (all_trust, all_present) = self.evidence(names, side, &trust, policy, &secret, now).await;
        if trust.advance(&title, policy, now, all_trust, all_present)? {
            let secret = self.authority_secret(wanted, names, &name, &trust, now, secret.resource_version());
            api.replace(&name, &apply::post(), &secret).await?;
            self.secrets.known.remove(&name);
        }
        Ok(trust)
    }

    fn authority_secret(
        &self,
        wanted: &Wanted,
        names: &Names,
        name: &str,
        trust: &Trust,
        now: SystemTime,
        resource_version: Option<String>,
    ) -> Secret {
        let mut metadata = self.render(wanted, names).meta(name);
        metadata.resource_version = resource_version;
        metadata.annotations = Some(BTreeMap::from([(CHANGED.to_owned(), timestamp(now).0.to_string())]));
        let text = serde_json::to_vec(trust).unwrap_or_default();
        Secret {
            metadata,
            type_: Some("Opaque".into()),
            data: Some(BTreeMap::from([
                (TRUST.to_owned(), ByteString(text)),
                ("ca.crt".to_owned(), bytes(&trust.bundle())),
            ])),
            ..Secret::default()
        }
    }

    /// Whether everybody trusts the next authority, and whether everybody presents a certificate of the present one.
    async fn evidence(
        &self,
        names: &Names,
        side: Side,
        trust: &Trust,
        policy: &Policy,
        secret: &Secret,
        now: SystemTime,
    ) -> (bool, bool) {
        let changed = secret
            .annotations()
            .get(CHANGED)
            .and_then(|text| text.parse().ok())
            .map(Timestamp);
        let age = changed.map_or(Duration::ZERO, |changed| timestamp(now).since(changed));
        let linger = (policy.ca_renew_before / 4).clamp(MOUNTED_WITHIN, LINGER);
        let due = match (&trust.next, &trust.previous) {
            (Some(_), _) => age >= MOUNTED_WITHIN,
            (None, Some(_)) => age >= linger,
            (None, None) => false,
        };
        if !due {
            return (false, false);
        }
        // Whom the prober is, for the members: someone of the next authority, or of the present one.
        let signer = Trust {
            current: trust.next.clone().unwrap_or_else(|| trust.current.clone()),
            next: None,
            previous: None,
            generation: 0,
        };
        let Ok(identity) = signer.issue("root", &[], Usage::Client, policy, now) else {
            return (false, false);
        };
        let bundle = trust.bundle();
        for (member, address) in &self.running {
            let Some(address) = address else {
                tracing::info!(
                    member,
                    "rotation of the {} authority waits: the member may run, and cannot be asked",
                    side.word
                );
                return (false, false);
            };
            let host = names.member_host(member);
            let (reach, bundle) = (self.connections.reach(), bundle.as_str());
            let shaken = probe::handshake(reach, now, address, side.port, &host, bundle, &identity).await;
            match shaken {
                Ok(seen) if trust.next.is_some() || seen.issued_by(&trust.current.certificate) => {}
                Ok(_) => {
                    tracing::info!(
                        member,
                        "rotation of the {} authority waits: the member presents its former certificate",
                        side.word
                    );
                    return (false, false);
                }
                Err(error) => {
                    tracing::info!(member, error, "rotation of the {} authority waits", side.word);
                    return (false, false);
                }
            }
        }
        (true, true)
    }

    /// Secrets of cert-manager, one certificate a member and side, and of the operator and of users.
    #[allow(clippy::too_many_arguments)]
    async fn issued_elsewhere(
        &mut self,
        wanted: &Wanted,
        names: &Names,
        side: Side,
        settings: &TlsSide,
        members: &[String],
        issuer: &str,
        kind: &str,
    ) -> Result<Source, Failure> {
        let mut orders: Vec<(String, String, String, Vec<String>, Usage)> = Vec::new();
        for member in members {
            let san = match side == CLIENT {
                true => names.server_names(member),
                false => names.peer_names(member),
            };
            orders.push((
                member.clone(),
                format!("{member}-{}", side.leaf),
                member.clone(),
                san,
                Usage::Member,
            ));
        }
        if side == CLIENT {
            for (what, subject) in [
                ("operator", "root"),
                ("client", "client"),
                ("apiserver", "kube-apiserver-etcd-client"),
            ] {
                orders.push((
                    what.to_owned(),
                    format!("{}-issued-{what}", names.own()),
                    subject.to_owned(),
                    Vec::new(),
                    Usage::Client,
                ));
            }
        }
        let field = format!("spec.tls.{}.certManager", side.word);
        let mut given = BTreeMap::new();
        for (what, name, subject, san, usage) in orders {
            let certificate = self.order(wanted, names, &name, &subject, &san, usage, settings, issuer, kind);
            self.apply_certificate(wanted, &name, &certificate, &field).await?;
            given.insert(what, name);
        }
        let mut material = BTreeMap::new();
        for (what, name) in given {
            material.insert(what, self.given(&name, &field).await?);
        }
        // Whoever issues may change its authority between two certificates: all that were seen are trusted.
        let mut all: Vec<&str> = Vec::new();
        for one in material.values() {
            for authority in pem_blocks(&one.authorities) {
                if !all.contains(&authority) {
                    all.push(authority);
                }
            }
        }
        let bundle = all.concat();
        for one in material.values_mut() {
            one.authorities.clone_from(&bundle);
        }
        Ok(Source::Given(material))
    }

    /// A `Certificate` of cert-manager.
    #[allow(clippy::too_many_arguments)]
    fn order(
        &self,
        wanted: &Wanted,
        names: &Names,
        name: &str,
        subject: &str,
        san: &[String],
        usage: Usage,
        settings: &TlsSide,
        issuer: &str,
        kind: &str,
    ) -> serde_json::Value {
        let (addresses, hosts): (Vec<&String>, Vec<&String>) =
            san.iter().partition(|name| name.parse::<std::net::IpAddr>().is_ok());
        let usages: &[&str] = match usage {
            Usage::Member => &["digital signature", "key encipherment", "server auth", "client auth"],
            Usage::Client => &["digital signature", "key encipherment", "client auth"],
        };
        let mut spec = json!({
            "secretName": name,
            "commonName": subject,
            "duration": format!("{}s", settings.validity.as_secs()),
            "renewBefore": format!("{}s", settings.renew_before.as_secs()),
            "usages": usages,
            "privateKey": { "algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "Always" },
            "issuerRef": { "name": issuer, "kind": kind, "group": "cert-manager.io" },
        });
        if !hosts.is_empty() {
            spec["dnsNames"] = json!(hosts);
        }
        if !addresses.is_empty() {
            spec["ipAddresses"] = json!(addresses);
        }
        json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": self.render(wanted, names).meta(name),
            "spec": spec,
        })
    }

    async fn apply_certificate(
        &mut self,
        wanted: &Wanted,
        name: &str,
        certificate: &serde_json::Value,
        field: &str,
    ) -> Result<(), Failure> {
        let key = format!("Certificate/{name}");
        let hash = short_hash(&certificate.to_string());
        if self.ordered.get(&key) == Some(&hash) {
            return Ok(());
        }
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
        let absent = |error: kube::Error| match error {
            kube::Error::Api(status) if status.code == 404 => Failure::Other(format!(
                "{field}: this Kubernetes has no kind Certificate of cert-manager.io/v1: install cert-manager, or use selfSigned"
            )),
            other => other.into(),
        };
        if let Some(live) = api.get_opt(name).await.map_err(absent)?
            && !apply::is_ours(&live, &wanted.uid)
        {
            return Err(Failure::Taken {
                kind: "Certificate".to_owned(),
                name: name.to_owned(),
            });
        }
        let mut params = PatchParams::apply(super::names::FIELD_MANAGER);
        params.force = true;
        api.patch(name, &params, &Patch::Apply(certificate))
            .await
            .map_err(absent)?;
        self.ordered.insert(key, hash);
        Ok(())
    }

    /// A Secret that somebody else fills.
    async fn given(&mut self, name: &str, field: &str) -> Result<Material, Failure> {
        let Some(secret) = self.secret(name).await? else {
            return Err(Failure::Other(format!(
                "{field}: there is no Secret {name} yet; it must hold ca.crt, tls.crt and tls.key"
            )));
        };
        let data = secret.data.unwrap_or_default();
        let part = |key: &str| {
            let bytes = data
                .get(key)
                .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
            bytes.ok_or_else(|| {
                Failure::Other(format!(
                    "{field}: Secret {name} has no {key}; it must hold ca.crt, tls.crt and tls.key"
                ))
            })
        };
        Ok(Material {
            authorities: part("ca.crt")?,
            pair: Pair {
                certificate: part("tls.crt")?,
                key: part("tls.key")?,
            },
        })
    }

    /// What the operator shows to members, from its Secret.
    pub(super) async fn trust(&mut self, wanted: &Wanted) -> Result<(), Failure> {
        if wanted.tls.client.is_none() {
            self.connections.trust(None);
            return Ok(());
        }
        let name = self.names(wanted).operator_secret();
        let Some(secret) = self.secret(&name).await? else {
            return Ok(());
        };
        apply::must_be_ours(&secret, &wanted.uid)?;
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| {
            data.get(key)
                .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
        };
        if let (Some(authorities), Some(certificate), Some(key)) = (text("ca.crt"), text("tls.crt"), text("tls.key")) {
            let identity = Pair { certificate, key };
            self.connections.trust(Some(Access { authorities, identity }));
        }
        Ok(())
    }

    /// What is known of a member's certificates. One that this operator has not looked after yet is read from its Secret:
    /// the first status of a new operator tells no less than the last one of the former.
    pub(super) async fn certificate_of(&mut self, wanted: &Wanted, member: &str) -> Option<Certificate> {
        let known = self.secrets.certificate_of(member);
        if known.is_some() || (wanted.tls.client.is_none() && wanted.tls.peer.is_none()) {
            return known;
        }
        let secret = self.secret(&Names::member_secret(member)).await.ok()??;
        if !apply::is_ours(&secret, &wanted.uid) {
            return None;
        }
        certificate(&secret.data?)
    }

    /// A Secret, read again now and then.
    async fn secret(&mut self, name: &str) -> Result<Option<Secret>, Failure> {
        if let Some((Some(secret), at)) = self.secrets.known.get(name) {
            let every = match secret.owner_references().is_empty() {
                true => READ_EVERY,
                false => apply::LOOK_EVERY,
            };
            if clock::since(*at) < every {
                return Ok(Some(secret.clone()));
            }
        }
        let secret = self.api::<Secret>().get_opt(name).await?;
        self.secrets
            .known
            .insert(name.to_owned(), (secret.clone(), clock::now()));
        Ok(secret)
    }

    async fn pair(&mut self, secret: &str, certificate: &str, key: &str) -> Result<Option<Pair>, Failure> {
        let Some(secret) = self.secret(secret).await? else {
            return Ok(None);
        };
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| {
            data.get(key)
                .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
        };
        Ok(match (text(certificate), text(key)) {
            (Some(certificate), Some(key)) => Some(Pair { certificate, key }),
            _ => None,
        })
    }

    async fn put_secret(
        &mut self,
        wanted: &Wanted,
        names: &Names,
        name: &str,
        kind: &str,
        data: BTreeMap<String, ByteString>,
    ) -> Result<(), Failure> {
        let unchanged = self.secrets.known.get(name).is_some_and(|(secret, _)| {
            secret
                .as_ref()
                .is_some_and(|secret| secret.data.as_ref() == Some(&data) && apply::is_ours(secret, &wanted.uid))
        });
        if unchanged {
            return Ok(());
        }
        let secret = Secret {
            metadata: self.render(wanted, names).meta(name),
            type_: Some(kind.to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        let api: Api<Secret> = self.api();
        self.applied.apply(&api, &secret, &wanted.uid).await?;
        self.secrets.known.insert(name.to_owned(), (Some(secret), clock::now()));
        Ok(())
    }
}

/// The certificate for `what`: the old one while it is good.
#[allow(clippy::too_many_arguments)]
fn leaf(
    source: &Source,
    what: &str,
    subject: &str,
    names: &[String],
    usage: Usage,
    old: Option<Pair>,
    policy: &Policy,
    now: SystemTime,
) -> Result<Material, Failure> {
    match source {
        Source::Own(trust) => {
            let good = old.filter(|pair| trust.reason_to_renew(pair, names, policy, now).is_none());
            let pair = match good {
                Some(pair) => pair,
                None => trust.issue(subject, names, usage, policy, now)?,
            };
            Ok(Material {
                pair,
                authorities: trust.bundle(),
            })
        }
        Source::Given(given) => given
            .get(what)
            .or_else(|| given.get(""))
            .cloned()
            .ok_or_else(|| Failure::Other(format!("nobody issues a certificate for {what}"))),
    }
}

fn policy(side: &TlsSide) -> Policy {
    Policy {
        validity: side.validity,
        renew_before: side.renew_before,
        ca_validity: side.ca_validity,
        ca_renew_before: side.ca_renew_before,
    }
}

/// When the first of a member's certificates ends, and whom it trusts.
fn certificate(data: &BTreeMap<String, ByteString>) -> Option<Certificate> {
    let text = |key: &str| {
        data.get(key)
            .map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned())
    };
    let ends = ["server.crt", "peer.crt"]
        .into_iter()
        .filter_map(|key| expiry(&text(key)?, key).ok())
        .min()?;
    let bundles: String = ["client-ca.crt", "peer-ca.crt"].into_iter().filter_map(text).collect();
    Some(Certificate {
        not_after: timestamp(ends),
        bundle: short_hash(&bundles),
    })
}

/// The certificates of a PEM text, each with its line end.
fn pem_blocks(text: &str) -> Vec<&str> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut blocks = Vec::new();
    let mut rest = text;
    while let (Some(from), Some(to)) = (rest.find("-----BEGIN CERTIFICATE-----"), rest.find(END)) {
        let to = to + END.len();
        let to = if rest[to..].starts_with('\n') { to + 1 } else { to };
        if from >= to {
            break;
        }
        blocks.push(&rest[from..to]);
        rest = &rest[to..];
    }
    blocks
}

fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_fall_into_their_certificates() {
        let one = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n";
        let two = "-----BEGIN CERTIFICATE-----\nBB\n-----END CERTIFICATE-----\n";
        assert_eq!(pem_blocks(&format!("{one}{two}")), [one, two]);
        assert!(pem_blocks("rubbish").is_empty());
    }
}
