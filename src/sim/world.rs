//! Runs: a machine that a seed makes, troubles that it draws, and at the end the whole of main compared with what it may say.

use super::coverage::Coverage;
use super::daemon::{Daemon, OLDER, Turn};
use super::disk::{ErrorKind, Fault, Persist, SECTOR};
use super::drive::Drive;
use super::kernel::Shape;
use super::machine::{Crash, End, Machine, Shared};
use super::random::Random;
use super::setting::{describe, draw_fault, fill, new_drive, policy};
use super::store::MemoryStore;
use crate::model::{Action, Extent, Sector, Sectors};
use crate::policy::Policy;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A run that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed: the same one gives the same run.
    pub seed: u64,
    /// What was broken.
    pub what: String,
    /// The last things that happened.
    pub log: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        self.log.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// A run goes on until the engines took so many events, and so many remaps were live.
const LEAST_EVENTS: u64 = 200;
const LEAST_REMAPS: usize = 20;
/// One that is interrupted all the time gets some peace then.
const RESTLESS_STEPS: u64 = 4_000;
/// One that does not come to that has a daemon that cures nothing any more.
const MOST_STEPS: u64 = 20_000;

/// Runs one seed. The same seed gives the same run.
///
/// # Errors
/// If a promise was broken: which, and the last things that happened.
pub fn run_seed(seed: u64) -> Result<Coverage, Box<Failure>> {
    let mut world = World::new(seed);
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err().map(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        format!("panicked: {}", text.unwrap_or("without words"))
    });
    let machine = world.shared.lock();
    match panicked.or_else(|| machine.violation.clone()) {
        Some(what) => Err(Box::new(Failure { seed, what, log: machine.log() })),
        None => Ok(machine.coverage.clone()),
    }
}

