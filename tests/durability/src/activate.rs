//! Looks through the device of a set that was opened from a spare as of a moment of the log: the kernel has to say what the
//! spare says, and bad places that are written then have to move, too.

use super::content::{self, Found, SECTOR};
use super::log::Entry;
use super::oracle::{Moved, Oracle};
use super::plan::{self, BLOCK, Place};
use super::replay::{self, Moment};
use super::state;
use anyhow::{Result, anyhow, ensure};
use remap_guardian::actuate::{Access, DirectDevice};
use remap_guardian::edge::{BlockIo, IoError};
use remap_guardian::model::Sector;
use std::path::Path;

/// Versions of the writes here, above those of any workload.
const VERSION: u64 = 1 << 40;

/// Blocks that are moved anew.
const NEW: usize = 3;

/// Reads every bad place through the device, moves some more, and reads all again.
pub fn check(log: &[Entry], count: usize, sectors: u64, device: &Path) -> Result<()> {
    let moment = Moment::after(log, sectors, count)?;
    let (_, table) = state::open(&moment.spare).map_err(|why| anyhow!("{why}"))?;
    let is_moved = |main: u64| table.find(Sector(main)).is_some();
    let device = DirectDevice::open(device, Access::WRITE)?;
    read_all(&device, &moment.oracle, &is_moved, &[])?;
    let (seed, places) = replay::created(log)?;
    let new: Vec<u64> = unmoved(&plan::places(seed, places), &moment.oracle, &is_moved).take(NEW).collect();
    for block in &new {
        device.write(Sector(*block), &content::sectors(VERSION, *block, BLOCK))?;
    }
    read_all(&device, &moment.oracle, &is_moved, &new)
}

/// Blocks that main serves and nothing was begun for.
fn unmoved(places: &[Place], oracle: &Oracle, is_moved: &impl Fn(u64) -> bool) -> impl Iterator<Item = u64> {
    let all = places.iter().rev().flat_map(Place::blocks);
    all.filter(|block| oracle.moved(*block) == Moved::No && !is_moved(*block))
}

fn read_all(device: &DirectDevice, oracle: &Oracle, is_moved: &impl Fn(u64) -> bool, new: &[u64]) -> Result<()> {
    let mut wrong = Vec::new();
    for (block, _) in oracle.blocks() {
        for main in block..block + BLOCK {
            let found = read(device, main)?;
            let judged = if new.contains(&block) {
                let is_it = found == Found::Version(VERSION);
                if is_it { Ok(()) } else { Err(format!("main sector {main} was written after the start, and reads as {found}")) }
            } else if is_moved(main) {
                oracle.judge(main, found)
            } else {
                oracle.judge_main(main, found)
            };
            wrong.extend(judged.err());
        }
    }
    ensure!(wrong.is_empty(), "{} sectors are wrong: {}", wrong.len(), wrong[..wrong.len().min(5)].join("; "));
    Ok(())
}

fn read(device: &DirectDevice, main: u64) -> Result<Found> {
    let mut bytes = [0; SECTOR];
    match device.read(Sector(main), &mut bytes) {
        Ok(()) => Ok(content::found(main, &bytes)),
        Err(IoError::Medium(_)) => Ok(Found::Lost),
        Err(error) => Err(error.into()),
    }
}
