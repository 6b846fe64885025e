//! get, put, del, compaction.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::client::Policy;
use super::keys::prefix_end;
use super::print::{self, Format};
use super::{BAD_FEATURE, ERROR, Exit, Session};
use crate::command_line::Call;
use crate::gotext::{parse_int, quote};

const BOTH: &str = "`--prefix` and `--from-key` cannot be set at the same time, choose one";
const TOO_MANY: &str = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set";

/// Is a read satisfied by the member's own state?
pub(super) fn serializable(consistency: &str) -> Result<bool, Exit> {
    match consistency {
        "s" => Ok(true),
        "l" => Ok(false),
        other => {
            let text = format!("unknown consistency flag {}", quote(other.as_bytes()));
            Err(Exit::new(BAD_FEATURE, text))
        }
    }
}

/// Key and end of a range by `--prefix` and `--from-key`.
fn range(call: &Call, key: Bytes, end: Bytes) -> (Bytes, Bytes) {
    let zero = Bytes::from_static(b"\0");
    let first = if key.is_empty() { zero.clone() } else { key.clone() };
    if call.bool("from-key") {
        (first, zero)
    } else if call.bool("prefix") {
        let end = if key.is_empty() { zero } else { prefix_end(&key).into() };
        (first, end)
    } else {
        (key, end)
    }
}

fn key_of(call: &Call, index: usize) -> Bytes {
    call.arguments.get(index).cloned().unwrap_or_default().into()
}

/// The request of `get`.
pub(super) fn range_request(call: &Call) -> Result<pb::RangeRequest, Exit> {
    if call.arguments.is_empty() {
        let text = "get command needs one argument as key and an optional argument as range_end";
        return Err(Exit::arguments(text));
    }
    if call.bool("prefix") && call.bool("from-key") {
        return Err(Exit::arguments(BOTH));
    }
    if call.bool("keys-only") && call.bool("count-only") {
        let text = "`--keys-only` and `--count-only` cannot be set at the same time, choose one";
        return Err(Exit::arguments(text));
    }
    let serializable = serializable(&call.text("consistency"))?;
    if call.arguments.len() > 1 && (call.bool("prefix") || call.bool("from-key")) {
        return Err(Exit::arguments(TOO_MANY));
    }
    let order = call.text("order");
    let mut sort_order = match order.to_uppercase().as_str() {
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        "" => SortOrder::None,
        _ => return Err(Exit::new(BAD_FEATURE, format!("bad sort order {order}"))),
    };
    let target = call.text("sort-by");
    let sort_target = match target.to_uppercase().as_str() {
        "CREATE" => SortTarget::Create,
        "KEY" | "" => SortTarget::Key,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Exit::new(BAD_FEATURE, format!("bad sort target {target}"))),
    };
    if sort_target == SortTarget::Key && sort_order == SortOrder::Ascend {
        // Ranges come in order of their keys; saying so makes the server collect them first.
        sort_order = SortOrder::None;
    }
    let bound = |name: &str| call.int(name).max(0);
    for (low, high, names) in [
        (
            "min-create-rev",
            "max-create-rev",
            ("getMinCreateRev", "getMaxCreateRev"),
        ),
        ("min-mod-rev", "max-mod-rev", ("getMinModRev", "getMaxModRev")),
    ] {
        let (min, max) = (call.int(low), call.int(high));
        if max > 0 && min > max {
            let text = format!("{}(={min}) > {}(={max})", names.0, names.1);
            return Err(Exit::new(BAD_FEATURE, text));
        }
    }
    let (key, range_end) = range(call, key_of(call, 0), key_of(call, 1));
    Ok(pb::RangeRequest {
        key,
        range_end,
        limit: call.int("limit"),
        revision: bound("rev"),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only: call.bool("keys-only"),
        count_only: call.bool("count-only"),
        min_create_revision: bound("min-create-rev"),
        max_create_revision: bound("max-create-rev"),
        min_mod_revision: bound("min-mod-rev"),
        max_mod_revision: bound("max-mod-rev"),
    })
}

