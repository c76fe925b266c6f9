//! Finds out whether an extent of a spare holds what is written to it.

use crate::edge::{BlockIo, IoError};
use crate::model::{Extent, Sector};

/// Bytes in one request.
const CHUNK_SECTORS: u64 = 512;

/// How often an extent is written again when a flush fails.
const AGAIN: usize = 3;

/// An extent did not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It could not be written or read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It gave back something else.
    #[error("sector {0} does not give back what was written to it")]
    Mismatch(Sector),
}

/// Writes a pattern that differs in every sector, reads it back, and leaves zeros. What was there is gone.
///
/// An [`IoError::Other`] says nothing of the extent; the other errors make it a bad one.
pub fn verify_extent(io: &dyn BlockIo, extent: Extent) -> Result<(), VerifyError> {
    pass(io, extent, pattern)?;
    pass(io, extent, |_, bytes| bytes.fill(0))
}

fn pass(io: &dyn BlockIo, extent: Extent, fill: fn(Sector, &mut [u8])) -> Result<(), VerifyError> {
    let mut wrote = vec![0; (CHUNK_SECTORS.min(extent.len().0) * 512) as usize];
    let mut read = wrote.clone();
    let chunks = || (extent.start().0..extent.end().0).step_by(CHUNK_SECTORS as usize);
    let bytes = |at: u64| (CHUNK_SECTORS.min(extent.end().0 - at) * 512) as usize;
    for at in chunks() {
        fill_sectors(Sector(at), &mut wrote[..bytes(at)], fill);
        io.write(Sector(at), &wrote[..bytes(at)])?;
    }
    // A flush reports on everything that was in the drive's cache, what applications wrote elsewhere too, and once: of an extent that
    // does not take what is written it fails each time.
    let mut flushed = io.flush();
    for _ in 0..AGAIN {
        let Err(IoError::Medium(error)) = &flushed else { break };
        tracing::warn!(%error, %extent, "a flush of the spare failed; the extent that is tried is written again");
        flushed = chunks().try_for_each(|at| {
            fill_sectors(Sector(at), &mut wrote[..bytes(at)], fill);
            io.write_durable(Sector(at), &wrote[..bytes(at)])
        });
    }
    flushed?;
    for at in chunks() {
        fill_sectors(Sector(at), &mut wrote[..bytes(at)], fill);
        read[..bytes(at)].fill(0xa5);
        io.read(Sector(at), &mut read[..bytes(at)])?;
        for (number, (wrote, read)) in wrote.chunks(512).zip(read.chunks(512)).take(bytes(at) / 512).enumerate() {
            if wrote != read {
                return Err(VerifyError::Mismatch(Sector(at + number as u64)));
            }
        }
    }
    Ok(())
}

fn fill_sectors(at: Sector, bytes: &mut [u8], fill: fn(Sector, &mut [u8])) {
    for (number, sector) in bytes.chunks_mut(512).enumerate() {
        fill(Sector(at.0 + number as u64), sector);
    }
}

/// Bytes that no other sector has, so that a misdirected write or read shows.
fn pattern(at: Sector, sector: &mut [u8]) {
    let mut word = at.0 ^ 0x5bd1_e995_9e37_79b9;
    for bytes in sector.chunks_mut(8) {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.copy_from_slice(&(word ^ word >> 29).to_le_bytes()[..bytes.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::test_disk::{TestDisk, Trouble};
    use crate::model::Sectors;

    const SECTORS: u64 = 4096;

    #[test]
    fn a_verified_extent_is_zero_and_a_bad_one_is_found() {
        struct Sticky(TestDisk, u64);
        impl BlockIo for Sticky {
            fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
                self.0.read(at, buf)?;
                if (at.0..at.0 + buf.len() as u64 / 512).contains(&self.1) {
                    buf[(self.1 - at.0) as usize * 512 + 100] |= 1;
                }
                Ok(())
            }
            fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
                self.0.write(at, buf)
            }
            fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
                self.0.write_durable(at, buf)
            }
            fn flush(&self) -> Result<(), IoError> {
                self.0.flush()
            }
            fn size(&self) -> Sectors {
                self.0.size()
            }
            fn logical_block(&self) -> u32 {
                512
            }
        }
        let extent = Extent::new(Sector(100), Sectors(1300)).unwrap();
        let disk = TestDisk::new(SECTORS);
        verify_extent(&disk, extent).unwrap();
        let mut bytes = vec![1; 1302 * 512];
        disk.read(Sector(99), &mut bytes).unwrap();
        assert!(bytes[512..1301 * 512].iter().all(|&byte| byte == 0));
        assert!(bytes[..512].iter().chain(&bytes[1301 * 512..]).all(|&byte| byte == 0x5a), "nothing outside is touched");
        let stuck = verify_extent(&Sticky(disk, 777), extent);
        assert_eq!(stuck, Err(VerifyError::Mismatch(Sector(777))));
    }

    #[test]
    fn a_flush_that_fails_for_others_makes_no_extent_bad() {
        let extent = Extent::new(Sector(100), Sectors(8)).unwrap();
        let with_errors = |count: usize| {
            let disk = TestDisk::new(SECTORS);
            // What is written arrives each time; the error is of something else. The first write is no flush.
            (1..=count).for_each(|nth| disk.plan(nth, Trouble::Error(u64::MAX)));
            verify_extent(&disk, extent)
        };
        assert_eq!((with_errors(1), with_errors(3)), (Ok(()), Ok(())));
        assert!(with_errors(4).is_err(), "it fails each time");
    }
}
