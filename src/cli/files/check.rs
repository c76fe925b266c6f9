//! Reads the blocks of a file once, through the set: a sector that does not read is an error for the daemon, too.

use crate::actuate::{Access, DirectDevice};
use crate::edge::{BlockIo, IoError};
use crate::model::units::SECTOR_BYTES;
use crate::model::{Extent, Sector, Sectors};
use crate::sources::file_map::{FileMap, Piece};
use anyhow::Context;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// At most so many bytes a second: others use the disk.
const RATE: u64 = 32 << 20;
/// Sectors of one read.
const CHUNK: u64 = 512;
/// Sectors of the smallest read; what does not read is told in these.
const BLOCK: u64 = 8;
/// A disk that is this bad needs no file read to know it, and each read may take it seconds.
const MOST_BAD: u64 = 256;

/// What the check has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Sectors of the set that cannot be read.
    Bad(Extent),
    /// It has ended.
    Done {
        /// Bytes that were read, or tried.
        bytes: u64,
        /// Those of them that cannot be read.
        bad: u64,
        /// Why it ended before its end.
        stopped: Option<String>,
    },
}

/// Starts the check in a thread of its own.
pub fn start(map: &FileMap) -> anyhow::Result<Receiver<Finding>> {
    let device = DirectDevice::open(&map.device, Access::READ).context("the blocks of the file cannot be read")?;
    let pieces = map.pieces.clone();
    let (tell, told) = mpsc::channel();
    std::thread::Builder::new().name("check".into()).spawn(move || {
        let began = Instant::now();
        let pace = |bytes: u64| {
            let due = Duration::from_secs_f64(bytes as f64 / RATE as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        };
        // Nobody listens any more: the program ends.
        check(&device, &pieces, pace, |finding| drop(tell.send(finding)));
    })?;
    Ok(told)
}

/// Reads all pieces. `pace` is called with the bytes read so far.
fn check(device: &dyn BlockIo, pieces: &[Piece], pace: impl Fn(u64), mut tell: impl FnMut(Finding)) {
    let mut read = Progress::default();
    let stopped = pieces.iter().flat_map(|piece| chunks(piece.at, CHUNK)).try_for_each(|chunk| {
        let ended = read.chunk(device, chunk, &mut tell);
        pace(read.bytes);
        ended
    });
    tell(Finding::Done { bytes: read.bytes, bad: read.bad * SECTOR_BYTES, stopped: stopped.break_value() });
}

#[derive(Default)]
struct Progress {
    bytes: u64,
    /// Sectors that cannot be read.
    bad: u64,
}

impl Progress {
    fn chunk(&mut self, device: &dyn BlockIo, chunk: Extent, tell: &mut impl FnMut(Finding)) -> ControlFlow<String> {
        self.bytes += chunk.len().bytes();
        match read(device, chunk) {
            Ok(()) => ControlFlow::Continue(()),
            Err(IoError::Medium(_)) => chunks(chunk, BLOCK).try_for_each(|block| match read(device, block) {
                Ok(()) => ControlFlow::Continue(()),
                Err(IoError::Medium(_)) => {
                    self.bad += block.len().0;
                    tell(Finding::Bad(block));
                    match self.bad < MOST_BAD * BLOCK {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break("there is too much that cannot be read".into()),
                    }
                }
                Err(error) => ControlFlow::Break(error.to_string()),
            }),
            Err(error) => ControlFlow::Break(error.to_string()),
        }
    }
}

fn read(device: &dyn BlockIo, sectors: Extent) -> Result<(), IoError> {
    device.read(sectors.start(), &mut vec![0; sectors.len().bytes() as usize])
}

fn chunks(sectors: Extent, most: u64) -> impl Iterator<Item = Extent> {
    let (start, end) = (sectors.start().0, sectors.end().0);
    (start..end).step_by(most as usize).filter_map(move |at| Extent::new(Sector(at), Sectors(most.min(end - at))).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of which some sectors do not read.
    struct Disk {
        bad: Vec<u64>,
        gone_at: u64,
    }

    impl BlockIo for Disk {
        fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
            let end = at.0 + buf.len() as u64 / SECTOR_BYTES;
            if end > self.gone_at {
                return Err(IoError::Other("gone".into()));
            }
            match self.bad.iter().any(|bad| (at.0..end).contains(bad)) {
                true => Err(IoError::Medium("bad".into())),
                false => Ok(()),
            }
        }
        fn write(&self, _: Sector, _: &[u8]) -> Result<(), IoError> {
            panic!("a check writes nothing")
        }
        fn write_durable(&self, _: Sector, _: &[u8]) -> Result<(), IoError> {
            panic!("a check writes nothing")
        }
        fn flush(&self) -> Result<(), IoError> {
            panic!("a check writes nothing")
        }
        fn size(&self) -> Sectors {
            Sectors(1 << 20)
        }
        fn logical_block(&self) -> u32 {
            512
        }
    }

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    fn findings(disk: &Disk, pieces: &[(u64, u64)]) -> Vec<Finding> {
        let pieces: Vec<Piece> = pieces.iter().map(|(start, len)| Piece { offset: 0, at: extent(*start, *len) }).collect();
        let mut found = Vec::new();
        check(disk, &pieces, |_| (), |finding| found.push(finding));
        found
    }

    #[test]
    fn bad_blocks_are_told_and_the_rest_is_read() {
        let disk = Disk { bad: vec![70, 71, 1000, 5000], gone_at: u64::MAX };
        let done = |bytes, bad| Finding::Done { bytes, bad, stopped: None };
        assert_eq!(findings(&disk, &[(0, 64)]), [done(64 << 9, 0)]);
        let expected = [Finding::Bad(extent(64 + 4, 8)), Finding::Bad(extent(996, 8)), done(2001 << 9, 16 << 9)];
        assert_eq!(findings(&disk, &[(60, 2000), (3000, 1)]), expected, "5000 is not the file's");
    }

    #[test]
    fn it_is_bounded() {
        let dead = Disk { bad: (0..100_000).collect(), gone_at: u64::MAX };
        let found = findings(&dead, &[(0, 100_000)]);
        assert_eq!(found.len() as u64, MOST_BAD + 1);
        let gone = Disk { bad: vec![3], gone_at: 600 };
        let stopped = Finding::Done { bytes: 1024 << 9, bad: 8 << 9, stopped: Some("gone".into()) };
        assert_eq!(findings(&gone, &[(0, 4096)]), [Finding::Bad(extent(0, 8)), stopped]);
    }
}
