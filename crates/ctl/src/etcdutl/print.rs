//! The output formats of etcdutl (etcdutl/printer*.go), byte for byte.

use serde::Serialize;

use super::{BAD_FEATURE, Exit};
use crate::database::HashKv;
use crate::snapshot::Status;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Fields,
    Json,
    Protobuf,
    Simple,
    Table,
}

/// A result with its forms: title, value for tables, name and value for fields.
struct Column {
    title: &'static str,
    cell: String,
    field: &'static str,
    raw: String,
}

impl Format {
    pub fn parse(text: &str) -> Result<Format, Exit> {
        Ok(match text {
            "fields" => Format::Fields,
            "json" => Format::Json,
            "protobuf" => Format::Protobuf,
            "simple" => Format::Simple,
            "table" => Format::Table,
            _ => {
                return Err(Exit {
                    code: BAD_FEATURE,
                    error: anyhow::anyhow!("unsupported output format"),
                });
            }
        })
    }

    pub fn status(self, status: &Status) -> Result<(), Exit> {
        print!("{}", self.render(status, "snapshot.Status", &status_columns(status))?);
        Ok(())
    }

    pub fn hash_kv(self, hash: &HashKv) -> Result<(), Exit> {
        print!("{}", self.render(hash, "etcdutl.HashKV", &hash_columns(hash))?);
        Ok(())
    }

    fn render(self, value: &impl Serialize, kind: &str, columns: &[Column]) -> Result<String, Exit> {
        Ok(match self {
            Format::Fields => columns
                .iter()
                .map(|column| format!("\"{}\" : {}\n", column.field, column.raw))
                .collect(),
            Format::Json => format!("{}\n", serde_json::to_string(value)?),
            Format::Simple => {
                let cells: Vec<&str> = columns.iter().map(|column| column.cell.as_str()).collect();
                format!("{}\n", cells.join(", "))
            }
            Format::Table => table(columns),
            Format::Protobuf => {
                let error = anyhow::anyhow!("marshal unsupported for type {kind}");
                return Err(Exit {
                    code: BAD_FEATURE,
                    error,
                });
            }
        })
    }
}

fn status_columns(status: &Status) -> Vec<Column> {
    let column = |title, cell: String, field, raw: String| Column {
        title,
        cell,
        field,
        raw,
    };
    vec![
        column("HASH", format!("{:x}", status.hash), "Hash", status.hash.to_string()),
        column(
            "REVISION",
            status.revision.to_string(),
            "Revision",
            status.revision.to_string(),
        ),
        column(
            "TOTAL KEYS",
            status.total_key.to_string(),
            "Keys",
            status.total_key.to_string(),
        ),
        column(
            "TOTAL SIZE",
            human_bytes(status.total_size),
            "Size",
            status.total_size.to_string(),
        ),
        column("VERSION", status.version.clone(), "Version", status.version.clone()),
    ]
}

fn hash_columns(hash: &HashKv) -> Vec<Column> {
    let column = |title, field, value: String| Column {
        title,
        cell: value.clone(),
        field,
        raw: value,
    };
    vec![
        column("HASH", "Hash", hash.hash.to_string()),
        column("HASH REVISION", "Hash revision", hash.hash_revision.to_string()),
        column(
            "COMPACT REVISION",
            "Compact revision",
            hash.compact_revision.to_string(),
        ),
    ]
}

/// One row under its titles: titles centred, cells right-aligned.
fn table(columns: &[Column]) -> String {
    let width = |column: &Column| column.title.chars().count().max(column.cell.chars().count());
    let bar = |left: &str, middle: &str, right: &str| {
        let bars: Vec<String> = columns.iter().map(|column| "─".repeat(width(column) + 2)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let row = |cell: &dyn Fn(&Column) -> String| {
        let cells: Vec<String> = columns.iter().map(|column| format!(" {} ", cell(column))).collect();
        format!("│{}│\n", cells.join("│"))
    };
    let titles = row(&|column| format!("{:^width$}", column.title, width = width(column)));
    let values = row(&|column| format!("{:>width$}", column.cell, width = width(column)));
    [
        bar("┌", "┬", "┐"),
        titles,
        bar("├", "┼", "┤"),
        values,
        bar("└", "┴", "┘"),
    ]
    .concat()
}

/// Bytes in powers of ten with at most one decimal, as the Go package humanize has it.
fn human_bytes(bytes: u64) -> String {
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let power = (bytes.ilog10() / 3) as usize;
    let value = (bytes as f64 / 1000f64.powi(power as i32) * 10.0 + 0.5).floor() / 10.0;
    let decimals = usize::from(value < 10.0);
    format!("{value:.decimals$} {}", units[power])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            hash: 417_189_579,
            revision: 4,
            total_key: 1,
            total_size: 20480,
            version: "3.7.0".into(),
        }
    }

    fn show(format: Format) -> String {
        let Ok(text) = format.render(&status(), "", &status_columns(&status())) else {
            panic!("not printed")
        };
        text
    }

    /// What etcdutl 3.7.3 printed for a snapshot.
    #[test]
    fn outputs_are_etcdutls() {
        assert_eq!(show(Format::Simple), "18ddcecb, 4, 1, 20 kB, 3.7.0\n");
        let json = r#"{"hash":417189579,"revision":4,"totalKey":1,"totalSize":20480,"version":"3.7.0"}"#;
        assert_eq!(show(Format::Json), format!("{json}\n"));
        let fields = "\"Hash\" : 417189579\n\"Revision\" : 4\n\"Keys\" : 1\n\"Size\" : 20480\n\"Version\" : 3.7.0\n";
        assert_eq!(show(Format::Fields), fields);
        let table = "\
┌──────────┬──────────┬────────────┬────────────┬─────────┐
│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────────┼──────────┼────────────┼────────────┼─────────┤
│ 18ddcecb │        4 │          1 │      20 kB │   3.7.0 │
└──────────┴──────────┴────────────┴────────────┴─────────┘
";
        assert_eq!(show(Format::Table), table);
        assert!(Format::parse("yaml").is_err());
        assert!(Format::Protobuf.render(&status(), "", &[]).is_err());
    }

    #[test]
    fn sizes_are_rounded_as_go_does() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1049, "1.0 kB"),
            (1050, "1.1 kB"),
            (20480, "20 kB"),
            (82_854_982, "83 MB"),
            (2_147_483_648, "2.1 GB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
