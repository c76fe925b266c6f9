//! Does the steps of a cure, one after the other, on the real (or simulated) world. The only code that
//! writes to members; what it may do when is decided by the engine.

use super::care::Care;
use super::reconcile;
use super::salvage::{Refused, UNDER_FENCE_MS, answers_elsewhere, read_what_can_be_read, write_salvaged};
use super::spare_table::{CommitError, SpareTable};
use crate::edge::{BlockIo, FenceId, IoError, Target, TargetFault};
use crate::engine::{Outcome, Step, Tended};
use crate::failpoint::reached;
use crate::format::lost_mark;
use crate::model::{Extent, Member, Remap, Secret, Sector, Sectors, SetDescription};
use crate::plan::spare_len;

/// How long a fence, and after it a seal, may last: shorter than the longest hold, longer than a slow salvage should be, ms.
pub const FENCE_MS: u64 = 8_000;

/// A spare that is open: its I/O and its table.
pub struct OpenSpare {
    /// Raw I/O.
    pub io: Box<dyn BlockIo>,
    /// The table on it.
    pub table: SpareTable,
}

/// The number of the next change of the set's tables: they share one sequence.
pub(super) fn next_seq(spares: &[OpenSpare]) -> u64 {
    spares.iter().map(|spare| spare.table.next_seq()).max().unwrap_or(1)
}

/// Everything needed to cure one set.
pub struct Actuator {
    target: Box<dyn Target>,
    main: Box<dyn BlockIo>,
    spares: Vec<OpenSpare>,
    secret: Secret,
    block: Sectors,
    care: Care,
}

impl Actuator {
    /// An actuator for an open set. `spares` are in the order of the description, `care` is what is left to do from its opening.
    pub fn new(
        desc: &SetDescription,
        target: Box<dyn Target>,
        main: Box<dyn BlockIo>,
        spares: Vec<OpenSpare>,
        care: Care,
    ) -> Actuator {
        Actuator { target, main, spares, secret: desc.secret, block: desc.block(), care }
    }

    /// The kernel target.
    pub fn target(&self) -> &dyn Target {
        self.target.as_ref()
    }

