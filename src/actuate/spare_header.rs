//! Makes a spare, and reads who a device says it is.

use crate::edge::{BlockIo, IoError};
use crate::format::header::{self, Header, HeaderError};
use crate::format::{BLOCK_BYTES, BLOCK_SECTORS, table};
use crate::model::{Geometry, Sector, SetDescription};

/// Table blocks written at once when a spare is made.
const BATCH: usize = 64;

/// A spare could not be made, or its headers not rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The description does not fit the device or the format.
    #[error(transparent)]
    Description(#[from] HeaderError),
    /// The device is not the one described.
    #[error("the device has {found} sectors, the description says {expected}")]
    Size {
        /// What it has.
        found: u64,
        /// What it should have.
        expected: u64,
    },
    /// The device failed.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why one of the two header places holds no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCopy {
    /// It could not be read.
    #[error("unreadable: {0}")]
    Unreadable(IoError),
    /// It is none.
    #[error("{0}")]
    Invalid(HeaderError),
    /// It is one, but an older one.
    #[error("it has generation {0}, the other copy is newer")]
    Older(u64),
}

/// What a spare says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundHeader {
    /// The newer of the two copies.
    pub header: Header,
    /// What is wrong with the copy at the start.
    pub bad_a: Option<BadCopy>,
    /// What is wrong with the copy at the end.
    pub bad_b: Option<BadCopy>,
}

/// A device has no header that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoHeader {
    /// Nothing of ours at either end.
    #[error("not a spare of remap-guardian")]
    NotOurs,
    /// Something of ours, but neither copy can be used.
    #[error("both headers are unusable: at the start: {a}; at the end: {b}")]
    Damaged {
        /// At the start.
        a: BadCopy,
        /// At the end.
        b: BadCopy,
    },
    /// Written by a newer remap-guardian.
    #[error("its format version is {found}, this remap-guardian reads up to {}: upgrade it", crate::format::VERSION)]
    Newer {
        /// The version.
        found: u32,
    },
    /// Making it a spare was begun and not finished; it holds nothing.
    #[error("making it a spare of “{}” was not finished, and it holds nothing: repeat create with --overwrite-spare", .0.set.name)]
    Unfinished(Box<Header>),
    /// The two copies belong to different sets or spares.
    #[error("its two headers contradict each other: set {a} at the start, set {b} at the end")]
    Contradiction {
        /// At the start.
        a: String,
        /// At the end.
        b: String,
    },
    /// Neither copy could be read.
    #[error(transparent)]
    Io(IoError),
}

/// Makes a device spare `spare` of `set`, with an empty table. What was on it is gone.
///
/// Until the last step a crash leaves a device that says it is unfinished, or not ours: old headers go first, the table comes
/// next, then a header of generation 0 at the end, and only then the one that counts.
pub fn format_spare(io: &dyn BlockIo, set: &SetDescription, spare: u16) -> Result<(), FormatError> {
    prepare_spare(io, set, spare)?;
    finish_spare(io, set, spare, 1)
}

/// The first part of [`format_spare`]: an empty table, and a header that says that the device is unfinished.
pub fn prepare_spare(io: &dyn BlockIo, set: &SetDescription, spare: u16) -> Result<(), FormatError> {
    let unfinished = header::encode(set, spare, 0)?;
    let geometry = set.geometry[usize::from(spare)];
    let expected = set.spares[usize::from(spare)].sectors.0;
    if io.size().0 != expected {
        return Err(FormatError::Size { found: io.size().0, expected });
    }
    wipe_headers(io)?;
    write_empty_table(io, set, spare, &geometry)?;
    io.flush()?;
    Ok(io.write_durable(geometry.header_b, &unfinished)?)
}

/// The last part of [`format_spare`]: the headers that count. The start comes first: until it is whole the end says what there is.
pub fn finish_spare(io: &dyn BlockIo, set: &SetDescription, spare: u16, generation: u64) -> Result<(), FormatError> {
    let counts = header::encode(set, spare, generation)?;
    io.write_durable(Sector(0), &counts)?;
    Ok(io.write_durable(set.geometry[usize::from(spare)].header_b, &counts)?)
}

