//! Encryption of artifacts before they leave this machine, with a key that the store never sees.
//!
//! ```text
//! "QRSEAL1\n"  salt (32)  chunk...      chunk: up to 64 KiB of content, sealed by ChaCha20-Poly1305, and its tag (16)
//! ```
//! The key of one artifact is HKDF-SHA256 of the Secret's key with the salt, so that nonces may count from 0. A nonce is
//! the number of the chunk and whether it is the last one (the STREAM construction): chunks that are changed, left out,
//! repeated, put in another order or cut off at the end are noticed.
//!
//! Invariants:
//! - Nothing is given out before its tag was checked, and [`Opener::finish`] fails when the end is missing.
//! - One chunk is in memory at a time.
//! - Keys appear in no error, log line or `Debug` text; a key is named by its id, which tells nothing about it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::digest;
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The entry of the Secret.
pub const ENTRY: &str = "key";
const MAGIC: &[u8; 8] = b"QRSEAL1\n";
const SALT: usize = 32;
const HEADER: usize = MAGIC.len() + SALT;
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;

/// A key of 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    bytes: [u8; 32],
    id: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Key {
    /// The key in a Secret's entries: 32 bytes, as they are or in base64.
    ///
    /// # Errors
    /// What is wrong with it, and how a good one is made.
    pub fn of_secret(entries: &BTreeMap<String, Vec<u8>>) -> Result<Key, String> {
        let remedy =
            "make one with: kubectl create secret generic NAME --from-literal=key=$(head -c32 /dev/urandom | base64)";
        let value = entries
            .get(ENTRY)
            .ok_or_else(|| format!("has no entry {ENTRY}: {remedy}"))?;
        let text = std::str::from_utf8(value).ok().map(str::trim);
        let decoded = text.and_then(|text| STANDARD.decode(text).ok());
        let bytes = [Some(value.clone()), decoded]
            .into_iter()
            .flatten()
            .find_map(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| format!("entry {ENTRY} is not 32 bytes, nor 32 bytes in base64: {remedy}"))?;
        Ok(Key::new(bytes))
    }

    /// From its bytes.
    pub fn new(bytes: [u8; 32]) -> Key {
        let mut told = digest::Context::new(&digest::SHA256);
        told.update(b"quorate backup key id");
        told.update(&bytes);
        let id = told.finish().as_ref()[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Key { bytes, id }
    }

    /// Names the key; 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The cipher for one artifact.
    fn cipher(&self, header: &[u8]) -> io::Result<LessSafeKey> {
        struct Length;
        impl KeyType for Length {
            fn len(&self) -> usize {
                32
            }
        }
        let failed = |_| io::Error::other("deriving the key of an artifact failed");
        let mut derived = [0; 32];
        // The whole header goes in, so that it is authenticated with the rest.
        let extracted = Salt::new(HKDF_SHA256, header).extract(&self.bytes);
        extracted
            .expand(&[b"quorate backup artifact".as_slice()], Length)
            .and_then(|okm| okm.fill(&mut derived))
            .map_err(failed)?;
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, &derived).map_err(failed)?;
        Ok(LessSafeKey::new(unbound))
    }
}

fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what is written to it. [`Sealer::finish`] must be called: without its end an artifact does not open.
pub struct Sealer<W> {
    target: W,
    cipher: LessSafeKey,
    chunk: Vec<u8>,
    number: u64,
}

impl<W: Write> Sealer<W> {
    /// Begins an artifact.
    pub fn new(mut target: W, key: &Key) -> io::Result<Sealer<W>> {
        let mut header = [0; HEADER];
        header[..MAGIC.len()].copy_from_slice(MAGIC);
        SystemRandom::new()
            .fill(&mut header[MAGIC.len()..])
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        target.write_all(&header)?;
        Ok(Sealer {
            target,
            cipher: key.cipher(&header)?,
            chunk: Vec::with_capacity(CHUNK + TAG),
            number: 0,
        })
    }

