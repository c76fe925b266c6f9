//! Reads a spare's table: both slots of every block, and which of them holds.

use super::spare_table::OpenError;
use crate::edge::{BlockIo, IoError};
use crate::format::table::{self, Place, TableBlock, TableError};
use crate::format::{BLOCK_BYTES, BLOCK_SECTORS};
use crate::model::{Extent, Geometry, Remap, Sector, Sectors, SetDescription, SetId};

/// Slots read at once.
const BATCH: u32 = 64;

/// Where a table is and what its records may name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    pub set: SetId,
    pub spare: u16,
    pub geometry: Geometry,
    pub main: Sectors,
}

/// Why a slot does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotProblem {
    /// The medium did not give it.
    #[error("unreadable: {0}")]
    Unreadable(IoError),
    /// Torn, damaged, or another's.
    #[error("{0}")]
    Invalid(TableError),
    /// It names sectors that main or the spare do not have.
    #[error("its record of main {0} lies outside the device")]
    Outside(Extent),
    /// The other slot says something else under the same sequence number.
    #[error("the other slot contradicts it")]
    Contradiction,
}

/// A table block of which neither slot counts: the remaps in it are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("table block {index} is lost: first slot: {}; second slot: {}", .slots[0], .slots[1])]
pub struct DamagedBlock {
    /// Its index.
    pub index: u32,
    /// What is wrong with its slots.
    pub slots: [SlotProblem; 2],
}

/// What the slots of one block come to.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub records: Vec<Remap>,
    pub seq: u64,
    /// The slot that holds.
    pub current: u8,
    /// What the other one says.
    pub twin: Twin,
}

/// The slot that does not hold, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twin {
    /// The same records.
    Equal,
    /// An older state; or the block is lost.
    Behind,
    /// Nothing that counts now. It may read again one day, and say anything that was ever written there.
    Unread,
}

pub(super) type Slot = Result<TableBlock, SlotProblem>;

impl Scope {
    pub fn new(set: &SetDescription, spare: u16) -> Option<Scope> {
        let geometry = *set.geometry.get(usize::from(spare))?;
        Some(Scope { set: set.id, spare, geometry, main: set.main.sectors })
    }

    pub fn place(&self, index: u32) -> Place {
        Place { set: self.set, spare: self.spare, index }
    }

    /// First sector of a slot. All first slots come before all second ones, so that damage to neighbouring sectors, or a torn
    /// physical block larger than a slot, leaves one slot of each block whole.
    pub fn slot(&self, index: u32, slot: u8) -> Sector {
        let number = u64::from(slot) * u64::from(self.geometry.table_blocks) + u64::from(index);
        Sector(self.geometry.table_start.0 + number * BLOCK_SECTORS)
    }

    /// Whether main and spare have the sectors that a record names.
    pub fn holds(&self, record: &Remap) -> bool {
        record.main.end().0 <= self.main.0 && self.geometry.data.covers(&record.spare_extent())
    }

    fn check(&self, index: u32, bytes: &[u8]) -> Slot {
        let block = table::decode_at(bytes, self.place(index)).map_err(SlotProblem::Invalid)?;
        match block.records.iter().find(|record| !self.holds(record)) {
            Some(record) => Err(SlotProblem::Outside(record.main)),
            None => Ok(block),
        }
    }

    /// Reads every block of the table.
    pub fn load(&self, io: &dyn BlockIo) -> Result<(Vec<Loaded>, Vec<DamagedBlock>), OpenError> {
        Ok(hold(self.slots(io)?))
    }

    /// Both slots of every block, in order.
    pub fn slots(&self, io: &dyn BlockIo) -> Result<Vec<[Slot; 2]>, OpenError> {
        let first = self.read_slots(io, 0)?;
        let second = self.read_slots(io, 1)?;
        Ok(first.into_iter().zip(second).map(|(a, b)| [a, b]).collect())
    }

    fn read_slots(&self, io: &dyn BlockIo, slot: u8) -> Result<Vec<Slot>, OpenError> {
        let count = self.geometry.table_blocks;
        let mut slots = Vec::with_capacity(count as usize);
        let mut bytes = vec![0; BATCH as usize * BLOCK_BYTES];
        for from in (0..count).step_by(BATCH as usize) {
            let batch = BATCH.min(count - from);
            let bytes = &mut bytes[..batch as usize * BLOCK_BYTES];
            let whole = io.read(self.slot(from, slot), bytes);
            for (index, bytes) in (from..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
                let read = if whole.is_ok() { Ok(()) } else { io.read(self.slot(index, slot), bytes) };
                slots.push(match read {
                    Ok(()) => self.check(index, bytes),
                    Err(IoError::Medium(text)) => Err(SlotProblem::Unreadable(IoError::Medium(text))),
                    // The disk is gone or the link failed: that says nothing of the table.
                    Err(error) => return Err(error.into()),
                });
            }
        }
        Ok(slots)
    }
}

/// What holds of each block; and the blocks of which nothing does.
pub(super) fn hold(slots: Vec<[Slot; 2]>) -> (Vec<Loaded>, Vec<DamagedBlock>) {
    let mut blocks = Vec::with_capacity(slots.len());
    let mut damaged = Vec::new();
    for (index, [a, b]) in (0u32..).zip(slots) {
        match choose(a, b) {
            Ok(loaded) => blocks.push(loaded),
            Err(slots) => {
                damaged.push(DamagedBlock { index, slots });
                blocks.push(Loaded { records: Vec::new(), seq: 0, current: 0, twin: Twin::Behind });
            }
        }
    }
    (blocks, damaged)
}

/// The slot that holds: the valid one with the higher sequence number.
fn choose(a: Slot, b: Slot) -> Result<Loaded, [SlotProblem; 2]> {
    let take = |block: TableBlock, current, twin| Loaded { records: block.records, seq: block.seq, current, twin };
    let twin = |a: &TableBlock, b: &TableBlock| if a.records == b.records { Twin::Equal } else { Twin::Behind };
    match (a, b) {
        (Ok(a), Ok(b)) if a.seq == b.seq && a.records != b.records => {
            Err([SlotProblem::Contradiction, SlotProblem::Contradiction])
        }
        (Ok(a), Ok(b)) => {
            let twin = twin(&a, &b);
            Ok(if a.seq >= b.seq { take(a, 0, twin) } else { take(b, 1, twin) })
        }
        (Ok(a), Err(_)) => Ok(take(a, 0, Twin::Unread)),
        (Err(_), Ok(b)) => Ok(take(b, 1, Twin::Unread)),
        (Err(a), Err(b)) => Err([a, b]),
    }
}
