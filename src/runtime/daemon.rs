//! The daemon's own task: the one owner of the engine. Inputs come in, effects go out.

use super::actuator::{self, Cure, Hands, Stopping, Trial};
use super::assemble::{self, Candidate, Opened};
use super::inputs;
use super::storekeeper::Storekeeper;
use super::watcher;
use crate::actuate::probe::Verified;
use crate::config::Settings;
use crate::control::{self, Reason};
use crate::edge::{ExtentState, FoundDevice};
use crate::engine::{Effect, Engine, Event};
use crate::model::{Entry, Extent, Member, Millis, Sectors, SetDescription, SetId, SetName, What};
use crate::policy;
use crate::sources::kmsg_text::KernelNote;
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// Everything that can wake the daemon.
pub enum Input {
    /// For the engine.
    Engine(Event),
    /// The store could not say what is free on a spare, so nothing of it can be reserved.
    NoSpace {
        /// The set.
        set: SetId,
        /// The spare.
        spare: u16,
        /// Why, if the allocator does not follow the spare's table.
        not_rebuilt: Option<String>,
    },
    /// Reserved extents were tried.
    Verified {
        /// The set.
        set: SetId,
        /// The spare.
        spare: u16,
        /// The result.
        verified: Verified,
    },
    /// The store can say it again.
    Space {
        /// The set.
        set: SetId,
        /// The spare.
        spare: u16,
        /// Sectors that are free.
        free: Sectors,
    },
    /// Block devices came, went or changed.
    Devices,
    /// A look at the disks is done.
    Discovered {
        /// Sets, complete or not.
        candidates: BTreeMap<SetId, Candidate>,
        /// The attempts to open complete ones.
        attempts: Vec<(SetId, Result<Box<Opened>, String>)>,
    },
    /// A line of the kernel log.
    Kernel(KernelNote),
    /// A device-mapper device had an event.
    DmEvent(SetId),
    /// A SMART sample was read.
    Smart(inputs::Sample),
    /// A request on the control socket.
    Asked(control::server::Asked),
    /// `forget` has ended.
    Forgotten {
        /// The set, if it was given up, and the spares that are blank now.
        given_up: Option<(SetDescription, Vec<String>)>,
        /// The answer.
        answer: Result<serde_json::Value, Reason>,
        /// Who asked.
        tell: tokio::sync::oneshot::Sender<Result<serde_json::Value, Reason>>,
    },
    /// `create` has ended.
    Created {
        /// The new set, open.
        opened: Result<Box<Opened>, Reason>,
        /// Who asked.
        tell: tokio::sync::oneshot::Sender<Result<serde_json::Value, Reason>>,
    },
}

/// A set that is served.
pub(super) struct Serving {
    pub(super) main: FoundDevice,
    pub(super) spares: Vec<FoundDevice>,
    hands: Hands,
    poke: mpsc::Sender<()>,
    smart_due: Millis,
}

/// The sets that somebody opens or serves.
#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Mutex<BTreeSet<SetId>>>);

impl Claims {
    /// False if it was claimed before.
    pub(super) fn claim(&self, set: SetId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(set)
    }

    fn is_claimed(&self, set: SetId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&set)
    }

    pub(super) fn give_back(&self, set: SetId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&set);
    }
}

/// The daemon.
pub(super) struct Daemon {
    pub(super) settings: Settings,
    pub(super) engine: Engine,
    pub(super) store: Storekeeper,
    pub(super) serving: BTreeMap<SetId, Serving>,
    pub(super) candidates: BTreeMap<SetId, Candidate>,
    pub(super) looking: bool,
    pub(super) look_again: bool,
    /// A look has ended since the start: what is on the disks is known.
    pub(super) looked: bool,
    /// Who waits for the look that is under way, and for the one after it.
    waiting_for_look: [Vec<tokio::sync::oneshot::Sender<()>>; 2],
    /// The set that is being made: one at a time, so that no two take the same disk.
    pub(super) busy: Option<SetName>,
    /// Sets that are open or being opened: whoever opens one claims it first, so that nobody opens it twice.
    pub(super) claimed: Claims,
    /// Devices that somebody removed or took over: they stay claimed, so they are not opened again unless asked, and not before
    /// the thread that wrote to their spares has ended.
    pub(super) left_alone: BTreeMap<SetId, Stopping>,
    pub(super) out: UnboundedSender<Input>,
    told: BTreeMap<SetId, String>,
    /// When sets without any spare are told of, once.
    absent_due: Option<Millis>,
    /// When sets that could not be opened are tried again.
    retry_due: Millis,
    /// Spares of which the store could not say what is free, and when it is asked again.
    ask_again: BTreeMap<(SetId, u16), Millis>,
    smart: inputs::Smart,
}

