//! Authentication: users, roles, permissions.

use bytes::Bytes;
use proto::authpb::permission::Type;
use proto::authpb::{Permission, UserAddOptions};
use proto::etcdserverpb as pb;

use super::client::{Client, Failure, Policy};
use super::keys::prefix_end;
use super::print::{self, Printer, Said};
use super::{Exit, Session, prompt};
use crate::command_line::Call;

/// Checks the number of arguments.
fn need(run: &Session, count: usize, text: &str) -> Result<(), Exit> {
    match run.call.arguments.len() == count {
        true => Ok(()),
        false => Err(Exit::arguments(text)),
    }
}

pub(super) async fn auth(run: &mut Session, command: &str) -> Result<(), Exit> {
    need(run, 0, &format!("auth {command} command does not accept any arguments"))?;
    let (client, printer) = run.client().await?;
    let deadline = run.deadline();
    match command {
        "status" => {
            let request = pb::AuthStatusRequest {};
            let answer = client
                .call("/etcdserverpb.Auth/AuthStatus", Policy::Once, &request, deadline)
                .await?;
            printer.print(&print::AuthStatus(answer))
        }
        "enable" => {
            let enable = || client.call("/etcdserverpb.Auth/AuthEnable", Policy::Once, &ENABLE, deadline);
            let first: Result<pb::AuthEnableResponse, Failure> = enable().await;
            match first {
                Ok(_) => {}
                Err(failure) if failure.is("etcdserver: root user does not have root role") => {
                    give_root(&client, deadline).await?;
                    let _again: pb::AuthEnableResponse = enable().await?;
                }
                Err(failure) => return Err(failure.into()),
            }
            print::write_out(b"Authentication Enabled\n");
            Ok(())
        }
        _ => {
            let request = pb::AuthDisableRequest {};
            let _answer: pb::AuthDisableResponse = client
                .call("/etcdserverpb.Auth/AuthDisable", Policy::Once, &request, deadline)
                .await?;
            print::write_out(b"Authentication Disabled\n");
            Ok(())
        }
    }
}

const ENABLE: pb::AuthEnableRequest = pb::AuthEnableRequest {};

/// Makes the role root, and gives it to the user root.
async fn give_root(client: &Client, deadline: Option<std::time::Instant>) -> Result<(), Failure> {
    let root = || "root".to_owned();
    let request = pb::AuthRoleAddRequest { name: root() };
    let _added: pb::AuthRoleAddResponse = client
        .call("/etcdserverpb.Auth/RoleAdd", Policy::Once, &request, deadline)
        .await?;
    let request = pb::AuthUserGrantRoleRequest {
        user: root(),
        role: root(),
    };
    let _granted: pb::AuthUserGrantRoleResponse = client
        .call("/etcdserverpb.Auth/UserGrantRole", Policy::Once, &request, deadline)
        .await?;
    Ok(())
}

/// What an answer says in the simple format, printed.
fn say(printer: Printer, text: String, header: Option<pb::ResponseHeader>) -> Result<(), Exit> {
    printer.print(&Said { text, header })
}

/// A password that is typed twice.
fn new_password(name: &str) -> Result<String, Exit> {
    let ask = |text: String| {
        prompt::password(&text).map_err(|error| Exit::arguments(format!("failed to ask password: {error}")))
    };
    let first = ask(format!("Password of {name}: "))?;
    if first.is_empty() {
        return Err(Exit::arguments("empty password"));
    }
    let second = ask(format!("Type password of {name} again for confirmation: "))?;
    if first != second {
        return Err(Exit::arguments("given passwords are different"));
    }
    Ok(first)
}

