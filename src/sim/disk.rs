//! A disk that fails on demand.
//!
//! [`SimDisk`] keeps sectors of 512 bytes. It can be told to fail ([`Fault`]), to disappear, to be slow, and to
//! have a volatile write cache of which [`SimDisk::power_cut`] drops or tears what was not flushed.
//!
//! It has no clock and no threads: it says how long an access takes ([`SimDisk::delay`]) and leaves the waiting to
//! whoever owns the clock.
//!
//! ```
//! use remap_guardian::sim::disk::{Backing, Fault, Persist, SimDisk};
//!
//! let mut disk = SimDisk::new(2048, Backing::Memory).with_volatile_cache();
//! disk.inject(Fault::unreadable(8..16));
//! let mut block = [0; 4096];
//! assert_eq!(disk.read(8, &mut block).unwrap_err().sector, 8);
//! disk.write(8, &[7; 4096], Persist::Cached).unwrap(); // rewriting heals …
//! disk.read(8, &mut block).unwrap();
//! disk.power_cut(1); // … if the write reaches the medium
//! ```

mod cache;
mod fault;
mod media;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use cache::{Cache, Fates};
pub use fault::{ErrorKind, Fault, FaultKind};
use fault::{Faults, Op};
pub use media::Backing;
use media::Media;

/// Bytes per sector: the unit of every address here, whatever the logical block size.
pub const SECTOR: usize = 512;

/// What a failed read leaves in the part of the buffer that it could not fill: neither zeros nor old data, so
/// that a caller who uses it is found out.
pub const POISON: u8 = 0xdb;

/// What the volatile cache holds before the disk writes it out by itself (64 MiB).
const CACHE_SECTORS: usize = 128 * 1024;

/// When a write has to be on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// At the next flush.
    Cached,
    /// Before the write is acknowledged (force unit access).
    Fua,
}

/// A failed access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// What the disk reports.
    pub kind: ErrorKind,
    /// The first sector that failed.
    pub sector: u64,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at sector {}", self.kind, self.sector)
    }
}

impl std::error::Error for DiskError {}

/// The simulated disk.
#[derive(Debug)]
pub struct SimDisk {
    sectors: u64,
    block: u64,
    media: Media,
    cache: Option<Cache>,
    faults: Faults,
    gone: bool,
}

impl SimDisk {
    /// A healthy disk with logical blocks of 512 bytes and no volatile cache.
    #[must_use]
    pub fn new(sectors: u64, backing: Backing) -> Self {
        Self { sectors, block: 1, media: Media::new(backing), cache: None, faults: Faults::default(), gone: false }
    }

    /// The disk with logical blocks of `bytes`: 512 or 4096.
    ///
    /// # Panics
    /// If `bytes` is neither, or the size is not a multiple of it.
    #[must_use]
    pub fn with_block_size(mut self, bytes: u32) -> Self {
        assert!(matches!(bytes, 512 | 4096), "logical block of {bytes} bytes");
        self.block = u64::from(bytes) / SECTOR as u64;
        assert!(self.sectors.is_multiple_of(self.block), "size is no multiple of {bytes} bytes");
        self
    }

    /// The disk with a volatile write cache.
    #[must_use]
    pub fn with_volatile_cache(mut self) -> Self {
        self.cache = Some(Cache::default());
        self
    }

