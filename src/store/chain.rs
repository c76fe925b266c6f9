//! The chain of the history: each record carries its own hash and that of the record before it. Pure.
//!
//! A record is: its hash (32 bytes), the hash of its predecessor (32), the time (8, big-endian), the entry as JSON. The hash is
//! SHA-256 over the entry's number (8, big-endian) and everything of the record that follows the hash.

use crate::model::{Breach, Broken, ChainReport, ChainWalk, Millis, Pruned, Stamp};
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

/// Where the chain begins when its first entries were pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The last entry that was pruned.
    pub last: Stamp,
    /// Its hash.
    pub hash: Hash,
    /// How many were pruned so far.
    pub entries: u64,
}

impl Anchor {
    /// The value to store: a record, with the time of the last pruned entry (8 bytes) and the number of all (8) as its body, and the
    /// number of the last one (8) before it.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.last.at.0.to_be_bytes().to_vec();
        body.extend_from_slice(&self.entries.to_be_bytes());
        let mut value = self.last.number.to_be_bytes().to_vec();
        value.extend(record(self.last.number, self.hash, &body).0);
        value
    }

    /// Reads a stored value. None if it is damaged.
    pub fn read(value: &[u8]) -> Option<Anchor> {
        let (number, value) = value.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        let record = Record::read(value).filter(|record| record.own == record.hash(number))?;
        let (at, entries) = record.body.split_first_chunk()?;
        let last = Stamp { number, at: Millis(u64::from_be_bytes(*at)) };
        Some(Anchor { last, hash: record.previous, entries: u64::from_be_bytes(entries.try_into().ok()?) })
    }
}

/// Begins a check of the chain.
pub fn begin(anchor: Option<&Anchor>) -> ChainWalk {
    ChainWalk {
        report: ChainReport {
            pruned: anchor.map(|anchor| Pruned { entries: anchor.entries, last: anchor.last }),
            ..ChainReport::default()
        },
        number: anchor.map_or(0, |anchor| anchor.last.number),
        ends: Some([anchor.map_or(START, |anchor| anchor.hash); 2]),
        done: false,
    }
}

/// Looks at the next record.
pub fn step(walk: &mut ChainWalk, entry: Stamp, value: &[u8]) {
    let record = Record::read(value);
    let hash = record.map(|record| record.hash(entry.number));
    let follows = |record: &Record| walk.ends.is_none_or(|ends| ends.contains(&record.previous));
    let breach = match record {
        None => Some(Breach::CutShort),
        Some(record) if hash != Some(record.own) => Some(Breach::Changed),
        Some(record) if !follows(&record) => Some(Breach::Misplaced { after: walk.number }),
        Some(_) => None,
    };
    // If the hash itself was hit, the next entry names what it was: the one that can be computed.
    walk.ends = record.zip(hash).map(|(record, hash)| [record.own, hash]);
    walk.number = entry.number;
    let report = &mut walk.report;
    report.entries += 1;
    report.first = report.first.or(Some(entry));
    report.last = Some(entry);
    match breach {
        Some(breach) if report.broken.len() < ChainReport::MOST_BROKEN => report.broken.push(Broken { entry, breach }),
        Some(_) => report.more_broken += 1,
        None => {}
    }
}
