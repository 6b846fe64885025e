//! A cluster in order passes everything; each fault is named by its own line alone, with a remedy.

use super::super::facts::*;
use super::super::{Finding, Section, Verdict};
use super::judge;
use crate::member::{Alarm, HashKv, Listed, Status};
use crate::plugin::exposition::Samples;
use std::collections::{BTreeMap, BTreeSet};

const NOW: i64 = 1_800_000_000;

fn samples(fsync_slow: u32, commit_slow: u32, trip_slow: u32, changes: u32) -> Samples {
    let mut text = format!(
        "etcd_server_leader_changes_seen_total {changes}\nprocess_start_time_seconds {}\netcd_server_quota_backend_bytes 8589934592\n",
        NOW - 7200
    );
    for (name, bound, slow) in [
        ("etcd_disk_wal_fsync_duration_seconds", "0.004", fsync_slow),
        ("etcd_disk_backend_commit_duration_seconds", "0.016", commit_slow),
        ("etcd_network_peer_round_trip_time_seconds", "0.0016", trip_slow),
    ] {
        text.push_str(&format!(
            "{name}_bucket{{le=\"{bound}\"}} {}\n{name}_bucket{{le=\"0.256\"}} 1000\n{name}_bucket{{le=\"+Inf\"}} 1000\n",
            1000 - slow
        ));
    }
    Samples::parse(&text)
}

fn good() -> Facts {
    let flags = [
        ("heartbeat-interval", "100"),
        ("election-timeout", "1000"),
        ("quota-backend-bytes", "8589934592"),
        ("auto-compaction-retention", "1h"),
        ("peer-client-cert-auth", "true"),
        ("listen-client-urls", "https://10.0.0.1:2379"),
    ];
    let flags: BTreeMap<String, String> = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let member = |id: u64| MemberFacts {
        name: format!("m{id}"),
        url: format!("https://10.0.0.{id}:2379"),
        silent: None,
        status: Some(Status {
            member_id: id,
            cluster_id: 7,
            revision: 100,
            term: 2,
            leader: 1,
            raft_index: 120,
            applied_index: 120,
            is_learner: false,
            version: "3.7.3".to_owned(),
            db_size: 100 << 20,
            db_size_in_use: 90 << 20,
            db_size_quota: 8 << 30,
            errors: Vec::new(),
        }),
        samples: Some(samples(0, 0, 0, 1)),
        flags: Some(flags.clone()),
        certificate: Some(CertificateFacts {
            issuer: "CN=etcd".to_owned(),
            not_after: NOW + 300 * 86_400,
        }),
        stranger: Stranger::Refused,
        hash: Some(HashKv {
            hash: 1,
            revision: 100,
            compact_revision: 50,
        }),
    };
    let listed = |id: u64| Listed {
        id,
        name: format!("m{id}"),
        peer_urls: vec![format!("https://10.0.0.{id}:2380")],
        client_urls: vec![format!("https://10.0.0.{id}:2379")],
        is_learner: false,
    };
    Facts {
        name: "db".to_owned(),
        now: NOW,
        managed: None,
        members: (1..=3).map(member).collect(),
        list: (1..=3).map(listed).collect(),
        alarms: Vec::new(),
        secrets: Stored::Encrypted("aescbc".to_owned()),
        config_maps: Stored::Absent,
        compacted_by_api_server: false,
        shares_kubernetes_authority: Some(false),
        backups: Backups {
            visible: true,
            policies: vec![("daily".to_owned(), "0 3 * * *".to_owned(), false, "Hash".to_owned())],
            verified: Some(("daily-1".to_owned(), NOW - 3600)),
        },
        alerting: Alerting::Rules("monitoring/quorate".to_owned()),
    }
}

fn not_passed(facts: &Facts) -> Vec<Finding> {
    let mut findings = judge(facts);
    findings.retain(|finding| finding.verdict != Verdict::Pass);
    findings
}

#[test]
fn a_cluster_in_order_passes_everything() {
    assert_eq!(not_passed(&good()), Vec::new());
    let all = judge(&good());
    let names: BTreeSet<&str> = all.iter().map(|finding| finding.check).collect();
    assert_eq!((all.len(), names.len()), (26, 26), "every line once");
    for section in [Section::Health, Section::Tuning, Section::Monitoring, Section::Security] {
        assert!(all.iter().any(|finding| finding.section == section));
    }
}

#[test]
fn a_cluster_of_ours_is_judged_by_its_manifest() {
    let mut facts = good();
    facts.shares_kubernetes_authority = None;
    facts.managed = Some(Managed {
        local: false,
        network_policy: true,
        service: "ClusterIP".to_owned(),
    });
    assert_eq!(not_passed(&facts), Vec::new());
    facts.managed = Some(Managed {
        local: false,
        network_policy: false,
        service: "LoadBalancer".to_owned(),
    });
    let [finding] = not_passed(&facts).try_into().expect("one finding");
    assert!(finding.remedy.contains("spec.networkPolicy.enabled"), "{finding:?}");
}