    /// Size in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Logical block size in bytes.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        (self.block * SECTOR as u64) as u32
    }

    /// Whether un-flushed writes can be lost.
    #[must_use]
    pub fn has_volatile_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// Adds a fault. Faults overlap freely.
    ///
    /// One that makes sectors unwritable also meets data that is still in the cache: the flush then fails.
    pub fn inject(&mut self, fault: Fault) {
        self.faults.add(fault);
    }

    /// Puts on the medium what is cached, and adds a fault then, so that it meets later writes only.
    ///
    /// Linux's NVMe, SCSI and ATA drivers repeat a flush that failed. A disk that has forgotten what it could not write then reports
    /// success, and what it had acknowledged is gone without anybody being told.
    ///
    /// # Errors
    /// As [`SimDisk::flush`]; the fault is there all the same.
    pub fn inject_flushed(&mut self, fault: Fault) -> Result<(), DiskError> {
        let flushed = self.flush();
        self.inject(fault);
        flushed
    }

    /// Removes every fault from `sectors`.
    pub fn repair(&mut self, sectors: Range<u64>) {
        self.faults.remove(&sectors);
    }

    /// The faults that are left.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        self.faults.all()
    }

    /// Makes the disk disappear (every access fails) or come back with what it had.
    pub fn set_gone(&mut self, gone: bool) {
        self.gone = gone;
    }

    /// How long an access takes because of slow sectors. The caller waits, or moves its clock.
    #[must_use]
    pub fn delay(&self, sector: u64, count: u64) -> Duration {
        self.faults.delay(&(sector..sector.saturating_add(count)))
    }

    /// Reads `buf.len()` bytes from `sector` on.
    ///
    /// # Errors
    /// On the first sector that cannot be read; the buffer from there on is [`POISON`].
    pub fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = self.check(sector, buf.len()).inspect_err(|_| buf.fill(POISON))?;
        let bad = self.first_unreadable(&range);
        let good = bad.map_or(buf.len(), |e| (e.sector - sector) as usize * SECTOR);
        buf[good..].fill(POISON);
        self.media.read(sector, &mut buf[..good]);
        if let Some(cache) = &self.cache {
            cache.overlay(sector, &mut buf[..good]);
        }
        bad.map_or(Ok(()), Err)
    }

    /// Writes `data` from `sector` on. A write that fails has changed the blocks before the failing one.
    ///
    /// # Errors
    /// On the first sector that cannot be written.
    pub fn write(&mut self, sector: u64, data: &[u8], persist: Persist) -> Result<(), DiskError> {
        let range = self.check(sector, data.len())?;
        let bad = self.faults.first(Op::Write, &range).map(|e| self.whole_block(e));
        let good = bad.map_or(data.len(), |e| (e.sector - sector) as usize * SECTOR);
        self.put(sector, &data[..good], persist);
        bad.map_or(Ok(()), Err)
    }

    /// Writes zeros, as [`SimDisk::write`] does.
    ///
    /// # Errors
    /// On the first sector that cannot be written.
    pub fn write_zeroes(&mut self, sector: u64, count: u64, persist: Persist) -> Result<(), DiskError> {
        const PIECE: u64 = 2048;
        static ZEROS: [u8; PIECE as usize * SECTOR] = [0; PIECE as usize * SECTOR];
        let end = sector.saturating_add(count);
        for start in (sector..end).step_by(PIECE as usize) {
            let bytes = (end - start).min(PIECE) as usize * SECTOR;
            self.write(start, &ZEROS[..bytes], persist)?;
        }
        Ok(())
    }

    /// Discards sectors: they read as zeros. Unwritable ones keep what they have, as a discard is a hint.
    ///
    /// # Errors
    /// If the range is not on the disk, or the disk is gone.
    pub fn discard(&mut self, sector: u64, count: u64) -> Result<(), DiskError> {
        let end = self.check_sectors(sector, count)?.end;
        let mut at = sector;
        while at < end {
            match self.write_zeroes(at, end - at, Persist::Cached) {
                Err(e) if e.kind != ErrorKind::Gone => at = e.sector + self.block,
                done => return done,
            }
        }
        Ok(())
    }

    /// Puts everything written so far on the medium.
    ///
    /// # Errors
    /// If a cached sector turns out to be unwritable: its data is lost, the rest is on the medium.
    pub fn flush(&mut self) -> Result<(), DiskError> {
        if self.gone {
            return Err(DiskError { kind: ErrorKind::Gone, sector: 0 });
        }
        let Some(cache) = &mut self.cache else { return Ok(()) };
        let mut failed = None;
        for (sector, data) in cache.take_newest() {
            match self.faults.first(Op::Write, &(sector..sector + 1)) {
                Some(error) => failed = failed.or(Some(error)),
                None => {
                    self.media.write(sector, &data[..]);
                    self.faults.heal(&(sector..sector + 1));
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Cuts the power: of the writes that were not flushed some reach the medium, some do not, and some only in
    /// part. Which ones depends on `seed` alone. Without a volatile cache nothing is lost.
    pub fn power_cut(&mut self, seed: u64) {
        let Some(cache) = &mut self.cache else { return };
        for (sector, data) in cache.take_survivors(&mut Fates::new(seed, self.block)) {
            if self.faults.first(Op::Write, &(sector..sector + 1)).is_none() {
                self.media.write(sector, &data[..]);
                self.faults.heal(&(sector..sector + 1));
            }
        }
    }

    /// What is on the medium, whatever the cache holds and whatever fails: what a power cut now would at least leave of these
    /// sectors if nothing in the cache survived.
    pub fn read_medium(&self, sector: u64, buf: &mut [u8]) {
        self.media.read(sector, buf);
    }

    /// Whether the volatile cache holds any of `sectors`.
    #[must_use]
    pub fn is_cached(&self, mut sectors: Range<u64>) -> bool {
        self.cache.as_ref().is_some_and(|cache| sectors.any(|sector| cache.has(sector)))
    }

    /// Sectors in the cache that the next flush cannot put on the medium.
    #[must_use]
    pub fn lost_at_flush(&self) -> Vec<u64> {
        let cached = self.cache.iter().flat_map(Cache::sectors);
        cached.filter(|&sector| self.is_faulty(sector..sector + 1, true)).collect()
    }

    /// Whether an access to `sectors` would fail because of a fault, on reading or on writing.
    #[must_use]
    pub fn is_faulty(&self, sectors: Range<u64>, writing: bool) -> bool {
        let op = if writing { Op::Write } else { Op::Read };
        self.faults.first(op, &sectors).is_some()
    }

    fn put(&mut self, sector: u64, data: &[u8], persist: Persist) {
        let range = sector..sector + (data.len() / SECTOR) as u64;
        match (&mut self.cache, persist) {
            (Some(cache), Persist::Cached) => {
                cache.add(sector, data);
                if cache.len() > CACHE_SECTORS {
                    // A disk may write its cache out whenever it likes; an error then has no one to tell.
                    let _ = self.flush();
                }
            }
            (cache, _) => {
                // An older cached write must not come back over this one.
                if let Some(cache) = cache {
                    cache.forget(&range);
                }
                self.media.write(sector, data);
                self.faults.heal(&range);
            }
        }
    }

    fn first_unreadable(&self, range: &Range<u64>) -> Option<DiskError> {
        let error = self.faults.first_where(range, |sector, fault| {
            // What is in the cache does not have to be read from the medium.
            fault.fails(Op::Read) && !(fault.heals() && self.cache.as_ref().is_some_and(|c| c.has(sector)))
        })?;
        Some(self.whole_block(error))
    }

    /// A block fails as one, however small the damage.
    fn whole_block(&self, error: DiskError) -> DiskError {
        DiskError { sector: error.sector / self.block * self.block, ..error }
    }

    fn check(&self, sector: u64, bytes: usize) -> Result<Range<u64>, DiskError> {
        if !bytes.is_multiple_of(SECTOR) {
            return Err(DiskError { kind: ErrorKind::Misaligned, sector });
        }
        self.check_sectors(sector, (bytes / SECTOR) as u64)
    }

    fn check_sectors(&self, sector: u64, count: u64) -> Result<Range<u64>, DiskError> {
        let end = sector.checked_add(count).filter(|&end| end <= self.sectors);
        match end {
            _ if self.gone => Err(ErrorKind::Gone),
            None => Err(ErrorKind::OutOfRange),
            Some(end) if !sector.is_multiple_of(self.block) || end % self.block != 0 => Err(ErrorKind::Misaligned),
            Some(end) => Ok(sector..end),
        }
        .map_err(|kind| DiskError { kind, sector })
    }
}

#[cfg(test)]
mod tests;
