//! What must exist around the members, and the settings that members run with. Idempotent, safe at any time.

use std::time::Duration;

use super::observed::Observed;
use super::wanted::{AutoCompaction, ClientService, Engine, Tls, Wanted};

/// Something that must exist. The platform makes it so or leaves it; what it does not know (a Service on the local
/// platform) it ignores.
#[derive(Clone, Debug, PartialEq)]
pub enum Ensure {
    /// Certificate authorities, and certificates for the operator, for clients and for each member named here;
    /// renewed in time.
    Certificates {
        /// What is wanted.
        tls: Tls,
        /// The members that need certificates of their own.
        members: Vec<String>,
    },
    /// Volumes that wait for storage of a class that is not wanted any more are given up: nothing is on them.
    UnboundVolumes,
    /// The headless Service under which members find each other, before they are ready.
    PeerService,
    /// The Service (or endpoints file) for clients.
    ClientService(ClientService),
    /// At most so many voters may be evicted at once.
    DisruptionBudget {
        /// Evictions allowed at the same time.
        max_unavailable: u32,
        /// The same the other way round: voters that must stay, counted from the larger of what votes and what is wanted.
        min_available: u32,
    },
    /// None, since none is wanted any more.
    NoDisruptionBudget,
    /// Clients of the namespace and the operator reach 2379, members 2380, monitoring 2381.
    NetworkPolicy,
    /// None, since none is wanted any more.
    NoNetworkPolicy,
}

/// What must exist for `wanted`; nothing when the cluster is being deleted.
pub fn ensure(wanted: &Wanted, observed: &Observed) -> Vec<Ensure> {
    if wanted.deleting.is_some() {
        return Vec::new();
    }
    let mut all = vec![
        Ensure::Certificates {
            tls: wanted.tls.clone(),
            members: observed.members.iter().map(|m| m.name.clone()).collect(),
        },
        Ensure::UnboundVolumes,
        Ensure::PeerService,
        Ensure::ClientService(wanted.client_service.clone()),
    ];
    if wanted.disruption_budget {
        let voters = observed.journal.members.iter().filter(|m| !m.learner).count();
        let voters = voters.max(wanted.replicas as usize);
        // What etcd itself tolerates; a single voter may be evicted, or no node could ever be drained. Of two, which a
        // cluster has for moments on its way to one, neither.
        let tolerated = if voters > 1 { (voters - 1) / 2 } else { 1 };
        let max_unavailable = u32::try_from(tolerated).unwrap_or(u32::MAX);
        let min_available = u32::try_from(voters)
            .unwrap_or(u32::MAX)
            .saturating_sub(max_unavailable);
        all.push(Ensure::DisruptionBudget {
            max_unavailable,
            min_available,
        });
    } else {
        all.push(Ensure::NoDisruptionBudget);
    }
    all.push(match wanted.network_policy {
        true => Ensure::NetworkPolicy,
        false => Ensure::NoNetworkPolicy,
    });
    all
}

/// The flags, without dashes, that every member of the cluster gets alike; sorted by name. Flags of one member alone
/// (name, directories, URLs, certificates, initial cluster) are the platform's.
pub fn member_flags(wanted: &Wanted) -> Vec<(String, String)> {
    let options = &wanted.options;
    let mut flags: Vec<(String, String)> = wanted.extra_args.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let mut set = |flag: &str, value: String| flags.push((flag.to_string(), value));
    set("quota-backend-bytes", options.quota_bytes.to_string());
    set("snapshot-count", options.snapshot_count.to_string());
    set("heartbeat-interval", options.heartbeat.as_millis().to_string());
    set("election-timeout", options.election.as_millis().to_string());
    set("max-request-bytes", options.max_request_bytes.to_string());
    set("log-level", options.log_level.clone());
    if let Some(streams) = options.max_concurrent_streams {
        set("max-concurrent-streams", streams.to_string());
    }
    if options.extensive_metrics {
        set("metrics", "extensive".into());
    }
    match &options.auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(keep) => {
            set("auto-compaction-mode", "periodic".into());
            set("auto-compaction-retention", go_duration(*keep));
        }
        AutoCompaction::Revisions(keep) => {
            set("auto-compaction-mode", "revision".into());
            set("auto-compaction-retention", keep.to_string());
        }
    }
    // The server's own check refuses a learner while one of three voters is down (etcd 3.7:
    // server/etcdserver/util.go, isConnectedToQuorumAfterAddingNewMemberSince counts it as a future voter), which
    // forbids spare-first replacement. The planner's vetoes are stricter where it matters: nothing is removed or
    // promoted unless healthy voters remain a quorum.
    set("strict-reconfig-check", "false".into());
    flags.sort();
    flags
}

/// What members should be running: a short hash over all that needs a restart when it changes. Written on a process
/// when it is started and compared later.
pub fn template(wanted: &Wanted) -> String {
    let engine = match wanted.engine {
        Engine::Quorate => "quorate",
        Engine::Etcd => "etcd",
    };
    let mut text = format!(
        "engine={engine}\nversion={:?}\nimage={:?}\nclient-tls={}\npeer-tls={}\ncert-auth={}\nrestart={}\n",
        wanted.version,
        wanted.image,
        wanted.tls.client.is_some(),
        wanted.tls.peer.is_some(),
        wanted.tls.client_cert_auth,
        wanted.restart_token,
    );
    for (flag, value) in member_flags(wanted) {
        text.push_str(&format!("--{flag}={value}\n"));
    }
    text.push_str(&wanted.pod.resources);
    text.push('\n');
    text.push_str(&wanted.pod.template);
    short_hash(&text)
}

/// FNV-1a, 64 bits, as 16 hexadecimal digits: stable across versions and machines, not cryptographic. Used to tell
/// texts of our own apart, never against an adversary.
pub fn short_hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// A duration in Go's notation (`1h0m0s` is written `3600s`; parts below a second in milliseconds), which etcd's flags
/// read.
fn go_duration(duration: Duration) -> String {
    match duration.subsec_millis() {
        0 => format!("{}s", duration.as_secs()),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_changes_with_what_needs_a_restart_and_with_nothing_else() {
        let base = Wanted::new("c", "u", 3);
        let mut scaled = base.clone();
        scaled.replicas = 5;
        scaled.paused = true;
        scaled.storage.size_bytes *= 2;
        assert_eq!(template(&base), template(&scaled));
        let mut flagged = base.clone();
        flagged.extra_args.insert("log-outputs".into(), "stderr".into());
        let mut restarted = base.clone();
        restarted.restart_token = "1".into();
        assert_ne!(template(&base), template(&flagged));
        assert_ne!(template(&base), template(&restarted));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // The 64-bit FNV-1a test vectors of its authors.
        assert_eq!(short_hash(""), "cbf29ce484222325");
        assert_eq!(short_hash("foobar"), "85944171f73967e8");
    }
}
