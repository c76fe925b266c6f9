//! A disk in memory for the tests of this module: a volatile cache, writes that fail or tear at a chosen point, bad sectors.

use crate::edge::{BlockIo, IoError};
use crate::model::{Sector, Sectors};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// What happens at a chosen write or flush.
#[derive(Clone, Copy, Debug)]
pub enum Trouble {
    /// It fails; sectors of it whose bit in the mask is set reach the medium nevertheless.
    Error(u64),
    /// The power fails; sectors whose bit in the mask is set reached the medium.
    Crash(u64),
}

#[derive(Default)]
struct State {
    durable: Vec<u8>,
    cached: BTreeMap<u64, Vec<u8>>,
    bad: BTreeSet<u64>,
    changes: usize,
    trouble: BTreeMap<usize, Trouble>,
    off: bool,
}

pub struct TestDisk {
    state: Mutex<State>,
    sectors: u64,
}

fn medium(text: &str) -> IoError {
    IoError::Medium(text.to_owned())
}

impl TestDisk {
    pub fn new(sectors: u64) -> TestDisk {
        let durable = vec![0x5a; (sectors * 512) as usize];
        TestDisk { state: Mutex::new(State { durable, ..State::default() }), sectors }
    }

    /// Trouble at the `nth` write or flush from now on, 0 being the next.
    pub fn plan(&self, nth: usize, trouble: Trouble) {
        let mut state = self.state.lock().unwrap();
        let at = state.changes + nth;
        state.trouble.insert(at, trouble);
    }

    /// Writes and flushes so far.
    pub fn changes(&self) -> usize {
        self.state.lock().unwrap().changes
    }

    /// Reads of this sector fail until it is written.
    pub fn spoil(&self, sector: u64) {
        self.state.lock().unwrap().bad.insert(sector);
    }

    /// Flips a bit on the medium.
    pub fn flip(&self, sector: u64, bit: usize) {
        self.state.lock().unwrap().durable[sector as usize * 512 + bit / 8] ^= 1 << (bit % 8);
    }

    /// Power off and on: of what was not flushed, the sectors chosen by `seed` arrive.
    pub fn restart(&self, mut seed: u64) {
        let mut state = self.state.lock().unwrap();
        for (sector, bytes) in std::mem::take(&mut state.cached) {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            if seed >> 63 == 1 {
                put(&mut state.durable, sector, &bytes);
            }
        }
        state.off = false;
        state.trouble.clear();
    }

    /// Power off and on; nothing that was not flushed arrives.
    pub fn forget(&self) {
        let mut state = self.state.lock().unwrap();
        state.cached.clear();
        state.off = false;
        state.trouble.clear();
    }

    fn change(&self, at: Sector, buf: &[u8], through: bool) -> Result<(), IoError> {
        let mut state = self.state.lock().unwrap();
        if state.off {
            return Err(IoError::Other("the power is off".into()));
        }
        let number = state.changes;
        state.changes += 1;
        let trouble = state.trouble.remove(&number);
        let arrives = match trouble {
            None => u64::MAX,
            Some(Trouble::Error(mask) | Trouble::Crash(mask)) => mask,
        };
        for (index, bytes) in buf.chunks(512).enumerate() {
            if arrives >> (index % 64) & 1 == 0 {
                continue;
            }
            let sector = at.0 + index as u64;
            state.bad.remove(&sector);
            if through || trouble.is_some() {
                state.cached.remove(&sector);
                put(&mut state.durable, sector, bytes);
            } else {
                state.cached.insert(sector, bytes.to_vec());
            }
        }
        match trouble {
            None => Ok(()),
            Some(Trouble::Error(_)) => Err(medium("planned")),
            Some(Trouble::Crash(_)) => {
                state.off = true;
                Err(IoError::Other("the power failed".into()))
            }
        }
    }
}

fn put(durable: &mut [u8], sector: u64, bytes: &[u8]) {
    durable[sector as usize * 512..(sector as usize + 1) * 512].copy_from_slice(bytes);
}

impl BlockIo for TestDisk {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        let state = self.state.lock().unwrap();
        if state.off {
            return Err(IoError::Other("the power is off".into()));
        }
        if at.0 + buf.len() as u64 / 512 > self.sectors {
            return Err(IoError::Other("beyond the end of the device".into()));
        }
        for (sector, bytes) in (at.0..).zip(buf.chunks_mut(512)) {
            if state.bad.contains(&sector) {
                return Err(medium("bad sector"));
            }
            let durable = &state.durable[sector as usize * 512..(sector as usize + 1) * 512];
            bytes.copy_from_slice(state.cached.get(&sector).map_or(durable, |cached| cached));
        }
        Ok(())
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.change(at, buf, false)
    }

    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.change(at, buf, true)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.change(Sector(0), &[], true)?;
        let mut state = self.state.lock().unwrap();
        for (sector, bytes) in std::mem::take(&mut state.cached) {
            put(&mut state.durable, sector, &bytes);
        }
        Ok(())
    }

    fn size(&self) -> Sectors {
        Sectors(self.sectors)
    }

    fn logical_block(&self) -> u32 {
        512
    }
}

/// For tests that look at a disk which they gave away.
impl BlockIo for Arc<TestDisk> {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        self.as_ref().read(at, buf)
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.as_ref().write(at, buf)
    }

    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.as_ref().write_durable(at, buf)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.as_ref().flush()
    }

    fn size(&self) -> Sectors {
        self.as_ref().size()
    }

    fn logical_block(&self) -> u32 {
        self.as_ref().logical_block()
    }
}
