//! Passwords from the terminal.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

/// Asks on the terminal, without showing what is typed; without a terminal, reads a line of stdin.
///
/// # Errors
/// When neither can be read.
pub(super) fn password(prompt: &str) -> io::Result<String> {
    print!("{prompt}");
    io::stdout().flush()?;
    let Ok(terminal) = File::options().read(true).write(true).open("/dev/tty") else {
        return line(&mut io::stdin());
    };
    let before = tcgetattr(&terminal).map_err(io::Error::from)?;
    let mut quiet = before.clone();
    quiet.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&terminal, SetArg::TCSANOW, &quiet).map_err(io::Error::from)?;
    let typed = line(&mut &terminal);
    let restored = tcsetattr(&terminal, SetArg::TCSANOW, &before);
    println!();
    restored.map_err(io::Error::from)?;
    typed
}

/// One line, byte by byte: what follows belongs to others.
pub(super) fn line(from: &mut impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while from.read(&mut byte)? == 1 && byte[0] != b'\n' {
        bytes.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(text.trim_end_matches('\r').to_owned())
}