/// What is wrong, the lines that must say so, and a word of the remedy.
type Fault = (
    &'static str,
    fn(&mut Facts),
    &'static [(&'static str, Verdict, &'static str)],
);

fn flag(facts: &mut Facts, name: &str, value: &str) {
    for member in &mut facts.members {
        let flags = member.flags.as_mut().expect("flags");
        flags.insert(name.to_owned(), value.to_owned());
    }
}

const FAULTS: &[Fault] = &[
    (
        "two members",
        |f| {
            f.members.pop();
            f.list.pop();
        },
        &[("odd number", Verdict::Fail, "3 or 5")],
    ),
    (
        "a silent member",
        |f| {
            f.members[2] = MemberFacts {
                silent: Some("timeout".to_owned()),
                name: "m3".to_owned(),
                ..MemberFacts::default()
            };
        },
        &[
            ("odd number", Verdict::Fail, "replace"),
            ("serves metrics", Verdict::Fail, "2381"),
        ],
    ),
    (
        "NOSPACE",
        |f| f.alarms.push((1, Alarm::NoSpace)),
        &[("no alarm", Verdict::Fail, "disarm")],
    ),
    (
        "CORRUPT",
        |f| f.alarms.push((1, Alarm::Corrupt)),
        &[("no alarm", Verdict::Fail, "hashkv")],
    ),
    (
        "two versions",
        |f| f.members[0].status.as_mut().unwrap().version = "3.6.0".to_owned(),
        &[("one version", Verdict::Warn, "upgrade")],
    ),
    (
        "other data",
        |f| f.members[0].hash.as_mut().unwrap().hash = 2,
        &[("same data", Verdict::Fail, "corrupt")],
    ),
    (
        "a certificate that ends",
        |f| f.members[1].certificate.as_mut().unwrap().not_after = NOW + 3 * 86_400,
        &[("30 days", Verdict::Fail, "new certificates")],
    ),
    (
        "a short heartbeat",
        |f| flag(f, "heartbeat-interval", "10"),
        &[("--heartbeat", Verdict::Fail, "250")],
    ),
    (
        "a heartbeat shorter than the network",
        |f| f.members[0].samples = Some(samples(0, 0, 100, 1)),
        &[
            ("--heartbeat", Verdict::Fail, "250"),
            ("round_trip", Verdict::Fail, "closer"),
        ],
    ),
    (
        "a short election",
        |f| flag(f, "election-timeout", "500"),
        &[("--election", Verdict::Fail, "1250")],
    ),
    (
        "members that differ",
        |f| {
            f.members[0]
                .flags
                .as_mut()
                .unwrap()
                .insert("election-timeout".to_owned(), "2000".to_owned());
        },
        &[("--election", Verdict::Fail, "same value")],
    ),
    (
        "the default quota",
        |f| {
            for member in &mut f.members {
                member.flags.as_mut().unwrap().remove("quota-backend-bytes");
                member.status.as_mut().unwrap().db_size_quota = 2 << 30;
            }
        },
        &[
            ("--quota", Verdict::Fail, "8589934592"),
            ("quota with", Verdict::Fail, "8589934592"),
        ],
    ),
    (
        "no compaction",
        |f| flag(f, "auto-compaction-retention", "0"),
        &[
            ("--auto-compaction", Verdict::Fail, "1h"),
            ("quota with", Verdict::Fail, "1h"),
        ],
    ),
    (
        "free space",
        |f| {
            let status = f.members[0].status.as_mut().unwrap();
            (status.db_size, status.db_size_in_use) = (1 << 30, 100 << 20);
        },
        &[("defragment", Verdict::Warn, "etcdctl defrag")],
    ),
    (
        "elections",
        |f| f.members[0].samples = Some(samples(0, 0, 0, 40)),
        &[("leader_changes", Verdict::Fail, "disk")],
    ),
    (
        "a slow log",
        |f| f.members[0].samples = Some(samples(100, 0, 0, 1)),
        &[("wal_fsync", Verdict::Fail, "disk")],
    ),
    (
        "a slow database",
        |f| f.members[0].samples = Some(samples(0, 100, 0, 1)),
        &[("backend_commit", Verdict::Fail, "disk")],
    ),
    (
        "a full database",
        |f| {
            let status = f.members[0].status.as_mut().unwrap();
            (status.db_size, status.db_size_in_use) = (7 << 30, 7 << 30);
        },
        &[("80%", Verdict::Fail, "top")],
    ),
    (
        "plain text",
        |f| {
            for member in &mut f.members {
                (member.stranger, member.certificate) = (Stranger::PlainText, None);
            }
            for listed in &mut f.list {
                listed.client_urls = vec!["http://10.0.0.1:2379".to_owned()];
            }
            f.shares_kubernetes_authority = None;
        },
        &[
            ("30 days", Verdict::Fail, "TLS"),
            ("TLS between clients", Verdict::Fail, "--cert-file"),
            ("must present", Verdict::Fail, "--client-cert-auth"),
            ("PKI", Verdict::Fail, "authority"),
        ],
    ),
    (
        "no client certificates",
        |f| f.members[0].stranger = Stranger::LetIn,
        &[("must present", Verdict::Fail, "--client-cert-auth")],
    ),
    (
        "plain peers",
        |f| f.list[0].peer_urls = vec!["http://10.0.0.1:2380".to_owned()],
        &[("TLS among", Verdict::Fail, "--peer-cert-file")],
    ),
    (
        "peers without certificates",
        |f| flag(f, "peer-client-cert-auth", "false"),
        &[("TLS among", Verdict::Fail, "--peer-client-cert-auth")],
    ),
    (
        "the authority of Kubernetes",
        |f| f.shares_kubernetes_authority = Some(true),
        &[("PKI", Verdict::Fail, "issues nothing else")],
    ),
    (
        "kubeadm's authority",
        |f| {
            f.shares_kubernetes_authority = None;
            f.members
                .iter_mut()
                .for_each(|m| m.certificate.as_mut().unwrap().issuer = "CN=kubernetes".to_owned());
        },
        &[("PKI", Verdict::Fail, "issues nothing else")],
    ),
    (
        "readable Secrets",
        |f| f.secrets = Stored::Plain("/registry/secrets/a/b".to_owned()),
        &[("of Secrets", Verdict::Fail, "EncryptionConfiguration")],
    ),
    (
        "readable ConfigMaps",
        |f| f.config_maps = Stored::Plain("/registry/configmaps/a/b".to_owned()),
        &[("of ConfigMaps", Verdict::Warn, "EncryptionConfiguration")],
    ),
    (
        "open to everybody",
        |f| {
            flag(f, "listen-client-urls", "https://0.0.0.0:2379");
            f.members[0].stranger = Stranger::LetIn;
        },
        &[
            ("must present", Verdict::Fail, "--client-cert-auth"),
            ("2379", Verdict::Fail, "firewall"),
        ],
    ),
    (
        "behind a firewall, perhaps",
        |f| flag(f, "listen-client-urls", "https://[::]:2379"),
        &[("2379", Verdict::Unseen, "firewall")],
    ),
    (
        "no backups",
        |f| {
            f.backups = Backups {
                visible: true,
                ..Backups::default()
            }
        },
        &[("backups", Verdict::Fail, "EtcdBackup")],
    ),
    (
        "old backups",
        |f| f.backups.verified = Some(("x".to_owned(), NOW - 3 * 86_400)),
        &[("backups", Verdict::Fail, "EtcdBackup")],
    ),
    (
        "a suspended policy",
        |f| f.backups.policies[0].2 = true,
        &[("backups", Verdict::Fail, "EtcdBackup")],
    ),
    (
        "backups that nobody sees",
        |f| f.backups = Backups::default(),
        &[("backups", Verdict::Unseen, "EtcdBackup")],
    ),
    (
        "no alerts",
        |f| f.alerting = Alerting::None,
        &[("alerts", Verdict::Fail, "config/prometheus")],
    ),
    (
        "flags that nobody tells",
        |f| f.members.iter_mut().for_each(|m| m.flags = None),
        &[
            ("--heartbeat", Verdict::Unseen, "flags"),
            ("--election", Verdict::Unseen, "flags"),
            ("--auto-compaction", Verdict::Unseen, "1h"),
            ("TLS among", Verdict::Unseen, "--peer"),
            ("2379", Verdict::Unseen, "listen"),
            ("quota with", Verdict::Unseen, "1h"),
        ],
    ),
];

#[test]
fn every_fault_is_named_by_its_own_lines_with_a_remedy() {
    for (what, plant, expected) in FAULTS {
        let mut facts = good();
        plant(&mut facts);
        let found = not_passed(&facts);
        assert_eq!(found.len(), expected.len(), "{what}: {found:#?}");
        for (line, verdict, word) in *expected {
            let finding = found.iter().find(|finding| finding.check.contains(line));
            let finding = finding.unwrap_or_else(|| panic!("{what}: {line} does not say so: {found:#?}"));
            assert_eq!(finding.verdict, *verdict, "{what}: {finding:?}");
            assert!(finding.remedy.contains(word), "{what}: {finding:?}");
        }
    }
}
