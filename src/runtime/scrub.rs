//! Scrubs: every sector of a set is read where it is served, slowly and while no application reads or writes, so that a bad one is
//! known before somebody needs it. What is found goes to the engine, which decides.

use super::actuator::Trial;
use super::critical::Critical;
use super::daemon::{Daemon, Input, now};
use super::priority::Priority;
use super::scrub_record::ScrubRecord;
use super::storekeeper::Storekeeper;
use super::trials::{self, Break};
use crate::actuate::activate;
use crate::control::{Reason, ScrubOrder, ScrubReport};
use crate::engine::{Event, Part};
use crate::model::{Finder, ScrubProgress, ScrubState, ScrubSummary, Sector, Sectors, SetId, SetName};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Read at once, sectors: 1 MiB.
const CHUNK: Sectors = Sectors(2048);
/// How long an application that is at work is given the disk, before the next chunk is read all the same: it is to end some day.
const MOST_POLITE: Duration = Duration::from_millis(400);
/// How often it is looked whether applications are still at work.
const LOOK: Duration = Duration::from_millis(100);
/// When a disk that did not answer is asked again.
const AWAY: Duration = Duration::from_secs(10);
/// How often it is written down how far a scrub is.
const KEEP: Duration = Duration::from_secs(10);

/// A set's scrub.
pub struct Scrub {
    progress: Arc<Mutex<ScrubProgress>>,
    stop: Arc<AtomicBool>,
}

impl Scrub {
    fn new(progress: ScrubProgress) -> Scrub {
        Scrub { progress: Arc::new(Mutex::new(progress)), stop: Arc::default() }
    }

