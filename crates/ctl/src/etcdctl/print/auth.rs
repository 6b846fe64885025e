//! Users, roles and permissions.

use prost::Message;
use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;

use super::{Answer, Style, header_json, header_lines};
use crate::etcdctl::json::{Json, Object};
use crate::etcdctl::keys::prefix_end;
use crate::gotext::quote;

/// An answer that is a header alone, and what the simple format says about it.
pub(crate) struct Said {
    pub text: String,
    pub header: Option<pb::ResponseHeader>,
}

pub(crate) struct UserGet(pub String, pub pb::AuthUserGetResponse);
pub(crate) struct UserList(pub pb::AuthUserListResponse);
pub(crate) struct RoleGet(pub String, pub pb::AuthRoleGetResponse);
pub(crate) struct RoleList(pub pb::AuthRoleListResponse);
pub(crate) struct AuthStatus(pub pb::AuthStatusResponse);

impl Answer for Said {
    fn simple(&self, _style: Style) -> Vec<u8> {
        format!("{}\n", self.text).into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new().some("header", header_json(self.header.as_ref())).done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        Some(header_lines(self.header.as_ref(), hex))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        // All these messages have the header as their only field, with number 1.
        let header = self.header;
        Some(pb::AuthUserAddResponse { header }.encode_to_vec())
    }
}

impl Answer for UserGet {
    fn simple(&self, _style: Style) -> Vec<u8> {
        let roles: String = self.1.roles.iter().map(|role| format!(" {role}")).collect();
        format!("User: {}\nRoles:{roles}\n", self.0).into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.1.header.as_ref()))
            .array("roles", self.1.roles.iter().map(Json::text).collect())
            .done()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.1.encode_to_vec())
    }
}

impl Answer for UserList {
    fn simple(&self, _style: Style) -> Vec<u8> {
        self.0
            .users
            .iter()
            .map(|user| format!("{user}\n"))
            .collect::<String>()
            .into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.0.header.as_ref()))
            .array("users", self.0.users.iter().map(Json::text).collect())
            .done()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

/// A role and what it permits.
fn role_get_text(role: &str, permissions: &[Permission]) -> Vec<u8> {
    let mut out = format!("Role {role}\n").into_bytes();
    if role == "root" && permissions.is_empty() {
        out.extend_from_slice(b"KV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>\n");
        return out;
    }
    for (title, wanted) in [("KV Read:\n", Type::Read), ("KV Write:\n", Type::Write)] {
        out.extend_from_slice(title.as_bytes());
        let matching = permissions.iter().filter(|permission| {
            let kind = permission.perm_type();
            kind == wanted || kind == Type::Readwrite
        });
        for permission in matching {
            let (key, end) = (&permission.key[..], &permission.range_end[..]);
            out.push(b'\t');
            if end.is_empty() {
                out.extend_from_slice(key);
            } else {
                out.push(b'[');
                out.extend_from_slice(key);
                out.extend_from_slice(b", ");
                if end == b"\0" {
                    out.extend_from_slice(b"<open ended>");
                } else {
                    out.extend_from_slice(end);
                    out.push(b')');
                }
                if !key.is_empty() && prefix_end(key) == end {
                    out.extend_from_slice(b" (prefix ");
                    out.extend_from_slice(key);
                    out.push(b')');
                }
            }
            out.push(b'\n');
        }
    }
    out
}

fn type_name(permission: &Permission) -> String {
    match Type::try_from(permission.perm_type) {
        Ok(Type::Read) => "READ".into(),
        Ok(Type::Write) => "WRITE".into(),
        Ok(Type::Readwrite) => "READWRITE".into(),
        Err(_) => permission.perm_type.to_string(),
    }
}

impl Answer for RoleGet {
    fn simple(&self, _style: Style) -> Vec<u8> {
        role_get_text(&self.0, &self.1.perm)
    }

    fn json(&self, _hex: bool) -> Json {
        let permissions = self.1.perm.iter().map(|permission| {
            Object::new()
                .number("permType", permission.perm_type)
                .bytes("key", &permission.key)
                .bytes("range_end", &permission.range_end)
                .done()
        });
        Object::new()
            .some("header", header_json(self.1.header.as_ref()))
            .array("perm", permissions.collect())
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let mut out = header_lines(self.1.header.as_ref(), hex);
        for permission in &self.1.perm {
            out.push_str(&format!(
                "\"PermType\" :  {}\n\"Key\" : {}\n\"RangeEnd\" : {}\n",
                type_name(permission),
                quote(&permission.key),
                quote(&permission.range_end)
            ));
        }
        Some(out)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.1.encode_to_vec())
    }
}

impl Answer for RoleList {
    fn simple(&self, _style: Style) -> Vec<u8> {
        self.0
            .roles
            .iter()
            .map(|role| format!("{role}\n"))
            .collect::<String>()
            .into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.0.header.as_ref()))
            .array("roles", self.0.roles.iter().map(Json::text).collect())
            .done()
    }

    fn fields(&self, hex: bool) -> Option<String> {
        let roles: String = self
            .0
            .roles
            .iter()
            .map(|role| format!(" {}", quote(role.as_bytes())))
            .collect();
        Some(format!(
            "{}\"Roles\" :{roles}\n",
            header_lines(self.0.header.as_ref(), hex)
        ))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

impl Answer for AuthStatus {
    fn simple(&self, _style: Style) -> Vec<u8> {
        format!(
            "Authentication Status: {}\nAuthRevision: {}\n",
            self.0.enabled, self.0.auth_revision
        )
        .into_bytes()
    }

    fn json(&self, _hex: bool) -> Json {
        Object::new()
            .some("header", header_json(self.0.header.as_ref()))
            .bool("enabled", self.0.enabled)
            .number("authRevision", self.0.auth_revision)
            .done()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}
