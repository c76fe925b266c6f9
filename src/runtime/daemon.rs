//! The daemon's own task: everything that may wait hangs off it. The engine has a thread of its own (see [`super::critical`]).

use super::actuator::{Stopping, Trial};
use super::assemble::{Candidate, Opened};
use super::critical::{Critical, Report};
use super::recorder::Recording;
use super::scrub::Scrub;
use super::seen::Seen;
use super::spare_add::Joined;
use super::storekeeper::Storekeeper;
use super::unwritten::Unwritten;
use super::upkeep::Upkeep;
use super::watcher::Watching;
use super::{early, inputs, lock, self_test, smart, watchdog};
use crate::actuate::probe::Verified;
use crate::actuate::target::DmTarget;
use crate::config::Settings;
use crate::control::{self, Reason};
use crate::edge::FoundDevice;
use crate::engine::{Engine, Event};
use crate::model::{Entry, Extent, Growth, Member, Millis, ScrubProgress, Sectors, SetDescription, SetId, SetName, What};
use crate::policy::{Disk, Policies, Policy};
use crate::sources::fs_error_record::FsRecord;
use crate::sources::fs_errors::FsError;
use crate::sources::kmsg::KernelMessage;
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender};

/// Everything that can wake the daemon.
pub enum Input {
    /// The store could not say what is free on a spare, so nothing of it can be reserved.
    NoSpace {
        /// The set.
        set: SetId,
        /// The spare.
        spare: u16,
        /// Why, if the allocator does not follow the spare's table.
        not_rebuilt: Option<String>,
    },
    /// Of these ranges of main nobody knows what they should say: a spare is older than what the store knows.
    Older {
        /// The set, which is open.
        set: SetId,
        /// The ranges.
        ranges: Vec<Extent>,
    },
    /// Reserved extents were tried.
    Verified {
        /// The set.
        set: SetId,
        /// The session that asked for them.
        session: u64,
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
    /// Something changed on the mapped device of a set.
    Mapped(SetId),
    /// A look at the disks is done.
    Discovered {
        /// Sets, complete or not.
        candidates: BTreeMap<SetId, Candidate>,
        /// The attempts to open complete ones.
        attempts: Vec<(SetId, Result<Box<Opened>, String>)>,
    },
    /// A SMART sample was read.
    Smart(smart::Sample),
    /// A counter of a drive grows fast.
    Trend(SetId, Member, Growth),
    /// A file system on a set met an error.
    FileSystem(FsError),
    /// A self-test of a drive is due.
    TestDue(self_test::Due),
    /// A self-test was started, or not.
    TestStarted(self_test::Due, Result<(), String>),
    /// Places that a drive calls bad could not be tried.
    SuspectsLeft(SetId, Member),
    /// Work on the history goes on.
    Upkeep(Upkeep),
    /// How far the scrub of a set was when the daemon ended.
    ScrubKnown {
        /// The set.
        set: SetId,
        /// How far.
        progress: ScrubProgress,
    },
    /// What a map calls bad has been read.
    Imported {
        /// The set.
        set: SetId,
    },
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
    /// Another request that took or wrote to disks has ended.
    Done {
        /// The set, and what history says of it, if it was done.
        done: Option<(SetDescription, What)>,
        /// The answer.
        answer: Result<serde_json::Value, Reason>,
        /// Who asked.
        tell: tokio::sync::oneshot::Sender<Result<serde_json::Value, Reason>>,
    },
    /// The headers of an open set say that a disk is one of its spares, or why they do not.
    Announced {
        /// The set.
        set: SetId,
        /// What joined.
        joined: Result<Joined, Reason>,
        /// Who asked.
        tell: tokio::sync::oneshot::Sender<Result<serde_json::Value, Reason>>,
    },
    /// A set that was served is open again.
    Reopened {
        /// The set.
        set: SetId,
        /// The set, or why it is not.
        opened: Result<Box<Opened>, String>,
        /// What joined it.
        joined: Joined,
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
    pub(super) desc: SetDescription,
    pub(super) main: FoundDevice,
    pub(super) spares: Vec<FoundDevice>,
    pub(super) trials: mpsc::Sender<Trial>,
    pub(super) instance: String,
    /// To speak to its target as the threads of the set do.
    pub(super) owner: DmTarget,
    /// Its watcher, once there is one.
    pub(super) watching: Option<Watching>,
    pub(super) smart_due: Millis,
}

impl Serving {
    /// The disks, main first.
    pub(super) fn members(&self) -> impl Iterator<Item = (Member, &FoundDevice)> {
        let spares = (0..).zip(&self.spares).map(|(index, spare)| (Member::Spare(index), spare));
        std::iter::once((Member::Main, &self.main)).chain(spares)
    }

    pub(super) fn member(&self, member: Member) -> Option<&FoundDevice> {
        self.members().find(|(of, _)| *of == member).map(|(_, device)| device)
    }
}

/// The sets that somebody opens or serves.
#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Mutex<BTreeSet<SetId>>>);

impl Claims {
    /// False if it was claimed before.
    pub(super) fn claim(&self, set: SetId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(set)
    }

    pub(super) fn is_claimed(&self, set: SetId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&set)
    }

    pub(super) fn give_back(&self, set: SetId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&set);
    }
}

