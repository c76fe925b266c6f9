//! The workload: writes over bad places of a set's device, each with marks in the log of the spare around it.

use super::content;
use super::mark::Mark;
use super::plan::{self, Place};
use anyhow::{Context, Result, anyhow};
use fastrand::Rng;
use remap_guardian::actuate::{Access, DirectDevice};
use remap_guardian::dm::{Mapper, Name};
use remap_guardian::edge::BlockIo;
use remap_guardian::model::Sector;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Writers at once, each with places of its own.
const WRITERS: usize = 3;

/// Writes to each place, at least.
const WRITES: u64 = 3;

/// The log, as the device that writes it.
pub struct Marker {
    mapper: Mapper,
    device: Name,
}

impl Marker {
    /// The dm-log-writes device of this name.
    pub fn new(device: &str) -> Result<Marker> {
        Ok(Marker { mapper: Mapper::new()?, device: Name::new(device)? })
    }

    /// Puts a mark into the log. What is acknowledged before comes before it, what is sent after comes after it.
    pub fn mark(&self, mark: Mark) -> Result<()> {
        self.mapper.message(&self.device, 0, &format!("mark {mark}"))?;
        Ok(())
    }
}

/// Numbers that all writers share.
#[derive(Default)]
struct Counters {
    version: AtomicU64,
    flush: AtomicU64,
}

/// Runs it; all writes have to succeed.
pub fn run(seed: u64, places: u64, device: &Path, log: &str) -> Result<()> {
    let places = plan::places(seed, places);
    let counters = Counters::default();
    let ended: Vec<Result<()>> = thread::scope(|scope| {
        let start = |number: usize| {
            let own: Vec<&Place> = places.iter().skip(number).step_by(WRITERS).collect();
            let counters = &counters;
            scope.spawn(move || Writer::new(seed ^ (number as u64 + 1) << 32, device, log, counters)?.run(&own))
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| Err(anyhow!("a writer panicked")))).collect()
    });
    ended.into_iter().collect::<Result<()>>()?;
    Marker::new(log)?.mark(Mark::Finished)
}

/// Longer than a failed flush fails others, s.
const LATCHED_S: u32 = 15;

struct Writer<'a> {
    rng: Rng,
    device: DirectDevice,
    marker: Marker,
    counters: &'a Counters,
}

impl<'a> Writer<'a> {
    fn new(seed: u64, device: &Path, log: &str, counters: &'a Counters) -> Result<Writer<'a>> {
        let device = DirectDevice::open(device, Access::WRITE)?;
        Ok(Writer { rng: Rng::with_seed(seed), device, marker: Marker::new(log)?, counters })
    }

    /// Every place is written first where a good sector of it is, sometimes, then over a bad one, then anywhere.
    fn run(mut self, places: &[&Place]) -> Result<()> {
        let mut turns: Vec<usize> = (0..places.len()).flat_map(|place| [place].repeat(WRITES as usize)).collect();
        self.rng.shuffle(&mut turns);
        let mut times = vec![0; places.len()];
        for turn in turns {
            let place = places[turn];
            match times[turn] {
                0 => {
                    self.write_good_sector(place)?;
                    self.write_over_bad_sector(place)?;
                }
                _ => self.write_anywhere(place)?,
            }
            times[turn] += 1;
            if self.rng.u8(..4) == 0 {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn write_good_sector(&mut self, place: &Place) -> Result<()> {
        let good: Vec<u64> = place.sectors.clone().filter(|sector| !place.bad.contains(sector)).collect();
        match self.rng.choice(&good) {
            Some(sector) if self.rng.bool() => self.write(*sector, 1),
            _ => Ok(()),
        }
    }

    fn write_over_bad_sector(&mut self, place: &Place) -> Result<()> {
        let bad: Vec<u64> = place.bad.iter().copied().collect();
        let bad = *self.rng.choice(&bad).context("a place without a bad sector")?;
        let (start, end) = (self.rng.u64(place.sectors.start..=bad), self.rng.u64(bad + 1..=place.sectors.end));
        // Often the whole place, as a file system writes.
        let (start, end) = if self.rng.u8(..3) == 0 { (place.sectors.start, place.sectors.end) } else { (start, end) };
        self.write(start, end - start)
    }

    fn write_anywhere(&mut self, place: &Place) -> Result<()> {
        let start = self.rng.u64(place.sectors.clone());
        let end = self.rng.u64(start + 1..=place.sectors.end);
        self.write(start, end - start)
    }

    fn write(&mut self, at: u64, len: u64) -> Result<()> {
        let version = self.counters.version.fetch_add(1, Ordering::Relaxed) + 1;
        self.marker.mark(Mark::Begun { version, at, len })?;
        self.device.write(Sector(at), &content::sectors(version, at, len))?;
        self.marker.mark(Mark::Done(version))
    }

    fn flush(&mut self) -> Result<()> {
        let flush = self.counters.flush.fetch_add(1, Ordering::Relaxed) + 1;
        self.marker.mark(Mark::Flushing(flush))?;
        // How a flush of a daemon's that was killed had ended nobody knows, so for ten seconds others are told that it failed.
        for _ in 0..LATCHED_S {
            if self.device.flush().is_ok() {
                return self.marker.mark(Mark::Flushed(flush));
            }
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        self.device.flush()?;
        self.marker.mark(Mark::Flushed(flush))
    }
}
