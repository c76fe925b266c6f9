//! Does the steps of a cure, one after the other, on the real (or simulated) world. The only code that
//! writes to members; what it may do when is decided by the engine.

use super::VerifyError;
use super::spare_table::{CommitError, SpareTable};
use crate::edge::{BlockIo, FenceId, IoError, Target, TargetFault};
use crate::engine::{Outcome, Step};
use crate::format::lost_mark;
use crate::model::{Extent, Remap, Secret, Sector, Sectors, SetDescription};
use crate::plan::spare_len;

/// How long a fence, and after it a seal, may last: shorter than the longest hold, longer than a slow salvage should be, ms.
pub const FENCE_MS: u64 = 8_000;

/// A spare that is open: its I/O and its table.
pub struct OpenSpare {
    /// Raw I/O.
    pub io: Box<dyn BlockIo>,
    /// The table on it.
    pub table: SpareTable,
    /// Reserved extents that could not be tried: the disk or the way to it failed, which says nothing about them.
    untried: Vec<Extent>,
}

impl OpenSpare {
    /// A spare whose whole table was read.
    pub fn new(io: Box<dyn BlockIo>, table: SpareTable) -> OpenSpare {
        OpenSpare { io, table, untried: Vec::new() }
    }
}

/// What trying reserved extents came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// These hold data.
    pub good: Vec<Extent>,
    /// These do not.
    pub bad: Vec<Extent>,
    /// Sectors that could not be tried; they are the next time.
    pub untried: Sectors,
}

/// Everything needed to cure one set.
pub struct Actuator {
    target: Box<dyn Target>,
    main: Box<dyn BlockIo>,
    spares: Vec<OpenSpare>,
    secret: Secret,
    block: Sectors,
}

impl Actuator {
    /// An actuator for an open set. `spares` are in the order of the description.
    pub fn new(desc: &SetDescription, target: Box<dyn Target>, main: Box<dyn BlockIo>, spares: Vec<OpenSpare>) -> Actuator {
        Actuator { target, main, spares, secret: desc.secret, block: desc.block() }
    }

    /// The kernel target.
    pub fn target(&self) -> &dyn Target {
        self.target.as_ref()
    }

