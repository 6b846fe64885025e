//! The guide's security checklist.

use super::super::facts::{Alerting, Facts, Stored, Stranger};
use super::super::{Finding, Section, Verdict};
use super::{UNTOLD, finding, in_the_clear, joined, pass_if, plain, remedy, told, tuning, unseen};
use std::collections::BTreeSet;

pub(super) fn client_tls(facts: &Facts) -> Finding {
    let check = "TLS between clients and members";
    let plain = plain(facts.list.iter().flat_map(|member| &member.client_urls));
    let (verdict, seen) = match (facts.list.is_empty(), plain.is_empty(), in_the_clear(facts)) {
        (true, _, false) => (Verdict::Unseen, "no member list was read".to_owned()),
        (_, true, false) => (Verdict::Pass, "every client URL is https".to_owned()),
        (_, false, _) => (Verdict::Fail, format!("plain: {}", joined(plain))),
        (_, true, true) => (Verdict::Fail, "it answered without TLS".to_owned()),
    };
    let fix = remedy(
        facts,
        "create a cluster without tls.insecure and restore a backup into it",
        "--cert-file, --key-file, and https in --listen-client-urls and --advertise-client-urls",
    );
    finding(Section::Security, check, verdict, seen, fix)
}

pub(super) fn client_certificates(facts: &Facts) -> Finding {
    let check = "clients must present a certificate";
    let of = |wanted: Stranger| -> Vec<&str> {
        let members = facts.members.iter().filter(|member| member.stranger == wanted);
        members.map(|member| member.name.as_str()).collect()
    };
    let (open, plain, refused) = (of(Stranger::LetIn), of(Stranger::PlainText), of(Stranger::Refused));
    let (verdict, seen) = if !open.is_empty() || !plain.is_empty() {
        let who = joined(open.iter().chain(&plain));
        (Verdict::Fail, format!("{who} served somebody without one"))
    } else if refused.is_empty() {
        (Verdict::Unseen, "no member could be tried".to_owned())
    } else {
        (
            Verdict::Pass,
            format!("{} members refused somebody without one", refused.len()),
        )
    };
    let fix = remedy(
        facts,
        "write spec.tls.client.clientCertAuth: true",
        "--client-cert-auth=true and --trusted-ca-file",
    );
    finding(Section::Security, check, verdict, seen, fix)
}

pub(super) fn peer_tls(facts: &Facts) -> Finding {
    let check = "TLS among members, with certificates on both sides";
    let plain = plain(facts.list.iter().flat_map(|member| &member.peer_urls));
    let open = told(facts).any(|flags| {
        let off = |name: &str| flags.get(name).is_none_or(|value| value == "false");
        off("peer-client-cert-auth") && off("peer-auto-tls")
    });
    let (verdict, seen) = if facts.list.is_empty() {
        (Verdict::Unseen, "no member list was read".to_owned())
    } else if !plain.is_empty() {
        (Verdict::Fail, format!("plain: {}", joined(plain)))
    } else if told(facts).next().is_none() {
        (Verdict::Unseen, format!("every peer URL is https; {UNTOLD}"))
    } else if open {
        (Verdict::Fail, "a member asks its peers for no certificate".to_owned())
    } else {
        (
            Verdict::Pass,
            "every peer URL is https, and peers must present certificates".to_owned(),
        )
    };
    let fix = remedy(
        facts,
        "create a cluster without tls.insecure and restore a backup into it",
        "--peer-cert-file, --peer-key-file, --peer-trusted-ca-file, --peer-client-cert-auth=true, and https in the peer URLs",
    );
    finding(Section::Security, check, verdict, seen, fix)
}

