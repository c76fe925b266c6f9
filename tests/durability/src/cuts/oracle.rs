//! What each sector of a set's device may read as after a power cut, when main and spare have volatile caches.
//!
//! A sector holds something durably, and perhaps one of the writes since. A write is durable when it is done, if it asked for that,
//! or if it moved its block to the spare; else when a flush is done that began later. After a cut what a sector reads as is
//! what it holds: nothing is in a cache then.

use crate::content::{Found, INITIAL};
use crate::plan::BLOCK;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How a sector of main is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It cannot be written.
    Unwritable,
    /// It can be neither written nor read.
    Dead,
}

#[derive(Clone, Debug)]
struct Sector {
    bad: Option<Bad>,
    holds: Found,
    /// Versions since, in order.
    since: Vec<u64>,
    /// The newest that was acknowledged.
    acknowledged: Option<u64>,
    /// A write that moves its block is under way: salvage may have given up on it.
    may_be_lost: bool,
}

/// A write that was begun: where, and whether it asked to be durable.
#[derive(Clone, Copy, Debug)]
struct Write {
    at: u64,
    len: u64,
    durable: bool,
}

/// What is known of the device. Each sector has one writer at a time.
pub struct Oracle {
    first: u64,
    sectors: Vec<Sector>,
    moved: BTreeSet<u64>,
    may_have_moved: BTreeSet<u64>,
    writes: BTreeMap<u64, Write>,
    flushes: BTreeMap<u64, Vec<Option<u64>>>,
    next: u64,
}

impl Oracle {
    /// Nothing in these sectors was written yet, and all are good.
    pub fn new(sectors: Range<u64>) -> Oracle {
        let sector =
            Sector { bad: None, holds: Found::Version(INITIAL), since: Vec::new(), acknowledged: None, may_be_lost: false };
        Oracle {
            first: sectors.start,
            sectors: vec![sector; (sectors.end - sectors.start) as usize],
            moved: BTreeSet::new(),
            may_have_moved: BTreeSet::new(),
            writes: BTreeMap::new(),
            flushes: BTreeMap::new(),
            next: INITIAL + 1,
        }
    }

    /// The sectors that it knows.
    pub fn range(&self) -> Range<u64> {
        self.first..self.first + self.sectors.len() as u64
    }

    /// A sector goes bad while no write is under way.
    pub fn spoil(&mut self, at: u64, bad: Bad) {
        let is_moved = self.is_moved(at);
        let sector = self.sector(at);
        sector.bad = Some(bad);
        if bad == Bad::Dead && !is_moved {
            sector.holds = Found::Lost;
        }
    }

    /// A write begins; the answer is its version.
    pub fn begin(&mut self, at: u64, len: u64, durable: bool) -> u64 {
        let version = self.next();
        self.writes.insert(version, Write { at, len, durable });
        for sectors in in_blocks(at, len) {
            let moves = self.moves(&sectors);
            if moves {
                self.may_have_moved.insert(block(sectors.start));
            }
            for at in sectors {
                let sector = self.sector(at);
                sector.since.push(version);
                sector.may_be_lost |= moves;
            }
        }
        version
    }

    /// It was acknowledged.
    pub fn done(&mut self, version: u64) {
        let Some(Write { at, len, durable }) = self.writes.remove(&version) else { return };
        for sectors in in_blocks(at, len) {
            let moves = self.moves(&sectors);
            if moves {
                self.moved.insert(block(sectors.start));
            }
            for at in sectors {
                let sector = self.sector(at);
                sector.acknowledged = Some(version);
                if moves || durable {
                    sector.hold(version);
                }
            }
        }
    }

    /// A flush begins; the answer is its number.
    pub fn begin_flush(&mut self) -> u64 {
        let number = self.next();
        self.flushes.insert(number, self.sectors.iter().map(|sector| sector.acknowledged).collect());
        number
    }

    /// It was acknowledged.
    pub fn flushed(&mut self, number: u64) {
        let acknowledged = self.flushes.remove(&number).unwrap_or_default();
        for (sector, version) in self.sectors.iter_mut().zip(acknowledged) {
            if let Some(version) = version.filter(|version| sector.since.contains(version)) {
                sector.hold(version);
            }
        }
    }

    /// The newest version that a sector was acknowledged to have since the last cut.
    pub fn newest(&self, at: u64) -> Option<u64> {
        self.sectors[(at - self.first) as usize].acknowledged
    }

    /// Whether a block has moved for sure.
    pub fn is_moved(&self, at: u64) -> bool {
        self.moved.contains(&block(at))
    }

