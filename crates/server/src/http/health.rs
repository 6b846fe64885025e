//! `/health`, `/livez` and `/readyz` (etcd server/etcdserver/api/etcdhttp/health.go).
//!
//! Invariants: a probe never writes, and a check that cannot be answered counts as failed, within the request timeout.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use proto::etcdserverpb::AlarmType;

use super::{Answer, error, only_get, plain, query_values};
use crate::member::Member;

/// One check of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, member: &Member) -> Result<(), String> {
        match self {
            Check::DataCorruption => match member.alarms().iter().any(|alarm| alarm.alarm() == AlarmType::Corrupt) {
                true => Err("alarm activated: CORRUPT".into()),
                false => Ok(()),
            },
            Check::SerializableRead => read(member, true).await,
            Check::LinearizableRead => read(member, false).await,
            Check::NonLearner => match member.is_learner() {
                true => Err("not supported for learner".into()),
                false => Ok(()),
            },
        }
    }
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
];

/// Reads one key, as a client would.
async fn read(member: &Member, serializable: bool) -> Result<(), String> {
    member.can_read(serializable).await.map_err(|error| error.to_string())
}

/// `GET /health`.
pub(super) async fn health(member: &Member, method: &Method, query: &str) -> Answer {
    if let Some(refusal) = only_get(method) {
        return refusal;
    }
    let excluded = query_values(query, "exclude");
    let serializable = query_values(query, "serializable")
        .first()
        .is_some_and(|value| value == "true");
    match reason_unhealthy(member, &excluded, serializable).await {
        None => {
            member.metrics.health_success.inc();
            plain(r#"{"health":"true","reason":""}"#)
        }
        Some(reason) => {
            member.metrics.health_failures.inc();
            let body = format!(r#"{{"health":"false","reason":{}}}"#, serde_json::Value::from(reason));
            tracing::warn!(output = body, "/health error");
            error(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

async fn reason_unhealthy(member: &Member, excluded: &[String], serializable: bool) -> Option<String> {
    for alarm in member.alarms() {
        let name = alarm.alarm().as_str_name();
        if !excluded.iter().any(|excluded| excluded == name) {
            return Some(match alarm.alarm() {
                AlarmType::Nospace | AlarmType::Corrupt => format!("ALARM {name}"),
                AlarmType::None => "ALARM UNKNOWN".into(),
            });
        }
    }
    if !serializable && member.leader() == 0 {
        return Some("RAFT NO LEADER".into());
    }
    read(member, serializable)
        .await
        .err()
        .map(|error| format!("RANGE ERROR:{error}"))
}

/// `GET /livez`, `/readyz` and their single checks; `None` when the path is neither.
pub(super) async fn check(member: &Member, method: &Method, path: &str, query: &str) -> Option<Answer> {
    let (kind, rest) = match path.strip_prefix('/')?.split_once('/') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (&path[1..], None),
    };
    let (kind, all) = match kind {
        "livez" => ("livez", LIVEZ),
        "readyz" => ("readyz", READYZ),
        _ => return None,
    };
    let chosen: Vec<Check> = match rest {
        Some(name) => vec![*all.iter().find(|check| check.name() == name)?],
        None => {
            let excluded: BTreeSet<String> = query_values(query, "exclude").into_iter().collect();
            all.iter()
                .copied()
                .filter(|check| !excluded.contains(check.name()))
                .collect()
        }
    };
    if let Some(refusal) = only_get(method) {
        return Some(refusal);
    }
    let mut reason = String::new();
    let mut failed = false;
    for check in chosen {
        let result = check.run(member).await;
        let (status, line) = match &result {
            Ok(()) => ("success", format!("[+]{} ok\n", check.name())),
            Err(why) => ("error", format!("[-]{} failed: {why}\n", check.name())),
        };
        reason.push_str(&line);
        failed |= result.is_err();
        member
            .metrics
            .health_check
            .with(&[kind, check.name()])
            .set(i64::from(result.is_ok()));
        member.metrics.health_checks.with(&[kind, check.name(), status]).inc();
    }
    if failed {
        tracing::error!(path, reason, "Health check error");
        return Some(error(StatusCode::SERVICE_UNAVAILABLE, &reason));
    }
    let verbose = !query_values(query, "verbose").is_empty();
    let mut answer = plain(if verbose {
        format!("{reason}ok\n")
    } else {
        "ok\n".to_owned()
    });
    answer
        .headers_mut()
        .insert(super::NOSNIFF, http::HeaderValue::from_static("nosniff"));
    Some(answer)
}
