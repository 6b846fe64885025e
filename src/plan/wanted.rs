//! What the owner of a cluster asked for, already validated (see `api::convert`, which makes it from an `EtcdCluster`).
//!
//! Invariants: `replicas` is 0 or odd; durations and sizes are in range; nothing here is looked up or defaulted later.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Timestamp;
use super::backup::Policy;

/// One cluster as its owner wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Namespace; the local platform uses `default`.
    pub namespace: String,
    /// Name of the cluster.
    pub name: String,
    /// Identity of the cluster object: a cluster is bootstrapped once per uid. Also the bootstrap token.
    pub uid: String,
    /// Generation of the spec that this was made from; published as `observedGeneration`.
    pub generation: i64,
    /// Voting members; 0 hibernates the cluster: no process, all data kept.
    pub replicas: u32,
    /// The program that members run.
    pub engine: Engine,
    /// Version of the program, e.g. `3.7.3`; none is the operator's own.
    pub version: Option<String>,
    /// Container image of a member; none is the operator's default. The local platform ignores it.
    pub image: Option<String>,
    /// Size and kind of each member's volume.
    pub storage: Storage,
    /// How clients and members authenticate each other.
    pub tls: Tls,
    /// etcd options that the schema names.
    pub options: Options,
    /// Further etcd flags (without dashes) that the operator does not own.
    pub extra_args: BTreeMap<String, String>,
    /// Resource requests and limits and pod template, rendered to canonical text: the planner only compares it.
    pub pod: PodText,
    /// How clients reach the cluster.
    pub client_service: ClientService,
    /// Whether a disruption budget is kept.
    pub disruption_budget: bool,
    /// Whether network policies are kept.
    pub network_policy: bool,
    /// Where the first data comes from.
    pub bootstrap: Bootstrap,
    /// When a member is replaced.
    pub repair: Repair,
    /// What may be done when quorum is lost.
    pub recovery: Recovery,
    /// Defragmentation and alarms.
    pub maintenance: Maintenance,
    /// How changes are rolled out.
    pub update: Update,
    /// Hands off: nothing disruptive, nothing started or stopped.
    pub paused: bool,
    /// Since when the cluster object is being deleted.
    pub deleting: Option<Timestamp>,
    /// What becomes of the data when the cluster is deleted.
    pub deletion_policy: DeletionPolicy,
    /// A token of the owner's (`quorate.dev/restart`): members started under another one are rolled.
    pub restart_token: String,
    /// A token of the owner's (`quorate.dev/defrag`): members defragmented under another one are defragmented once.
    pub defrag_token: String,
    /// Member that the owner wants replaced (`quorate.dev/replace-member`).
    pub replace_member: Option<String>,
    /// Member that the owner wants to lead (`quorate.dev/move-leader`), and after a space whatever makes the request
    /// another one. A request is met once: whoever is elected later leads.
    pub move_leader: Option<String>,
    /// How long one step may take before it is reported as stuck.
    pub progress_deadline: Duration,
    /// The backup policies (`EtcdBackup` objects) that name this cluster.
    pub backups: Vec<Policy>,
}

/// The program that members run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Our own server.
    Quorate,
    /// An upstream etcd image.
    Etcd,
}

/// A member's volume.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Bytes.
    pub size_bytes: u64,
    /// Storage class; none is the platform's default.
    pub class: Option<String>,
    /// What becomes of a volume whose member was replaced or scaled in.
    pub reclaim: Reclaim,
    /// How long a retired volume is kept with [`Reclaim::Retain`].
    pub retain_for: Duration,
}

/// What becomes of a retired volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// Kept for `retain_for`, then purged once the cluster is healthy.
    Retain,
    /// Purged once the cluster is healthy.
    Delete,
}

/// Transport security.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// For connections of clients; none is plaintext (`tls.insecure: true`).
    pub client: Option<TlsSide>,
    /// For connections among members.
    pub peer: Option<TlsSide>,
    /// Clients must present a certificate.
    pub client_cert_auth: bool,
}

/// One side's certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSide {
    /// Who issues them.
    pub issuer: Issuer,
    /// Life of a leaf certificate.
    pub validity: Duration,
    /// A leaf is renewed when less than this is left.
    pub renew_before: Duration,
    /// Life of the certificate authority.
    pub ca_validity: Duration,
    /// The authority is renewed when less than this is left.
    pub ca_renew_before: Duration,
}