    /// The blocks that have, by first sector.
    pub fn moved(&self) -> impl Iterator<Item = u64> + '_ {
        self.moved.iter().copied()
    }

    /// Whether a block may have moved.
    pub fn may_have_moved(&self, at: u64) -> bool {
        self.may_have_moved.contains(&block(at))
    }

    /// After a cut: which blocks have moved, as the table says.
    pub fn settle_moved(&mut self, is_moved: impl Fn(u64) -> bool) {
        self.writes.clear();
        self.flushes.clear();
        self.moved = self.may_have_moved.iter().copied().filter(|block| is_moved(*block)).collect();
        self.may_have_moved = self.moved.clone();
    }

    /// What a sector held for sure when last looked at.
    pub fn holds(&self, at: u64) -> Found {
        self.sectors[(at - self.first) as usize].holds
    }

    /// Whether a sector may read as this after a cut.
    pub fn fits(&self, at: u64, found: Found) -> bool {
        let sector = &self.sectors[(at - self.first) as usize];
        found == sector.holds
            || match found {
                Found::Version(version) => sector.since.contains(&version),
                Found::Lost => sector.may_be_lost,
                Found::Foreign => false,
            }
    }

    /// After a cut: what a sector reads as, which it holds from now on; or why that is wrong.
    pub fn settle(&mut self, at: u64, found: Found) -> Result<(), String> {
        let fits = self.fits(at, found);
        let sector = self.sector(at);
        let why = format!("main sector {at} reads as {found}; {sector}");
        (sector.holds, sector.acknowledged, sector.may_be_lost) = (found, None, false);
        sector.since.clear();
        if fits { Ok(()) } else { Err(why) }
    }

    /// Whether a write covers a bad sector of a block that main serves.
    fn moves(&self, sectors: &Range<u64>) -> bool {
        !self.is_moved(sectors.start) && sectors.clone().any(|at| self.sectors[(at - self.first) as usize].bad.is_some())
    }

    fn sector(&mut self, at: u64) -> &mut Sector {
        &mut self.sectors[(at - self.first) as usize]
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

impl Sector {
    fn hold(&mut self, version: u64) {
        (self.holds, self.may_be_lost) = (Found::Version(version), false);
        self.since.retain(|since| *since > version);
    }
}

impl std::fmt::Display for Sector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.bad {
            None => "good",
            Some(Bad::Unwritable) => "unwritable",
            Some(Bad::Dead) => "dead",
        };
        let lost = if self.may_be_lost { ", or is lost" } else { "" };
        write!(f, "it is {kind}, has to hold {}, or one of the writes {:?} since{lost}", self.holds, self.since)
    }
}

/// First sector of a sector's block.
fn block(at: u64) -> u64 {
    at - at % BLOCK
}

/// The parts of a range in each block.
fn in_blocks(at: u64, len: u64) -> impl Iterator<Item = Range<u64>> {
    (block(at)..at + len).step_by(BLOCK as usize).map(move |block| at.max(block)..(at + len).min(block + BLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Found = Found::Version(INITIAL);

    /// Sector 10 of the first of two blocks is bad so.
    fn with_bad(bad: Bad) -> Oracle {
        let mut oracle = Oracle::new(8..24);
        oracle.spoil(10, bad);
        oracle
    }

    fn fits(oracle: &Oracle, at: u64, found: Found) -> bool {
        oracle.fits(at, found)
    }

    #[test]
    fn a_write_of_good_sectors_is_durable_after_a_flush_that_began_later() {
        let mut oracle = Oracle::new(8..24);
        let early = oracle.begin_flush();
        let one = oracle.begin(12, 1, false);
        oracle.done(one);
        oracle.flushed(early);
        assert!(fits(&oracle, 12, OLD) && fits(&oracle, 12, Found::Version(one)) && !fits(&oracle, 12, Found::Lost));
        let late = oracle.begin_flush();
        oracle.flushed(late);
        assert!(!fits(&oracle, 12, OLD) && fits(&oracle, 12, Found::Version(one)));
        let two = oracle.begin(12, 1, true);
        oracle.done(two);
        assert!(!fits(&oracle, 12, Found::Version(one)) && fits(&oracle, 12, Found::Version(two)));
    }

    #[test]
    fn a_write_that_moves_a_block_is_durable_when_it_is_done_and_the_next_one_is_not() {
        let mut oracle = with_bad(Bad::Unwritable);
        let one = oracle.begin(10, 8, false);
        assert!(fits(&oracle, 10, OLD) && fits(&oracle, 10, Found::Lost) && oracle.may_have_moved(8) && !oracle.is_moved(8));
        oracle.done(one);
        assert!(oracle.is_moved(8) && !oracle.may_have_moved(16));
        assert!(!fits(&oracle, 10, OLD) && !fits(&oracle, 10, Found::Lost) && fits(&oracle, 16, OLD));
        let two = oracle.begin(10, 1, false);
        oracle.done(two);
        assert!(fits(&oracle, 10, Found::Version(one)) && fits(&oracle, 10, Found::Version(two)));
    }

    #[test]
    fn what_is_lost_stays_so_until_it_is_written_durably() {
        let mut oracle = with_bad(Bad::Dead);
        assert!(fits(&oracle, 10, Found::Lost) && !fits(&oracle, 10, OLD));
        let beside = oracle.begin(11, 1, false);
        oracle.done(beside);
        assert!(!oracle.may_have_moved(8) && fits(&oracle, 11, OLD));
        let one = oracle.begin(10, 1, false);
        oracle.done(one);
        assert!(!fits(&oracle, 10, Found::Lost));
    }

    #[test]
    fn a_cut_makes_of_what_may_be_what_is() {
        let mut oracle = with_bad(Bad::Unwritable);
        let one = oracle.begin(10, 1, false);
        oracle.settle_moved(|_| false);
        assert_eq!(oracle.settle(10, OLD), Ok(()));
        assert!(!fits(&oracle, 10, Found::Version(one)) && !oracle.may_have_moved(8));
        assert!(oracle.settle(10, Found::Foreign).is_err());
    }
}
