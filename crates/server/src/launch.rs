//! The program: arguments in, exit code out.
//!
//! Invariants: exit 0 after a requested stop, `--help` and `--version`; 2 for a command line that cannot be read; 1 for
//! everything else, with the reason in the log.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Config, Invocation, Notice};
use crate::run::Ended;
use crate::start;

/// Runs a member with etcd's flags (without the program's name) and the environment of the process, until it is told to stop.
pub fn run(arguments: &[String]) -> ExitCode {
    begin_with_one_arena();
    let environment: Vec<(String, String)> = std::env::vars().collect();
    match config::load(arguments, &environment) {
        Ok(Invocation::Help) => {
            eprintln!("{}", config::usage());
            print(&config::help());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Version) => {
            print(&config::version_text());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Run { config, notices }) => serve(config, &notices),
        Err(config::Error::Usage(error)) => {
            eprintln!("{error}\n{}", config::usage());
            ExitCode::from(2)
        }
        Err(config::Error::Invalid(error)) => {
            crate::logging::init(&Config::default()).ok();
            tracing::warn!(error, "failed to verify flags");
            ExitCode::FAILURE
        }
    }
}

/// Begins this program anew with one arena of glibc's allocator, unless its user has set how many.
///
/// With eight arenas per core, what a burst of requests has left behind stays scattered over all of them: a tenth more memory after
/// a load of 1000 clients, and no more speed. glibc takes the number from the environment at the start of a process, or by a call
/// that is not safe code. (mimalloc and jemalloc, measured in its place: twice the memory, and about the same with a C build.)
fn begin_with_one_arena() {
    const NAME: &str = "MALLOC_ARENA_MAX";
    let set = |name| std::env::var_os(name).is_some();
    if !cfg!(target_env = "gnu") || set(NAME) || set("GLIBC_TUNABLES") {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    // Returns only when it fails; then it goes on with what it has.
    let _failed = command.args(arguments).env(NAME, "1").exec();
}

/// A closed pipe is no reason to panic, as `println!` does.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn serve(config: Config, notices: &[Notice]) -> ExitCode {
    if let Err(error) = crate::logging::init(&config) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    for Notice {
        warning,
        message,
        fields,
    } in notices
    {
        let fields = fields
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ");
        match (warning, fields.is_empty()) {
            (true, true) => tracing::warn!("{message}"),
            (true, false) => tracing::warn!(detail = fields, "{message}"),
            (false, true) => tracing::info!("{message}"),
            (false, false) => tracing::info!(detail = fields, "{message}"),
        }
    }
    start::raise_limits();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("server")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(fatal = true, %error, "cannot start threads");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(until_stopped(config));
    // Blocking reads of a client that is gone must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn until_stopped(config: Config) -> ExitCode {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        tracing::error!(fatal = true, "cannot listen for signals");
        return ExitCode::FAILURE;
    };
    let name = config.name.clone();
    let started = tokio::select! {
        started = start::start(config) => started,
        _ = terminate.recv() => return ExitCode::SUCCESS,
        _ = interrupt.recv() => return ExitCode::SUCCESS,
    };
    let mut running = match started {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(fatal = true, name, %error, "failed to start");
            return ExitCode::FAILURE;
        }
    };
    let ended = tokio::select! {
        ended = running.ended() => {
            if matches!(ended, Ended::Removed) {
                running.stop().await;
            }
            ended
        }
        _ = terminate.recv() => {
            tracing::info!(signal = "terminated", "received signal; shutting down");
            running.stop().await
        }
        _ = interrupt.recv() => {
            tracing::info!(signal = "interrupt", "received signal; shutting down");
            running.stop().await
        }
    };
    match ended {
        Ended::Stopped => ExitCode::SUCCESS,
        Ended::Removed => {
            tracing::warn!(
                "the member has been permanently removed from the cluster; data-dir used by this member must be removed"
            );
            ExitCode::SUCCESS
        }
        Ended::Failed(error) => {
            tracing::error!(fatal = true, name, %error, "the member cannot go on");
            ExitCode::FAILURE
        }
    }
}