fn write_empty_table(io: &dyn BlockIo, set: &SetDescription, spare: u16, geometry: &Geometry) -> Result<(), FormatError> {
    let mut at = geometry.table_start;
    // All first slots, then all second ones.
    for _slot in 0..2 {
        for from in (0..geometry.table_blocks).step_by(BATCH) {
            let blocks = from..geometry.table_blocks.min(from + BATCH as u32);
            let mut batch = Vec::with_capacity(BATCH * BLOCK_BYTES);
            for index in blocks {
                let place = table::Place { set: set.id, spare, index };
                batch.extend_from_slice(&table::encode(place, 0, &[]).map_err(|_| HeaderError::NotOurs)?);
            }
            io.write(at, &batch)?;
            at = Sector(at.0 + (batch.len() / 512) as u64);
        }
    }
    Ok(())
}

/// Rewrites both headers of a spare with a new description, for example when a spare joins the set. `generation` must be higher
/// than the one there. At every moment one whole header is on the device.
pub fn write_headers(io: &dyn BlockIo, set: &SetDescription, spare: u16, generation: u64) -> Result<(), FormatError> {
    let block = header::encode(set, spare, generation)?;
    io.write_durable(set.geometry[usize::from(spare)].header_b, &block)?;
    io.write_durable(Sector(0), &block)?;
    Ok(())
}

/// Removes both headers: the device is no spare any more.
pub fn wipe_headers(io: &dyn BlockIo) -> Result<(), IoError> {
    let zero = [0; BLOCK_BYTES];
    io.write(Sector(0), &zero)?;
    if let Some(at) = header_b(io) {
        io.write(at, &zero)?;
    }
    io.flush()
}

/// First sector of the last whole 4096 bytes, if that is not where header A is.
fn header_b(io: &dyn BlockIo) -> Option<Sector> {
    let blocks = io.size().0 / BLOCK_SECTORS;
    (blocks >= 2).then(|| Sector((blocks - 1) * BLOCK_SECTORS))
}

/// Reads who a device says it is. Changes nothing; does not check that it is the device the header describes
/// ([`crate::model::Identity::matches`] does).
pub fn read_header(io: &dyn BlockIo) -> Result<FoundHeader, NoHeader> {
    let Some([a, b]) = read_copies(io) else { return Err(NoHeader::NotOurs) };
    judge(io, a, b)
}

/// What is at the two places of a header, start and end; `None` on a device that is too small to have them.
pub(super) fn read_copies(io: &dyn BlockIo) -> Option<[Result<Header, BadCopy>; 2]> {
    let at_b = header_b(io)?;
    Some([read_copy(io, Sector(0)), read_copy(io, at_b)])
}

/// What the two copies come to.
pub(super) fn judge(io: &dyn BlockIo, a: Result<Header, BadCopy>, b: Result<Header, BadCopy>) -> Result<FoundHeader, NoHeader> {
    match (a, b) {
        (Ok(a), Ok(b)) => choose(a, b),
        // Half of a header rewrite by a newer version: the other half would mislead.
        (_, Err(BadCopy::Invalid(HeaderError::Newer { found }))) | (Err(BadCopy::Invalid(HeaderError::Newer { found })), _) => {
            Err(NoHeader::Newer { found })
        }
        (Ok(a), Err(bad)) => finished(FoundHeader { header: a, bad_a: None, bad_b: Some(bad) }),
        // The end of a disk can be the end of its last partition: that one is the spare, not the disk.
        (Err(BadCopy::Invalid(HeaderError::NotOurs)), Ok(b)) if b.set.spares[b.spare as usize].sectors != io.size() => {
            Err(NoHeader::NotOurs)
        }
        (Err(bad), Ok(b)) => finished(FoundHeader { header: b, bad_a: Some(bad), bad_b: None }),
        (Err(a), Err(b)) => Err(neither(a, b)),
    }
}

