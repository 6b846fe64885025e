//! Members, endpoints, alarms, leadership, versions.

use prost::Message;
use proto::etcdserverpb as pb;

use super::{Answer, Style, header_json, header_lines, id};
use crate::etcdctl::json::{Json, Object};
use crate::gotext::{human_bytes, quote};
use crate::table::Table;

pub(crate) struct MemberAdd(pub pb::MemberAddResponse);
pub(crate) struct MemberList(pub pb::MemberListResponse);
/// A member removed, updated or promoted: what the simple format says, and what upstream's messages have in common.
pub(crate) struct MemberChange {
    pub id: u64,
    /// Such as `removed from`.
    pub done: &'static str,
    pub header: Option<pb::ResponseHeader>,
    pub members: Vec<pb::Member>,
}
pub(crate) struct Alarms(pub pb::AlarmResponse);
pub(crate) struct MoveLeader {
    pub from: u64,
    pub to: u64,
    pub response: pb::MoveLeaderResponse,
}
/// What was done, such as `validate`, and the answer.
pub(crate) struct Downgrade(pub &'static str, pub pb::DowngradeResponse);

pub(crate) struct EndpointHealth {
    pub endpoint: String,
    pub health: bool,
    pub took: String,
    pub error: String,
}
pub(crate) struct Healths(pub Vec<EndpointHealth>);
pub(crate) struct EndpointStatus {
    pub endpoint: String,
    pub status: pb::StatusResponse,
}
pub(crate) struct Statuses(pub Vec<EndpointStatus>);
pub(crate) struct EndpointHash {
    pub endpoint: String,
    pub hash: pb::HashKvResponse,
}
pub(crate) struct Hashes(pub Vec<EndpointHash>);

fn rows_simple(table: &Table) -> Vec<u8> {
    table
        .rows
        .iter()
        .map(|row| format!("{}\n", row.join(", ")))
        .collect::<String>()
        .into_bytes()
}

/// Go prints an empty list that was never filled as null.
fn list(values: Vec<Json>) -> Json {
    if values.is_empty() {
        Json::Null
    } else {
        Json::Array(values)
    }
}

fn member_json(member: &pb::Member, hex: bool) -> Json {
    let object = Object::new();
    let object = match hex {
        true => object.always("ID", Json::text(format!("{:x}", member.id))),
        false => object.number("ID", member.id),
    };
    object
        .text("name", &member.name)
        .array("peerURLs", member.peer_ur_ls.iter().map(Json::text).collect())
        .array("clientURLs", member.client_ur_ls.iter().map(Json::text).collect())
        .bool("isLearner", member.is_learner)
        .done()
}

/// Header and members as the member commands show them; with `hex` ids are texts and all fields are there.
fn members_json(
    header: Option<&pb::ResponseHeader>,
    member: Option<&pb::Member>,
    members: &[pb::Member],
    hex: bool,
) -> Json {
    let members: Vec<Json> = members.iter().map(|member| member_json(member, hex)).collect();
    let member = member.map(|member| member_json(member, hex));
    if !hex {
        return Object::new()
            .some("header", header_json(header))
            .some("member", member)
            .array("members", members)
            .done();
    }
    let header = header.map_or(Json::Null, |header| {
        Object::new()
            .always("cluster_id", Json::text(format!("{:x}", header.cluster_id)))
            .always("member_id", Json::text(format!("{:x}", header.member_id)))
            .number("revision", header.revision)
            .number("raft_term", header.raft_term)
            .done()
    });
    Object::new()
        .always("header", header)
        .some("member", member)
        .always("members", Json::Array(members))
        .done()
}

fn cluster_id(header: Option<&pb::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.cluster_id)
}

