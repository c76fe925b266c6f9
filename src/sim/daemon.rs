//! The daemon as `runtime` puts it together, without threads: the same parts, the same queues, but who goes next is drawn.

use super::block::SimIo;
use super::kernel::Kernel;
use super::machine::{Fate, Shared};
use super::store::MemoryStore;
use super::target::SimTarget;
use crate::actuate::announced::{Announced, Listener, number};
use crate::actuate::probe::{Prober, Verified};
use crate::actuate::reconcile::Truth;
use crate::actuate::steps::{Actuator, OpenSpare};
use crate::actuate::{Care, older, read_header, reconcile};
use crate::edge::BlockIo;
use crate::edge::{ExtentState, Store, Target};
use crate::engine::{CALLED_OFF, CaseId, Effect, Engine, Event, Outcome, Step};
use crate::model::{Action, Decision, Entry, Extent, Member, Millis, Remap, Sectors, SetId, What};
use crate::policy::Policy;
use std::collections::VecDeque;

/// How the reason begins why a set with an older spare is not opened.
pub(super) const OLDER: &str = "a spare is older: ";

/// How long a lease lasts, ms.
const LEASE_MS: u64 = 5_000;

/// For the actuator's thread.
enum Work {
    Step(CaseId, Step),
    Verify(u64, u16, Vec<Extent>),
    Retry(Extent),
    ReleaseReads(Extent),
    Probe(CaseId, Extent),
    Return(CaseId, Remap),
    Tend(u16),
}

/// For the store's thread.
enum Job {
    Rebuild(Vec<Remap>),
    Reserve(u64, u16, Sectors),
    Mark(u16, Extent, ExtentState),
    Verified(u64, u16, Verified),
    Append(Box<crate::model::Entry>),
    Announce(CaseId, Remap),
}

/// Who goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Actuator,
    Store,
    Engine,
    Watcher,
    Tick,
}

pub(super) struct Daemon {
    pub life: u64,
    shared: Shared,
    store: MemoryStore,
    set: SetId,
    block: Sectors,
    engine: Engine,
    actuator: Actuator,
    prober: Prober,
    watcher: SimTarget,
    since: u64,
    work: VecDeque<Work>,
    jobs: VecDeque<Job>,
    inbox: VecDeque<Event>,
}

impl Daemon {
    /// Opens the set, or takes over its device.
    pub fn start(shared: &Shared, store: &MemoryStore, policy: Policy) -> Result<Daemon, String> {
        let (life, desc) = {
            let mut machine = shared.lock();
            machine.doing = "start";
            (machine.life, machine.desc.clone())
        };
        let fresh = shared.lock().kernel.is_none();
        let listener = Listener::default();
        let owned = if fresh { None } else { Some(SimTarget::own(shared, life).map_err(|fault| fault.to_string())?) };
        if let Some(target) = &owned {
            listener.hear(Box::new(target.clone()));
        }
        let announced =
            |drive: usize, handle: u8| Announced::new(SimIo::open(shared, life, drive), &listener, number(drive as u8, handle));
        let mut spares: Vec<reconcile::NamedIo> = Vec::new();
        for index in 0..desc.spares.len() {
            let io = SimIo::open(shared, life, index + 1);
            let found = read_header(&io).map_err(|error| error.to_string())?.header;
            if (&found.set, usize::from(found.spare)) != (&desc, index) {
                return Err("the header is another's".into());
            }
            spares.push((format!("spare{index}"), Box::new(announced(index + 1, 0))));
        }
        let (mut open, remaps) = reconcile::open_tables(&desc, spares)?;
        let older = older::find(store, &desc, 0..desc.spares.len() as u16, &remaps).map_err(|error| error.to_string())?;
        if !older.is_empty() {
            return Err(format!("{OLDER}{older}"));
        }
        if fresh {
            create(shared, life)?;
        }
        let taken = take_over(shared, life, &desc, &mut open, &remaps, owned);
        if fresh && taken.is_err() {
            remove(shared, life);
        }
        let (target, since, care) = taken?;
        listener.hear(Box::new(target.clone()));
        let main = Box::new(SimIo::open(shared, life, 0));
        let count = desc.spares.len();
        let own = (0..count).map(|index| Box::new(announced(index + 1, 1)) as Box<dyn BlockIo>).collect();
        let prober = Prober::new(&desc, Box::new(target.clone()), Box::new(announced(0, 0)), own, care.whole_tables());
        let actuator = Actuator::new(&desc, Box::new(target.clone()), main, open, care);
        let mut daemon = Daemon {
            life,
            shared: shared.clone(),
            store: store.clone(),
            set: desc.id,
            block: desc.block(),
            engine: Engine::new(),
            actuator,
            prober,
            watcher: target,
            since,
            work: VecDeque::new(),
            jobs: VecDeque::from([Job::Rebuild(remaps.clone())]),
            inbox: VecDeque::new(),
        };
        let capacity = desc.geometry.iter().map(|geometry| geometry.data.len()).collect();
        daemon.inbox.push_back(Event::Opened { set: Box::new(desc), remaps, capacity, policy: Box::new(policy) });
        Ok(daemon)
    }

