//! What to do next for one backup: from its object and its pod. Pure.
//!
//! Invariants:
//! 1. Never a second pod while the first may still run: two writers of one key could leave an artifact that is not what
//!    its manifest says.
//! 2. A try counts once: its pod is deleted only after the status tells how it ended, and a pod whose try is counted is
//!    nothing but rubbish.
//! 3. What is done (`Completed`, `Failed`) is never done again.

use super::pod::ATTEMPT;
use crate::api::EtcdBackup;
use crate::api::etcd_backup::{DeletionPolicy, EtcdBackupStatus};
use crate::api::schedule::{parse_rfc3339, rfc3339};
use crate::api::status::Condition;
use crate::backup::in_pod::{Outcome, key_of};
use crate::plan::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::time::Duration;

/// Keeps a backup whose `deletionPolicy` is `Delete` until its stored object is removed.
pub const FINALIZER: &str = "quorate.dev/stored-object";
/// Annotation: retention no longer keeps this backup; what is stored goes, and then the object.
pub const PRUNE: &str = "quorate.dev/prune";
/// Tries at a backup before it has failed for good.
const ATTEMPTS_MAX: i32 = 6;
/// The pause after the first failed try; it doubles with each.
const BACKOFF: Duration = Duration::from_secs(10);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A pod that did not start within this time beyond the backup's timeout is given up.
const START_MAX: Duration = Duration::from_secs(180);

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing, ever, unless it is deleted.
    Done,
    /// Nothing, until something changes or this long has passed.
    Wait(Duration),
    /// Add the finalizer, before anything is stored.
    Protect,
    /// Begin this try.
    Begin(i32),
    /// The pod runs: the status says so from now on.
    NoteRunning,
    /// A try ended so.
    Count(Box<Outcome>),
    /// Delete the pod, which is of no use any more.
    DeletePod,
    /// Begin this try at removing what is stored.
    Remove(i32),
    /// A try at removing ended badly: tell why.
    Complain(String),
    /// What is stored is gone (or is to stay): let the object go.
    LetGo,
}

/// What is known about a pod of the backup.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// There is none.
    None,
    /// This one.
    Pod(&'a Pod),
}

/// True when what is stored is to be removed.
fn removing(object: &EtcdBackup) -> bool {
    let pruned = object.annotations().contains_key(PRUNE);
    let deleted = object.metadata.deletion_timestamp.is_some();
    pruned || (deleted && object.spec.deletion_policy == DeletionPolicy::Delete)
}

/// True when a backup asks for no work at all: no worker is needed for it.
pub fn idle(object: &EtcdBackup) -> bool {
    ended(object) && object.metadata.deletion_timestamp.is_none() && !object.annotations().contains_key(PRUNE)
}

fn ended(object: &EtcdBackup) -> bool {
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Completed" | "Failed"))
}

/// Decides. `take` and `remove` are the pods of the two purposes, as they are at this moment.
pub fn decide(object: &EtcdBackup, take: Found<'_>, remove: Found<'_>, now: Timestamp) -> Next {
    if removing(object) {
        return decide_removal(object, take, remove, now);
    }
    if object.metadata.deletion_timestamp.is_some() {
        // Retain: the pod goes with its owner.
        return Next::LetGo;
    }
    let status = object.status.clone().unwrap_or_default();
    let counted = status.failures;
    if ended(object) {
        return match take {
            Found::Pod(_) => Next::DeletePod,
            Found::None => Next::Done,
        };
    }
    if object.spec.deletion_policy == DeletionPolicy::Delete && !object.finalizers().iter().any(|f| f == FINALIZER) {
        return Next::Protect;
    }
    match take {
        Found::Pod(pod) => decide_try(object, &status, pod, now),
        Found::None if status.phase.as_deref() == Some("Running") => {
            Next::Count(Box::new(killed("its pod was deleted")))
        }
        Found::None => match pause(&status, now) {
            Some(left) => Next::Wait(left),
            None => Next::Begin(counted + 1),
        },
    }
}

