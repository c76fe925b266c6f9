//! Writers that go on until the power fails.

use super::oracle::Oracle;
use crate::content::{self, Found};
use crate::plan::Place;
use anyhow::{Result, anyhow, ensure};
use fastrand::Rng;
use remap_guardian::actuate::{Access, DirectDevice};
use remap_guardian::edge::{BlockIo, IoError};
use remap_guardian::model::Sector;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Writers at once, each with places of its own.
const WRITERS: usize = 3;

/// Writes of each, if the power does not fail before.
const WRITES: usize = 60;

/// Longer than a failed flush fails others, s.
const LATCHED_S: u32 = 15;

/// What the writers share.
pub struct Shared<'a> {
    /// What they know together.
    pub oracle: &'a Mutex<Oracle>,
    /// The power has failed; an error is to be expected.
    pub cut: &'a AtomicBool,
}

impl Shared<'_> {
    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was done, or nothing if the power failed meanwhile.
    fn unless_cut(&self, result: Result<(), IoError>) -> Result<Option<()>> {
        match result {
            Ok(()) => Ok(Some(())),
            Err(_) if self.cut.load(Ordering::SeqCst) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Writes to the places until the power fails, or enough was written.
pub fn run(seed: u64, places: &[Place], device: &Path, shared: &Shared) -> Result<()> {
    let ended: Vec<Result<()>> = thread::scope(|scope| {
        let start = |number: usize| {
            let own: Vec<&Place> = places.iter().skip(number).step_by(WRITERS).collect();
            scope.spawn(move || write(Rng::with_seed(seed ^ (number as u64 + 1) << 32), &own, device, shared).map(drop))
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| Err(anyhow!("a writer panicked")))).collect()
    });
    ended.into_iter().collect()
}

fn write(mut rng: Rng, places: &[&Place], device: &Path, shared: &Shared) -> Result<Option<()>> {
    // Opening asks the device for what it is.
    let device = match DirectDevice::open(device, Access::WRITE) {
        Err(_) if shared.cut.load(Ordering::SeqCst) => return Ok(None),
        device => device?,
    };
    for _ in 0..WRITES {
        let place = places[rng.usize(..places.len())];
        let whole = rng.u8(..3) == 0;
        let at = if whole { place.sectors.start } else { rng.u64(place.sectors.clone()) };
        let end = if whole { place.sectors.end } else { rng.u64(at + 1..=place.sectors.end) };
        let done = match rng.u8(..8) {
            0 => flush(&device, shared)?,
            1 => write_one(&device, at, end - at, true, shared)?,
            2 => write_one(&device, at, end - at, false, shared)?.and(read_back(&device, at..end, shared)?),
            _ => write_one(&device, at, end - at, false, shared)?,
        };
        if done.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(()))
}

/// How a flush of a daemon's that was killed had ended nobody knows, so for ten seconds others are told that it failed.
fn latched(shared: &Shared, flush: impl Fn() -> Result<(), IoError>) -> Result<Option<()>> {
    for _ in 0..LATCHED_S {
        match shared.unless_cut(flush()) {
            Err(_) => thread::sleep(Duration::from_secs(1)),
            done => return done,
        }
    }
    shared.unless_cut(flush())
}

fn write_one(device: &DirectDevice, at: u64, len: u64, durable: bool, shared: &Shared) -> Result<Option<()>> {
    let version = shared.oracle().begin(at, len, durable);
    let bytes = content::sectors(version, at, len);
    let done = match durable {
        true => latched(shared, || device.write_durable(Sector(at), &bytes))?,
        false => shared.unless_cut(device.write(Sector(at), &bytes))?,
    };
    if done.is_some() {
        shared.oracle().done(version);
    }
    Ok(done)
}

fn flush(device: &DirectDevice, shared: &Shared) -> Result<Option<()>> {
    let number = shared.oracle().begin_flush();
    let done = latched(shared, || device.flush())?;
    if done.is_some() {
        shared.oracle().flushed(number);
    }
    Ok(done)
}

/// What was acknowledged just now is read, with no cut between.
fn read_back(device: &DirectDevice, sectors: std::ops::Range<u64>, shared: &Shared) -> Result<Option<()>> {
    let mut bytes = vec![0; (sectors.end - sectors.start) as usize * content::SECTOR];
    let done = shared.unless_cut(device.read(Sector(sectors.start), &mut bytes))?;
    if done.is_some() {
        for (at, bytes) in sectors.zip(bytes.chunks(content::SECTOR)) {
            let (found, newest) = (content::found(at, bytes), shared.oracle().newest(at));
            ensure!(
                newest.map(Found::Version) == Some(found),
                "main sector {at} reads as {found}, and {newest:?} was acknowledged"
            );
        }
    }
    Ok(done)
}
