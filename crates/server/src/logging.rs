//! Log lines as etcd's logger (zap) writes them, because tools and people grep for them:
//! `{"level":"info","ts":"2026-01-02T03:04:05.678901Z","caller":"server/start.rs:10","msg":"…","field":…}`.
//!
//! Invariants:
//! - One event is one line, written with one call and not buffered: a reader sees a line as soon as it is logged.
//! - Field names are etcd's style: `remote_addr` in code is `remote-addr` in the line.
//! - Logging never fails a request: a target that cannot be written to loses the line.

mod rotating;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use self::rotating::Rotating;
use crate::config::{Config, Rotation};

/// Our crates: they log at the level of `--log-level`, libraries from warnings on.
const OURS: &[&str] = &[
    "server",
    "replica",
    "state_machine",
    "raft",
    "wal",
    "bolt",
    "ctl",
    "quorate",
    "quorate_server",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Console,
}

#[derive(Debug)]
enum Target {
    Stderr,
    Stdout,
    File(File),
    Rotating(Rotating),
}

/// Sets up logging for the process as the settings say. The first call counts.
///
/// # Errors
/// A file of `--log-outputs` that cannot be opened.
pub fn init(config: &Config) -> Result<(), String> {
    let format = if config.log_format == "console" {
        Format::Console
    } else {
        Format::Json
    };
    let mut targets = Vec::new();
    for output in &config.log_outputs {
        targets.push(match output.as_str() {
            "default" | "stderr" | "systemd/journal" | "" => Target::Stderr,
            "stdout" => Target::Stdout,
            path => open(path, config.log_rotation()?)
                .map_err(|error| format!("--log-outputs: cannot open {path}: {error}"))?,
        });
    }
    if targets.is_empty() {
        targets.push(Target::Stderr);
    }
    let level = match config.log_level.as_str() {
        "debug" => LevelFilter::DEBUG,
        "warn" => LevelFilter::WARN,
        "error" | "dpanic" | "panic" | "fatal" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN));
    let filter = OURS
        .iter()
        .fold(filter, |filter, target| filter.with_target(*target, level));
    let lines = Lines {
        format,
        targets: Mutex::new(targets),
    };
    // A second call (several members in one process, in tests) keeps the first's targets.
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .ok();
    Ok(())
}

fn open(path: &str, rotation: Option<Rotation>) -> io::Result<Target> {
    Ok(match rotation {
        Some(rotation) => Target::Rotating(Rotating::open(Path::new(path), rotation)?),
        None => Target::File(File::options().create(true).append(true).open(path)?),
    })
}

struct Lines {
    format: Format,
    targets: Mutex<Vec<Target>>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = line(self.format, event, SystemTime::now());
        for target in self.targets.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            // Nobody is left to be told when the log itself cannot be written.
            let _lost = match target {
                Target::Stderr => io::stderr().write_all(line.as_bytes()),
                Target::Stdout => {
                    let mut out = io::stdout().lock();
                    out.write_all(line.as_bytes()).and_then(|()| out.flush())
                }
                Target::File(file) => file.write_all(line.as_bytes()),
                Target::Rotating(file) => file.write(line.as_bytes()),
            };
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    fatal: bool,
    rest: Vec<(String, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match field.name() {
            "message" => self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            "fatal" => self.fatal = true,
            name => self.rest.push((name.replace('_', "-"), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, value.to_string().into());
    }
}

fn line(format: Format, event: &Event<'_>, now: SystemTime) -> String {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let level = match *metadata.level() {
        _ if fields.fatal => "fatal",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    };
    let caller = format!(
        "{}:{}",
        caller(metadata.file().unwrap_or("unknown")),
        metadata.line().unwrap_or(0)
    );
    let ts = timestamp(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let json = |text: &str| Value::from(text).to_string();
    let mut rest = String::new();
    for (name, value) in &fields.rest {
        // Writing to a String cannot fail.
        let _ = write!(rest, "{}{}:{value}", if rest.is_empty() { "" } else { "," }, json(name));
    }
    match format {
        Format::Json => {
            let comma = if rest.is_empty() { "" } else { "," };
            let (caller, message) = (json(&caller), json(&fields.message));
            format!("{{\"level\":\"{level}\",\"ts\":\"{ts}\",\"caller\":{caller},\"msg\":{message}{comma}{rest}}}\n")
        }
        Format::Console => {
            let rest = if rest.is_empty() {
                String::new()
            } else {
                format!("\t{{{rest}}}")
            };
            format!("{ts}\t{level}\t{caller}\t{}{rest}\n", fields.message)
        }
    }
}

/// `crates/server/src/grpc/kv.rs` is `grpc/kv.rs` of the crate `server`.
fn caller(file: &str) -> String {
    let file = file.rsplit_once("crates/").map_or(file, |(_, file)| file);
    file.replacen("/src/", "/", 1)
}

/// RFC 3339 in UTC with microseconds.
fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that a leap day is the last of its year (Hinnant, "chrono-compatible date algorithms").
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since_epoch.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn writes_timestamps_like_zap() {
        assert_eq!(timestamp(Duration::ZERO), "1970-01-01T00:00:00.000000Z");
        assert_eq!(
            timestamp(Duration::new(951_826_154, 7_000)),
            "2000-02-29T12:09:14.000007Z"
        );
        assert_eq!(
            timestamp(Duration::from_secs(1_795_365_131)),
            "2026-11-22T16:32:11.000000Z"
        );
    }

    #[test]
    fn shortens_paths_to_crate_and_file() {
        assert_eq!(caller("crates/server/src/grpc/kv.rs"), "server/grpc/kv.rs");
        assert_eq!(caller("src/main.rs"), "src/main.rs");
    }

    #[derive(Clone, Default)]
    struct Caught(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Caught {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(line(Format::Json, event, UNIX_EPOCH));
        }
    }

    #[test]
    fn a_line_is_zaps_json() {
        let caught = Caught::default();
        let subscriber = tracing_subscriber::registry().with(caught.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(remote_addr = "a\"b", count = 3, "ready to serve client requests");
            tracing::error!(fatal = true, "over");
        });
        let lines = caught.0.lock().unwrap();
        let first: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(first["level"], "info");
        assert_eq!(first["msg"], "ready to serve client requests");
        assert_eq!((&first["remote-addr"], &first["count"]), (&"a\"b".into(), &3.into()));
        assert!(first["caller"].as_str().unwrap().starts_with("server/logging.rs:"));
        assert!(lines[0].starts_with("{\"level\":\"info\",\"ts\":\"1970-01-01T00:00:00.000000Z\",\"caller\":"));
        assert!(lines[1].starts_with("{\"level\":\"fatal\""));
    }
}
