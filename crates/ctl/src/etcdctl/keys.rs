//! Ranges of keys.

/// The end of the range of all keys that begin with `prefix`; a zero byte, which means "open", when there is none after them.
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn the_end_of_a_prefix_is_etcds() {
        for (prefix, end) in [
            (&b"a"[..], &b"b"[..]),
            (b"/registry/", b"/registry0"),
            (b"a\xff\xff", b"b"),
            (b"\xff", b"\0"),
            (b"", b"\0"),
        ] {
            assert_eq!(prefix_end(prefix), end);
        }
    }
}
