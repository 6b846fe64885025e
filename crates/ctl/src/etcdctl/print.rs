//! What commands print, in each of etcdctl's formats, byte for byte.
//!
//! Invariant: a format that upstream does not have for an answer is refused in upstream's words and with its exit code.

mod auth;
mod cluster;
mod kv;
mod lease;

use std::io::Write;

use proto::etcdserverpb as pb;

pub(super) use auth::{AuthStatus, RoleGet, RoleList, Said, UserGet, UserList};
pub(super) use cluster::{
    Alarms, Downgrade, EndpointHash, EndpointHealth, EndpointStatus, Hashes, Healths, MemberAdd, MemberChange,
    MemberList, MoveLeader, Statuses,
};
pub(super) use kv::{Delete, Get, Put, Txn, Watch};
pub(super) use lease::{Grant, KeepAlive, Leases, Revoke, TimeToLive};

use super::json::{Json, Object};
use super::{BAD_FEATURE, Exit};
use crate::table::Table;

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Simple,
    Json,
    Protobuf,
    Table,
    Fields,
}

/// How the simple format shows keys and values.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    pub hex: bool,
    pub value_only: bool,
}

/// Something that a command has to say.
pub(super) trait Answer {
    fn simple(&self, style: Style) -> Vec<u8>;

    fn json(&self, hex: bool) -> Json;

    /// `None`: there is no such form.
    fn fields(&self, _hex: bool) -> Option<String> {
        None
    }

    fn table(&self) -> Option<Table> {
        None
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Prints answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Printer {
    pub format: Format,
    pub style: Style,
}

impl Printer {
    pub fn new(format: &str, hex: bool) -> Result<Printer, Exit> {
        let format = match format {
            "simple" => Format::Simple,
            "json" => Format::Json,
            "protobuf" => Format::Protobuf,
            "table" => Format::Table,
            "fields" => Format::Fields,
            _ => return Err(Exit::new(BAD_FEATURE, "unsupported output format")),
        };
        let value_only = false;
        Ok(Printer {
            format,
            style: Style { hex, value_only },
        })
    }

    /// Writes an answer to stdout.
    pub fn print(&self, answer: &impl Answer) -> Result<(), Exit> {
        let unsupported = |name: &str| Exit::new(BAD_FEATURE, format!("{name} not supported as output format"));
        let out = match self.format {
            Format::Simple => answer.simple(self.style),
            Format::Json => format!("{}\n", answer.json(self.style.hex)).into_bytes(),
            Format::Protobuf => answer.protobuf().ok_or_else(|| unsupported("protobuf"))?,
            Format::Table => answer
                .table()
                .ok_or_else(|| unsupported("table"))?
                .to_string()
                .into_bytes(),
            Format::Fields => answer
                .fields(self.style.hex)
                .ok_or_else(|| unsupported("fields"))?
                .into_bytes(),
        };
        write_out(&out);
        Ok(())
    }
}

/// Writes to stdout at once. A reader that has gone away ends the program quietly, as it ends other tools.
pub(super) fn write_out(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(bytes).and_then(|()| stdout.flush()).is_err() {
        std::process::exit(1);
    }
}

fn header_json(header: Option<&pb::ResponseHeader>) -> Option<Json> {
    header.map(|header| header_fields(Object::new(), header).done())
}

fn header_fields(object: Object, header: &pb::ResponseHeader) -> Object {
    object
        .number("cluster_id", header.cluster_id)
        .number("member_id", header.member_id)
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
}

fn id(hex: bool, id: u64) -> String {
    if hex { format!("{id:x}") } else { id.to_string() }
}

fn header_lines(header: Option<&pb::ResponseHeader>, hex: bool) -> String {
    let header = header.copied().unwrap_or_default();
    let mut out = format!(
        "\"ClusterID\" : {}\n\"MemberID\" : {}\n",
        id(hex, header.cluster_id),
        id(hex, header.member_id)
    );
    if header.revision > 0 {
        out.push_str(&format!("\"Revision\" : {}\n", header.revision));
    }
    out.push_str(&format!("\"RaftTerm\" : {}\n", header.raft_term));
    out
}
