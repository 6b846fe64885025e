//! The scripts of etcd raft's `quorum/testdata`. Each case is also computed in other ways that must not differ; where
//! they do, the difference is printed and so fails the comparison.

use std::collections::BTreeMap;

use raft::quorum::{Index, JointConfig, MajorityConfig};

use crate::datadriven::Directive;

/// Assigns what a script says of each voter, in the order in which the voters are named. `_` stands for nothing.
fn assign<'a>(ids: &[u64], words: &'a [String]) -> BTreeMap<u64, Option<&'a str>> {
    let mut assigned = BTreeMap::new();
    let mut words = words.iter();
    for &id in ids {
        assigned
            .entry(id)
            .or_insert_with(|| words.next().map(String::as_str).filter(|&word| word != "_"));
    }
    assigned
}

pub fn handle(d: &Directive) -> String {
    let ids = |key: &str| -> Vec<u64> {
        let values = d.values(key).unwrap_or_default().iter();
        values
            .filter(|&value| value != "zero" && !value.is_empty())
            .map(|value| value.parse().unwrap())
            .collect()
    };
    let (first, second) = (ids("cfg"), ids("cfgj"));
    let joint = d.values("cfgj").is_some();
    let majority: MajorityConfig = first.iter().copied().collect();
    let other: MajorityConfig = second.iter().copied().collect();
    let both = JointConfig {
        incoming: majority.clone(),
        outgoing: other.clone(),
    };
    let swapped = JointConfig {
        incoming: other,
        outgoing: majority.clone(),
    };
    let everybody: Vec<u64> = first.iter().chain(&second).copied().collect();

    let key = if d.command == "vote" { "votes" } else { "idx" };
    let words = d.values(key).unwrap_or_default();
    if both.ids().len() != words.iter().filter(|word| !word.is_empty()).count() {
        let mut voters: Vec<String> = both.ids().iter().map(|id| format!("{id}:{{}}")).collect();
        voters.sort();
        let inputs = words
            .iter()
            .map(|word| if word == "_" { "0" } else { word })
            .collect::<Vec<_>>()
            .join(" ");
        return format!(
            "error: mismatched input (explicit or _) for voters map[{}]: [{inputs}]",
            voters.join(" ")
        );
    }
    let said = assign(&everybody, words);

    match d.command.as_str() {
        "committed" => {
            let acked: BTreeMap<u64, u64> = said
                .iter()
                .filter_map(|(&id, word)| Some((id, word.as_ref()?.parse().unwrap())))
                .collect();
            let lookup = |id| acked.get(&id).copied();
            let (mut out, index) = if joint {
                (both.describe(lookup), both.committed_index(lookup))
            } else {
                (majority.describe(lookup), majority.committed_index(lookup))
            };
            let mut compare = |result: Index, how: &str| {
                if result != index {
                    out += &format!("{result} <-- {how}\n");
                }
            };
            if joint {
                compare(swapped.committed_index(lookup), "via symmetry");
            } else {
                compare(by_counting(&majority, &acked), "via alternative computation");
                let with = |outgoing| JointConfig {
                    incoming: majority.clone(),
                    outgoing,
                };
                compare(
                    with(MajorityConfig::default()).committed_index(lookup),
                    "via zero-joint quorum",
                );
                compare(with(majority.clone()).committed_index(lookup), "via self-joint quorum");
                for (&id, &reached) in &acked {
                    if index.0 > reached {
                        // Somebody who is behind what is committed may be further behind.
                        for lower in [reached - 1, 0] {
                            let overlaid = |other| if other == id { Some(lower) } else { lookup(other) };
                            compare(majority.committed_index(overlaid), "overlaying");
                        }
                    }
                }
            }
            out + &format!("{index}\n")
        }
        "vote" => {
            let votes: BTreeMap<u64, bool> = said
                .iter()
                .filter_map(|(&id, word)| Some((id, (*word)? == "y")))
                .collect();
            let lookup = |id| votes.get(&id).copied();
            if !joint {
                return format!("{}\n", majority.vote_result(lookup));
            }
            let (result, alternative) = (both.vote_result(lookup), swapped.vote_result(lookup));
            let note = if alternative == result {
                String::new()
            } else {
                format!("{alternative} <-- via symmetry\n")
            };
            format!("{note}{result}\n")
        }
        other => panic!("unknown command {other}"),
    }
}

/// The committed index by another way: the largest index that more than half of the voters have reached.
fn by_counting(majority: &MajorityConfig, acked: &BTreeMap<u64, u64>) -> Index {
    if majority.0.is_empty() {
        return Index(u64::MAX);
    }
    let reached_by = |index: u64| {
        majority
            .0
            .iter()
            .filter(|id| acked.get(id).is_some_and(|&own| own >= index))
            .count()
    };
    let candidates = majority.0.iter().filter_map(|id| acked.get(id).copied());
    Index(
        candidates
            .filter(|&index| reached_by(index) > majority.0.len() / 2)
            .max()
            .unwrap_or(0),
    )
}
