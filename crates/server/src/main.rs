//! The member binary. Called as `etcd` or `quorate-server` it is the server; called as `etcdutl`, or with `etcdutl` as its first
//! argument, it is that tool.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let is_etcdutl = |argument: &OsString| Path::new(argument).file_name().is_some_and(|name| name == "etcdutl");
    if arguments.first().is_some_and(is_etcdutl) {
        return ctl::etcdutl(arguments);
    }
    if arguments.get(1).is_some_and(|argument| argument == "etcdutl") {
        arguments.remove(0);
        return ctl::etcdutl(arguments);
    }
    let texts: Vec<String> = arguments
        .iter()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    server::run_server(&texts)
}
