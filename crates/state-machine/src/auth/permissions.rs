//! The keys that a user may read and write: unions of ranges (etcd server/auth/range_perm_cache.go).
//!
//! Invariants: a range is covered when the ranges of all roles together leave no gap in it. Open-ended ranges (`range_end` of one zero
//! byte) are covered by open-ended permissions only.

use bytes::Bytes;
use proto::authpb::permission::Type;
use proto::authpb::{Permission, Role};

/// A border between keys. No bytes means beyond every key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Border(Bytes);

impl Ord for Border {
    fn cmp(&self, other: &Border) -> std::cmp::Ordering {
        // false < true: the empty border is the last one.
        (self.0.is_empty(), &self.0).cmp(&(other.0.is_empty(), &other.0))
    }
}

impl PartialOrd for Border {
    fn partial_cmp(&self, other: &Border) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Keys from one border up to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    begin: Border,
    end: Border,
}

impl Range {
    /// As requests and permissions write it.
    fn new(key: &[u8], range_end: &[u8]) -> Range {
        let begin = Border(Bytes::copy_from_slice(key));
        let end = match range_end {
            // One key: up to the next one.
            [] => {
                let mut next = key.to_vec();
                next.push(0);
                Border(next.into())
            }
            [0] => Border(Bytes::new()),
            end => Border(Bytes::copy_from_slice(end)),
        };
        Range { begin, end }
    }

    fn overlaps(&self, other: &Range) -> bool {
        let left = self.begin < other.begin && self.end <= other.begin;
        !left && self.begin < other.end
    }
}

/// Which of the two things that one can do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// What a user may do.
#[derive(Debug, Clone, Default)]
pub(super) struct Permissions {
    read: Vec<Range>,
    write: Vec<Range>,
}

impl Permissions {
    /// Those of all roles together.
    pub fn of<'a>(roles: impl Iterator<Item = &'a Role>) -> Permissions {
        let mut all = Permissions::default();
        for permission in roles.flat_map(|role| &role.key_permission) {
            let range = Range::new(&permission.key, &permission.range_end);
            let kind = Type::try_from(permission.perm_type).ok();
            if matches!(kind, Some(Type::Read | Type::Readwrite)) {
                all.read.push(range.clone());
            }
            if matches!(kind, Some(Type::Write | Type::Readwrite)) {
                all.write.push(range);
            }
        }
        all.read.sort_unstable();
        all.write.sort_unstable();
        all
    }

    /// Whether all of a range may be accessed.
    pub fn cover(&self, key: &[u8], range_end: &[u8], access: Access) -> bool {
        let ranges = match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        };
        let wanted = Range::new(key, range_end);
        let mut overlapping = ranges.iter().filter(|range| wanted.overlaps(range));
        let Some(first) = overlapping.next() else {
            return false;
        };
        let mut reached = &first.end;
        for range in overlapping {
            if *reached < range.begin {
                return false;
            }
            reached = reached.max(&range.end);
        }
        first.begin <= wanted.begin && *reached >= wanted.end
    }
}

/// Whether a permission's range makes sense: a key, and an end behind it or none.
pub(super) fn is_valid(permission: &Permission) -> bool {
    let (key, end) = (&permission.key, &permission.range_end);
    let open = end[..] == [0];
    !key.is_empty() && (end.is_empty() || open || key < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(permissions: &[(&str, &str, Type)]) -> Role {
        let permission = |(key, end, kind): &(&str, &str, Type)| Permission {
            perm_type: *kind as i32,
            key: Bytes::copy_from_slice(key.as_bytes()),
            range_end: Bytes::copy_from_slice(end.as_bytes()),
        };
        Role {
            name: Bytes::new(),
            key_permission: permissions.iter().map(permission).collect(),
        }
    }

    fn covers(roles: &[Role], key: &str, end: &str) -> bool {
        Permissions::of(roles.iter()).cover(key.as_bytes(), end.as_bytes(), Access::Read)
    }

    #[test]
    fn adjoining_ranges_of_several_roles_make_one() {
        let roles = [
            role(&[("a", "c", Type::Read), ("e", "g", Type::Readwrite)]),
            role(&[("c", "d", Type::Read)]),
        ];
        for (key, end, expected) in [
            ("a", "", true),
            ("a", "d", true),
            ("a", "d\0", false),
            ("b", "f", false),
            ("e", "g", true),
            ("g", "", false),
            ("d", "", false),
            ("A", "", false),
            ("A", "b", false),
            ("a", "\0", false),
        ] {
            assert_eq!(covers(&roles, key, end), expected, "[{key}, {end})");
        }
        assert!(!Permissions::of(roles.iter()).cover(b"a", b"", Access::Write));
        assert!(Permissions::of(roles.iter()).cover(b"e", b"f", Access::Write));
    }

    /// The hole of GHSA-xg4h: an open-ended request needs an open-ended permission.
    #[test]
    fn open_ends_are_covered_by_open_ends_only() {
        let bounded = [role(&[("a", "z", Type::Read)])];
        assert!(!covers(&bounded, "b", "\0"));
        let open = [role(&[("m", "\0", Type::Read)])];
        assert!(covers(&open, "m", "\0"));
        assert!(covers(&open, "n", "zz"));
        assert!(!covers(&open, "l", "\0"));
        let both = [role(&[("a", "m", Type::Read)]), role(&[("m", "\0", Type::Read)])];
        assert!(covers(&both, "a", "\0"));
        let everything = [role(&[("\0", "\0", Type::Read)])];
        assert!(covers(&everything, "\0", "\0") && covers(&everything, "x", ""));
    }

    #[test]
    fn a_permission_for_one_key_is_for_that_key() {
        let roles = [role(&[("a", "", Type::Read)])];
        assert!(covers(&roles, "a", "") && covers(&roles, "a", "a\0"));
        assert!(!covers(&roles, "a\0", "") && !covers(&roles, "a", "b"));
    }

    #[test]
    fn ranges_without_sense_are_told() {
        let valid = |key: &'static [u8], end: &'static [u8]| {
            is_valid(&Permission {
                perm_type: 0,
                key: Bytes::from_static(key),
                range_end: Bytes::from_static(end),
            })
        };
        assert!(valid(b"a", b"") && valid(b"a", b"b") && valid(b"a", b"\0") && valid(b"\0", b"\0"));
        assert!(!valid(b"", b"") && !valid(b"b", b"a") && !valid(b"b", b"b") && !valid(b"", b"\0"));
    }
}
