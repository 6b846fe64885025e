//! The member binary. Called as `etcd` or `quorate-server` it is the server; called as `etcdctl` or `etcdutl`, or with such a name as
//! its first argument, it is that tool.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// What the binary can be besides the server.
type Tool = fn(Vec<OsString>) -> ExitCode;

fn tool(name: &OsString) -> Option<Tool> {
    match Path::new(name).file_name()?.to_str()? {
        "etcdctl" => Some(ctl::etcdctl),
        "etcdutl" => Some(ctl::etcdutl),
        _ => None,
    }
}

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(tool) = arguments.first().and_then(tool) {
        return tool(arguments);
    }
    if let Some(tool) = arguments.get(1).and_then(tool) {
        arguments.remove(0);
        return tool(arguments);
    }
    let texts: Vec<String> = arguments
        .iter()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    server::run_server(&texts)
}