    /// An operator asks for a range to move.
    pub fn ask(&mut self, extent: Extent) {
        self.inbox.push_back(Event::Asked { set: self.set, extent });
    }

    /// An operator asks for a range to go back.
    pub fn ask_back(&mut self, extent: Extent) {
        self.inbox.push_back(Event::AskedBack { set: self.set, extent });
    }

    /// Whether anything is queued.
    pub fn is_busy(&self) -> bool {
        !(self.work.is_empty() && self.jobs.is_empty() && self.inbox.is_empty())
    }

    /// Whether nothing is queued and no case is open.
    pub fn is_idle(&self) -> bool {
        !self.is_busy() && self.engine.set(self.set).is_some_and(|set| set.status(Millis(0)).cases.is_empty())
    }

    /// The remaps that the engine knows.
    pub fn remaps(&self) -> Vec<Remap> {
        self.engine.set(self.set).map(|set| set.remaps().copied().collect()).unwrap_or_default()
    }

    pub fn turn(&mut self, who: Turn) {
        match who {
            Turn::Actuator => self.actuate(),
            Turn::Store => self.keep(),
            Turn::Engine => {
                if let Some(event) = self.inbox.pop_front() {
                    self.apply(event);
                }
            }
            Turn::Watcher => self.watch(),
            Turn::Tick => self.apply(Event::Tick),
        }
    }

    fn doing(&self, what: &'static str) {
        self.shared.lock().doing = what;
    }

    fn actuate(&mut self) {
        match self.work.pop_front() {
            None => {}
            Some(Work::Step(case, step)) => {
                let name = step_name(&step);
                self.doing(name);
                if matches!(step, Step::Settle(_)) {
                    self.shared.lock().end_soon();
                }
                let outcome = self.actuator.run(&step);
                let mut machine = self.shared.lock();
                if machine.life == self.life {
                    machine.coverage.count(name, outcome_name(&outcome));
                    machine.note(|| format!("{step:?} ends with {outcome:?}"));
                    self.inbox.push_back(Event::Done { set: self.set, case, outcome });
                }
            }
            Some(Work::Verify(session, spare, extents)) => {
                self.doing("verify");
                let verified = self.prober.verify(spare, extents);
                self.jobs.push_back(Job::Verified(session, spare, verified));
            }
            Some(Work::Probe(case, extent)) => {
                self.doing("probe");
                let outcome = self.prober.probe(extent);
                self.inbox.push_back(Event::Done { set: self.set, case, outcome });
            }
            Some(Work::Return(case, remap)) => {
                self.doing("return");
                let outcome = self.prober.bring_back(&remap);
                let mut machine = self.shared.lock();
                if machine.life == self.life {
                    machine.coverage.count("return", outcome_name(&outcome));
                    if let Outcome::BroughtBack(fence) = outcome {
                        machine.back.push((remap, fence));
                    }
                    machine.note(|| format!("the return of {} ends with {outcome:?}", remap.main));
                    self.inbox.push_back(Event::Done { set: self.set, case, outcome });
                }
            }
            Some(Work::Retry(extent)) => {
                self.doing("retry");
                self.shared.lock().end_soon();
                drop(self.actuator.retry(extent));
            }
            Some(Work::ReleaseReads(extent)) => {
                self.doing("release");
                self.shared.lock().end_soon();
                drop(self.actuator.release_reads(extent));
            }
            Some(Work::Tend(spare)) => {
                self.doing("tend");
                let (tended, news) = self.actuator.tend(spare);
                self.inbox.push_back(Event::Tended { set: self.set, spare: Some((spare, tended)), news });
            }
        }
    }

