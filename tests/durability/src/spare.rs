//! A spare as it was at a moment of the log, in memory.

use super::content::{SECTOR, stale};
use remap_guardian::edge::{BlockIo, IoError};
use remap_guardian::model::{Sector, Sectors};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The whole spare.
pub struct Spare(Mutex<Vec<u8>>);

impl Spare {
    /// As it was before it was a spare.
    pub fn new(sectors: u64) -> Spare {
        Spare(Mutex::new((0..sectors).flat_map(stale).collect()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces a range, and gives what was there.
    pub fn replace(&self, at: u64, bytes: &[u8]) -> Result<Vec<u8>, IoError> {
        let mut all = self.bytes();
        let start = usize::try_from(at).ok().and_then(|at| at.checked_mul(SECTOR));
        let range = start.and_then(|start| all.get_mut(start..start.checked_add(bytes.len())?));
        let range = range.ok_or_else(|| IoError::Other(format!("no sector {at} on the spare")))?;
        let before = range.to_vec();
        range.copy_from_slice(bytes);
        Ok(before)
    }
}

impl BlockIo for Spare {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        let all = self.bytes();
        let start = usize::try_from(at.0).ok().and_then(|at| at.checked_mul(SECTOR));
        let range = start.and_then(|start| all.get(start..start.checked_add(buf.len())?));
        buf.copy_from_slice(range.ok_or_else(|| IoError::Other(format!("no sector {at} on the spare")))?);
        Ok(())
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.replace(at.0, buf).map(drop)
    }

    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.write(at, buf)
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }

    fn size(&self) -> Sectors {
        Sectors((self.bytes().len() / SECTOR) as u64)
    }

    fn logical_block(&self) -> u32 {
        SECTOR as u32
    }
}
