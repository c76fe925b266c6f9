//! Looks at a spare as it is, whole or not; and brings its two headers and the two slots of each table block to the same state.
//!
//! What counts is what counts when the set is opened: the header with the higher generation, the valid slot with the higher
//! sequence number. A repair only ever writes over the copy that does not count, so no remap that counts can be lost by it.

use super::spare_header::{BadCopy, FoundHeader, NoHeader, judge, read_copies};
use super::spare_load::{Scope, Slot, SlotProblem, hold};
use super::spare_table::{OpenError, SpareTable};
use crate::edge::{BlockIo, IoError};
use crate::format::header::{self, Header, HeaderError};
use crate::format::table::{self, Place};
use crate::format::{BLOCK_BYTES, BLOCK_SECTORS, lost_mark};
use crate::model::{Remap, Sector, Sectors};

/// Bytes of data read at once: a multiple of every logical block.
const CHUNK: u64 = 1 << 20;

/// What is on a device that is, or was, a spare.
#[derive(Debug)]
pub struct Examined {
    /// Size of the device.
    pub sectors: Sectors,
    /// The header at the start and the one at the end; `None` if the device is too small to have them.
    pub copies: Option<[Result<Header, BadCopy>; 2]>,
    /// What the two come to when a set is opened.
    pub header: Result<FoundHeader, NoHeader>,
    /// The table, if a header says where it is and the device has the size that the header says.
    pub table: Option<Result<ExaminedTable, OpenError>>,
    /// A whole table block where the first one is on every spare, although no header says so: the headers were lost.
    pub stray: Option<Place>,
}

/// What is in a table.
#[derive(Debug)]
pub struct ExaminedTable {
    /// As it is when the set is opened.
    pub table: SpareTable,
    /// Number of table blocks.
    pub blocks: u32,
    /// The highest sequence number of a block.
    pub top: u64,
    /// Blocks whose slots do not say the same, by index. Those of which neither counts are in [`SpareTable::damaged`].
    pub unequal: Vec<Unequal>,
    /// Sectors of main that are lost until they are written: their place holds a lost mark.
    pub lost: Sectors,
    /// Sectors of remaps that may hold lost marks and could not be read here.
    pub unreadable: Sectors,
}

/// A table block of which one slot counts and the other one says something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unequal {
    /// Its index.
    pub index: u32,
    /// The slot that counts, 0 or 1.
    pub current: u8,
    /// Sequence number of that slot.
    pub seq: u64,
    /// The other one: an older state with this sequence number, or why it is none.
    pub other: Result<u64, SlotProblem>,
    /// Where the other one is.
    pub at: Sector,
    /// Records that only the slot that counts has.
    pub gained: Vec<Remap>,
    /// Records that only the other one has: removed or replaced since.
    pub dropped: Vec<Remap>,
}

/// One thing that a repair writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A header, from the other one.
    Header {
        /// Where.
        at: Sector,
        /// It is the one at the end.
        end: bool,
        /// What is wrong with what is there.
        why: BadCopy,
    },
    /// The other slot of a table block, from the one that counts.
    Slot(Unequal),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Header { at, end, why } => {
                let (this, other) = if *end { ("end", "start") } else { ("start", "end") };
                write!(f, "write the header at the {this} (sector {at}) anew from the one at the {other}: {why}")
            }
            Step::Slot(Unequal { index, current, seq, other, at, gained, dropped }) => {
                let (this, from) = if *current == 0 { ("second", "first") } else { ("first", "second") };
                write!(f, "write the {this} slot of table block {index} (sector {at}) anew from the {from}, #{seq}: ")?;
                match other {
                    Err(problem) => write!(f, "{problem}"),
                    Ok(older) => {
                        write!(f, "it has #{older}, {} records are not in it and {} no more hold", gained.len(), dropped.len())
                    }
                }
            }
        }
    }
}