struct World {
    shared: Shared,
    store: MemoryStore,
    daemon: Option<Daemon>,
    policy: Policy,
    /// Troubles are drawn one in so many steps.
    faults: u64,
    crashes: u64,
    /// Faults of the table area that end when their time comes: drive, first sector, time.
    passing: Vec<(usize, u64, u64)>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let logical: u32 = if random.chance(1, 5) { 4096 } else { 512 };
        let main = random.within(120, 260) * 8 + if logical == 512 { random.below(8) } else { 0 };
        let spares: Vec<u64> = (0..random.within(1, 2)).map(|_| random.within(140, 320) * 8).collect();
        let desc = describe(&mut random, logical, main, &spares);
        let cached = random.chance(5, 6);
        let mut drives = vec![new_drive(main, logical, cached)];
        drives.extend(spares.iter().map(|&sectors| new_drive(sectors, logical, cached)));
        let shape = Shape {
            logical: u64::from(logical) / 512,
            physical: desc.main.physical_sectors().0,
            main,
            closed_ms: 90_000,
            hold_ms: 10_000,
            ring: *random.pick(&[8, 64, 1024, 1024]),
        };
        let reads = *random.pick(&[Action::Observe, Action::Remap, Action::Rewrite]);
        let hold = random.chance(1, 2);
        let policy = policy(random.within(4, 40), reads, hold);
        let (faults, crashes) = (random.within(8, 60), *random.pick(&[20, 40, 80, 1_000_000]));
        let trouble = *random.pick(&[0, 0, 15, 40, 100]);
        let mut machine = Machine::new(desc, shape, drives, random);
        machine.lively = false;
        let shared = Shared::new(machine);
        fill(&shared);
        let mut machine = shared.lock();
        (machine.lively, machine.trouble) = (true, trouble);
        drop(machine);
        World { shared, store: MemoryStore::default(), daemon: None, policy, faults, crashes, passing: Vec::new() }
    }

    fn run(&mut self) {
        let steps = self.shared.lock().random.within(150, 500);
        for step in 0.. {
            self.step();
            if self.broken() {
                return;
            }
            if step >= steps && self.is_eventful() {
                break;
            }
            if step == RESTLESS_STEPS {
                (self.crashes, self.shared.lock().trouble) = (1_000, 0);
            }
            if step >= MOST_STEPS {
                return self.shared.lock().violated(format!("nothing more happens in {step} steps"));
            }
        }
        self.come_to_rest();
        self.compare();
        if self.shared.lock().random.chance(1, 2) {
            self.shared.lock().flush();
        }
        self.shared.lock().end(End::PowerCut);
        self.buried();
        self.come_to_rest();
        self.compare();
        if !self.broken() && self.draw(4) {
            self.put_an_old_spare_back();
        }
    }

    /// A spare's image from before its last remap is refused.
    fn put_an_old_spare_back(&mut self) {
        let images: Vec<Vec<u8>> = {
            let mut machine = self.shared.lock();
            for drive in &mut machine.drives {
                let _ = drive.flush();
            }
            let image = |drive: &Drive| {
                let mut image = vec![0; drive.disk.sectors() as usize * SECTOR];
                drive.disk.read_medium(0, &mut image);
                image
            };
            machine.drives.iter().map(image).collect()
        };
        let before = self.daemon.as_ref().map(Daemon::remaps).unwrap_or_default();
        self.ask_where(|extent| before.iter().all(|remap| !remap.main.overlaps(extent)));
        self.come_to_rest();
        let after = self.daemon.as_ref().map(Daemon::remaps).unwrap_or_default();
        let Some(newer) = after.into_iter().find(|remap| !before.contains(remap)) else { return };
        self.daemon = None;
        self.store.crash(0);
        {
            let mut machine = self.shared.lock();
            machine.end(End::PowerCut);
            let index = usize::from(newer.spare) + 1;
            let mut drive = new_drive(machine.drives[index].disk.sectors(), machine.drives[index].disk.block_size(), false);
            drive.write(0, &images[index], Persist::Fua).expect("a new disk takes everything");
            machine.drives[index] = drive;
        }
        let started = Daemon::start(&self.shared, &self.store, self.policy.clone()).map(drop);
        let mut machine = self.shared.lock();
        match started {
            Err(reason) if reason.starts_with(OLDER) => machine.coverage.count("start", "→ older spare refused"),
            other => machine.violated(format!("S8: a spare from before the remap of main {} is taken: {other:?}", newer.main)),
        }
    }

    /// An operator asks for the first block that will do.
    fn ask_where(&mut self, will_do: impl Fn(&Extent) -> bool) {
        let mut machine = self.shared.lock();
        let (main, block) = (machine.shape.main, machine.desc.block());
        let blocks = (0..main / block.0).filter_map(|n| Extent::new(Sector(n * block.0), block).ok());
        let Some((extent, daemon)) = blocks.into_iter().find(will_do).zip(self.daemon.as_mut()) else { return };
        machine.asked.push(extent);
        daemon.ask(extent);
    }

    fn is_eventful(&self) -> bool {
        let machine = self.shared.lock();
        machine.events >= LEAST_EVENTS && machine.mapped.len() + machine.left.len() >= LEAST_REMAPS
    }

    fn broken(&self) -> bool {
        self.shared.lock().violation.is_some()
    }

    fn draw(&self, one_in: u64) -> bool {
        self.shared.lock().random.chance(1, one_in)
    }

    fn step(&mut self) {
        self.shared.lock().application();
        if self.draw(self.faults) {
            self.something_breaks();
        }
        if self.draw(3) {
            let mut machine = self.shared.lock();
            let ms = match machine.random.below(30) {
                0 => machine.random.within(2_000, 12_000),
                _ => machine.random.within(1, 300),
            };
            machine.pass(ms);
        }
        self.passing_faults();
        if self.draw(self.crashes) {
            let mut machine = self.shared.lock();
            let left = machine.random.below(24);
            let end = *machine.random.pick(&[End::Kill, End::PowerCut]);
            machine.crash.get_or_insert(Crash { left, end });
        }
        if self.daemon.is_none() && self.draw(6) {
            self.start();
        }
        if self.draw(30) {
            self.ask();
        }
        if self.draw(12) {
            self.ask_back();
        }
        let turns = self.shared.lock().random.below(8);
        for _ in 0..turns {
            let everyone = [
                Turn::Actuator,
                Turn::Actuator,
                Turn::Actuator,
                Turn::Store,
                Turn::Engine,
                Turn::Engine,
                Turn::Watcher,
                Turn::Tick,
            ];
            let who = *self.shared.lock().random.pick(&everyone);
            self.turn(who);
        }
    }

    fn turn(&mut self, who: Turn) {
        if let Some(daemon) = &mut self.daemon {
            daemon.turn(who);
        }
        self.buried();
    }

    /// Lets go of a daemon whose run is over.
    fn buried(&mut self) {
        let mut machine = self.shared.lock();
        if self.daemon.as_ref().is_some_and(|daemon| daemon.life != machine.life) {
            self.daemon = None;
            let lag = if machine.random.chance(1, 2) { machine.random.below(8) as usize } else { 0 };
            self.store.crash(lag);
        }
    }

    fn start(&mut self) {
        match Daemon::start(&self.shared, &self.store, self.policy.clone()) {
            Ok(daemon) => self.daemon = Some(daemon),
            Err(reason) => {
                let mut machine = self.shared.lock();
                machine.note(|| format!("not open: {reason}"));
                // Nobody has put an older one there. But where a slot does not read just now, it may hold the only copy of a change
                // whose second one the spare was too slow for: then the set waits for it.
                let unread = self.passing.iter().any(|(drive, ..)| *drive > 0);
                if reason.starts_with(OLDER) && !unread {
                    machine.violated(format!("the set is not opened: {reason}"));
                }
                machine.coverage.count("start", "→ failed");
            }
        }
        self.buried();
    }

    fn ask(&mut self) {
        let mut machine = self.shared.lock();
        let main = machine.shape.main;
        let start = machine.random.below(main);
        let len = machine.random.within(1, 20).min(main - start);
        let Ok(extent) = Extent::new(Sector(start), Sectors(len)) else { return };
        let Some(wide) = extent.align_outward(machine.desc.block()) else { return };
        if let Some(daemon) = &mut self.daemon {
            machine.note(|| format!("an operator asks for {extent}"));
            machine.asked.push(wide);
            daemon.ask(extent);
        }
    }

    fn ask_back(&mut self) {
        let mut machine = self.shared.lock();
        let count = machine.mapped.len() as u64;
        if count == 0 {
            return;
        }
        let index = machine.random.below(count) as usize;
        let extent = machine.mapped[index].main;
        if let Some(daemon) = &mut self.daemon {
            machine.note(|| format!("an operator asks for {extent} to go back"));
            daemon.ask_back(extent);
        }
    }

    fn something_breaks(&mut self) {
        let mut machine = self.shared.lock();
        let spares = machine.desc.spares.len() as u64;
        let drive = if machine.random.chance(2, 3) { 0 } else { machine.random.within(1, spares) as usize };
        // A disk that is bad all over is dead, and nothing happens any more.
        let bad = |drive: usize| machine.drives[drive].ever_bad.len() as u64 * 3;
        let used_up = |drive: usize| match drive {
            0 => bad(0) > machine.shape.main,
            spare => bad(spare) > machine.desc.geometry[spare - 1].data.len().0,
        };
        let Some(drive) = [drive, 0].into_iter().find(|drive| !used_up(*drive)) else { return };
        match machine.random.below(12) {
            0 => {
                let kind = *machine.random.pick(&[ErrorKind::Transport, ErrorKind::Timeout, ErrorKind::Gone]);
                let ms = machine.random.within(1, 8_000);
                machine.storm(drive, kind, ms);
            }
            1 | 2 if drive > 0 => {
                let geometry = machine.desc.geometry[drive - 1];
                let slot = machine.random.below(u64::from(geometry.table_blocks.min(2)) + 1);
                let slot = slot % u64::from(geometry.table_blocks);
                let which = machine.random.below(2) * u64::from(geometry.table_blocks);
                let at = geometry.table_start.0 + (slot + which) * 8;
                // What does not read may read again, and say what nobody has seen.
                let dead = machine.random.chance(1, 3);
                machine.spoil(drive, if dead { Fault::dead(at..at + 8) } else { Fault::unwritable(at..at + 8) });
                let until = machine.now + machine.random.within(1, 12_000);
                drop(machine);
                self.passing.push((drive, at, until));
            }
            _ => {
                let fault = draw_fault(&mut machine, drive);
                machine.spoil(drive, fault);
            }
        }
    }

    fn passing_faults(&mut self) {
        let mut machine = self.shared.lock();
        let now = machine.now;
        self.passing.retain(|&(drive, at, until)| {
            if until <= now {
                machine.drives[drive].disk.repair(at..at + 8);
            }
            until > now
        });
    }

    /// No more troubles; the daemon gets all the time it needs.
    fn come_to_rest(&mut self) {
        {
            let mut machine = self.shared.lock();
            (machine.trouble, machine.crash, machine.lively) = (0, None, false);
            machine.drives.iter_mut().for_each(|drive| drive.storm = None);
            machine.pass(1);
            for (drive, at, _) in self.passing.drain(..) {
                machine.drives[drive].disk.repair(at..at + 8);
            }
            machine.doing = "rest";
        }
        for round in 0..300 {
            if self.daemon.is_none() {
                self.start();
            }
            if self.broken() {
                return;
            }
            for who in [Turn::Watcher, Turn::Tick] {
                self.turn(who);
            }
            for _ in 0..60 {
                [Turn::Engine, Turn::Actuator, Turn::Store].into_iter().for_each(|who| self.turn(who));
                if self.daemon.as_ref().is_none_or(|daemon| !daemon.is_busy()) {
                    break;
                }
            }
            self.shared.lock().pass(500);
            if round > 60 && self.daemon.as_ref().is_some_and(Daemon::is_idle) {
                break;
            }
        }
        self.at_rest();
    }

    /// S9: nothing waits for ever, nothing stays fenced.
    fn at_rest(&self) {
        let mut machine = self.shared.lock();
        let Some(daemon) = &self.daemon else { return machine.violated("the set cannot be opened any more".into()) };
        if !daemon.is_idle() {
            return machine.violated("S9: a case never ends".into());
        }
        let kernel = machine.kernel.as_ref().map(|kernel| (kernel.pending(), kernel.fence_states().count()));
        let pending = machine.oracle.pending();
        if kernel != Some((0, 0)) || pending != 0 {
            return machine.violated(format!("S9: requests and fences are left: {kernel:?}, {pending} not ended"));
        }
        let key = |remap: &crate::model::Remap| (remap.main, remap.spare, remap.at, remap.flags.marked);
        let live = machine.kernel.as_ref().map(|kernel| kernel.table.values().map(key).collect::<Vec<_>>());
        let known: Vec<_> = daemon.remaps().iter().map(key).collect();
        let recorded = machine.recorded().map(|all| all.iter().map(key).collect::<Vec<_>>());
        if live.as_ref() != Some(&known) || recorded.as_ref() != Ok(&known) {
            machine.violated(format!("kernel, engine and spares disagree: {live:?}, {known:?}, {recorded:?}"));
        }
    }

    /// Reads every block of main.
    fn compare(&mut self) {
        let mut machine = self.shared.lock();
        machine.doing = "compare";
        // Nobody is there to answer a read that waits.
        machine.with_kernel(|kernel, _| kernel.hold_reads = false);
        let (logical, main) = (machine.shape.logical, machine.shape.main);
        for start in (0..main).step_by(logical as usize) {
            machine.read(start, logical);
            if machine.violation.is_some() {
                return;
            }
        }
        if machine.oracle.pending() != 0 {
            machine.violated("S9: reads wait at rest".into());
        }
    }
}
