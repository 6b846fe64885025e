//! Tables, colours, and what machines read.
//!
//! Invariant: the width of a cell is that of its text; colour is put around it afterwards.

use super::Format;
use serde::Serialize;
use std::io::IsTerminal;

/// How a cell is painted on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// As it is.
    Plain,
    /// In order.
    Good,
    /// Worth a look.
    Doubtful,
    /// Wrong.
    Bad,
    /// A heading.
    Strong,
}

/// Whether stdout takes colours.
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// `text` painted, if `colours`.
pub fn paint(text: &str, paint: Paint, colours: bool) -> String {
    let code = match paint {
        Paint::Plain => return text.to_owned(),
        Paint::Good => "32",
        Paint::Doubtful => "33",
        Paint::Bad => "31",
        Paint::Strong => "1",
    };
    if colours {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// A cell.
pub type Cell = (String, Paint);

/// A cell as it is.
pub fn plain(text: impl Into<String>) -> Cell {
    (text.into(), Paint::Plain)
}

/// Rows below a heading, columns aligned.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[Cell; N]], colours: bool) -> String {
    let heading = heading.map(|text| (text.to_owned(), Paint::Strong));
    let all: Vec<&[Cell; N]> = std::iter::once(&heading).chain(rows).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| all.iter().map(|row| row[column].0.chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in all {
        let last = row.iter().rposition(|cell| !cell.0.is_empty()).unwrap_or(0);
        for (column, (cell, style)) in row.iter().enumerate().take(last + 1) {
            text.push_str(&paint(cell, *style, colours));
            if column < last {
                text.extend(std::iter::repeat_n(' ', widths[column] - cell.chars().count() + 3));
            }
        }
        text.push('\n');
    }
    text
}

/// Prints what machines read, or what `text` says for people.
pub fn print<T: Serialize>(value: &T, format: Format, text: impl FnOnce(bool) -> String) -> anyhow::Result<()> {
    match format {
        Format::Table => print!("{}", text(colours())),
        Format::Json => println!("{}", serde_json::to_string_pretty(value)?),
        Format::Yaml => print!("{}", serde_yaml::to_string(value)?),
    }
    Ok(())
}

/// Bytes for people.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut amount = bytes as f64;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 || amount >= 100.0 {
        format!("{amount:.0} {}", UNITS[unit])
    } else {
        format!("{amount:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_is_painted() {
        let rows = [
            [("ok".to_owned(), Paint::Good), plain("a")],
            [plain("failed"), plain("b")],
        ];
        let painted = table(["", "WHAT"], &rows, true);
        let bare = table(["", "WHAT"], &rows, false);
        assert_eq!(bare, "         WHAT\nok       a\nfailed   b\n");
        assert_eq!(
            painted
                .replace("\x1b[1m", "")
                .replace("\x1b[32m", "")
                .replace("\x1b[0m", ""),
            bare
        );
    }

    #[test]
    fn sizes_have_the_digits_that_people_read() {
        let sizes = [0, 1023, 1536, 105 << 20, 8 << 30].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "105 MiB", "8.0 GiB"]);
    }
}