    /// Writes the end.
    pub fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.target)
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        self.cipher
            .seal_in_place_append_tag(nonce(self.number, last), Aad::empty(), &mut self.chunk)
            .map_err(|_| io::Error::other("encrypting failed"))?;
        self.target.write_all(&self.chunk)?;
        self.chunk.clear();
        self.number += 1;
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for what follows: whether it is the last one is not known before.
        if self.chunk.len() == CHUNK && !bytes.is_empty() {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what a [`Sealer`] wrote, piece by piece.
pub struct Opener {
    key: Key,
    cipher: Option<LessSafeKey>,
    waiting: Vec<u8>,
    number: u64,
}

impl Opener {
    /// Begins with nothing read.
    pub fn new(key: Key) -> Opener {
        Opener {
            key,
            cipher: None,
            waiting: Vec::new(),
            number: 0,
        }
    }

    /// Takes the next piece, of any length; returns what can be given out.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        self.waiting.extend_from_slice(piece);
        if self.cipher.is_none() {
            if self.waiting.len() < HEADER {
                return Ok(Vec::new());
            }
            if &self.waiting[..MAGIC.len()] != MAGIC {
                return Err(io::Error::other("it is not encrypted as its manifest says"));
            }
            self.cipher = Some(self.key.cipher(&self.waiting[..HEADER])?);
            self.waiting.drain(..HEADER);
        }
        let mut content = Vec::new();
        // A chunk that nothing follows may be the last one: it waits for finish.
        while self.waiting.len() > CHUNK + TAG {
            let rest = self.waiting.split_off(CHUNK + TAG);
            let chunk = std::mem::replace(&mut self.waiting, rest);
            content.extend_from_slice(&self.open(chunk, false)?);
        }
        Ok(content)
    }

    /// The end of the artifact: what was left to give out.
    pub fn finish(&mut self) -> io::Result<Vec<u8>> {
        let chunk = std::mem::take(&mut self.waiting);
        self.open(chunk, true)
    }

    fn open(&mut self, mut chunk: Vec<u8>, last: bool) -> io::Result<Vec<u8>> {
        let wrong = || io::Error::other("it does not decrypt: it is damaged, or was encrypted with another key");
        let cipher = self.cipher.as_ref().ok_or_else(wrong)?;
        let content = cipher
            .open_in_place(nonce(self.number, last), Aad::empty(), &mut chunk)
            .map_err(|_| wrong())?
            .len();
        chunk.truncate(content);
        self.number += 1;
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new([byte; 32])
    }

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::new(Vec::new(), &key(1)).unwrap();
        // In pieces of an odd size.
        for piece in content.chunks(10_007) {
            sealer.write_all(piece).unwrap();
        }
        sealer.finish().unwrap()
    }

    fn opened(bytes: &[u8], key: Key) -> io::Result<Vec<u8>> {
        let mut opener = Opener::new(key);
        let mut content = Vec::new();
        for piece in bytes.chunks(8_191) {
            content.extend(opener.push(piece)?);
        }
        content.extend(opener.finish()?);
        Ok(content)
    }

    #[test]
    fn what_is_sealed_opens_at_every_length_around_a_chunk() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5] {
            let content: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let bytes = sealed(&content);
            let chunks = length.div_ceil(CHUNK).max(1);
            assert_eq!(bytes.len(), HEADER + length + chunks * TAG);
            assert_eq!(opened(&bytes, key(1)).unwrap(), content, "{length} bytes");
        }
    }

    #[test]
    fn a_changed_bit_a_missing_end_a_swapped_chunk_and_another_key_are_noticed() {
        let content = vec![7; 3 * CHUNK];
        let bytes = sealed(&content);
        for place in [0, MAGIC.len() + 3, HEADER + 5, bytes.len() - 1] {
            let mut bad = bytes.clone();
            bad[place] ^= 1;
            assert!(opened(&bad, key(1)).is_err(), "bit at {place}");
        }
        let whole = CHUNK + TAG;
        assert!(
            opened(&bytes[..HEADER + 2 * whole], key(1)).is_err(),
            "the last chunk is missing"
        );
        assert!(opened(&bytes[..HEADER], key(1)).is_err(), "all chunks are missing");
        let mut swapped = bytes[..HEADER].to_vec();
        swapped.extend(&bytes[HEADER + whole..HEADER + 2 * whole]);
        swapped.extend(&bytes[HEADER..HEADER + whole]);
        swapped.extend(&bytes[HEADER + 2 * whole..]);
        assert!(opened(&swapped, key(1)).is_err());
        assert!(opened(&bytes, key(2)).is_err());
    }

    #[test]
    fn a_key_is_read_plain_or_in_base64_and_named_without_being_told() {
        let entries = |value: &[u8]| BTreeMap::from([("key".to_owned(), value.to_vec())]);
        let plain = Key::of_secret(&entries(&[9; 32])).unwrap();
        let text = format!("{}\n", STANDARD.encode([9; 32]));
        assert_eq!(Key::of_secret(&entries(text.as_bytes())).unwrap(), plain);
        assert_eq!(plain.id().len(), 16);
        assert!(!format!("{plain:?}").contains("9, 9"));
        assert!(Key::of_secret(&entries(b"short")).unwrap_err().contains("32 bytes"));
        assert!(Key::of_secret(&BTreeMap::new()).unwrap_err().contains("no entry key"));
    }
}
