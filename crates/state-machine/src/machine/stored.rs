//! What a database holds besides keys, read into the tables of the state machine.
//!
//! Invariant: a record that cannot be read is an error that names it; a member never starts with a part of its state.

use disk::Disk;
use prost::Message;
use proto::leasepb;
use proto::raftpb::ConfState;

use super::{Config, OpenError, Position};
use crate::alarm::Alarms;
use crate::auth::Auth;
use crate::backend::{Backend, Pair};
use crate::conf_state::conf_state_from_json;
use crate::membership::Membership;
use crate::schema::{self, Bucket};
use crate::version::Version;

/// Everything but the key-value store, as a database holds it.
pub(super) struct Tables {
    pub position: Position,
    pub conf_state: Option<ConfState>,
    pub cluster: Membership,
    pub alarms: Alarms,
    pub leases: Vec<leasepb::Lease>,
    pub auth: StoredAuth,
}

/// Users and roles, as a database holds them.
pub(super) struct StoredAuth {
    enabled: bool,
    revision: u64,
    users: Vec<Pair>,
    roles: Vec<Pair>,
}

impl StoredAuth {
    pub fn recover(self, auth: &Auth) -> Result<(), OpenError> {
        let recovered = auth
            .write()
            .recover(self.enabled, self.revision, self.users, self.roles);
        recovered.map_err(|(bucket, key, error)| record(bucket, &key, error.to_string()))
    }
}

impl Tables {
    pub fn read<D: Disk>(backend: &Backend<D>, config: &Config) -> Result<Tables, OpenError> {
        let server = config.server_version.minor_only();
        let meta = |key: &[u8]| backend.get(Bucket::Meta, key);
        if let Some(text) = meta(schema::STORAGE_VERSION)? {
            let storage: Version = String::from_utf8_lossy(&text)
                .parse()
                .map_err(|error| record("meta", schema::STORAGE_VERSION, format!("{error}")))?;
            if storage.minor_only() > server {
                return Err(OpenError::StorageTooNew { storage, server });
            }
        }
        let number = |bucket: Bucket, key: &'static [u8]| -> Result<u64, OpenError> {
            let Some(value) = backend.get(bucket, key)? else {
                return Ok(0);
            };
            let name = if bucket == Bucket::Auth { "auth" } else { "meta" };
            schema::decode_u64(&value).ok_or_else(|| record(name, key, format!("{} bytes instead of 8", value.len())))
        };
        let position = Position {
            index: number(Bucket::Meta, schema::CONSISTENT_INDEX)?,
            term: number(Bucket::Meta, schema::TERM)?,
        };
        let conf_state = match meta(schema::CONF_STATE)? {
            Some(json) => Some(
                conf_state_from_json(&json).map_err(|error| record("meta", schema::CONF_STATE, error.to_string()))?,
            ),
            None => None,
        };
        let all = |bucket| backend.scan(bucket, &[], None, 0);
        let cluster = Membership::recover(
            config.learners_max,
            &all(Bucket::Members)?,
            &all(Bucket::MembersRemoved)?,
            backend.get(Bucket::Cluster, schema::CLUSTER_VERSION)?.as_deref(),
            backend.get(Bucket::Cluster, schema::DOWNGRADE)?.as_deref(),
        )?;
        if let Some(version) = cluster.version()
            && *version > server
        {
            return Err(OpenError::ServerTooOld {
                cluster: version.clone(),
                server,
            });
        }
        // The members are the truth, as etcd 3.7 has it: a restore by etcdutl leaves the old cluster's configuration in `meta`.
        let conf_state = cluster.conf_state().or(conf_state);
        let alarms = Alarms::recover(all(Bucket::Alarm)?.into_iter().map(|(key, _)| key))
            .map_err(|error| record("alarm", b"", error.to_string()))?;
        let leases = all(Bucket::Lease)?
            .into_iter()
            .map(|(key, value)| leasepb::Lease::decode(value).map_err(|error| record("lease", &key, error.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        let auth = StoredAuth {
            enabled: backend
                .get(Bucket::Auth, schema::AUTH_ENABLED)?
                .is_some_and(|value| value[..] == [1]),
            revision: number(Bucket::Auth, schema::AUTH_REVISION)?,
            users: all(Bucket::AuthUsers)?,
            roles: all(Bucket::AuthRoles)?,
        };
        Ok(Tables {
            position,
            conf_state,
            cluster,
            alarms,
            leases,
            auth,
        })
    }
}

fn record(bucket: &'static str, key: &[u8], reason: String) -> OpenError {
    let key = match std::str::from_utf8(key) {
        Ok(text) if text.chars().all(|c| !c.is_control()) => text.to_owned(),
        _ => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    OpenError::Record { bucket, key, reason }
}
