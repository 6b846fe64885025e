//! One round for one cluster: observe -> plan -> persist -> publish -> ensure -> begin what is due -> carry out one step.
//!
//! Invariants:
//! 1. The journal is persisted before the step that it speaks of is carried out.
//! 2. A failure of one part never hides the others: what is due begins, and status is published, also while a step
//!    or a certificate fails.
//! 3. Nothing is decided here.

use crate::member::usage::Usage;
use crate::plan::observed::AlarmKind;
use crate::plan::{Due, Ensure, Next, Reason, Step, Wanted, backup, plan};
use crate::platform::{Error, Event, Platform};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinHandle;

/// While something is under way or was just done, the cluster is looked at again this soon.
const SOON: Duration = Duration::from_millis(300);
/// A cluster in order is looked at again this soon at the latest: what a look costs is a few small requests.
const CALM: Duration = Duration::from_secs(1);

/// What a round did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The step that was carried out, and how it went.
    pub step: Option<(String, Result<(), String>)>,
    /// The cluster is as wanted.
    pub settled: bool,
    /// Its owner let it go: there is nothing more to do for it.
    pub released: bool,
    /// Look again after this long at the latest.
    pub recheck: Duration,
}

/// What was told already, so that a wait of an hour is one event and not thousands.
#[derive(Debug, Default)]
pub struct Told {
    blocked: Option<String>,
    failed: Option<String>,
    complaints: BTreeSet<String>,
    space: Space,
}

/// What is told about a database that is full: once for each time that it is.
#[derive(Debug, Default)]
enum Space {
    /// There is room.
    #[default]
    Enough,
    /// It is being found out what fills it.
    Measuring(JoinHandle<Option<Usage>>),
    /// It was told, or could not be.
    Told,
}

/// Does one round.
pub async fn round<P: Platform>(platform: &mut P, wanted: &Wanted, told: &mut Told) -> Result<Round, Error> {
    let observed = platform.observe(wanted).await?;
    let plan = plan(wanted, &observed, platform.now());
    platform.persist(&plan.journal).await?;
    platform.publish(wanted, &plan).await?;

    let mut complaints: BTreeSet<String> = observed.complaints.iter().cloned().collect();
    let mut certified = true;
    for ensure in &plan.ensure {
        if let Err(error) = platform.ensure(wanted, ensure).await {
            certified &= !matches!(ensure, Ensure::Certificates { .. });
            complaints.insert(format!("cannot keep {} in place: {error}", ensure_word(ensure)));
        }
    }
    for due in &plan.due {
        if let Err(error) = platform.begin(wanted, due).await {
            complaints.insert(format!("cannot begin {}: {error}", due_word(due)));
        }
    }
    told.complain(platform, complaints).await;
    told.space(platform, &plan.next).await;

    match &plan.next {
        Next::Settled => {
            told.blocked(platform, None).await;
            Ok(Round {
                step: None,
                settled: true,
                released: false,
                recheck: CALM,
            })
        }
        Next::Wait { why, recheck } => {
            told.blocked(platform, Some(why).filter(|why| why.name() == "StepFailed"))
                .await;
            Ok(Round {
                step: None,
                settled: false,
                released: false,
                recheck: (*recheck).min(CALM).max(SOON),
            })
        }
        Next::Blocked { why } => {
            told.blocked(platform, Some(why)).await;
            Ok(Round {
                step: None,
                settled: false,
                released: false,
                recheck: CALM,
            })
        }
        // Without certificates a process would not start; the next round tries them again first.
        Next::Take {
            step: Step::StartMember { .. },
            ..
        } if !certified => Ok(Round {
            step: None,
            settled: false,
            released: false,
            recheck: CALM,
        }),
        Next::Take { step, why } => {
            let result = platform.carry_out(wanted, step).await;
            let mut journal = plan.journal.clone();
            let now = platform.now();
            match &result {
                Ok(()) => {
                    journal.note_done(step, now);
                    told.failed = None;
                    told.blocked = None;
                    let message = format!("{step}: {why}");
                    platform
                        .tell(&Event {
                            normal: !matches!(why, Reason::ProcessDied { .. } | Reason::Replace { .. }),
                            reason: step.kind().to_owned(),
                            message,
                        })
                        .await;
                }
                Err(error) => {
                    journal.note_failed(step, &error.to_string(), now);
                    let message = format!("could not {step}: {error}");
                    if told.failed.as_ref() != Some(&message) {
                        platform
                            .tell(&Event {
                                normal: false,
                                reason: step.kind().to_owned(),
                                message: message.clone(),
                            })
                            .await;
                    }
                    told.failed = Some(message);
                }
            }
            let released = matches!(step, Step::Release { .. }) && result.is_ok();
            if !released {
                platform.persist(&journal).await?;
            }
            // After a success look at once: the plan goes on from what is there now.
            let recheck = if result.is_ok() { Duration::ZERO } else { SOON };
            let step = Some((step.to_string(), result.map_err(|error| error.to_string())));
            Ok(Round {
                step,
                settled: false,
                released,
                recheck,
            })
        }
    }
}