fn read_copy(io: &dyn BlockIo, at: Sector) -> Result<Header, BadCopy> {
    let mut block = [0; BLOCK_BYTES];
    io.read(at, &mut block).map_err(BadCopy::Unreadable)?;
    header::decode(&block).map_err(BadCopy::Invalid)
}

fn choose(a: Header, b: Header) -> Result<FoundHeader, NoHeader> {
    if (a.set.id, a.spare) != (b.set.id, b.spare) || (a.generation == b.generation && a != b) {
        let text = |header: &Header| format!("{} ({}, spare{})", header.set.id, header.set.name, header.spare);
        return Err(NoHeader::Contradiction { a: text(&a), b: text(&b) });
    }
    let older =
        |header: &Header, other: &Header| (header.generation < other.generation).then_some(BadCopy::Older(header.generation));
    let (bad_a, bad_b) = (older(&a, &b), older(&b, &a));
    finished(FoundHeader { header: if bad_a.is_some() { b } else { a }, bad_a, bad_b })
}

fn finished(found: FoundHeader) -> Result<FoundHeader, NoHeader> {
    if found.header.generation == 0 {
        return Err(NoHeader::Unfinished(Box::new(found.header)));
    }
    Ok(found)
}

fn neither(a: BadCopy, b: BadCopy) -> NoHeader {
    let not_ours = BadCopy::Invalid(HeaderError::NotOurs);
    match (a, b) {
        (a, b) if a == not_ours && b == not_ours => NoHeader::NotOurs,
        (BadCopy::Unreadable(error), BadCopy::Unreadable(_)) => NoHeader::Io(error),
        (a, b) => NoHeader::Damaged { a, b },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::BadCopy;
    use crate::actuate::spare_table::tests::{description, live, new_spare, open};
    use crate::actuate::test_disk::{TestDisk, Trouble};

    #[test]
    fn making_a_spare_is_all_or_nothing() {
        let count = {
            let disk = TestDisk::new(description().spares[0].sectors.0);
            format_spare(&disk, &description(), 0).unwrap();
            disk.changes()
        };
        for step in 0..count {
            for (mask, seed) in [(0, 1), (0x55, 2), (u64::MAX, 3), (0x0f, 4)] {
                let disk = TestDisk::new(description().spares[0].sectors.0);
                disk.plan(step, Trouble::Crash(mask));
                format_spare(&disk, &description(), 0).unwrap_err();
                disk.restart(seed);
                match read_header(&disk) {
                    Ok(found) => {
                        assert_eq!(found.header.set, description());
                        let table = open(&disk);
                        assert_eq!((live(&table), table.single(), table.check()), (vec![], 0, Ok(())));
                    }
                    Err(NoHeader::NotOurs | NoHeader::Unfinished(_) | NoHeader::Damaged { .. }) => assert!(step + 1 < count),
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn one_header_is_enough_and_the_newer_one_counts() {
        let (disk, _) = new_spare();
        let header_b = description().geometry[0].header_b.0;
        for (sector, at_start) in [(0, true), (header_b, false)] {
            disk.flip(sector, 300);
            let found = read_header(&disk).unwrap();
            assert_eq!((found.bad_a.is_some(), found.bad_b.is_some()), (at_start, !at_start));
            assert_eq!(found.header.set, description());
            disk.flip(sector, 300);
        }
        disk.plan(1, Trouble::Crash(0));
        write_headers(&disk, &description(), 0, 2).unwrap_err();
        disk.restart(0);
        let found = read_header(&disk).unwrap();
        assert_eq!((found.header.generation, found.bad_a), (2, Some(BadCopy::Older(1))));
        disk.spoil(0);
        disk.spoil(header_b);
        assert!(matches!(read_header(&disk), Err(NoHeader::Io(_))));
        wipe_headers(&disk).unwrap();
        assert_eq!(read_header(&disk), Err(NoHeader::NotOurs));
    }
}