pub(super) async fn get(run: &mut Session) -> Result<(), Exit> {
    let request = range_request(&run.call)?;
    let deadline = run.deadline();
    let (client, mut printer) = run.client().await?;
    let response = if run.call.bool("stream") {
        let method = "/etcdserverpb.KV/RangeStream";
        let mut pieces = client
            .answers::<_, pb::RangeStreamResponse>(method, &request, deadline)
            .await?;
        let mut whole = pb::RangeResponse::default();
        while let Some(piece) = pieces.next().await? {
            let Some(mut piece) = piece.range_response else {
                continue;
            };
            whole.header = piece.header.or(whole.header);
            whole.kvs.append(&mut piece.kvs);
            whole.more |= piece.more;
            whole.count = whole.count.max(piece.count);
        }
        whole
    } else {
        client
            .call("/etcdserverpb.KV/Range", Policy::Repeatable, &request, deadline)
            .await?
    };
    if run.call.bool("count-only") && printer.format != Format::Fields {
        return Err(Exit::arguments("--count-only is only for `--write-out=fields`"));
    }
    if run.call.bool("print-value-only") {
        if printer.format != Format::Simple {
            return Err(Exit::arguments("print-value-only is only for `--write-out=simple`"));
        }
        printer.style.value_only = true;
    }
    printer.print(&print::Get(response))
}

/// The request of `put`. Reads the value from stdin when there is none.
pub(super) fn put_request(call: &Call) -> Result<pb::PutRequest, Exit> {
    const USAGE: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    if call.arguments.is_empty() {
        return Err(Exit::arguments(USAGE));
    }
    let ignore_value = call.bool("ignore-value");
    if ignore_value && call.arguments.len() > 1 {
        let text = "put command needs only 1 argument when 'ignore-value' is set";
        return Err(Exit::arguments(text));
    }
    let value = if ignore_value {
        Bytes::new()
    } else if call.arguments.len() > 1 {
        key_of(call, 1)
    } else {
        let mut input = Vec::new();
        match std::io::stdin().read_to_end(&mut input) {
            Ok(_) if !input.is_empty() => input.into(),
            _ => return Err(Exit::arguments(USAGE)),
        }
    };
    let lease = parse_int(&call.text("lease"), 16)
        .map_err(|why| Exit::arguments(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(pb::PutRequest {
        key: key_of(call, 0),
        value,
        lease,
        prev_kv: call.bool("prev-kv"),
        ignore_value,
        ignore_lease: call.bool("ignore-lease"),
    })
}

pub(super) async fn put(run: &mut Session) -> Result<(), Exit> {
    let request = put_request(&run.call)?;
    let (client, printer) = run.client().await?;
    let response = client
        .call("/etcdserverpb.KV/Put", Policy::Once, &request, run.deadline())
        .await?;
    printer.print(&print::Put(response))
}

/// The request of `del`. Waits a moment before a range is deleted that was not asked for by a flag.
pub(super) fn delete_request(call: &Call) -> Result<pb::DeleteRangeRequest, Exit> {
    let count = call.arguments.len();
    if count == 0 || count > 2 {
        let text = "del command needs one argument as key and an optional argument as range_end";
        return Err(Exit::arguments(text));
    }
    if call.bool("prefix") && call.bool("from-key") {
        return Err(Exit::arguments(BOTH));
    }
    if count > 1 {
        if call.bool("prefix") || call.bool("from-key") {
            return Err(Exit::arguments(TOO_MANY));
        }
        if !call.bool("range") {
            eprintln!(
                "Warning: Keys between {} and {} will be deleted. Please interrupt the command within next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.",
                quote(&call.arguments[0]),
                quote(&call.arguments[1])
            );
            std::thread::sleep(Duration::from_secs(2));
        }
    }
    let (key, range_end) = range(call, key_of(call, 0), key_of(call, 1));
    Ok(pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv: call.bool("prev-kv"),
    })
}

pub(super) async fn delete(run: &mut Session) -> Result<(), Exit> {
    let request = delete_request(&run.call)?;
    let (client, printer) = run.client().await?;
    let response = client
        .call("/etcdserverpb.KV/DeleteRange", Policy::Once, &request, run.deadline())
        .await?;
    printer.print(&print::Delete(response))
}

pub(super) async fn compact(run: &mut Session) -> Result<(), Exit> {
    if run.call.arguments.len() != 1 {
        return Err(Exit::arguments("compaction command needs 1 argument"));
    }
    let revision = parse_int(&run.call.argument(0), 10).map_err(|why| Exit::new(ERROR, why))?;
    let physical = run.call.bool("physical");
    let (client, _) = run.client().await?;
    let request = pb::CompactionRequest { revision, physical };
    let _answer: pb::CompactionResponse = client
        .call("/etcdserverpb.KV/Compact", Policy::Once, &request, run.deadline())
        .await?;
    print::write_out(format!("compacted revision {revision}\n").as_bytes());
    Ok(())
}
