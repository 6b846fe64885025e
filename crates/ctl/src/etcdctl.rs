//! The program `etcdctl`: arguments in, exit code out.
//!
//! Invariants:
//! - Results go to stdout, everything else to stderr; texts and exit codes are upstream's.
//! - A flag and its `ETCDCTL_` variable together are refused: which of them counts would be a guess.

mod auth;
mod check;
mod client;
mod cluster;
mod commands;
mod concurrency;
mod endpoint;
mod json;
mod keys;
mod kv;
mod lease;
mod log;
mod mirror;
mod print;
mod prompt;
mod session;
mod snapshot;
mod txn;
mod watch;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;
use std::time::Instant;

use crate::command_line::{self, Call, Request};
use client::{Client, Config, ConfigError, Failure, TlsOptions};
use json::Json;
use print::Printer;

/// Exit codes of etcd's tools.
const ERROR: u8 = 1;
const BAD_CONNECTION: u8 = 2;
const INVALID_INPUT: u8 = 3;
const BAD_FEATURE: u8 = 4;
const INTERRUPTED: u8 = 5;
const BAD_ARGUMENTS: u8 = 128;

/// Why the program ends with something else than 0.
#[derive(Debug)]
struct Exit {
    code: u8,
    /// Goes to stderr; empty when all has been said.
    text: String,
}

impl Exit {
    fn new(code: u8, text: impl ToString) -> Exit {
        let text = text.to_string();
        Exit { code, text }
    }

    fn silent(code: u8) -> Exit {
        let text = String::new();
        Exit { code, text }
    }

