//! Makes one more disk a spare of a set that has some, and tells what a crash in the middle of it left.
//!
//! 1. [`prepare_spare`](super::spare_header::prepare_spare) gives the new disk an empty table and a header of generation 0 that
//!    lists all members, itself among them. It holds nothing, and no set counts it among its own yet.
//! 2. [`announce`] rewrites the headers of the spares that were there, with the next generation, in the order of their indices. The
//!    first one is the commit point: before it the set has the old spares, after it the new one, too.
//! 3. [`finish_spare`] gives the new disk the headers that count.
//!
//! Only then may the kernel's table name it, and only then may anything be placed on it. [`settle`] says what holds after a crash,
//! and [`complete`] brings the headers to where step 3 ends.
//!
//! Why does the new disk not count from the start? A disk whose adding was cut short, and that comes back after another one was
//! added in its place, would be as good a member as that one.

use super::spare_header::{FormatError, FoundHeader, NoHeader, finish_spare, read_header, write_headers};
use crate::edge::BlockIo;
use crate::format::header::{self, Header, MAX_SPARES};
use crate::format::{TooSmall, geometry};
use crate::model::{Identity, Sector, SetDescription};

/// Why a disk cannot be a further spare of a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotJoin {
    /// The headers have no room.
    #[error("the set has {MAX_SPARES} spares, more are not possible")]
    Full,
    /// It is one of them.
    #[error("it is a member of the set already")]
    Member,
    /// Its logical blocks differ.
    #[error("it has logical blocks of {found} bytes, the set of {expected}: they must be equal")]
    LogicalBlock {
        /// What it has.
        found: u32,
        /// What the set has.
        expected: u32,
    },
    /// Its physical blocks are larger than the unit that the set's tables are laid out in.
    #[error("it has physical blocks of {found} bytes, more than the {most} that this set was made for")]
    PhysicalBlock {
        /// What it has.
        found: u64,
        /// The largest possible.
        most: u64,
    },
    /// It is too small.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
}

/// The set with one spare more, its last one. The layout of the others stays as it is.
pub fn extended(set: &SetDescription, spare: &Identity) -> Result<SetDescription, CannotJoin> {
    let is_it = |member: &Identity| member.matches(spare).is_ok();
    if std::iter::once(&set.main).chain(&set.spares).any(is_it) {
        return Err(CannotJoin::Member);
    }
    if set.spares.len() >= MAX_SPARES {
        return Err(CannotJoin::Full);
    }
    if spare.logical_block != set.main.logical_block {
        return Err(CannotJoin::LogicalBlock { found: spare.logical_block, expected: set.main.logical_block });
    }
    if spare.physical_sectors() > set.block() {
        return Err(CannotJoin::PhysicalBlock { found: spare.physical_sectors().bytes(), most: set.block().bytes() });
    }
    let layout = geometry(spare.sectors, set.block())?;
    let mut more = set.clone();
    more.spares.push(spare.clone());
    more.geometry.push(layout);
    Ok(more)
}

/// What the headers of a set come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The set.
    pub set: SetDescription,
    /// The generation that all of its headers should have.
    pub generation: u64,
    /// The spares whose headers do not have it yet, by index, in order.
    pub behind: Vec<u16>,
}

/// What the headers that were found of *one* set come to, those of generation 0 included; `None` if none of them counts.
///
/// The newest header says who the members are. A header of generation 0 belongs to one only if it lists the same.
pub fn settle(found: &[Header]) -> Option<Settled> {
    let newest = found.iter().filter(|header| header.generation > 0).max_by_key(|header| header.generation)?;
    let behind = found.iter().filter(|header| is_member(header, &newest.set) && header.generation < newest.generation);
    let mut behind: Vec<u16> = behind.map(|header| header.spare).collect();
    behind.sort_unstable();
    Some(Settled { set: newest.set.clone(), generation: newest.generation, behind })
}

/// Whether the spare of this header is one of those that the newest header lists: `set` is what that one says.
pub fn is_member(header: &Header, set: &SetDescription) -> bool {
    header.set.id == set.id && (header.generation > 0 || header.set == *set)
}

/// A header was not rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// What is there is not what it should be.
    #[error("spare {spare}: {why}")]
    Changed {
        /// Its index.
        spare: u16,
        /// What it is instead.
        why: String,
    },
    /// It may have been written or not: what the headers say has to be read again.
    #[error("spare {spare}: {error}")]
    Write {
        /// Its index.
        spare: u16,
        /// What failed.
        error: FormatError,
    },
}

/// Tells the spares that were there, in the order of their indices, of the set as it will be, whose last spare is new and prepared.
/// The generation is the new one. After an error what holds has to be [settled](settle) again.
pub fn announce(old: &[&dyn BlockIo], set: &SetDescription, generation: u64) -> Result<(), JoinError> {
    // All is looked at before the first is written.
    for (spare, io) in (0u16..).zip(old) {
        look(*io, set, spare)?;
    }
    (0u16..).zip(old).try_for_each(|(spare, io)| bring(*io, set, spare, generation))
}

/// Brings the headers of all spares, given in order, to what was [settled](settle): both copies of each. Doing it again does no harm.
pub fn complete(spares: &[&dyn BlockIo], settled: &Settled) -> Result<(), JoinError> {
    (0u16..).zip(spares).try_for_each(|(spare, io)| bring(*io, &settled.set, spare, settled.generation))
}

/// What is on a spare of the set now.
enum Now {
    /// A header that counts.
    Counts(Box<FoundHeader>),
    /// Prepared.
    Prepared,
}

fn look(io: &dyn BlockIo, set: &SetDescription, spare: u16) -> Result<Now, JoinError> {
    let changed = |why: String| JoinError::Changed { spare, why };
    let other = |header: &Header| changed(format!("it is spare {} of “{}” ({})", header.spare, header.set.name, header.set.id));
    match read_header(io) {
        Ok(found) if (found.header.set.id, found.header.spare) == (set.id, spare) => Ok(Now::Counts(Box::new(found))),
        Ok(found) => Err(other(&found.header)),
        Err(NoHeader::Unfinished(header)) if header.set == *set && header.spare == spare => Ok(Now::Prepared),
        Err(error) => Err(changed(error.to_string())),
    }
}

fn bring(io: &dyn BlockIo, set: &SetDescription, spare: u16, generation: u64) -> Result<(), JoinError> {
    let failed = |error: FormatError| JoinError::Write { spare, error };
    let FoundHeader { header, bad_a, bad_b } = match look(io, set, spare)? {
        Now::Prepared => return finish_spare(io, set, spare, generation).map_err(failed),
        Now::Counts(found) => *found,
    };
    let is_there = header.generation == generation && header.set == *set;
    if header.generation >= generation && !is_there {
        let why = format!("its header has generation {} and says otherwise", header.generation);
        return Err(JoinError::Changed { spare, why });
    }
    if is_there && bad_a.is_none() && bad_b.is_none() {
        return Ok(());
    }
    if bad_a.is_some() {
        // The other one is all there is, and is written first.
        let block = header::encode(&header.set, spare, header.generation).map_err(|error| failed(error.into()))?;
        io.write_durable(Sector(0), &block).map_err(|error| failed(error.into()))?;
    }
    if is_there && bad_b.is_none() {
        return Ok(());
    }
    write_headers(io, set, spare, generation).map_err(failed)
}

#[cfg(test)]
#[path = "spare_join_tests.rs"]
mod tests;
