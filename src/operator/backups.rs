//! The work of one `EtcdBackup`'s worker: a policy makes its backups, a backup makes its pod.
//!
//! ```text
//! decide   what is next for one backup (pure)      pod   the pod that does it (pure)
//! ```
//! Invariants:
//! 1. A backup is an object before it is work, with a name that is a function of policy and tick: however many operators
//!    act on one tick, and however often, there is one backup.
//! 2. Every status is written with the resource version that it was decided on.
//! 3. What stands in the way is in the status, with the field and the remedy, before it is waited for.

pub mod decide;
pub mod pod;

pub use pod::BACKUP_LABEL;

use super::Context;
use super::watches::Key;
use super::workers::{Pace, Waited, Work};
use crate::api::etcd_backup::{BackupOwnerReference, EtcdBackupStatus};
use crate::api::schedule::rfc3339;
use crate::api::{EtcdBackup, convert};
use crate::backup::{address, mounts};
use crate::plan::backup::{self as plan, Action, Phase, Standing};
use crate::plan::{Timestamp, Wanted};
use crate::platform::Event;
use crate::platform::kubernetes::names::Names;
use decide::{FINALIZER, Found, Next, PRUNE};
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, Resource, ResourceExt};
use pod::{Origin, Purpose};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// What waits for something that no event tells of is looked at again after this long.
const AGAIN: Duration = Duration::from_secs(10);
/// A policy is looked at this often, whatever its schedule: clocks are set, and objects are edited.
const POLICY_MAX: Duration = Duration::from_secs(300);
/// The first pause after a look that failed, and the longest.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The policy that a backup belongs to.
pub fn policy_of(object: &EtcdBackup) -> Option<String> {
    object.labels().get(convert::SCHEDULED_BY_LABEL).cloned()
}

/// The work for a backup or a policy, as long as there is any.
pub fn work(context: Arc<Context>, key: Key, pace: Pace) -> Option<Work> {
    let object = context.backups.get(&key)?;
    if object.spec.schedule.is_some() {
        return Some(Box::pin(attend(context, key, pace)));
    }
    // One that ended just now may have left its pod behind.
    let ended = object.status.as_ref().and_then(|status| status.completed_at.as_deref());
    let recently = ended
        .and_then(crate::api::schedule::parse_rfc3339)
        .is_some_and(|ended| context.around.timestamp().since(ended) < Duration::from_secs(600));
    (!decide::idle(&object) || recently).then(|| Box::pin(attend(context, key, pace)) as Work)
}

async fn attend(context: Arc<Context>, key: Key, mut pace: Pace) {
    let mut failures = 0u32;
    while let Some(cached) = context.backups.get(&key) {
        let desk = Desk::new(&context, &key);
        let result = match cached.spec.schedule {
            Some(_) => desk.policy(&cached).await,
            None => desk.once().await,
        };
        let pause = match result {
            Ok(Some(pause)) => {
                failures = 0;
                pause
            }
            Ok(None) => return,
            Err(error) => {
                let pause = (AFTER_FAILURE.0 * 2u32.saturating_pow(failures.min(6))).min(AFTER_FAILURE.1);
                failures += 1;
                tracing::warn!(backup = %key, %error, "tried again in {pause:?}");
                pause
            }
        };
        if pace.wait(pause, Duration::ZERO).await == Waited::Stopped {
            return;
        }
    }
}

