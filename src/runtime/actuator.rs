//! One thread per set that does what changes disks, in order.

use super::daemon::Input;
use crate::actuate::steps::Actuator;
use crate::engine::{CaseId, Event, Step};
use crate::model::{Extent, SetId};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedSender;

/// Work for a set's actuator.
pub enum Work {
    /// A step of a case.
    Step(CaseId, Step),
    /// Write and read back newly reserved extents of a spare.
    Verify(u16, Vec<Extent>),
    /// Try held writes again.
    Retry(Extent),
}

/// The thread of a set's actuator. Dropped, it does what is queued and ends; [`Hands::stop`] makes it end sooner.
pub struct Hands {
    work: mpsc::Sender<Work>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Hands {
    /// Queues work.
    pub fn give(&self, work: Work) {
        drop(self.work.send(work));
    }

    /// A handle for others who give work.
    pub fn sender(&self) -> mpsc::Sender<Work> {
        self.work.clone()
    }

    /// Nothing more of what is queued is begun. The thread may still be in the I/O that it is in: it has ended when the
    /// handle says so.
    pub fn stop(self) -> JoinHandle<()> {
        self.stop.store(true, Ordering::Release);
        self.thread
    }
}

/// Starts the thread.
pub fn start(set: SetId, mut actuator: Actuator, out: UnboundedSender<Input>) -> std::io::Result<Hands> {
    let (send, queue) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::Builder::new().name("actuator".into()).spawn(move || {
        for work in queue {
            if stopped.load(Ordering::Acquire) {
                return;
            }
            let input = match work {
                Work::Step(case, step) => {
                    let outcome = actuator.run(&step);
                    tracing::debug!(?step, ?outcome, "step");
                    Input::Engine(Event::Done { set, case, outcome })
                }
                Work::Verify(spare, extents) => {
                    let verified = actuator.verify(spare, extents);
                    Input::Verified { set, spare, verified }
                }
                Work::Retry(extent) => {
                    if let Err(fault) = actuator.retry(extent) {
                        tracing::warn!(%extent, %fault, "held writes could not be tried again");
                    }
                    continue;
                }
            };
            if out.send(input).is_err() {
                return;
            }
        }
    })?;
    Ok(Hands { work: send, stop, thread })
}