/// The daemon.
pub(super) struct Daemon {
    pub(super) settings: Settings,
    pub(super) critical: Critical,
    pub(super) seen: Seen,
    pub(super) policies: Policies,
    pub(super) store: Storekeeper,
    pub(super) serving: BTreeMap<SetId, Serving>,
    pub(super) candidates: BTreeMap<SetId, Candidate>,
    pub(super) looking: bool,
    pub(super) look_again: bool,
    /// A look has ended since the start: what is on the disks is known.
    pub(super) looked: bool,
    /// Who waits for the look that is under way, and for the one after it.
    pub(super) waiting_for_look: [Vec<tokio::sync::oneshot::Sender<()>>; 2],
    /// The set that is being made: one at a time, so that no two take the same disk.
    pub(super) busy: Option<SetName>,
    /// Sets that are open or being opened: whoever opens one claims it first, so that nobody opens it twice.
    pub(super) claimed: Claims,
    /// Devices that somebody removed or took over: they stay claimed, so they are not opened again unless asked, and not before
    /// the thread that wrote to their spares has ended.
    pub(super) left_alone: BTreeMap<SetId, Stopping>,
    /// Sets whose threads come to their end, and who is told of them then. They stay claimed.
    pub(super) resting: BTreeMap<SetId, tokio::sync::oneshot::Sender<Stopping>>,
    pub(super) out: UnboundedSender<Input>,
    pub(super) told: BTreeMap<SetId, String>,
    /// When sets without any spare are told of, once.
    pub(super) absent_due: Option<Millis>,
    /// When sets that could not be opened are tried again.
    pub(super) retry_due: Millis,
    /// History that the store had no room for.
    pub(super) unwritten: Unwritten,
    /// When the history is next looked at for what is too much or too old.
    pub(super) prune_due: Millis,
    /// When systemd is told at the latest that the service has started; `None`: it was told.
    pub(super) ready_due: Option<Millis>,
    /// Spares of which the store could not say what is free, and when it is asked again.
    pub(super) ask_again: BTreeMap<(SetId, u16), Millis>,
    pub(super) smart: smart::Smart,
    pub(super) tests: self_test::Tests,
    pub(super) scrubs: BTreeMap<SetId, Scrub>,
    /// Sets of which it is being read what a map calls bad.
    pub(super) importing: BTreeSet<SetId>,
    /// What the engine sees, for somebody who reads it.
    pub(super) recording: Option<Recording>,
}

/// Why a set is not open whose spares are all gone.
pub(super) const ABSENT: &str = "none of its spares is attached";

/// Why a set is not opened again whose device was taken away in the middle of a write to a spare.
pub(super) const BUSY: &str =
    "the last I/O to its disks from before has not ended yet; when it has, “remap-guardian restore” opens it";

/// Disks that come later than this after the start are late.
pub(super) const LATE_MS: u64 = 15_000;

/// Time since boot, also while the machine slept: what intervals are measured in. It never jumps.
pub(super) fn uptime() -> Millis {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Millis(time.tv_sec.max(0) as u64 * 1_000 + time.tv_nsec.max(0) as u64 / 1_000_000)
}

/// How long the end waits for the sources to clean up.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// How long the start of the service waits for the sets: whoever starts it expects that they are served then. But a disk that is
/// late delays its own mount, not the whole boot.
pub(super) const READY_MS: u64 = 5_000;

