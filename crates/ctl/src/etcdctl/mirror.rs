//! make-mirror: copies keys to another cluster, and then every change, until it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;

use super::client::{Client, Config, Failure, Policy, TlsOptions};
use super::keys::prefix_end;
use super::session::{op, put_key, range, revision, transact};
use super::{ERROR, Exit, Session, connect, print, prompt};

/// Keys per read of the source, as upstream has it.
const BATCH: i64 = 1000;

/// From which prefix to which.
struct Prefixes {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Prefixes {
    /// The key at the destination: the first place where the prefix is found is replaced.
    fn map(&self, key: &[u8]) -> Vec<u8> {
        let at = match self.from.is_empty() {
            true => Some(0),
            false => key.windows(self.from.len()).position(|window| window == self.from),
        };
        match at {
            Some(at) => [&key[..at], &self.to, &key[at + self.from.len()..]].concat(),
            None => key.to_vec(),
        }
    }

    fn range(&self) -> (Bytes, Bytes) {
        match self.from.is_empty() {
            true => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            false => (self.from.clone().into(), prefix_end(&self.from).into()),
        }
    }
}

pub(super) async fn make_mirror(run: &mut Session) -> Result<(), Exit> {
    if run.call.arguments.len() != 1 {
        return Err(Exit::arguments("make-mirror takes one destination argument"));
    }
    let (source, _) = run.config()?;
    let destination = connect(destination(run, &source)?).await?;
    let source = connect(source).await?;
    let call = &run.call;
    let no_prefix = call.bool("no-dest-prefix");
    let from = call.text("prefix").into_bytes();
    let mut to = call.text("dest-prefix").into_bytes();
    if no_prefix && !to.is_empty() {
        let text = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one";
        return Err(Exit::arguments(text));
    }
    let start = (call.int("rev") - 1).max(0);
    if start == 0 && !no_prefix && to.is_empty() {
        to.clone_from(&from);
    }
    let prefixes = Prefixes { from, to };
    let total = Arc::new(AtomicU64::new(0));
    let shown = total.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(30)).await;
            print::write_out(format!("{}\n", shown.load(Ordering::Relaxed)).as_bytes());
        }
    });
    let max_ops = usize::try_from(call.uint("max-txn-ops")).unwrap_or(usize::MAX).max(1);
    let at = match start {
        0 => copy_all(&source, &destination, &prefixes, &total).await?,
        start => start,
    };
    follow(&source, &destination, &prefixes, at + 1, max_ops, &total).await?;
    Err(Exit::new(ERROR, "the watch of the source ended"))
}

fn destination(run: &Session, source: &Config) -> Result<Config, Exit> {
    let call = &run.call;
    let tls = TlsOptions {
        cert: call.text("dest-cert"),
        key: call.text("dest-key"),
        cacert: call.text("dest-cacert"),
        skip_verify: false,
    };
    let files = !tls.cert.is_empty() || !tls.key.is_empty() || !tls.cacert.is_empty();
    let wanted = files || !call.bool("dest-insecure-transport");
    let (name, password) = (call.text("dest-user"), call.text("dest-password"));
    let user = match (name.as_str(), password.as_str()) {
        ("", _) => None,
        (_, "") => Some(match name.split_once(':') {
            Some((name, password)) => (name.to_owned(), password.to_owned()),
            None => {
                let typed = prompt::password("Destination Password: ").map_err(|error| Exit::new(ERROR, error))?;
                (name, typed)
            }
        }),
        _ => Some((name, password)),
    };
    Ok(Config {
        endpoints: vec![call.argument(0)],
        tls: wanted.then_some(tls),
        user,
        token: String::new(),
        ..source.clone()
    })
}

/// Copies what is there now; the revision that this was.
async fn copy_all(source: &Client, to: &Client, prefixes: &Prefixes, total: &AtomicU64) -> Result<i64, Failure> {
    let (mut key, range_end) = prefixes.range();
    let mut at = 0;
    loop {
        let request = pb::RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            limit: BATCH,
            revision: at,
            ..Default::default()
        };
        let answer = range(source, &request).await?;
        if at == 0 {
            at = revision(answer.header.as_ref());
        }
        for kv in &answer.kvs {
            let request = put_key(&prefixes.map(&kv.key), &kv.value, 0);
            let _put: pb::PutResponse = to.call("/etcdserverpb.KV/Put", Policy::Once, &request, None).await?;
            total.fetch_add(1, Ordering::Relaxed);
        }
        match answer.kvs.last() {
            Some(last) if answer.more => key = [last.key.as_ref(), b"\0"].concat().into(),
            _ => return Ok(at),
        }
    }
}

/// Repeats every change, each revision of the source in transactions of its own.
async fn follow(
    source: &Client,
    to: &Client,
    prefixes: &Prefixes,
    from_revision: i64,
    max_ops: usize,
    total: &AtomicU64,
) -> Result<(), Failure> {
    let (key, range_end) = prefixes.range();
    let mut watching = source.watch(pb::WatchCreateRequest {
        key,
        range_end,
        start_revision: from_revision,
        ..Default::default()
    });
    while let Some(response) = watching.next().await? {
        if response.compact_revision != 0 {
            let text = "etcdserver: mvcc: required revision has been compacted";
            return Err(Failure::Other(text.into()));
        }
        let mut ops: Vec<pb::RequestOp> = Vec::new();
        let mut last = 0;
        for event in response.events {
            let kv: KeyValue = event.kv.clone().unwrap_or_default();
            if !ops.is_empty() && (kv.mod_revision > last || ops.len() == max_ops) {
                commit(to, std::mem::take(&mut ops)).await?;
            }
            last = kv.mod_revision;
            let key = prefixes.map(&kv.key);
            ops.push(op(match event.r#type() {
                EventType::Put => Request::RequestPut(put_key(&key, &kv.value, 0)),
                EventType::Delete => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                    key: key.into(),
                    ..Default::default()
                }),
            }));
            total.fetch_add(1, Ordering::Relaxed);
        }
        if !ops.is_empty() {
            commit(to, ops).await?;
        }
    }
    Ok(())
}

async fn commit(to: &Client, success: Vec<pb::RequestOp>) -> Result<(), Failure> {
    let request = pb::TxnRequest {
        success,
        ..Default::default()
    };
    transact(to, &request).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::Prefixes;

    #[test]
    fn keys_move_from_prefix_to_prefix() {
        let map = |from: &str, to: &str, key: &str| {
            let (from, to) = (from.as_bytes().to_vec(), to.as_bytes().to_vec());
            String::from_utf8(Prefixes { from, to }.map(key.as_bytes())).unwrap()
        };
        assert_eq!(map("a/", "b/", "a/x"), "b/x");
        assert_eq!(map("a/", "", "a/x"), "x");
        assert_eq!(map("", "b/", "x"), "b/x");
        assert_eq!(map("", "", "x"), "x");
    }
}
