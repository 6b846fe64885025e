//! Parses arguments, chooses the platform, starts.

use clap::Parser;
use quorate::cli::{Cli, Command, LogFormat, run};
use quorate::plugin;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    // The programs that the local platform runs as children have command lines of their own: etcd's, etcdctl's and etcdutl's.
    #[cfg(feature = "local")]
    {
        let arguments: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
        match arguments.first().and_then(|first| first.to_str()) {
            Some("server") => {
                let texts: Vec<String> = arguments[1..]
                    .iter()
                    .map(|argument| argument.to_string_lossy().into_owned())
                    .collect();
                return server::run_server(&texts);
            }
            Some("etcdutl") => return ctl::etcdutl(arguments),
            Some("etcdctl") => return ctl::etcdctl(arguments),
            _ => {}
        }
    }
    let cli = parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn,quorate=info".into());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    let done = std::env::current_exe().map_err(anyhow::Error::from).and_then(|exe| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let done = runtime.block_on(run(cli, &exe));
        // What hangs on a thread of its own does not keep a process alive that has lost its lease.
        runtime.shutdown_timeout(Duration::from_secs(5));
        done
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Called as `kubectl-quorate`, as kubectl calls its plugins, everything after the name is the plugin's.
fn parse() -> Cli {
    let name = std::env::args_os().next().unwrap_or_default();
    if std::path::Path::new(&name)
        .file_stem()
        .is_some_and(|name| name == "kubectl-quorate")
    {
        return Cli {
            log_format: LogFormat::Text,
            command: Command::Kubectl(plugin::Options::parse()),
        };
    }
    Cli::parse()
}
