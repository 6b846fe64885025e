//! Asks the operator for something that it does not do by itself, by an annotation of the EtcdCluster. The planner decides
//! when it is safe; what is in its way stands in the status.
//!
//! Invariants:
//! 1. Nothing but the annotation is written.
//! 2. What cannot be meant (a member that does not exist) is refused here, before anything is written.

use super::follow::{Patience, follow, settled};
use super::table;
use super::target::{Known, Target};
use super::{Format, Place};
use crate::api::EtcdCluster;
use crate::api::convert::{DEFRAG_ANNOTATION, MOVE_LEADER_ANNOTATION, REPLACE_ANNOTATION};
use crate::platform::local::lock;
use crate::platform::local::records::Layout;
use crate::platform::local::up;
use anyhow::{Context, bail};
use clap::Args;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde_json::json;

/// Asks for something of a whole cluster.
#[derive(Debug, Clone, Args)]
pub struct Request {
    /// The cluster; may be left out when there is one only.
    pub cluster: Option<String>,
    /// How long to follow it.
    #[command(flatten)]
    pub patience: Patience,
}

/// Asks for another leader.
#[derive(Debug, Clone, Args)]
pub struct MoveLeader {
    /// Whom; any other healthy voter when absent.
    #[arg(long)]
    pub to: Option<String>,
    /// Of which cluster.
    #[command(flatten)]
    pub request: Request,
}

/// Asks for a member to be replaced.
#[derive(Debug, Clone, Args)]
pub struct Replace {
    /// The member.
    #[arg(long)]
    pub member: String,
    /// Of which cluster.
    #[command(flatten)]
    pub request: Request,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    cluster: String,
    annotation: &'static str,
    value: String,
    done: bool,
    members: Vec<String>,
    leader: Option<String>,
}

pub(super) async fn defrag(place: &Place, request: &Request, output: Format) -> anyhow::Result<()> {
    let (target, known) = open(place, request).await?;
    let since = token();
    let done = |known: &Known| settled(known) && known.status.last_defrag.as_ref().is_some_and(|at| *at >= since);
    asked(
        &target,
        &known,
        request,
        output,
        (DEFRAG_ANNOTATION, since.clone()),
        done,
    )
    .await
}

pub(super) async fn move_leader(place: &Place, asks: &MoveLeader, output: Format) -> anyhow::Result<()> {
    let (target, known) = open(place, &asks.request).await?;
    let voters = known.status.members.iter().filter(|member| member.role == "Voter");
    let to = match &asks.to {
        Some(name) => {
            let names: Vec<&str> = voters.map(|member| member.name.as_str()).collect();
            if !names.contains(&name.as_str()) {
                bail!(
                    "--to {name} is no voter of {}; these are: {}",
                    known.name,
                    names.join(", ")
                );
            }
            name.clone()
        }
        None => voters
            .filter(|member| !member.leader && member.health == "Healthy")
            .min_by_key(|member| (member.raft_index_lag, member.name.clone()))
            .map(|member| member.name.clone())
            .context("no other voter is healthy")?,
    };
    let value = format!("{to} {}", token());
    let done = |known: &Known| settled(known) && known.status.leader.as_ref() == Some(&to);
    asked(
        &target,
        &known,
        &asks.request,
        output,
        (MOVE_LEADER_ANNOTATION, value),
        done,
    )
    .await
}

pub(super) async fn replace(place: &Place, asks: &Replace, output: Format) -> anyhow::Result<()> {
    let (target, known) = open(place, &asks.request).await?;
    let names: Vec<&str> = known.status.members.iter().map(|member| member.name.as_str()).collect();
    let member = &asks.member;
    if !names.contains(&member.as_str()) {
        bail!(
            "--member {member} is no member of {}; these are: {}",
            known.name,
            names.join(", ")
        );
    }
    let gone = |known: &Known| known.status.members.iter().all(|listed| listed.name != *member);
    let done = |known: &Known| settled(known) && gone(known);
    asked(
        &target,
        &known,
        &asks.request,
        output,
        (REPLACE_ANNOTATION, member.clone()),
        done,
    )
    .await
}

async fn open(place: &Place, request: &Request) -> anyhow::Result<(Target, Known)> {
    let target = Target::open(place).await?;
    if let Target::Directory(directory) = &target
        && lock::holder(directory).is_none()
    {
        bail!(
            "no operator manages {}: start `quorate local up` first",
            directory.display()
        );
    }
    let known = target.one(request.cluster.as_deref()).await?;
    Ok((target, known))
}

/// The moment, as a value that was never used before.
fn token() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn asked(
    target: &Target,
    known: &Known,
    request: &Request,
    output: Format,
    (annotation, value): (&'static str, String),
    done: impl Fn(&Known) -> bool,
) -> anyhow::Result<()> {
    match target {
        Target::Kubernetes { client, namespace, .. } => {
            let api: Api<EtcdCluster> = Api::namespaced(client.clone(), namespace);
            let patch = json!({ "metadata": { "annotations": { annotation: value } } });
            api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .with_context(|| format!("annotating EtcdCluster {}", known.name))?;
        }
        Target::Directory(directory) => up::request(&Layout::new(directory, &known.name), annotation, &value)?,
        Target::Endpoints { .. } => bail!("there is no EtcdCluster at --endpoints"),
    }
    eprintln!("{}: asked for {annotation}={value}", known.name);
    let (known, met) = match request.patience.no_wait {
        true => (known.clone(), false),
        false => (follow(target, &known.name, &request.patience, done).await?, true),
    };
    let outcome = Outcome {
        annotation,
        value,
        done: met,
        members: known.status.members.iter().map(|member| member.name.clone()).collect(),
        leader: known.status.leader.clone(),
        cluster: known.name,
    };
    table::print(&outcome, output, |_| match outcome.done {
        true => format!(
            "{}: done; members {}, leader {}\n",
            outcome.cluster,
            outcome.members.join(", "),
            outcome.leader.as_deref().unwrap_or("none")
        ),
        false => format!(
            "{}: asked for; kubectl quorate explain tells how it goes\n",
            outcome.cluster
        ),
    })
}
