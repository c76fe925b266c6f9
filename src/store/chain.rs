//! The chain of the history: each record carries its own hash and that of the record before it. Pure.
//!
//! A record is: its hash (32 bytes), the hash of its predecessor (32), the time (8, big-endian), the entry as JSON. The hash is
//! SHA-256 over the entry's number (8, big-endian) and everything of the record that follows the hash.

use sha2::{Digest, Sha256};

/// A hash of a record.
pub type Hash = [u8; 32];

/// What the first entry of all names as its predecessor.
pub const START: Hash = [0; 32];

const BODY: usize = 64;

/// One record, taken apart; nothing of it is believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its hash, as stored.
    pub own: Hash,
    /// The hash of the record before it.
    pub previous: Hash,
    /// Time and JSON.
    pub body: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes a stored value apart. None if it is too short to be a record.
    pub fn read(value: &'a [u8]) -> Option<Record<'a>> {
        let (own, rest) = value.split_first_chunk()?;
        let (previous, body) = rest.split_first_chunk()?;
        Some(Record { own: *own, previous: *previous, body })
    }

    /// The hash that it should have as number `number`.
    pub fn hash(&self, number: u64) -> Hash {
        let mut hash = Sha256::new();
        hash.update(number.to_be_bytes());
        hash.update(self.previous);
        hash.update(self.body);
        hash.finalize().into()
    }
}

/// The value to store for entry `number`, and its hash.
pub fn record(number: u64, previous: Hash, body: &[u8]) -> (Vec<u8>, Hash) {
    let own = Record { own: START, previous, body }.hash(number);
    let mut value = Vec::with_capacity(BODY + body.len());
    value.extend_from_slice(&own);
    value.extend_from_slice(&previous);
    value.extend_from_slice(body);
    (value, own)
}
