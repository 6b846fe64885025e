//! Writes objects: by server-side apply under one field manager, never over an object of somebody else.
//!
//! Invariants:
//! 1. An object with one of our names that has no owner reference with this cluster's uid is refused, with its name.
//! 2. What is as it was last applied, by its resource version, costs no request but a read now and then.
//! 3. A delete carries the uid and the resource version of what was looked at.

use super::Failure;
use super::names::FIELD_MANAGER;
use crate::clock::{self, Instant};
use crate::plan::resources::short_hash;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

/// An object that needs nothing is looked at again this often, should nobody have told that it changed.
pub const LOOK_EVERY: Duration = Duration::from_secs(300);

/// What was applied, so that it is not applied again.
#[derive(Debug, Default)]
pub struct Applied {
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    hash: String,
    resource_version: String,
    at: Instant,
    /// Somebody may have changed it since.
    doubtful: bool,
}

impl Applied {
    /// Something happened to objects of the cluster: look at them at the next call.
    pub fn look_again(&mut self) {
        for known in self.known.values_mut() {
            known.doubtful = true;
        }
    }

    /// Makes sure that there is no object of this name that is ours. `owner` is the uid of the cluster.
    pub async fn absent<K>(&mut self, api: &Api<K>, name: &str, owner: &str) -> Result<(), Failure>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let key = format!("{}/{name}", K::kind(&()));
        if let Some(known) = self.known.get(&key)
            && known.hash.is_empty()
            && !known.doubtful
            && clock::since(known.at) < LOOK_EVERY
        {
            return Ok(());
        }
        if let Some(live) = api.get_metadata_opt(name).await?
            && is_ours(&live, owner)
        {
            delete(api, &live, None).await?;
        }
        let known = Known {
            hash: String::new(),
            resource_version: String::new(),
            at: clock::now(),
            doubtful: false,
        };
        self.known.insert(key, known);
        Ok(())
    }

    /// Makes sure that `object` is there as it is given. `owner` is the uid of the cluster.
    pub async fn apply<K>(&mut self, api: &Api<K>, object: &K, owner: &str) -> Result<(), Failure>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let name = object.name_any();
        let key = format!("{}/{name}", K::kind(&()));
        let hash = short_hash(&serde_json::to_string(object).unwrap_or_default());
        if let Some(known) = self.known.get(&key)
            && known.hash == hash
            && !known.doubtful
            && clock::since(known.at) < LOOK_EVERY
        {
            return Ok(());
        }
        let live = api.get_opt(&name).await?;
        let stored = match live {
            Some(live) => {
                must_be_ours(&live, owner)?;
                let same = self.known.get(&key).is_some_and(|known| {
                    known.hash == hash && Some(&known.resource_version) == live.resource_version().as_ref()
                });
                match same {
                    true => live,
                    false => {
                        let mut params = PatchParams::apply(FIELD_MANAGER);
                        params.force = true;
                        // The uid makes sure that it is the object that was looked at.
                        let mut pinned = object.clone();
                        pinned.meta_mut().uid = live.uid();
                        api.patch(&name, &params, &Patch::Apply(&Typed::new(&pinned))).await?
                    }
                }
            }
            // Not forced: over what somebody else made in between, this is a conflict.
            None => {
                let params = PatchParams::apply(FIELD_MANAGER);
                api.patch(&name, &params, &Patch::Apply(&Typed::new(object))).await?
            }
        };
        let known = Known {
            hash,
            resource_version: stored.resource_version().unwrap_or_default(),
            at: clock::now(),
            doubtful: false,
        };
        self.known.insert(key, known);
        Ok(())
    }
}

/// An object with its type, which server-side apply needs in the body.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Typed<'a, K> {
    api_version: String,
    kind: String,
    #[serde(flatten)]
    object: &'a K,
}

impl<'a, K: Resource<DynamicType = ()>> Typed<'a, K> {
    fn new(object: &'a K) -> Self {
        Typed {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            object,
        }
    }
}

/// Parameters of a creation.
pub fn post() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// Whether the owner with this uid controls the object.
pub fn is_ours<K: Resource>(object: &K, owner: &str) -> bool {
    let owners = object.meta().owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|reference| reference.uid == owner)
}

/// Refuses an object that is somebody else's.
pub fn must_be_ours<K: Resource<DynamicType = ()>>(object: &K, owner: &str) -> Result<(), Failure> {
    if is_ours(object, owner) {
        return Ok(());
    }
    Err(Failure::Taken {
        kind: K::kind(&()).into_owned(),
        name: object.name_any(),
    })
}

/// Deletes what was looked at, and nothing else. That it is gone already is fine.
pub async fn delete<K>(api: &Api<K>, seen: &impl ResourceExt, grace: Option<u32>) -> Result<(), Failure>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let params = DeleteParams {
        grace_period_seconds: grace,
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: seen.uid(),
            resource_version: seen.resource_version(),
        }),
        ..DeleteParams::default()
    };
    match api.delete(&seen.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