/// Why a set is not open whose spares are all gone.
pub(super) const ABSENT: &str = "none of its spares is attached";

/// Why a set is not opened again whose device was taken away in the middle of a write to a spare.
const BUSY: &str = "the last I/O to its disks from before has not ended yet; when it has, “remap-guardian restore” opens it";

/// Disks that come later than this after the start are late.
const LATE_MS: u64 = 15_000;

/// Time since boot, also while the machine slept: what intervals are measured in. It never jumps.
fn uptime() -> Millis {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Millis(time.tv_sec.max(0) as u64 * 1_000 + time.tv_nsec.max(0) as u64 / 1_000_000)
}

/// How long after a failure the store is asked again.
const ASK_MS: u64 = 60_000;

/// How long after a look a complete set that could not be opened is tried again.
const RETRY_MS: u64 = 10_000;

/// The time now, Unix ms, for history only: it jumps when a clock is set.
pub fn now() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond().max(0) as u64)
}

/// Sees to it that one process at a time touches members. The lock goes when the process has ended with all its threads, also
/// those that sit in a disk that does not answer: until then their I/O may still reach a spare.
///
/// A lock on a file that only root can open, rather than a name that any user could take. It is beside the directory of the
/// socket, which systemd removes when the service stops.
fn only_one(run_dir: &Path) -> anyhow::Result<()> {
    let mut path = run_dir.as_os_str().to_owned();
    path.push(".lock");
    let path = Path::new(&path);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    }
    let options = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = options.with_context(|| format!("{} cannot be opened", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        // Kept until the process ends.
        Ok(()) => std::mem::forget(file),
        Err(rustix::io::Errno::WOULDBLOCK) => anyhow::bail!(
            "another remap-guardian runs, or its last I/O has not ended yet\n  next: systemctl status remap-guardian; “fuser -v {}” shows who",
            path.display()
        ),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be locked", path.display())),
    }
    Ok(())
}

/// Runs until a signal asks to stop.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let policy = policy::load(&settings.policy, &settings.policy_dirs).context("the policy cannot be used")?;
    // Before anything is opened for good.
    only_one(&settings.run_dir)?;
    let listener = control::server::bind(&settings.socket()).context("the control socket cannot be opened")?;
    let (store, store_thread) = Storekeeper::start(settings.store())?;
    let (out, mut inputs) = tokio::sync::mpsc::unbounded_channel();
    inputs::start(&settings, &out, listener);
    let mut daemon = Daemon {
        engine: Engine::new(policy),
        store,
        serving: BTreeMap::new(),
        candidates: BTreeMap::new(),
        looking: false,
        look_again: false,
        looked: false,
        waiting_for_look: Default::default(),
        busy: None,
        claimed: Claims::default(),
        left_alone: BTreeMap::new(),
        out,
        told: BTreeMap::new(),
        absent_due: Some(Millis(uptime().0 + LATE_MS)),
        retry_due: Millis(0),
        ask_again: BTreeMap::new(),
        smart: inputs::Smart::default(),
        settings,
    };
    daemon.look();
    // Not after the look: a disk that is late delays its own mount, not the whole boot.
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd was not told");
    }
    daemon.serve(&mut inputs).await?;
    tracing::info!("stopping; devices stay open, what is held gets its error when the lease ends");
    let store_open = daemon.store.is_open();
    drop(daemon);
    if !store_open {
        return Ok(());
    }
    drop(tokio::task::spawn_blocking(move || store_thread.join()).await);
    Ok(())
}

