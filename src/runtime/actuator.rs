//! One thread per set that does what changes disks, in order.

use super::daemon::Input;
use crate::actuate::steps::Actuator;
use crate::engine::{CaseId, Event, Step};
use crate::model::{Extent, SetId};
use std::sync::mpsc;
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

/// Starts the thread; it ends when the sender is dropped.
pub fn start(set: SetId, mut actuator: Actuator, out: UnboundedSender<Input>) -> std::io::Result<mpsc::Sender<Work>> {
    let (send, queue) = mpsc::channel();
    std::thread::Builder::new().name("actuator".into()).spawn(move || {
        for work in queue {
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
    Ok(send)
}
