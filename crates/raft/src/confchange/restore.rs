//! From a stored `ConfState` back to a configuration.

use proto::raftpb::{ConfChangeSingle, ConfChangeType, ConfState};

use super::{Changed, Changer, ConfChangeError};
use crate::tracker::ProgressTracker;

/// Builds the configuration that `conf_state` describes, with fresh progress that starts at `last_index`.
///
/// A joint configuration is built in two steps: the outgoing voters one by one, then one joint change that removes them
/// all and adds the incoming voters and the learners.
pub fn restore(
    max_inflight: usize,
    max_inflight_bytes: u64,
    last_index: u64,
    conf_state: &ConfState,
) -> Result<Changed, ConfChangeError> {
    let mut tracker = ProgressTracker::new(max_inflight, max_inflight_bytes);
    let single = |kind: ConfChangeType| {
        move |&node_id| ConfChangeSingle {
            r#type: kind as i32,
            node_id,
        }
    };
    let outgoing = conf_state.voters_outgoing.iter();
    let incoming: Vec<ConfChangeSingle> = outgoing
        .clone()
        .map(single(ConfChangeType::ConfChangeRemoveNode))
        .chain(conf_state.voters.iter().map(single(ConfChangeType::ConfChangeAddNode)))
        .chain(
            conf_state
                .learners
                .iter()
                .map(single(ConfChangeType::ConfChangeAddLearnerNode)),
        )
        .chain(
            conf_state
                .learners_next
                .iter()
                .map(single(ConfChangeType::ConfChangeAddLearnerNode)),
        )
        .collect();

    let one_by_one: Vec<ConfChangeSingle> = if conf_state.voters_outgoing.is_empty() {
        incoming.clone()
    } else {
        outgoing.map(single(ConfChangeType::ConfChangeAddNode)).collect()
    };
    for change in &one_by_one {
        let changed = Changer {
            tracker: &tracker,
            last_index,
        }
        .simple(std::slice::from_ref(change))?;
        (tracker.config, tracker.progress) = changed;
    }
    if !conf_state.voters_outgoing.is_empty() {
        let changed = Changer {
            tracker: &tracker,
            last_index,
        }
        .enter_joint(conf_state.auto_leave, &incoming)?;
        (tracker.config, tracker.progress) = changed;
    }
    Ok((tracker.config, tracker.progress))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf_state(voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64], auto_leave: bool) -> ConfState {
        ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            learners_next: next.to_vec(),
            auto_leave,
        }
    }

    #[test]
    fn every_configuration_comes_back_as_it_was_stored() {
        for stored in [
            ConfState::default(),
            conf_state(&[1, 2, 3], &[], &[], &[], false),
            conf_state(&[1, 2, 3], &[4, 5, 6], &[], &[], false),
            conf_state(&[1, 2, 3], &[5], &[1, 2, 4, 6], &[4], false),
            conf_state(&[1, 2, 3], &[5], &[1, 2, 4, 6], &[4], true),
        ] {
            let (config, progress) = restore(20, 0, 10, &stored).unwrap();
            assert_eq!(config.conf_state(), stored);
            let everyone = config.voters.ids().len() + config.learners.len();
            assert_eq!(progress.len(), everyone, "{stored:?}");
        }
    }

    #[test]
    fn a_configuration_of_learners_only_is_refused() {
        let refused = restore(20, 0, 10, &conf_state(&[], &[1], &[], &[], false)).unwrap_err();
        assert_eq!(refused, ConfChangeError::NoVoters);
    }
}
