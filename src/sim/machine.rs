//! The simulated machine: disks, kernel, applications, the clock, and whatever is about to go wrong.
//!
//! Everything that the daemon does to the world passes [`Shared::act`]: there it may fail, end with an unknown outcome, or be
//! cut short by the end of the daemon or of the power, and there applications get their turns.

use super::content;
use super::coverage::Coverage;
use super::disk::{ErrorKind, Fault, SECTOR};
use super::drive::Drive;
use super::kernel::{Kernel, Request, Shape};
use super::oracle::{Oracle, Sent};
use super::random::Random;
use crate::edge::FenceId;
use crate::model::{Extent, Remap, Sector, SetDescription};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Lines of the log that a failure shows.
const LOG_LINES: usize = 200;

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Kill,
    PowerCut,
}

/// A planned end: after so many more actions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    pub left: u64,
    pub end: End,
}

/// What happens to one action of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is done.
    Done,
    /// It fails, nothing is changed.
    Fails,
    /// It is done, and an error is reported.
    Unknown,
    /// Half of it is done, and an error is reported.
    Half,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub desc: SetDescription,
    pub shape: Shape,
    pub now: u64,
    pub drives: Vec<Drive>,
    pub kernel: Option<Kernel>,
    pub oracle: Oracle,
    pub random: Random,
    pub coverage: Coverage,
    pub crash: Option<Crash>,
    /// One in so many actions of the daemon fails; 0 for none.
    pub trouble: u64,
    /// Number of the daemon's current run: handles of earlier ones do nothing.
    pub life: u64,
    /// What the daemon is doing.
    pub doing: &'static str,
    /// What an operator asked to have moved.
    pub asked: Vec<Extent>,
    /// Remaps that were ever live: they must stay so, or be replaced.
    pub mapped: Vec<Remap>,
    /// Remaps whose content was copied to main, and the fence that has kept writes away since.
    pub back: Vec<(Remap, FenceId)>,
    /// Of these the ones whose record may go, as the fence is sealed.
    pub may_go: Vec<Remap>,
    /// Those that were replaced.
    pub left: Vec<Remap>,
    /// Events that engines took.
    pub events: u64,
    pub violation: Option<String>,
    /// Applications get turns between the daemon's actions.
    pub lively: bool,
    log: VecDeque<String>,
}

impl Machine {
    /// Of what is rarely done, more is to be interrupted than chance would.
    pub fn end_soon(&mut self) {
        if self.lively && self.random.chance(1, 8) {
            let left = self.random.below(2);
            let end = *self.random.pick(&[End::Kill, End::PowerCut]);
            self.crash.get_or_insert(Crash { left, end });
        }
    }

    pub fn new(desc: SetDescription, shape: Shape, drives: Vec<Drive>, random: Random) -> Machine {
        let oracle = Oracle::new(shape.main);
        Machine {
            desc,
            shape,
            now: 1_000,
            drives,
            kernel: None,
            oracle,
            random,
            coverage: Coverage::default(),
            crash: None,
            trouble: 0,
            life: 1,
            doing: "nothing",
            asked: Vec::new(),
            mapped: Vec::new(),
            back: Vec::new(),
            may_go: Vec::new(),
            left: Vec::new(),
            events: 0,
            violation: None,
            lively: true,
            log: VecDeque::new(),
        }
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        let line = format!("{:>8} {:<9} {}", self.now, self.doing, line());
        self.log.push_back(line);
        if self.log.len() > LOG_LINES {
            self.log.pop_front();
        }
    }

    pub fn log(&self) -> Vec<String> {
        self.log.iter().cloned().collect()
    }

