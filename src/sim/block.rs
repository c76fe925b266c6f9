//! The daemon's raw I/O on a simulated disk.

use super::disk::{DiskError, ErrorKind, Persist, SECTOR};
use super::machine::{Fate, Machine, Shared, sectors};
use crate::edge::{BlockIo, IoError};
use crate::model::{Extent, Sector, Sectors};

/// A disk as the daemon's run `life` sees it. Drive 0 is main, drive `n` is spare `n - 1`.
#[derive(Debug)]
pub(super) struct SimIo {
    shared: Shared,
    life: u64,
    drive: usize,
    size: Sectors,
    logical_block: u32,
}

impl SimIo {
    pub fn open(shared: &Shared, life: u64, drive: usize) -> SimIo {
        let machine = shared.lock();
        let disk = &machine.drives[drive].disk;
        let (size, logical_block) = (Sectors(disk.sectors()), disk.block_size());
        drop(machine);
        SimIo { shared: shared.clone(), life, drive, size, logical_block }
    }

    fn put(&self, at: Sector, buf: &[u8], persist: Persist) -> Result<(), IoError> {
        let drive = self.drive;
        let write = |machine: &mut Machine, fate: Fate| {
            check_write(machine, drive, at, sectors(buf));
            let logical = machine.drives[drive].disk.block_size() as usize;
            let part = match fate {
                Fate::Fails => 0,
                Fate::Half => buf.len() / logical / 2 * logical,
                Fate::Done | Fate::Unknown => buf.len(),
            };
            // A part that is left over by an error may not have got further than the cache.
            let persist = if fate == Fate::Done { persist } else { *machine.random.pick(&[persist, Persist::Cached]) };
            machine.note(|| format!("writes drive {drive} at {at}+{}, {persist:?}, {fate:?}", sectors(buf)));
            let result = if part == 0 { Ok(()) } else { machine.drives[drive].write(at.0, &buf[..part], persist) };
            machine.check_tables(drive, at);
            finish(result, fate)
        };
        self.shared.act(self.life, buf.len() > self.logical_block as usize, write).unwrap_or_else(over)
    }
}

impl BlockIo for SimIo {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        let drive = self.drive;
        let read = |machine: &mut Machine, fate: Fate| {
            let result = machine.drives[drive].read(at.0, buf);
            finish(result, fate)
        };
        self.shared.act(self.life, false, read).unwrap_or_else(over)
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.put(at, buf, Persist::Cached)
    }

    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.put(at, buf, Persist::Fua)
    }

    fn flush(&self) -> Result<(), IoError> {
        let drive = self.drive;
        let flush = |machine: &mut Machine, fate: Fate| {
            machine.note(|| format!("flushes drive {drive}, {fate:?}"));
            if fate == Fate::Fails {
                return finish(Ok(()), fate);
            }
            let lost = machine.drives[drive].disk.lost_at_flush();
            let result = machine.drives[drive].flush();
            machine.cache_lost(drive, &lost);
            finish(result, fate)
        };
        self.shared.act(self.life, false, flush).unwrap_or_else(over)
    }

    fn size(&self) -> Sectors {
        self.size
    }

    fn logical_block(&self) -> u32 {
        self.logical_block
    }
}

/// The daemon writes main only where a spare serves it, and never to spare sectors that a remap has.
fn check_write(machine: &mut Machine, drive: usize, at: Sector, count: u64) {
    let Ok(extent) = Extent::new(at, Sectors(count)) else { return };
    if drive == 0 {
        if !machine.mapped.iter().any(|remap| remap.main.covers(&extent)) {
            machine.violated(format!("the daemon writes main at {extent}, which main serves"));
        }
        return;
    }
    let spare = drive as u16 - 1;
    let live = machine.mapped.iter().find(|remap| remap.spare == spare && remap.spare_extent().overlaps(&extent));
    if let Some(remap) = live {
        let what = format!("the daemon writes spare{spare} at {extent}, which serves main {}", remap.main);
        machine.violated(what);
    }
}

fn finish(result: Result<(), DiskError>, fate: Fate) -> Result<(), IoError> {
    if fate != Fate::Done {
        return Err(IoError::Other("the link failed".into()));
    }
    result.map_err(|error| match error.kind {
        ErrorKind::Medium | ErrorKind::Io => IoError::Medium(error.to_string()),
        _ => IoError::Other(error.to_string()),
    })
}

fn over() -> Result<(), IoError> {
    Err(IoError::Other("this run of the daemon is over".into()))
}

/// What is on the medium of a spare up to its data: its table, as a restart after a power cut would find it at worst.
#[derive(Debug)]
pub(super) struct OnMedium(Vec<u8>, u32);

impl OnMedium {
    pub fn of(machine: &Machine, spare: usize) -> OnMedium {
        let disk = &machine.drives[spare + 1].disk;
        let mut bytes = vec![0; machine.desc.geometry[spare].data.start().0 as usize * SECTOR];
        disk.read_medium(0, &mut bytes);
        OnMedium(bytes, disk.block_size())
    }
}

impl BlockIo for OnMedium {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        let start = at.0 as usize * SECTOR;
        let bytes = self.0.get(start..start + buf.len()).ok_or_else(|| IoError::Other("beyond the table".into()))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn write(&self, _: Sector, _: &[u8]) -> Result<(), IoError> {
        Err(IoError::Other("a copy".into()))
    }

    fn write_durable(&self, _: Sector, _: &[u8]) -> Result<(), IoError> {
        Err(IoError::Other("a copy".into()))
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }

    fn size(&self) -> Sectors {
        Sectors(sectors(&self.0))
    }

    fn logical_block(&self) -> u32 {
        self.1
    }
}
