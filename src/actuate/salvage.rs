//! Reading what a dying disk still gives, and bringing it to a spare.

use super::steps::FENCE_MS;
use crate::edge::{BlockIo, IoError};
use crate::failpoint::reached;
use crate::model::{Extent, Sector, Sectors};
use crate::plan::pieces;
use std::time::Instant;

/// How long reads of sectors that a waiting write brings may take together, ms. A good sector answers at once; a bad one
/// may keep a drive busy for longer than the write can wait.
const PATIENCE_MS: u64 = 1_500;
/// How long all reads under a fence may take, ms. After it the fence would end before its seal, and other cures wait for this one.
pub const UNDER_FENCE_MS: u64 = FENCE_MS - 1_500;
/// How long a look at a block without a fence may take, ms. A drive may try for some seconds before it gives a sector up, and a block
/// has eight.
pub const LOOK_MS: u64 = 60_000;

/// What a range of a device gave.
pub struct Found {
    /// The content; zeros where there is none.
    pub content: Vec<u8>,
    /// Logical blocks, by first sector, whose read *returned* a medium error and that no waiting write brings.
    pub lost: Vec<Sector>,
    /// Logical blocks that a waiting write brings and that did not read, or not in time.
    pub unread: Vec<Sector>,
}

/// Reads a range block by block, and a block that fails by logical blocks, all in `budget` ms.
///
/// Sectors in `covered` are read too, since a crash before the write that brings them must leave their old content; but
/// only as long as the write can wait for it.
pub fn read_what_can_be_read(
    io: &dyn BlockIo,
    extent: Extent,
    block: Sectors,
    covered: &[Extent],
    budget: u64,
) -> Result<Found, IoError> {
    let mut found = Found { content: vec![0; extent.len().bytes() as usize], lost: Vec::new(), unread: Vec::new() };
    let logical = Sectors::from_bytes(u64::from(io.logical_block()));
    let start = Instant::now();
    let left = |ms: u64| ms.saturating_sub(start.elapsed().as_millis() as u64);
    let (patience, budget) = (|| left(PATIENCE_MS), || left(budget));
    for block in pieces(extent, block, block) {
        let at = Sectors(block.start().0 - extent.start().0).bytes() as usize;
        let part = &mut found.content[at..at + block.len().bytes() as usize];
        let sectors: Vec<Extent> = pieces(block, logical, logical);
        let brought = |sector: &Extent| (sector.start().0..sector.end().0).all(|s| covered.iter().any(|c| c.contains(Sector(s))));
        let time = |brought: bool| if brought { patience() } else { budget() };
        let whole = read_in_time(io, block.start(), part, time(sectors.iter().all(brought)));
        match whole {
            Ok(()) => continue,
            Err(IoError::Medium(_) | IoError::Late(_)) => part.fill(0),
            Err(other) => return Err(other),
        }
        for (sector, bytes) in sectors.iter().zip(part.chunks_mut(logical.bytes() as usize)) {
            let brought = brought(sector);
            match read_in_time(io, sector.start(), bytes, time(brought)) {
                Ok(()) => continue,
                Err(IoError::Medium(_)) if !brought => found.lost.push(sector.start()),
                Err(IoError::Medium(_) | IoError::Late(_)) if brought => found.unread.push(sector.start()),
                Err(other) => return Err(other),
            }
            bytes.fill(0);
        }
    }
    Ok(found)
}

fn read_in_time(io: &dyn BlockIo, at: Sector, buf: &mut [u8], ms: u64) -> Result<(), IoError> {
    if ms == 0 { Err(IoError::Late(PATIENCE_MS)) } else { io.read_within(at, buf, ms) }
}

/// How long it is tried to read a device elsewhere, ms.
const ELSEWHERE_MS: u64 = 2_000;
/// At how many places all over the device, besides those next to the range.
const PLACES: u64 = 32;