    /// Remembers the first violation.
    pub fn violated(&mut self, what: String) {
        self.note(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// Uses the kernel, then tells the oracle what has ended.
    pub fn with_kernel<T>(&mut self, use_it: impl FnOnce(&mut Kernel, &mut [Drive]) -> T) -> Option<T> {
        let kernel = self.kernel.as_mut()?;
        let answer = use_it(kernel, &mut self.drives);
        self.judge();
        Some(answer)
    }

    fn judge(&mut self) {
        let ends = self.kernel.as_mut().map(|kernel| std::mem::take(&mut kernel.done)).unwrap_or_default();
        for end in ends {
            self.judge_one(end);
        }
    }

    pub fn judge_one(&mut self, end: super::kernel::Completion) {
        let text = format!("request {} ended: {:?}", end.id, end.result.as_ref().map(Vec::len));
        self.note(|| text);
        let (drives, mapped) = (&self.drives, &self.mapped);
        let table = self.kernel.iter().flat_map(|kernel| kernel.table.values()).chain(mapped);
        let serving = |sector| table.clone().find(|remap| remap.main.contains(Sector(sector)));
        let faulty = |drive: usize, sector: u64| drives[drive].disk.is_faulty(sector..sector + 1, false);
        let main = |sector| faulty(0, sector);
        let there = |sector| match serving(sector) {
            Some(remap) => faulty(usize::from(remap.spare) + 1, remap.at.0 + (sector - remap.main.start().0)),
            None => main(sector),
        };
        if let Err(what) = self.oracle.ended(end, there, main) {
            self.violated(what);
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        self.now += ms;
        let now = self.now;
        self.drives.iter_mut().for_each(|drive| drive.calm(now));
        self.with_kernel(|kernel, drives| kernel.pass_time(drives, now));
    }

    /// An application does something.
    pub fn application(&mut self) {
        if self.kernel.is_none() {
            return;
        }
        let logical = self.shape.logical;
        let most = (64 / logical).min(self.shape.main / logical);
        let len = if self.random.chance(1, 3) { self.random.within(1, most) } else { self.random.within(1, 8.min(most)) };
        let start = self.somewhere((self.shape.main / logical) - len + 1) * logical;
        let len = len * logical;
        match self.random.below(10) {
            0..=4 if !self.oracle.busy(start, len, true) => {
                let fua = self.random.chance(1, 8);
                self.write(start, len, fua);
            }
            5..=8 => self.read(start, len),
            _ => self.flush(),
        }
    }

    /// A number below `end`, more often one near the start or the end.
    fn somewhere(&mut self, end: u64) -> u64 {
        match self.random.below(8) {
            0 => end - 1 - self.random.below(end.min(8)),
            1..=5 => self.random.below(end.min(48)),
            _ => self.random.below(end),
        }
    }

    fn write(&mut self, start: u64, len: u64, fua: bool) {
        let version = self.oracle.version();
        let data = content::range(start, len, version);
        self.note(|| format!("application writes {start}+{len} as write {version}{}", if fua { ", forced" } else { "" }));
        self.send(Request::Write { start, data, fua }, Sent::Write { start, len, version, fua });
    }

    pub fn read(&mut self, start: u64, len: u64) {
        self.note(|| format!("application reads {start}+{len}"));
        self.send(Request::Read { start, len }, Sent::Read { start, len });
    }

    pub fn flush(&mut self) {
        self.note(|| "application flushes".into());
        self.send(Request::Flush, Sent::Flush);
    }

    fn send(&mut self, request: Request, sent: Sent) {
        let now = self.now;
        let Some(kernel) = self.kernel.as_mut() else { return };
        kernel.now = now;
        // The oracle has to know of a write before the disk does.
        self.oracle.sent(kernel.next_id(), sent);
        kernel.submit(&mut self.drives, request);
        self.judge();
        self.oracle.waits();
    }

    /// A disk gets worse.
    pub fn spoil(&mut self, drive: usize, fault: Fault) {
        self.note(|| format!("drive {drive} gets {:?} at {:?}", fault.kind, fault.sectors));
        let sectors = fault.sectors.clone();
        self.drives[drive].spoil(fault);
        if drive == 0 && self.drives[0].disk.is_faulty(sectors.clone(), false) {
            let bad = sectors.filter(|sector| !maps(&self.mapped, *sector)).collect();
            self.unreadable(bad);
        }
        if drive > 0 {
            let served = self.mapped.iter().filter(|remap| usize::from(remap.spare) + 1 == drive).copied();
            served.collect::<Vec<_>>().iter().for_each(|remap| self.spare_unreadable(remap));
        }
    }

    /// What a spare does not give back of a remap is lost if it moves.
    pub fn spare_unreadable(&mut self, remap: &Remap) {
        let disk = &self.drives[usize::from(remap.spare) + 1].disk;
        let (main, at) = (remap.main.start().0, remap.at.0);
        let bad = (0..remap.main.len().0).filter(|offset| disk.is_faulty(at + offset..at + offset + 1, false));
        let bad = bad.map(|offset| main + offset).collect();
        self.unreadable(bad);
    }

    /// A flush of the daemon's may have lost these sectors of a drive, unless a storm kept it from the drive.
    pub fn cache_lost(&mut self, drive: usize, lost: &[u64]) {
        let disk = &self.drives[drive].disk;
        let gone = lost.iter().filter(|&&sector| !disk.is_cached(sector..sector + 1));
        let served = |at: &u64| {
            if drive == 0 {
                return (!maps(&self.mapped, *at)).then_some(*at);
            }
            let serves = |remap: &&Remap| usize::from(remap.spare) + 1 == drive && remap.spare_extent().contains(Sector(*at));
            self.mapped.iter().find(serves).map(|remap| remap.main.start().0 + (at - remap.at.0))
        };
        let served: Vec<u64> = gone.filter_map(served).collect();
        if !served.is_empty() {
            self.coverage.count(if drive == 0 { "main" } else { "spare" }, "told the daemon what it lost");
        }
        self.oracle.cache_lost(served.into_iter(), self.kernel.is_some());
    }

    pub fn unreadable(&mut self, sectors: Vec<u64>) {
        if let Some(kernel) = &self.kernel {
            sectors.iter().for_each(|&sector| self.oracle.taken_back(sector, kernel.forced(sector)));
        }
        self.oracle.unreadable(sectors.into_iter());
    }

    pub fn storm(&mut self, drive: usize, kind: ErrorKind, ms: u64) {
        self.note(|| format!("drive {drive} gives {kind:?} for {ms} ms"));
        self.drives[drive].storm = Some((kind, self.now + ms));
    }

    /// The daemon ends here, with or without the machine.
    pub fn end(&mut self, end: End) {
        self.note(|| format!("{end:?}"));
        let how = if end == End::Kill { "killed" } else { "power cut" };
        self.coverage.count(self.doing, how);
        self.life += 1;
        self.crash = None;
        if end == End::PowerCut {
            self.kernel = None;
            self.back.clear();
            for index in 0..self.drives.len() {
                let seed = self.random.next();
                self.drives[index].disk.power_cut(seed);
                self.drives[index].storm = None;
            }
            self.oracle.power_cut();
        }
    }

    /// Draws what becomes of an action.
    fn fate(&mut self, can_be_half: bool) -> Fate {
        if self.trouble == 0 || !self.random.chance(1, self.trouble) {
            return Fate::Done;
        }
        let fate = match self.random.below(3) {
            0 => Fate::Fails,
            1 if can_be_half => Fate::Half,
            _ => Fate::Unknown,
        };
        self.note(|| format!("the next action: {fate:?}"));
        self.coverage.count(self.doing, if fate == Fate::Fails { "failed" } else { "unknown" });
        fate
    }

    /// After an action others have a turn.
    fn turns(&mut self) {
        if !self.lively {
            return;
        }
        if self.random.chance(1, 6) {
            self.application();
        }
        if self.random.chance(1, 10) {
            let ms = if self.random.chance(1, 20) { self.random.within(1_000, 9_000) } else { self.random.within(1, 40) };
            self.pass(ms);
        }
    }
}

/// Whether one of `remaps` covers a main sector.
pub(super) fn maps(remaps: &[Remap], sector: u64) -> bool {
    remaps.iter().any(|remap| remap.main.contains(Sector(sector)))
}

/// A handle to the machine.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<Machine>>);

impl Shared {
    pub fn new(machine: Machine) -> Shared {
        Shared(Arc::new(Mutex::new(machine)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One action of the daemon's run `life`. `None` if that run is over, or ends before or in the middle of it.
    pub fn act<T>(&self, life: u64, can_be_half: bool, action: impl FnOnce(&mut Machine, Fate) -> T) -> Option<T> {
        let mut machine = self.lock();
        if machine.life != life {
            return None;
        }
        let now = match &mut machine.crash {
            Some(crash) if crash.left == 0 => Some(crash.end),
            Some(crash) => {
                crash.left -= 1;
                None
            }
            None => None,
        };
        if let Some(end) = now {
            match machine.random.below(3) {
                0 => {}
                1 if can_be_half => drop(action(&mut machine, Fate::Half)),
                _ => drop(action(&mut machine, Fate::Done)),
            }
            machine.end(end);
            return None;
        }
        let fate = machine.fate(can_be_half);
        let answer = action(&mut machine, fate);
        machine.turns();
        Some(answer)
    }
}

/// Sectors of a buffer.
pub(super) fn sectors(bytes: &[u8]) -> u64 {
    (bytes.len() / SECTOR) as u64
}
