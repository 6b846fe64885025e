//! A plan in words, for `quorate plan`.

use super::{Due, Ensure, Next, Plan, backup};

/// The plan as a short text: what is done next and why, what is due beside it, what is kept in place.
pub fn explain(plan: &Plan) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| text.push_str(&format!("{key:<9} {value}\n"));
    line("phase:", &plan.status.phase);
    match &plan.next {
        Next::Settled => line("next:", "nothing, the cluster is as wanted"),
        Next::Take { step, why } => {
            line("next:", &step.to_string());
            line("because:", &format!("{why} [{}]", why.name()));
        }
        Next::Wait { why, recheck } => {
            line("next:", &format!("wait, look again within {} s", recheck.as_secs_f32()));
            line("because:", &format!("{why} [{}]", why.name()));
        }
        Next::Blocked { why } => {
            line("next:", "nothing until a human acts");
            line("because:", &format!("{why} [{}]", why.name()));
        }
    }
    for due in &plan.due {
        match due {
            Due::Backup(backup::Action::Create { policy, name, .. }) => {
                line("due:", &format!("take backup {name} of policy {policy}"));
            }
            Due::Backup(backup::Action::Prune { name }) => {
                line(
                    "due:",
                    &format!("delete backup {name}, which retention no longer keeps"),
                );
            }
            Due::PurgeVolume { name, .. } => line("due:", &format!("delete the retired volume of {name}")),
        }
    }
    for ensure in &plan.ensure {
        match ensure {
            Ensure::Certificates { members, .. } => {
                line(
                    "ensures:",
                    &format!(
                        "certificates for {}",
                        if members.is_empty() {
                            "clients".into()
                        } else {
                            members.join(", ")
                        }
                    ),
                );
            }
            Ensure::PeerService => line("ensures:", "a Service under which members find each other"),
            Ensure::ClientService(service) => line("ensures:", &format!("a Service for clients ({})", service.kind)),
            Ensure::DisruptionBudget { max_unavailable, .. } => {
                line("ensures:", &format!("at most {max_unavailable} voters evicted at once"));
            }
            Ensure::NetworkPolicy => line("ensures:", "network policies"),
            Ensure::UnboundVolumes | Ensure::NoDisruptionBudget | Ensure::NoNetworkPolicy => {}
        }
    }
    for member in &plan.status.members {
        let leader = if member.leader { ", leader" } else { "" };
        let why = if member.why.is_empty() {
            String::new()
        } else {
            format!(" ({})", member.why)
        };
        line(
            "member:",
            &format!(
                "{} {}{leader} {:?}{why}",
                member.name,
                member.role.to_lowercase(),
                member.health
            ),
        );
    }
    text
}
