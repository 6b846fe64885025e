//! Help and usage, laid out as cobra does it.

use super::{Command, Flag, Found, HELP, Kind};

impl Found {
    /// What `--help` shows.
    pub(super) fn help(&self) -> String {
        let command = self.command();
        let mut out = String::new();
        let about = match (std::ptr::eq(command, &HELP), command.long) {
            (true, _) => format!(
                "Help provides help for any command in the application.\nSimply type {} help [path to command] for full details.",
                self.program.root.name()
            ),
            (false, "") => command.short.to_owned(),
            (false, long) => long.to_owned(),
        };
        if !self.program.help_is_usage && !about.is_empty() {
            out.push_str(about.trim_end());
            out.push_str("\n\n");
        }
        out.push_str(&self.usage());
        out.push_str(self.program.help_footer);
        out
    }

    /// How the command is called, what is below it, and its flags.
    pub(super) fn usage(&self) -> String {
        let command = self.command();
        let commands = self.subcommands();
        let mut out = String::from("Usage:");
        if command.runs() {
            let above: Vec<&str> = self.chain[..self.chain.len() - 1]
                .iter()
                .map(|above| above.name())
                .collect();
            let above = above.join(" ");
            let flags = if command.bare_usage || command.usage.contains("[flags]") {
                ""
            } else {
                " [flags]"
            };
            out.push_str(&format!("\n  {above} {}{flags}", command.usage));
        }
        if !commands.is_empty() {
            out.push_str(&format!("\n  {} [command]", self.path()));
        }
        if !command.example.is_empty() {
            out.push_str(&format!("\n\nExamples:\n{}", command.example));
        }
        if !commands.is_empty() {
            let width = commands
                .iter()
                .map(|command| command.name().len())
                .max()
                .unwrap_or(0)
                .max(11);
            let show = |out: &mut String, command: &&Command| {
                out.push_str(&format!("\n  {:width$} {}", command.name(), command.short));
            };
            let shown = || commands.iter().filter(|command| !command.hidden);
            if self.chain.len() > 1 || self.program.groups.is_empty() {
                out.push_str("\n\nAvailable Commands:");
                shown().for_each(|command| show(&mut out, command));
            } else {
                for group in self.program.groups {
                    out.push_str(&format!("\n\n{group}"));
                    shown()
                        .filter(|command| command.group == *group)
                        .for_each(|command| show(&mut out, command));
                }
            }
        }
        let own = command.flags.iter().chain(command.persistent);
        let mut own: Vec<(&Flag, String)> = own.map(|flag| (flag, flag.help.to_owned())).collect();
        // The root of a program that hides all its flags hides `--help` with them.
        if self.chain.len() > 1 || own.iter().any(|(flag, _)| !flag.hidden) {
            own.push((&super::HELP_FLAG, format!("help for {}", command.name())));
        }
        section(&mut out, "Flags", own);
        let above = &self.chain[..self.chain.len() - 1];
        let inherited = above.iter().flat_map(|command| command.persistent.iter());
        section(
            &mut out,
            "Global Flags",
            inherited.map(|flag| (flag, flag.help.to_owned())).collect(),
        );
        if !commands.is_empty() {
            let path = self.path();
            out.push_str(&format!(
                "\n\nUse \"{path} [command] --help\" for more information about a command."
            ));
        }
        out.push('\n');
        out
    }
}

fn section(out: &mut String, title: &str, mut flags: Vec<(&Flag, String)>) {
    flags.retain(|(flag, _)| !flag.hidden);
    if !flags.is_empty() {
        out.push_str(&format!("\n\n{title}:\n{}", table(flags).trim_end()));
    }
}

/// Flags one a line, in order of their names, their texts aligned.
fn table(mut flags: Vec<(&Flag, String)>) -> String {
    flags.sort_by_key(|(flag, _)| flag.name);
    let heads: Vec<String> = flags
        .iter()
        .map(|(flag, _)| {
            let kind = match flag.kind {
                Kind::Bool => "",
                Kind::Text => " string",
                Kind::Texts => " strings",
                Kind::Int => " int",
                Kind::Uint => " uint",
                Kind::Duration => " duration",
            };
            match flag.short {
                Some(short) => format!("  -{short}, --{}{kind}", flag.name),
                None => format!("      --{}{kind}", flag.name),
            }
        })
        .collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    for (head, (flag, help)) in heads.iter().zip(&flags) {
        let default = match (flag.kind, flag.default) {
            (_, "") | (Kind::Bool, "false") | (Kind::Int | Kind::Uint, "0") => String::new(),
            (Kind::Text, default) => format!(" (default \"{default}\")"),
            (Kind::Texts, default) => format!(" (default [{default}])"),
            (_, default) => format!(" (default {default})"),
        };
        out.push_str(&format!("{head:width$}   {help}{default}\n"));
    }
    out
}

/// All flags of a program for all its commands, shown or not.
pub(crate) fn global_flags(command: &'static Command) -> String {
    table(
        command
            .persistent
            .iter()
            .map(|flag| (flag, flag.help.to_owned()))
            .collect(),
    )
}
