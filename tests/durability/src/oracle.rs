//! What the spare must hold, and may hold, of each bad place, from what the workload has begun and what was acknowledged.
//!
//! Each sector has one writer at a time, so the versions of its writes rise.
//!
//! | event | a write over a bad sector of a block that has not moved yet | any other write of a place |
//! |---|---|---|
//! | it begins | the block may have moved; the sectors it covers may hold it, or a lost mark until it is done | may hold it |
//! | it is done | the block has moved; the sectors hold it, durably | on main: they hold it when they move; on the spare: only after a flush that begins from now on |

use super::content::{Found, INITIAL};
use super::mark::Mark;
use super::plan::{BLOCK, Place};
use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// Whether a block is served by the spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Nothing was begun that could move it.
    No,
    /// A write that may move it is not acknowledged.
    Perhaps,
    /// A write that moved it was.
    Yes,
}

#[derive(Clone, Debug)]
struct Sector {
    bad: bool,
    /// The oldest version that it may hold.
    floor: u64,
    /// The newest version that was acknowledged.
    done: u64,
    /// Versions above the floor.
    begun: Vec<u64>,
    may_be_lost: bool,
}

/// What is known of the bad places at a moment.
#[derive(Clone, Debug)]
pub struct Oracle {
    sectors: BTreeMap<u64, Sector>,
    blocks: BTreeMap<u64, Moved>,
    writes: BTreeMap<u64, (u64, u64)>,
    /// For each flush under way what was done before it.
    flushes: BTreeMap<u64, Vec<(u64, u64)>>,
}

impl Oracle {
    /// Nothing was written yet.
    pub fn new(places: &[Place]) -> Oracle {
        let sector = |place: &Place, at: u64| {
            let bad = place.bad.contains(&at);
            Sector { bad, floor: INITIAL, done: INITIAL, begun: Vec::new(), may_be_lost: bad }
        };
        Oracle {
            sectors: places.iter().flat_map(|place| place.sectors.clone().map(|at| (at, sector(place, at)))).collect(),
            blocks: places.iter().flat_map(|place| place.blocks().map(|block| (block, Moved::No))).collect(),
            writes: BTreeMap::new(),
            flushes: BTreeMap::new(),
        }
    }

    /// Takes the next mark.
    pub fn take(&mut self, mark: Mark) -> Result<()> {
        match mark {
            Mark::Created { .. } | Mark::Finished => {}
            Mark::Begun { version, at, len } => self.begun(version, at, len),
            Mark::Done(version) => {
                let (at, len) = self.writes.remove(&version).with_context(|| format!("write {version} is done twice"))?;
                self.done(version, at, len);
            }
            Mark::Flushing(flush) => {
                let done = self.sectors.iter().map(|(at, sector)| (*at, sector.done)).collect();
                self.flushes.insert(flush, done);
            }
            Mark::Flushed(flush) => {
                let done = self.flushes.remove(&flush).with_context(|| format!("flush {flush} is done twice"))?;
                for (at, version) in done {
                    if let Some(sector) = self.sectors.get_mut(&at).filter(|sector| version > sector.floor) {
                        sector.holds(version);
                    }
                }
            }
        }
        Ok(())
    }

    fn begun(&mut self, version: u64, at: u64, len: u64) {
        self.writes.insert(version, (at, len));
        for block in blocks(at, len) {
            let moves = self.is_bad(block, at, len);
            let Some(moved) = self.blocks.get_mut(&block) else { continue };
            if *moved == Moved::No && moves {
                *moved = Moved::Perhaps;
            }
            let uncertain = *moved != Moved::Yes && moves;
            for sector in self.covered(block, at, len) {
                sector.begun.push(version);
                // Salvage gives up on sectors that the waiting write brings, if they do not read in time.
                sector.may_be_lost |= uncertain;
            }
        }
    }

    fn done(&mut self, version: u64, at: u64, len: u64) {
        for block in blocks(at, len) {
            let moves = self.is_bad(block, at, len);
            let Some(moved) = self.blocks.get_mut(&block) else { continue };
            let was_there = *moved == Moved::Yes;
            if moves {
                *moved = Moved::Yes;
            }
            for sector in self.covered(block, at, len) {
                sector.done = version;
                match (was_there, moves) {
                    (true, _) => {}
                    (false, true) => sector.holds(version),
                    (false, false) => {
                        sector.floor = version;
                        sector.begun.retain(|begun| *begun > version);
                    }
                }
            }
        }
    }

    /// Whether a write covers a bad sector of a block.
    fn is_bad(&self, block: u64, at: u64, len: u64) -> bool {
        self.sectors.range(within(block, at, len)).any(|(_, sector)| sector.bad)
    }

    fn covered(&mut self, block: u64, at: u64, len: u64) -> impl Iterator<Item = &mut Sector> {
        self.sectors.range_mut(within(block, at, len)).map(|(_, sector)| sector)
    }