/// How long after a failure the store is asked again.
pub(super) const ASK_MS: u64 = 60_000;

/// How long after a look a complete set that could not be opened is tried again.
pub(super) const RETRY_MS: u64 = 10_000;

/// The time now, Unix ms, for history only: it jumps when a clock is set.
pub fn now() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond().max(0) as u64)
}

/// Runs until a signal asks to stop. The daemon of the real system takes over what an early one has written.
pub async fn run(settings: Settings, early: bool) -> anyhow::Result<()> {
    let policies = Policies::load(&settings.policy, &settings.policy_dirs).context("the policy cannot be used")?;
    // Before anything is opened for good.
    lock::only_one(&settings.run_dir)?;
    let listener = control::server::bind(&settings.socket()).context("the control socket cannot be opened")?;
    let (store, store_thread) = Storekeeper::start(settings.store())?;
    if !early {
        store.queue(early::take_history);
    }
    let (out, mut inputs) = tokio::sync::mpsc::unbounded_channel();
    let mut kernel = inputs::start(&settings, &out, listener);
    let (critical, mut reports, engine) = Critical::start(Engine::new())?;
    watchdog::start(critical.clone())?;
    let mut daemon = Daemon {
        critical,
        seen: Seen::load(&settings.run_dir),
        policies,
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
        resting: BTreeMap::new(),
        out,
        told: BTreeMap::new(),
        absent_due: Some(Millis(uptime().0 + LATE_MS)),
        retry_due: Millis(0),
        unwritten: Unwritten::default(),
        // Not while the sets are being opened.
        prune_due: Millis(uptime().0 + 10 * 60_000),
        ready_due: Some(Millis(uptime().0 + READY_MS)),
        ask_again: BTreeMap::new(),
        smart: smart::Smart::default(),
        tests: self_test::Tests::new(!early),
        scrubs: BTreeMap::new(),
        importing: BTreeSet::new(),
        recording: None,
        settings,
    };
    daemon.look();
    let served = daemon.serve(&mut inputs, &mut kernel, &mut reports).await;
    served?;
    // It has ended, or there would be reports.
    engine.join().map_err(|_| anyhow::anyhow!("the engine's thread has failed"))?;
    tracing::info!("stopping; devices stay open, what is held gets its error when the lease ends");
    if daemon.store.is_open() {
        daemon.store.end();
        drop(tokio::task::spawn_blocking(move || store_thread.join()).await);
    }
    // What it leaves behind the next run takes over.
    drop(tokio::time::timeout(LAST_LOOK, kernel.end()).await);
    Ok(())
}

