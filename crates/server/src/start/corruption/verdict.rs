//! Who is to blame when hashes of the key space differ (etcd server/etcdserver/corrupt.go, PeriodicCheck and CompactHashCheck).
//!
//! Invariants: decides, and knows no socket and no clock. A member that did not answer is never blamed; of members that compacted at
//! different revisions hashes are not compared.

use std::collections::BTreeMap;

/// What a member said about its key space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashed {
    /// CRC-32C of the records that count.
    pub hash: u32,
    /// Its newest revision when it answered.
    pub current: i64,
    /// The revision that the hash is of.
    pub revision: i64,
    /// The compaction that the hash begins at; -1 when there was none.
    pub compacted: i64,
}

/// A member's answer; `None` when there was none.
pub(super) type Answers = [(u64, Option<Hashed>)];

/// Whom the periodic check blames, with the reason: the first that is found wrong. The leader's own hash was taken `before` the peers were
/// asked and `after` a read that showed it to be up to date.
pub(super) fn periodic(leader: u64, before: Hashed, after: Hashed, peers: &Answers) -> Option<(u64, &'static str)> {
    let same_moment = before.revision == after.revision && before.compacted == after.compacted;
    if same_moment && before.hash != after.hash {
        return Some((leader, "the leader's hash changed without a write"));
    }
    peers.iter().find_map(|(id, answer)| {
        let theirs = (*answer)?;
        let why = if theirs.current > after.current {
            "the revision of a follower is above the leader's"
        } else if theirs.compacted > after.compacted {
            "the compact revision of a follower is above the leader's"
        } else if theirs.compacted == before.compacted && theirs.hash != before.hash {
            "the hash of a follower differs at the same compact revision"
        } else {
            return None;
        };
        Some((*id, why))
    })
}

/// What comparing the hashes of one compaction showed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// All members have the same.
    Same,
    /// Those that could be compared have the same: look at an older compaction.
    Incomplete,
    /// These differ from the majority.
    Minority(Vec<u64>),
    /// No hash has a majority.
    Undecided,
}

/// Compares the hash that a compaction left on the leader with what it left on the peers.
pub(super) fn compaction(leader: u64, own: Hashed, peers: &Answers) -> Compared {
    let mut by_hash = BTreeMap::from([(own.hash, vec![leader])]);
    let mut compared = 0;
    for (id, answer) in peers {
        if let Some(theirs) = answer.filter(|theirs| theirs.compacted == own.compacted) {
            compared += 1;
            by_hash.entry(theirs.hash).or_default().push(*id);
        }
    }
    if by_hash.len() == 1 {
        return if compared == peers.len() {
            Compared::Same
        } else {
            Compared::Incomplete
        };
    }
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    let Some((majority, _)) = by_hash.iter().find(|(_, ids)| ids.len() >= quorum) else {
        return Compared::Undecided;
    };
    let majority = *majority;
    by_hash.remove(&majority);
    Compared::Minority(by_hash.into_values().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(hash: u32, current: i64, compacted: i64) -> Hashed {
        Hashed {
            hash,
            current,
            revision: current,
            compacted,
        }
    }

    #[test]
    fn the_periodic_check_blames_who_is_ahead_or_differs_and_nobody_else() {
        let own = hashed(1, 10, 5);
        let later = hashed(2, 12, 7);
        let blamed = |before, after, peers: &Answers| periodic(1, before, after, peers).map(|(id, _)| id);
        assert_eq!(blamed(own, later, &[(2, Some(own)), (3, None)]), None);
        assert_eq!(
            blamed(own, own, &[(2, Some(hashed(9, 9, 4)))]),
            None,
            "another compaction"
        );
        assert_eq!(blamed(own, own, &[(2, Some(own)), (3, Some(hashed(9, 9, 5)))]), Some(3));
        assert_eq!(blamed(own, later, &[(2, Some(hashed(1, 12, 5)))]), None);
        assert_eq!(blamed(own, later, &[(2, Some(hashed(1, 13, 5)))]), Some(2));
        assert_eq!(blamed(own, later, &[(2, Some(hashed(9, 12, 8)))]), Some(2));
        assert_eq!(blamed(own, hashed(2, 10, 5), &[(2, Some(hashed(9, 10, 5)))]), Some(1));
    }

    #[test]
    fn the_majority_of_a_compaction_is_right() {
        let own = hashed(1, 10, 5);
        let other = hashed(2, 10, 5);
        let elsewhere = hashed(3, 10, 4);
        let compare = |peers: &Answers| compaction(1, own, peers);
        assert_eq!(compare(&[(2, Some(own)), (3, Some(own))]), Compared::Same);
        assert_eq!(compare(&[(2, Some(own)), (3, None)]), Compared::Incomplete);
        assert_eq!(compare(&[(2, Some(own)), (3, Some(elsewhere))]), Compared::Incomplete);
        assert_eq!(
            compare(&[(2, Some(own)), (3, Some(other))]),
            Compared::Minority(vec![3])
        );
        assert_eq!(
            compare(&[(2, Some(other)), (3, Some(other))]),
            Compared::Minority(vec![1])
        );
        assert_eq!(compare(&[(2, Some(other)), (3, None)]), Compared::Undecided);
        assert_eq!(
            compare(&[(2, Some(other)), (3, Some(hashed(4, 10, 5)))]),
            Compared::Undecided
        );
    }
}