    fn arguments(text: impl ToString) -> Exit {
        Exit::new(BAD_ARGUMENTS, text)
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Exit {
        Exit::new(ERROR, failure)
    }
}

/// Runs `etcdctl`; the first argument is the program's name.
pub fn etcdctl(args: Vec<OsString>) -> ExitCode {
    let line: Vec<Vec<u8>> = args.into_iter().skip(1).map(OsString::into_vec).collect();
    let call = match command_line::parse(&commands::PROGRAM, line.clone()) {
        Request::Run(call) => call,
        Request::Help(text) => {
            print::write_out(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Request::NoHelp(text) => {
            eprint!("{text}");
            return ExitCode::SUCCESS;
        }
        Request::Bad { why, hint } => {
            eprint!("Error: {why}\n{hint}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(Session { call, line }));
    // Calls that are still under way, such as a read of the terminal, are not waited for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit { code, text }) => {
            if !text.is_empty() {
                eprintln!("Error: {text}");
            }
            ExitCode::from(code)
        }
    }
}

/// One run of the program.
struct Session {
    call: Call,
    /// The command line as it was given, without the program's name.
    line: Vec<Vec<u8>>,
}

async fn run(mut session: Session) -> Result<(), Exit> {
    let path = session.call.path.clone();
    let run = &mut session;
    match path.as_slice() {
        ["version"] => {
            print::write_out(
                format!(
                    "etcdctl version: {}\nAPI version: {}\n",
                    crate::VERSION,
                    crate::API_VERSION
                )
                .as_bytes(),
            );
            Ok(())
        }
        ["options"] => {
            let flags = command_line::global_flags(&commands::PROGRAM.root);
            let text = format!("The following options can be passed to any command:\n\n{flags}");
            print::write_out(text.as_bytes());
            Ok(())
        }
        ["completion"] => {
            print::write_out(crate::completion::script(&commands::PROGRAM, &run.call.argument(0)).as_bytes());
            Ok(())
        }
        ["get"] => kv::get(run).await,
        ["put"] => kv::put(run).await,
        ["del"] => kv::delete(run).await,
        ["compaction"] => kv::compact(run).await,
        ["txn"] => txn::txn(run).await,
        ["watch"] => watch::watch(run).await,
        ["lease", command] => lease::lease(run, command).await,
        ["member", command] => cluster::member(run, command).await,
        ["alarm", command] => cluster::alarm(run, command).await,
        ["move-leader"] => cluster::move_leader(run).await,
        ["downgrade", command] => cluster::downgrade(run, command).await,
        ["defrag"] => endpoint::defragment(run).await,
        ["endpoint", "health"] => endpoint::health(run).await,
        ["endpoint", "status"] => endpoint::status(run).await,
        ["endpoint", "hashkv"] => endpoint::hash_kv(run).await,
        ["snapshot", "save"] => snapshot::save(run).await,
        ["snapshot", command] => snapshot::moved(run, command),
        ["auth", command] => auth::auth(run, command).await,
        ["user", command] => auth::user(run, command).await,
        ["role", command] => auth::role(run, command).await,
        ["lock"] => concurrency::lock(run).await,
        ["elect"] => concurrency::elect(run).await,
        ["make-mirror"] => mirror::make_mirror(run).await,
        ["check", "perf"] => check::perf(run).await,
        ["check", "datascale"] => check::datascale(run).await,
        other => Err(Exit::new(ERROR, format!("{} is not there", other.join(" ")))),
    }
}

impl Session {
    /// The end of the time that a short command has, from now.
    fn deadline(&self) -> Option<Instant> {
        Some(Instant::now() + self.call.duration("command-timeout"))
    }

    /// Takes the environment into account, and reads the flags about the cluster.
    fn config(&mut self) -> Result<(Config, Printer), Exit> {
        environment(&mut self.call)?;
        let call = &self.call;
        if call.bool("debug") {
            for flag in call.inherited() {
                eprintln!("{}={}", variable(flag.name), call.text(flag.name));
            }
        }
        if call.changed("discovery-srv") && !call.text("discovery-srv").is_empty() {
            let domain = call.text("discovery-srv");
            let text = format!(
                "--discovery-srv is not supported: name the members with --endpoints (`dig +short SRV _etcd-client._tcp.{domain}` lists them)"
            );
            return Err(Exit::arguments(text));
        }
        let size = |name: &str| usize::try_from(call.int(name)).unwrap_or_default();
        let config = Config {
            endpoints: call.texts("endpoints"),
            dial_timeout: call.duration("dial-timeout"),
            keepalive_time: call.duration("keepalive-time"),
            keepalive_timeout: call.duration("keepalive-timeout"),
            request_bytes_max: size("max-request-bytes"),
            answer_bytes_max: size("max-recv-bytes"),
            tls: self.tls()?,
            user: None,
            token: call.text("auth-jwt-token"),
            logger: "etcd-client",
        };
        let user = self.user()?;
        let printer = Printer::new(&self.call.text("write-out"), self.call.bool("hex"))?;
        Ok((Config { user, ..config }, printer))
    }

    fn tls(&self) -> Result<Option<TlsOptions>, Exit> {
        let call = &self.call;
        for name in ["cert", "key", "cacert"] {
            if call.changed(name) && call.text(name).is_empty() {
                return Err(Exit::arguments(format!("empty string is passed to --{name} option")));
            }
        }
        let options = TlsOptions {
            cert: call.text("cert"),
            key: call.text("key"),
            cacert: call.text("cacert"),
            skip_verify: call.bool("insecure-skip-tls-verify"),
        };
        let files = !options.cert.is_empty() || !options.key.is_empty() || !options.cacert.is_empty();
        let wanted = files || options.skip_verify || !call.bool("insecure-transport");
        Ok(wanted.then_some(options))
    }

    fn user(&self) -> Result<Option<(String, String)>, Exit> {
        let user = self.call.text("user");
        // A token makes user and password superfluous.
        if user.is_empty() || !self.call.text("auth-jwt-token").is_empty() {
            return Ok(None);
        }
        let password = self.call.text("password");
        if !password.is_empty() {
            return Ok(Some((user, password)));
        }
        match user.split_once(':') {
            Some((user, password)) => Ok(Some((user.to_owned(), password.to_owned()))),
            None => {
                let password = prompt::password("Password: ").map_err(|error| Exit::new(ERROR, error))?;
                Ok(Some((user, password)))
            }
        }
    }

    /// A client of the cluster that the flags name, and the printer that they ask for.
    async fn client(&mut self) -> Result<(Client, Printer), Exit> {
        let (config, printer) = self.config()?;
        Ok((connect(config).await?, printer))
    }
}

/// A client, or the exit code that goes with what is wrong.
async fn connect(config: Config) -> Result<Client, Exit> {
    Client::new(config).await.map_err(|error| match error {
        ConfigError::Arguments(text) => Exit::arguments(text),
        ConfigError::Connection(failure) => Exit::new(BAD_CONNECTION, failure),
    })
}

fn variable(flag: &str) -> String {
    format!("ETCDCTL_{}", flag.replace('-', "_").to_uppercase())
}

/// Gives flags that were not given the values of their variables.
fn environment(call: &mut Call) -> Result<(), Exit> {
    let flags = call.inherited().to_vec();
    let mut used = Vec::new();
    let mut given = Vec::new();
    for flag in flags {
        let name = variable(flag.name);
        if call.changed(flag.name) {
            given.push(name);
        } else if let Ok(value) = std::env::var(&name)
            && !value.is_empty()
        {
            call.set(flag, &value);
            used.push(name);
        }
    }
    if call.path == ["watch"] {
        used.extend(["ETCDCTL_WATCH_KEY".to_owned(), "ETCDCTL_WATCH_RANGE_END".to_owned()]);
    }
    for (name, value) in std::env::vars_os() {
        let (name, value) = (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        );
        if used.contains(&name) {
            continue;
        }
        let caller = concat!("etcdctl.rs:", line!());
        if given.contains(&name) {
            let text = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))";
            log::log(
                "fatal",
                None,
                caller,
                text,
                &[("environment-variable", Json::text(name))],
            );
            return Err(Exit::silent(ERROR));
        }
        if name.starts_with("ETCDCTL_") {
            let pair = Json::text(format!("{name}={value}"));
            let text = "unrecognized environment variable";
            log::log("warn", None, caller, text, &[("environment-variable", pair)]);
        }
    }
    Ok(())
}