/// Who issues certificates.
#[derive(Clone, Debug, PartialEq)]
pub enum Issuer {
    /// A certificate authority of the cluster's own, kept by the operator.
    SelfSigned,
    /// cert-manager, by reference to an issuer.
    CertManager {
        /// Name of the issuer.
        name: String,
        /// `Issuer` or `ClusterIssuer`.
        kind: String,
    },
    /// A Secret that somebody else keeps (on the local platform: a directory with ca.crt, tls.crt, tls.key).
    Secret {
        /// Its name.
        name: String,
    },
}

/// etcd options that the schema names; sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// `--quota-backend-bytes`.
    pub quota_bytes: u64,
    /// `--auto-compaction-mode` and `--auto-compaction-retention`.
    pub auto_compaction: AutoCompaction,
    /// `--snapshot-count`.
    pub snapshot_count: u64,
    /// `--heartbeat-interval`.
    pub heartbeat: Duration,
    /// `--election-timeout`.
    pub election: Duration,
    /// `--max-request-bytes`.
    pub max_request_bytes: u64,
    /// `--max-concurrent-streams`; none is etcd's own default.
    pub max_concurrent_streams: Option<u32>,
    /// `--metrics=extensive`.
    pub extensive_metrics: bool,
    /// `--log-level`.
    pub log_level: String,
}

/// When history is compacted by the members themselves.
#[derive(Clone, Debug, PartialEq)]
pub enum AutoCompaction {
    /// Never; somebody else compacts (kube-apiserver does).
    Off,
    /// Keep this much time.
    Periodic(Duration),
    /// Keep this many revisions.
    Revisions(u64),
}

/// Parts that only Kubernetes renders, as canonical text: compared, never read, by the planner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodText {
    /// Resource requests and limits.
    pub resources: String,
    /// Pod template.
    pub template: String,
}

/// How clients reach the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientService {
    /// Service type: `ClusterIP`, `NodePort` or `LoadBalancer`.
    pub kind: String,
    /// Annotations of the Service.
    pub annotations: BTreeMap<String, String>,
    /// Labels of the Service.
    pub labels: BTreeMap<String, String>,
    /// `trafficDistribution` of the Service.
    pub traffic_distribution: Option<String>,
    /// `ipFamilyPolicy` of the Service.
    pub ip_family_policy: Option<String>,
}

/// Where the first data comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Bootstrap {
    /// An empty key space.
    New,
    /// A backup.
    Restore(RestoreSource),
}

/// A backup to begin from.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoreSource {
    /// What to fetch.
    pub from: BackupSource,
    /// How far revisions are raised above the backup's, so that watchers never see one twice; none lets the platform
    /// take it from the high-water mark in the backup's manifest.
    pub revision_bump: Option<u64>,
    /// Skip the integrity hash (a copied db file has none).
    pub skip_hash_check: bool,
}

/// Which backup.
#[derive(Clone, Debug, PartialEq)]
pub enum BackupSource {
    /// An `EtcdBackup` by name.
    Backup(String),
    /// An object in a store; the text is the schema's `source` in canonical form, which only the backup module reads.
    Location(String),
}

impl std::fmt::Display for BackupSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BackupSource::Backup(name) => write!(f, "backup {name}"),
            // Which object that is, the platform tells with what it finds there.
            BackupSource::Location(_) => f.write_str("the backup that bootstrap.restore.source names"),
        }
    }
}

/// When a member is replaced.
#[derive(Clone, Debug, PartialEq)]
pub struct Repair {
    /// False: published, never done (`repair.mode: Manual`).
    pub automatic: bool,
    /// A member that cannot be reached is replaced after this long.
    pub after: Duration,
    /// A member whose data is corrupt or lost is replaced after this long.
    pub corrupt: Duration,
}

/// What may be done when quorum is lost (reference: operators.md §5.2).
#[derive(Clone, Debug, PartialEq)]
pub struct Recovery {
    /// True acts alone where the loss is proven; false waits for the acknowledgement in every case.
    pub automatic: bool,
    /// The hash of the recovery plan that a human agrees to.
    pub acknowledge: Option<String>,
    /// Where to recover from.
    pub from: RecoverFrom,
    /// With no survivor at all, go back to the newest verified backup without being asked.
    pub from_backup_automatic: bool,
}

/// Where to recover from.
#[derive(Clone, Debug, PartialEq)]
pub enum RecoverFrom {
    /// The most complete surviving member; a backup only when there is none.
    Survivor,
    /// A backup, even when a member survived; the named one, else the newest verified.
    Backup(Option<String>),
}