pub(super) fn separate_authority(facts: &Facts) -> Finding {
    let check = "a PKI of etcd's own, apart from Kubernetes'";
    let issuers: BTreeSet<&str> = facts
        .members
        .iter()
        .filter_map(|member| {
            member
                .certificate
                .as_ref()
                .map(|certificate| certificate.issuer.as_str())
        })
        .collect();
    // kubeadm names the authority of the cluster "kubernetes", and etcd's "etcd-ca".
    let suspicious = issuers.iter().any(|issuer| issuer.contains("CN=kubernetes"));
    let issuer = joined(&issuers);
    let (verdict, seen) = match facts.shares_kubernetes_authority {
        Some(true) => (
            Verdict::Fail,
            format!("members' certificates are issued by the API server's authority ({issuer})"),
        ),
        _ if suspicious => (
            Verdict::Fail,
            format!("issued by {issuer}: that is Kubernetes' own authority"),
        ),
        Some(false) => (Verdict::Pass, format!("issued by {issuer}")),
        None if issuers.is_empty() => (Verdict::Fail, "there are no certificates".to_owned()),
        None if facts.managed.is_some() => (Verdict::Pass, format!("issued by {issuer}, the cluster's own")),
        None => (
            Verdict::Unseen,
            format!("issued by {issuer}; the API server's authority is not known"),
        ),
    };
    let fix = match verdict {
        Verdict::Unseen => "give --kubernetes-cacert (ca.crt of the kubeconfig) to compare with",
        _ => remedy(
            facts,
            "remove spec.tls.client.secretRef and certManager, so that the operator keeps an authority for this cluster",
            "issue members' and clients' certificates from an authority that issues nothing else",
        ),
    };
    finding(Section::Security, check, verdict, seen, fix)
}

fn stored(check: &'static str, kind: &str, found: &Stored, plain: Verdict) -> Finding {
    let (verdict, seen) = match found {
        Stored::Absent => (Verdict::Pass, format!("no {kind} of Kubernetes is stored here")),
        Stored::Encrypted(provider) => (Verdict::Pass, format!("stored as ciphertext ({provider})")),
        Stored::Plain(key) => (
            plain,
            format!("{key} is readable for everybody who reads etcd or a backup"),
        ),
        Stored::Unknown => (Verdict::Unseen, "the keys could not be read".to_owned()),
    };
    let fix = "give kube-apiserver an EncryptionConfiguration (--encryption-provider-config), then write all of them again: kubectl get secrets -A -o json | kubectl replace -f -";
    finding(Section::Security, check, verdict, seen, fix)
}

pub(super) fn secrets_encrypted(facts: &Facts) -> Finding {
    stored("encryption at rest of Secrets", "Secret", &facts.secrets, Verdict::Fail)
}

pub(super) fn config_maps_encrypted(facts: &Facts) -> Finding {
    stored(
        "encryption at rest of ConfigMaps",
        "ConfigMap",
        &facts.config_maps,
        Verdict::Warn,
    )
}

pub(super) fn reachable(facts: &Facts) -> Finding {
    let check = "port 2379 is closed to all but its clients";
    if let Some(managed) = &facts.managed {
        let (good, seen) = if managed.local {
            (true, "members listen on loopback".to_owned())
        } else {
            let policy = if managed.network_policy {
                "a network policy is kept"
            } else {
                "no network policy"
            };
            (
                managed.network_policy && managed.service == "ClusterIP",
                format!("{policy}, Service of type {}", managed.service),
            )
        };
        let fix = "write spec.networkPolicy.enabled: true and spec.service.client.type: ClusterIP";
        return finding(Section::Security, check, pass_if(good), seen, fix);
    }
    let everywhere = |url: &str| {
        let host = url.split_once("://").map_or(url, |(_, rest)| rest);
        ["0.0.0.0", "[::]", "*", ":"].iter().any(|any| host.starts_with(any))
    };
    let listens: BTreeSet<&str> = told(facts)
        .filter_map(|flags| flags.get("listen-client-urls"))
        .flat_map(|urls| urls.split(','))
        .collect();
    let open = listens.iter().any(|url| everywhere(url));
    let strangers = facts
        .members
        .iter()
        .any(|member| matches!(member.stranger, Stranger::LetIn | Stranger::PlainText));
    let (verdict, seen) = match (told(facts).next().is_some(), open, strangers) {
        (_, true, true) => (
            Verdict::Fail,
            format!("listens on every interface ({}) and serves everybody", joined(listens)),
        ),
        (true, false, _) if listens.is_empty() => (Verdict::Pass, "listens on localhost, etcd's default".to_owned()),
        (true, false, _) => (Verdict::Pass, format!("listens on {}", joined(listens))),
        (true, true, false) => (
            Verdict::Unseen,
            format!(
                "listens on every interface ({}); firewalls cannot be seen from here",
                joined(listens)
            ),
        ),
        (false, ..) => (Verdict::Unseen, UNTOLD.to_owned()),
    };
    let fix = "listen on the addresses of the control plane's network alone, and let a firewall close 2379 and 2380 to all others";
    finding(Section::Security, check, verdict, seen, fix)
}

