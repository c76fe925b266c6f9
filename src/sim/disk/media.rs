//! Where the content of a simulated disk is kept.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::SECTOR;

const CHUNK: usize = 64 * 1024;

/// Where the content is kept.
#[derive(Debug)]
pub enum Backing {
    /// In memory; what was never written is zeros.
    Memory,
    /// In memory, over the content of a file that is never changed. Beyond its end there are zeros.
    Over(File),
    /// In a file, which may be sparse and shorter than the disk.
    File(File),
}

/// Reads and writes whole sectors without fail: an error of the machine that runs the simulation is a panic, for
/// it must never look like an error of the simulated disk.
#[derive(Debug)]
pub(super) struct Media {
    backing: Backing,
    chunks: HashMap<u64, Box<[u8; CHUNK]>>,
}

impl Media {
    pub(super) fn new(backing: Backing) -> Self {
        Self { backing, chunks: HashMap::new() }
    }

    pub(super) fn read(&self, sector: u64, buf: &mut [u8]) {
        if let Backing::File(file) = &self.backing {
            return read_file(file, sector * SECTOR as u64, buf);
        }
        each_chunk(sector, buf.len(), |chunk, inside, at| {
            let piece = &mut buf[at..at + inside.len()];
            match (self.chunks.get(&chunk), &self.backing) {
                (Some(data), _) => piece.copy_from_slice(&data[inside]),
                (None, Backing::Over(base)) => read_file(base, chunk * CHUNK as u64 + inside.start as u64, piece),
                (None, _) => piece.fill(0),
            }
        });
    }

    pub(super) fn write(&mut self, sector: u64, data: &[u8]) {
        if let Backing::File(file) = &self.backing {
            return file.write_all_at(data, sector * SECTOR as u64).expect("the disk's backing file can be written");
        }
        each_chunk(sector, data.len(), |chunk, inside, at| {
            let backing = &self.backing;
            let target = self.chunks.entry(chunk).or_insert_with(|| {
                let mut fresh = Box::new([0; CHUNK]);
                if let Backing::Over(base) = backing {
                    read_file(base, chunk * CHUNK as u64, &mut fresh[..]);
                }
                fresh
            });
            target[inside.clone()].copy_from_slice(&data[at..at + inside.len()]);
        });
    }
}

/// Calls `f(chunk, range inside it, offset in the caller's buffer)` for each chunk that an access touches.
fn each_chunk(sector: u64, bytes: usize, mut f: impl FnMut(u64, std::ops::Range<usize>, usize)) {
    let start = sector * SECTOR as u64;
    let mut done = 0;
    while done < bytes {
        let at = start + done as u64;
        let inside = (at % CHUNK as u64) as usize;
        let n = (CHUNK - inside).min(bytes - done);
        f(at / CHUNK as u64, inside..inside + n, done);
        done += n;
    }
}

fn read_file(file: &File, offset: u64, buf: &mut [u8]) {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64).expect("the disk's backing file can be read") {
            0 => return buf[done..].fill(0),
            n => done += n,
        }
    }
}
