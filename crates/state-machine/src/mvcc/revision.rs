//! Revisions, and how the `key` bucket spells them (`etcd server/storage/mvcc/revision.go`).
//!
//! Invariants: the order of the encoded bytes is the order of the revisions; a deletion sorts right after a write of the same revision
//! would. Bytes from a file are checked, never trusted.

use bytes::{BufMut, Bytes, BytesMut};

use crate::error::Error;

/// Bytes of an encoded revision: main, `_`, sub.
const LEN: usize = 17;
/// Marks a deletion, as the 18th byte.
const TOMBSTONE: u8 = b't';

/// When a key changed: `main` numbers the transactions, `sub` the changes within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision {
    /// The transaction, from 2 on; what clients call the revision.
    pub main: i64,
    /// The change within the transaction, from 0 on.
    pub sub: i64,
}

impl Revision {
    /// The revision of the first change of transaction `main`.
    pub fn start_of(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }

    /// The key of a write in the `key` bucket; also how `meta` stores compaction marks.
    pub fn encode(self) -> Bytes {
        self.build().freeze()
    }

    /// The key of a deletion in the `key` bucket.
    pub fn encode_tombstone(self) -> Bytes {
        let mut bytes = self.build();
        bytes.put_u8(TOMBSTONE);
        bytes.freeze()
    }

    fn build(self) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(LEN + 1);
        bytes.put_slice(&self.to_bytes());
        bytes
    }

    /// [`Revision::encode`] without an allocation.
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [b'_'; LEN];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[9..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// Decodes a key of the `key` bucket; the flag says whether it is a deletion.
    ///
    /// # Errors
    /// [`Error::Storage`] when the bytes are no revision: the file is damaged.
    pub fn decode(bytes: &[u8]) -> Result<(Revision, bool), Error> {
        let wrong = || {
            Error::Storage(format!(
                "{bytes:02x?} is no revision: restore the member from a snapshot"
            ))
        };
        let (revision, mark) = bytes.split_at_checked(LEN).ok_or_else(wrong)?;
        let tombstone = match mark {
            [] => false,
            [TOMBSTONE] => true,
            _ => return Err(wrong()),
        };
        let number = |at: usize| revision[at..at + 8].try_into().map(i64::from_be_bytes).unwrap_or(-1);
        let (main, sub) = (number(0), number(9));
        if revision[8] != b'_' || main < 0 || sub < 0 {
            return Err(wrong());
        }
        Ok((Revision { main, sub }, tombstone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_etcds_and_keep_the_order() {
        let revision = Revision { main: 5, sub: 258 };
        assert_eq!(revision.encode().as_ref(), b"\0\0\0\0\0\0\0\x05_\0\0\0\0\0\0\x01\x02");
        assert_eq!(
            revision.encode_tombstone().as_ref(),
            b"\0\0\0\0\0\0\0\x05_\0\0\0\0\0\0\x01\x02t"
        );
        assert_eq!(Revision::decode(&revision.encode()), Ok((revision, false)));
        assert_eq!(Revision::decode(&revision.encode_tombstone()), Ok((revision, true)));
        assert!(revision.encode() < revision.encode_tombstone());
        assert!(revision.encode_tombstone() < Revision { main: 5, sub: 259 }.encode());
    }

    #[test]
    fn garbage_is_an_error() {
        let good = Revision { main: 1, sub: 1 }.encode_tombstone().to_vec();
        for len in (0..good.len()).filter(|len| *len != LEN) {
            assert!(Revision::decode(&good[..len]).is_err(), "{len} bytes");
        }
        for at in [0, 8, 9, 17] {
            let mut bad = good.clone();
            bad[at] = 0xFF;
            assert!(Revision::decode(&bad).is_err(), "byte {at}");
        }
    }
}
