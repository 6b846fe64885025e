//! Transactions, read from stdin in etcdctl's language: compares, an empty line, requests, an empty line, requests.

use std::io::BufRead;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;

use super::client::Policy;
use super::{Exit, INVALID_INPUT, Session, commands, kv, print};
use crate::command_line::{self, Command};
use crate::gotext::{parse_int, quote, unquote};

pub(super) async fn txn(run: &mut Session) -> Result<(), Exit> {
    if !run.call.arguments.is_empty() {
        return Err(Exit::arguments("txn command does not accept argument"));
    }
    let (client, printer) = run.client().await?;
    let prompt = |text: &str| {
        if run.call.bool("interactive") {
            print::write_out(format!("{text}\n").as_bytes());
        }
    };
    prompt("compares:");
    let compare = lines()?
        .iter()
        .map(|line| parse_compare(line))
        .collect::<Result<_, _>>();
    let compare = compare.map_err(|why| Exit::new(INVALID_INPUT, why))?;
    prompt("success requests (get, put, del):");
    let success = lines()?
        .iter()
        .map(|line| parse_request(line))
        .collect::<Result<_, _>>()?;
    prompt("failure requests (get, put, del):");
    let failure = lines()?
        .iter()
        .map(|line| parse_request(line))
        .collect::<Result<_, _>>()?;
    let request = pb::TxnRequest {
        compare,
        success,
        failure,
    };
    let response = client
        .call("/etcdserverpb.KV/Txn", Policy::Once, &request, None)
        .await?;
    printer.print(&print::Txn(response))
}

/// Lines up to an empty one.
fn lines() -> Result<Vec<String>, Exit> {
    let mut lines = Vec::new();
    loop {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_until(b'\n', &mut bytes);
        match read {
            Ok(_) if bytes.ends_with(b"\n") => {}
            Ok(_) => return Err(Exit::new(INVALID_INPUT, "EOF")),
            Err(error) => return Err(Exit::new(INVALID_INPUT, error)),
        }
        let line = String::from_utf8_lossy(&bytes).trim().to_owned();
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line);
    }
}

/// `mod("key") > "0"` and the like.
fn parse_compare(line: &str) -> Result<pb::Compare, String> {
    let Some((target, rest)) = line.split_once('(') else {
        return Err(format!("malformed comparison: {line}"));
    };
    let mut parts: (Vec<u8>, String, Vec<u8>) = Default::default();
    let scanned = scan(rest, &mut parts);
    let (key, operator, value) = parts;
    if scanned.is_none() {
        let (key, value) = (quote(&key), quote(&value));
        return Err(format!(
            "malformed comparison: {line}; got {target}({key}) {operator} {value}"
        ));
    }
    let number =
        || parse_int(&String::from_utf8_lossy(&value), 10).map_err(|_| format!("invalid txn compare request: {line}"));
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        // Upstream crashes here; a lease is written in hexadecimal everywhere else.
        "lease" => {
            let text = String::from_utf8_lossy(&value).into_owned();
            let lease = parse_int(&text, 16).map_err(|_| format!("invalid txn compare request: {line}"))?;
            (CompareTarget::Lease, TargetUnion::Lease(lease))
        }
        other => return Err(format!("malformed comparison: {line} (unknown target {other})")),
    };
    let result = match operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        other => {
            return Err(format!(
                "malformed comparison: {line} (unknown operator {other}, expecting =, !=, > or <)"
            ));
        }
    };
    Ok(pb::Compare {
        result: result.into(),
        target: target.into(),
        key: key.into(),
        range_end: Default::default(),
        target_union: Some(union),
    })
}

/// Scans `"key") OP "value"`; what was read before it failed stays in `parts`.
fn scan(rest: &str, parts: &mut (Vec<u8>, String, Vec<u8>)) -> Option<()> {
    let (key, rest) = unquote(rest.trim_start())?;
    parts.0 = key;
    let rest = rest.strip_prefix(')')?.trim_start();
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    parts.1 = rest[..end].to_owned();
    let (value, _) = unquote(rest[end..].trim_start())?;
    parts.2 = value;
    Some(())
}

