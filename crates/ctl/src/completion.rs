//! Scripts that let shells complete commands and flags. Ours are smaller than upstream's: words, no descriptions, no values.

use crate::command_line::{Command, Program};

pub(crate) const SHELLS: &[&str] = &["bash", "zsh", "fish", "powershell"];

macro_rules! long {
    ($name:literal) => {
        concat!(
            "To load completions:\n\nBash:\n\n  $ source <(",
            $name,
            " completion bash)\n\n  # To load completions for each session, execute once:\n  # Linux:\n  $ ",
            $name,
            " completion bash > /etc/bash_completion.d/",
            $name,
            "\n  # macOS:\n  $ ",
            $name,
            " completion bash > /usr/local/etc/bash_completion.d/",
            $name,
            "\n\nZsh:\n\n  # If shell completion is not already enabled in your environment,\n  # you will need to enable it.  You can execute the following once:\n\n  $ echo \"autoload -U compinit; compinit\" >> ~/.zshrc\n\n  # To load completions for each session, execute once:\n  $ ",
            $name,
            " completion zsh > \"${fpath[1]}/_",
            $name,
            "\"\n\n  # You will need to start a new shell for this setup to take effect.\n\nfish:\n\n  $ ",
            $name,
            " completion fish | source\n\n  # To load completions for each session, execute once:\n  $ ",
            $name,
            " completion fish > ~/.config/fish/completions/",
            $name,
            ".fish\n\nPowerShell:\n\n  PS> ",
            $name,
            " completion powershell | Out-String | Invoke-Expression\n\n  # To load completions for every new session, run:\n  PS> ",
            $name,
            " completion powershell > ",
            $name,
            ".ps1\n  # and source this file from your PowerShell profile.\n"
        )
    };
}

pub(crate) const LONG_ETCDCTL: &str = long!("etcdctl");
pub(crate) const LONG_ETCDUTL: &str = long!("etcdutl");

/// For every command its path below the program, and the words that may follow.
fn places(program: &'static Program) -> Vec<(String, Vec<String>)> {
    fn walk(command: &'static Command, path: &str, above: &[String], found: &mut Vec<(String, Vec<String>)>) {
        let flag_words =
            |flags: &'static [crate::command_line::Flag]| flags.iter().map(|flag| format!("--{}", flag.name));
        let inherited: Vec<String> = above.iter().cloned().chain(flag_words(command.persistent)).collect();
        let commands = command.commands.iter().filter(|command| !command.hidden);
        let mut words: Vec<String> = commands.clone().map(|command| command.name().to_owned()).collect();
        words.extend(flag_words(command.flags));
        words.extend(inherited.iter().cloned());
        found.push((path.to_owned(), words));
        for below in commands {
            walk(
                below,
                format!("{path} {}", below.name()).trim_start(),
                &inherited,
                found,
            );
        }
    }
    let mut found = Vec::new();
    walk(&program.root, "", &["--help".to_owned()], &mut found);
    found
}

/// The script for a shell; the shell is one of [`SHELLS`].
pub(crate) fn script(program: &'static Program, shell: &str) -> String {
    let name = program.root.name();
    let places = places(program);
    let cases = || {
        places
            .iter()
            .map(|(path, words)| format!("    \"{path}\") words=\"{}\" ;;\n", words.join(" ")))
            .collect::<String>()
    };
    match shell {
        "bash" => format!(
            "# bash completion for {name}\n__{name}_complete() {{\n  local path=\"\" word words i\n  for ((i = 1; i < COMP_CWORD; i++)); do\n    word=${{COMP_WORDS[i]}}\n    [[ $word == -* ]] || path=\"${{path:+$path }}$word\"\n  done\n  case \"$path\" in\n{}    *) words=\"\" ;;\n  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"${{COMP_WORDS[COMP_CWORD]}}\"))\n}}\ncomplete -o default -F __{name}_complete {name}\n",
            cases()
        ),
        "zsh" => format!(
            "#compdef {name}\n_{name}() {{\n  local path_words=\"\" word words_here i\n  for ((i = 2; i < CURRENT; i++)); do\n    word=${{words[i]}}\n    [[ $word == -* ]] || path_words=\"${{path_words:+$path_words }}$word\"\n  done\n  case \"$path_words\" in\n{}    *) words_here=\"\" ;;\n  esac\n  compadd -- ${{=words_here}}\n}}\ncompdef _{name} {name}\n",
            cases().replace("words=", "words_here=")
        ),
        "fish" => {
            let mut out = format!(
                "# fish completion for {name}\nfunction __{name}_path\n  set -l path\n  for word in (commandline -opc)[2..-1]\n    string match -q -- '-*' $word; or set -a path $word\n  end\n  echo \"$path\"\nend\ncomplete -c {name} -f\n"
            );
            for (path, words) in &places {
                out.push_str(&format!(
                    "complete -c {name} -n 'test (__{name}_path) = \"{path}\"' -a '{}'\n",
                    words.join(" ")
                ));
            }
            out
        }
        _ => {
            let mut out = format!(
                "# powershell completion for {name}\nRegister-ArgumentCompleter -Native -CommandName '{name}' -ScriptBlock {{\n  param($wordToComplete, $commandAst, $cursorPosition)\n  $places = @{{\n"
            );
            for (path, words) in &places {
                let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
                out.push_str(&format!("    '{path}' = @({})\n", words.join(", ")));
            }
            out.push_str("  }\n  $given = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })\n  $path = ($given | Where-Object { $_ -notlike '-*' -and $_ -ne $wordToComplete }) -join ' '\n  $places[$path] | Where-Object { $_ -like \"$wordToComplete*\" }\n}\n");
            out
        }
    }
}
