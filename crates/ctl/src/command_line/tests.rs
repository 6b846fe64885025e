//! Command lines of a small program, against what cobra does with them.

use super::*;

static PROGRAM: Program = Program {
    root: Command {
        persistent: &[
            Flag::text("write-out", "simple", "the format").short('w'),
            Flag::new("endpoints", Kind::Texts, "a:1", "whom to ask"),
        ],
        commands: &[
            Command {
                flags: &[
                    Flag::bool("prefix", "a prefix"),
                    Flag::int("limit", "at most so many"),
                    Flag::bool("interactive", "ask").short('i'),
                ],
                ..Command::new("get [options] <key>", "Gets a key")
            },
            Command {
                commands: &[Command::new("list", "Lists"), Command::new("lift", "Lifts")],
                ..Command::new("lease <subcommand>", "Leases")
            },
            Command {
                flags: &[Flag::text("data-dir", "", "where").required()],
                arguments: Arguments::Exactly(1),
                ..Command::new("hash <file>", "Hashes")
            },
        ],
        ..Command::new("prog", "A program.")
    },
    groups: &[],
    help_footer: "",
    help_is_usage: false,
};

fn request(line: &str) -> Request {
    let words = line.split_whitespace().map(|word| word.as_bytes().to_vec());
    parse(&PROGRAM, words.collect())
}

fn call(line: &str) -> Call {
    match request(line) {
        Request::Run(call) => call,
        other => panic!("{line}: {other:?}"),
    }
}

fn bad(line: &str) -> String {
    match request(line) {
        Request::Bad { why, .. } => why,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn flags_may_stand_anywhere() {
    let call = call("--endpoints x:1 -wjson get --prefix k --limit=0x10 -i=false --endpoints=y:2, -- --rest");
    assert_eq!(call.path, ["get"]);
    assert_eq!(call.arguments, [b"k".to_vec(), b"--rest".to_vec()]);
    assert_eq!(call.texts("endpoints"), ["x:1", "y:2", ""]);
    assert_eq!((call.text("write-out"), call.int("limit")), ("json".into(), 16));
    assert!(call.bool("prefix") && call.changed("interactive") && !call.bool("interactive"));
    assert!(!call.changed("help"));
}

#[test]
fn commands_may_be_shortened_while_unambiguous() {
    assert_eq!(call("le lis").path, ["lease", "list"]);
    assert!(matches!(request("lease li"), Request::Help(_)));
    assert_eq!(call("hash --data-dir d f").arguments, [b"f".to_vec()]);
}

#[test]
fn what_is_wrong_is_said_as_cobra_says_it() {
    for (line, text) in [
        ("frob", "unknown command \"frob\" for \"prog\""),
        ("get --foo", "unknown flag: --foo"),
        ("get -x", "unknown shorthand flag: 'x' in -x"),
        ("get --limit", "flag needs an argument: --limit"),
        ("get -w", "flag needs an argument: 'w' in -w"),
        (
            "get --limit a",
            "invalid argument \"a\" for \"--limit\" flag: strconv.ParseInt: parsing \"a\": invalid syntax",
        ),
        (
            "get -i=x",
            "invalid argument \"x\" for \"-i, --interactive\" flag: strconv.ParseBool: parsing \"x\": invalid syntax",
        ),
        ("hash", "accepts 1 arg(s), received 0"),
        ("hash f", "required flag(s) \"data-dir\" not set"),
    ] {
        assert_eq!(bad(line), text, "{line}");
    }
    let Request::Bad { why, hint } = request("gte") else {
        panic!("a command")
    };
    assert_eq!(
        (why.as_str(), hint.as_str()),
        (
            "unknown command \"gte\" for \"prog\"\n\nDid you mean this?\n\tget\n",
            "Run 'prog --help' for usage.\n"
        )
    );
}

#[test]
fn help_is_laid_out_as_cobras() {
    let Request::Help(text) = request("get -h") else {
        panic!("no help")
    };
    let expected = "\
Gets a key

Usage:
  prog get [options] <key> [flags]

Flags:
  -h, --help          help for get
  -i, --interactive   ask
      --limit int     at most so many
      --prefix        a prefix

Global Flags:
      --endpoints strings   whom to ask (default [a:1])
  -w, --write-out string    the format (default \"simple\")
";
    assert_eq!(text, expected);
    let Request::Help(text) = request("") else {
        panic!("no help")
    };
    assert!(text.contains("Available Commands:\n  get         Gets a key\n  hash        Hashes\n  help        Help about any command\n"), "{text}");
}
