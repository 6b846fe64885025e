//! Watches: one from the command line, or many from lines of stdin, with a program to run for each event.

use std::process::Stdio;

use proto::etcdserverpb as pb;
use proto::mvccpb::Event;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command as Process;

use super::client::{Client, Failure, Watching};
use super::keys::prefix_end;
use super::print::{self, Printer};
use super::{BAD_ARGUMENTS, ERROR, Exit, INTERRUPTED, INVALID_INPUT, Session, commands, txn};
use crate::command_line::{self, Call, Command};
use crate::gotext::quote;

const BAD_NUMBER: &str = "bad number of arguments";
const BAD_NUMBER_ENV: &str = "bad number of arguments (found conflicting environment key)";
const BAD_NUMBER_SEPARATOR: &str = "bad number of arguments (found separator --, but no commands)";

/// What to watch, and what to run for each event.
struct Wanted {
    keys: Vec<Vec<u8>>,
    run: Vec<Vec<u8>>,
}

fn environment(name: &str) -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(name).unwrap_or_default().into_vec()
}

pub(super) async fn watch(run: &mut Session) -> Result<(), Exit> {
    let key = environment("ETCDCTL_WATCH_KEY");
    let end = environment("ETCDCTL_WATCH_RANGE_END");
    if key.is_empty() && !end.is_empty() {
        let text = format!(
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
            quote(&end)
        );
        return Err(Exit::arguments(text));
    }
    if run.call.bool("interactive") {
        return interactive(run, &key, &end).await;
    }
    // The word before the arguments of `watch` is not an argument; what stands before it are flags.
    let at = run
        .line
        .iter()
        .position(|word| b"watch".starts_with(word.as_slice()) && !word.is_empty());
    let raw: Vec<Vec<u8>> = run.line[at.map_or(0, |at| at + 1)..].to_vec();
    let wanted = wanted(&raw, &run.call.arguments, &key, &end).map_err(Exit::arguments)?;
    let (client, printer) = run.client().await?;
    let watching = begin(&client, &run.call, &wanted.keys).map_err(Exit::arguments)?;
    follow(watching, printer, &wanted.run).await?;
    Err(Exit::new(INTERRUPTED, "watch is canceled by the server"))
}

/// Splits a command line into keys and a program to run: `arguments` are its words without flags, `raw` all of them.
fn wanted(raw: &[Vec<u8>], arguments: &[Vec<u8>], key: &[u8], end: &[u8]) -> Result<Wanted, &'static str> {
    let separator = raw.iter().position(|word| word == b"--");
    if separator.is_some_and(|at| at + 1 == raw.len()) {
        return Err(BAD_NUMBER_SEPARATOR);
    }
    if separator.is_none() && raw.is_empty() && key.is_empty() {
        return Err(BAD_NUMBER);
    }
    let run: Vec<Vec<u8>> = separator.map_or(Vec::new(), |at| raw[at + 1..].to_vec());
    let mut keys = arguments[..arguments.len() - run.len().min(arguments.len())].to_vec();
    if !key.is_empty() {
        if !keys.is_empty() {
            return Err(BAD_NUMBER_ENV);
        }
        keys.push(key.to_vec());
        if !end.is_empty() {
            keys.push(end.to_vec());
        }
    }
    Ok(Wanted { keys, run })
}

fn begin(client: &Client, call: &Call, keys: &[Vec<u8>]) -> Result<Watching, &'static str> {
    let (key, mut range_end) = match keys {
        [] => return Err(BAD_NUMBER),
        [_, _] if call.bool("prefix") => return Err("`range_end` and `--prefix` are mutually exclusive"),
        [key, end] => (key.clone(), end.clone()),
        [key, ..] => (key.clone(), Vec::new()),
    };
    let mut key = key;
    if call.bool("prefix") {
        if key.is_empty() {
            (key, range_end) = (vec![0], vec![0]);
        } else {
            range_end = prefix_end(&key);
        }
    } else if key.is_empty() {
        key = vec![0];
    }
    Ok(client.watch(pb::WatchCreateRequest {
        key: key.into(),
        range_end: range_end.into(),
        start_revision: call.int("rev"),
        prev_kv: call.bool("prev-kv"),
        progress_notify: call.bool("progress-notify"),
        ..Default::default()
    }))
}

/// Prints what comes until the watch ends.
async fn follow(mut watching: Watching, printer: Printer, run: &[Vec<u8>]) -> Result<(), Exit> {
    loop {
        let response = match watching.next().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ok(()),
            Err(failure) => {
                eprintln!("watch was canceled ({failure})");
                return Ok(());
            }
        };
        if response.canceled {
            eprintln!("watch was canceled ({})", why_canceled(&response));
        }
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.events.is_empty() && !response.canceled && response.compact_revision == 0 && revision != 0 {
            print::write_out(format!("progress notify: {revision}\n").as_bytes());
        }
        let events = if run.is_empty() {
            Vec::new()
        } else {
            response.events.clone()
        };
        printer.print(&print::Watch(response))?;
        for event in &events {
            carry_out(run, event, revision).await?;
        }
    }
}

fn why_canceled(response: &pb::WatchResponse) -> String {
    if response.compact_revision != 0 {
        return "etcdserver: mvcc: required revision has been compacted".into();
    }
    match response.cancel_reason.as_str() {
        "" => "etcdserver: mvcc: required revision is a future revision".into(),
        reason => Failure::precondition(reason).to_string(),
    }
}