impl Answer for MemberAdd {
    fn simple(&self, _style: Style) -> Vec<u8> {
        let member = self.0.member.clone().unwrap_or_default();
        let role = if member.is_learner { " as learner " } else { " " };
        let cluster = cluster_id(self.0.header.as_ref());
        format!("Member {:16x} added{role}to cluster {cluster:16x}\n", member.id).into_bytes()
    }

    fn json(&self, hex: bool) -> Json {
        members_json(self.0.header.as_ref(), self.0.member.as_ref(), &self.0.members, hex)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

impl Answer for MemberChange {
    fn simple(&self, _style: Style) -> Vec<u8> {
        let cluster = cluster_id(self.header.as_ref());
        format!("Member {:16x} {} cluster {cluster:16x}\n", self.id, self.done).into_bytes()
    }

    fn json(&self, hex: bool) -> Json {
        members_json(self.header.as_ref(), None, &self.members, hex)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        // Removal, update and promotion answer with the same fields.
        let (header, members) = (self.header, self.members.clone());
        Some(pb::MemberRemoveResponse { header, members }.encode_to_vec())
    }
}

impl Answer for MemberList {
    fn simple(&self, _style: Style) -> Vec<u8> {
        self.table().map(|table| rows_simple(&table)).unwrap_or_default()
    }

    fn json(&self, hex: bool) -> Json {
        members_json(self.0.header.as_ref(), None, &self.0.members, hex)
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        for member in &self.0.members {
            out.push_str(&format!(
                "\"ID\" : {}\n\"Name\" : {}\n",
                id(hex, member.id),
                quote(member.name.as_bytes())
            ));
            for url in &member.peer_ur_ls {
                out.push_str(&format!("\"PeerURL\" : {}\n", quote(url.as_bytes())));
            }
            for url in &member.client_ur_ls {
                out.push_str(&format!("\"ClientURL\" : {}\n", quote(url.as_bytes())));
            }
            out.push_str(&format!("\"IsLearner\" : {}\n\n", member.is_learner));
        }
        Some(out)
    }

    fn table(&self) -> Option<Table> {
        let rows = self.0.members.iter().map(|member| {
            vec![
                format!("{:x}", member.id),
                if member.name.is_empty() { "unstarted" } else { "started" }.to_owned(),
                member.name.clone(),
                member.peer_ur_ls.join(","),
                member.client_ur_ls.join(","),
                member.is_learner.to_string(),
            ]
        });
        Some(Table {
            titles: vec!["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"],
            rows: rows.collect(),
        })
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

fn alarm_name(alarm: i32) -> String {
    match pb::AlarmType::try_from(alarm) {
        Ok(pb::AlarmType::None) => "NONE".into(),
        Ok(pb::AlarmType::Nospace) => "NOSPACE".into(),
        Ok(pb::AlarmType::Corrupt) => "CORRUPT".into(),
        Err(_) => alarm.to_string(),
    }
}

impl Answer for Alarms {
    /// As Go prints a message: fields that are zero are left out.
    fn simple(&self, _style: Style) -> Vec<u8> {
        let mut out = String::new();
        for alarm in &self.0.alarms {
            let mut parts = Vec::new();
            if alarm.member_id != 0 {
                parts.push(format!("memberID:{}", alarm.member_id));
            }
            if alarm.alarm != 0 {
                parts.push(format!("alarm:{}", alarm_name(alarm.alarm)));
            }
            out.push_str(&parts.join(" "));
            out.push('\n');
        }
        out.into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        let alarms = self.0.alarms.iter().map(|alarm| {
            Object::new()
                .number("memberID", alarm.member_id)
                .number("alarm", alarm.alarm)
                .done()
        });
        Object::new()
            .some("header", header_json(self.0.header.as_ref()))
            .array("alarms", alarms.collect())
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.0.header.as_ref(), hex);
        for alarm in &self.0.alarms {
            let member = id(hex, alarm.member_id);
            let kind = alarm_name(alarm.alarm);
            out.push_str(&format!("\"MemberID\" : {member}\n\"AlarmType\" : {kind}\n\n"));
        }
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

impl Answer for MoveLeader {
    fn simple(&self, _style: Style) -> Vec<u8> {
        format!("Leadership transferred from {:x} to {:x}\n", self.from, self.to).into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.response.header.as_ref()))
            .done()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.response.encode_to_vec())
    }
}

impl Answer for Downgrade {
    fn simple(&self, _style: Style) -> Vec<u8> {
        format!("Downgrade {} success, cluster version {}\n", self.0, self.1.version).into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.1.header.as_ref()))
            .text("version", &self.1.version)
            .done()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.1.encode_to_vec())
    }
}

