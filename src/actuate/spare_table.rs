//! The remap table on a spare: what is durable, and how it changes.
//!
//! Each table block has two slots. A commit writes the slot that does not hold, durably; from then on it holds. A crash in
//! between leaves the other slot whole, so the block is as before or as after, nothing else. [`SpareTable::mirror`] then brings
//! the second slot up to date, off the path of the cure, so that losing any single slot loses nothing.
//!
//! A write that fails may or may not have reached the medium. Its block is *unsettled*: nothing else is committed to it, and the
//! ranges of that change stay taken, until [`SpareTable::settle`] has durably written the state before the change, with a
//! higher sequence number, over the same slot.
//!
//! A slot that did not count when the table was read is as uncertain: it may read the next time, and hold a change whose outcome
//! nobody knew. Such a block is unsettled, too.

use super::spare_load::{DamagedBlock, Loaded, Scope, Twin};
use crate::edge::{BlockIo, IoError};
use crate::format::merge::{Conflict, merge};
use crate::format::table::{self, RECORDS_PER_BLOCK, TableError};
use crate::model::{Extent, Remap, Sector, SetDescription};
use std::collections::BTreeMap;

/// How far above all sequence numbers that were read a slot that did not read may be. Each number costs a write of the table, and
/// all of them between two that can be read went to slots that cannot: more than a spare takes in its life.
const UNREAD: u64 = 1 << 32;

/// How long one write may take that a cure may wait behind, but that none needs, ms.
const PATIENCE_MS: u64 = 1_000;

/// A table could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The set has no such spare.
    #[error("the set has no spare{0}")]
    NoSuchSpare(u16),
    /// The device failed in a way that says nothing of the table.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// Blocks of the table are lost, or records contradict each other.
    #[error("the table is not sound: {0}")]
    Unsound(String),
    /// No record is free.
    #[error("the table is full")]
    Full,
    /// The sequence number is not higher than all seen.
    #[error("sequence number {given} is not above {seen}")]
    Sequence {
        /// The number given.
        given: u64,
        /// The highest seen.
        seen: u64,
    },
    /// The remap names another spare, or sectors that the devices do not have.
    #[error("main {0} to {1} lies outside this spare or main")]
    Outside(Extent, Sector),
    /// It overlaps a remap without replacing it.
    #[error("it overlaps the remap of main {0}")]
    Overlap(Extent),
    /// It touches a range whose last change is not settled.
    #[error("an earlier change is not settled")]
    Unsettled,
    /// There is no such remap.
    #[error("main sector {0} is not the start of a remap here")]
    NoSuchRemap(Sector),
    /// An older record for the range must be removed first, or it would come back to life.
    #[error("an older record of main {0} must be removed first")]
    Superseded(Extent),
    /// It cannot be written down.
    #[error(transparent)]
    Format(#[from] TableError),
}

/// A change was not made durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Certain: nothing reached the spare.
    #[error("not written: {0}")]
    NotWritten(#[from] NotWritten),
    /// A write was tried and failed: it may be found after a restart. Settle before anything else.
    #[error("the outcome is unknown: {0}")]
    Unknown(IoError),
}

/// One table block as it is on the spare.
#[derive(Clone, Debug)]
struct Block {
    records: Vec<Remap>,
    seq: u64,
    current: u8,
    other: Other,
}

/// What the slot that does not hold says.
#[derive(Clone, Debug)]
enum Other {
    /// The same records.
    Equal,
    /// An older state; `failed` if it did not take its second copy.
    Behind { failed: bool },
    /// Nothing that counted when the table was read, but perhaps the next time.
    Unread,
    /// A write to it failed: perhaps this change.
    Suspect(Vec<Remap>),
}

/// The table of one spare.
#[derive(Clone, Debug)]
pub struct SpareTable {
    scope: Scope,
    blocks: Vec<Block>,
    /// Table block of each live remap, by first main sector.
    live: BTreeMap<u64, (u32, Remap)>,
    /// Every extent of the spare that a record names, by first sector: superseded ones too.
    taken: BTreeMap<u64, Extent>,
    superseded: Vec<Remap>,
    conflicts: Vec<Conflict>,
    damaged: Vec<DamagedBlock>,
    top: u64,
    /// No block before this one has a free record.
    room: usize,
    /// The sequence numbers are above all that a slot that did not read may hold.
    above_unread: bool,
}