    /// Does one step.
    pub fn run(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Fence(extent) => match self.target.fence(*extent, FENCE_MS).inspect(|_| reached("fence")) {
                Ok(fence) => Outcome::Fenced(fence),
                Err(fault) => failed("could not fence the range", &fault),
            },
            Step::Salvage { fence, remap, from, medium, covered } => self.salvage(*fence, remap, from.as_ref(), *medium, covered),
            Step::Seal(fence) => match self.target.seal(*fence).inspect(|()| reached("sealed")) {
                Ok(()) => Outcome::Sealed,
                Err(fault) => failed("could not seal the fence", &fault),
            },
            Step::Commit(remap) => self.commit(*remap),
            Step::Settle(remap) => self.settle(remap, "the spare's table did not take the record".into()),
            Step::AddRemap { remap, fence } => match self.target.add_remap(remap, Some(*fence)) {
                Err(fault) if !self.is_live(remap) => {
                    failed("the record is durable but the target did not take the remap", &fault)
                }
                _ => {
                    reached("add_remap sent");
                    self.mirror(remap.spare);
                    Outcome::Live
                }
            },
            Step::Unrecord(remap) => self.unrecord(*remap),
            Step::RemoveRemap { remap, fence } => match self.target.remove_remap(remap.main.start(), *fence) {
                Err(fault) if self.is_mapped(remap.main) => {
                    failed("the record is gone but the target did not let go of the remap", &fault)
                }
                _ => {
                    reached("remove_remap sent");
                    Outcome::Unmapped { free: self.mirror(remap.spare) }
                }
            },
            Step::Lift(fence) => match self.target.unfence(*fence) {
                Ok(()) | Err(TargetFault::FenceGone(_)) => Outcome::Released,
                Err(fault) => failed("could not lift a fence", &fault),
            },
            Step::GiveUp { extent, fence } => self.give_up(*extent, *fence),
        }
    }

    /// Tries held I/O again; returns how many pieces.
    pub fn retry(&self, extent: Extent) -> Result<u64, TargetFault> {
        self.target.retry(extent)
    }

    /// Gives held reads their error; returns how many pieces.
    pub fn release_reads(&self, extent: Extent) -> Result<u64, TargetFault> {
        self.target.release_reads(extent)
    }

    /// Copies what can be read of the fenced range to the spare, marks the rest lost, and flushes.
    ///
    /// Sectors that a waiting write brings and that did not read are marked too, until it does bring them. Lost marks that are read
    /// from a spare stay what they are: a mark speaks of the sector on main.
    fn salvage(&mut self, fence: FenceId, remap: &Remap, from: Option<&Remap>, medium: bool, covered: &[Extent]) -> Outcome {
        if let Err(fault) = self.target.await_drained(fence) {
            return failed("the fence was not drained in time", &fault);
        }
        reached("drained");
        if self.spares[remap.spare as usize].table.is_taken(remap.spare_extent()) {
            return Outcome::SpareFailed(format!("spare {} at {} serves other sectors already", remap.spare, remap.at));
        }
        let (source, name, range) = match from {
            None => (self.main.as_ref(), Member::Main, remap.main),
            Some(old) => (self.spares[old.spare as usize].io.as_ref(), Member::Spare(old.spare), old.spare_extent()),
        };
        if !medium && !answers_elsewhere(source, range) {
            return Outcome::Failed(format!("{name} does not answer elsewhere either: it is gone, not just bad here"));
        }
        let there = |main: &Extent| moved(main, remap.main, range);
        let covered: Vec<Extent> = covered.iter().filter_map(there).collect();
        let mut found = match read_what_can_be_read(source, range, self.block, &covered, UNDER_FENCE_MS) {
            Ok(found) => found,
            Err(error) => {
                return Outcome::Failed(format!("reading {name} failed, which says nothing about its content: {error}"));
            }
        };
        // A disk that went away meanwhile has no bad sectors, whatever its errors say.
        let failed_there = !found.lost.is_empty() || !found.unread.is_empty();
        if failed_there && !answers_elsewhere(source, range) {
            return Outcome::Failed(format!("{name} does not answer elsewhere any more: it is gone, not just bad here"));
        }
        let mut content = found.content;
        let block = self.main.logical_block() as usize;
        for sector in found.lost.iter_mut().chain(&mut found.unread) {
            let offset = sector.0 - range.start().0;
            *sector = Sector(remap.main.start().0 + offset);
            let at = Sectors(offset).bytes() as usize;
            lost_mark::encode(&self.secret, *sector, &mut content[at..at + block]);
        }
        content.resize(spare_len(remap.main.len(), self.block).bytes() as usize, 0);
        match write_salvaged(self.spares[remap.spare as usize].io.as_ref(), remap.spare_extent(), &content) {
            Ok(()) => {}
            Err(Refused::Extent(error)) => {
                return Outcome::SpareFailed(format!("spare {} at sector {}: {error}", remap.spare, remap.at));
            }
            Err(Refused::Other(error)) => {
                return Outcome::Failed(format!("writing spare {} failed, which says nothing about it: {error}", remap.spare));
            }
        }
        let unread = Sectors::from_bytes((found.lost.len() + found.unread.len()) as u64 * block as u64);
        let marked = unread.0 > 0 || from.is_some_and(|old| old.flags.marked);
        Outcome::Salvaged { saved: Sectors(remap.main.len().0 - unread.0), lost: found.lost, marked }
    }

    fn commit(&mut self, remap: Remap) -> Outcome {
        let seq = next_seq(&self.spares);
        let remap = Remap { seq, ..remap };
        let spare = &mut self.spares[remap.spare as usize];
        let committed = spare.table.commit(spare.io.as_ref(), remap);
        self.changed(committed.inspect(|()| reached("record written")), remap)
    }

    /// What the change of a spare's table came to.
    fn changed(&mut self, change: Result<(), CommitError>, remap: Remap) -> Outcome {
        match change {
            Ok(()) => Outcome::Committed(remap),
            Err(CommitError::NotWritten(reason)) => Outcome::NotCommitted(reason.to_string()),
            Err(CommitError::Unknown(reason)) => self.settle(&remap, reason.to_string()),
        }
    }

    /// What other blocks of the table come to is no matter to this remap.
    fn settle(&mut self, remap: &Remap, why: String) -> Outcome {
        let spare = &mut self.spares[remap.spare as usize];
        let settled = spare.table.settle(spare.io.as_ref());
        self.care.learn(remap.spare, &spare.table);
        match settled {
            Err(error) if spare.table.is_unsettled(remap) => Outcome::Unknown(format!("{why}: {error}")),
            _ => Outcome::NotCommitted(why),
        }
    }

    /// Removes a record from both copies of its block: a start that reads the older one only would give what the spare has, while
    /// main took writes. Nobody waits for it, so both have to show first that they take a write.
    fn unrecord(&mut self, remap: Remap) -> Outcome {
        let OpenSpare { io, table } = &mut self.spares[remap.spare as usize];
        if let Err(error) = table.refresh(io.as_ref(), remap.main.start()) {
            return Outcome::NotCommitted(format!(
                "a block of the table on spare {} has only one good copy: {error}",
                remap.spare
            ));
        }
        let seq = next_seq(&self.spares);
        let OpenSpare { io, table } = &mut self.spares[remap.spare as usize];
        let removed = table.remove(io.as_ref(), remap.main.start(), seq);
        if removed.is_ok() {
            reached("record removed");
            self.mirror(remap.spare);
        }
        self.changed(removed, remap)
    }

    /// Whether the target follows the remap: a message that reports an error may have been done all the same.
    fn is_live(&self, remap: &Remap) -> bool {
        self.target.dump().is_ok_and(|live| live.iter().any(|live| live.same_place(remap)))
    }

    /// Whether a remap serves any of these sectors, as far as the target can be asked.
    fn is_mapped(&self, main: Extent) -> bool {
        self.target.dump().map_or(true, |live| live.iter().any(|live| live.main.overlaps(&main)))
    }

    /// Gives the table block its second good copy. Nothing depends on it now; a later corruption of the first one would. So other
    /// cures do not wait long for it. Whether every block has two good copies.
    fn mirror(&mut self, index: u16) -> bool {
        let spare = &mut self.spares[index as usize];
        match spare.table.mirror_changed(spare.io.as_ref()) {
            Err(IoError::Late(_)) => self.care.late(index),
            Err(error) => self.care.failed(index, &spare.table, &error),
            Ok(()) => self.care.try_again(index, spare),
        }
        // Until then a slot may still name what was removed.
        spare.table.single() == 0 && spare.table.is_whole()
    }

    /// Tries again what could not be done on the way: a second copy of a block of this spare's table, and seals that wait for such. Says
    /// what is new, in words for history.
    pub fn tend(&mut self, spare: u16) -> (Tended, Vec<String>) {
        self.care.tend(self.target.as_ref(), &mut self.spares, spare)
    }

    /// Closes off ranges of which the spares' tables are [older](super::older) than what is known, until the device is closed: I/O there
    /// fails. Doing it again does no harm. Says what is new, in words for history.
    pub fn close_off(&self, ranges: &[Extent]) -> Result<Vec<String>, TargetFault> {
        let block = u64::from(self.main.logical_block()) / 512;
        let new = reconcile::close_off(self.target.as_ref(), ranges, block, self.main.size().0)?;
        Ok(if new.is_empty() { Vec::new() } else { vec![reconcile::closed_off_words(ranges)] })
    }

    /// The held writes get their error first, so that they do not run into the same sectors again when the fence goes.
    fn give_up(&self, extent: Extent, fence: Option<FenceId>) -> Outcome {
        let released = self.target.release(extent);
        let lifted = match fence.map(|fence| self.target.unfence(fence)) {
            None | Some(Ok(()) | Err(TargetFault::FenceGone(_))) => Ok(()),
            Some(Err(fault)) => Err(fault),
        };
        match released.map(drop).and(lifted) {
            Ok(()) => Outcome::Released,
            Err(fault) => failed("could not give up cleanly", &fault),
        }
    }
}

/// The part of `extent` that lies in `from`, where `to` has it.
fn moved(extent: &Extent, from: Extent, to: Extent) -> Option<Extent> {
    let (start, end) = (extent.start().max(from.start()), extent.end().min(from.end()));
    let len = end.0.checked_sub(start.0)?;
    Extent::new(Sector(to.start().0 + (start.0 - from.start().0)), Sectors(len)).ok()
}

fn failed(what: &str, fault: &TargetFault) -> Outcome {
    Outcome::Failed(format!("{what}: {fault}"))
}