    /// All blocks of the places by first sector.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, Moved)> + '_ {
        self.blocks.iter().map(|(block, moved)| (*block, *moved))
    }

    /// Whether a block may be served by the spare; one that is no place's must not.
    pub fn moved(&self, block: u64) -> Moved {
        self.blocks.get(&block).copied().unwrap_or(Moved::No)
    }

    /// Whether the spare may hold this for a sector of a block that has moved, or why not.
    pub fn judge(&self, main: u64, found: Found) -> Result<(), String> {
        let Some(sector) = self.sectors.get(&main) else { return Err(format!("main sector {main} is no place's")) };
        let fits = match found {
            Found::Lost => sector.may_be_lost,
            Found::Version(INITIAL) => sector.floor == INITIAL && !sector.bad,
            Found::Version(version) => version == sector.floor || sector.begun.contains(&version),
            Found::Foreign => false,
        };
        if fits { Ok(()) } else { Err(format!("main sector {main} holds {found}; {sector}")) }
    }

    /// As [`Oracle::judge`] for a block that main serves: what was written to it later is there, too.
    pub fn judge_main(&self, main: u64, found: Found) -> Result<(), String> {
        match (self.sectors.get(&main), found) {
            (Some(Sector { bad: true, .. }), Found::Lost) => Ok(()),
            (Some(Sector { bad: false, floor, .. }), Found::Version(version)) if version >= *floor => Ok(()),
            (Some(sector), _) => Err(format!("main sector {main}, which did not move, reads as {found}; {sector}")),
            (None, _) => Err(format!("main sector {main} is no place's")),
        }
    }
}

impl Sector {
    /// It is durable on the spare.
    fn holds(&mut self, version: u64) {
        (self.floor, self.may_be_lost) = (version, false);
        self.begun.retain(|begun| *begun > version);
    }
}

impl std::fmt::Display for Sector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Sector { bad, floor, begun, may_be_lost, .. } = self;
        let (kind, lost) = (if *bad { "bad" } else { "good" }, if *may_be_lost { "" } else { ", not lost" });
        write!(f, "it is {kind}, and holds write {floor} or one of {begun:?}{lost}")
    }
}

/// The blocks that a range touches.
fn blocks(at: u64, len: u64) -> impl Iterator<Item = u64> {
    (at - at % BLOCK..at + len).step_by(BLOCK as usize)
}

/// The part of a range that lies in a block.
fn within(block: u64, at: u64, len: u64) -> std::ops::Range<u64> {
    at.max(block)..(at + len).min(block + BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// One block at 8, bad at 10.
    fn after(marks: &[Mark]) -> Oracle {
        let mut oracle = Oracle::new(&[Place { sectors: 8..16, bad: BTreeSet::from([10]) }]);
        marks.iter().for_each(|mark| oracle.take(*mark).unwrap());
        oracle
    }

    /// Which of these a sector may hold.
    fn may(oracle: &Oracle, main: u64) -> Vec<Found> {
        let all = [Found::Version(0), Found::Version(1), Found::Version(2), Found::Lost, Found::Foreign];
        all.into_iter().filter(|found| oracle.judge(main, *found).is_ok()).collect()
    }

    const ONE: Mark = Mark::Begun { version: 1, at: 10, len: 2 };
    const TWO: Mark = Mark::Begun { version: 2, at: 10, len: 1 };

    #[test]
    fn a_write_that_moves_a_block_is_durable_when_it_is_done() {
        let (old, one, lost) = (Found::Version(0), Found::Version(1), Found::Lost);
        let begun = after(&[ONE]);
        assert_eq!(begun.moved(8), Moved::Perhaps);
        assert_eq!([may(&begun, 9), may(&begun, 10), may(&begun, 11)], [vec![old], vec![one, lost], vec![old, one, lost]]);
        let done = after(&[ONE, Mark::Done(1)]);
        assert_eq!(done.moved(8), Moved::Yes);
        assert_eq!([may(&done, 9), may(&done, 10), may(&done, 11)], [vec![old], vec![one], vec![one]]);
    }

    #[test]
    fn a_write_to_the_spare_is_durable_after_a_flush_that_began_later() {
        let (one, two) = (Found::Version(1), Found::Version(2));
        let done = [ONE, Mark::Done(1), TWO, Mark::Flushing(1), Mark::Done(2), Mark::Flushed(1)];
        assert_eq!(may(&after(&done), 10), [one, two], "the flush may have come before it");
        let flushed = [&done[..], &[Mark::Flushing(2), Mark::Flushed(2)]].concat();
        assert_eq!(may(&after(&flushed), 10), [two]);
        assert_eq!(may(&after(&flushed), 11), [one]);
    }

    #[test]
    fn what_main_took_before_is_what_moves() {
        let good = Mark::Begun { version: 1, at: 11, len: 1 };
        let oracle = after(&[good, Mark::Done(1), TWO]);
        assert_eq!(oracle.moved(8), Moved::Perhaps);
        assert_eq!([may(&oracle, 11), may(&oracle, 12)], [vec![Found::Version(1)], vec![Found::Version(0)]]);
        assert!(oracle.judge_main(11, Found::Version(0)).is_err() && oracle.judge_main(10, Found::Version(2)).is_err());
    }
}