/// Runs a program with the event in its environment.
async fn carry_out(run: &[Vec<u8>], event: &Event, revision: i64) -> Result<(), Exit> {
    use std::os::unix::ffi::OsStrExt;
    let word = |bytes: &Vec<u8>| std::ffi::OsStr::from_bytes(bytes).to_owned();
    let kv = event.kv.clone().unwrap_or_default();
    let kind = match event.r#type() {
        proto::mvccpb::event::EventType::Put => "PUT",
        proto::mvccpb::event::EventType::Delete => "DELETE",
    };
    let status = Process::new(word(&run[0]))
        .args(run[1..].iter().map(word))
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", quote(kind.as_bytes()))
        .env("ETCD_WATCH_KEY", quote(&kv.key))
        .env("ETCD_WATCH_VALUE", quote(&kv.value))
        .stdin(Stdio::null())
        .status()
        .await;
    let why = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => match status.code() {
            Some(code) => format!("exit status {code}"),
            None => status.to_string(),
        },
        Err(error) => error.to_string(),
    };
    let words: Vec<String> = run.iter().map(|word| quote(word)).collect();
    eprintln!("command [{}] error ({why})", words.join(" "));
    Err(Exit::silent(ERROR))
}

async fn interactive(run: &mut Session, key: &[u8], end: &[u8]) -> Result<(), Exit> {
    static WATCH: Command = commands::WATCH;
    let (client, printer) = run.client().await?;
    let mut handles = Vec::new();
    let (failed, mut failures) = tokio::sync::mpsc::unbounded_channel::<Exit>();
    let mut input = BufReader::new(tokio::io::stdin());
    loop {
        let mut bytes = Vec::new();
        let read = tokio::select! {
            read = input.read_until(b'\n', &mut bytes) => read,
            Some(exit) = failures.recv() => return Err(exit),
        };
        match read {
            Ok(_) if bytes.ends_with(b"\n") => {}
            Ok(_) => return Err(Exit::new(INVALID_INPUT, "error reading watch request line: EOF")),
            Err(error) => {
                return Err(Exit::new(
                    INVALID_INPUT,
                    format!("error reading watch request line: {error}"),
                ));
            }
        }
        bytes.pop();
        let line = String::from_utf8_lossy(&bytes).into_owned();
        let words = txn::split(&line)?;
        match words.first().map(Vec::as_slice) {
            None => eprintln!("Invalid command: {line} (watch and progress supported)"),
            Some(b"watch") if words.len() < 2 && key.is_empty() => {
                eprintln!("Invalid command {line} (command type or key is not provided)");
            }
            Some(b"watch") => {
                let bad = |why: &str| Exit::new(BAD_ARGUMENTS, why);
                let rest = &words[1..];
                let call = command_line::parse_alone(&WATCH, rest.to_vec()).map_err(|why| bad(&why))?;
                let wanted = match wanted(rest, &call.arguments, key, end) {
                    Ok(wanted) if wanted.keys.is_empty() => return Err(bad(BAD_NUMBER)),
                    Ok(wanted) => wanted,
                    Err(why) => return Err(bad(why)),
                };
                let mut watching = match begin(&client, &call, &wanted.keys) {
                    Ok(watching) => watching,
                    Err(why) => {
                        eprintln!("Invalid command {line} ({why})");
                        continue;
                    }
                };
                // Opened before the next line is read, so that a request for progress finds it.
                if let Err(failure) = watching.open().await {
                    eprintln!("watch was canceled ({failure})");
                    continue;
                }
                handles.push(watching.handle());
                let failed = failed.clone();
                tokio::spawn(async move {
                    if let Err(exit) = follow(watching, printer, &wanted.run).await {
                        // Nobody listens any more when the program is about to end.
                        let _ending = failed.send(exit);
                    }
                });
            }
            Some(b"progress") => handles.iter().for_each(|handle| handle.request_progress()),
            Some(_) => eprintln!("Invalid command {line} (only support watch)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
    }

    fn split(line: &str, key: &str) -> Result<(String, String), &'static str> {
        static WATCH: Command = commands::WATCH;
        let raw = words(line);
        let call = command_line::parse_alone(&WATCH, raw.clone()).unwrap();
        let wanted = wanted(&raw, &call.arguments, key.as_bytes(), b"")?;
        let text = |words: Vec<Vec<u8>>| String::from_utf8(words.join(&b' ')).unwrap();
        Ok((text(wanted.keys), text(wanted.run)))
    }

    /// Cases of upstream's watch_command_test.go.
    #[test]
    fn keys_and_programs_are_told_apart() {
        let ok = |keys: &str, run: &str| Ok((keys.to_owned(), run.to_owned()));
        assert_eq!(split("foo bar", ""), ok("foo bar", ""));
        assert_eq!(split("foo bar -- echo hi", ""), ok("foo bar", "echo hi"));
        assert_eq!(split("foo --rev 1 bar -- echo hi", ""), ok("foo bar", "echo hi"));
        assert_eq!(split("--rev 1 -- echo hi", "foo"), ok("foo", "echo hi"));
        assert_eq!(
            split("--rev 1 foo -- echo watch event -- received", ""),
            ok("foo", "echo watch event -- received")
        );
        assert_eq!(split("foo -- echo foo", "foo"), Err(BAD_NUMBER_ENV));
        assert_eq!(split("foo bar --", ""), Err(BAD_NUMBER_SEPARATOR));
        assert_eq!(split("", ""), Err(BAD_NUMBER));
        assert_eq!(split("foo", "foo"), Err(BAD_NUMBER_ENV));
        assert_eq!(split("", "foo"), ok("foo", ""));
    }
}
