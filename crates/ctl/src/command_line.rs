//! Command lines as etcd's tools read them (the Go packages cobra and pflag): commands, flags, help, complaints.
//!
//! Invariants:
//! - Flags may stand anywhere; a command may be shortened as long as it stays unambiguous; what is wrong is said with the usage.
//! - What a flag's kind cannot read never reaches a command: values are checked here, once.

mod help;

pub(crate) use help::global_flags;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gotext;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Text,
    /// Comma separated texts.
    Texts,
    Int,
    Uint,
    Duration,
}

/// A flag.
#[derive(Debug)]
pub(crate) struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    /// Its value when not given, as on the command line.
    pub default: &'static str,
    pub help: &'static str,
    /// Not shown in help.
    pub hidden: bool,
    /// The command does not run without it.
    pub required: bool,
}

impl Flag {
    pub const fn new(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
        Flag {
            name,
            short: None,
            kind,
            default,
            help,
            hidden: false,
            required: false,
        }
    }

    pub const fn bool(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Bool, "false", help)
    }

    pub const fn text(name: &'static str, default: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Text, default, help)
    }

    pub const fn int(name: &'static str, help: &'static str) -> Flag {
        Flag::new(name, Kind::Int, "0", help)
    }

    pub const fn short(mut self, short: char) -> Flag {
        self.short = Some(short);
        self
    }

    pub const fn hidden(mut self) -> Flag {
        self.hidden = true;
        self
    }

    pub const fn required(mut self) -> Flag {
        self.required = true;
        self
    }

    fn check(&self, value: &str) -> Result<(), String> {
        match self.kind {
            Kind::Bool => gotext::parse_bool(value).map(drop),
            Kind::Int => gotext::parse_int(value, 0).map(drop),
            Kind::Uint => gotext::parse_uint(value, 0).map(drop),
            Kind::Duration => gotext::parse_duration(value).map(drop),
            Kind::Text | Kind::Texts => Ok(()),
        }
    }
}

/// Which arguments besides flags a command takes; most check that themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arguments {
    Any,
    Exactly(usize),
    OneOf(&'static [&'static str]),
}

/// A command and what is below it.
#[derive(Debug)]
pub(crate) struct Command {
    /// How it is called: its name first.
    pub usage: &'static str,
    pub short: &'static str,
    pub long: &'static str,
    pub example: &'static str,
    /// Under which title the help of its parent shows it.
    pub group: &'static str,
    /// Of this command and all below it.
    pub persistent: &'static [Flag],
    pub flags: &'static [Flag],
    pub commands: &'static [Command],
    pub arguments: Arguments,
    /// Not shown in help.
    pub hidden: bool,
    /// Whether the usage line leaves out `[flags]`.
    pub bare_usage: bool,
}

impl Command {
    /// A command that does something.
    pub const fn new(usage: &'static str, short: &'static str) -> Command {
        Command {
            usage,
            short,
            long: "",
            example: "",
            group: "",
            persistent: &[],
            flags: &[],
            commands: &[],
            arguments: Arguments::Any,
            hidden: false,
            bare_usage: false,
        }
    }

    pub fn name(&self) -> &'static str {
        self.usage.split(' ').next().unwrap_or_default()
    }

    fn runs(&self) -> bool {
        self.commands.is_empty()
    }
}

/// A program: its root command and the titles of groups in order (empty without groups).
#[derive(Debug)]
pub(crate) struct Program {
    pub root: Command,
    pub groups: &'static [&'static str],
    /// Follows every help.
    pub help_footer: &'static str,
    /// Whether help shows the usage alone, without what the command is for.
    pub help_is_usage: bool,
}

/// The command `help`, which every program with commands has.
static HELP: Command = Command {
    group: HELP_GROUP,
    ..Command::new("help [command]", "Help about any command")
};
/// Where `help` is shown in programs with groups.
pub(crate) const HELP_GROUP: &str = "Utility commands";

static HELP_FLAG: Flag = Flag::bool("help", "").short('h');

/// A value and whether it was given.
#[derive(Debug, Clone)]
struct Value {
    text: String,
    changed: bool,
}

