//! Power cuts behind volatile caches: main and spare are simulated disks that lose, keep or tear what was not flushed, and the
//! power fails at a request that the seed chooses: while sectors are cured, and while the daemon starts. After each cut the real
//! program opens the set from what is on the media, and each sector is judged.

mod machine;
mod oracle;
mod work;

use crate::content::Found;
use crate::plan::{self, BLOCK, Place};
use crate::state::{self, Served};
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use machine::{Machine, read_all};
use oracle::{Bad, Oracle};
use remap_guardian::actuate::{Access, DirectDevice, read_header};
use remap_guardian::model::Sector;
use remap_guardian::sim::disk::Fault;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Places, of which so many go bad in each round, and so many others are written, too.
const PLACES: u64 = 200;
const FRESH: usize = 8;
const OTHERS: usize = 8;

/// Sectors that are read at once where all is well.
const BATCH: usize = 32;

/// How often a sector is read again that must not be lost, and one that may be.
const AGAIN: usize = 40;
const AGAIN_IF_ALLOWED: usize = 10;

/// Requests that change a disk until the power fails, at most: in a start, and while writers write.
const IN_START: u64 = 12;
const IN_WORK: u64 = 500;

/// Cuts the power so often, and judges what is there after each cut.
pub fn run(seed: u64, cuts: usize, program: &Path) -> Result<()> {
    let mut run = Run::new(seed, program)?;
    for number in 0..cuts {
        println!("## power cut {}, {} blocks have moved", number + 1, run.counts.moved);
        run.round().with_context(|| format!("power cut {} of seed {seed}", number + 1))?;
    }
    let Counts { starts, moved, kills, .. } = run.counts;
    println!("ok {cuts} power cuts, {starts} of them in a start, {kills} after a daemon was killed; {moved} blocks have moved");
    Ok(())
}

struct Run {
    rng: Rng,
    machine: Machine,
    oracle: Mutex<Oracle>,
    places: Vec<Place>,
    served: Served,
    created: bool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    starts: usize,
    moved: usize,
    kills: usize,
}

impl Run {
    fn new(seed: u64, program: &Path) -> Result<Run> {
        let places = plan::places(seed, PLACES);
        let (first, last) = (&places[0], &places[places.len() - 1]);
        // With good sectors before, between and after them.
        let oracle = Oracle::new(first.sectors.start - BATCH as u64..last.sectors.end.next_multiple_of(BATCH as u64));
        Ok(Run {
            rng: Rng::with_seed(seed),
            machine: Machine::new(program)?,
            oracle: Mutex::new(oracle),
            places,
            served: Served::default(),
            created: false,
            counts: Counts::default(),
        })
    }

    /// From one power-on to the next cut.
    fn round(&mut self) -> Result<()> {
        let cut = Arc::new(AtomicBool::new(false));
        let is_cut = || cut.load(Ordering::SeqCst);
        self.machine.power_on()?;
        self.judge_table()?;
        self.choose_store()?;
        if self.rng.u8(..5) == 0 {
            self.arm(IN_START, &cut);
        }
        self.machine.start()?;
        let is_open = if self.created { self.machine.wait_open(is_cut)? } else { self.create(is_cut)? };
        if !is_open {
            self.counts.starts += 1;
            return self.machine.clear_away();
        }
        if !is_cut() && self.judge_device(is_cut)? {
            let places = self.spoil_some();
            self.arm(IN_WORK, &cut);
            self.work(&places, &cut)?;
        }
        self.machine.fail_now();
        self.machine.clear_away()
    }

    fn arm(&mut self, most: u64, cut: &Arc<AtomicBool>) {
        let (request, seed, cut) = (self.rng.u64(1..=most), self.rng.u64(..), cut.clone());
        self.machine.fail_at(request, seed, move || cut.store(true, Ordering::SeqCst));
    }

    fn create(&mut self, is_cut: impl Fn() -> bool) -> Result<bool> {
        let done = self.machine.create()?;
        ensure!(done || is_cut(), "the set could not be made");
        self.created |= done;
        Ok(done)
    }

    /// What the host knows is as it was, older, or gone.
    fn choose_store(&mut self) -> Result<()> {
        match self.rng.u8(..5) {
            _ if !self.created => Ok(()),
            0 => self.machine.set_store_back(false),
            1 => self.machine.set_store_back(true),
            2 => self.machine.keep_store(),
            _ => Ok(()),
        }
    }