    /// Does one step.
    pub fn run(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Fence(extent) => match self.target.fence(*extent, FENCE_MS) {
                Ok(fence) => Outcome::Fenced(fence),
                Err(fault) => failed("could not fence the range", &fault),
            },
            Step::Salvage { fence, remap } => self.salvage(*fence, remap),
            Step::Seal(fence) => match self.target.seal(*fence) {
                Ok(()) => Outcome::Sealed,
                Err(fault) => failed("could not seal the fence", &fault),
            },
            Step::Commit(remap) => self.commit(*remap),
            Step::Settle(remap) => {
                let spare = &mut self.spares[remap.spare as usize];
                match spare.table.settle(spare.io.as_ref()) {
                    Ok(()) => Outcome::NotCommitted("the spare's table did not take the record".into()),
                    Err(error) => Outcome::Unknown(error.to_string()),
                }
            }
            Step::AddRemap { remap, fence } => match self.target.add_remap(remap, Some(*fence)) {
                Err(fault) if !self.is_live(remap) => {
                    failed("the record is durable but the target did not take the remap", &fault)
                }
                _ => {
                    self.mirror(remap.spare);
                    Outcome::Live
                }
            },
            Step::GiveUp { extent, fence } => self.give_up(*extent, *fence),
            Step::Probe(extent) => self.probe(*extent),
        }
    }

    /// Tries held writes again that a remap covers by now.
    pub fn retry(&self, extent: Extent) -> Result<u64, TargetFault> {
        self.target.retry(extent)
    }

    /// Writes and reads back extents that are to become ready, and those that could not be tried the last time.
    pub fn verify(&mut self, spare: u16, extents: Vec<Extent>) -> Verified {
        let spare = &mut self.spares[spare as usize];
        let io = spare.io.as_ref();
        let (mut good, mut bad, mut untried) = (Vec::new(), Vec::new(), Vec::new());
        for extent in std::mem::take(&mut spare.untried).into_iter().chain(extents) {
            match super::verify_extent(io, extent) {
                Ok(()) => good.push(extent),
                Err(VerifyError::Io(IoError::Other(_))) => untried.push(extent),
                Err(_) => {
                    for block in crate::plan::pieces(extent, self.block, self.block) {
                        match super::verify_extent(io, block) {
                            Ok(()) => good.push(block),
                            Err(VerifyError::Io(IoError::Other(_))) => untried.push(block),
                            Err(_) => bad.push(block),
                        }
                    }
                }
            }
        }
        let left = Sectors(untried.iter().map(|extent| extent.len().0).sum());
        spare.untried = untried;
        Verified { good, bad, untried: left }
    }

    /// Copies what can be read of the fenced range to the spare, marks the rest lost, and flushes.
    fn salvage(&mut self, fence: FenceId, remap: &Remap) -> Outcome {
        if let Err(fault) = self.target.await_drained(fence) {
            return failed("the fence was not drained in time", &fault);
        }
        let (mut content, lost) = match self.read_what_can_be_read(remap.main) {
            Ok(found) => found,
            Err(error) => return Outcome::Failed(format!("reading main failed, which says nothing about its content: {error}")),
        };
        for sector in &lost {
            let at = Sectors(sector.0 - remap.main.start().0).bytes() as usize;
            let block = self.main.logical_block() as usize;
            lost_mark::encode(&self.secret, *sector, &mut content[at..at + block]);
        }
        content.resize(spare_len(remap.main.len(), self.block).bytes() as usize, 0);
        let spare = &self.spares[remap.spare as usize];
        match spare.io.write(remap.at, &content).and_then(|()| spare.io.flush()) {
            Ok(()) => {}
            Err(IoError::Medium(error)) => {
                return Outcome::SpareFailed(format!("spare {} at sector {}: {error}", remap.spare, remap.at));
            }
            Err(IoError::Other(error)) => {
                return Outcome::Failed(format!("writing spare {} failed, which says nothing about it: {error}", remap.spare));
            }
        }
        let lost_sectors = lost.len() as u64 * u64::from(self.main.logical_block()) / 512;
        Outcome::Salvaged { saved: Sectors(remap.main.len().0 - lost_sectors), lost }
    }

    /// The content of a range of main, and the logical blocks (by first sector) whose read *returned* a medium error.
    fn read_what_can_be_read(&self, extent: Extent) -> Result<(Vec<u8>, Vec<Sector>), IoError> {
        let mut content = vec![0; extent.len().bytes() as usize];
        let mut lost = Vec::new();
        let logical = Sectors::from_bytes(u64::from(self.main.logical_block()));
        for block in crate::plan::pieces(extent, self.block, self.block) {
            let at = Sectors(block.start().0 - extent.start().0).bytes() as usize;
            let part = &mut content[at..at + block.len().bytes() as usize];
            match self.main.read(block.start(), part) {
                Ok(()) => continue,
                Err(IoError::Medium(_)) => {}
                Err(other) => return Err(other),
            }
            for (index, sector) in part.chunks_mut(logical.bytes() as usize).enumerate() {
                let start = Sector(block.start().0 + index as u64 * logical.0);
                match self.main.read(start, sector) {
                    Ok(()) => {}
                    Err(IoError::Medium(_)) => {
                        sector.fill(0);
                        lost.push(start);
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        Ok((content, lost))
    }

    fn commit(&mut self, remap: Remap) -> Outcome {
        let seq = self.spares.iter().map(|spare| spare.table.next_seq()).max().unwrap_or(1);
        let remap = Remap { seq, ..remap };
        let spare = &mut self.spares[remap.spare as usize];
        match spare.table.commit(spare.io.as_ref(), remap) {
            Ok(()) => Outcome::Committed(remap),
            Err(CommitError::NotWritten(reason)) => Outcome::NotCommitted(reason.to_string()),
            Err(CommitError::Unknown(reason)) => match spare.table.settle(spare.io.as_ref()) {
                Ok(()) => Outcome::NotCommitted(reason.to_string()),
                Err(_) => Outcome::Unknown(reason.to_string()),
            },
        }
    }

    /// Whether the target follows the remap: a message that reports an error may have been done all the same.
    fn is_live(&self, remap: &Remap) -> bool {
        let same = |live: &Remap| (live.main, live.spare, live.at) == (remap.main, remap.spare, remap.at);
        self.target.dump().is_ok_and(|live| live.iter().any(same))
    }

    /// Gives the table block its second good copy. Nothing depends on it now; a later corruption of the first one would.
    fn mirror(&mut self, spare: u16) {
        let spare = &mut self.spares[spare as usize];
        if let Err(error) = spare.table.mirror(spare.io.as_ref()) {
            tracing::warn!(%error, "a table block on the spare has only one good copy");
        }
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

    fn probe(&self, extent: Extent) -> Outcome {
        let Some(blocks) = extent.align_outward(Sectors::from_bytes(u64::from(self.main.logical_block()))) else {
            return Outcome::Failed("the range is out of bounds".into());
        };
        match self.read_what_can_be_read(blocks) {
            Ok((_, unreadable)) => Outcome::Probed { unreadable },
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

fn failed(what: &str, fault: &TargetFault) -> Outcome {
    Outcome::Failed(format!("{what}: {fault}"))
}