impl Examined {
    /// What a repair would write.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let Ok(found) = &self.header else { return steps };
        if self.size_problem().is_some() {
            return steps;
        }
        let at_b = found.header.set.geometry[usize::from(found.header.spare)].header_b;
        for (end, at, bad) in [(true, at_b, &found.bad_b), (false, Sector(0), &found.bad_a)] {
            let known = bad.clone().filter(|why| !is_away(why));
            steps.extend(known.map(|why| Step::Header { at, end, why }));
        }
        let table = self.table.iter().flatten();
        steps.extend(table.flat_map(|table| table.unequal.iter().cloned().map(Step::Slot)));
        steps
    }

    /// What no repair can mend from the spare itself, in words.
    pub fn beyond_repair(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.header.as_ref().err().map(ToString::to_string).into_iter().collect();
        problems.extend(self.size_problem());
        let bad = self.header.iter().flat_map(|found| [&found.bad_a, &found.bad_b]).flatten();
        problems.extend(bad.filter(|why| is_away(why)).map(|why| format!("a header: {why}")));
        match &self.table {
            Some(Err(error)) => problems.push(format!("the table could not be read: {error}")),
            Some(Ok(table)) => {
                problems.extend(table.table.damaged().iter().map(ToString::to_string));
                problems.extend(table.table.conflicts().iter().map(ToString::to_string));
            }
            None => {}
        }
        problems
    }

    /// Nothing is to be repaired, and nothing is beyond repair.
    pub fn is_whole(&self) -> bool {
        self.steps().is_empty() && self.beyond_repair().is_empty()
    }

    fn size_problem(&self) -> Option<String> {
        let header = &self.header.as_ref().ok()?.header;
        let expected = header.set.spares[usize::from(header.spare)].sectors;
        let wrong = expected != self.sectors;
        wrong.then(|| format!("its header speaks of a device of {expected} sectors, this one has {}", self.sectors))
    }
}

/// The device did not answer, which says nothing of what is there.
fn is_away(why: &BadCopy) -> bool {
    matches!(why, BadCopy::Unreadable(IoError::Late(_) | IoError::Other(_)))
}

/// Looks at a device. Writes nothing, and takes whatever bytes are there.
pub fn examine(io: &dyn BlockIo) -> Examined {
    let copies = read_copies(io);
    let header = match copies.clone() {
        Some([a, b]) => judge(io, a, b),
        None => Err(NoHeader::NotOurs),
    };
    let mut examined = Examined { sectors: io.size(), copies, header, table: None, stray: None };
    match &examined.header {
        Ok(found) if examined.size_problem().is_none() => examined.table = Some(examine_table(io, &found.header)),
        Ok(_) => {}
        Err(_) => examined.stray = stray(io),
    }
    examined
}

fn examine_table(io: &dyn BlockIo, header: &Header) -> Result<ExaminedTable, OpenError> {
    let scope = Scope::new(&header.set, header.spare).ok_or(OpenError::NoSuchSpare(header.spare))?;
    let slots = scope.slots(io)?;
    let unequal = (0u32..).zip(&slots).filter_map(|(index, [a, b])| unequal(&scope, index, a, b)).collect();
    let (loaded, damaged) = hold(slots);
    let top = loaded.iter().map(|block| block.seq).max().unwrap_or(0);
    let table = SpareTable::of(scope, loaded, damaged);
    let (mut lost, mut unreadable) = (0, 0);
    for remap in table.remaps().filter(|remap| remap.flags.marked) {
        let (more_lost, more_unreadable) = count_lost(io, header, remap);
        (lost, unreadable) = (lost + more_lost, unreadable + more_unreadable);
    }
    let blocks = scope.geometry.table_blocks;
    Ok(ExaminedTable { table, blocks, top, unequal, lost: Sectors(lost), unreadable: Sectors(unreadable) })
}

