//! How a member begins: with its data, with a new cluster, or by joining one (etcd server/etcdserver/bootstrap.go).
//!
//! Invariants:
//! - What is in the data directory wins over every flag about the cluster.
//! - A new cluster is refused when a peer already runs with this member: its data was lost, and it must not vote afresh.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use disk::RealDisk;
use proto::etcdserverpb::Member as PbMember;
use replica::state_machine::lease::LeaseConfig;
use replica::state_machine::membership::Member as StoredMember;
use replica::state_machine::quota::Quota;
use replica::{AutoCompaction, Incarnation, Start, has_data, stored_incarnation};

use super::StartError;
use crate::config::{self, Config, Url, parse_members, split_host_port};
use crate::peer::dial::Identity;

/// How long each peer may take to tell the members of a cluster that is to be joined.
const PEER_PATIENCE: Duration = Duration::from_secs(10);
/// How long names in URLs may take to resolve (etcd pkg/netutil).
const RESOLVE_PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts to resolve a name.
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);
/// A member that joins asks the others for this long. Where names are published only once a program runs (the pods of
/// a headless Service), they refuse a caller whose address does not belong to the names in its certificate yet.
const JOIN_PATIENCE: Duration = Duration::from_secs(8);

/// What the replica is told. `identity` dials peers; it has no ids yet.
pub(super) async fn replica_config(config: &Config, identity: &Identity) -> Result<replica::Config, StartError> {
    let mut told = translate(config).map_err(StartError::Bootstrap)?;
    check_data_dir(config)?;
    if let Some(known) = stored_incarnation(&RealDisk, &told)? {
        told.incarnation = known.name;
    }
    if has_data(&RealDisk, &told)? {
        tracing::info!(data_dir = %config.data_dir.display(), "server has already been initialized");
        return Ok(told);
    }
    let members = parse_members(&config.initial_cluster).map_err(StartError::Bootstrap)?;
    let Some(own) = members.get(&config.name) else {
        return Err(StartError::Bootstrap(format!(
            "couldn't find local name {:?} in the initial cluster configuration: --initial-cluster must include \
             {}=<one of --initial-advertise-peer-urls>",
            config.name, config.name
        )));
    };
    let all = config::texts(&members.values().flatten().cloned().collect::<Vec<Url>>());
    if all.iter().enumerate().any(|(n, url)| all[..n].contains(url)) {
        return Err(StartError::Bootstrap(format!(
            "initial cluster {} has duplicate url: each member in --initial-cluster needs peer URLs of its own",
            config.initial_cluster
        )));
    }
    check_own_urls(own, &config.initial_advertise_peer_urls).await?;
    let others: Vec<&Vec<Url>> = members
        .iter()
        .filter(|(name, _)| **name != config.name)
        .map(|(_, urls)| urls)
        .collect();
    let identity = identity.within(PEER_PATIENCE);
    if config.new_cluster {
        refuse_lost_member(config, &identity, &others).await?;
        let members = members
            .iter()
            .map(|(name, urls)| (name.clone(), config::texts(urls)))
            .collect();
        told.start = Start::New {
            members,
            token: config.initial_cluster_token.clone(),
        };
    } else {
        told.start = join(config, &identity, &others).await?;
        if let Start::Join {
            cluster_id, member_id, ..
        } = told.start
        {
            let identity = Identity {
                member_id,
                cluster_id,
                incarnation: Incarnation {
                    name: told.incarnation,
                    adopted: false,
                },
                ..identity
            };
            refuse_new_directory(config, &identity, &others).await?;
        }
    }
    Ok(told)
}

