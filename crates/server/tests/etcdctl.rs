//! Our etcdctl and etcdutl beside upstream's, command line by command line: stdout, stderr and exit code.
//!
//! Two fresh members of real etcd get the same commands in the same order, one from each program, so that commands may change things.
//! What differs by nature (ids, times, ports, durations, log lines' places) is made equal first. Without `QUORATE_ETCD_BIN_DIR` the
//! test says so and passes.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One command a line; `<<` is followed by stdin, with `\n` for a new line. `$LEASE` is the lease that was granted last, `$MEMBER` the
/// member, `$DIR` a directory of the program's own, `$DEAD` an endpoint that refuses.
const COMMANDS: &str = r#"
version
options

--help
help
help get
help lease grant
help frob
get --help
put -h
del --help
txn --help
compaction --help
alarm --help
alarm list --help
defrag --help
endpoint --help
endpoint status --help
endpoint health --help
endpoint hashkv --help
move-leader --help
watch --help
lease --help
lease grant --help
lease keep-alive --help
lease timetolive --help
member --help
member add --help
member list --help
member update --help
member promote --help
snapshot --help
snapshot save --help
make-mirror --help
lock --help
elect --help
auth --help
user --help
user add --help
user passwd --help
user get --help
role --help
role grant-permission --help
role revoke-permission --help
check --help
check perf --help
check datascale --help
completion --help
downgrade --help
downgrade enable --help
frob
gett
endpoint frob
lease frob
completion tcsh
completion
get
get a b --prefix
get a --prefix --from-key
get a --keys-only --count-only
get a --consistency x
get a --order up
get a --sort-by size
get a --limit
get a --limit x
get a --limit=9223372036854775808
get a --prefix=maybe
get a --min-mod-rev 5 --max-mod-rev 3
get a -w yaml
get -x
get --=
get a --command-timeout 3
get a --command-timeout soon
put
put a << 
put a --lease zz b
put a b --lease 77
put a --ignore-value
put a b --ignore-value
put a b --ignore-lease
put key1 value1
put key1 value1b --prev-kv
put key2 -- -value2
put key3 << value3\nwith two lines\n
put key1 --ignore-value --prev-kv
put binary <<  \x\n
put key4 value4 -w json
put key4 value4 --prev-kv -w json
put key4 value4 --prev-kv -w fields
put key4 value4 -w table
put key5 <&> -w json
put key5 <&> -w protobuf
get key1
get key1 -w json
get key1 -w fields
get key1 -w table
get key1 -w protobuf
get key1 --hex
get key1 --hex -w fields
get key1 --hex -w json
get key --prefix
get key --prefix --keys-only
get key --prefix --limit 2
get key --prefix --limit 2 -w json
get key --prefix --limit 2 -w fields
get key --prefix --order DESCEND
get key --prefix --sort-by modify --order descend
get key --prefix --sort-by value --order ASCEND
get key1 key3
get key2 --from-key
get "" --prefix
get "" --from-key --keys-only
get key --prefix --count-only
get key --prefix --count-only -w fields
get key --prefix --print-value-only
get key --prefix --print-value-only -w json
get key --prefix --stream
get key --prefix --stream -w json
get key1 --rev 2
get key1 --rev 1000
get key --prefix --min-create-rev 4 --keys-only
get key --prefix --max-mod-rev 4 --keys-only
get nothing
get nothing -w json
get nothing -w fields
del
del a b c
del a b --prefix
del key5 --prev-kv
del nothing
del nothing -w json
del key4 --prev-kv -w fields
del key2 key3 --range --prev-kv -w json
txn x
txn << mod("key1") > "0"\n\nput key1 "overwrote"\nget key1\n\nput key1 "created"\n\n
txn << value("key1") = "x"\n\nput key1 a\n\nget key --prefix\ndel nothing --prev-kv\n\n
txn -w json << create("key1") < "1"\n\n\nput key9 "a \\"b\\" c"\nget key9\ndel key9 --prev-kv\n\n
txn -w fields << ver("key1") != "1"\n\nget key1\nput key1 'single quoted'\n\n\n
txn -w protobuf << \n\n\n
txn -i << \nget key1\n\n\n
txn << mod\n\n
txn << foo("key1") > "0"\n\n
txn << mod("key1") > 0\n\n
txn << mod("key1") > "x"\n\n
txn << \nfrob key1\n\n\n
txn << \nget\n\n\n
txn << \nput key1 a\nput key1 b\n\n\n
txn << mod("key1") > "0"
compaction
compaction x
compaction 3
compaction 3
compact 1000
compaction 5 --physical
get key1 --rev 2
watch
watch key --rev 2
watch key --
watch key a --prefix
watch key -i << frob\n
watch -i << watch\n
watch -i << watch --frob x\n
lease grant
lease grant x
lease grant 1000
lease grant 9000000001
lease list
lease list -w json
lease list -w fields
lease timetolive
lease timetolive x
lease timetolive $LEASE
lease timetolive $LEASE --keys
put leased yes --lease $LEASE
get leased -w fields --hex
lease timetolive $LEASE --keys
lease timetolive $LEASE --keys -w json
lease timetolive $LEASE --keys -w fields
lease timetolive $LEASE -w table
lease timetolive 1
lease timetolive 1 -w json
lease keep-alive
lease keep-alive --once x
lease keep-alive --once $LEASE
lease keep-alive --once $LEASE -w json
lease keep-alive --once 1
lease keep-alive 1
lease revoke
lease revoke x
lease revoke $LEASE
lease revoke $LEASE
get leased
lease revoke 1 -w json
member list
member list -w json
member list -w json --hex
member list -w fields
member list -w fields --hex
member list -w table
member list -w protobuf
member list --consistency s
member list --consistency x
member add
member add a b http://x:1
member add a
member add a --peer-urls ftp://x:1
member add new --peer-urls http://127.0.0.1:1 --learner -w table
member add new --peer-urls http://127.0.0.1:1 --learner
member add new --peer-urls http://127.0.0.1:1
member promote
member promote zz
member promote 1
member remove
member remove x
member remove 1
member update 1
member update 1 --peer-urls http://127.0.0.1:2
endpoint status
endpoint status -w table
endpoint status -w json
endpoint status -w fields
endpoint status -w protobuf
endpoint status --cluster
endpoint health
endpoint health -w json
endpoint health -w fields
endpoint health -w table
endpoint hashkv
endpoint hashkv -w json
endpoint hashkv -w table
endpoint hashkv -w fields
endpoint hashkv --rev 1000
endpoint hashkv --rev 2
alarm list
alarm list x
alarm list -w json
alarm list -w fields
alarm disarm
alarm disarm -w json
defrag
defrag --cluster
move-leader
move-leader x
move-leader $MEMBER
downgrade validate
downgrade validate a b
downgrade validate x
downgrade validate 3.6
downgrade validate 3.6.0 -w json
downgrade validate 3.0.0
downgrade enable
downgrade cancel
snapshot save
snapshot save $DIR/missing/file.db
snapshot save $DIR/file.db
--endpoints $DEAD,$DEAD snapshot save x
lock
lock mutex true
lock mutex false
lock mutex sh -c "exit 7"
lock mutex sh -c "echo $ETCD_LOCK_KEY | cut -c1-6"
lock mutex frobnicate
elect
elect a
elect a b -l
elect a b c
user
user add
user add root:secret
user add root:secret
user add alice --no-password
user add bob --new-user-password pw
user add carol --interactive=false << pw2\n
user add :x
user list
user list x
user list -w json
user list -w fields
user get root
user get nobody
user get
user passwd bob --interactive=false << pw3\n
user passwd nobody --interactive=false << pw3\n
role add
role add reader
role add reader
role add root
role list
role list -w json
role list -w fields
role get reader
role get nobody
role grant-permission reader
role grant-permission reader frob key
role grant-permission reader read key1
role grant-permission reader readwrite key --prefix
role grant-permission reader write a b -w json
role grant-permission reader write z --from-key
role grant-permission reader write "" --prefix
role grant-permission reader write a b --prefix
role grant-permission nobody write a
role get reader
role get reader -w json
role get reader -w fields
role get root
role revoke-permission reader
role revoke-permission reader key1
role revoke-permission reader key1
role revoke-permission reader z --from-key
role revoke-permission reader key --prefix
user grant-role alice
user grant-role alice reader
user grant-role bob reader
user grant-role alice nobody
user get alice
user get alice --detail
user get alice -w json
user get alice -w fields
user revoke-role alice reader
user revoke-role alice reader
auth status
auth status -w json
auth status -w fields
auth enable x
auth enable
auth status
get key1
put key1 a
--user root:secret auth status
--user root:wrong get key1
--user root --password secret get key1
--user bob:pw3 get key1
--user bob:pw3 put secret x
--user bob:pw3 get "" --from-key
--user bob:pw3 endpoint health
--user nobody:x get key1
--user root:secret role delete reader
--user root:secret user delete alice
--user root:secret user delete alice
--user root:secret auth disable
auth disable
--cert "" get a
--cert x.pem get a
--cert x.pem --key y.pem get a
--cacert missing.pem get a
--endpoints $DEAD --command-timeout 300ms get a
--endpoints $DEAD --command-timeout 300ms put a b
--endpoints $DEAD --command-timeout 300ms endpoint health
--endpoints $DEAD --command-timeout 300ms endpoint status
--endpoints $DEAD --command-timeout 300ms endpoint hashkv
--endpoints $DEAD --command-timeout 300ms defrag
--endpoints $DEAD --command-timeout 300ms member list
--endpoints https://$DEAD --insecure-skip-tls-verify --command-timeout 300ms get a
"#;

