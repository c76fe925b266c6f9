//! The chain of the history, as it is spoken of: what a check of it has found, and what of it was pruned.

use super::units::Millis;
use serde::{Deserialize, Serialize};

/// Which entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its number.
    pub number: u64,
    /// Its time; 0 if that cannot be read.
    pub at: Millis,
}

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "breach", rename_all = "snake_case")]
pub enum Breach {
    /// It is not what was written.
    Changed,
    /// Its beginning is missing.
    CutShort,
    /// It does not name the entry before it as its predecessor.
    Misplaced {
        /// The number of the entry before it; 0 if there is none.
        after: u64,
    },
}

/// An entry that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Which.
    #[serde(flatten)]
    pub entry: Stamp,
    /// What is wrong with it.
    #[serde(flatten)]
    pub breach: Breach,
}

/// What was taken out of the beginning of the history so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// How many entries.
    pub entries: u64,
    /// The last of them.
    pub last: Stamp,
}

/// What a check of the chain has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainReport {
    /// Entries that were looked at.
    pub entries: u64,
    /// The first of them.
    pub first: Option<Stamp>,
    /// The last of them.
    pub last: Option<Stamp>,
    /// What was there before them.
    pub pruned: Option<Pruned>,
    /// Those that do not hold, oldest first, at most [`ChainReport::MOST_BROKEN`].
    pub broken: Vec<Broken>,
    /// More that do not hold.
    pub more_broken: u64,
}

impl ChainReport {
    /// Broken entries that are told one by one.
    pub const MOST_BROKEN: usize = 100;

    /// Whether every entry is as it was written, and in its place.
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }
}

/// A check of the chain that is under way: it is done in steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainWalk {
    /// What it has found so far.
    pub report: ChainReport,
    /// The number of the entry that was looked at last.
    pub number: u64,
    /// Hashes that the next entry may name as its predecessor's: as stored and as computed. None if any will do.
    pub ends: Option<[[u8; 32]; 2]>,
    /// Nothing is left to look at.
    pub done: bool,
}

/// The end of what is to be pruned: the oldest entries, up to the first that is not to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Entries with a higher number stay.
    pub upto: u64,
    /// Entries of this time or later stay.
    pub before: Millis,
}
