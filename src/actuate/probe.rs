//! Slow reads and writes that no application waits for: which sectors of main do not read, and whether reserved
//! spare extents hold what is written. Kept apart from the cures, so that none of them waits for a dying disk here.

use super::VerifyError;
use super::care::WholeTable;
use super::salvage::{LOOK_MS, answers_elsewhere, read_what_can_be_read};
use super::steps::FENCE_MS;
use crate::edge::{BlockIo, IoError, Target};
use crate::engine::Outcome;
use crate::failpoint::reached;
use crate::format::lost_mark;
use crate::model::{Extent, Member, Remap, Secret, Sector, Sectors, SetDescription};
use crate::plan::pieces;

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

/// What reading a range came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// All of it reads.
    Reads,
    /// The medium did not give all of it.
    Fails(String),
    /// The disk does not answer: nothing is known of the range.
    Away(String),
}

/// Tries sectors of one set, with handles of its own.
pub struct Prober {
    target: Box<dyn Target>,
    secret: Secret,
    main: Box<dyn BlockIo>,
    spares: Vec<Spare>,
    block: Sectors,
}

struct Spare {
    io: Box<dyn BlockIo>,
    table: WholeTable,
    /// Reserved extents that could not be tried: the disk or the way to it failed, which says nothing about them, or the table may
    /// name them.
    untried: Vec<Extent>,
}

impl Prober {
    /// A prober for an open set. `spares` and `tables` are in the order of the description.
    pub fn new(
        desc: &SetDescription,
        target: Box<dyn Target>,
        main: Box<dyn BlockIo>,
        spares: Vec<Box<dyn BlockIo>>,
        tables: Vec<WholeTable>,
    ) -> Prober {
        let spares = spares
            .into_iter()
            .zip(tables.into_iter().chain(std::iter::repeat_with(WholeTable::default)))
            .map(|(io, table)| Spare { io, table, untried: Vec::new() })
            .collect();
        Prober { target, secret: desc.secret, main, spares, block: desc.block() }
    }

    /// Whether a range reads.
    pub fn check(&self, member: Member, extent: Extent) -> Checked {
        let io = match member {
            Member::Main => self.main.as_ref(),
            Member::Spare(index) => match self.spares.get(usize::from(index)) {
                Some(spare) => spare.io.as_ref(),
                None => return Checked::Away(format!("there is no {member}")),
            },
        };
        let mut content = vec![0; extent.len().bytes() as usize];
        match io.read(extent.start(), &mut content) {
            Ok(()) => Checked::Reads,
            Err(IoError::Medium(why)) if answers_elsewhere(io, extent) => Checked::Fails(why),
            Err(error) => Checked::Away(error.to_string()),
        }
    }

    /// Writes what a remap's spare holds to main, under a fence, which stays if it succeeds.
    ///
    /// Here and not where cures are made: a drive may need seconds to take a sector that was bad.
    pub fn bring_back(&self, remap: &Remap) -> Outcome {
        let fence = match self.target.fence(remap.main, FENCE_MS) {
            Ok(fence) => fence,
            Err(fault) => return Outcome::Failed(format!("could not fence the range: {fault}")),
        };
        let drained = self.target.await_drained(fence).map_err(|fault| format!("the fence was not drained in time: {fault}"));
        match drained.and_then(|()| self.write_back(remap)) {
            Ok(()) => Outcome::BroughtBack(fence),
            Err(reason) => {
                if let Err(fault) = self.target.unfence(fence) {
                    tracing::warn!(%fault, "a fence could not be lifted; its bound ends it");
                }
                Outcome::Failed(reason)
            }
        }
    }

    fn write_back(&self, remap: &Remap) -> Result<(), String> {
        let content = self.served(remap)?;
        match self.lost(remap, &content).len() {
            0 => {}
            count => {
                return Err(format!("{count} of its blocks are lost until they are written, and nothing of them can go back"));
            }
        }
        self.main.write_durable(remap.main.start(), &content).map_err(|error| format!("main does not take it: {error}"))?;
        reached("written back");
        let mut read = vec![!0; content.len()];
        self.main.read(remap.main.start(), &mut read).map_err(|error| format!("main does not give it back: {error}"))?;
        if read == content { Ok(()) } else { Err("main gives back something else than was written".into()) }
    }

    /// The blocks of a remap that its spare remembers as lost, each of one logical block.
    pub fn marks(&self, remap: &Remap) -> Result<Vec<Extent>, String> {
        let content = self.served(remap)?;
        Ok(self.lost(remap, &content))
    }

    /// What a spare serves of main, lost marks as they are.
    fn served(&self, remap: &Remap) -> Result<Vec<u8>, String> {
        let spare = self.spares.get(usize::from(remap.spare)).ok_or_else(|| format!("there is no spare {}", remap.spare))?;
        let mut content = vec![0; remap.main.len().bytes() as usize];
        spare.io.read(remap.at, &mut content).map_err(|error| format!("spare {} does not read there: {error}", remap.spare))?;
        Ok(content)
    }

    /// The logical blocks of a remap that are lost, by what its spare holds.
    fn lost(&self, remap: &Remap, content: &[u8]) -> Vec<Extent> {
        let logical = self.main.logical_block() as usize;
        let starts = (remap.main.start().0..).step_by(logical / 512).map(Sector);
        let lost = starts.zip(content.chunks(logical)).filter(|(at, block)| lost_mark::is_lost(&self.secret, *at, block));
        lost.filter_map(|(at, block)| Extent::new(at, Sectors::from_bytes(block.len() as u64)).ok()).collect()
    }

    /// The sectors of a range of main that do not read.
    pub fn probe(&self, extent: Extent) -> Outcome {
        let Some(blocks) = extent.align_outward(Sectors::from_bytes(u64::from(self.main.logical_block()))) else {
            return Outcome::Failed("the range is out of bounds".into());
        };
        match read_what_can_be_read(self.main.as_ref(), blocks, self.block, &[], LOOK_MS) {
            Ok(found) => Outcome::Probed { unreadable: found.lost },
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// Writes and reads back extents that are to become ready, and those that could not be tried the last time. None, as long as a slot
    /// of the spare's table that did not read may name them.
    pub fn verify(&mut self, spare: u16, extents: Vec<Extent>) -> Verified {
        let block = self.block;
        let spare = &mut self.spares[spare as usize];
        let io = spare.io.as_ref();
        let total = |extents: &[Extent]| Sectors(extents.iter().map(|extent| extent.len().0).sum());
        let (mut good, mut bad, mut untried) = (Vec::new(), Vec::new(), Vec::new());
        spare.untried.extend(extents);
        if !spare.table.is_known() {
            return Verified { untried: total(&spare.untried), ..Verified::default() };
        }
        for extent in std::mem::take(&mut spare.untried) {
            if super::verify_extent(io, extent).is_ok() {
                good.push(extent);
                continue;
            }
            for piece in pieces(extent, block, block) {
                match super::verify_extent(io, piece) {
                    Ok(()) => good.push(piece),
                    Err(VerifyError::Io(IoError::Other(_))) => untried.push(piece),
                    // A spare that fails everywhere is not there; that says nothing about this place.
                    Err(_) if !answers_elsewhere(io, piece) => untried.push(piece),
                    Err(_) => bad.push(piece),
                }
            }
        }
        spare.untried = untried;
        Verified { good, bad, untried: total(&spare.untried) }
    }
}