/// The same for etcdutl, on the snapshot that was saved.
const OFFLINE: &str = r#"

help
help snapshot
frob
version
version --help
defrag
defrag --help
defrag --data-dir $DIR/missing
hashkv
hashkv --help
hashkv $DIR/missing
snapshot
snapshot --help
snapshot status
snapshot status --help
snapshot status $DIR/missing
snapshot status $DIR/file.db
snapshot status $DIR/file.db -w json
snapshot status $DIR/file.db -w table
snapshot status $DIR/file.db -w fields
snapshot status $DIR/file.db -w protobuf
snapshot status $DIR/file.db -w yaml
snapshot restore
snapshot restore --help
snapshot restore $DIR/file.db --bump-revision 5
snapshot restore $DIR/file.db --mark-compacted
snapshot restore --timeout x
migrate
migrate --help
migrate --data-dir $DIR/missing
migrate --data-dir $DIR/missing --target-version 3
migrate --data-dir $DIR/missing --target-version 3.4
migrate --data-dir $DIR/missing --target-version 3.x
migrate --data-dir $DIR/missing --target-version 3.6
completion --help
completion
"#;

/// Command lines whose texts differ on purpose; the exit codes are the same.
const DIFFERENT: &[(&str, &str)] = &[
    (
        "member list --consistency x",
        "upstream names the consistency of another command",
    ),
    (
        "--endpoints https://",
        "the reason of a failed connection is worded differently",
    ),
];

