//! Two threads per set for its disks: the actuator cures, in order; the prober does what no application waits for.

use super::daemon::Input;
use crate::actuate::probe::Prober;
use crate::actuate::steps::Actuator;
use crate::engine::{CaseId, Event, Step};
use crate::model::{Extent, SetId};
use std::sync::mpsc;
use tokio::sync::mpsc::UnboundedSender;

/// Work that a held write may wait for.
pub enum Cure {
    /// A step of a case.
    Step(CaseId, Step),
    /// Try held writes again.
    Retry(Extent),
}

/// Work that nobody waits for, and that may take long on a dying disk.
pub enum Trial {
    /// Write and read back newly reserved extents of a spare.
    Verify(u16, Vec<Extent>),
    /// Find the sectors that do not read.
    Probe(CaseId, Extent),
}

/// The ways to a set's two threads, which end when all of these are dropped.
#[derive(Clone)]
pub struct Workers {
    /// To the actuator.
    pub cures: mpsc::Sender<Cure>,
    /// To the prober.
    pub trials: mpsc::Sender<Trial>,
}

/// Starts the threads.
pub fn start(set: SetId, mut actuator: Actuator, mut prober: Prober, out: UnboundedSender<Input>) -> std::io::Result<Workers> {
    let results = out.clone();
    let cures = thread("actuator", move |work| match work {
        Cure::Step(case, step) => {
            let outcome = actuator.run(&step);
            tracing::debug!(?step, ?outcome, "step");
            drop(results.send(Input::Engine(Event::Done { set, case, outcome })));
        }
        Cure::Retry(extent) => {
            if let Err(fault) = actuator.retry(extent) {
                tracing::warn!(%extent, %fault, "held writes could not be tried again");
            }
        }
    })?;
    let trials = thread("prober", move |work| {
        let input = match work {
            Trial::Verify(spare, extents) => Input::Verified { set, spare, verified: prober.verify(spare, extents) },
            Trial::Probe(case, extent) => Input::Engine(Event::Done { set, case, outcome: prober.probe(extent) }),
        };
        drop(out.send(input));
    })?;
    Ok(Workers { cures, trials })
}

fn thread<T: Send + 'static>(name: &str, mut work: impl FnMut(T) + Send + 'static) -> std::io::Result<mpsc::Sender<T>> {
    let (send, queue) = mpsc::channel();
    std::thread::Builder::new().name(name.into()).spawn(move || queue.into_iter().for_each(&mut work))?;
    Ok(send)
}
