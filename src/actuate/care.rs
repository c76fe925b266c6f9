//! Looks after the tables of an open set: second copies that could not be written, and seals that stay until the table is certain.

use super::spare_table::SpareTable;
use super::steps::OpenSpare;
use crate::edge::{FenceId, IoError, Target, TargetFault};
use std::collections::BTreeSet;

/// What is left to do, and what history is to be told.
#[derive(Debug, Default)]
pub struct Care {
    /// Sealed fences of an earlier run whose record may be in a table block that is not settled.
    sealed: Vec<FenceId>,
    /// Spares of which it was told that table blocks have one good copy only.
    single: BTreeSet<u16>,
    news: Vec<String>,
}

impl Care {
    /// Brings the tables to a state that every later start finds again, whichever of their slots read then. To be called by the owner
    /// of the target only, as another one may be writing; and before anything relies on what the tables say.
    pub fn begin(spares: &mut [OpenSpare]) -> Care {
        let top = spares.iter().map(|spare| spare.table.next_seq() - 1).max().unwrap_or(0);
        let mut care = Care::default();
        for (index, spare) in (0u16..).zip(&mut *spares) {
            spare.table.raise_seq(top);
            care.mend(index, spare);
        }
        care
    }

    /// These fences stay sealed until every table block is settled.
    pub fn keep_sealed(&mut self, fences: Vec<FenceId>) {
        self.sealed = fences;
    }

    /// Blocks of a table could not be given their second copy.
    pub(super) fn failed(&mut self, spare: u16, table: &SpareTable, error: &IoError) {
        tracing::warn!(spare, %error, "table blocks have only one good copy");
        if self.single.insert(spare) {
            let count = table.single();
            self.news.push(format!(
                "{count} blocks of the table on spare {spare} have only one good copy: {error}; it is tried again, but if the other \
                 copy fails, too, the set does not open: plan a replacement of this spare"
            ));
        }
    }

    /// A slot that did not read is written with a higher sequence number than it can have; one that is only older, as the other.
    fn mend(&mut self, index: u16, spare: &mut OpenSpare) {
        let OpenSpare { io, table } = spare;
        match table.settle(io.as_ref()).and(table.mirror(io.as_ref())) {
            Err(error) => self.failed(index, table, &error),
            Ok(()) if self.single.remove(&index) => {
                self.news.push(format!("every block of the table on spare {index} has two good copies again"));
            }
            Ok(()) => {}
        }
    }

    /// Tries again; says what is new, in words for history.
    pub(super) fn tend(&mut self, target: &dyn Target, spares: &mut [OpenSpare]) -> Vec<String> {
        for (index, spare) in (0u16..).zip(&mut *spares) {
            self.mend(index, spare);
        }
        if spares.iter().all(|spare| spare.table.unsettled().next().is_none()) {
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
        std::mem::take(&mut self.news)
    }
}