impl Answer for Healths {
    fn simple(&self, _style: Style) -> Vec<u8> {
        let mut out = String::new();
        for health in &self.0 {
            let EndpointHealth {
                endpoint, took, error, ..
            } = health;
            if error.is_empty() {
                out.push_str(&format!(
                    "{endpoint} is healthy: successfully committed proposal: took = {took}\n"
                ));
            } else {
                eprintln!("{endpoint} is unhealthy: failed to commit proposal: {error}");
            }
        }
        out.into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        let healths = self.0.iter().map(|health| {
            Object::new()
                .always("endpoint", Json::text(health.endpoint.clone()))
                .always("health", Json::Bool(health.health))
                .always("took", Json::text(health.took.clone()))
                .text("error", &health.error)
                .done()
        });
        list(healths.collect())
    }

    fn fields(&self, _hex: bool) -> Option<String> {
        let mut out = String::new();
        for health in &self.0 {
            out.push_str(&format!(
                "\"Endpoint\" : {}\n\"Health\" : {}\n\"Took\" : {}\n\"Error\" : {}\n\n",
                quote(health.endpoint.as_bytes()),
                health.health,
                health.took,
                health.error
            ));
        }
        Some(out)
    }

    fn table(&self) -> Option<Table> {
        let rows = self.0.iter().map(|health| {
            vec![
                health.endpoint.clone(),
                health.health.to_string(),
                health.took.clone(),
                health.error.clone(),
            ]
        });
        Some(Table {
            titles: vec!["endpoint", "health", "took", "error"],
            rows: rows.collect(),
        })
    }
}

impl Answer for Statuses {
    fn simple(&self, _style: Style) -> Vec<u8> {
        self.table().map(|table| rows_simple(&table)).unwrap_or_default()
    }

    fn json(&self, _hex: bool) -> Json {
        let statuses = self.0.iter().map(|EndpointStatus { endpoint, status }| {
            let downgrade = status.downgrade_info.as_ref().map(|info| {
                Object::new()
                    .bool("enabled", info.enabled)
                    .text("targetVersion", &info.target_version)
                    .done()
            });
            let status = Object::new()
                .some("header", header_json(status.header.as_ref()))
                .text("version", &status.version)
                .number("dbSize", status.db_size)
                .number("leader", status.leader)
                .number("raftIndex", status.raft_index)
                .number("raftTerm", status.raft_term)
                .number("raftAppliedIndex", status.raft_applied_index)
                .array("errors", status.errors.iter().map(Json::text).collect())
                .number("dbSizeInUse", status.db_size_in_use)
                .bool("isLearner", status.is_learner)
                .text("storageVersion", &status.storage_version)
                .number("dbSizeQuota", status.db_size_quota)
                .some("downgradeInfo", downgrade)
                .done();
            Object::new()
                .always("Endpoint", Json::text(endpoint.clone()))
                .always("Status", status)
                .done()
        });
        list(statuses.collect())
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = String::new();
        for EndpointStatus { endpoint, status } in &self.0 {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            out.push_str(&header_lines(status.header.as_ref(), hex));
            out.push_str(&format!(
                "\"Version\" : {}\n\"StorageVersion\" : {}\n\"DBSize\" : {}\n\"DBSizeInUse\" : {}\n\"DBSizeQuota\" : {}\n",
                quote(status.version.as_bytes()),
                quote(status.storage_version.as_bytes()),
                status.db_size,
                status.db_size_in_use,
                status.db_size_quota
            ));
            out.push_str(&format!(
                "\"Leader\" : {}\n\"IsLearner\" : {}\n\"RaftIndex\" : {}\n\"RaftAppliedIndex\" : {}\n\"Errors\" : [{}]\n",
                status.leader,
                status.is_learner,
                status.raft_index,
                status.raft_applied_index,
                status.errors.join(" ")
            ));
            out.push_str(&format!(
                "\"Endpoint\" : {}\n\"DowngradeTargetVersion\" : {}\n\"DowngradeEnabled\" : {}\n\n",
                quote(endpoint.as_bytes()),
                quote(downgrade.target_version.as_bytes()),
                downgrade.enabled
            ));
        }
        Some(out)
    }