    /// How far it is.
    pub fn progress(&self) -> ScrubProgress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Daemon {
    /// Begins, stops or tells of a scrub.
    pub(super) fn scrub(&mut self, name: &SetName, order: ScrubOrder) -> Result<ScrubReport, Reason> {
        let Some((&set, serving)) = self.serving.iter().find(|(_, serving)| serving.desc.name == *name) else {
            return Err(Reason::new(format!("there is no open set “{name}”"), "see the known ones: remap-guardian status"));
        };
        let total = serving.desc.main.sectors;
        let known = self.scrubs.get(&set).map(Scrub::progress);
        match (order, known) {
            (ScrubOrder::Look, known) => return Ok(ScrubReport { scrub: known }),
            (ScrubOrder::Begin, Some(progress)) if progress.is_under_way() => {}
            (ScrubOrder::Begin, Some(progress)) if progress.state == ScrubState::Stopped => {
                self.start_scrub(set, ScrubProgress { state: ScrubState::Running, ..progress });
            }
            (ScrubOrder::Begin | ScrubOrder::Anew, _) => {
                self.start_scrub(set, ScrubProgress { total, began: now(), ..ScrubProgress::default() });
            }
            (ScrubOrder::Stop, _) => self.stop_scrub(set),
        }
        Ok(ScrubReport { scrub: self.scrubs.get(&set).map(Scrub::progress) })
    }

    /// Begins a scrub from the first sector.
    pub(super) fn scrub_unless_under_way(&mut self, set: SetId) {
        let Some(total) = self.serving.get(&set).map(|serving| serving.desc.main.sectors) else { return };
        if self.scrubs.get(&set).is_none_or(|scrub| !scrub.progress().is_under_way()) {
            self.start_scrub(set, ScrubProgress { total, began: now(), ..ScrubProgress::default() });
        }
    }

    /// Goes on with a scrub that was under way when the set was closed or the daemon ended.
    pub(super) fn resume_scrub(&mut self, set: SetId) {
        match self.scrubs.get(&set).map(Scrub::progress) {
            Some(progress) if progress.is_under_way() => self.start_scrub(set, progress),
            Some(_) => {}
            None => {
                let (record, out) = (ScrubRecord::new(&self.settings.state_dir), self.out.clone());
                self.store.queue(move |_| {
                    if let Some(progress) = record.load(set) {
                        drop(out.send(Input::ScrubKnown { set, progress }));
                    }
                });
            }
        }
    }

    pub(super) fn scrub_known(&mut self, set: SetId, progress: ScrubProgress) {
        if self.scrubs.contains_key(&set) {
            return;
        }
        if progress.is_under_way() {
            self.start_scrub(set, progress);
        } else {
            self.scrubs.insert(set, Scrub::new(progress));
        }
    }

    fn stop_scrub(&mut self, set: SetId) {
        let Some(scrub) = self.scrubs.get(&set) else { return };
        scrub.stop.store(true, Ordering::Release);
        let stopped = {
            let mut progress = scrub.progress.lock().unwrap_or_else(PoisonError::into_inner);
            if !progress.is_under_way() {
                return;
            }
            progress.state = ScrubState::Stopped;
            progress.clone()
        };
        self.critical.event(Event::Scrubbed { set, summary: summary(&stopped, true) });
        keep(&self.store, &ScrubRecord::new(&self.settings.state_dir), set, stopped);
    }

    fn start_scrub(&mut self, set: SetId, progress: ScrubProgress) {
        let Some(serving) = self.serving.get(&set) else { return };
        if let Some(old) = self.scrubs.get(&set) {
            old.stop.store(true, Ordering::Release);
        }
        let scrub = Scrub::new(ScrubProgress { state: ScrubState::Running, ..progress });
        let worker = Worker {
            set,
            progress: scrub.progress.clone(),
            stop: scrub.stop.clone(),
            critical: self.critical.clone(),
            trials: serving.trials.clone(),
            store: self.store.clone(),
            record: ScrubRecord::new(&self.settings.state_dir),
            applications: Applications::default(),
            priority: Priority::Idle,
        };
        keep(&self.store, &worker.record, set, scrub.progress());
        self.scrubs.insert(set, scrub);
        tokio::spawn(worker.run());
    }
}

fn summary(progress: &ScrubProgress, stopped: bool) -> ScrubSummary {
    let took_ms = now().0.saturating_sub(progress.began.0);
    ScrubSummary { read: Sectors(progress.next.0), bad_blocks: progress.bad_blocks, took_ms, stopped }
}

fn keep(store: &Storekeeper, record: &ScrubRecord, set: SetId, progress: ScrubProgress) {
    let record = record.clone();
    store.queue(move |_| {
        if let Err(error) = record.keep(set, &progress) {
            tracing::warn!(%error, "how far the scrub is cannot be written down: after a restart it goes on from an earlier place");
        }
    });
}

/// Reads one set.
struct Worker {
    set: SetId,
    progress: Arc<Mutex<ScrubProgress>>,
    stop: Arc<AtomicBool>,
    critical: Critical,
    trials: mpsc::Sender<Trial>,
    store: Storekeeper,
    record: ScrubRecord,
    applications: Applications,
    /// Of the next chunk.
    priority: Priority,
}

/// What is to be read, and how fast.
struct Work {
    parts: Vec<Part>,
    block: Sectors,
    mib_per_second: u64,
}

impl Worker {
    async fn run(mut self) {
        let mut kept = Instant::now();
        let set = self.set;
        let device = tokio::task::spawn_blocking(move || activate::find_active(set));
        if let Ok(Ok(Some(active))) = device.await {
            self.applications.stat = Some(PathBuf::from(format!("/sys/dev/block/{}:{}/stat", active.devno.0, active.devno.1)));
        }
        while !self.stop.load(Ordering::Acquire) {
            let began = Instant::now();
            let Some(work) = self.work().await else { return self.wait_for("the set is closed".into()) };
            let Some(last) = work.parts.last() else { return self.done() };
            let (until, read) = (last.main.end(), work.parts.iter().map(|part| part.main.len().bytes()).sum::<u64>());
            match self.read(&work).await {
                Ok(bad) => self.reached(until, &bad, work.block),
                Err(Break::Closed) => return self.wait_for("the set is closed".into()),
                Err(Break::Away(why)) => {
                    self.wait_for(why);
                    tokio::time::sleep(AWAY).await;
                    continue;
                }
            }
            if kept.elapsed() > KEEP {
                kept = Instant::now();
                keep(&self.store, &self.record, self.set, self.progress());
            }
            let due = Duration::from_micros(read / work.mib_per_second.max(1)).saturating_sub(began.elapsed());
            tokio::time::sleep(due).await;
            self.priority = if self.applications.let_go_first().await { Priority::Idle } else { Priority::Normal };
        }
    }