    fn keep(&mut self) {
        let set = self.set;
        match self.jobs.pop_front() {
            None => {}
            Some(Job::Rebuild(remaps)) => {
                let geometry = self.shared.lock().desc.geometry.clone();
                for (spare, geometry) in (0u16..).zip(geometry) {
                    if let Err(error) = self.store.rebuild(set, spare, geometry.data, &remaps) {
                        self.shared.lock().violated(format!("the allocator cannot follow the table: {error}"));
                    }
                }
                self.has_gone_back(&remaps);
            }
            Some(Job::Reserve(session, spare, want)) => match self.store.reserve(set, spare, want, self.block) {
                Ok(extents) => self.work.push_back(Work::Verify(session, spare, extents)),
                Err(_) => self.jobs.push_back(Job::Verified(session, spare, Verified::default())),
            },
            Some(Job::Mark(spare, extent, state)) => drop(self.store.mark(set, spare, extent, state)),
            Some(Job::Verified(session, spare, Verified { good, bad, untried })) => {
                for extent in bad {
                    self.check_bad(spare, extent);
                    drop(self.store.mark(set, spare, extent, ExtentState::Bad));
                }
                let free = self.store.usage(set, spare).map(|usage| usage.free).unwrap_or_default();
                self.inbox.push_back(Event::Reserved { set, session, spare, extents: good, free, untried });
            }
            Some(Job::Announce(case, remap)) => {
                drop(self.store.set_returning(set, Some(&remap)));
                self.inbox.push_back(Event::Done { set, case, outcome: Outcome::Announced });
            }
            Some(Job::Append(entry)) => {
                drop(self.store.append(&entry));
                if matches!(entry.what, What::Unremapped { .. } | What::StaysRemapped { .. }) {
                    drop(self.store.set_returning(set, None));
                }
            }
        }
    }

    /// What was on its way back to main when the daemon ended, and has no record any more, has arrived.
    fn has_gone_back(&self, remaps: &[Remap]) {
        let Ok(Some(remap)) = self.store.returning(self.set) else { return };
        if older::serving(remap.main, remaps).is_none() {
            let decision = Decision { action: Action::Unremap, rule: String::new(), reason: String::new() };
            let what = What::Unremapped { remap, decision, took_ms: 0 };
            let name = self.shared.lock().desc.name.clone();
            drop(self.store.append(&Entry { number: 0, at: Millis(0), set: self.set, name, what }));
        }
        drop(self.store.set_returning(self.set, None));
    }

    fn watch(&mut self) {
        self.doing("watch");
        let reads = self.engine.set(self.set).is_some_and(|set| set.policy().read_error.hold);
        let Ok(page) = self.watcher.lease(LEASE_MS, reads).and_then(|()| self.watcher.errors(self.since)) else { return };
        let missed = page.oldest.min(page.next).saturating_sub(self.since);
        self.since = page.next;
        if missed > 0 || !page.records.is_empty() {
            self.inbox.push_back(Event::Errors { set: self.set, records: page.records, missed });
        }
    }

