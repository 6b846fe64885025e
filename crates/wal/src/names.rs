//! File names: `<sequence>-<first index>.wal` and `<term>-<index>.snap`, 16 lowercase hex digits each.

use std::path::Path;

use disk::Disk;

use crate::Error;

/// `%016x-%016x` plus `suffix`.
pub(crate) fn pair_name(first: u64, second: u64, suffix: &str) -> String {
    format!("{first:016x}-{second:016x}{suffix}")
}

/// The two numbers of a name made by [`pair_name`]; `None` for any other name.
pub(crate) fn parse_pair(name: &str, suffix: &str) -> Option<(u64, u64)> {
    let (first, second) = name.strip_suffix(suffix)?.split_once('-')?;
    let hex = |digits: &str| {
        let ok = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ok.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some((hex(first)?, hex(second)?))
}

/// The segments in a log directory: (sequence, first index), ascending. Other files are not ours to judge.
pub(crate) fn segments<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<(u64, u64)>, Error> {
    let names = disk.list(dir).map_err(Error::io("listing", dir))?;
    Ok(names.iter().filter_map(|name| parse_pair(name, ".wal")).collect())
}

/// The segments needed to read from the entry after `index` on: the last whose first index is at most `index`, and all
/// after it, which must follow each other without a gap.
pub(crate) fn segments_from<D: Disk>(disk: &D, dir: &Path, index: u64) -> Result<Vec<(u64, u64)>, Error> {
    let mut all = segments(disk, dir)?;
    let start = all.iter().rposition(|&(_, first)| first <= index);
    let start = start.ok_or_else(|| Error::NoSegment {
        dir: dir.to_owned(),
        index,
    })?;
    let chosen = all.split_off(start);
    for pair in chosen.windows(2) {
        if pair[0].0.checked_add(1) != Some(pair[1].0) {
            return Err(Error::SequenceGap {
                dir: dir.to_owned(),
                name: pair_name(pair[1].0, pair[1].1, ".wal"),
            });
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_ignored() {
        assert_eq!(pair_name(1, 0x2f, ".wal"), "0000000000000001-000000000000002f.wal");
        assert_eq!(
            parse_pair("0000000000000001-000000000000002f.wal", ".wal"),
            Some((1, 0x2f))
        );
        for other in [
            "0.tmp",
            "0000000000000001-000000000000002f.wal.broken",
            "1-2f.wal",
            "000000000000000G-0000000000000000.wal",
        ] {
            assert_eq!(parse_pair(other, ".wal"), None, "{other}");
        }
    }
}
