//! Tables as etcd's tools draw them: titles in capitals and centred, cells right-aligned.

use std::fmt;

/// Titles, and rows of as many cells.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub titles: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles: Vec<String> = self
            .titles
            .iter()
            .map(|title| title.replace('_', " ").to_uppercase())
            .collect();
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([titles[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..titles.len()).map(width).collect();
        let bar = |left: &str, middle: &str, right: &str| {
            let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
            format!("{left}{}{right}\n", bars.join(middle))
        };
        let line = |cells: Vec<String>| format!("│{}│\n", cells.join("│"));
        f.write_str(&bar("┌", "┬", "┐"))?;
        f.write_str(&line(
            titles
                .iter()
                .zip(&widths)
                .map(|(title, width)| format!(" {title:^width$} "))
                .collect(),
        ))?;
        if !self.rows.is_empty() {
            f.write_str(&bar("├", "┼", "┤"))?;
        }
        for row in &self.rows {
            f.write_str(&line(
                row.iter()
                    .zip(&widths)
                    .map(|(cell, width)| format!(" {cell:>width$} "))
                    .collect(),
            ))?;
        }
        f.write_str(&bar("└", "┴", "┘"))
    }
}