    fn apply(&mut self, event: Event) {
        let now = {
            let mut machine = self.shared.lock();
            machine.events += 1;
            Millis(machine.now)
        };
        for effect in self.engine.apply(now, event) {
            self.run_effect(effect);
        }
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Step { case, step, .. } => self.work.push_back(Work::Step(case, step)),
            Effect::Probe { case, extent, .. } => self.work.push_back(Work::Probe(case, extent)),
            Effect::Tend { spare, .. } => self.work.push_back(Work::Tend(spare)),
            Effect::Retry { extent, .. } => self.work.push_back(Work::Retry(extent)),
            Effect::ReleaseReads { extent, .. } => self.work.push_back(Work::ReleaseReads(extent)),
            Effect::Announce { case, remap, .. } => self.jobs.push_back(Job::Announce(case, remap)),
            Effect::Return { case, remap, .. } => self.work.push_back(Work::Return(case, remap)),
            Effect::CallOff { case, .. } => {
                let before = self.work.len();
                self.work.retain(|work| !matches!(work, Work::Return(of, _) if *of == case));
                if self.work.len() < before {
                    self.shared.lock().coverage.count("return", "called off");
                    let outcome = Outcome::Failed(CALLED_OFF.into());
                    self.inbox.push_back(Event::Done { set: self.set, case, outcome });
                }
            }
            Effect::MarkReserved { spare, extent, .. } => self.jobs.push_back(Job::Mark(spare, extent, ExtentState::Reserved)),
            Effect::Reserve { session, spare, want, .. } => self.jobs.push_back(Job::Reserve(session, spare, want)),
            Effect::MarkInUse { remap, .. } => {
                self.check_spent(&remap);
                let state = ExtentState::InUse { main: remap.main.start() };
                self.jobs.push_back(Job::Mark(remap.spare, remap.spare_extent(), state));
            }
            Effect::MarkBad { spare, extent, .. } => {
                self.check_bad(spare, extent);
                self.jobs.push_back(Job::Mark(spare, extent, ExtentState::Bad));
            }
            // What it would find is found by nobody here.
            Effect::Scrub { .. } => {}
            Effect::SampleSmart { .. } => {
                let (summary, worse) = ("fine".into(), Vec::new());
                self.inbox.push_back(Event::Smart { set: self.set, member: Member::Main, summary, worse });
            }
            Effect::Record(entry) => {
                if matches!(&entry.what, What::StaysRemapped { reason, .. } if reason == CALLED_OFF) {
                    self.shared.lock().coverage.count("return", "a write came first");
                }
                self.shared.lock().note(|| format!("history: {:?}", entry.what));
                self.jobs.push_back(Job::Append(Box::new(entry)));
            }
        }
    }

    /// S7: main's medium, that of the spare which served it, or an operator, is why spare space is spent.
    fn check_spent(&self, remap: &Remap) {
        let mut machine = self.shared.lock();
        let action = self.engine.set(self.set).map(|set| set.policy().read_error.action);
        let reads_count = action.is_some_and(Action::moves);
        let bad_for_it = |drive: usize, extent: Extent| {
            let drive = &machine.drives[drive];
            let bad = if reads_count { &drive.ever_bad } else { &drive.ever_unwritable };
            bad.range(extent.start().0..extent.end().0).next().is_some()
        };
        let was = |old: &Remap| old.main == remap.main && bad_for_it(usize::from(old.spare) + 1, old.spare_extent());
        let bad = bad_for_it(0, remap.main) || machine.left.iter().any(was);
        let moved = machine.left.iter().any(|old| old.main == remap.main);
        // Of a read of many blocks it is not known which one was weak; what reads by now only passes through the spare.
        let passes = action == Some(Action::Rewrite) && !remap.flags.marked;
        if !bad && !passes && !machine.asked.iter().any(|asked| asked.overlaps(&remap.main)) {
            machine.violated(format!("S7: main {} never was bad, and was moved", remap.main));
        }
        machine.coverage.count("remap", if remap.flags.marked { "live with lost sectors" } else { "live" });
        if moved {
            machine.coverage.count("remap", "moved on its spare");
        }
    }

    /// S7: the spare's medium is why spare space is given up.
    fn check_bad(&self, spare: u16, extent: Extent) {
        let mut machine = self.shared.lock();
        let bad = &machine.drives[usize::from(spare) + 1].ever_bad;
        if bad.range(extent.start().0..extent.end().0).next().is_none() {
            machine.violated(format!("S7: spare{spare} {extent} never was bad, and is given up"));
        }
        machine.coverage.count("spare", "extent given up");
    }
}

