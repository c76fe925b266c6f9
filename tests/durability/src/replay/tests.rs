//! Logs as the real table code makes them on a disk with a volatile cache: right ones, and ones that lack a step.

use super::*;
use crate::content;
use crate::plan::{BLOCK, Place};
use remap_guardian::actuate::{SpareTable, format_spare};
use remap_guardian::edge::{BlockIo, IoError};
use remap_guardian::format::{geometry, lost_mark};
use remap_guardian::model::{
    Extent, Identity, Millis, Remap, RemapFlags, Secret, Sector, Sectors, SetDescription, SetId, SetName,
};
use std::sync::Mutex;

const SECTORS: u64 = 4096;
const SECRET: Secret = Secret([3; 16]);

/// What a planted error leaves out.
#[derive(Clone, Copy, Default)]
struct Lacks {
    flush: bool,
    fua: bool,
}

/// A disk that logs as dm-log-writes does.
struct Logging {
    spare: Spare,
    lacks: Lacks,
    log: Mutex<(Vec<Entry>, Vec<Entry>)>,
}

impl Logging {
    fn mark(&self, mark: Mark) {
        self.log.lock().unwrap().0.push(Entry::Mark(mark.to_string()));
    }

    fn put(&self, at: u64, bytes: &[u8], fua: bool) -> Result<(), IoError> {
        self.spare.replace(at, bytes)?;
        let (log, unflushed) = &mut *self.log.lock().unwrap();
        (if fua { log } else { unflushed }).push(Entry::Write { at, bytes: bytes.to_vec(), fua });
        Ok(())
    }

    fn sync(&self) {
        let (log, unflushed) = &mut *self.log.lock().unwrap();
        log.append(unflushed);
        log.push(Entry::Flush);
    }
}

impl BlockIo for Logging {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        self.spare.read(at, buf)
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.put(at.0, buf, false)
    }

    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.put(at.0, buf, !self.lacks.fua)
    }

    fn flush(&self) -> Result<(), IoError> {
        if !self.lacks.flush {
            self.sync();
        }
        Ok(())
    }

    fn size(&self) -> Sectors {
        self.spare.size()
    }

    fn logical_block(&self) -> u32 {
        self.spare.logical_block()
    }
}

fn set() -> SetDescription {
    let identity = |serial: &str, sectors| Identity {
        serial: serial.into(),
        sectors: Sectors(sectors),
        logical_block: 512,
        physical_block: 4096,
        ..Identity::default()
    };
    SetDescription {
        id: SetId(Default::default()),
        name: SetName::new("data").unwrap(),
        main: identity("M", 1 << 16),
        spares: vec![identity("S", SECTORS)],
        secret: SECRET,
        geometry: vec![geometry::geometry(Sectors(SECTORS), Sectors(BLOCK)).unwrap()],
        created: Millis(0),
    }
}

/// The first block of each place is written as a whole, and moves to the spare, step by step as the daemon does it.
fn log_of(places: &[Place], lacks: Lacks) -> Vec<Entry> {
    let set = set();
    let disk = Logging { spare: Spare::new(SECTORS), lacks: Lacks::default(), log: Mutex::default() };
    format_spare(&disk, &set, 0).unwrap();
    disk.mark(Mark::Created { seed: 1, places: places.len() as u64 });
    let disk = Logging { lacks, ..disk };
    let mut table = SpareTable::open(&disk.spare, &set, 0).unwrap();
    for (number, place) in (1..).zip(places) {
        let (main, at) = (place.sectors.start, set.geometry[0].data.start().0 + number * BLOCK);
        disk.mark(Mark::Begun { version: number, at: main, len: BLOCK });
        let mut salvaged = content::sectors(content::INITIAL, main, BLOCK);
        for (sector, bytes) in (main..).zip(salvaged.chunks_mut(SECTOR)).filter(|(sector, _)| place.bad.contains(sector)) {
            lost_mark::encode(&SECRET, Sector(sector), bytes);
        }
        disk.write(Sector(at), &salvaged).unwrap();
        disk.flush().unwrap();
        let extent = Extent::new(Sector(main), Sectors(BLOCK)).unwrap();
        let flags = RemapFlags { marked: true };
        table.commit(&disk, Remap { main: extent, spare: 0, at: Sector(at), flags, seq: number }).unwrap();
        disk.put(at, &content::sectors(number, main, BLOCK), true).unwrap();
        disk.mark(Mark::Done(number));
        table.mirror(&disk).unwrap();
    }
    disk.sync();
    disk.mark(Mark::Finished);
    disk.log.into_inner().unwrap().0
}

fn broken(lacks: Lacks) -> Vec<Rule> {
    let report = replay(&log_of(&places(1, 20), lacks), SECTORS, 4, 1).unwrap();
    assert!(report.torn > 100 && report.moved >= 20, "{report:?}");
    report.broken.into_keys().collect()
}

#[test]
fn steps_in_the_right_order_break_no_rule() {
    assert_eq!(broken(Lacks::default()), []);
}

#[test]
fn content_that_is_not_flushed_before_the_record_is_noticed() {
    assert_eq!(broken(Lacks { flush: true, fua: false }), [Rule::Content]);
}

#[test]
fn a_record_that_is_not_durable_is_noticed() {
    assert!(broken(Lacks { flush: false, fua: true }).contains(&Rule::Durable));
}