/// Does what the planner says is due for the policies of a namespace.
pub async fn act(context: &Context, namespace: &str, action: &Action) -> Result<(), Failure> {
    let api: Api<EtcdBackup> = Api::namespaced(context.client.clone(), namespace);
    match action {
        Action::Create {
            policy,
            name,
            scheduled,
        } => {
            let key = |name: &str| Key {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            if context.backups.get(&key(name)).is_some() {
                return Ok(());
            }
            let Some(policy) = context.backups.get(&key(policy)) else {
                return Ok(());
            };
            if policy.metadata.deletion_timestamp.is_some() {
                return Ok(());
            }
            let mut child = convert::child(&policy, name, *scheduled);
            if policy.spec.backup_owner_reference == Some(BackupOwnerReference::Policy) {
                child.metadata.owner_references = policy.controller_owner_ref(&()).map(|owner| vec![owner]);
            }
            match api.create(&PostParams::default(), &child).await {
                Ok(_) => {
                    let event = Event {
                        normal: true,
                        reason: "BackupScheduled".to_owned(),
                        message: format!("backup {name} is due since {}", rfc3339(*scheduled)),
                    };
                    context.events.tell(&policy.object_ref(&()), &event).await;
                    Ok(())
                }
                // The name is taken: this tick was acted on.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Action::Prune { name } => {
            let mark = json!({ "metadata": { "annotations": { PRUNE: "true" } } });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(mark)).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// What one look at a backup needs.
struct Desk<'a> {
    context: &'a Context,
    name: &'a str,
    namespace: &'a str,
    api: Api<EtcdBackup>,
    pods: Api<Pod>,
}

impl<'a> Desk<'a> {
    fn new(context: &'a Context, key: &'a Key) -> Desk<'a> {
        Desk {
            context,
            name: &key.name,
            namespace: &key.namespace,
            api: Api::namespaced(context.client.clone(), &key.namespace),
            pods: Api::namespaced(context.client.clone(), &key.namespace),
        }
    }

    fn now(&self) -> Timestamp {
        self.context.around.timestamp()
    }

    /// One look at a policy; how long to wait for the next.
    async fn policy(&self, object: &EtcdBackup) -> Result<Option<Duration>, Failure> {
        let now = self.now();
        let problems = convert::check_backup(object);
        let mut status = object.status.clone().unwrap_or_default();
        status.observed_generation = object.metadata.generation;
        let Some(policy) = convert::policy(object, now).filter(|_| problems.is_empty()) else {
            let why: Vec<String> = problems.iter().map(ToString::to_string).collect();
            self.hold(object, status, "Invalid", &why.join("; ")).await?;
            return Ok(Some(POLICY_MAX));
        };
        let children: Vec<Arc<EtcdBackup>> = self
            .context
            .backups
            .of_namespace(self.namespace)
            .into_iter()
            .filter(|child| policy_of(child).as_deref() == Some(self.name) && !child.annotations().contains_key(PRUNE))
            .collect();
        let runs: Vec<plan::Run> = children.iter().filter_map(|child| convert::run(child)).collect();
        if object.metadata.deletion_timestamp.is_none() {
            for action in plan::plan(&policy, &runs, now) {
                act(self.context, self.namespace, &action).await?;
            }
        }
        let standing = plan::standing(&policy, &runs, now);
        let newest = runs.iter().map(|run| run.scheduled).max();
        status.last_schedule_time = newest.map(rfc3339).or(status.last_schedule_time);
        let completed = runs.iter().filter(|run| run.phase == Phase::Completed);
        status.last_successful_time = completed
            .filter_map(|run| run.completed)
            .max()
            .map(rfc3339)
            .or(status.last_successful_time);
        status.next_schedule_time = policy.next_tick.filter(|_| !policy.suspended).map(rfc3339);
        status.phase = Some(if policy.suspended { "Suspended" } else { "Scheduled" }.into());
        status.message = match &standing {
            Standing::Overlaps(run) => Some(format!("the next backup waits for {run} (concurrencyPolicy: Forbid)")),
            Standing::Missed(tick) => Some(format!(
                "the backup of {} was skipped: it was later than startingDeadlineSeconds",
                rfc3339(*tick)
            )),
            Standing::Starts(_) | Standing::Waits(_) | Standing::Suspended => None,
        };
        let failing = runs
            .iter()
            .max_by_key(|run| run.scheduled)
            .is_some_and(|run| run.phase == Phase::Failed);
        let (reason, text) = match (failing, policy.suspended) {
            (true, _) => ("LastBackupFailed", "the newest backup failed: see its status"),
            (false, true) => ("Suspended", "suspend is true"),
            (false, false) => ("Scheduled", "backups are taken by schedule"),
        };
        let mut ready = decide::condition(reason, text, now);
        ready.status = if failing { "False" } else { "True" }.into();
        if let Some(before) = status.conditions.iter().find(|before| before.kind == "Ready")
            && (&before.status, &before.reason) == (&ready.status, &ready.reason)
        {
            ready.last_transition_time.clone_from(&before.last_transition_time);
        }
        status.conditions = vec![ready];
        self.put(object, status).await?;
        let pause = policy.next_tick.map_or(POLICY_MAX, |tick| tick.since(now));
        // A moment after the tick rather than a moment before it.
        Ok(Some((pause + Duration::from_millis(20)).min(POLICY_MAX)))
    }

    /// One look at a backup; how long to wait for the next, or nothing when there is no more to do.
    async fn once(&self) -> Result<Option<Duration>, Failure> {
        // Never by the cache: what is decided here creates and deletes.
        let Some(object) = self.api.get_opt(self.name).await? else {
            return Ok(None);
        };
        let take = self.pod(&object, Purpose::Take).await?;
        let remove = self.pod(&object, Purpose::Remove).await?;
        let next = decide::decide(
            &object,
            take.as_ref().map_or(Found::None, Found::Pod),
            remove.as_ref().map_or(Found::None, Found::Pod),
            self.now(),
        );
        match next {
            Next::Done => Ok(None),
            Next::Wait(pause) => Ok(Some(pause)),
            Next::Protect => {
                let mut finalizers = object.finalizers().to_vec();
                finalizers.push(FINALIZER.to_owned());
                self.put_finalizers(&object, &finalizers).await?;
                Ok(Some(Duration::ZERO))
            }
            Next::Begin(attempt) => self.begin(&object, attempt).await.map(Some),
            Next::NoteRunning => {
                let mut status = object.status.clone().unwrap_or_default();
                status.phase = Some("Running".into());
                status.observed_generation = object.metadata.generation;
                status.started_at = status.started_at.or_else(|| Some(rfc3339(self.now())));
                self.put(&object, status).await?;
                Ok(Some(Duration::ZERO))
            }
            Next::Count(outcome) => {
                let before = object.status.clone().unwrap_or_default();
                let (mut status, word) = decide::counted(&before, &outcome, self.now());
                status.observed_generation = object.metadata.generation;
                self.put(&object, status.clone()).await?;
                self.context.metrics.backup(word);
                self.tell_end(&object, &status).await;
                Ok(Some(Duration::ZERO))
            }
            Next::DeletePod => {
                for pod in take.iter().chain(&remove) {
                    self.delete(pod).await?;
                }
                Ok(Some(Duration::from_secs(1)))
            }
            Next::Remove(_) => {
                if let Some(missing) = self.missing_secret(&object).await? {
                    self.complain(&object, &missing).await?;
                    return Ok(Some(AGAIN));
                }
                self.create(&object, Purpose::Remove, &Origin::default(), 1).await?;
                Ok(Some(Duration::from_secs(60)))
            }
            Next::Complain(why) => {
                self.complain(&object, &why).await?;
                Ok(Some(AGAIN))
            }
            Next::LetGo => {
                self.let_go(&object).await?;
                Ok(Some(Duration::from_secs(30)))
            }
        }
    }

    /// The pod of a purpose, if it is this backup's.
    async fn pod(&self, object: &EtcdBackup, purpose: Purpose) -> Result<Option<Pod>, Failure> {
        let name = pod::name(self.name, purpose);
        let Some(pod) = self.pods.get_opt(&name).await? else {
            return Ok(None);
        };
        let uid = object.uid().unwrap_or_default();
        if pod.owner_references().iter().any(|owner| owner.uid == uid) {
            return Ok(Some(pod));
        }
        Err(format!("pod {name} is in the way and belongs to something else: delete or rename it").into())
    }

    async fn begin(&self, object: &EtcdBackup, attempt: i32) -> Result<Duration, Failure> {
        let status = object.status.clone().unwrap_or_default();
        let problems = convert::check_backup(object);
        if !problems.is_empty() {
            let why: Vec<String> = problems.iter().map(ToString::to_string).collect();
            self.hold(object, status, "Invalid", &why.join("; ")).await?;
            return Ok(POLICY_MAX);
        }
        if object.spec.destination.directory.is_some() {
            let why = "spec.destination.directory: is for `quorate local`; write s3 or pvc";
            self.hold(object, status, "Invalid", why).await?;
            return Ok(POLICY_MAX);
        }
        if let Some(missing) = self.missing_secret(object).await? {
            self.hold(object, status, "SecretMissing", &missing).await?;
            return Ok(AGAIN);
        }
        let origin = match self.origin(object) {
            Ok(origin) => origin,
            Err(why) => {
                self.hold(object, status, "NoSource", &why).await?;
                return Ok(AGAIN);
            }
        };
        self.create(object, Purpose::Take, &origin, attempt).await?;
        Ok(Duration::ZERO)
    }

    async fn create(
        &self,
        object: &EtcdBackup,
        purpose: Purpose,
        origin: &Origin,
        attempt: i32,
    ) -> Result<(), Failure> {
        let pod = pod::render(object, purpose, origin, attempt, &self.context.settings.operator_image);
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        if account == Some(pod::SERVICE_ACCOUNT) {
            self.ensure_account().await?;
        }
        match self.pods.create(&PostParams::default(), &pod).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The service account of backups that name none: without any permission, and without a token.
    async fn ensure_account(&self) -> Result<(), Failure> {
        let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), self.namespace);
        if api.get_opt(pod::SERVICE_ACCOUNT).await?.is_some() {
            return Ok(());
        }
        let mut account = ServiceAccount {
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        };
        account.metadata.name = Some(pod::SERVICE_ACCOUNT.into());
        account
            .labels_mut()
            .insert("app.kubernetes.io/managed-by".into(), "quorate".into());
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A Secret that the backup names and that is not there. Its content is never read here.
    async fn missing_secret(&self, object: &EtcdBackup) -> Result<Option<String>, Failure> {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.context.client.clone(), self.namespace);
        let named = mounts::secrets(&object.spec.destination)
            .into_iter()
            .map(|(field, name)| (format!("spec.destination.{field}"), name))
            .chain(
                object
                    .spec
                    .client_tls_secret_ref
                    .iter()
                    .map(|named| ("spec.clientTLSSecretRef".to_owned(), named.name.clone())),
            );
        for (field, name) in named {
            if api.get_opt(&name).await?.is_none() {
                return Ok(Some(format!(
                    "{field}: there is no Secret {name:?} in this namespace: create it"
                )));
            }
        }
        Ok(None)
    }

    /// Whom the backup is read from; or what is missing for that.
    fn origin(&self, object: &EtcdBackup) -> Result<Origin, String> {
        if let Some(endpoints) = &object.spec.endpoints {
            for endpoint in endpoints {
                address::check_host(address::host(endpoint)).map_err(|why| format!("spec.endpoints: {why}"))?;
            }
            return Ok(Origin {
                cluster: policy_of(object).unwrap_or_else(|| self.name.to_owned()),
                endpoints: endpoints.clone(),
                cluster_id: None,
                tls_secret: object
                    .spec
                    .client_tls_secret_ref
                    .as_ref()
                    .map(|named| named.name.clone()),
            });
        }
        let name = object
            .spec
            .cluster_ref
            .as_ref()
            .map(|to| to.name.clone())
            .unwrap_or_default();
        let key = Key {
            namespace: self.namespace.to_owned(),
            name: name.clone(),
        };
        let cluster = self
            .context
            .clusters
            .get(&key)
            .ok_or_else(|| format!("spec.clusterRef: there is no EtcdCluster {name:?} in this namespace"))?;
        let wanted: Wanted = convert::wanted(&cluster, &[], self.now()).map_err(|invalid| invalid.to_string())?;
        let names = Names::new(
            &wanted,
            cluster
                .spec
                .cluster_domain
                .as_deref()
                .unwrap_or(&self.context.settings.cluster_domain),
        );
        let scheme = if wanted.tls.client.is_some() { "https" } else { "http" };
        let status = cluster.status.clone().unwrap_or_default();
        let endpoints: Vec<String> = status
            .members
            .iter()
            .filter(|member| member.role == "Voter" && member.health == "Healthy")
            .map(|member| format!("{scheme}://{}:2379", names.member_host(&member.name)))
            .collect();
        if endpoints.is_empty() {
            return Err(format!("waits until a member of EtcdCluster {name} is healthy"));
        }
        Ok(Origin {
            cluster: name,
            endpoints,
            cluster_id: status.cluster_id,
            tls_secret: wanted.tls.client.is_some().then(|| names.client_secret()),
        })
    }

    /// Says in the status what the backup waits for.
    async fn hold(
        &self,
        object: &EtcdBackup,
        mut status: EtcdBackupStatus,
        reason: &str,
        why: &str,
    ) -> Result<(), Failure> {
        status.phase = Some("Pending".into());
        status.observed_generation = object.metadata.generation;
        status.message = Some(why.to_owned());
        let held = status.conditions.iter().find(|condition| condition.kind == "Ready");
        if held.is_none_or(|held| held.reason != reason || held.message != why) {
            status.conditions = vec![decide::condition(reason, why, self.now())];
        }
        if object.status.as_ref() != Some(&status) {
            let event = Event {
                normal: false,
                reason: reason.to_owned(),
                message: why.to_owned(),
            };
            self.context.events.tell(&object.object_ref(&()), &event).await;
        }
        self.put(object, status).await
    }

    /// Says in the status why what is stored cannot be removed.
    async fn complain(&self, object: &EtcdBackup, why: &str) -> Result<(), Failure> {
        let mut status = object.status.clone().unwrap_or_default();
        let text = format!("what is stored cannot be removed: {why}; tried again");
        if status.message.as_deref() == Some(&text) {
            return Ok(());
        }
        status.message = Some(text.clone());
        self.put(object, status).await?;
        let event = Event {
            normal: false,
            reason: "RemoveFailed".to_owned(),
            message: text,
        };
        self.context.events.tell(&object.object_ref(&()), &event).await;
        Ok(())
    }

    /// Writes a status, if it says anything new.
    async fn put(&self, object: &EtcdBackup, status: EtcdBackupStatus) -> Result<(), Failure> {
        if object.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut written = object.clone();
        written.status = Some(status);
        written.metadata.managed_fields = None;
        // The resource version in it makes the API server refuse what was decided on an older state.
        self.api
            .replace_status(self.name, &PostParams::default(), &written)
            .await?;
        Ok(())
    }

    async fn put_finalizers(&self, object: &EtcdBackup, finalizers: &[String]) -> Result<(), Failure> {
        let patch = json!({ "metadata": {
            "resourceVersion": object.resource_version(),
            "finalizers": finalizers,
        }});
        self.api
            .patch(self.name, &PatchParams::default(), &Patch::Merge(patch))
            .await?;
        Ok(())
    }

    /// Deletes a pod that was looked at, and no other.
    async fn delete(&self, pod: &Pod) -> Result<(), Failure> {
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: pod.resource_version(),
            }),
            ..DeleteParams::default()
        };
        match self.pods.delete(&pod.name_any(), &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What is stored is gone, or is to stay: the object may go.
    async fn let_go(&self, object: &EtcdBackup) -> Result<(), Failure> {
        if object.metadata.deletion_timestamp.is_none() {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: object.uid(),
                    resource_version: object.resource_version(),
                }),
                ..DeleteParams::default()
            };
            match self.api.delete(self.name, &parameters).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        let finalizers = object.finalizers();
        if finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            let left: Vec<String> = finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect();
            let patch = json!({ "metadata": { "finalizers": left } });
            match self
                .api
                .patch(self.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn tell_end(&self, object: &EtcdBackup, status: &EtcdBackupStatus) {
        let event = match (status.phase.as_deref(), &status.artifact) {
            (Some("Completed"), Some(artifact)) => Event {
                normal: true,
                reason: "BackupCompleted".to_owned(),
                message: format!(
                    "stored as {}, revision {}{}",
                    artifact.uri,
                    artifact.revision,
                    if status.verified.is_some() {
                        ", read back and verified"
                    } else {
                        ""
                    }
                ),
            },
            (phase, _) => Event {
                normal: false,
                reason: if phase == Some("Failed") {
                    "BackupFailed"
                } else {
                    "BackupRetried"
                }
                .to_owned(),
                message: status.message.clone().unwrap_or_default(),
            },
        };
        self.context.events.tell(&object.object_ref(&()), &event).await;
    }
}