/// The first word of a line of stdin.
fn password_from_stdin() -> String {
    let line = prompt::line(&mut std::io::stdin()).unwrap_or_default();
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

fn new_user(call: &Call) -> Result<(String, String), Exit> {
    let given = call.argument(0);
    if call.bool("no-password") {
        return Ok((given, String::new()));
    }
    let from_flag = call.text("new-user-password");
    if !from_flag.is_empty() {
        return Ok((given, from_flag));
    }
    match given.split_once(':') {
        Some(("", _)) => Err(Exit::arguments("empty user name is not allowed")),
        Some((name, password)) => Ok((name.to_owned(), password.to_owned())),
        None if call.bool("interactive") => {
            let password = new_password(&given)?;
            Ok((given, password))
        }
        None => Ok((given, password_from_stdin())),
    }
}

pub(super) async fn user(run: &mut Session, command: &str) -> Result<(), Exit> {
    let name = run.call.argument(0);
    let role = run.call.argument(1);
    match command {
        "add" => {
            need(run, 1, "user add command requires user name as its argument")?;
            let (name, password) = new_user(&run.call)?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthUserAddRequest {
                name: name.clone(),
                password,
                options: Some(UserAddOptions {
                    no_password: run.call.bool("no-password"),
                }),
                hashed_password: String::new(),
            };
            let method = "/etcdserverpb.Auth/UserAdd";
            let answer: pb::AuthUserAddResponse = client.call(method, Policy::Once, &request, None).await?;
            say(printer, format!("User {name} created"), answer.header)
        }
        "delete" => {
            need(run, 1, "user delete command requires user name as its argument")?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthUserDeleteRequest { name: name.clone() };
            let method = "/etcdserverpb.Auth/UserDelete";
            let answer: pb::AuthUserDeleteResponse = client.call(method, Policy::Once, &request, None).await?;
            say(printer, format!("User {name} deleted"), answer.header)
        }
        "get" => user_get(run, name).await,
        "list" => {
            need(run, 0, "user list command requires no arguments")?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthUserListRequest {};
            let method = "/etcdserverpb.Auth/UserList";
            let answer = client.call(method, Policy::Repeatable, &request, None).await?;
            printer.print(&print::UserList(answer))
        }
        "passwd" => {
            need(run, 1, "user passwd command requires user name as its argument")?;
            let password = match run.call.bool("interactive") {
                true => new_password(&name)?,
                false => password_from_stdin(),
            };
            let (client, printer) = run.client().await?;
            let request = pb::AuthUserChangePasswordRequest {
                name,
                password,
                hashed_password: String::new(),
            };
            let method = "/etcdserverpb.Auth/UserChangePassword";
            let answer: pb::AuthUserChangePasswordResponse = client.call(method, Policy::Once, &request, None).await?;
            say(printer, "Password updated".into(), answer.header)
        }
        "grant-role" => {
            need(
                run,
                2,
                "user grant command requires user name and role name as its argument",
            )?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthUserGrantRoleRequest {
                user: name.clone(),
                role: role.clone(),
            };
            let method = "/etcdserverpb.Auth/UserGrantRole";
            let answer: pb::AuthUserGrantRoleResponse = client.call(method, Policy::Once, &request, None).await?;
            say(printer, format!("Role {role} is granted to user {name}"), answer.header)
        }
        _ => {
            need(
                run,
                2,
                "user revoke-role requires user name and role name as its argument",
            )?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthUserRevokeRoleRequest {
                name: name.clone(),
                role: role.clone(),
            };
            let method = "/etcdserverpb.Auth/UserRevokeRole";
            let answer: pb::AuthUserRevokeRoleResponse = client.call(method, Policy::Once, &request, None).await?;
            say(
                printer,
                format!("Role {role} is revoked from user {name}"),
                answer.header,
            )
        }
    }
}

async fn user_get(run: &mut Session, name: String) -> Result<(), Exit> {
    need(run, 1, "user get command requires user name as its argument")?;
    let (client, printer) = run.client().await?;
    let request = pb::AuthUserGetRequest { name: name.clone() };
    let method = "/etcdserverpb.Auth/UserGet";
    let answer: pb::AuthUserGetResponse = client.call(method, Policy::Repeatable, &request, None).await?;
    if !run.call.bool("detail") {
        return printer.print(&print::UserGet(name, answer));
    }
    print::write_out(format!("User: {name}\n").as_bytes());
    for role in answer.roles {
        print::write_out(b"\n");
        let permissions = role_get(&client, &role).await?;
        printer.print(&print::RoleGet(role, permissions))?;
    }
    Ok(())
}

async fn role_get(client: &Client, role: &str) -> Result<pb::AuthRoleGetResponse, Failure> {
    let request = pb::AuthRoleGetRequest { role: role.to_owned() };
    client
        .call("/etcdserverpb.Auth/RoleGet", Policy::Repeatable, &request, None)
        .await
}

/// Key and end of the range that a permission is about.
fn permission_range(call: &Call, arguments: &[Vec<u8>]) -> Result<(Bytes, Bytes), Exit> {
    let (prefix, from_key) = (call.bool("prefix"), call.bool("from-key"));
    let exclusive = || Exit::arguments("--from-key and --prefix flags are mutually exclusive");
    let zero = Bytes::from_static(b"\0");
    let key: Bytes = arguments[0].clone().into();
    if key.is_empty() {
        if prefix && from_key {
            return Err(exclusive());
        }
        let end = if prefix || from_key { zero.clone() } else { Bytes::new() };
        return Ok((zero, end));
    }
    let Some(end) = arguments.get(1) else {
        return match (prefix, from_key) {
            (true, true) => Err(exclusive()),
            (true, false) => Ok((key.clone(), prefix_end(&key).into())),
            (false, true) => Ok((key, zero)),
            (false, false) => Ok((key, Bytes::new())),
        };
    };
    if prefix {
        return Err(Exit::arguments("unexpected endkey argument with --prefix flag"));
    }
    if from_key {
        return Err(Exit::arguments("unexpected endkey argument with --from-key flag"));
    }
    Ok((key, end.clone().into()))
}

pub(super) async fn role(run: &mut Session, command: &str) -> Result<(), Exit> {
    let name = run.call.argument(0);
    match command {
        "add" => {
            need(run, 1, "role add command requires role name as its argument")?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthRoleAddRequest { name: name.clone() };
            let method = "/etcdserverpb.Auth/RoleAdd";
            let answer: pb::AuthRoleAddResponse = client.call(method, Policy::Once, &request, None).await?;
            say(printer, format!("Role {name} created"), answer.header)
        }
        "delete" => {
            need(run, 1, "role delete command requires role name as its argument")?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthRoleDeleteRequest { role: name.clone() };
            let method = "/etcdserverpb.Auth/RoleDelete";
            let answer: pb::AuthRoleDeleteResponse = client.call(method, Policy::Once, &request, None).await?;
            say(printer, format!("Role {name} deleted"), answer.header)
        }
        "get" => {
            need(run, 1, "role get command requires role name as its argument")?;
            let (client, printer) = run.client().await?;
            let answer = role_get(&client, &name).await?;
            printer.print(&print::RoleGet(name, answer))
        }
        "list" => {
            need(run, 0, "role list command requires no arguments")?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthRoleListRequest {};
            let method = "/etcdserverpb.Auth/RoleList";
            let answer = client.call(method, Policy::Repeatable, &request, None).await?;
            printer.print(&print::RoleList(answer))
        }
        "grant-permission" => {
            if run.call.arguments.len() < 3 {
                let text = "role grant command requires role name, permission type, and key [endkey] as its argument";
                return Err(Exit::arguments(text));
            }
            let kind = run.call.argument(1);
            let perm_type = match kind.to_uppercase().as_str() {
                "READ" => Type::Read,
                "WRITE" => Type::Write,
                "READWRITE" => Type::Readwrite,
                _ => return Err(Exit::arguments(format!("invalid permission type: {kind}"))),
            };
            let (key, range_end) = permission_range(&run.call, &run.call.arguments[2..])?;
            let (client, printer) = run.client().await?;
            let request = pb::AuthRoleGrantPermissionRequest {
                name: name.clone(),
                perm: Some(Permission {
                    perm_type: perm_type.into(),
                    key,
                    range_end,
                }),
            };
            let method = "/etcdserverpb.Auth/RoleGrantPermission";
            let answer: pb::AuthRoleGrantPermissionResponse = client.call(method, Policy::Once, &request, None).await?;
            say(printer, format!("Role {name} updated"), answer.header)
        }
        _ => {
            if run.call.arguments.len() < 2 {
                let text = "role revoke-permission command requires role name and key [endkey] as its argument";
                return Err(Exit::arguments(text));
            }
            let (key, range_end) = permission_range(&run.call, &run.call.arguments[1..])?;
            let (client, printer) = run.client().await?;
            let given = run.call.argument(1);
            let end = String::from_utf8_lossy(&range_end).into_owned();
            let text = match end.as_str() {
                "" => format!("Permission of key {given} is revoked from role {name}"),
                "\0" => format!("Permission of range [{given}, <open ended> is revoked from role {name}"),
                end => format!("Permission of range [{given}, {end}) is revoked from role {name}"),
            };
            let request = pb::AuthRoleRevokePermissionRequest {
                role: name,
                key,
                range_end,
            };
            let method = "/etcdserverpb.Auth/RoleRevokePermission";
            let answer: pb::AuthRoleRevokePermissionResponse =
                client.call(method, Policy::Once, &request, None).await?;
            say(printer, text, answer.header)
        }
    }
}
