//! The thread that owns the engine, and the only way to it. From a record of the target to the live remap nothing else is
//! between the threads of a set but this one: it does no I/O and waits for nobody. What the engine wants of the rest of the
//! daemon goes into a queue that loses what does not fit.

use super::actuator::{Cure, Hands, Stopping, Trial};
use super::daemon::uptime;
use super::recorder::Recorder;
use crate::engine::{CALLED_OFF, Effect, Engine, Event, Outcome};
use crate::memory::STACK;
use crate::model::{Extent, SetId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;

/// Reports that wait for the rest of the daemon at most.
const REPORTS: usize = 16_384;

const TICK: Duration = Duration::from_secs(1);

/// How long a stop waits for cures that are under way.
const STOP: Duration = Duration::from_secs(5);

/// What the engine's thread tells the rest of the daemon.
pub enum Report {
    /// Something to do that no application waits for.
    Effect(Effect),
    /// A set is served no more.
    Closed {
        /// The set.
        set: SetId,
        /// Why.
        reason: String,
        /// Its threads.
        threads: Stopping,
    },
    /// The cures of a set have come to their end, as far as there was time for it, and its threads have been told to end.
    Rested {
        /// The set. The engine still knows it.
        set: SetId,
        /// Its threads.
        threads: Stopping,
    },
    /// All error records of a set before this one have come to an end, and their entries for history went before this report.
    Seen {
        /// The set.
        set: SetId,
        /// Sequence number in the target's ring.
        next: u64,
    },
    /// So many reports did not fit: the rest of the daemon was stuck.
    Lost(u64),
}

/// What the engine's thread is told.
enum Order {
    Event(Event),
    Serve { set: SetId, opened: Event, hands: Hands },
    CloseOff { set: SetId, ranges: Vec<Extent> },
    Look(Box<dyn FnOnce(&Engine) + Send>),
    Record(Recorder),
    Rest(SetId),
    Stop,
}

/// A handle to the engine's thread. Nothing that is sent by it waits.
#[derive(Clone)]
pub struct Critical {
    orders: Sender<Order>,
    pulse: Arc<AtomicU64>,
}

impl Critical {
    /// Starts the thread. It ends some time after [`Critical::stop`], and the reports with it.
    pub fn start(engine: Engine) -> std::io::Result<(Critical, tokio::sync::mpsc::Receiver<Report>, JoinHandle<()>)> {
        let (orders, queue) = mpsc::channel();
        let (reports, receiver) = tokio::sync::mpsc::channel(REPORTS);
        let pulse = Arc::new(AtomicU64::new(0));
        let (hands, seen, resting) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let owner = Owner { engine, hands, seen, resting, reports, lost: 0, recorder: None };
        let beats = pulse.clone();
        let thread = thread("engine", move || owner.run(&queue, &beats))?;
        Ok((Critical { orders, pulse }, receiver, thread))
    }

    /// For the engine. False if its thread has ended.
    pub fn event(&self, event: Event) -> bool {
        self.orders.send(Order::Event(event)).is_ok()
    }

    /// A set is open; these threads work for it.
    pub fn serve(&self, set: SetId, opened: Event, hands: Hands) {
        drop(self.orders.send(Order::Serve { set, opened, hands }));
    }

    /// I/O to these ranges of an open set is to fail from now on.
    pub fn close_off(&self, set: SetId, ranges: Vec<Extent>) {
        drop(self.orders.send(Order::CloseOff { set, ranges }));
    }

    /// Asks the engine's state something. The question is to be short, for a cure may wait behind it.
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Engine) -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (tell, told) = oneshot::channel();
        drop(self.orders.send(Order::Look(Box::new(move |engine| drop(tell.send(question(engine)))))));
        told
    }

    /// From now on all that the engine sees is recorded, until nobody reads it any more.
    pub fn record(&self, recorder: Recorder) {
        drop(self.orders.send(Order::Record(recorder)));
    }

    /// The cures of a set are brought to their end, then its threads: it is about to be opened again. Nobody may bring it new ones.
    pub fn rest(&self, set: SetId) {
        drop(self.orders.send(Order::Rest(set)));
    }

    /// Cures that are under way are brought to their end, then the thread ends.
    pub fn stop(&self) {
        drop(self.orders.send(Order::Stop));
    }

    /// A number that grows at least once a second while the thread is well.
    pub fn pulse(&self) -> u64 {
        self.pulse.load(Ordering::Relaxed)
    }
}