/// A command line that makes sense.
#[derive(Debug)]
pub(crate) struct Call {
    /// From the root's first command to the one to run.
    pub path: Vec<&'static str>,
    /// What is neither command nor flag.
    pub arguments: Vec<Vec<u8>>,
    values: BTreeMap<&'static str, Value>,
    inherited: Vec<&'static Flag>,
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Request {
    Run(Call),
    /// Print this to stdout; nothing else is asked for.
    Help(String),
    /// There is no help about what was asked for: print this to stderr; nothing has failed.
    NoHelp(String),
    /// Print these to stderr, the reason behind `Error: `; the exit code is 1.
    Bad {
        why: String,
        hint: String,
    },
}

impl Call {
    fn text_of(&self, name: &str) -> &str {
        self.values.get(name).map_or("", |value| value.text.as_str())
    }

    pub fn text(&self, name: &str) -> String {
        self.text_of(name).to_owned()
    }

    pub fn texts(&self, name: &str) -> Vec<String> {
        let text = self.text_of(name);
        if text.is_empty() {
            return Vec::new();
        }
        text.split(',').map(|part| part.trim().to_owned()).collect()
    }

    pub fn bool(&self, name: &str) -> bool {
        gotext::parse_bool(self.text_of(name)).unwrap_or_default()
    }

    pub fn int(&self, name: &str) -> i64 {
        gotext::parse_int(self.text_of(name), 0).unwrap_or_default()
    }

    pub fn uint(&self, name: &str) -> u64 {
        gotext::parse_uint(self.text_of(name), 0).unwrap_or_default()
    }

    pub fn duration(&self, name: &str) -> Duration {
        gotext::parse_duration(self.text_of(name)).unwrap_or_default()
    }

    /// Whether it was given on the command line or, after [`Call::set`], in the environment.
    pub fn changed(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| value.changed)
    }

    /// The flags that the command has from those above it, in order of their names.
    pub fn inherited(&self) -> &[&'static Flag] {
        &self.inherited
    }

    /// Gives a flag a value, if its kind can read it.
    pub fn set(&mut self, flag: &'static Flag, text: &str) {
        if flag.check(text).is_ok() {
            let text = text.to_owned();
            self.values.insert(flag.name, Value { text, changed: true });
        }
    }

    /// Argument `index` as text; what is no UTF-8 in it is replaced.
    pub fn argument(&self, index: usize) -> String {
        self.arguments
            .get(index)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .unwrap_or_default()
    }
}

/// A command with those above it, outermost first.
#[derive(Clone)]
struct Found {
    program: &'static Program,
    chain: Vec<&'static Command>,
}