struct Program {
    path: PathBuf,
    etcd: Child,
    endpoint: String,
    peer_port: u16,
    dir: tempfile::TempDir,
    lease: String,
    member: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended already when it failed to start.
        let _ended = self.etcd.kill();
        let _ended = self.etcd.wait();
    }
}

fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Program {
    fn start(path: PathBuf, etcd: &Path) -> Program {
        let dir = tempfile::tempdir().unwrap();
        let (client, peer) = (port(), port());
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let log = File::create(dir.path().join("etcd.log")).unwrap();
        let child = Command::new(etcd)
            .args(["--name", "m0", "--data-dir"])
            .arg(dir.path().join("data"))
            .args([
                "--listen-client-urls",
                &url(client),
                "--advertise-client-urls",
                &url(client),
            ])
            .args([
                "--listen-peer-urls",
                &url(peer),
                "--initial-advertise-peer-urls",
                &url(peer),
            ])
            .args(["--initial-cluster", &format!("m0={}", url(peer))])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut program = Program {
            path,
            etcd: child,
            endpoint: format!("127.0.0.1:{client}"),
            peer_port: peer,
            dir,
            lease: String::new(),
            member: String::new(),
        };
        let began = Instant::now();
        loop {
            let list = program.output("member list", "");
            if list.0 == Some(0) {
                program.member = list.1.split(',').next().unwrap().to_owned();
                return program;
            }
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "etcd does not serve: {list:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs a command line; what it said, as it said it.
    fn output(&mut self, line: &str, stdin: &str) -> (Option<i32>, String, String) {
        let line = line
            .replace("$LEASE", &self.lease)
            .replace("$MEMBER", &self.member)
            .replace("$DIR", self.dir.path().to_str().unwrap())
            .replace("$DEAD", "127.0.0.1:1");
        let words = split(&line);
        let mut command = Command::new(&self.path);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        if !words.iter().any(|word| word == "--endpoints") && self.path.ends_with("etcdctl") {
            command.env("ETCDCTL_ENDPOINTS", &self.endpoint);
        }
        let mut child = command
            .args(&words)
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that reads nothing may have ended.
        let _ended = child
            .stdin
            .take()
            .unwrap()
            .write_all(stdin.replace("\\n", "\n").as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let out = match line.ends_with("protobuf") && output.status.success() {
            true => text(without_header(&output.stdout)),
            false => text(output.stdout),
        };
        if let Some(rest) = out.strip_prefix("lease ")
            && line == "lease grant 1000"
        {
            self.lease = rest.split(' ').next().unwrap().to_owned();
        }
        (output.status.code(), out, text(output.stderr))
    }

    fn said(&mut self, line: &str, stdin: &str) -> Said {
        let (code, out, err) = self.output(line, stdin);
        let normal = |text: String| {
            let port = self.endpoint.rsplit_once(':').unwrap().1;
            let text = text
                .replace(self.dir.path().to_str().unwrap(), "DIR")
                .replace(port, "CLIENT")
                .replace(&self.peer_port.to_string(), "PEER");
            normalise(&text)
        };
        Said {
            code,
            out: normal(out),
            err: normal(err),
        }
    }
}

/// A message without its first field, the header with its ids, and without members, which have ids, too.
fn without_header(message: &[u8]) -> Vec<u8> {
    let mut rest = message;
    while let [0x0a | 0x12, length, after @ ..] = rest
        && (after.len() >= usize::from(*length)
            && (rest.len() == message.len() || after.windows(4).any(|at| at == b"http")))
    {
        rest = &after[usize::from(*length)..];
    }
    rest.to_vec()
}

/// Words in quotes stay together.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Makes equal what differs from run to run.
fn normalise(text: &str) -> String {
    let mut text = text.to_owned();
    // How many pages a new database has depends on when it was committed; a member added twice within a second has one id.
    for (varies, same) in [
        ("25 kB", "SIZE"),
        ("20 kB", "SIZE"),
        ("16 kB", "SIZE"),
        ("12 kB", "SIZE"),
        ("24576", "SIZE"),
        ("20480", "SIZE"),
        ("16384", "SIZE"),
        ("12288", "SIZE"),
        ("34%", "SHARE"),
        ("33%", "SHARE"),
        ("20%", "SHARE"),
        ("40%", "SHARE"),
        ("50%", "SHARE"),
        ("17%", "SHARE"),
        ("0%", "SHARE"),
        ("member ID already exist", "Peer URLs already exists"),
    ] {
        text = text.replace(varies, same);
    }
    let lines = text.lines().map(|line| {
        if let Ok(serde_json::Value::Object(mut log)) = serde_json::from_str(line)
            && log.contains_key("level")
        {
            for name in ["ts", "caller", "target", "peer", "took", "stacktrace"] {
                log.remove(name);
            }
            // Why a connection cannot be made is not in the same words everywhere.
            return serde_json::to_string(&log).unwrap();
        }
        let mut out = String::new();
        let mut token = String::new();
        for c in line.chars().chain([' ']) {
            if c.is_alphanumeric() || c == '.' || c == 'µ' {
                token.push(c);
                continue;
            }
            let stop = token.ends_with('.');
            let token_whole = std::mem::take(&mut token);
            let token = token_whole.trim_end_matches('.');
            let digits = token.chars().filter(char::is_ascii_digit).count();
            let hex = token.len() >= 15 && token.chars().all(|c| c.is_ascii_hexdigit());
            let time = token.starts_with(|c: char| c.is_ascii_digit())
                && ["ms", "µs", "s"].iter().any(|unit| {
                    token
                        .strip_suffix(unit)
                        .is_some_and(|number| number.contains('.') && number.parse::<f64>().is_ok())
                });
            let decimal = digits >= 9 && digits == token.len();
            // What is left of a lease of 1000 seconds.
            let left = token
                .trim_end_matches('s')
                .parse()
                .is_ok_and(|left: u32| (900..=1000).contains(&left));
            if hex || time || decimal || left {
                out.push('N');
            } else {
                out.push_str(token);
            }
            out.push_str(if stop { "." } else { "" });
            out.push(c);
        }
        // Columns are as wide as what is in them.
        let out = out.replace(['─', '┬', '┴', '┼', '┌', '┐', '└', '┘', '├', '┤'], "");
        out.split(' ')
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn compare(ours: &mut Program, upstream: &mut Program, commands: &str, wrong: &mut Vec<String>) -> usize {
    let mut count = 0;
    for command in commands.lines().skip(1) {
        let (line, stdin) = command.split_once("<<").unwrap_or((command, ""));
        let (line, stdin) = (line.trim(), stdin.strip_prefix(' ').unwrap_or(stdin));
        let (our, their) = (ours.said(line, stdin), upstream.said(line, stdin));
        count += 1;
        let known = DIFFERENT.iter().any(|(begin, _)| line.starts_with(begin));
        if our != their && !(known && our.code == their.code) {
            wrong.push(format!("--- {command}\nours: {our:#?}\nupstream: {their:#?}"));
        }
    }
    count
}

#[test]
fn commands_say_what_upstreams_say() {
    let Some(bin) = std::env::var_os("QUORATE_ETCD_BIN_DIR").map(PathBuf::from) else {
        println!("skipped: QUORATE_ETCD_BIN_DIR does not name a directory with etcd, etcdctl and etcdutl");
        return;
    };
    let names = tempfile::tempdir().unwrap();
    for tool in ["etcdctl", "etcdutl"] {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_quorate-server"), names.path().join(tool)).unwrap();
    }
    let mut ours = Program::start(names.path().join("etcdctl"), &bin.join("etcd"));
    let mut upstream = Program::start(bin.join("etcdctl"), &bin.join("etcd"));
    let mut wrong = Vec::new();
    let mut count = compare(&mut ours, &mut upstream, COMMANDS, &mut wrong);
    ours.path = names.path().join("etcdutl");
    upstream.path = bin.join("etcdutl");
    // Contents differ by member ids, so both look at one file.
    let file = |program: &Program| program.dir.path().join("file.db");
    std::fs::copy(file(&upstream), file(&ours)).unwrap();
    count += compare(&mut ours, &mut upstream, OFFLINE, &mut wrong);
    println!("{count} command lines compared");
    if let Some(path) = std::env::var_os("QUORATE_CTL_DIFFERENCES") {
        std::fs::write(path, wrong.join("\n")).unwrap();
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
