//! A disk of the simulated machine: the simulated disk, the state of the way to it, and what was ever wrong with it.

use super::disk::{DiskError, ErrorKind, Fault, Persist, SimDisk};
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct Drive {
    pub disk: SimDisk,
    /// Every access fails like this until the time, ms.
    pub storm: Option<(ErrorKind, u64)>,
    /// Sectors whose medium was ever bad for writing, and for anything.
    pub ever_unwritable: BTreeSet<u64>,
    pub ever_bad: BTreeSet<u64>,
}

impl Drive {
    pub fn new(disk: SimDisk) -> Drive {
        Drive { disk, storm: None, ever_unwritable: BTreeSet::new(), ever_bad: BTreeSet::new() }
    }

    pub fn spoil(&mut self, fault: Fault) {
        let sectors = fault.sectors.clone();
        self.disk.inject(fault);
        self.ever_bad.extend(sectors.clone());
        if self.disk.is_faulty(sectors.clone(), true) {
            self.ever_unwritable.extend(sectors);
        }
    }

    /// A storm is over when its time is.
    pub fn calm(&mut self, now: u64) {
        if self.storm.is_some_and(|(_, until)| until <= now) {
            self.storm = None;
        }
    }

    pub fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.weather(sector)?;
        self.disk.read(sector, buf)
    }

    pub fn write(&mut self, sector: u64, data: &[u8], persist: Persist) -> Result<(), DiskError> {
        self.weather(sector)?;
        self.disk.write(sector, data, persist)
    }

    pub fn flush(&mut self) -> Result<(), DiskError> {
        self.weather(0)?;
        self.disk.flush()
    }

    fn weather(&self, sector: u64) -> Result<(), DiskError> {
        match self.storm {
            Some((kind, _)) => Err(DiskError { kind, sector }),
            None => Ok(()),
        }
    }
}
