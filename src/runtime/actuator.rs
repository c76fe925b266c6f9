//! Two threads per set for its disks: the actuator cures, in order; the prober does what no application waits for.

use super::critical::{self, Critical};
use super::daemon::Input;
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

/// Work that a held write may wait for.
pub enum Cure {
    /// A step of a case.
    Step(CaseId, Step),
    /// Try held writes again.
    Retry(Extent),
    /// Look after the spares' tables, when nothing else is to be done.
    Tend,
}

/// Work that nobody waits for, and that may take long on a dying disk.
pub enum Trial {
    /// Write and read back newly reserved extents of a spare.
    Verify { session: u64, spare: u16, extents: Vec<Extent> },
    /// Find the sectors that do not read.
    Probe(CaseId, Extent),
    /// Write what a remap's spare holds to main.
    Return(CaseId, Remap),
    /// Read a range of a member, for a scrub.
    Check(Member, Extent, oneshot::Sender<Checked>),
}

/// The two threads of a set. Dropped, they do what is queued and end; [`Hands::stop`] makes them end sooner.
pub struct Hands {
    cures: mpsc::Sender<Cure>,
    trials: mpsc::Sender<Trial>,
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

    /// A handle for others who give the prober work.
    pub fn trials(&self) -> mpsc::Sender<Trial> {
        self.trials.clone()
    }

    /// Nothing more of what is queued is begun.
    pub fn stop(self) -> Stopping {
        self.stop.store(true, Ordering::Release);
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
        Cure::Retry(_) => 0,
        Cure::Step(case, _) => case.0,
        Cure::Tend => u64::MAX,
    };
    let (cures, actuator) = thread("actuator", &stop, urgency, move |work| match work {
        Cure::Step(case, step) => {
            let outcome = actuator.run(&step);
            tracing::debug!(?step, ?outcome, "step");
            engine.event(Event::Done { set, case, outcome });
        }
        Cure::Retry(extent) => {
            if let Err(fault) = actuator.retry(extent) {
                tracing::warn!(%extent, %fault, "held writes could not be tried again");
            }
        }
        Cure::Tend => drop(engine.event(Event::Tended { set, news: actuator.tend() })),
    })?;
    let engine = critical.clone();
    // Cures may wait for new spare space, for the rest nobody does.
    let urgency = |trial: &Trial| u64::from(!matches!(trial, Trial::Verify { .. }));
    let (trials, prober) = thread("prober", &stop, urgency, move |work| match work {
        Trial::Verify { session, spare, extents } => {
            let verified = prober.verify(spare, extents);
            reached("verified");
            drop(out.send(Input::Verified { set, session, spare, verified }));
        }
        Trial::Probe(case, extent) => drop(engine.event(Event::Done { set, case, outcome: prober.probe(extent) })),
        Trial::Return(case, remap) => drop(engine.event(Event::Done { set, case, outcome: prober.bring_back(&remap) })),
        Trial::Check(member, extent, tell) => drop(tell.send(prober.check(member, extent))),
    })?;
    Ok(Hands { cures, trials, stop, threads: Stopping([actuator, prober]) })
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
mod tests {
    use super::*;

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
}