impl Found {
    fn command(&self) -> &'static Command {
        self.chain.last().copied().unwrap_or(&self.program.root)
    }

    fn path(&self) -> String {
        self.chain
            .iter()
            .map(|command| command.name())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Its flags, own ones first.
    fn flags(&self) -> impl Iterator<Item = &'static Flag> {
        let command = self.command();
        let persistent = self.chain.iter().flat_map(|command| command.persistent.iter());
        command.flags.iter().chain(persistent).chain([&HELP_FLAG])
    }

    fn long(&self, name: &str) -> Option<&'static Flag> {
        self.flags().find(|flag| flag.name == name)
    }

    fn short(&self, short: char) -> Option<&'static Flag> {
        self.flags().find(|flag| flag.short == Some(short))
    }

    fn subcommands(&self) -> Vec<&'static Command> {
        let mut commands: Vec<&'static Command> = self.command().commands.iter().collect();
        if self.chain.len() == 1 && !commands.is_empty() {
            commands.push(&HELP);
        }
        commands.sort_by_key(|command| command.name());
        commands
    }

    /// Whether this word of a command line takes the next one with it.
    fn takes_next(&self, word: &str) -> bool {
        if word.contains('=') {
            return false;
        }
        if let Some(name) = word.strip_prefix("--") {
            return self.long(name).is_none_or(|flag| flag.kind != Kind::Bool);
        }
        match word.strip_prefix('-') {
            Some(short) if word.len() == 2 => {
                let flag = short.chars().next().and_then(|short| self.short(short));
                flag.is_none_or(|flag| flag.kind != Kind::Bool)
            }
            _ => false,
        }
    }

    /// The words that are neither flags nor their values, with their places.
    fn words(&self, line: &[Vec<u8>]) -> Vec<(usize, String)> {
        let mut words = Vec::new();
        let mut at = 0;
        while at < line.len() {
            let word = String::from_utf8_lossy(&line[at]);
            if word == "--" {
                break;
            }
            if word.starts_with('-') && self.takes_next(&word) {
                if line.len() - at <= 2 {
                    break;
                }
                at += 1;
            } else if !word.is_empty() && !word.starts_with('-') {
                words.push((at, word.into_owned()));
            }
            at += 1;
        }
        words
    }

    fn next(&self, name: &str) -> Option<&'static Command> {
        let commands = self.subcommands();
        if let Some(exact) = commands.iter().find(|command| command.name() == name) {
            return Some(exact);
        }
        let mut matches = commands.iter().filter(|command| command.name().starts_with(name));
        match (matches.next(), matches.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// Goes down as far as words name commands; those words leave the line.
    fn find(program: &'static Program, mut line: Vec<Vec<u8>>) -> (Found, Vec<Vec<u8>>) {
        let mut found = Found {
            program,
            chain: vec![&program.root],
        };
        while let Some((at, word)) = found.words(&line).into_iter().next() {
            let Some(next) = found.next(&word) else { break };
            line.remove(at);
            found.chain.push(next);
        }
        (found, line)
    }

    /// Why a word under the root is no command.
    fn unknown(&self, word: &str) -> String {
        let near: Vec<&str> = self
            .subcommands()
            .iter()
            .filter(|command| !command.hidden && command.name() != "help")
            .map(|command| command.name())
            .filter(|name| distance(word, name) <= 2 || name.starts_with(&word.to_lowercase()))
            .collect();
        let mut text = format!("unknown command {} for {}", quoted(word), quoted(&self.path()));
        if !near.is_empty() {
            text.push_str("\n\nDid you mean this?\n");
            for name in near {
                text.push_str(&format!("\t{name}\n"));
            }
        }
        text
    }
}

fn quoted(text: &str) -> String {
    gotext::quote(text.as_bytes())
}

/// Levenshtein's distance, regardless of case.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = change.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Reads a command line without the program's name.
pub(crate) fn parse(program: &'static Program, line: Vec<Vec<u8>>) -> Request {
    let (found, rest) = Found::find(program, line);
    if found.chain.len() == 1
        && let Some((_, word)) = found.words(&rest).into_iter().next()
    {
        let why = found.unknown(&word);
        let program = found.path();
        let hint = format!("Run '{program} --help' for usage.\n");
        return Request::Bad { why, hint };
    }
    let bad = |why: String| {
        let hint = format!("{}\n", found.usage());
        Request::Bad { why, hint }
    };
    let (mut values, arguments) = match read_flags(&found, rest) {
        Ok(read) => read,
        Err(why) => return bad(why),
    };
    let command = found.command();
    if values.remove("help").is_some_and(|value| value.text == "true") || !command.runs() {
        return Request::Help(found.help());
    }
    if std::ptr::eq(command, &HELP) {
        return help_about(program, arguments);
    }
    let count = arguments.len();
    match command.arguments {
        Arguments::Any => {}
        Arguments::Exactly(wanted) if count == wanted => {}
        Arguments::Exactly(wanted) => return bad(format!("accepts {wanted} arg(s), received {count}")),
        Arguments::OneOf(_) if count != 1 => return bad(format!("accepts 1 arg(s), received {count}")),
        Arguments::OneOf(allowed) => {
            let given = String::from_utf8_lossy(&arguments[0]).into_owned();
            if !allowed.contains(&given.as_str()) {
                return bad(format!(
                    "invalid argument {} for {}",
                    quoted(&given),
                    quoted(&found.path())
                ));
            }
        }
    }
    let missing: Vec<String> = found
        .flags()
        .filter(|flag| flag.required && !values.get(flag.name).is_some_and(|value| value.changed))
        .map(|flag| quoted(flag.name))
        .collect();
    if !missing.is_empty() {
        return bad(format!("required flag(s) {} not set", missing.join(", ")));
    }
    let mut inherited: Vec<&'static Flag> = found.chain[..found.chain.len() - 1]
        .iter()
        .flat_map(|command| command.persistent.iter())
        .collect();
    inherited.sort_by_key(|flag| flag.name);
    Request::Run(Call {
        path: found.chain[1..].iter().map(|command| command.name()).collect(),
        arguments,
        values,
        inherited,
    })
}

