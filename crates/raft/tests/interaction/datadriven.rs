//! The script format of github.com/cockroachdb/datadriven: a directive line, input lines, `----`, the expected output up
//! to a blank line, or between doubled `----` lines when it contains blank lines.

use std::path::Path;

pub struct Argument {
    pub key: String,
    pub values: Vec<String>,
}

pub struct Directive {
    pub command: String,
    pub arguments: Vec<Argument>,
    pub input: String,
}

impl Directive {
    /// The values of the argument `key`.
    pub fn values(&self, key: &str) -> Option<&[String]> {
        self.arguments
            .iter()
            .find(|argument| argument.key == key)
            .map(|argument| &argument.values[..])
    }

    /// The only value of the argument `key`.
    pub fn value<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        let [value] = self.values(key)? else {
            panic!("{key} must have one value")
        };
        Some(value.parse().unwrap_or_else(|_| panic!("{key}={value}")))
    }

    /// The arguments without values, as numbers.
    pub fn numbers(&self) -> Vec<u64> {
        let plain = self.arguments.iter().filter(|argument| argument.values.is_empty());
        plain.map(|argument| argument.key.parse().unwrap()).collect()
    }
}

/// Runs a script; the error shows the first output that differs.
pub fn run(path: &Path, mut handle: impl FnMut(&Directive) -> String) -> Result<(), String> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut line = line.to_owned();
        while let Some(start) = line.strip_suffix('\\') {
            line = format!("{start} {}", lines.next().map_or("", |(_, next)| next.trim()));
        }
        let (command, arguments) = parse(&line);
        let mut input = String::new();
        for (_, line) in lines.by_ref().take_while(|(_, line)| *line != "----") {
            input += line;
            input += "\n";
        }
        let expected = expected_output(&mut lines.by_ref().map(|(_, line)| line));
        let directive = Directive {
            command,
            arguments,
            input: input.trim().to_owned(),
        };
        let mut actual = handle(&directive);
        if !actual.is_empty() && !actual.ends_with('\n') {
            actual.push('\n');
        }
        if actual != expected {
            let at = format!("{}:{}: {line}", path.display(), number + 1);
            return Err(format!("{at}\n{}", difference(&expected, &actual)));
        }
    }
    Ok(())
}

fn expected_output<'a>(lines: &mut impl Iterator<Item = &'a str>) -> String {
    let mut expected = String::new();
    let mut push = |line: &str| {
        expected += line;
        expected += "\n";
    };
    match lines.next() {
        None => {}
        Some("----") => {
            while let Some(line) = lines.next() {
                if line == "----" {
                    match lines.next() {
                        Some("----") => {
                            assert!(
                                lines.next().is_none_or(str::is_empty),
                                "no blank line behind the output"
                            );
                            break;
                        }
                        other => {
                            push(line);
                            other.map(&mut push);
                            continue;
                        }
                    }
                }
                push(line);
            }
        }
        Some(first) => {
            let all = std::iter::once(first).chain(lines);
            all.take_while(|line| !line.trim().is_empty()).for_each(push);
        }
    }
    expected
}

fn parse(line: &str) -> (String, Vec<Argument>) {
    let (command, mut rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut arguments = Vec::new();
    loop {
        rest = rest.trim();
        if rest.is_empty() {
            return (command.to_owned(), arguments);
        }
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let key = rest[..end].to_owned();
        rest = &rest[end..];
        let mut values = Vec::new();
        if let Some(value) = rest.strip_prefix('=') {
            if let Some(list) = value.strip_prefix('(') {
                // None of the scripts nests parentheses.
                let (list, after) = list.split_once(')').expect("an open parenthesis");
                assert!(!list.contains('('));
                values.extend(list.split(',').map(|value| value.trim_start().to_owned()));
                rest = after;
            } else {
                let end = value.find(' ').unwrap_or(value.len());
                values.push(value[..end].to_owned());
                rest = &value[end..];
            }
        }
        arguments.push(Argument { key, values });
    }
}

fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let same = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let show = |lines: &[&str], mark: &str| {
        let lines = lines.iter().skip(same.saturating_sub(3)).take(12);
        lines.map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    format!(
        "first difference in output line {}\n{}\n{}",
        same + 1,
        show(&expected, "-"),
        show(&actual, "+")
    )
}