/// What the pod of a try tells.
fn decide_try(object: &EtcdBackup, status: &EtcdBackupStatus, pod: &Pod, now: Timestamp) -> Next {
    if attempt(pod) <= status.failures {
        return match pod.metadata.deletion_timestamp {
            // The kubelet confirms that nothing runs any more.
            Some(_) => Next::Wait(Duration::from_secs(10)),
            None => Next::DeletePod,
        };
    }
    if let Some(outcome) = outcome(pod) {
        return Next::Count(Box::new(outcome));
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let age = now.since(created(pod).unwrap_or(now));
    let timeout = object.spec.timeout.get().unwrap_or(Duration::from_secs(900));
    if phase != Some("Running") && age > timeout + START_MAX {
        return Next::Count(Box::new(killed(&format!("its pod did not start: {}", waiting(pod)))));
    }
    if status.phase.as_deref() != Some("Running") {
        return Next::NoteRunning;
    }
    // An end is an event; this is for a node that will never tell of one.
    Next::Wait(Duration::from_secs(60))
}

fn decide_removal(object: &EtcdBackup, take: Found<'_>, remove: Found<'_>, now: Timestamp) -> Next {
    if let Found::Pod(pod) = take {
        // What is being written now would be written after it was removed.
        return match pod.metadata.deletion_timestamp {
            Some(_) => Next::Wait(Duration::from_secs(10)),
            None => Next::DeletePod,
        };
    }
    if key_of(object).is_none() {
        return Next::LetGo;
    }
    let Found::Pod(pod) = remove else {
        return Next::Remove(1);
    };
    match outcome(pod) {
        Some(outcome) if outcome.status.phase.is_none() => Next::LetGo,
        Some(outcome) => {
            let tries = attempt(pod);
            let rested = now.since(created(pod).unwrap_or(now)) > backoff(tries);
            match (rested, pod.metadata.deletion_timestamp.is_some()) {
                (_, true) => Next::Wait(Duration::from_secs(5)),
                (true, false) => Next::DeletePod,
                (false, false) => Next::Complain(outcome.status.message.unwrap_or_default()),
            }
        }
        None => Next::Wait(Duration::from_secs(60)),
    }
}

/// Which try a pod is.
fn attempt(pod: &Pod) -> i32 {
    pod.annotations()
        .get(ATTEMPT)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn created(pod: &Pod) -> Option<Timestamp> {
    let moment = pod.metadata.creation_timestamp.as_ref()?;
    parse_rfc3339(&moment.0.to_string())
}

fn backoff(failures: i32) -> Duration {
    let doublings = u32::try_from(failures.max(1) - 1).unwrap_or(0).min(10);
    (BACKOFF * 2u32.pow(doublings)).min(BACKOFF_MAX)
}

/// What is left of the pause after the last failed try.
fn pause(status: &EtcdBackupStatus, now: Timestamp) -> Option<Duration> {
    let retrying = status
        .conditions
        .iter()
        .find(|condition| condition.reason == "Retrying")?;
    let failed_at = parse_rfc3339(&retrying.last_transition_time)?;
    let pause = backoff(status.failures);
    let gone = now.since(failed_at);
    (gone < pause).then(|| pause - gone)
}

/// How the pod ended, if it has.
fn outcome(pod: &Pod) -> Option<Outcome> {
    let status = pod.status.as_ref()?;
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let container = status.container_statuses.iter().flatten().next();
    let terminated = container
        .and_then(|container| container.state.as_ref())
        .and_then(|state| state.terminated.as_ref());
    if !ended && terminated.is_none() {
        return None;
    }
    if let Some(outcome) = terminated
        .and_then(|terminated| terminated.message.as_deref())
        .and_then(Outcome::parse)
    {
        return Some(outcome);
    }
    let why = match (status.reason.as_deref(), terminated) {
        (Some("DeadlineExceeded"), _) => "it was not done in time and its pod was ended; raise spec.timeout".to_owned(),
        (Some(reason), _) => format!(
            "its pod was ended ({reason}: {})",
            status.message.as_deref().unwrap_or_default()
        ),
        (None, Some(end)) if end.reason.as_deref() == Some("OOMKilled") => {
            "its pod was killed because it used more memory than spec.resources allows".to_owned()
        }
        (None, Some(end)) => {
            let said = end.message.as_deref().unwrap_or_default().trim();
            let said = said.lines().last().unwrap_or_default();
            format!("its pod ended with code {} and no result: {said}", end.exit_code)
        }
        (None, None) => "its pod ended and left no result".to_owned(),
    };
    Some(killed(&why))
}

/// A try that ended without a word.
fn killed(why: &str) -> Outcome {
    let status = EtcdBackupStatus {
        phase: Some("Failed".into()),
        message: Some(why.to_owned()),
        ..EtcdBackupStatus::default()
    };
    Outcome { status, may_pass: true }
}

/// What a pod that does not start waits for.
fn waiting(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let container = status.and_then(|status| status.container_statuses.iter().flatten().next());
    let state = container.and_then(|container| container.state.as_ref());
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        return format!("{reason} {}", waiting.message.as_deref().unwrap_or_default());
    }
    let scheduled = status
        .and_then(|status| status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled"))
        .filter(|condition| condition.status == "False");
    match scheduled {
        Some(condition) => condition.message.clone().unwrap_or_default(),
        None => "see its events".to_owned(),
    }
}

/// The status after a try, and the word for it: `completed`, `retried` or `failed`.
pub fn counted(before: &EtcdBackupStatus, outcome: &Outcome, now: Timestamp) -> (EtcdBackupStatus, &'static str) {
    let mut status = outcome.status.clone();
    status.started_at = status.started_at.or_else(|| before.started_at.clone());
    if status.phase.as_deref() == Some("Completed") {
        status.failures = 0;
        return (status, "completed");
    }
    status.failures = before.failures + 1;
    let why = status.message.clone().unwrap_or_default();
    if outcome.may_pass && status.failures < ATTEMPTS_MAX {
        let pause = backoff(status.failures);
        let text = format!(
            "try {} failed: {why}; tried again in {} s",
            status.failures,
            pause.as_secs()
        );
        status.phase = Some("Pending".into());
        status.completed_at = None;
        status.conditions = vec![condition("Retrying", &text, now)];
        status.message = Some(text);
        return (status, "retried");
    }
    status.phase = Some("Failed".into());
    status.completed_at = Some(rfc3339(now));
    status.conditions = vec![condition("Failed", &why, now)];
    (status, "failed")
}

/// `Ready` is `False`, and why.
pub fn condition(reason: &str, message: &str, now: Timestamp) -> Condition {
    Condition {
        kind: "Ready".into(),
        status: "False".into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: rfc3339(now),
        observed_generation: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn backup(more: &str, status: &str) -> EtcdBackup {
        let spec = format!("{{clusterRef: {{name: db}}, destination: {{s3: {{bucket: abc}}}}{more}}}");
        let mut object = EtcdBackup::new("b", serde_yaml::from_str(&spec).unwrap());
        object.status = (!status.is_empty()).then(|| serde_yaml::from_str(status).unwrap());
        object
    }

    fn pod(attempt: i32, status: &str) -> Pod {
        let mut pod = Pod {
            status: Some(serde_yaml::from_str(status).unwrap()),
            ..Pod::default()
        };
        pod.annotations_mut().insert(ATTEMPT.into(), attempt.to_string());
        pod.metadata.creation_timestamp = Some(Time(rfc3339(NOW).parse().unwrap()));
        pod
    }

    fn take(object: &EtcdBackup, pod: Option<&Pod>, now: Timestamp) -> Next {
        decide(object, pod.map_or(Found::None, Found::Pod), Found::None, now)
    }

    #[test]
    fn a_backup_is_begun_noted_and_counted_once() {
        let fresh = backup("", "");
        assert_eq!(take(&fresh, None, NOW), Next::Begin(1));
        let runs = pod(1, "{phase: Running}");
        assert_eq!(take(&fresh, Some(&runs), NOW), Next::NoteRunning);
        let noted = backup("", "{phase: Running}");
        assert!(matches!(take(&noted, Some(&runs), NOW), Next::Wait(_)));
        let report = r#"{phase: Succeeded, containerStatuses: [{name: backup, image: i, imageID: i, ready: false,
            restartCount: 0, state: {terminated: {exitCode: 0, message: '{"status":{"phase":"Completed"}}'}}}]}"#;
        let done = pod(1, report);
        let Next::Count(outcome) = take(&noted, Some(&done), NOW) else {
            panic!("a pod that ended is counted");
        };
        let (status, word) = counted(&noted.status.clone().unwrap(), &outcome, NOW);
        assert_eq!((status.phase.as_deref(), word), (Some("Completed"), "completed"));
        let completed = backup("", "{phase: Completed}");
        assert_eq!(take(&completed, Some(&done), NOW), Next::DeletePod);
        assert_eq!(take(&completed, None, NOW), Next::Done);
        assert!(idle(&completed));
    }

    #[test]
    fn a_pod_that_was_killed_or_deleted_is_a_failed_try_and_the_next_waits() {
        let noted = backup("", "{phase: Running}");
        let Next::Count(outcome) = take(&noted, None, NOW) else {
            panic!("a pod that vanished is a failed try");
        };
        let (status, word) = counted(&noted.status.clone().unwrap(), &outcome, NOW);
        assert_eq!(
            (word, status.failures, status.phase.as_deref()),
            ("retried", 1, Some("Pending"))
        );
        let mut object = backup("", "");
        object.status = Some(status);
        assert_eq!(take(&object, None, NOW), Next::Wait(BACKOFF));
        assert_eq!(take(&object, None, NOW.plus(BACKOFF)), Next::Begin(2));
        // The pod of the counted try may still be there: it goes first, and nothing runs beside it.
        let old = pod(1, "{phase: Failed, reason: Evicted}");
        assert_eq!(take(&object, Some(&old), NOW.plus(BACKOFF)), Next::DeletePod);
        let mut going = old.clone();
        going.metadata.deletion_timestamp = Some(Time(rfc3339(NOW).parse().unwrap()));
        assert!(matches!(take(&object, Some(&going), NOW.plus(BACKOFF)), Next::Wait(_)));
    }

    #[test]
    fn what_only_a_human_can_cure_fails_at_once_and_the_rest_after_enough_tries() {
        let mut outcome = killed("the bucket is not there");
        outcome.may_pass = false;
        let before = EtcdBackupStatus::default();
        assert_eq!(counted(&before, &outcome, NOW).1, "failed");
        let mut status = before;
        let mut words = Vec::new();
        for _ in 0..ATTEMPTS_MAX {
            let (next, word) = counted(&status, &killed("away"), NOW);
            status = next;
            words.push(word);
        }
        assert_eq!(words.last(), Some(&"failed"));
        assert_eq!(words.iter().filter(|word| **word == "retried").count(), 5);
    }

    #[test]
    fn a_pod_that_never_starts_is_given_up_with_its_reason() {
        let fresh = backup(", timeout: 1m", "{phase: Running}");
        let stuck = pod(
            1,
            "{phase: Pending, containerStatuses: [{name: backup, image: i, imageID: '', ready: false, restartCount: 0, \
             state: {waiting: {reason: ImagePullBackOff, message: no such image}}}]}",
        );
        assert!(matches!(take(&fresh, Some(&stuck), NOW), Next::Wait(_)));
        let Next::Count(outcome) = take(&fresh, Some(&stuck), NOW.plus(Duration::from_secs(300))) else {
            panic!("it is given up");
        };
        assert!(
            outcome
                .status
                .message
                .unwrap()
                .contains("ImagePullBackOff no such image")
        );
    }

    #[test]
    fn with_deletion_policy_delete_nothing_is_stored_without_the_finalizer_nor_let_go_with_the_object_still_there() {
        let mut object = backup(", deletionPolicy: Delete", "");
        assert_eq!(take(&object, None, NOW), Next::Protect);
        object.metadata.finalizers = Some(vec![FINALIZER.into()]);
        assert_eq!(take(&object, None, NOW), Next::Begin(1));
        let stored = "{phase: Completed, artifact: {uri: u, sizeBytes: 1, checksum: c, revision: 1, store: {key: k}}}";
        object.status = Some(serde_yaml::from_str(stored).unwrap());
        object.metadata.deletion_timestamp = Some(Time(rfc3339(NOW).parse().unwrap()));
        let remove = |pod: &Pod| decide(&object, Found::None, Found::Pod(pod), NOW);
        assert_eq!(decide(&object, Found::None, Found::None, NOW), Next::Remove(1));
        let report = |message: &str| {
            let terminated = format!("{{terminated: {{exitCode: 0, message: '{message}'}}}}");
            let container = "name: backup, image: i, imageID: i, ready: false, restartCount: 0";
            pod(
                1,
                &format!("{{phase: Succeeded, containerStatuses: [{{{container}, state: {terminated}}}]}}"),
            )
        };
        assert_eq!(remove(&report(r#"{"status":{}}"#)), Next::LetGo);
        let failed = report(r#"{"status":{"phase":"Failed","message":"AccessDenied"}}"#);
        assert_eq!(remove(&failed), Next::Complain("AccessDenied".into()));
        // With Retain, an object that is deleted goes, and what is stored stays.
        let mut kept = backup("", stored);
        kept.metadata.deletion_timestamp = Some(Time(rfc3339(NOW).parse().unwrap()));
        assert_eq!(take(&kept, None, NOW), Next::LetGo);
        kept.metadata.deletion_timestamp = None;
        kept.annotations_mut().insert(PRUNE.into(), "true".into());
        assert_eq!(
            take(&kept, None, NOW),
            Next::Remove(1),
            "what retention gives up is removed all the same"
        );
    }
}
