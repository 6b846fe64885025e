//! Sees what the doctor judges: asks every member, reads a few keys, and the objects around the cluster.
//!
//! Invariants:
//! 1. Members are asked at the same time, so one that is silent costs its own deadline alone.
//! 2. Values are looked at for how they begin, and never shown: they may be Secrets.

use super::Options;
use super::facts::{Alerting, Backups, CertificateFacts, Facts, Managed, MemberFacts, Stored, Stranger};
use crate::api::EtcdBackup;
use crate::api::schedule::parse_rfc3339;
use crate::member::Member;
use crate::member::range::Walk;
use crate::plugin::exposition::Samples;
use crate::plugin::fetch::Answer;
use crate::plugin::status::now;
use crate::plugin::target::{Door, Known, Reach, Target};
use anyhow::{Context, bail};
use futures_util::future::join_all;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::path::Path;

/// Values of a kind that are looked at.
const SAMPLES: usize = 20;

pub(super) async fn gather(target: &Target, options: &Options) -> anyhow::Result<Facts> {
    let mut facts = Facts {
        now: now(),
        ..Facts::default()
    };
    let reach = match target {
        Target::Endpoints { urls, .. } => {
            facts.name = urls.join(",");
            target.reach_endpoints().await?
        }
        Target::Kubernetes { .. } | Target::Directory(_) => {
            let known = target.one(options.cluster.as_deref()).await?;
            facts.name.clone_from(&known.name);
            facts.managed = Some(managed(&known));
            facts.backups = backups(&target.backups(&known.name).await?);
            target.reach(&known).await?
        }
    };
    eprintln!("asking {} members of {}", reach.doors.len(), facts.name);
    ask_all(&reach, &mut facts).await;
    if facts.members.iter().all(|member| member.status.is_none()) {
        let why: Vec<String> = facts
            .members
            .iter()
            .map(|member| format!("{}: {}", member.url, member.silent.as_deref().unwrap_or("no status")))
            .collect();
        bail!("no member answers; {}", why.join("; "));
    }
    facts.shares_kubernetes_authority = shared_authority(target, options, &reach)?;
    facts.alerting = match target {
        Target::Kubernetes { client, .. } => rules(client).await,
        Target::Directory(_) | Target::Endpoints { .. } => Alerting::Unknown,
    };
    Ok(facts)
}

fn managed(known: &Known) -> Managed {
    match &known.object {
        None => Managed {
            local: true,
            ..Managed::default()
        },
        Some(object) => Managed {
            local: false,
            network_policy: object.spec.network_policy.enabled,
            service: serde_json::to_value(object.spec.service.client.kind)
                .ok()
                .and_then(|kind| kind.as_str().map(str::to_owned))
                .unwrap_or_default(),
        },
    }
}

fn backups(objects: &[EtcdBackup]) -> Backups {
    let policies = objects.iter().filter_map(|object| {
        let schedule = object.spec.schedule.clone()?;
        let suspended = object.spec.suspend.unwrap_or(false);
        Some((
            object.name_any(),
            schedule,
            suspended,
            format!("{:?}", object.spec.verify),
        ))
    });
    let verified = objects.iter().filter_map(|object| {
        let at = parse_rfc3339(&object.status.as_ref()?.verified.as_ref()?.time)?;
        Some((object.name_any(), i64::try_from(at.0 / 1000).ok()?))
    });
    Backups {
        visible: true,
        policies: policies.collect(),
        verified: verified.max_by_key(|(_, at)| *at),
    }
}

async fn ask_all(reach: &Reach, facts: &mut Facts) {
    let mut members: Vec<MemberFacts> = join_all(reach.doors.iter().map(|door| ask(reach, door))).await;
    let mut first: Option<Member> = None;
    for door in &reach.doors {
        let Ok(member) = reach.member(door).await else { continue };
        if let Ok(list) = member.members().await {
            facts.list = list;
            facts.alarms = member.alarms().await.unwrap_or_default();
            first = Some(member);
            break;
        }
    }
    let at = members
        .iter()
        .filter_map(|member| member.status.as_ref().map(|status| status.revision))
        .min();
    if let Some(at) = at {
        let doors = reach
            .doors
            .iter()
            .map(|door| async move { reach.member(door).await.ok()?.hash_kv(at).await.ok() });
        for (member, hash) in members.iter_mut().zip(join_all(doors).await) {
            member.hash = hash;
        }
    }
    if let Some(member) = first {
        facts.secrets = stored(&member, b"/registry/secrets/").await;
        facts.config_maps = stored(&member, b"/registry/configmaps/").await;
        let mut walk = Walk::below(b"compact_rev_key");
        facts.compacted_by_api_server = member.page(&mut walk).await.is_ok_and(|page| !page.is_empty());
    }
    facts.members = members;
}

