//! The scripts of etcd raft's `confchange/testdata`: one configuration, changed step by step.

use raft::confchange::Changer;
use raft::tracker::ProgressTracker;

use crate::datadriven::Directive;
use crate::environment::parse_changes;

pub struct State {
    tracker: ProgressTracker,
    /// Grows with each command, so that the progress of new members can be told apart.
    last_index: u64,
}

impl State {
    pub fn new() -> State {
        State {
            tracker: ProgressTracker::new(10, 0),
            last_index: 0,
        }
    }

    pub fn handle(&mut self, d: &Directive) -> String {
        let changes = match parse_changes(&d.input) {
            Ok(changes) => changes,
            Err(error) => return error,
        };
        let changer = Changer {
            tracker: &self.tracker,
            last_index: self.last_index,
        };
        self.last_index += 1;
        let changed = match d.command.as_str() {
            "simple" => changer.simple(&changes),
            "enter-joint" => changer.enter_joint(d.value("autoleave").unwrap_or(false), &changes),
            "leave-joint" if !changes.is_empty() => return "this command takes no input\n".to_owned(),
            "leave-joint" => changer.leave_joint(),
            other => panic!("unknown command {other}"),
        };
        match changed {
            Err(error) => format!("{error}\n"),
            Ok((config, progress)) => {
                let mut out = format!("{config}\n");
                for (id, progress) in &progress {
                    out += &format!("{id}: {progress}\n");
                }
                (self.tracker.config, self.tracker.progress) = (config, progress);
                out
            }
        }
    }
}
