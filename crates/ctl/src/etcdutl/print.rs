//! The output formats of etcdutl (etcdutl/printer*.go), byte for byte.

use serde::Serialize;

use super::{BAD_FEATURE, Exit};
use crate::database::HashKv;
use crate::gotext::human_bytes;
use crate::snapshot::Status;
use crate::table::Table;

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
            _ => return Err(Exit::new(BAD_FEATURE, "unsupported output format")),
        })
    }

    pub fn status(self, status: &Status) -> Result<(), Exit> {
        print!("{}", self.render(status, &status_columns(status))?);
        Ok(())
    }

    pub fn hash_kv(self, hash: &HashKv) -> Result<(), Exit> {
        print!("{}", self.render(hash, &hash_columns(hash))?);
        Ok(())
    }

    fn render(self, value: &impl Serialize, columns: &[Column]) -> Result<String, Exit> {
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
            Format::Table => Table {
                titles: columns.iter().map(|column| column.title).collect(),
                rows: vec![columns.iter().map(|column| column.cell.clone()).collect()],
            }
            .to_string(),
            Format::Protobuf => return Err(Exit::new(BAD_FEATURE, "protobuf not supported as output format")),
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
    let plain = |title, field, value: String| column(title, value.clone(), field, value);
    vec![
        column("hash", format!("{:x}", status.hash), "Hash", status.hash.to_string()),
        plain("revision", "Revision", status.revision.to_string()),
        plain("total keys", "Keys", status.total_key.to_string()),
        column(
            "total size",
            human_bytes(status.total_size),
            "Size",
            status.total_size.to_string(),
        ),
        plain("version", "Version", status.version.clone()),
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
        column("hash", "Hash", hash.hash.to_string()),
        column("hash revision", "Hash revision", hash.hash_revision.to_string()),
        column(
            "compact revision",
            "Compact revision",
            hash.compact_revision.to_string(),
        ),
    ]
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
        let Ok(text) = format.render(&status(), &status_columns(&status())) else {
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
        assert!(Format::Protobuf.render(&status(), &[]).is_err());
    }
}