impl SpareTable {
    /// Reads the whole table of spare `spare` of `set`. Flushes the spare first, so that what is read is on the medium; writes nothing.
    ///
    /// Damage is no error here: ask [`SpareTable::check`] before the set is opened.
    pub fn open(io: &dyn BlockIo, set: &SetDescription, spare: u16) -> Result<SpareTable, OpenError> {
        let scope = Scope::new(set, spare).ok_or(OpenError::NoSuchSpare(spare))?;
        io.flush()?;
        let (loaded, damaged) = scope.load(io)?;
        Ok(SpareTable::of(scope, loaded, damaged))
    }

    /// The table that these blocks make.
    pub(super) fn of(scope: Scope, loaded: Vec<Loaded>, damaged: Vec<DamagedBlock>) -> SpareTable {
        let top = loaded.iter().map(|block| block.seq).max().unwrap_or(0);
        let blocks = loaded.into_iter().map(Block::from).collect();
        let mut table = SpareTable {
            scope,
            blocks,
            live: BTreeMap::new(),
            taken: BTreeMap::new(),
            superseded: Vec::new(),
            conflicts: Vec::new(),
            damaged,
            top,
            room: 0,
            above_unread: false,
        };
        table.index();
        table
    }

    /// Whether everything that was ever committed here is known; else what is not, in words. Only then may the set be opened, and
    /// space of this spare be handed out.
    pub fn check(&self) -> Result<(), String> {
        let lost = self.damaged.iter().map(ToString::to_string);
        let problems: Vec<String> = lost.chain(self.conflicts.iter().map(ToString::to_string)).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// Table blocks of which no slot counts.
    pub fn damaged(&self) -> &[DamagedBlock] {
        &self.damaged
    }

    /// Records that contradict each other.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// Records that a newer one replaces. Their space is still taken.
    pub fn superseded(&self) -> &[Remap] {
        &self.superseded
    }

    /// The remaps that hold, sorted by main sector.
    pub fn remaps(&self) -> impl ExactSizeIterator<Item = &Remap> {
        self.live.values().map(|(_, remap)| remap)
    }

    /// The remap that covers a main sector.
    pub fn find(&self, main: Sector) -> Option<&Remap> {
        let (_, (_, remap)) = self.live.range(..=main.0).next_back()?;
        remap.main.contains(main).then_some(remap)
    }

    /// Every record in the table, superseded ones too: what the allocator must not hand out.
    pub fn records(&self) -> impl Iterator<Item = &Remap> {
        self.blocks.iter().flat_map(|block| &block.records)
    }

    /// Whether a record names any of these sectors of the spare.
    pub fn is_taken(&self, extent: Extent) -> bool {
        self.taken_of(&extent).is_some()
    }

    fn taken_of(&self, extent: &Extent) -> Option<&Extent> {
        let (_, last) = self.taken.range(..extent.end().0).next_back()?;
        last.overlaps(extent).then_some(last)
    }

    /// Records that can still be added.
    pub fn free_records(&self) -> usize {
        self.blocks.iter().map(|block| RECORDS_PER_BLOCK - block.records.len()).sum()
    }

    /// The next sequence number, as far as this spare knows. With several spares take the highest of them.
    pub fn next_seq(&self) -> u64 {
        self.top + 1
    }

    /// Tells of a sequence number used on another spare of the set.
    pub fn raise_seq(&mut self, seen: u64) {
        self.top = self.top.max(seen);
    }

    /// Table blocks of which not everything that may be found later is known: their last write failed, or a slot did not read.
    pub fn unsettled(&self) -> impl Iterator<Item = u32> + '_ {
        let unsettled = |block: &Block| matches!(block.other, Other::Suspect(_) | Other::Unread);
        (0u32..).zip(&self.blocks).filter(move |(_, block)| unsettled(block)).map(|(index, _)| index)
    }

    /// Whether no block is unsettled. Else a slot may name any place of the spare the next time it reads.
    pub fn is_whole(&self) -> bool {
        self.unsettled().next().is_none()
    }

    /// Whether it is unknown if this remap is recorded.
    pub fn is_unsettled(&self, remap: &Remap) -> bool {
        let has = |records: &[Remap]| records.iter().any(|record| record.same_place(remap));
        let unknown = |block: &Block| matches!(&block.other, Other::Suspect(other) if has(other) != has(&block.records));
        self.blocks.iter().any(unknown)
    }

    /// Table blocks with only one good slot: [`SpareTable::mirror`] mends them.
    pub fn single(&self) -> usize {
        self.blocks.iter().filter(|block| matches!(block.other, Other::Behind { .. } | Other::Unread)).count()
            - self.damaged.len()
    }