/// Whether the device can be read anywhere outside `extent`. One that cannot is gone or unplugged, whatever error it
/// reports: nothing about the medium follows from it.
pub fn answers_elsewhere(io: &dyn BlockIo, extent: Extent) -> bool {
    let logical = Sectors::from_bytes(u64::from(io.logical_block())).0;
    let (size, start) = (io.size().0, Instant::now());
    let all_over = (0..PLACES).map(|place| (extent.start().0 + size / 2 + size / PLACES * place) % size);
    let beside = [extent.end().0, extent.start().0.wrapping_sub(logical), 0];
    let mut buffer = vec![0; io.logical_block() as usize];
    beside.into_iter().chain(all_over).any(|sector| {
        let sector = Sector(sector - sector % logical);
        let inside = sector.0.checked_add(logical).is_some_and(|end| end <= size);
        let left = ELSEWHERE_MS.saturating_sub(start.elapsed().as_millis() as u64);
        inside && !extent.contains(sector) && left > 0 && io.read_within(sector, &mut buffer, left).is_ok()
    })
}

/// Why a spare did not take what was salvaged.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The medium of these sectors is bad: the extent is given up.
    Extent(IoError),
    /// Nothing follows about the extent.
    Other(IoError),
}

/// Puts what was salvaged on a spare, durably.
///
/// A flush reports on every write that the drive still had in its cache, also on those of applications to other extents. So a
/// flush that fails says nothing about this extent; a second, durable write of it does, since a drive reports a loss once.
pub fn write_salvaged(io: &dyn BlockIo, extent: Extent, content: &[u8]) -> Result<(), Refused> {
    let blamed = |error: IoError| match error {
        IoError::Medium(_) if answers_elsewhere(io, extent) => Refused::Extent(error),
        _ => Refused::Other(error),
    };
    io.write(extent.start(), content).map_err(blamed)?;
    reached("salvage written");
    match io.flush() {
        Err(error @ IoError::Medium(_)) => {
            tracing::warn!(%error, %extent, "a flush of the spare failed; the salvaged extent is written again");
            io.write_durable(extent.start(), content).map_err(blamed)?;
        }
        result => result.map_err(Refused::Other)?,
    }
    reached("salvage flushed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::test_disk::{TestDisk, Trouble};

    const CONTENT: [u8; 4096] = [7; 4096];

    fn extent() -> Extent {
        Extent::new(Sector(64), Sectors(8)).unwrap()
    }

    /// What comes of it when these writes and flushes fail (0: the write, 1: the flush, 2: the second write), none of them having
    /// brought anything to the medium; and what a power cut leaves of the extent.
    fn with_failures(failures: &[usize]) -> (Result<(), Refused>, Vec<u8>) {
        let disk = TestDisk::new(256);
        failures.iter().for_each(|nth| disk.plan(*nth, Trouble::Error(0)));
        let result = write_salvaged(&disk, extent(), &CONTENT);
        disk.forget();
        let mut left = vec![0; CONTENT.len()];
        disk.read(extent().start(), &mut left).unwrap();
        (result, left)
    }

    #[test]
    fn what_is_salvaged_outlives_a_power_cut() {
        assert_eq!(with_failures(&[]), (Ok(()), CONTENT.to_vec()));
    }

    #[test]
    fn a_failed_flush_is_not_blamed_on_the_extent() {
        assert_eq!(with_failures(&[1]), (Ok(()), CONTENT.to_vec()));
    }

    #[test]
    fn an_extent_that_fails_by_itself_is_given_up() {
        for failures in [&[0][..], &[1, 2]] {
            assert!(matches!(with_failures(failures).0, Err(Refused::Extent(_))), "{failures:?}");
        }
    }

    #[test]
    fn a_spare_that_answers_nowhere_is_not_blamed() {
        for failures in [&[0][..], &[1, 2]] {
            let disk = TestDisk::new(256);
            (0..256).for_each(|sector| disk.spoil(sector));
            failures.iter().for_each(|nth| disk.plan(*nth, Trouble::Error(0)));
            assert!(matches!(write_salvaged(&disk, extent(), &CONTENT), Err(Refused::Other(_))), "{failures:?}");
        }
    }
}