    /// The table as it is on the medium: before anybody has looked at it.
    fn judge_table(&mut self) -> Result<()> {
        let spare = self.machine.spare_medium();
        // A cut may have come between the last step of making it and the answer.
        self.created |= read_header(&spare).is_ok();
        if !self.created {
            return Ok(());
        }
        let mut oracle = self.oracle.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, table) = state::open(&spare).map_err(|why| anyhow::anyhow!("the set does not open: {why}"))?;
        let mut wrong = state::judge_single(&table, &set, &mut self.served);
        wrong.extend(state::judge_mended(&spare));
        let mut wrong: Vec<String> = wrong.into_iter().map(|(rule, why)| format!("{rule:?}: {why}")).collect();
        let is_there = |block: u64| (block..block + BLOCK).all(|at| table.find(Sector(at)).is_some());
        let missing = oracle.moved().filter(|block| !is_there(*block));
        wrong.extend(missing.map(|block| format!("main block {block}: an acknowledged write moved it, and the table lacks it")));
        let blocks = table.remaps().flat_map(|remap| (remap.main.start().0..remap.main.end().0).step_by(BLOCK as usize));
        let unasked = blocks.filter(|block| !oracle.may_have_moved(*block));
        wrong.extend(unasked.map(|block| format!("main block {block} has moved, and no write of it met a bad sector")));
        oracle.settle_moved(is_there);
        self.counts.moved = oracle.moved().count();
        told(&wrong)
    }

    /// Each sector, as the device has it; false if the power fails meanwhile.
    fn judge_device(&self, is_cut: impl Fn() -> bool) -> Result<bool> {
        let mut all = Vec::new();
        let read = DirectDevice::open(self.machine.device(), Access::READ).map_err(anyhow::Error::from).and_then(|device| {
            let mut oracle = oracle(&self.oracle);
            let range = oracle.range();
            for at in range.clone().step_by(BATCH) {
                read_all(&device, at..range.end.min(at + BATCH as u64), &mut |at, found| all.push((at, found)))?;
                if is_cut() {
                    return Ok(Vec::new());
                }
            }
            for (at, found) in &mut all {
                // The kernel may have joined the read of a good sector with one that the daemon sent to a dead one beside it.
                let tries = match oracle.fits(*at, *found) {
                    _ if oracle.holds(*at) == Found::Lost => 0,
                    true => AGAIN_IF_ALLOWED,
                    false => AGAIN,
                };
                for _ in 0..tries {
                    if *found == Found::Lost && !is_cut() {
                        thread::sleep(Duration::from_millis(50));
                        read_all(&device, *at..*at + 1, &mut |_, again| *found = again)?;
                    }
                }
            }
            if is_cut() {
                return Ok(Vec::new());
            }
            anyhow::Ok(all.into_iter().filter_map(|(at, found)| oracle.settle(at, found).err()).collect())
        });
        if is_cut() {
            return Ok(false);
        }
        told(&read?).map(|()| true)
    }

    /// Some places go bad; what they held is on the medium. The answer is where to write.
    fn spoil_some(&mut self) -> Vec<Place> {
        let mut oracle = oracle(&self.oracle);
        let places = self.rng.choose_multiple(self.places.iter(), FRESH + OTHERS);
        for at in places[..FRESH].iter().flat_map(|place| place.bad.iter().copied()) {
            let (bad, fault): (Bad, fn(_) -> Fault) =
                if self.rng.bool() { (Bad::Dead, Fault::dead) } else { (Bad::Unwritable, Fault::unwritable) };
            if self.machine.spoil(at, fault) {
                oracle.spoil(at, bad);
            }
        }
        places.into_iter().cloned().collect()
    }

    /// Writers, and sometimes a daemon that is killed and comes again, until the power fails.
    fn work(&mut self, places: &[Place], cut: &AtomicBool) -> Result<()> {
        let (seed, kill) = (self.rng.u64(..), self.rng.u8(..3) == 0);
        let pause = Duration::from_millis(self.rng.u64(..400));
        let (machine, shared) = (&self.machine, work::Shared { oracle: &self.oracle, cut });
        let killed = thread::scope(|scope| {
            let killer = scope.spawn(|| {
                thread::sleep(pause);
                let kill = kill && !cut.load(Ordering::SeqCst);
                if kill {
                    machine.kill()?;
                    machine.start()?;
                }
                anyhow::Ok(kill)
            });
            let written = work::run(seed, places, &machine.device(), &shared);
            machine.fail_now();
            let killed = killer.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the killer panicked")));
            written.and(killed)
        })?;
        self.counts.kills += usize::from(killed);
        Ok(())
    }
}

fn oracle(oracle: &Mutex<Oracle>) -> MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

fn told(wrong: &[String]) -> Result<()> {
    ensure!(wrong.is_empty(), "{} wrong: {}", wrong.len(), wrong[..wrong.len().min(5)].join("; "));
    Ok(())
}