fn parse_request(line: &str) -> Result<pb::RequestOp, Exit> {
    let words = split(line)?;
    if words.len() < 2 {
        return Err(Exit::new(INVALID_INPUT, format!("invalid txn compare request: {line}")));
    }
    let invalid = || Exit::new(INVALID_INPUT, format!("invalid txn request: {line}"));
    let name = String::from_utf8_lossy(&words[0]).into_owned();
    static PUT: Command = commands::PUT;
    static GET: Command = commands::GET;
    static DEL: Command = commands::DEL;
    let all = [&PUT, &GET, &DEL];
    let mut matching = all.into_iter().filter(|command| command.name().starts_with(&name));
    let (Some(command), None) = (matching.next(), matching.next()) else {
        return Err(invalid());
    };
    let call = command_line::parse_alone(command, words[1..].to_vec()).map_err(|why| {
        eprintln!("Error: {why}");
        invalid()
    })?;
    let request = match command.name() {
        "put" => Request::RequestPut(kv::put_request(&call)?),
        "get" => Request::RequestRange(kv::range_request(&call)?),
        _ => Request::RequestDeleteRange(kv::delete_request(&call)?),
    };
    let request = Some(request);
    Ok(pb::RequestOp { request })
}

/// Splits a line into words; quotes, double ones with escapes, keep words together.
pub(super) fn split(line: &str) -> Result<Vec<Vec<u8>>, Exit> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => {
                let mut escaped = false;
                rest.char_indices().skip(1).find(|(_, c)| {
                    let closes = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    closes
                })
            }
            '\'' => rest.char_indices().skip(1).find(|(_, c)| *c == '\''),
            _ => None,
        };
        match (first, end) {
            ('"', Some((end, _))) => {
                let Some((word, _)) = unquote(&rest[..=end]) else {
                    return Err(Exit::new(INVALID_INPUT, "invalid syntax"));
                };
                words.push(word);
                rest = &rest[end + 1..];
            }
            ('\'', Some((end, _))) => {
                words.push(rest.as_bytes()[1..end].to_vec());
                rest = &rest[end + 1..];
            }
            // A quote that is never closed is passed over.
            ('"' | '\'', None) => rest = &rest[1..],
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(rest.as_bytes()[..end].to_vec());
                rest = &rest[end..];
            }
        }
        rest = rest.trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_upstream_splits_them() {
        for (line, words) in [
            ("put key value", vec!["put", "key", "value"]),
            (r#"put "a b" 'c "d'"#, vec!["put", "a b", "c \"d"]),
            (r#"put key1 "overwrote\nkey1""#, vec!["put", "key1", "overwrote\nkey1"]),
            ("  get   --prefix  x ", vec!["get", "--prefix", "x"]),
            ("", vec![]),
        ] {
            let split = split(line).unwrap();
            let split: Vec<String> = split.into_iter().map(|word| String::from_utf8(word).unwrap()).collect();
            assert_eq!(split, words, "{line}");
        }
    }

    #[test]
    fn compares_are_read() {
        let compare = parse_compare(r#"mod("key1") > "0""#).unwrap();
        assert_eq!(
            (compare.target(), compare.result()),
            (CompareTarget::Mod, CompareResult::Greater)
        );
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(0)));
        let compare = parse_compare(r#"value("k") != "v\n""#).unwrap();
        assert_eq!(compare.target_union, Some(TargetUnion::Value("v\n".into())));
        for (line, why) in [
            ("mod", "malformed comparison: mod"),
            (
                r#"mod(x) = "1""#,
                r#"malformed comparison: mod(x) = "1"; got mod("")  """#,
            ),
            (
                r#"mod("x") = 1"#,
                r#"malformed comparison: mod("x") = 1; got mod("x") = """#,
            ),
            (
                r#"foo("x") = "1""#,
                r#"malformed comparison: foo("x") = "1" (unknown target foo)"#,
            ),
            (r#"mod("x") = "a""#, r#"invalid txn compare request: mod("x") = "a""#),
        ] {
            assert_eq!(parse_compare(line).unwrap_err(), why);
        }
    }
}