fn create(shared: &Shared, life: u64) -> Result<(), String> {
    let created = shared.act(life, false, |machine, fate| {
        if fate == Fate::Done {
            let instance = machine.random.next();
            machine.note(|| "creates the device".into());
            machine.kernel = Some(Kernel::create(machine.shape, instance, machine.desc.spares.len(), machine.now));
        }
        fate == Fate::Done
    });
    if created == Some(true) { Ok(()) } else { Err("the device could not be made".into()) }
}

fn remove(shared: &Shared, life: u64) {
    shared.act(life, false, |machine, _| {
        machine.note(|| "removes the device".into());
        let ends = machine.kernel.take().map(Kernel::remove).unwrap_or_default();
        ends.into_iter().for_each(|end| machine.judge_one(end));
        machine.oracle.device_removed();
    });
}

fn take_over(
    shared: &Shared,
    life: u64,
    desc: &crate::model::SetDescription,
    spares: &mut [OpenSpare],
    remaps: &[Remap],
    owned: Option<SimTarget>,
) -> Result<(SimTarget, u64, Care), String> {
    let fresh = owned.is_none();
    let target = owned.map_or_else(|| SimTarget::own(shared, life), Ok).map_err(|fault| fault.to_string())?;
    let mut care = Care::begin(spares);
    let unsettled = reconcile::unsettled(spares);
    let loaded = reconcile::load(&target, desc, Truth { remaps, unsettled: &unsettled, older: &[] })?;
    care.keep_sealed(loaded.sealed);
    if fresh {
        return Ok((target, 1, care));
    }
    reconcile::try_held_again(&target, desc)?;
    let mut machine = shared.lock();
    for line in &loaded.mended {
        machine.note(|| line.clone());
        let ways = [(": mapped now", "mapped now"), ("unmapped now", "unmapped"), ("stay so", "seal kept")];
        let how = ways.into_iter().find(|(words, _)| line.contains(words));
        machine.coverage.count("start", how.map_or("fence lifted", |(_, how)| how));
    }
    drop(machine);
    Ok((target, loaded.next_error, care))
}

pub(super) fn step_name(step: &Step) -> &'static str {
    match step {
        Step::Fence(_) => "fence",
        Step::Salvage { .. } => "salvage",
        Step::Seal(_) => "seal",
        Step::Commit(_) => "commit",
        Step::Settle(_) => "settle",
        Step::AddRemap { .. } => "add_remap",
        Step::GiveUp { .. } => "give_up",
        Step::Unrecord(_) => "unrecord",
        Step::RemoveRemap { .. } => "remove_remap",
        Step::Lift(_) => "lift",
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Fenced(_) => "→ fenced",
        Outcome::Salvaged { .. } => "→ salvaged",
        Outcome::SpareFailed(_) => "→ spare failed",
        Outcome::Sealed => "→ sealed",
        Outcome::Committed(_) => "→ committed",
        Outcome::NotCommitted(_) => "→ not committed",
        Outcome::Unknown(_) => "→ unknown",
        Outcome::Announced => "→ announced",
        Outcome::BroughtBack(_) => "→ brought back",
        Outcome::Live => "→ live",
        Outcome::Unmapped { free: true } => "→ unmapped",
        Outcome::Unmapped { free: false } => "→ unmapped, its space not free",
        Outcome::Released => "→ released",
        Outcome::Probed { .. } => "→ probed",
        Outcome::Failed(_) => "→ failed",
    }
}
