//! Two threads per set for its disks: the actuator cures, in order; the prober does what no application waits for.

use super::critical::{self, Critical};
use super::daemon::Input;
use super::priority::{self, Priority};
use crate::actuate::probe::{Checked, Prober};
use crate::actuate::steps::Actuator;
use crate::engine::{CaseId, Event, Step};
use crate::failpoint::reached;
use crate::model::{Extent, Member, Remap, SetId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// Work that held I/O may wait for.
pub enum Cure {
    /// A step of a case.
    Step(CaseId, Step),
    /// Try held I/O again.
    Retry(Extent),
    /// Give held reads their error.
    ReleaseReads(Extent),
    /// Let I/O to these ranges fail.
    CloseOff(Vec<Extent>),
    /// Look after a spare's table, when nothing else is to be done.
    Tend(u16),
    /// See whether to end.
    Wake,
}

/// Work that takes long on a dying disk, and that no write waits for.
pub enum Trial {
    /// Write and read back newly reserved extents of a spare.
    Verify { session: u64, spare: u16, extents: Vec<Extent> },
    /// Find the sectors that do not read.
    Probe(CaseId, Extent),
    /// Write what a remap's spare holds to main, unless it was called off.
    Return(CaseId, Remap, Begun),
    /// Read a range of a member, when the disk has nothing else to do if so said.
    Check(Member, Extent, Priority, oneshot::Sender<Checked>),
    /// Find the blocks of a remap that are marked as lost.
    Marks(Remap, oneshot::Sender<Result<Vec<Extent>, String>>),
    /// See whether to end.
    Wake,
}

impl Trial {
    /// For a scrub nobody waits; for everything else somebody may.
    fn priority(&self) -> Priority {
        match self {
            Trial::Check(_, _, priority, _) => *priority,
            _ => Priority::Normal,
        }
    }
}

/// Whether something that is queued was begun or called off: whoever asks first decides it.
#[derive(Clone, Debug, Default)]
pub struct Begun(Arc<AtomicBool>);

impl Begun {
    fn is_mine(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// The two threads of a set. Dropped, they do what is queued and end; [`Hands::stop`] makes them end sooner.
pub struct Hands {
    cures: mpsc::Sender<Cure>,
    trials: mpsc::Sender<Trial>,
    /// The last one.
    returning: Option<(CaseId, Begun)>,
    stop: Arc<AtomicBool>,
    threads: Stopping,
}

/// Threads that have been told to end. One may still be in the I/O that it is in.
pub struct Stopping([JoinHandle<()>; 2]);

impl Stopping {
    /// Whether both have ended.
    pub fn is_finished(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }
}

impl Hands {
    /// Queues a cure.
    pub fn cure(&self, cure: Cure) {
        drop(self.cures.send(cure));
    }

    /// Queues a trial.
    pub fn try_out(&self, trial: Trial) {
        drop(self.trials.send(trial));
    }

    /// Queues that a remap goes back to main. There is one at a time.
    pub fn bring_back(&mut self, case: CaseId, remap: Remap) {
        let begun = Begun::default();
        self.returning = Some((case, begun.clone()));
        self.try_out(Trial::Return(case, remap, begun));
    }

    /// Takes that back, if it has not begun yet: then there is no answer, and this is true.
    pub fn call_off(&mut self, case: CaseId) -> bool {
        self.returning.take_if(|(of, _)| *of == case).is_some_and(|(_, begun)| begun.is_mine())
    }

    /// A handle for others who give the prober work.
    pub fn trials(&self) -> mpsc::Sender<Trial> {
        self.trials.clone()
    }

    /// Nothing more of what is queued is begun.
    pub fn stop(self) -> Stopping {
        self.stop.store(true, Ordering::Release);
        // Others may keep their handles, and wait for something to happen.
        self.cure(Cure::Wake);
        self.try_out(Trial::Wake);
        self.threads
    }
}

/// Starts the threads.
pub fn start(
    set: SetId,
    mut actuator: Actuator,
    mut prober: Prober,
    critical: &Critical,
    out: UnboundedSender<Input>,
) -> std::io::Result<Hands> {
    let stop = Arc::new(AtomicBool::new(false));
    let engine = critical.clone();
    // The oldest case first, to its end: its fence has waited longest, and each lasts only so long.
    let urgency = |cure: &Cure| match cure {
        Cure::Retry(_) | Cure::ReleaseReads(_) | Cure::CloseOff(_) => 0,
        Cure::Step(case, _) => case.0,
        Cure::Tend(_) | Cure::Wake => u64::MAX,
    };
    let (cures, actuator) = thread("actuator", &stop, urgency, move |work| match work {
        Cure::Step(case, step) => {
            let outcome = actuator.run(&step);
            tracing::debug!(?step, ?outcome, "step");
            engine.event(Event::Done { set, case, outcome });
        }
        Cure::Retry(extent) => {
            if let Err(fault) = actuator.retry(extent) {
                tracing::warn!(%extent, %fault, "what is held could not be tried again");
            }
        }
        Cure::ReleaseReads(extent) => {
            if let Err(fault) = actuator.release_reads(extent) {
                tracing::warn!(%extent, %fault, "held reads could not be given their error; they get it at their bound");
            }
        }
        Cure::CloseOff(ranges) => match actuator.close_off(&ranges) {
            Ok(news) => drop(engine.event(Event::Tended { set, spare: None, news })),
            Err(fault) => {
                tracing::error!(%fault, "ranges that a spare is too old for are not closed off yet; tried again each minute")
            }
        },
        Cure::Tend(spare) => {
            let (tended, news) = actuator.tend(spare);
            engine.event(Event::Tended { set, spare: Some((spare, tended)), news });
        }
        Cure::Wake => {}
    })?;
    let engine = critical.clone();
    // Cures may wait for new spare space, a read for a look at its sectors, and for the rest nobody does.
    let urgency = |trial: &Trial| u64::from(!matches!(trial, Trial::Verify { .. } | Trial::Probe(..)));
    let mut now = Priority::Normal;
    let (trials, prober) = thread("prober", &stop, urgency, move |work| {
        if work.priority() != now {
            now = work.priority();
            priority::set(now);
        }
        match work {
            Trial::Verify { session, spare, extents } => {
                let verified = prober.verify(spare, extents);
                reached("verified");
                drop(out.send(Input::Verified { set, session, spare, verified }));
            }
            Trial::Probe(case, extent) => drop(engine.event(Event::Done { set, case, outcome: prober.probe(extent) })),
            Trial::Return(case, remap, begun) => {
                if begun.is_mine() {
                    engine.event(Event::Done { set, case, outcome: prober.bring_back(&remap) });
                }
            }
            Trial::Check(member, extent, _, tell) => drop(tell.send(prober.check(member, extent))),
            Trial::Marks(remap, tell) => drop(tell.send(prober.marks(&remap))),
            Trial::Wake => {}
        }
    })?;
    Ok(Hands { cures, trials, returning: None, stop, threads: Stopping([actuator, prober]) })
}

fn thread<T: Send + 'static>(
    name: &str,
    stop: &Arc<AtomicBool>,
    urgency: impl Fn(&T) -> u64 + Send + 'static,
    work: impl FnMut(T) + Send + 'static,
) -> std::io::Result<(mpsc::Sender<T>, JoinHandle<()>)> {
    let (send, queue) = mpsc::channel();
    let stop = stop.clone();
    let run = move || by_urgency(&queue, urgency).take_while(|_| !stop.load(Ordering::Acquire)).for_each(work);
    Ok((send, critical::thread(name, run)?))
}

/// What is queued, the lowest number first, else in order; until the queue is empty and nobody can add to it any more.
fn by_urgency<T>(queue: &mpsc::Receiver<T>, urgency: impl Fn(&T) -> u64) -> impl Iterator<Item = T> {
    let mut waiting: BTreeMap<(u64, u64), T> = BTreeMap::new();
    let mut count = 0;
    std::iter::from_fn(move || {
        let next = if waiting.is_empty() { queue.recv().ok() } else { None };
        for work in next.into_iter().chain(queue.try_iter()) {
            count += 1;
            waiting.insert((urgency(&work), count), work);
        }
        waiting.pop_first().map(|(_, work)| work)
    })
}

#[cfg(test)]
impl Hands {
    /// Threads that do nothing.
    pub fn idle() -> Hands {
        let stop = Arc::default();
        let (cures, one) = thread("actuator", &stop, |_: &Cure| 0, drop).unwrap();
        let (trials, two) = thread("prober", &stop, |_: &Trial| 0, drop).unwrap();
        Hands { cures, trials, returning: None, stop, threads: Stopping([one, two]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_may_wait_for_is_not_idle() {
        let extent = Extent::new(crate::model::Sector(0), crate::model::Sectors(8)).unwrap();
        let scrub = Trial::Check(Member::Main, extent, Priority::Idle, oneshot::channel().0);
        let verify = Trial::Verify { session: 1, spare: 0, extents: vec![extent] };
        assert_eq!((scrub.priority(), verify.priority()), (Priority::Idle, Priority::Normal));
        assert_eq!(Trial::Probe(CaseId(1), extent).priority(), Priority::Normal);
    }

    #[test]
    fn what_is_urgent_comes_first_and_nothing_is_left() {
        let (send, queue) = mpsc::channel();
        [30, 10, 31, 20, 11].iter().for_each(|work| send.send(*work).unwrap());
        let mut all = by_urgency(&queue, |work: &u64| work / 10);
        assert_eq!((all.next(), all.next()), (Some(10), Some(11)));
        send.send(12).unwrap();
        drop(send);
        assert_eq!(all.collect::<Vec<u64>>(), [12, 20, 30, 31]);
    }

    #[test]
    fn what_goes_back_is_called_off_only_until_the_prober_begins() {
        let ((cures, _), (trials, queue)) = (mpsc::channel(), mpsc::channel());
        let ended = || std::thread::spawn(|| ());
        let threads = Stopping([ended(), ended()]);
        let mut hands = Hands { cures, trials, returning: None, stop: Arc::default(), threads };
        let main = Extent::new(crate::model::Sector(0), crate::model::Sectors(8)).unwrap();
        let remap = Remap { main, spare: 0, at: main.start(), flags: crate::model::RemapFlags::default(), seq: 1 };
        let queued = |hands: &mut Hands| {
            hands.bring_back(CaseId(1), remap);
            let Ok(Trial::Return(CaseId(1), _, begun)) = queue.recv() else { panic!("nothing is queued") };
            begun
        };
        let begun = queued(&mut hands);
        assert!(!hands.call_off(CaseId(2)) && hands.call_off(CaseId(1)) && !begun.is_mine());
        let begun = queued(&mut hands);
        assert!(begun.is_mine() && !hands.call_off(CaseId(1)));
    }
}