fn translate(config: &Config) -> Result<replica::Config, String> {
    let tick = Duration::from_millis(config.heartbeat_interval_ms);
    let lease_ms = config.election_ticks() * 3 / 2 * config.heartbeat_interval_ms;
    let defaults = replica::Config::default();
    let mut state = defaults.state.clone();
    state.lease = LeaseConfig {
        ttl_seconds_min: i64::try_from(lease_ms.div_ceil(1000)).unwrap_or(i64::MAX),
        checkpoint: config.features.lease_checkpoint,
        retry_interval: config.request_timeout(),
        ..state.lease
    };
    if config.auth_token_ttl > 0 {
        state.token_ttl = Duration::from_secs(config.auth_token_ttl);
    }
    state.quota = Quota::from_config(config.quota_backend_bytes);
    state.learners_max = usize::try_from(config.max_learners).unwrap_or(0);
    if let Some(limit) = usize::try_from(config.backend_batch_limit)
        .ok()
        .filter(|limit| *limit > 0)
    {
        state.backend.batch_ops_max = limit;
    }
    Ok(replica::Config {
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        name: config.name.clone(),
        client_urls: config::texts(&config.advertise_client_urls),
        start: Start::Resume,
        expect: None,
        force_new_cluster: config.force_new_cluster,
        tick,
        election_ticks: config.election_ticks(),
        pre_vote: config.pre_vote,
        snapshot_count: config.snapshot_count.max(1),
        catch_up_entries: config.snapshot_catchup_entries,
        segment_bytes: defaults.segment_bytes,
        memory_interval: defaults.memory_interval,
        release_delay: defaults.release_delay,
        append_bytes: defaults.append_bytes,
        commit_interval: config
            .backend_batch_interval
            .positive()
            .unwrap_or(defaults.commit_interval),
        log_segments_max: usize::try_from(config.max_wals).unwrap_or(usize::MAX),
        snapshots_max: usize::try_from(config.max_snapshots).unwrap_or(usize::MAX),
        compaction_batch: usize::try_from(config.compaction_batch_limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(defaults.compaction_batch),
        compaction_pause: config
            .compaction_sleep_interval
            .positive()
            .unwrap_or(defaults.compaction_pause),
        observer: None,
        auto_compaction: match config.auto_compaction()? {
            config::AutoCompaction::Off => None,
            config::AutoCompaction::Periodic(span) => Some(AutoCompaction::Periodic(span)),
            config::AutoCompaction::Revisions(keep) => Some(AutoCompaction::Revision(keep)),
        },
        state,
        seed: rand::random(),
        unix_ms: u64::try_from(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis(),
        )
        .unwrap_or(0),
        incarnation: rand::random(),
    })
}

/// Warns about what does not belong into a data directory, and refuses one of etcd's old proxy.
fn check_data_dir(config: &Config) -> Result<(), StartError> {
    let Ok(entries) = std::fs::read_dir(&config.data_dir) else {
        return Ok(());
    };
    for name in entries.flatten().map(|entry| entry.file_name()) {
        match name.to_string_lossy().as_ref() {
            "member" | "fixtures" | "lost+found" => {}
            "proxy" => {
                return Err(StartError::Bootstrap(format!(
                    "--data-dir {} holds the data of a v2 proxy, which no longer exists: choose another directory",
                    config.data_dir.display()
                )));
            }
            name => {
                tracing::warn!(filename = name, data_dir = %config.data_dir.display(), "found invalid file under data directory");
            }
        }
    }
    Ok(())
}

/// The URLs of this member in `--initial-cluster` must be those that it advertises, as text or by the addresses of their names.
async fn check_own_urls(own: &[Url], advertised: &[Url]) -> Result<(), StartError> {
    let sorted = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let (own_texts, advertised_texts) = (sorted(own), sorted(advertised));
    if own_texts == advertised_texts {
        return Ok(());
    }
    let compared = tokio::time::timeout(RESOLVE_PATIENCE, async {
        resolve(own).await == resolve(advertised).await
    });
    if compared.await.unwrap_or(false) {
        return Ok(());
    }
    let missing: Vec<_> = advertised_texts.difference(&own_texts).cloned().collect();
    let extra: Vec<_> = own_texts.difference(&advertised_texts).cloned().collect();
    Err(StartError::Bootstrap(format!(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster, which has {} for this member: make them equal",
        missing.join(","),
        extra.join(",")
    )))
}

/// The URLs with their hosts replaced by addresses; keeps trying until all names resolve.
async fn resolve(urls: &[Url]) -> BTreeSet<String> {
    let mut resolved = BTreeSet::new();
    for url in urls {
        let Ok((host, port)) = split_host_port(&url.address) else {
            resolved.insert(url.to_string());
            continue;
        };
        let port: u16 = port.parse().unwrap_or(0);
        loop {
            if let Ok(mut addresses) = tokio::net::lookup_host((host, port)).await
                && let Some(address) = addresses.next()
            {
                resolved.insert(format!("{:?}://{address}", url.scheme));
                break;
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    }
    resolved
}

/// Asks the other members of a new cluster whether this one has been part of it already.
async fn refuse_lost_member(config: &Config, identity: &Identity, others: &[&Vec<Url>]) -> Result<(), StartError> {
    // Peers that are about to start with this one do not answer yet, and need not be waited for.
    let identity = identity.within(Duration::from_secs(1));
    for urls in others {
        let Ok((_, members)) = identity.fetch_members(&config::texts(urls)).await else {
            continue;
        };
        let own = config::texts(&config.initial_advertise_peer_urls);
        let found = members
            .iter()
            .find(|member| member.peer_ur_ls.iter().any(|url| own.contains(url)));
        if let Some(member) = found
            && !member.client_ur_ls.is_empty()
        {
            return Err(StartError::Bootstrap(format!(
                "member {:x} has already been bootstrapped: its data is gone, so remove it from the cluster and add a new member",
                member.id
            )));
        }
    }
    Ok(())
}

/// Asks the members of the cluster whether they have met this one with another data directory: then its data was lost, and what it
/// acknowledged before with it.
async fn refuse_new_directory(config: &Config, identity: &Identity, others: &[&Vec<Url>]) -> Result<(), StartError> {
    let identity = identity.within(Duration::from_secs(1));
    for urls in others {
        if let Some(refusal) = identity.refused_incarnation(&config::texts(urls)).await {
            return Err(StartError::Bootstrap(format!(
                "the data directory {} is empty, but this member has run before: {refusal}",
                config.data_dir.display()
            )));
        }
    }
    Ok(())
}

/// Takes ids from the cluster that is to be joined. Members are matched by their peer URLs.
async fn join(config: &Config, identity: &Identity, others: &[&Vec<Url>]) -> Result<Start, StartError> {
    let mut last = "--initial-cluster names no other member".to_owned();
    let until = tokio::time::Instant::now() + JOIN_PATIENCE;
    let (cluster_id, members) = 'told: loop {
        for urls in others {
            match identity.fetch_members(&config::texts(urls)).await {
                Ok(told) => break 'told told,
                Err(error) => last = error.to_string(),
            }
        }
        if others.is_empty() || tokio::time::Instant::now() >= until {
            return Err(StartError::Bootstrap(format!(
                "cannot fetch cluster info from peer urls: {last}"
            )));
        }
        tokio::time::sleep(RESOLVE_PAUSE).await;
    };
    check_same_members(config, others, &members).await?;
    let own = resolve_or_text(&config.initial_advertise_peer_urls).await;
    let mut found = None;
    for member in &members {
        if !own.is_disjoint(&resolve_texts(&member.peer_ur_ls).await) {
            found = Some(member.id);
        }
    }
    let Some(member_id) = found else {
        return Err(StartError::Bootstrap(format!(
            "error validating peerURLs: no member of the cluster has the peer URLs {}: add it with 'etcdctl member add' first",
            config::joined(&config.initial_advertise_peer_urls)
        )));
    };
    let members = members
        .into_iter()
        .map(|member| StoredMember {
            id: member.id,
            peer_urls: member.peer_ur_ls,
            is_learner: member.is_learner,
            name: member.name,
            client_urls: member.client_ur_ls,
        })
        .collect();
    Ok(Start::Join {
        cluster_id,
        member_id,
        members,
    })
}

/// `--initial-cluster` and the cluster must name equally many members, with the same URLs.
async fn check_same_members(config: &Config, others: &[&Vec<Url>], members: &[PbMember]) -> Result<(), StartError> {
    if members.len() != others.len() + 1 {
        return Err(StartError::Bootstrap(format!(
            "error validating peerURLs: member count is unequal: the cluster has {} members, --initial-cluster names {}",
            members.len(),
            others.len() + 1
        )));
    }
    let own = &config.initial_advertise_peer_urls;
    for urls in others.iter().copied().chain([own]) {
        let wanted = resolve_or_text(urls).await;
        let mut known = false;
        for member in members {
            known |= !wanted.is_disjoint(&resolve_texts(&member.peer_ur_ls).await);
        }
        if !known {
            return Err(StartError::Bootstrap(format!(
                "error validating peerURLs: unmatched member while checking PeerURLs: no member of the cluster has {}; \
                 --initial-cluster must name the members as 'etcdctl member list' shows them",
                config::joined(urls)
            )));
        }
    }
    Ok(())
}

async fn resolve_texts(urls: &[String]) -> BTreeSet<String> {
    let parsed: Vec<Url> = urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
    resolve_or_text(&parsed).await
}

/// Texts, and addresses of those names that resolve now.
async fn resolve_or_text(urls: &[Url]) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = urls.iter().map(ToString::to_string).collect();
    if let Ok(resolved) = tokio::time::timeout(Duration::from_secs(2), resolve(urls)).await {
        all.extend(resolved);
    }
    all
}