impl Told {
    async fn blocked<P: Platform>(&mut self, platform: &mut P, why: Option<&Reason>) {
        let identity = why.map(Reason::identity);
        if self.blocked != identity
            && let Some(why) = why
        {
            platform
                .tell(&Event {
                    normal: false,
                    reason: "Blocked".to_owned(),
                    message: format!("{}: {why}", why.name()),
                })
                .await;
        }
        self.blocked = identity;
    }

    /// While the quota is exceeded, says what fills the database. Reading it takes its time, and the cure does not wait.
    async fn space<P: Platform>(&mut self, platform: &mut P, next: &Next) {
        if !out_of_space(next) {
            // What is under way is still told: the cure may be quicker than the reading.
            if matches!(self.space, Space::Told) {
                self.space = Space::Enough;
            }
        } else if matches!(self.space, Space::Enough) {
            self.space = platform.measure().map_or(Space::Told, Space::Measuring);
        }
        if let Space::Measuring(reading) = &mut self.space
            && reading.is_finished()
        {
            let found = reading.await.ok().flatten();
            self.space = Space::Told;
            if let Some(usage) = found {
                platform
                    .tell(&Event {
                        normal: false,
                        reason: "SpaceUsed".to_owned(),
                        message: usage.sentence(),
                    })
                    .await;
            }
        }
    }

    async fn complain<P: Platform>(&mut self, platform: &mut P, complaints: BTreeSet<String>) {
        for message in complaints.difference(&self.complaints) {
            let event = Event {
                normal: false,
                reason: "Platform".to_owned(),
                message: message.clone(),
            };
            platform.tell(&event).await;
        }
        self.complaints = complaints;
    }
}

fn out_of_space(next: &Next) -> bool {
    let mut why = match next {
        Next::Settled => return false,
        Next::Take { why, .. } | Next::Wait { why, .. } | Next::Blocked { why } => why,
    };
    while let Reason::StepFailed { goal, .. } | Reason::LeaderFirst { goal, .. } = why {
        why = goal;
    }
    matches!(
        why,
        Reason::NoSpace
            | Reason::NoSpaceStillFull { .. }
            | Reason::AlarmReported {
                kind: AlarmKind::NoSpace,
                ..
            }
    )
}

fn ensure_word(ensure: &Ensure) -> &'static str {
    match ensure {
        Ensure::Certificates { .. } => "certificates",
        Ensure::UnboundVolumes => "volumes",
        Ensure::PeerService => "the Service of the peers",
        Ensure::ClientService(_) => "the Service of the clients",
        Ensure::DisruptionBudget { .. } | Ensure::NoDisruptionBudget => "the disruption budget",
        Ensure::NetworkPolicy | Ensure::NoNetworkPolicy => "the network policy",
    }
}

fn due_word(due: &Due) -> String {
    match due {
        Due::Backup(backup::Action::Create { name, .. }) => format!("backup {name}"),
        Due::Backup(backup::Action::Prune { name }) => format!("deleting backup {name}"),
        Due::PurgeVolume { name, .. } => format!("deleting the retired volume of {name}"),
    }
}