impl Daemon {
    async fn serve(
        &mut self,
        inputs: &mut UnboundedReceiver<Input>,
        kernel: &mut inputs::Kernel,
        reports: &mut Receiver<Report>,
    ) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut stop = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut reload = signal(SignalKind::hangup())?;
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Cures that are under way are brought to their end, so that history tells of them; then the reports end.
                _ = stop.recv() => self.critical.stop(),
                _ = interrupt.recv() => self.critical.stop(),
                _ = reload.recv() => drop(self.reload()),
                _ = tick.tick() => self.tick(),
                report = reports.recv() => match report {
                    Some(report) => self.hear(report),
                    None => return Ok(()),
                },
                Some(input) = inputs.recv() => self.take(input),
                Some(message) = kernel.messages.recv() => self.hear_kernel(message),
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::NoSpace { set, spare, not_rebuilt } => self.no_space(set, spare, not_rebuilt),
            Input::Older { set, ranges } => self.critical.close_off(set, ranges),
            Input::Verified { set, session, spare, verified } => self.verified(set, session, spare, verified),
            Input::Space { set, spare, free } => {
                self.ask_again.remove(&(set, spare));
                self.critical.event(Event::Space { set, spare, free });
            }
            Input::Devices => self.look(),
            Input::Mapped(set) => self.follow_partitions(set, || ()),
            Input::Discovered { candidates, attempts } => self.discovered(candidates, attempts),
            Input::Smart(sample) => self.take_sample(sample),
            Input::Trend(set, member, growth) => self.tell_of_trend(set, member, growth),
            Input::FileSystem(error) => self.tell_of_file_system(&error),
            Input::TestDue(due) => self.start_test(due),
            Input::TestStarted(due, started) => self.test_started(due, started),
            Input::SuspectsLeft(set, member) => self.smart.try_again(set, member),
            Input::Upkeep(work) => self.upkeep(work),
            Input::ScrubKnown { set, progress } => self.scrub_known(set, progress),
            Input::Imported { set } => drop(self.importing.remove(&set)),
            Input::Asked((request, tell)) => self.answer(request, tell),
            Input::Forgotten { given_up, answer, tell } => {
                self.busy = None;
                if let Some((desc, wiped)) = given_up {
                    self.forgotten(desc, wiped);
                }
                drop(tell.send(answer));
            }
            Input::Done { done, answer, tell } => {
                self.busy = None;
                if let Some((desc, what)) = done {
                    self.record(Entry { number: 0, at: self::now(), set: desc.id, name: desc.name, what });
                    self.look();
                }
                drop(tell.send(answer));
            }
            Input::Announced { set, joined, tell } => self.announced(set, joined, tell),
            Input::Reopened { set, opened, joined, tell } => self.reopened(set, opened, joined, tell),
            Input::Created { opened, tell } => self.created(opened, tell),
        }
    }

    /// Tells systemd, once, that the service has started.
    pub(super) fn ready(&mut self) {
        if self.ready_due.take().is_none() {
            return;
        }
        if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
            tracing::debug!(%error, "systemd was not told");
        }
    }

    fn tick(&mut self) {
        let now = uptime();
        if self.ready_due.is_some_and(|due| now >= due) {
            self.ready();
        }
        if self.absent_due.is_some_and(|due| now >= due) {
            self.absent_due = None;
            self.tell_of_absent();
        }
        self.ask_store_again();
        self.prune_if_due();
        self.recording.take_if(|recording| recording.is_abandoned(now));
        self.tell_of_unwritten();
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
                let members = serving.members().map(|(member, device)| (member, device.clone())).collect();
                self.smart.sample(*id, members, self.out.clone());
            }
        }
    }

    fn hear_kernel(&mut self, message: KernelMessage) {
        let KernelMessage::Note(note) = message else {
            tracing::debug!("the kernel had more to tell than it could keep");
            return;
        };
        for (id, serving) in &self.serving {
            for event in inputs::heard(*id, serving, &note) {
                self.critical.event(event);
            }
        }
    }

    fn tell_of_file_system(&mut self, told: &FsError) {
        let FsRecord { errno, count, inode } = told.record;
        let error = std::io::Error::from_raw_os_error(errno).to_string();
        let sets = told.sets.iter().filter_map(|id| self.serving.get(id).map(|serving| (*id, serving.desc.name.clone())));
        for (set, name) in sets.collect::<Vec<_>>() {
            let what = What::FileSystem { at: told.at.clone(), error: error.clone(), count, inode };
            self.record(Entry { number: 0, at: now(), set, name, what });
        }
    }

    /// Reads the policies anew, and which of them is the default. What is wrong is told, and those in force stay.
    pub(super) fn reload(&mut self) -> Result<(), Reason> {
        let stay = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, "the policies in force stay");
            Reason::new(format!("{error}; the policies in force stay"), "mend the file and repeat; remap-guardian policy check")
        };
        let Settings { policy, policy_dirs, .. } = Settings::load(Path::new("/")).map_err(|error| stay(&error))?;
        self.policies = Policies::load(&policy, &policy_dirs).map_err(|error| stay(&error))?;
        (self.settings.policy, self.settings.policy_dirs) = (policy, policy_dirs);
        let chosen: Vec<_> = self.serving.iter().map(|(id, serving)| (*id, self.policy_for(&serving.main).0.clone())).collect();
        for (set, policy) in chosen {
            if let Some(watching) = self.serving.get(&set).and_then(|serving| serving.watching.as_ref()) {
                watching.hold_reads(policy.read_error.hold);
            }
            self.critical.event(Event::Policy { set, policy: Box::new(policy) });
        }
        Ok(())
    }

    /// The policy for a main disk, and why.
    pub(super) fn policy_for(&self, main: &FoundDevice) -> (&Policy, String) {
        let FoundDevice { identity, transport, rotational, .. } = main;
        self.policies.choose(&Disk {
            serial: identity.serial.clone(),
            model: identity.model.clone(),
            wwn: identity.wwn.clone(),
            transport: transport.clone(),
            rotational: *rotational,
        })
    }
}