    /// Makes a remap durable: the commit point. A live remap of the same range of main is replaced in the same write.
    pub fn commit(&mut self, io: &dyn BlockIo, remap: Remap) -> Result<(), CommitError> {
        let (index, replaced) = self.admit(&remap)?;
        let block = &self.blocks[index as usize];
        let mut records = Vec::with_capacity(block.records.len() + 1);
        records.extend(block.records.iter().filter(|record| Some(**record) != replaced));
        records.push(remap);
        self.write(io, index, records, remap.seq)
    }

    /// Durably removes the remap that starts at `main`.
    pub fn remove(&mut self, io: &dyn BlockIo, main: Sector, seq: u64) -> Result<(), CommitError> {
        let &(_, remap) = self.live.get(&main.0).ok_or(NotWritten::NoSuchRemap(main))?;
        if let Some(older) = self.superseded.iter().find(|older| older.main.overlaps(&remap.main)) {
            return Err(NotWritten::Superseded(older.main).into());
        }
        self.remove_record(io, &remap, seq)
    }

    /// Writes both slots of the block that records the remap which starts at `main`, as they are: what takes that takes what comes next,
    /// too. Fails, and changes nothing, if a slot does not take it, or may name that remap later.
    pub fn refresh(&mut self, io: &dyn BlockIo, main: Sector) -> Result<(), IoError> {
        if !self.is_whole() {
            return Err(IoError::Other("it is not known what a slot of it holds".into()));
        }
        let Some(&(index, _)) = self.live.get(&main.0) else { return Ok(()) };
        for _ in 0..2 {
            self.top += 1;
            let (seq, slot) = (self.top, 1 - self.blocks[index as usize].current);
            let written = self.put(io, index, slot, seq, Some(PATIENCE_MS));
            let block = &mut self.blocks[index as usize];
            if let Err(error) = written {
                block.other = Other::Behind { failed: true };
                return Err(error);
            }
            (block.seq, block.current) = (seq, slot);
        }
        self.blocks[index as usize].other = Other::Equal;
        Ok(())
    }

    /// Durably removes one record, a superseded one for example.
    pub fn remove_record(&mut self, io: &dyn BlockIo, remap: &Remap, seq: u64) -> Result<(), CommitError> {
        self.admit_change(seq)?;
        let live = self.live.get(&remap.main.start().0).filter(|(_, live)| live == remap).map(|(index, _)| *index as usize);
        let index = live.or_else(|| self.blocks.iter().position(|block| block.records.contains(remap)));
        let index = index.ok_or(NotWritten::NoSuchRemap(remap.main.start()))?;
        if matches!(self.blocks[index].other, Other::Suspect(_)) {
            return Err(NotWritten::Unsettled.into());
        }
        let records = self.blocks[index].records.iter().filter(|record| *record != remap).copied().collect();
        self.write(io, index as u32, records, seq)
    }

    /// Settles every block that is unsettled: the state before the write that failed is durable then, and nothing else can be found
    /// later. A block that cannot be settled keeps none of the others from it; the first error is the answer.
    pub fn settle(&mut self, io: &dyn BlockIo) -> Result<(), IoError> {
        let unsettled: Vec<u32> = self.unsettled().collect();
        first_error(unsettled.into_iter().map(|index| self.settle_block(io, index, None)))
    }

    fn settle_block(&mut self, io: &dyn BlockIo, index: u32, ms: Option<u64>) -> Result<(), IoError> {
        let at = index as usize;
        if matches!(self.blocks[at].other, Other::Unread) && !self.above_unread {
            (self.top, self.above_unread) = (self.top.saturating_add(UNREAD), true);
        }
        self.top += 1;
        let (seq, suspect) = (self.top, 1 - self.blocks[at].current);
        // Never over the only good slot before the other one is good.
        self.put(io, index, suspect, seq, ms)?;
        // The failed write may still arrive, and would outrank the older slot: only two newer ones settle it.
        self.blocks[at].current = suspect;
        self.put(io, index, 1 - suspect, seq, ms)?;
        (self.blocks[at].seq, self.blocks[at].other) = (seq, Other::Equal);
        self.room = 0;
        Ok(())
    }

