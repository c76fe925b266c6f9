//! Looks after the tables of an open set: second copies that could not be written, and seals that stay until the table is certain.

use super::spare_table::SpareTable;
use super::steps::OpenSpare;
use crate::edge::{FenceId, IoError, Target, TargetFault};
use crate::engine::Tended;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the whole table of a spare is known, for who writes to what it does not name: a slot that did not read may name it.
#[derive(Clone, Debug, Default)]
pub struct WholeTable(Arc<AtomicBool>);

impl WholeTable {
    /// Nothing else than what the table says can be found in it later.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn learn(&self, table: &SpareTable) {
        self.0.store(table.is_whole(), Ordering::Release);
    }
}

/// What is left to do, and what history is to be told.
#[derive(Debug, Default)]
pub struct Care {
    /// Sealed fences of an earlier run whose record may be in a table block that is not settled.
    sealed: Vec<FenceId>,
    /// Spares of which it was told that table blocks have one good copy only.
    single: BTreeSet<u16>,
    /// Spares that were left in the write of a second copy.
    slow: BTreeSet<u16>,
    /// Of each spare.
    whole: Vec<WholeTable>,
    /// The table block of each spare that was looked after last: they take turns.
    last: BTreeMap<u16, u32>,
    news: Vec<String>,
}

impl Care {
    /// Brings the tables to a state that every later start finds again, whichever of their slots read then. To be called by the owner
    /// of the target only, as another one may be writing; and before anything relies on what the tables say.
    pub fn begin(spares: &mut [OpenSpare]) -> Care {
        let top = spares.iter().map(|spare| spare.table.next_seq() - 1).max().unwrap_or(0);
        let mut care = Care::default();
        for (index, OpenSpare { io, table }) in (0u16..).zip(&mut *spares) {
            table.raise_seq(top);
            // A slot that did not read is written with a higher sequence number than it can have; one that is only older, as the other.
            if let Err(error) = table.settle(io.as_ref()).and(table.mirror(io.as_ref())) {
                care.failed(index, table, &error);
            }
            let whole = WholeTable::default();
            whole.learn(table);
            care.whole.push(whole);
        }
        care
    }

    /// These fences stay sealed until every table block is settled.
    pub fn keep_sealed(&mut self, fences: Vec<FenceId>) {
        self.sealed = fences;
    }

    /// Of which spares the whole table is known, in the order of the description. It may become known later.
    pub fn whole_tables(&self) -> Vec<WholeTable> {
        self.whole.clone()
    }

    /// Blocks of this spare's table were written.
    pub(super) fn learn(&self, index: u16, table: &SpareTable) {
        self.whole.get(usize::from(index)).inspect(|whole| whole.learn(table));
    }

    /// Blocks of a table could not be given their second copy.
    pub(super) fn failed(&mut self, spare: u16, table: &SpareTable, error: &IoError) {
        tracing::warn!(spare, %error, "table blocks have only one good copy");
        if self.single.insert(spare) {
            let count = table.single();
            // What did not read may name any place.
            let stop =
                if table.is_whole() { "" } else { ", and until a write to it succeeds nothing more is moved to this spare" };
            self.news.push(format!(
                "{count} blocks of the table on spare {spare} have only one good copy: {error}; it is tried again, but if the other \
                 copy fails, too, the set does not open{stop}: plan a replacement of this spare"
            ));
        }
    }

    /// A second copy was not written in time. It may have arrived by the time it is tried again.
    pub(super) fn late(&mut self, spare: u16) {
        tracing::info!(spare, "a second copy of a table block is late");
        self.slow.insert(spare);
    }

    /// A spare has just taken a write: it may take a second copy now that failed before. A set that is busy curing would have
    /// no other time for it, and until then one more bad sector can cost the block.
    pub(super) fn try_again(&mut self, index: u16, spare: &mut OpenSpare) {
        if self.slow.contains(&index) {
            return;
        }
        match self.mend_next(index, spare, false) {
            Some(Err(IoError::Late(_))) => self.late(index),
            Some(Err(error)) => self.failed(index, &spare.table, &error),
            Some(Ok(())) | None => {}
        }
    }

    /// Tries the block whose turn it is, if there is one.
    fn mend_next(&mut self, index: u16, spare: &mut OpenSpare, unsettled: bool) -> Option<Result<(), IoError>> {
        let last = self.last.get(&index).copied().unwrap_or(u32::MAX);
        let block = spare.table.next_uneven(last, unsettled)?;
        self.last.insert(index, block);
        let mended = spare.table.mend(spare.io.as_ref(), block);
        self.learn(index, &spare.table);
        Some(mended)
    }

    /// Tries one block of a spare's table again, as a cure may come that must not wait long; with it what is new, in words for history.
    pub(super) fn tend(&mut self, target: &dyn Target, spares: &mut [OpenSpare], index: u16) -> (Tended, Vec<String>) {
        let Some(spare) = spares.get_mut(usize::from(index)) else { return (Tended::Well, Vec::new()) };
        self.learn(index, &spare.table);
        // Where sealed ranges wait for it, nothing else comes before.
        let unsettled = !self.sealed.is_empty() && !spare.table.is_whole();
        let mut tended = match self.mend_next(index, spare, unsettled) {
            None => Tended::Well,
            Some(Ok(())) => {
                self.slow.remove(&index);
                Tended::Mended
            }
            Some(Err(error)) => {
                self.failed(index, &spare.table, &error);
                Tended::Failed { sealed: unsettled }
            }
        };
        if spare.table.next_uneven(0, false).is_none() && self.single.remove(&index) {
            self.news.push(format!("every block of the table on spare {index} has two good copies again"));
        }
        if spares.iter().all(|spare| spare.table.is_whole()) {
            self.lift(target);
            if !self.sealed.is_empty() {
                tended = Tended::Failed { sealed: true };
            }
        }
        (tended, std::mem::take(&mut self.news))
    }

    /// The table is certain: nothing that is sealed can be recorded in it.
    fn lift(&mut self, target: &dyn Target) {
        let news = &mut self.news;
        self.sealed.retain(|fence| match target.unfence(*fence) {
            Ok(()) | Err(TargetFault::FenceGone(_)) => {
                news.push("the table is certain now: a seal that an earlier run had left is lifted".into());
                false
            }
            Err(fault) => {
                tracing::warn!(fence, %fault, "a seal could not be lifted");
                true
            }
        });
    }
}