    fn progress(&self) -> ScrubProgress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes how far it is, unless it was stopped or begun anew meanwhile.
    fn change(&self, change: impl FnOnce(&mut ScrubProgress)) -> bool {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = !self.stop.load(Ordering::Acquire);
        if goes_on {
            change(&mut progress);
        }
        goes_on
    }

    /// None if the set is closed.
    async fn work(&self) -> Option<Work> {
        let (set, from) = (self.set, self.progress().next);
        let work = self.critical.ask(move |engine| {
            engine.set(set).map(|state| Work {
                parts: state.scrub_parts(from, CHUNK),
                block: state.block(),
                mib_per_second: state.scrub_rate(),
            })
        });
        work.await.ok().flatten()
    }

    /// The blocks that do not read, neighbours joined.
    async fn read(&self, work: &Work) -> Result<Vec<Part>, Break> {
        let mut bad: Vec<Part> = Vec::new();
        for part in &work.parts {
            let found = trials::bad_blocks(&self.trials, part, work.block, self.priority).await?;
            found.into_iter().for_each(|part| trials::add(&mut bad, part));
        }
        Ok(bad)
    }

    fn reached(&self, until: Sector, bad: &[Part], block: Sectors) {
        let blocks = trials::count(bad, block);
        let goes_on = self.change(|progress| {
            progress.next = until;
            progress.bad_blocks += blocks;
            progress.state = ScrubState::Running;
        });
        if goes_on {
            for &part in bad {
                self.critical.event(Event::Found { set: self.set, part, by: Finder::Scrub });
            }
        }
    }

    fn wait_for(&self, why: String) {
        self.change(|progress| progress.state = ScrubState::Waiting(why));
        keep(&self.store, &self.record, self.set, self.progress());
    }

    fn done(&self) {
        if self.change(|progress| progress.state = ScrubState::Done) {
            let progress = self.progress();
            self.critical.event(Event::Scrubbed { set: self.set, summary: summary(&progress, false) });
            keep(&self.store, &self.record, self.set, progress);
        }
    }
}

/// What applications do with the device. The scrub itself reads the disks below it and does not count.
#[derive(Default)]
struct Applications {
    /// The kernel's counters of the device.
    stat: Option<PathBuf>,
    seen: Option<Counts>,
}

/// Reads and writes that are done, and those under way.
type Counts = (u64, u64);

impl Applications {
    /// False if they are still at work after some time. A read that only fills pauses would then wait for long, and keep what others
    /// want of the prober waiting.
    async fn let_go_first(&mut self) -> bool {
        let began = Instant::now();
        while self.are_at_work() {
            if began.elapsed() >= MOST_POLITE {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    fn are_at_work(&mut self) -> bool {
        let counts = self.stat.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).and_then(|text| counts(&text));
        let before = std::mem::replace(&mut self.seen, counts);
        matches!((before, counts), (Some((before, _)), Some((done, under_way))) if done != before || under_way > 0)
    }
}

/// From `/sys/block/<dev>/stat` (Documentation/block/stat.rst).
fn counts(text: &str) -> Option<Counts> {
    let numbers: Vec<u64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
    Some((numbers.first()?.wrapping_add(*numbers.get(4)?), *numbers.get(8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_applications_do_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let stat = dir.path().join("stat");
        let mut applications = Applications { stat: Some(stat.clone()), seen: None };
        let mut look = |text: &str| {
            std::fs::write(&stat, text).unwrap();
            applications.are_at_work()
        };
        let (idle, read, waits) =
            ("5 0 40 1 7 0 56 2 0 3 3 0 0 0 0 0 0\n", "6 0 48 1 7 0 56 2 0 3 3\n", "6 0 48 1 7 0 56 2 1 3 3\n");
        assert_eq!([idle, idle, read, read, waits, ""].map(&mut look), [false, false, true, false, true, false]);
    }
}