/// What differs between the slots of a block, if one of them counts.
fn unequal(scope: &Scope, index: u32, a: &Slot, b: &Slot) -> Option<Unequal> {
    let (current, holds, other) = match (a, b) {
        (Ok(a), Ok(b)) if a.records == b.records || a.seq == b.seq => return None,
        (Ok(a), Ok(second)) if a.seq > second.seq => (0, a, b),
        (Ok(_), Ok(second)) => (1, second, a),
        (Ok(a), Err(_)) => (0, a, b),
        (Err(_), Ok(second)) => (1, second, a),
        (Err(_), Err(_)) => return None,
    };
    let (gained, dropped) = match other {
        Ok(older) => (without(&holds.records, &older.records), without(&older.records, &holds.records)),
        Err(_) => (Vec::new(), Vec::new()),
    };
    let other = other.as_ref().map(|older| older.seq).map_err(Clone::clone);
    Some(Unequal { index, current, seq: holds.seq, other, at: scope.slot(index, 1 - current), gained, dropped })
}

fn without(all: &[Remap], others: &[Remap]) -> Vec<Remap> {
    all.iter().filter(|record| !others.contains(record)).copied().collect()
}

/// Sectors of a remap that hold a lost mark, and those that could not be read.
fn count_lost(io: &dyn BlockIo, header: &Header, remap: &Remap) -> (u64, u64) {
    let logical = header.set.main.logical_block as usize;
    let (mut lost, mut unreadable) = (0, 0);
    let mut done = 0;
    while done < remap.main.len().0 {
        let sectors = (remap.main.len().0 - done).min(CHUNK / 512);
        let mut bytes = vec![0; sectors as usize * 512];
        match io.read(Sector(remap.at.0 + done), &mut bytes) {
            Err(_) => unreadable += sectors,
            Ok(()) => {
                let first = remap.main.start().0 + done;
                for (number, block) in (0u64..).zip(bytes.chunks(logical)) {
                    let main = Sector(first + number * (logical / 512) as u64);
                    lost += u64::from(lost_mark::is_lost(&header.set.secret, main, block)) * (logical / 512) as u64;
                }
            }
        }
        done += sectors;
    }
    (lost, unreadable)
}

/// The place that the first slot of the first table block claims, if it is whole.
fn stray(io: &dyn BlockIo) -> Option<Place> {
    let mut bytes = [0; BLOCK_BYTES];
    io.read(Sector(BLOCK_SECTORS), &mut bytes).ok()?;
    table::decode(&bytes).ok().map(|block| block.place)
}

/// A repair could not be done, or did not lead to what was wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// The device failed; what was written before is good, and the repair can be repeated.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A header that was read cannot be written.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// What is on the device now differs from what was wanted: the device does not keep what is written to it.
    #[error("what was written does not read back: {0}")]
    NotKept(String),
}

/// Does what [`Examined::steps`] says, durably, and reads it back. The caller has the device for itself, and nothing has written
/// to it since it was examined.
pub fn repair(io: &dyn BlockIo, mut examined: Examined) -> Result<Examined, RepairError> {
    let steps = examined.steps();
    if let Ok(found) = &examined.header {
        let Header { set, spare, generation } = &found.header;
        let block = header::encode(set, *spare, *generation)?;
        for step in &steps {
            if let Step::Header { at, .. } = step {
                io.write_durable(*at, &block)?;
            }
        }
    }
    let before = examined.header.as_ref().ok().map(|found| found.header.clone());
    if let (Some(Ok(known)), false) = (&mut examined.table, steps.is_empty()) {
        known.table.mirror(io)?;
    }
    io.flush()?;
    let after = examine(io);
    let live = |examined: &Examined| -> Option<Vec<Remap>> {
        let table = examined.table.as_ref()?.as_ref().ok()?;
        Some(table.table.records().copied().collect())
    };
    if after.header.as_ref().ok().map(|found| &found.header) != before.as_ref() {
        return Err(RepairError::NotKept("the headers".into()));
    }
    if live(&after) != live(&examined) {
        return Err(RepairError::NotKept("the remaps of its table".into()));
    }
    match after.steps().first() {
        Some(left) => Err(RepairError::NotKept(format!("it would still have to {left}"))),
        None => Ok(after),
    }
}

#[cfg(test)]
#[path = "spare_examine_tests.rs"]
mod tests;
