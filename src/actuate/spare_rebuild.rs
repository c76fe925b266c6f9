//! Makes a spare whole again that has lost both headers: from its own table as far as that is there, and for table blocks that
//! are lost from what the store remembers.
//!
//! Nothing is written before everything is known to fit together. The headers come last: until then the device is no spare, and
//! doing it again does the same.

use super::spare_examine::examine;
use super::spare_header::{BadCopy, FormatError, read_copies, write_headers};
use super::spare_load::{Scope, SlotProblem};
use super::spare_table::{OpenError, SpareTable};
use crate::edge::{BlockIo, IoError, Served};
use crate::format::header::HeaderError;
use crate::format::table::{self, RECORDS_PER_BLOCK, TableError};
use crate::model::{Remap, RemapFlags, SetDescription};

/// Why a spare is not made anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebuildError {
    /// A header is there: it knows better than anybody.
    #[error("one of its headers is whole, and knows better than history")]
    HasHeader,
    /// It is not the disk, or not the content, that the set is known to have.
    #[error("{0}")]
    Other(String),
    /// What is known contradicts itself.
    #[error("what is known contradicts itself: {0}")]
    Contradiction(String),
    /// The table cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The device failed; repeat it.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The headers cannot be written.
    #[error(transparent)]
    Header(#[from] FormatError),
    /// A table block cannot be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What was written does not read back.
    #[error("what was written does not read back: {0}")]
    NotKept(String),
}

/// What will be on the spare.
#[derive(Clone, Debug)]
pub struct Rebuild {
    table: SpareTable,
    spare: u16,
    /// Remaps that its own table still has.
    pub own: Vec<Remap>,
    /// Table blocks that are lost, by index.
    pub lost: Vec<u32>,
    /// Remaps that only history knows; taken for marked, as nothing is known of their content.
    pub added: Vec<Remap>,
    /// What history knows otherwise than the table, which is right.
    pub left_out: Vec<Served>,
}

impl Rebuild {
    /// Every record that will be in the table.
    pub fn records(&self) -> impl Iterator<Item = &Remap> {
        self.own.iter().chain(&self.added)
    }
}

/// What the table of a spare has, whatever its headers are: its records, and the highest sequence number.
pub fn recorded(io: &dyn BlockIo, set: &SetDescription, spare: u16) -> Result<(Vec<Remap>, u64), OpenError> {
    let table = SpareTable::open(io, set, spare)?;
    Ok((table.records().copied().collect(), table.next_seq() - 1))
}

/// What is to be written so that the device is spare `spare` of `set` again. `known` is what the store remembers of it, and
/// `top` the highest sequence number used anywhere in the set. Writes nothing.
pub fn plan(io: &dyn BlockIo, set: &SetDescription, spare: u16, known: &[Served], top: u64) -> Result<Rebuild, RebuildError> {
    let scope = Scope::new(set, spare).ok_or(OpenError::NoSuchSpare(spare))?;
    let expected = set.spares[usize::from(spare)].sectors;
    if io.size() != expected {
        return Err(RebuildError::Other(format!("it has {} sectors, the spare had {expected}", io.size())));
    }
    for copy in read_copies(io).into_iter().flatten() {
        match copy {
            Ok(_) => return Err(RebuildError::HasHeader),
            Err(BadCopy::Unreadable(IoError::Medium(_)) | BadCopy::Invalid(HeaderError::NotOurs | HeaderError::Checksum)) => {}
            Err(other) => return Err(RebuildError::Other(format!("a header is there that is not understood: {other}"))),
        }
    }
    let table = SpareTable::open(io, set, spare)?;
    if let Some(conflict) = table.conflicts().first() {
        return Err(RebuildError::Contradiction(conflict.to_string()));
    }
    for (block, problem) in table.damaged().iter().flat_map(|block| block.slots.iter().map(move |slot| (block, slot))) {
        match problem {
            SlotProblem::Unreadable(IoError::Medium(_))
            | SlotProblem::Invalid(TableError::NotOurs | TableError::Checksum | TableError::Content(_)) => {}
            // A write that went to the wrong place of this table.
            SlotProblem::Invalid(TableError::Misplaced(place)) if (place.set, place.spare) == (set.id, spare) => {}
            other => return Err(RebuildError::Other(format!("table block {} is not this set's: {other}", block.index))),
        }
    }
    let own: Vec<Remap> = table.records().copied().collect();
    let lost: Vec<u32> = table.damaged().iter().map(|block| block.index).collect();
    let (mut added, mut left_out): (Vec<Remap>, Vec<Served>) = (Vec::new(), Vec::new());
    let mut seq = top.max(table.next_seq() - 1);
    // A table that is all there lacks nothing.
    for served in known.iter().filter(|_| !lost.is_empty()) {
        if own.iter().any(|record| (record.main, record.at) == (served.main, served.at)) {
            continue;
        }
        let remap = Remap { main: served.main, spare, at: served.at, flags: RemapFlags { marked: true }, seq: seq + 1 };
        let fits = served.at.0.checked_add(served.main.len().0).is_some() && scope.holds(&remap);
        if !fits {
            return Err(RebuildError::Contradiction(format!("main {} at {} is outside of the disks", served.main, served.at)));
        }
        let overlaps = |other: &Remap| other.main.overlaps(&remap.main) || other.spare_extent().overlaps(&remap.spare_extent());
        if own.iter().any(overlaps) {
            left_out.push(*served);
            continue;
        }
        if let Some(other) = added.iter().find(|other| overlaps(other)) {
            return Err(RebuildError::Contradiction(format!("main {} and main {}", other.main, remap.main)));
        }
        seq += 1;
        added.push(remap);
    }
    if added.len() > lost.len() * RECORDS_PER_BLOCK {
        let problem = format!("{} remaps are missing, the lost table blocks held fewer", added.len());
        return Err(RebuildError::Contradiction(problem));
    }
    Ok(Rebuild { table, spare, own, lost, added, left_out })
}

/// Writes what was planned, durably, and reads it back. The caller has the device for itself since it was planned.
pub fn rebuild(io: &dyn BlockIo, set: &SetDescription, mut plan: Rebuild, generation: u64) -> Result<(), RebuildError> {
    let scope = Scope::new(set, plan.spare).ok_or(OpenError::NoSuchSpare(plan.spare))?;
    let top = plan.added.last().map_or(0, |remap| remap.seq).max(plan.table.next_seq() - 1);
    let mut parts = plan.added.chunks(RECORDS_PER_BLOCK);
    for &index in &plan.lost {
        let block = table::encode(scope.place(index), top, parts.next().unwrap_or_default())?;
        for slot in 0..2 {
            io.write_durable(scope.slot(index, slot), &block)?;
        }
    }
    plan.table.mirror(io)?;
    io.flush()?;
    write_headers(io, set, plan.spare, generation)?;
    let after = examine(io);
    if !after.is_whole() {
        let left = after.steps().iter().map(ToString::to_string).chain(after.beyond_repair()).collect::<Vec<_>>();
        return Err(RebuildError::NotKept(left.join("; ")));
    }
    let sorted = |mut records: Vec<Remap>| {
        records.sort();
        records
    };
    let kept = after.table.iter().flatten().flat_map(|table| table.table.records().copied());
    if sorted(kept.collect()) != sorted(plan.records().copied().collect()) {
        return Err(RebuildError::NotKept("the remaps of its table".into()));
    }
    Ok(())
}

#[cfg(test)]
#[path = "spare_rebuild_tests.rs"]
mod tests;