    /// The next block in turn after block `last` that has only one good slot, or of which not all is known that may be found later: with
    /// `unsettled`, of the latter only.
    pub fn next_uneven(&self, last: u32, unsettled: bool) -> Option<u32> {
        let uneven = |block: &Block| match block.other {
            Other::Equal => false,
            Other::Behind { .. } => !unsettled,
            Other::Unread | Other::Suspect(_) => true,
        };
        let blocks = (0u32..).zip(&self.blocks).filter(|(index, block)| uneven(block) && !self.is_damaged(*index));
        let indices = blocks.map(|(index, _)| index);
        indices.clone().find(|index| *index > last).or_else(|| indices.min())
    }

    /// Gives one block two good slots: settles it, or brings its second slot up to date. Gives up a write that takes long.
    pub fn mend(&mut self, io: &dyn BlockIo, index: u32) -> Result<(), IoError> {
        match self.blocks[index as usize].other {
            Other::Equal => Ok(()),
            Other::Behind { .. } => self.mirror_block(io, index, Some(PATIENCE_MS)),
            Other::Unread | Other::Suspect(_) => self.settle_block(io, index, Some(PATIENCE_MS)),
        }
    }

    /// As [`SpareTable::mirror`], but only of blocks that have changed and did not fail to take their second copy, and gives up a write
    /// that takes long.
    pub fn mirror_changed(&mut self, io: &dyn BlockIo) -> Result<(), IoError> {
        let changed = |block: &Block| matches!(block.other, Other::Behind { failed: false });
        let blocks = (0u32..).zip(&self.blocks).filter(|(_, block)| changed(block));
        let blocks: Vec<u32> = blocks.map(|(index, _)| index).collect();
        first_error(blocks.into_iter().map(|index| self.mirror_block(io, index, Some(PATIENCE_MS))))
    }

    /// Brings the second slot of every changed block up to date, and of those that had only one when they were read. Not part of a
    /// commit: when this fails nothing more is lost or unknown than before, a block just has one good slot until the next time. A
    /// block that cannot be mended keeps none of the others from it; the first error is the answer.
    pub fn mirror(&mut self, io: &dyn BlockIo) -> Result<(), IoError> {
        let single = |block: &Block| matches!(block.other, Other::Behind { .. } | Other::Unread);
        let blocks = (0u32..).zip(&self.blocks).filter(|(index, block)| single(block) && !self.is_damaged(*index));
        let blocks: Vec<u32> = blocks.map(|(index, _)| index).collect();
        first_error(blocks.into_iter().map(|index| self.mirror_block(io, index, None)))
    }

    fn mirror_block(&mut self, io: &dyn BlockIo, index: u32, ms: Option<u64>) -> Result<(), IoError> {
        let block = &self.blocks[index as usize];
        let written = self.put(io, index, 1 - block.current, block.seq, ms);
        let block = &mut self.blocks[index as usize];
        match (&written, &mut block.other) {
            (Ok(()), other) => *other = Other::Equal,
            (Err(_), Other::Behind { failed }) => *failed = true,
            (Err(_), _) => {}
        }
        written
    }

    fn is_damaged(&self, index: u32) -> bool {
        self.damaged.iter().any(|block| block.index == index)
    }

    fn admit_change(&self, seq: u64) -> Result<(), NotWritten> {
        self.check().map_err(NotWritten::Unsound)?;
        if seq <= self.top {
            return Err(NotWritten::Sequence { given: seq, seen: self.top });
        }
        Ok(())
    }

    /// Checks a remap; the block it goes to and the record it replaces.
    fn admit(&self, remap: &Remap) -> Result<(u32, Option<Remap>), NotWritten> {
        self.admit_change(remap.seq)?;
        let extent = Extent::new(remap.at, remap.main.len()).map_err(|_| NotWritten::Outside(remap.main, remap.at))?;
        if remap.spare != self.scope.spare || !self.scope.holds(remap) {
            return Err(NotWritten::Outside(remap.main, remap.at));
        }
        for block in &self.blocks {
            let Other::Suspect(pending) = &block.other else { continue };
            if pending.iter().any(|other| other.main.overlaps(&remap.main) || other.spare_extent().overlaps(&extent)) {
                return Err(NotWritten::Unsettled);
            }
        }
        let replaced = self.live.range(..remap.main.end().0).next_back().map(|(_, &found)| found);
        let replaced = replaced.filter(|(_, found)| found.main.overlaps(&remap.main));
        if let Some((_, found)) = replaced.filter(|(_, found)| found.main != remap.main) {
            return Err(NotWritten::Overlap(found.main));
        }
        let sharing = self.taken_of(&extent);
        if sharing.is_some_and(|taken| *taken != extent || replaced.is_none_or(|(_, found)| found.at != remap.at)) {
            return Err(NotWritten::Overlap(remap.main));
        }
        match replaced {
            Some((index, _)) if matches!(self.blocks[index as usize].other, Other::Suspect(_)) => Err(NotWritten::Unsettled),
            Some((index, found)) => Ok((index, Some(found))),
            None => Ok((self.block_with_room()?, None)),
        }
    }

