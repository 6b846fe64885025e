//! Raft's configuration as the bucket `meta` holds it: JSON (etcd server/storage/schema/confstate.go).

use proto::raftpb::ConfState;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    voters_outgoing: Vec<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    learners_next: Vec<u64>,
    #[serde(default)]
    auto_leave: bool,
}

/// Writes it.
pub fn conf_state_to_json(conf_state: &ConfState) -> String {
    let ConfState {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave,
    } = conf_state.clone();
    let stored = Stored {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave,
    };
    serde_json::to_string(&stored).expect("numbers and a flag always have a JSON form")
}

/// Reads it.
///
/// # Errors
/// What the JSON reader says.
pub fn conf_state_from_json(json: &[u8]) -> serde_json::Result<ConfState> {
    let Stored {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave,
    } = serde_json::from_slice(json)?;
    Ok(ConfState {
        voters,
        learners,
        voters_outgoing,
        learners_next,
        auto_leave,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_etcds() {
        let conf_state = ConfState {
            voters: vec![1, u64::MAX],
            learners: vec![5],
            ..ConfState::default()
        };
        let text = r#"{"voters":[1,18446744073709551615],"learners":[5],"auto_leave":false}"#;
        assert_eq!(conf_state_to_json(&conf_state), text);
        assert_eq!(conf_state_from_json(text.as_bytes()).unwrap(), conf_state);
        assert_eq!(conf_state_from_json(b"{}").unwrap(), ConfState::default());
        assert!(conf_state_from_json(b"7").is_err());
    }
}