fn help_about(program: &'static Program, words: Vec<Vec<u8>>) -> Request {
    let topics: Vec<String> = words
        .iter()
        .map(|word| format!("`{}`", String::from_utf8_lossy(word)))
        .collect();
    let (found, rest) = Found::find(program, words);
    if found.chain.len() == 1 && !rest.is_empty() {
        let usage = found.usage();
        return Request::NoHelp(format!("Unknown help topic [{}]\n{usage}", topics.join(" ")));
    }
    Request::Help(found.help())
}

/// Stands above a command that has no program.
static ALONE: Program = Program {
    root: Command::new("", ""),
    groups: &[],
    help_footer: "",
    help_is_usage: false,
};

/// Reads one call of a command that stands alone, as a line of a transaction or of an interactive watch does.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_alone(command: &'static Command, line: Vec<Vec<u8>>) -> Result<Call, String> {
    let found = Found {
        program: &ALONE,
        chain: vec![command],
    };
    let (values, arguments) = read_flags(&found, line)?;
    Ok(Call {
        path: vec![command.name()],
        arguments,
        values,
        inherited: Vec::new(),
    })
}

type Flags = BTreeMap<&'static str, Value>;

fn read_flags(found: &Found, line: Vec<Vec<u8>>) -> Result<(Flags, Vec<Vec<u8>>), String> {
    let mut values: Flags = BTreeMap::new();
    for flag in found.flags() {
        let text = flag.default.to_owned();
        values.entry(flag.name).or_insert(Value { text, changed: false });
    }
    let mut arguments = Vec::new();
    let mut line = line.into_iter();
    while let Some(bytes) = line.next() {
        let word = String::from_utf8_lossy(&bytes).into_owned();
        if word == "--" {
            arguments.extend(line);
            break;
        }
        if !word.starts_with('-') || word == "-" {
            arguments.push(bytes);
            continue;
        }
        let mut next = || line.next().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if let Some(name) = word.strip_prefix("--") {
            if name.starts_with(['-', '=']) {
                return Err(format!("bad flag syntax: {word}"));
            }
            let (name, given) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let flag = found.long(name).ok_or_else(|| format!("unknown flag: --{name}"))?;
            let value = match given {
                Some(value) => value,
                None if flag.kind == Kind::Bool => "true".into(),
                None => next().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
            };
            put(&mut values, flag, value)?;
            continue;
        }
        let shorts = &word[1..];
        let mut left = shorts;
        while let Some(short) = left.chars().next() {
            let flag = found
                .short(short)
                .ok_or_else(|| format!("unknown shorthand flag: '{short}' in -{left}"))?;
            let after = &left[short.len_utf8()..];
            let value;
            if let Some(given) = after.strip_prefix('=').filter(|given| !given.is_empty()) {
                value = given.to_owned();
                left = "";
            } else if flag.kind == Kind::Bool {
                value = "true".into();
                left = after;
            } else if !after.is_empty() {
                value = after.to_owned();
                left = "";
            } else {
                value = next().ok_or_else(|| format!("flag needs an argument: '{short}' in -{left}"))?;
                left = "";
            }
            put(&mut values, flag, value)?;
        }
    }
    Ok((values, arguments))
}

fn put(values: &mut Flags, flag: &'static Flag, text: String) -> Result<(), String> {
    if let Err(why) = flag.check(&text) {
        let name = match flag.short {
            Some(short) => format!("-{short}, --{}", flag.name),
            None => format!("--{}", flag.name),
        };
        return Err(format!(
            "invalid argument {} for {} flag: {why}",
            quoted(&text),
            quoted(&name)
        ));
    }
    let text = match values.get(flag.name) {
        // Lists grow, once the default is gone.
        Some(before) if flag.kind == Kind::Texts && before.changed => format!("{},{text}", before.text),
        _ => text,
    };
    values.insert(flag.name, Value { text, changed: true });
    Ok(())
}

#[cfg(test)]
mod tests;
