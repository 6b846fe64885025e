//! What a directive prints, and the log lines of all nodes in between.

use std::fmt;
use std::sync::{Arc, Mutex};

use raft::{Level, Logger};

/// From the most talkative to silence. `FATAL` stands where etcd raft panics.
pub const LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"];
const NONE: usize = LEVELS.len() - 1;

#[derive(Default)]
struct State {
    text: String,
    level: usize,
}

/// Shared by the script environment and the loggers of its nodes.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<State>>);

impl Output {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    pub fn level(&self) -> usize {
        self.with(|state| state.level)
    }

    pub fn set_level(&self, level: usize) {
        self.with(|state| state.level = level);
    }

    pub fn is_quiet(&self) -> bool {
        self.level() == NONE
    }

    pub fn write(&self, text: &str) {
        self.with(|state| {
            if state.level != NONE {
                state.text += text;
            }
        });
    }

    pub fn take(&self) -> String {
        self.with(|state| std::mem::take(&mut state.text))
    }

    /// Runs `f` and indents what it prints.
    pub fn indented<T>(&self, f: impl FnOnce() -> T) -> T {
        let before = self.take();
        let result = f();
        self.with(|state| {
            let inner: String = state.text.lines().map(|line| format!("  {line}\n")).collect();
            state.text = before + &inner;
        });
        result
    }
}

impl Logger for Output {
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.with(|state| {
            if state.level <= level as usize {
                state.text += &format!("{} {line}\n", level.as_str());
            }
        });
    }
}
