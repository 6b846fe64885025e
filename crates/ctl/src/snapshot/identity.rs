//! Who the members of the restored cluster are, as the flags say (etcd server/config, VerifyBootstrap).

use std::collections::{BTreeMap, BTreeSet};

use state_machine::membership::Change;
use state_machine::membership::{BadUrls, Member, Membership, cluster_id, parse_initial_cluster, parse_urls};

/// Flags that do not make a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BadFlags {
    /// A URL.
    #[error("--{flag}: {error}")]
    Urls {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        error: BadUrls,
    },
    /// This member is not in the list.
    #[error("couldn't find local name {name:?} in the initial cluster configuration")]
    NoLocalMember {
        /// Its name.
        name: String,
    },
    /// The two flags disagree.
    #[error("--initial-cluster has {name}={in_cluster} but --initial-advertise-peer-urls={advertised}")]
    UrlsDiffer {
        /// This member's name.
        name: String,
        /// Its URLs in the list.
        in_cluster: String,
        /// Its URLs as it advertises them.
        advertised: String,
    },
    /// Two members at one address.
    #[error("initial cluster {list} has duplicate url")]
    DuplicateUrl {
        /// The list.
        list: String,
    },
    /// Two members with one id.
    #[error("member exists with identical ID {id:x}")]
    DuplicateId {
        /// The id.
        id: u64,
    },
}

/// The members of a cluster that begins.
#[derive(Debug)]
pub(super) struct Identity {
    pub member_id: u64,
    pub cluster_id: u64,
    pub members: Membership,
}

impl Identity {
    pub fn from_flags(name: &str, cluster: &str, token: &str, advertised: &str) -> Result<Identity, BadFlags> {
        let split: Vec<&str> = advertised.split(',').collect();
        let advertised = parse_urls(&split).map_err(|error| BadFlags::Urls {
            flag: "initial-advertise-peer-urls",
            error,
        })?;
        let list: BTreeMap<String, Vec<String>> = parse_initial_cluster(cluster).map_err(|error| BadFlags::Urls {
            flag: "initial-cluster",
            error,
        })?;
        let own = list
            .get(name)
            .ok_or_else(|| BadFlags::NoLocalMember { name: name.to_owned() })?;
        if *own != advertised {
            return Err(BadFlags::UrlsDiffer {
                name: name.to_owned(),
                in_cluster: own.join(","),
                advertised: advertised.join(","),
            });
        }
        let mut urls = BTreeSet::new();
        if !list.values().flatten().all(|url| urls.insert(url)) {
            return Err(BadFlags::DuplicateUrl {
                list: cluster.to_owned(),
            });
        }
        let mut members = Membership::new(usize::MAX);
        let mut member_id = 0;
        for (member_name, urls) in &list {
            let member = Member::new(member_name, urls, token, None);
            if members.member(member.id).is_some() {
                return Err(BadFlags::DuplicateId { id: member.id });
            }
            if member_name == name {
                member_id = member.id;
            }
            members.carry_out(Change::Add(member));
        }
        let cluster_id = cluster_id(members.members().map(|member| member.id));
        Ok(Identity {
            member_id,
            cluster_id,
            members,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_must_agree() {
        let identity = |name: &str, cluster: &str, urls: &str| Identity::from_flags(name, cluster, "t", urls);
        let three = "a=http://a:1,b=http://b:1,c=http://c:1";
        let first = identity("a", three, "http://a:1").unwrap();
        let second = identity("b", three, "http://b:1").unwrap();
        assert_eq!(first.cluster_id, second.cluster_id);
        assert_ne!(first.member_id, second.member_id);
        assert_eq!(first.members.members().count(), 3);
        assert!(matches!(
            identity("d", three, "http://a:1"),
            Err(BadFlags::NoLocalMember { .. })
        ));
        assert!(matches!(
            identity("a", three, "http://b:1"),
            Err(BadFlags::UrlsDiffer { .. })
        ));
        assert!(matches!(
            identity("a", "a=http://a:1,b=http://a:1", "http://a:1"),
            Err(BadFlags::DuplicateUrl { .. })
        ));
        assert!(matches!(
            identity("a", "a=a:1", "http://a:1"),
            Err(BadFlags::Urls {
                flag: "initial-cluster",
                ..
            })
        ));
    }
}