    fn table(&self) -> Option<Table> {
        let size = |bytes: i64| human_bytes(u64::try_from(bytes).unwrap_or_default());
        let rows = self.0.iter().map(|EndpointStatus { endpoint, status }| {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            let member = status.header.as_ref().map_or(0, |header| header.member_id);
            // An empty size makes upstream divide by zero; it is no percentage either.
            let in_use = (status.db_size_in_use * 100).checked_div(status.db_size).unwrap_or(100);
            vec![
                endpoint.clone(),
                format!("{member:x}"),
                status.version.clone(),
                status.storage_version.clone(),
                size(status.db_size),
                size(status.db_size_in_use),
                format!("{}%", 100 - in_use),
                size(status.db_size_quota),
                (status.leader == member).to_string(),
                status.is_learner.to_string(),
                status.raft_term.to_string(),
                status.raft_index.to_string(),
                status.raft_applied_index.to_string(),
                status.errors.join(", "),
                downgrade.target_version,
                downgrade.enabled.to_string(),
            ]
        });
        Some(Table {
            titles: vec![
                "endpoint",
                "ID",
                "version",
                "storage version",
                "db size",
                "in use",
                "percentage not in use",
                "quota",
                "is leader",
                "is learner",
                "raft term",
                "raft index",
                "raft applied index",
                "errors",
                "downgrade target version",
                "downgrade enabled",
            ],
            rows: rows.collect(),
        })
    }
}

impl Answer for Hashes {
    fn simple(&self, _style: Style) -> Vec<u8> {
        self.table().map(|table| rows_simple(&table)).unwrap_or_default()
    }

    fn json(&self, _hex: bool) -> Json {
        let hashes = self.0.iter().map(|EndpointHash { endpoint, hash }| {
            let hash = Object::new()
                .some("header", header_json(hash.header.as_ref()))
                .number("hash", hash.hash)
                .number("compact_revision", hash.compact_revision)
                .number("hash_revision", hash.hash_revision)
                .done();
            Object::new()
                .always("Endpoint", Json::text(endpoint.clone()))
                .always("HashKV", hash)
                .done()
        });
        list(hashes.collect())
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = String::new();
        for EndpointHash { endpoint, hash } in &self.0 {
            out.push_str(&header_lines(hash.header.as_ref(), hex));
            out.push_str(&format!(
                "\"Endpoint\" : {}\n\"Hash\" : {}\n\"HashRevision\" : {}\n\n",
                quote(endpoint.as_bytes()),
                hash.hash,
                hash.hash_revision
            ));
        }
        Some(out)
    }

    fn table(&self) -> Option<Table> {
        let rows = self.0.iter().map(|EndpointHash { endpoint, hash }| {
            vec![endpoint.clone(), hash.hash.to_string(), hash.hash_revision.to_string()]
        });
        Some(Table {
            titles: vec!["endpoint", "hash", "hash_revision"],
            rows: rows.collect(),
        })
    }
}