impl Daemon {
    async fn serve(&mut self, inputs: &mut UnboundedReceiver<Input>) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut stop = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut reload = signal(SignalKind::hangup())?;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stop.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                _ = reload.recv() => self.reload(),
                _ = tick.tick() => self.tick(),
                Some(input) = inputs.recv() => self.take(input),
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Engine(event) => self.apply(event),
            Input::NoSpace { set, spare, not_rebuilt } => self.no_space(set, spare, not_rebuilt),
            Input::Verified { set, spare, verified } => self.verified(set, spare, verified),
            Input::Space { set, spare, free } => {
                self.ask_again.remove(&(set, spare));
                self.apply(Event::Reserved { set, spare, extents: Vec::new(), free, untried: Sectors(0) });
            }
            Input::Devices => self.look(),
            Input::Discovered { candidates, attempts } => self.discovered(candidates, attempts),
            Input::Kernel(note) => self.note(note),
            Input::DmEvent(set) => {
                if let Some(serving) = self.serving.get(&set) {
                    let _ = serving.poke.send(());
                }
            }
            Input::Smart(sample) => {
                let event = self.smart.taken(sample);
                self.apply(event);
            }
            Input::Asked((request, tell)) => self.answer(request, tell),
            Input::Forgotten { given_up, answer, tell } => {
                self.busy = None;
                if let Some((desc, wiped)) = given_up {
                    self.forgotten(desc, wiped);
                }
                drop(tell.send(answer));
            }
            Input::Created { opened, tell } => self.created(opened, tell),
        }
    }

    /// Lets the engine decide, and does what it says.
    pub(super) fn apply(&mut self, event: Event) {
        let closed = if let Event::Closed { set, reason } = &event { Some((*set, reason.clone())) } else { None };
        for effect in self.engine.apply(uptime(), event) {
            self.run_effect(effect);
        }
        if let Some((set, reason)) = closed {
            self.ask_again.retain(|(of, _), _| *of != set);
            if let Some(serving) = self.serving.remove(&set) {
                self.left_alone.insert(set, serving.hands.stop());
            }
            self.told.insert(set, format!("{reason}; “remap-guardian restore” opens it again"));
        }
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Step { set, case, step } => self.cure(set, Cure::Step(case, step)),
            Effect::Probe { set, case, extent } => {
                if let Some(serving) = self.serving.get(&set) {
                    serving.hands.try_out(Trial::Probe(case, extent));
                }
            }
            Effect::Retry { set, extent } => self.cure(set, Cure::Retry(extent)),
            Effect::Reserve { set, spare, want } => self.reserve(set, spare, want),
            Effect::MarkInUse { set, remap } => {
                let state = ExtentState::InUse { main: remap.main.start() };
                self.mark(set, remap.spare, remap.spare_extent(), state);
            }
            Effect::MarkBad { set, spare, extent } => self.mark(set, spare, extent, ExtentState::Bad),
            Effect::SampleSmart { set } => {
                if let Some(serving) = self.serving.get_mut(&set) {
                    // Soon, but not for each of a burst of cures.
                    serving.smart_due = Millis(serving.smart_due.0.min(uptime().0 + 2_000));
                }
            }
            Effect::Record(entry) => self.record(entry),
        }
    }

    fn cure(&self, set: SetId, cure: Cure) {
        if let Some(serving) = self.serving.get(&set) {
            serving.hands.cure(cure);
        }
    }

    fn mark(&self, set: SetId, spare: u16, extent: Extent, state: ExtentState) {
        self.store.queue(move |store| {
            if let Err(error) = store.mark(set, spare, extent, state) {
                tracing::warn!(%extent, %error, "the allocator lags behind the spare until the next start");
            }
        });
    }

    fn reserve(&self, set: SetId, spare: u16, want: crate::model::Sectors) {
        let Some(serving) = self.serving.get(&set) else { return };
        let Some(state) = self.engine.set(set) else { return };
        let (block, trials, out) = (state.description().block(), serving.hands.trials(), self.out.clone());
        self.store.queue(move |store| match store.reserve(set, spare, want, block) {
            Ok(extents) => drop(trials.send(Trial::Verify(spare, extents))),
            Err(error) => {
                tracing::warn!(%error, "no spare space could be reserved");
                drop(out.send(Input::NoSpace { set, spare, not_rebuilt: None }));
            }
        });
    }

    fn verified(&mut self, set: SetId, spare: u16, verified: Verified) {
        let Verified { good, bad, untried } = verified;
        let out = self.out.clone();
        self.store.queue(move |store| {
            for extent in bad {
                tracing::warn!(%extent, spare, "spare sectors failed their check and are never used");
                if let Err(error) = store.mark(set, spare, extent, ExtentState::Bad) {
                    tracing::warn!(%error, "the allocator does not remember bad spare sectors");
                }
            }
            let usage = store.usage(set, spare);
            if let Err(error) = &usage {
                tracing::warn!(%error, "the free space of a spare is not known");
                drop(out.send(Input::NoSpace { set, spare, not_rebuilt: None }));
            }
            // What could not be tried may still become ready.
            let free = usage.map(|usage| usage.free).unwrap_or_default();
            drop(out.send(Input::Engine(Event::Reserved { set, spare, extents: good, free, untried })));
        });
    }

    /// Nothing is asked of a spare until the store has been asked again.
    fn no_space(&mut self, set: SetId, spare: u16, not_rebuilt: Option<String>) {
        let Some(state) = self.engine.set(set) else { return };
        let name = state.description().name.clone();
        let known = self.ask_again.insert((set, spare), Millis(uptime().0 + ASK_MS));
        if let (Some(why), None) = (not_rebuilt, known) {
            let message =
                format!("nothing can be moved to spare {spare} until its free space is known; tried again each minute: {why}");
            self.record(Entry { number: 0, at: now(), set, name, what: What::Alert { message } });
        }
        self.apply(Event::Reserved { set, spare, extents: Vec::new(), free: Sectors(0), untried: Sectors(0) });
    }

    /// Asks the store again what is free where it could not say.
    fn ask_store_again(&mut self) {
        let now = uptime();
        let due: Vec<(SetId, u16)> = self.ask_again.iter().filter(|(_, due)| now >= **due).map(|(key, _)| *key).collect();
        for (set, spare) in due {
            let Some(state) = self.engine.set(set) else {
                self.ask_again.remove(&(set, spare));
                continue;
            };
            // Not before it has answered.
            self.ask_again.insert((set, spare), Millis(now.0 + ASK_MS));
            let (block, data) = (state.description().block(), state.description().geometry[usize::from(spare)].data);
            let live: Vec<_> = state.remaps().filter(|remap| remap.spare == spare).copied().collect();
            let out = self.out.clone();
            self.store.queue(move |store| {
                // Built only if it never was: what was handed out must not become free. As nothing was, the table has not changed.
                let built = store.reserve(set, spare, Sectors(0), block).is_ok();
                let rebuilt = if built { Ok(()) } else { store.rebuild(set, spare, data, &live) };
                let input = match rebuilt.and_then(|()| store.usage(set, spare)) {
                    Ok(usage) => Input::Space { set, spare, free: usage.free },
                    Err(error) => Input::NoSpace { set, spare, not_rebuilt: (!built).then(|| error.to_string()) },
                };
                drop(out.send(input));
            });
        }
    }

    /// Appends to the history and tells the log.
    pub(super) fn record(&self, entry: Entry) {
        // The engine does not know the time of day.
        let entry = Entry { at: now(), ..entry };
        tracing::info!(set = %entry.name, "{}", crate::cli::history::sentence(&entry.what));
        self.store.queue(move |store| {
            if let Err(error) = store.append(&entry) {
                tracing::error!(%error, "history could not be written");
            }
        });
    }

    /// Tells when the look that is under way has ended.
    pub(super) fn wait_for_look(&mut self, done: tokio::sync::oneshot::Sender<()>) {
        self.waiting_for_look[0].push(done);
    }

    /// Looks, and tells when a look has ended that began after this.
    pub(super) fn look_for(&mut self, done: tokio::sync::oneshot::Sender<()>) {
        self.waiting_for_look[usize::from(self.looking)].push(done);
        self.look();
    }

    /// Looks at the disks in the background; complete sets are opened.
    pub(super) fn look(&mut self) {
        if self.looking {
            self.look_again = true;
            return;
        }
        self.looking = true;
        let (settings, out) = (self.settings.clone(), self.out.clone());
        let claimed = self.claimed.clone();
        tokio::task::spawn_blocking(move || {
            let candidates = match inputs::devices(&settings) {
                Ok(devices) => assemble::discover(&devices),
                Err(error) => {
                    tracing::error!(%error, "the block devices cannot be listed");
                    BTreeMap::new()
                }
            };
            let ready = candidates.iter().filter(|(id, candidate)| candidate.complete().is_ok() && claimed.claim(**id));
            let attempts = ready.map(|(id, candidate)| {
                let attempt = assemble::open(candidate, &settings).map(Box::new);
                if attempt.is_err() {
                    claimed.give_back(*id);
                }
                (*id, attempt)
            });
            let attempts = attempts.collect();
            drop(out.send(Input::Discovered { candidates, attempts }));
        });
    }

    fn discovered(&mut self, candidates: BTreeMap<SetId, Candidate>, attempts: Vec<(SetId, Result<Box<Opened>, String>)>) {
        self.looking = false;
        self.looked = true;
        let before = std::mem::replace(&mut self.candidates, candidates);
        // A set that is served stays known: its spare may have gone, or have been made while we looked.
        for (id, candidate) in before.into_iter().filter(|(id, _)| self.serving.contains_key(id)) {
            self.candidates.entry(id).or_insert(candidate);
        }
        for (id, attempt) in attempts {
            match attempt {
                Ok(opened) => self.start_serving(*opened),
                Err(reason) => self.not_restored(id, reason),
            }
        }
        let waiting: Vec<(SetId, String)> = self
            .candidates
            .iter()
            .filter(|(id, _)| !self.serving.contains_key(id))
            .filter_map(|(id, candidate)| candidate.complete().err().map(|reason| (*id, reason)))
            .collect();
        for (id, reason) in waiting {
            self.not_restored(id, reason);
        }
        let [now, next] = std::mem::take(&mut self.waiting_for_look);
        self.waiting_for_look[0] = next;
        for waiting in now {
            let _ = waiting.send(());
        }
        if std::mem::take(&mut self.look_again) {
            self.look();
        }
    }

    /// Says once why a set is not open.
    fn not_restored(&mut self, id: SetId, reason: String) {
        if self.told.get(&id) == Some(&reason) {
            return;
        }
        self.told.insert(id, reason.clone());
        if let Some(candidate) = self.candidates.get(&id) {
            let name = candidate.desc.name.clone();
            self.record(Entry { number: 0, at: now(), set: id, name, what: What::NotRestored { reason } });
        }
    }

    /// Tells of the sets that no disk speaks of: they are known from the registry only.
    fn tell_of_absent(&self) {
        let present: BTreeSet<SetId> = self.candidates.keys().copied().collect();
        self.store.queue(move |store| {
            for desc in store.sets().unwrap_or_default().into_iter().filter(|desc| !present.contains(&desc.id)) {
                let what = What::NotRestored { reason: ABSENT.into() };
                let last = store.history(Some(desc.id), Millis(0), 1).unwrap_or_default().pop();
                if last.is_some_and(|entry| entry.what == what) {
                    continue;
                }
                tracing::warn!(set = %desc.name, "{}", crate::cli::history::sentence(&what));
                if let Err(error) = store.append(&Entry { number: 0, at: now(), set: desc.id, name: desc.name, what }) {
                    tracing::error!(%error, "history could not be written");
                }
            }
        });
    }

    fn forgotten(&mut self, desc: SetDescription, wiped: Vec<String>) {
        self.candidates.remove(&desc.id);
        self.told.remove(&desc.id);
        if self.left_alone.remove(&desc.id).is_some() {
            self.claimed.give_back(desc.id);
        }
        self.record(Entry { number: 0, at: now(), set: desc.id, name: desc.name, what: What::Forgotten { wiped } });
        self.look();
    }

    /// Gives back the sets that were left alone, so that the next look opens them.
    pub(super) fn take_up_again(&mut self) {
        for (set, thread) in std::mem::take(&mut self.left_alone) {
            if thread.is_finished() {
                self.claimed.give_back(set);
            } else {
                self.left_alone.insert(set, thread);
                self.told.insert(set, BUSY.into());
            }
        }
    }

    /// Why a set is not open, if it was said.
    pub(super) fn why_not(&self, id: SetId) -> Option<&String> {
        self.told.get(&id)
    }

    pub(super) fn start_serving(&mut self, opened: Opened) {
        let Opened { desc, main, spares, remaps, actuator, prober, watcher, since, adopted } = opened;
        let id = desc.id;
        let threads = actuator::start(id, actuator, prober, self.out.clone())
            .and_then(|hands| Ok((hands, watcher::start(id, watcher, since, self.settings.lease_ms, self.out.clone())?)));
        let (hands, poke) = match threads {
            Ok(threads) => threads,
            Err(error) => {
                self.claimed.give_back(id);
                return self.not_restored(id, format!("no thread could be started: {error}"));
            }
        };
        self.told.remove(&id);
        self.rebuild(&desc, &remaps);
        let what = match adopted {
            Some(mended) => What::Adopted { remaps: remaps.len() as u64, mended },
            None => What::Restored { remaps: remaps.len() as u64 },
        };
        self.record(Entry { number: 0, at: now(), set: id, name: desc.name.clone(), what });
        let serving = Serving { main, spares, hands, poke, smart_due: uptime() };
        self.serving.insert(id, serving);
        let capacity = assemble::capacity(&desc);
        self.apply(Event::Opened { set: Box::new(desc), remaps, capacity });
    }

    /// Brings registry and allocator in line with the spares, which are the truth.
    fn rebuild(&self, desc: &crate::model::SetDescription, remaps: &[crate::model::Remap]) {
        let (desc, remaps, keeper, out) = (desc.clone(), remaps.to_vec(), self.store.clone(), self.out.clone());
        self.store.queue(move |store| {
            if let Some(kept) = keeper.was_set_aside() {
                let message = format!(
                    "the store could not be read and was set aside as {}: history before this is there only",
                    kept.display()
                );
                let entry = Entry { number: 0, at: now(), set: desc.id, name: desc.name.clone(), what: What::Alert { message } };
                if let Err(error) = store.append(&entry) {
                    tracing::error!(%error, "history could not be written");
                }
            }
            let spares = desc.geometry.iter().enumerate().map(|(index, geometry)| (index as u16, geometry.data));
            if let Err(error) = store.put_set(&desc) {
                tracing::error!(%error, "the registry lacks a set until it is opened again");
            }
            for (spare, data) in spares {
                let live: Vec<_> = remaps.iter().filter(|remap| remap.spare == spare).copied().collect();
                if let Err(error) = store.rebuild(desc.id, spare, data, &live) {
                    drop(out.send(Input::NoSpace { set: desc.id, spare, not_rebuilt: Some(error.to_string()) }));
                }
            }
        });
    }

    fn tick(&mut self) {
        drop(sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]));
        self.apply(Event::Tick);
        let now = uptime();
        if self.absent_due.is_some_and(|due| now >= due) {
            self.absent_due = None;
            self.tell_of_absent();
        }
        self.ask_store_again();
        if now >= self.retry_due && !self.looking {
            self.retry_due = Millis(now.0 + RETRY_MS);
            let unopened = |(id, found): (&SetId, &Candidate)| found.complete().is_ok() && !self.claimed.is_claimed(*id);
            if self.candidates.iter().any(unopened) {
                self.look();
            }
        }
        for (id, serving) in &mut self.serving {
            if now >= serving.smart_due {
                serving.smart_due = Millis(now.0 + self.settings.smart_minutes * 60_000);
                let spares = serving.spares.iter().enumerate().map(|(i, spare)| (Member::Spare(i as u16), spare.clone()));
                let members = std::iter::once((Member::Main, serving.main.clone())).chain(spares).collect();
                self.smart.sample(*id, members, self.out.clone());
            }
        }
    }

    fn note(&mut self, note: KernelNote) {
        let hits: Vec<Event> = self.serving.iter().filter_map(|(id, serving)| inputs::concerns(*id, serving, &note)).collect();
        for event in hits {
            self.apply(event);
        }
    }

    fn reload(&mut self) {
        match policy::load(&self.settings.policy, &self.settings.policy_dirs) {
            Ok(policy) => self.apply(Event::Policy(Box::new(policy))),
            Err(error) => tracing::error!(%error, "the policy in force stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        only_one(&dir.path().join("run")).unwrap();
        let refused = only_one(&dir.path().join("run")).unwrap_err().to_string();
        assert!(refused.contains("another remap-guardian runs"), "{refused}");
        only_one(&dir.path().join("other")).unwrap();
    }
}
