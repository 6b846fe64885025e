//! The help texts.

use super::flag::FLAGS;

pub(super) const USAGE: &str = "\
Usage:

  quorate-server [flags]
    Start a member. Takes the flags of etcd 3.7.

  quorate-server --version
    Print the version.

  quorate-server -h | --help
    Print all flags.

  quorate-server --config-file FILE
    Read all settings from a YAML file. Flags and environment are then ignored. Durations in it are integers of nanoseconds.
";

/// All flags, one per line.
pub(super) fn help() -> String {
    let mut text = String::from("Flags (with one or two dashes; each can be set as ETCD_<NAME_IN_CAPITALS> too):\n");
    for flag in FLAGS.iter().filter(|flag| !flag.help.is_empty()) {
        text.push_str(&format!("  --{}\n    {}\n", flag.name, flag.help));
    }
    text
}