/// Starts a thread on the path of a cure.
pub fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).stack_size(STACK).spawn(run)
}

struct Owner {
    engine: Engine,
    hands: BTreeMap<SetId, Hands>,
    /// First error record that the engine has not been told of, of sets whose news was not reported as seen yet.
    seen: BTreeMap<SetId, u64>,
    /// Sets whose threads are to end, and when at the latest.
    resting: BTreeMap<SetId, Instant>,
    reports: tokio::sync::mpsc::Sender<Report>,
    lost: u64,
    recorder: Option<Recorder>,
}

impl Owner {
    fn run(mut self, orders: &Receiver<Order>, pulse: &AtomicU64) {
        let (mut tick, mut end) = (Instant::now() + TICK, None);
        while end.is_none_or(|end| Instant::now() < end && self.engine.sets().any(|set| set.is_curing())) {
            pulse.fetch_add(1, Ordering::Relaxed);
            let left = tick.saturating_duration_since(Instant::now());
            match if left.is_zero() { Err(RecvTimeoutError::Timeout) } else { orders.recv_timeout(left) } {
                Ok(Order::Event(event)) => self.apply(event),
                Ok(Order::Serve { set, opened, hands }) => {
                    self.hands.insert(set, hands);
                    self.apply(opened);
                }
                Ok(Order::CloseOff { set, ranges }) => self.cure(set, Cure::CloseOff(ranges)),
                Ok(Order::Look(question)) => question(&self.engine),
                Ok(Order::Record(mut recorder)) => {
                    recorder.begin(uptime(), &self.engine);
                    self.recorder = Some(recorder);
                }
                Ok(Order::Rest(set)) => drop(self.resting.insert(set, Instant::now() + STOP)),
                Ok(Order::Stop) => end = Some(Instant::now() + STOP),
                Err(RecvTimeoutError::Timeout) => {
                    tick = Instant::now() + TICK;
                    self.apply(Event::Tick);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.let_rest();
        }
    }

    fn let_rest(&mut self) {
        let settled = |set: &SetId| self.engine.set(*set).is_none_or(|state| state.is_settled());
        let over = |(set, end): (&SetId, &Instant)| (settled(set) || Instant::now() >= *end).then_some(*set);
        // With room for what is told of those that were lost: somebody waits for the threads.
        let Some(set) = self.resting.iter().find_map(over).filter(|_| self.reports.capacity() > 1) else { return };
        self.resting.remove(&set);
        self.seen.remove(&set);
        if let Some(hands) = self.hands.remove(&set) {
            self.report(Report::Rested { set, threads: hands.stop() });
        }
    }

    fn apply(&mut self, event: Event) {
        let mut closed = None;
        match &event {
            Event::Errors { set, records, .. } => {
                if let Some(last) = records.last() {
                    self.seen.insert(*set, last.seq + 1);
                }
            }
            Event::Closed { set, reason } => closed = Some((*set, reason.clone())),
            _ => {}
        }
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = uptime();
            self.record(|recorder| recorder.event(now, &event));
            for effect in self.engine.apply(now, event) {
                self.record(|recorder| recorder.effect(&effect));
                events.extend(self.give_out(effect));
            }
        }
        if let Some((set, reason)) = closed {
            self.seen.remove(&set);
            if let Some(hands) = self.hands.remove(&set) {
                self.report(Report::Closed { set, reason, threads: hands.stop() });
            }
        }
        let settled = |engine: &Engine, set: &SetId| engine.set(*set).is_some_and(|state| state.is_settled());
        while let Some((&set, &next)) = self.seen.iter().find(|(set, _)| settled(&self.engine, set)) {
            self.seen.remove(&set);
            self.report(Report::Seen { set, next });
        }
    }

    fn record(&mut self, tell: impl FnOnce(&mut Recorder)) {
        if let Some(recorder) = &mut self.recorder {
            tell(recorder);
            self.recorder.take_if(|recorder| recorder.is_over());
        }
    }

    /// What belongs to a cure goes to the threads of its set, everything else out of here. What cannot be done has its answer.
    fn give_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Step { set, case, step } => self.cure(set, Cure::Step(case, step)),
            Effect::Retry { set, extent } => self.cure(set, Cure::Retry(extent)),
            Effect::ReleaseReads { set, extent } => self.cure(set, Cure::ReleaseReads(extent)),
            Effect::Tend { set, spare } => self.cure(set, Cure::Tend(spare)),
            Effect::Probe { set, case, extent } => {
                if let Some(hands) = self.hands.get(&set) {
                    hands.try_out(Trial::Probe(case, extent));
                }
            }
            Effect::Return { set, case, remap } => {
                if let Some(hands) = self.hands.get_mut(&set) {
                    hands.bring_back(case, remap);
                }
            }
            Effect::CallOff { set, case } => {
                let called_off = self.hands.get_mut(&set).is_some_and(|hands| hands.call_off(case));
                return called_off.then(|| Event::Done { set, case, outcome: Outcome::Failed(CALLED_OFF.into()) });
            }
            Effect::Announce { set, case, remap } => {
                let stuck = "it could not be written down that it goes back to main: the daemon is stuck";
                let refused = Event::Done { set, case, outcome: Outcome::Failed(stuck.into()) };
                return (!self.report(Report::Effect(Effect::Announce { set, case, remap }))).then_some(refused);
            }
            Effect::Reserve { set, session, spare, want } => {
                // Without an answer the engine would wait for one for ever: it is to ask again.
                let later = Event::Reserved { set, session, spare, extents: Vec::new(), free: want, untried: want };
                return (!self.report(Report::Effect(Effect::Reserve { set, session, spare, want }))).then_some(later);
            }
            other => drop(self.report(Report::Effect(other))),
        }
        None
    }

    fn cure(&self, set: SetId, cure: Cure) {
        if let Some(hands) = self.hands.get(&set) {
            hands.cure(cure);
        }
    }

    /// False if it is lost.
    fn report(&mut self, report: Report) -> bool {
        if self.lost > 0 && self.reports.try_send(Report::Lost(self.lost)).is_ok() {
            self.lost = 0;
        }
        let lost = matches!(self.reports.try_send(report), Err(TrySendError::Full(_)));
        self.lost += u64::from(lost);
        !lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Identity, Member, Millis, Remap, RemapFlags, Secret, Sector, Sectors, SetDescription, SetName};
    use crate::policy::Policy;

    fn opened(spares: u16) -> (SetId, Event) {
        let id = SetId(uuid::Uuid::from_u128(spares.into()));
        let set = SetDescription {
            id,
            name: SetName::new("data").unwrap(),
            main: Identity { sectors: Sectors(1 << 20), logical_block: 512, physical_block: 4096, ..Identity::default() },
            spares: vec![Identity::default(); spares.into()],
            secret: Secret([0; 16]),
            geometry: Vec::new(),
            created: Millis(0),
        };
        let policy = Box::new(Policy::test_balanced());
        (id, Event::Opened { set: Box::new(set), remaps: Vec::new(), capacity: vec![Sectors(1 << 10); spares.into()], policy })
    }

    /// A spare whose request for space was lost is told so, or it would wait for ever, and with it every cure of its set.
    #[tokio::test]
    async fn no_lost_request_for_spare_space_is_waited_for() {
        let (critical, mut reports, thread) = Critical::start(Engine::new()).unwrap();
        let (other, opened_other) = opened(0);
        critical.event(opened_other);
        for n in 0..REPORTS {
            let (summary, worse) = ("SMART".into(), vec![format!("counter {n}")]);
            critical.event(Event::Smart { set: other, member: Member::Main, summary, worse });
        }
        let (_, opened) = opened(2);
        critical.event(opened);
        assert!(!critical.ask(|engine| engine.sets().any(|set| set.waits_for_space())).await.unwrap());
        critical.stop();
        while reports.recv().await.is_some() {}
        thread.join().unwrap();
    }

    /// What is to go back to main would wait for ever until that is written down.
    #[tokio::test]
    async fn no_lost_announcement_is_waited_for() {
        let (critical, mut reports, thread) = Critical::start(Engine::new()).unwrap();
        let (set, opened) = opened(1);
        let extent = Extent::new(Sector(80), Sectors(8)).unwrap();
        let remap = Remap { main: extent, spare: 0, at: Sector(88), flags: RemapFlags::default(), seq: 1 };
        let Event::Opened { set: desc, capacity, policy, .. } = opened else { panic!("{opened:?}") };
        critical.event(Event::Opened { set: desc, remaps: vec![remap], capacity, policy });
        for n in 0..REPORTS {
            let (summary, worse) = ("SMART".into(), vec![format!("counter {n}")]);
            critical.event(Event::Smart { set, member: Member::Main, summary, worse });
        }
        critical.event(Event::AskedBack { set, extent });
        let settled =
            critical.ask(|engine| engine.sets().map(|set| (set.is_settled(), set.remaps().count())).collect::<Vec<_>>());
        assert_eq!(settled.await.unwrap(), [(true, 1)]);
        critical.stop();
        while reports.recv().await.is_some() {}
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn the_thread_waits_for_nobody_and_says_what_was_lost() {
        let (critical, mut reports, thread) = Critical::start(Engine::new()).unwrap();
        let (set, opened) = opened(1);
        critical.event(opened);
        let more = 100;
        for n in 0..REPORTS + more {
            let (summary, worse) = ("SMART".into(), vec![format!("counter {n}")]);
            critical.event(Event::Smart { set, member: Member::Main, summary, worse });
        }
        // Nobody has read a report so far.
        assert_eq!(critical.ask(|engine| engine.sets().count()).await.unwrap(), 1);
        let mut told = 0;
        while reports.try_recv().is_ok() {
            told += 1;
        }
        critical.event(Event::Smart { set, member: Member::Main, summary: String::new(), worse: vec!["last".into()] });
        critical.stop();
        let (mut lost, mut last) = (0, 0);
        while let Some(report) = reports.recv().await {
            match report {
                Report::Lost(count) => lost += count,
                _ => last += 1,
            }
        }
        thread.join().unwrap();
        assert_eq!(told, REPORTS);
        assert!(lost >= more as u64 && last > 0, "{lost} lost, {last} more");
        assert!(!critical.event(Event::Tick), "it has ended");
    }

    /// The threads of a set end when its cures have, and all that the engine wanted before is told of first.
    #[tokio::test]
    async fn a_set_rests_when_its_cures_have_ended() {
        let (critical, mut reports, thread) = Critical::start(Engine::new()).unwrap();
        let (set, opened) = opened(1);
        let hands = Hands::idle();
        // Somebody keeps a handle, and never uses it.
        let kept = hands.trials();
        critical.serve(set, opened, hands);
        let extent = Extent::new(crate::model::Sector(64), Sectors(8)).unwrap();
        critical.event(Event::Asked { set, extent });
        critical.rest(set);
        assert!(!critical.ask(move |engine| engine.set(set).unwrap().is_settled()).await.unwrap(), "it waits for space");
        let mut before = 0;
        while let Ok(report) = reports.try_recv() {
            assert!(!matches!(report, Report::Rested { .. }), "a cure waits");
            before += 1;
        }
        assert!(before > 0, "space was asked for");
        critical.event(Event::Space { set, spare: 0, free: Sectors(0) });
        let (case, outcome) = (crate::engine::CaseId(1), crate::engine::Outcome::Released);
        critical.event(Event::Done { set, case, outcome });
        let (mut told, mut rested) = (0, None);
        while rested.is_none() {
            match reports.recv().await.unwrap() {
                Report::Rested { set: of, threads } => rested = Some((of, threads)),
                _ => told += 1,
            }
        }
        let (of, threads) = rested.unwrap();
        assert!(of == set && told > 0, "that the request was given up is told before");
        while !threads.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(kept);
        assert!(critical.ask(move |engine| engine.set(set).is_some()).await.unwrap(), "it is opened again");
        critical.stop();
        thread.join().unwrap();
    }
}
