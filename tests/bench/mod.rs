//! A directory of the local platform with its operator, as a user runs it: the program itself. Each suite adds what it asks.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub struct Bench {
    pub directory: tempfile::TempDir,
    pub operator: Option<Child>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mut operator) = self.operator.take() {
            let _ = operator.kill();
            let _ = operator.wait();
        }
        // Members outlive the operator; `down` stops them whatever the test did.
        let _ = self.quorate(&["local", "down", "--dir"]);
    }
}

impl Bench {
    pub fn new() -> Bench {
        Bench {
            directory: tempfile::tempdir().expect("a directory"),
            operator: None,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory of the cluster `db`.
    pub fn cluster(&self) -> PathBuf {
        self.root().join("db")
    }

    pub fn write_manifest(&self, text: &str) {
        std::fs::write(self.directory.path().join("db.yaml"), text).expect("writes the manifest");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(arguments).arg(self.root());
        command
    }

    /// Runs the program with the directory as its last argument; what it printed to both.
    pub fn quorate(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command(arguments).output().expect("runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub fn up(&mut self) {
        let log = std::fs::File::create(self.directory.path().join("up.log")).expect("makes a log");
        let file = self.directory.path().join("db.yaml");
        let arguments = ["local", "up", "-f", file.to_str().expect("utf-8"), "--dir"];
        let mut command = self.command(&arguments);
        command
            .stdout(log.try_clone().expect("clones"))
            .stderr(log)
            .stdin(Stdio::null());
        self.operator = Some(command.spawn().expect("starts"));
    }

    /// What the operator said since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("up.log")).unwrap_or_default()
    }
}