    /// A block with a free record. One whose two slots are good comes first: where a slot did not take its last write, or did not
    /// read, the next write may well fail, and would leave another range sealed.
    fn block_with_room(&self) -> Result<u32, NotWritten> {
        let find = |fits: fn(&Other) -> bool| {
            let has_room = |block: &Block| block.records.len() < RECORDS_PER_BLOCK && fits(&block.other);
            self.blocks[self.room..].iter().position(has_room)
        };
        let index = find(|other| matches!(other, Other::Equal | Other::Behind { failed: false }))
            .or_else(|| find(|other| !matches!(other, Other::Suspect(_))));
        index.map(|index| (self.room + index) as u32).ok_or(NotWritten::Full)
    }

    /// Writes a block's new content over the slot that does not hold, and lets it hold.
    fn write(&mut self, io: &dyn BlockIo, index: u32, records: Vec<Remap>, seq: u64) -> Result<(), CommitError> {
        let bytes = table::encode(self.scope.place(index), seq, &records).map_err(NotWritten::Format)?;
        self.top = seq;
        let block = &mut self.blocks[index as usize];
        let slot = 1 - block.current;
        if let Err(error) = io.write_durable(self.scope.slot(index, slot), &bytes) {
            block.other = Other::Suspect(records);
            return Err(CommitError::Unknown(error));
        }
        let before = std::mem::replace(block, Block { records, seq, current: slot, other: Other::Behind { failed: false } });
        self.reindex(index, &before.records);
        Ok(())
    }

    /// Writes what a block holds to one of its slots; gives up after `ms`.
    fn put(&self, io: &dyn BlockIo, index: u32, slot: u8, seq: u64, ms: Option<u64>) -> Result<(), IoError> {
        let bytes = table::encode(self.scope.place(index), seq, &self.blocks[index as usize].records)
            .map_err(|error| IoError::Other(error.to_string()))?;
        let at = self.scope.slot(index, slot);
        ms.map_or_else(|| io.write_durable(at, &bytes), |ms| io.write_durable_within(at, &bytes, ms))
    }

    /// Updates the maps after block `index` changed from `before`.
    fn reindex(&mut self, index: u32, before: &[Remap]) {
        if !self.superseded.is_empty() {
            return self.index();
        }
        let after = &self.blocks[index as usize].records;
        for gone in before.iter().filter(|record| !after.contains(record)) {
            self.live.remove(&gone.main.start().0);
            self.taken.remove(&gone.at.0);
            self.room = self.room.min(index as usize);
        }
        for new in after.iter().filter(|record| !before.contains(record)) {
            self.live.insert(new.main.start().0, (index, *new));
            self.taken.insert(new.at.0, new.spare_extent());
        }
        while self.blocks.get(self.room).is_some_and(|block| block.records.len() == RECORDS_PER_BLOCK) {
            self.room += 1;
        }
        self.room = self.room.min(self.blocks.len().saturating_sub(1));
    }

    /// Builds the maps from all records.
    fn index(&mut self) {
        let merged = merge(self.records().copied());
        let home: BTreeMap<Remap, u32> = (0u32..)
            .zip(&self.blocks)
            .flat_map(|(index, block)| block.records.iter().map(move |record| (*record, index)))
            .collect();
        self.live = merged.live.iter().map(|remap| (remap.main.start().0, (home[remap], *remap))).collect();
        self.taken = home.keys().map(|record| (record.at.0, record.spare_extent())).collect();
        self.superseded = merged.superseded;
        self.conflicts = merged.conflicts;
        self.room = 0;
    }
}

impl From<Loaded> for Block {
    fn from(loaded: Loaded) -> Block {
        let other = match loaded.twin {
            Twin::Equal => Other::Equal,
            Twin::Behind => Other::Behind { failed: false },
            Twin::Unread => Other::Unread,
        };
        Block { records: loaded.records, seq: loaded.seq, current: loaded.current, other }
    }
}

/// Does them all; the first error is the answer.
fn first_error(results: impl Iterator<Item = Result<(), IoError>>) -> Result<(), IoError> {
    results.fold(Ok(()), Result::and)
}

#[cfg(test)]
#[path = "spare_table_tests.rs"]
pub(crate) mod tests;