async fn ask(reach: &Reach, door: &Door) -> MemberFacts {
    let mut facts = MemberFacts {
        name: door.name.clone(),
        url: door.url.clone(),
        ..MemberFacts::default()
    };
    let status = match reach.member(door).await {
        Ok(member) => member.status().await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    match status {
        Ok(status) => facts.status = Some(status),
        Err(error) => {
            facts.silent = Some(error.to_string());
            return facts;
        }
    }
    match reach.get(door, "/metrics", true).await {
        Ok(answer) if answer.status == 200 => {
            facts.certificate = certificate(&answer);
            facts.samples = Some(Samples::parse(&String::from_utf8_lossy(&answer.body)));
        }
        Ok(answer) => facts.certificate = certificate(&answer),
        Err(error) => tracing::debug!(member = door.name, "{error:#}"),
    }
    if let Ok(answer) = reach.get(door, "/debug/vars", true).await
        && answer.status == 200
    {
        facts.flags = flags(&answer.body);
    }
    facts.stranger = if door.url.starts_with("http://") {
        Stranger::PlainText
    } else {
        match reach.get(door, "/health", false).await {
            Ok(_) => Stranger::LetIn,
            // It answers us, so it is he who is not wanted.
            Err(_) if facts.certificate.is_some() => Stranger::Refused,
            Err(_) => Stranger::Unknown,
        }
    };
    facts
}

fn certificate(answer: &Answer) -> Option<CertificateFacts> {
    let (_, parsed) = x509_parser::parse_x509_certificate(answer.presented.as_ref()?).ok()?;
    Some(CertificateFacts {
        issuer: parsed.issuer().to_string(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

/// Flags of a command line, as Go's expvar (and our server) publishes it: `--flag=value`, `--flag value`, `--flag`.
fn flags(body: &[u8]) -> Option<BTreeMap<String, String>> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let line: Vec<&str> = value["cmdline"]
        .as_array()?
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    let mut flags = BTreeMap::new();
    let mut words = line.into_iter().skip(1).peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => match words.next_if(|next| !next.starts_with('-')) {
                Some(value) => (flag, value.to_owned()),
                None => (flag, "true".to_owned()),
            },
        };
        flags.insert(name.to_owned(), value);
    }
    Some(flags)
}

/// How the objects below a prefix are stored. kube-apiserver writes `k8s:enc:<provider>:...` before ciphertext.
async fn stored(member: &Member, prefix: &[u8]) -> Stored {
    let mut walk = Walk::below(prefix);
    let mut provider = None;
    let mut seen = 0;
    while seen < SAMPLES && !walk.done() {
        let Ok(page) = member.page(&mut walk).await else {
            return Stored::Unknown;
        };
        for entry in page {
            seen += 1;
            match entry.value.strip_prefix(b"k8s:enc:") {
                Some(rest) => {
                    let name: Vec<u8> = rest.iter().copied().take_while(|byte| *byte != b':').take(32).collect();
                    provider = Some(String::from_utf8_lossy(&name).into_owned());
                }
                None => return Stored::Plain(String::from_utf8_lossy(&entry.key).into_owned()),
            }
        }
    }
    provider.map_or(Stored::Absent, Stored::Encrypted)
}

fn shared_authority(target: &Target, options: &Options, reach: &Reach) -> anyhow::Result<Option<bool>> {
    let kubernetes = match (&options.kubernetes_cacert, target) {
        (Some(path), _) => authorities(path)?,
        (None, Target::Kubernetes { authorities, .. }) if !authorities.is_empty() => authorities.clone(),
        (None, _) => return Ok(None),
    };
    let Some(access) = &reach.access else {
        return Ok(None);
    };
    let own = CertificateDer::pem_slice_iter(access.authorities.as_bytes());
    Ok(Some(own.flatten().any(|certificate| {
        kubernetes.iter().any(|other| other.as_slice() == certificate.as_ref())
    })))
}

fn authorities(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let text = std::fs::read(path).with_context(|| format!("--kubernetes-cacert {}", path.display()))?;
    let found: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(&text)
        .flatten()
        .map(|certificate| certificate.to_vec())
        .collect();
    if found.is_empty() {
        bail!("--kubernetes-cacert {} holds no certificate", path.display());
    }
    Ok(found)
}

/// Whether a PrometheusRule of any namespace watches elections and the disk.
async fn rules(client: &Client) -> Alerting {
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PrometheusRule");
    let api: Api<DynamicObject> = Api::all_with(
        client.clone(),
        &ApiResource::from_gvk_with_plural(&kind, "prometheusrules"),
    );
    match api.list(&ListParams::default()).await {
        Ok(list) => {
            let watches = |object: &&DynamicObject| {
                let text = object.data.to_string();
                text.contains("etcd_server_leader_changes_seen_total") && text.contains("etcd_disk_wal_fsync")
            };
            match list.items.iter().find(watches) {
                Some(rule) => Alerting::Rules(format!("{}/{}", rule.namespace().unwrap_or_default(), rule.name_any())),
                None => Alerting::None,
            }
        }
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Alerting::Unseen("the Prometheus operator's kinds are not installed here".to_owned())
        }
        Err(error) => Alerting::Unseen(format!("PrometheusRules could not be listed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::flags;

    #[test]
    fn flags_are_read_in_every_form_that_etcd_takes() {
        let body = br#"{"cmdline":["/bin/etcd","--name=a","-quota-backend-bytes","16","--client-cert-auth","--listen-client-urls","http://0.0.0.0:2379"]}"#;
        let flags = flags(body).expect("json");
        let get = |name: &str| flags.get(name).map(String::as_str);
        assert_eq!(get("name"), Some("a"));
        assert_eq!(get("quota-backend-bytes"), Some("16"));
        assert_eq!(get("client-cert-auth"), Some("true"));
        assert_eq!(get("listen-client-urls"), Some("http://0.0.0.0:2379"));
        assert_eq!(super::flags(b"no json"), None);
    }
}