pub(super) fn backups(facts: &Facts) -> Finding {
    let check = "automated daily backups, tested by restoring them";
    let fix = if facts.managed.is_some() {
        "create an EtcdBackup with a schedule (config/samples/backup-scheduled.yaml); kubectl quorate backup takes one now"
    } else {
        "create an EtcdBackup with endpoints and a schedule (config/samples/backup-elsewhere.yaml): every backup is read back and checked"
    };
    let section = Section::Security;
    if !facts.backups.visible {
        return unseen(section, check, "no EtcdBackup can be seen from here", fix);
    }
    let active = facts
        .backups
        .policies
        .iter()
        .find(|(_, _, suspended, verify)| !suspended && verify != "None");
    let newest = facts
        .backups
        .verified
        .as_ref()
        .map(|(name, at)| (name, (facts.now - at) / 3600));
    let (verdict, seen) = match (active, newest) {
        (None, _) if facts.backups.policies.is_empty() => (Verdict::Fail, "there is no schedule".to_owned()),
        (None, _) => {
            let names = joined(facts.backups.policies.iter().map(|policy| &policy.0));
            (Verdict::Fail, format!("{names}: suspended, or verify is None"))
        }
        (Some(policy), None) => (
            Verdict::Fail,
            format!("{} ({}), and no verified backup yet", policy.0, policy.1),
        ),
        (Some(policy), Some((name, hours))) => {
            let seen = format!(
                "{} ({}), {name} was verified {hours} hours ago ({})",
                policy.0, policy.1, policy.3
            );
            (pass_if(hours <= 25), seen)
        }
    };
    finding(section, check, verdict, seen, fix)
}

pub(super) fn alerting(facts: &Facts) -> Finding {
    let check = "alerts on leader elections and disk latency";
    let (verdict, seen) = match &facts.alerting {
        Alerting::Rules(name) => (Verdict::Pass, format!("PrometheusRule {name}")),
        Alerting::None => (Verdict::Fail, "no PrometheusRule speaks of them".to_owned()),
        Alerting::Unseen(why) => (Verdict::Unseen, why.clone()),
        Alerting::Unknown => (
            Verdict::Unseen,
            "which alerts there are cannot be seen from here".to_owned(),
        ),
    };
    let fix = "install the rules: helm --set prometheusRule.enabled=true, or kubectl apply -k config/prometheus";
    finding(Section::Security, check, verdict, seen, fix)
}

pub(super) fn quota_with_compaction(facts: &Facts) -> Finding {
    let check = "storage quota with auto-compaction";
    let parts = [tuning::quota(facts), tuning::compaction(facts)];
    let verdict = if parts.iter().any(|part| part.verdict == Verdict::Fail) {
        Verdict::Fail
    } else if parts.iter().any(|part| part.verdict == Verdict::Unseen) {
        Verdict::Unseen
    } else {
        Verdict::Pass
    };
    let seen = format!("quota {}; compaction {}", parts[0].seen, parts[1].seen);
    let fix = joined(parts.iter().map(|part| &part.remedy).filter(|text| !text.is_empty()));
    finding(Section::Security, check, verdict, seen, &fix)
}