/// Defragmentation and alarms.
#[derive(Clone, Debug, PartialEq)]
pub struct Maintenance {
    /// When space is given back.
    pub defrag: Defrag,
    /// Clear a NOSPACE alarm by compacting and defragmenting; false only reports.
    pub nospace_auto: bool,
    /// Replace a member (minority only) whose data is corrupt; false only reports.
    pub corrupt_replace: bool,
}

/// When space is given back.
#[derive(Clone, Debug, PartialEq)]
pub struct Defrag {
    /// Free bytes inside the database above which a member is defragmented.
    pub free_above_bytes: u64,
    /// Share of the quota in percent above which a member is defragmented...
    pub quota_above_percent: u32,
    /// ... if at least this many bytes can be given back.
    pub min_reclaim_bytes: u64,
    /// On schedule, defragment every member whatever the thresholds say.
    pub all: bool,
    /// True when a schedule is set: thresholds apply only then at its ticks.
    pub scheduled: bool,
    /// Move the leader away before its member is defragmented (never needed with our engine: it defragments online).
    pub move_leader: bool,
    /// Pause between two members.
    pub settle: Duration,
}

/// How changes are rolled out.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// False (`OnDelete`): members pick changes up only when something else restarts them.
    pub rolling: bool,
    /// A member counts as good again when it was healthy for this long.
    pub min_ready: Duration,
}

/// What becomes of the data when the cluster is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// Volumes stay.
    Retain,
    /// Volumes are deleted.
    Delete,
    /// A last verified backup is taken, then volumes are deleted.
    SnapshotThenDelete,
}

impl Wanted {
    /// A small cluster with the defaults of the schema; the base of samples and tests.
    pub fn new(name: &str, uid: &str, replicas: u32) -> Wanted {
        const HOUR: Duration = Duration::from_secs(3600);
        const GIB: u64 = 1 << 30;
        const MIB: u64 = 1 << 20;
        let side = || TlsSide {
            issuer: Issuer::SelfSigned,
            validity: HOUR * 8760,
            renew_before: HOUR * 2160,
            ca_validity: HOUR * 43800,
            ca_renew_before: HOUR * 8760,
        };
        Wanted {
            namespace: "default".into(),
            name: name.into(),
            uid: uid.into(),
            generation: 1,
            replicas,
            engine: Engine::Quorate,
            version: None,
            image: None,
            storage: Storage {
                size_bytes: 16 * GIB,
                class: None,
                reclaim: Reclaim::Retain,
                retain_for: HOUR * 24,
            },
            tls: Tls {
                client: Some(side()),
                peer: Some(side()),
                client_cert_auth: true,
            },
            options: Options {
                quota_bytes: 8 * GIB,
                auto_compaction: AutoCompaction::Periodic(HOUR),
                snapshot_count: 10_000,
                heartbeat: Duration::from_millis(100),
                election: Duration::from_millis(1000),
                max_request_bytes: 1536 * 1024,
                max_concurrent_streams: None,
                extensive_metrics: false,
                log_level: "info".into(),
            },
            extra_args: BTreeMap::new(),
            pod: PodText::default(),
            client_service: ClientService {
                kind: "ClusterIP".into(),
                ..ClientService::default()
            },
            disruption_budget: true,
            network_policy: true,
            bootstrap: Bootstrap::New,
            repair: Repair {
                automatic: true,
                after: Duration::from_secs(300),
                corrupt: Duration::ZERO,
            },
            recovery: Recovery {
                automatic: true,
                acknowledge: None,
                from: RecoverFrom::Survivor,
                from_backup_automatic: false,
            },
            maintenance: Maintenance {
                defrag: Defrag {
                    free_above_bytes: 200 * MIB,
                    quota_above_percent: 80,
                    min_reclaim_bytes: 32 * MIB,
                    all: false,
                    scheduled: false,
                    move_leader: true,
                    settle: Duration::from_secs(36),
                },
                nospace_auto: true,
                corrupt_replace: true,
            },
            update: Update {
                rolling: true,
                min_ready: Duration::from_secs(10),
            },
            paused: false,
            deleting: None,
            deletion_policy: DeletionPolicy::Retain,
            restart_token: String::new(),
            defrag_token: String::new(),
            replace_member: None,
            move_leader: None,
            progress_deadline: Duration::from_secs(600),
            backups: Vec::new(),
        }
    }
}
