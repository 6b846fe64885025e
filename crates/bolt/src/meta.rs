//! The two meta pages (bbolt internal/common/meta.go): page 0 and page 1 alternate, the valid one with the higher
//! transaction id counts.

use crate::page::{self, HEADER, Header, u32_at, u64_at};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Bytes of a meta behind the page header.
const LEN: usize = 64;
/// Value of the freelist field when no freelist is stored.
pub(crate) const NO_FREELIST: u64 = u64::MAX;

/// What a meta page says. A checked one satisfies: 2 <= root < high_water; the freelist is absent or likewise in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub page_size: u32,
    pub flags: u32,
    /// Root page of the root bucket.
    pub root: u64,
    pub sequence: u64,
    /// First page of the stored freelist, or [`NO_FREELIST`].
    pub freelist: u64,
    /// Number of pages ever used: the first page id that is beyond the database.
    pub high_water: u64,
    pub txid: u64,
}

impl Meta {
    /// Reads a meta from the beginning of a page (header included), or says what is wrong.
    pub fn read(data: &[u8]) -> Result<Meta, String> {
        if data.len() < HEADER + LEN {
            return Err(format!("{} bytes are too few for a meta page", data.len()));
        }
        let body = &data[HEADER..HEADER + LEN];
        if u32_at(body, 0) != MAGIC {
            return Err(format!("magic {:#x} instead of {MAGIC:#x}", u32_at(body, 0)));
        }
        if u32_at(body, 4) != VERSION {
            return Err(format!("version {} instead of {VERSION}", u32_at(body, 4)));
        }
        let sum = fnv1a(&body[..LEN - 8]);
        if u64_at(body, LEN - 8) != sum && !mutant::planted("G04") {
            return Err("the checksum does not match".into());
        }
        let meta = Meta {
            page_size: u32_at(body, 8),
            flags: u32_at(body, 12),
            root: u64_at(body, 16),
            sequence: u64_at(body, 24),
            freelist: u64_at(body, 32),
            high_water: u64_at(body, 40),
            txid: u64_at(body, 48),
        };
        if !meta.page_size.is_power_of_two() || !(512..=1 << 16).contains(&meta.page_size) {
            return Err(format!("page size {}", meta.page_size));
        }
        // Byte offsets of pages must not overflow.
        if meta.high_water > u64::MAX / 2 / u64::from(meta.page_size) {
            return Err(format!("high-water page {}", meta.high_water));
        }
        if meta.txid > u64::MAX / 2 {
            return Err(format!("transaction id {}", meta.txid));
        }
        let in_file = |id: u64| (2..meta.high_water).contains(&id);
        if !in_file(meta.root) {
            return Err(format!("root page {} of {} pages", meta.root, meta.high_water));
        }
        if meta.freelist != NO_FREELIST && !in_file(meta.freelist) {
            return Err(format!("freelist page {} of {} pages", meta.freelist, meta.high_water));
        }
        Ok(meta)
    }

    /// The page as it is written to slot `id` (0 or 1).
    pub fn encode(&self, id: u64, page_size: usize) -> Vec<u8> {
        let mut data = vec![0; page_size];
        Header {
            id,
            flags: page::META,
            count: 0,
            overflow: 0,
        }
        .write(&mut data);
        let body = &mut data[HEADER..HEADER + LEN];
        body[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        body[4..8].copy_from_slice(&VERSION.to_le_bytes());
        body[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        body[12..16].copy_from_slice(&self.flags.to_le_bytes());
        body[16..24].copy_from_slice(&self.root.to_le_bytes());
        body[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        body[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        body[40..48].copy_from_slice(&self.high_water.to_le_bytes());
        body[48..56].copy_from_slice(&self.txid.to_le_bytes());
        let sum = fnv1a(&body[..LEN - 8]);
        body[LEN - 8..].copy_from_slice(&sum.to_le_bytes());
        data
    }

    /// The slot that this meta is written to.
    pub fn slot(&self) -> u64 {
        self.txid % 2
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_of_the_published_vectors() {
        assert_eq!(fnv1a(b""), 0xcbf29ce484222325);
        assert_eq!(fnv1a(b"a"), 0xaf63dc4c8601ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x85944171f73967e8);
    }

    #[test]
    fn a_meta_survives_the_round_trip_and_no_flipped_bit() {
        let meta = Meta {
            page_size: 4096,
            flags: 0,
            root: 3,
            sequence: 7,
            freelist: NO_FREELIST,
            high_water: 9,
            txid: 12,
        };
        let page = meta.encode(0, 4096);
        assert_eq!(Meta::read(&page), Ok(meta));
        for bit in 0..LEN * 8 {
            let mut damaged = page.clone();
            damaged[HEADER + bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::read(&damaged).is_err(), "bit {bit}");
        }
    }
}
