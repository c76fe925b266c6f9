//! One thread per set that keeps the lease and reads the target's error ring, so that a slow disk under
//! the actuator never makes the kernel believe that the daemon died.

use super::daemon::Input;
use crate::edge::{Target, TargetFault};
use crate::engine::Event;
use crate::model::SetId;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// Starts the thread. A message on the returned channel makes it look at once; it ends when the sender is dropped.
pub fn start(
    set: SetId,
    target: Box<dyn Target>,
    since: u64,
    lease_ms: u64,
    out: UnboundedSender<Input>,
) -> std::io::Result<mpsc::Sender<()>> {
    let (poke, poked) = mpsc::channel();
    std::thread::Builder::new().name("watcher".into()).spawn(move || {
        let pause = Duration::from_millis((lease_ms / 4).min(1_000));
        let mut since = since;
        loop {
            if let Err(fault) = look(set, target.as_ref(), &mut since, lease_ms, &out) {
                let input = match fault {
                    TargetFault::NotOwner(_) | TargetFault::Gone(_) => {
                        Input::Engine(Event::Closed { set, reason: fault.to_string() })
                    }
                    other => {
                        tracing::warn!(%other, "the target's errors could not be read");
                        continue_after(&poked, pause);
                        continue;
                    }
                };
                drop(out.send(input));
                return;
            }
            match poked.recv_timeout(pause) {
                Err(RecvTimeoutError::Disconnected) => return,
                // Several events may have come together; one look serves them all.
                _ => while poked.try_recv().is_ok() {},
            }
        }
    })?;
    Ok(poke)
}

fn continue_after(poked: &mpsc::Receiver<()>, pause: Duration) {
    let _ = poked.recv_timeout(pause);
}

fn look(
    set: SetId,
    target: &dyn Target,
    since: &mut u64,
    lease_ms: u64,
    out: &UnboundedSender<Input>,
) -> Result<(), TargetFault> {
    target.lease(lease_ms)?;
    let page = target.errors(*since)?;
    // After the ring was overwritten the oldest record is beyond the one we asked for.
    let missed = page.oldest.min(page.next).saturating_sub(*since);
    *since = page.next;
    if missed > 0 || !page.records.is_empty() {
        drop(out.send(Input::Engine(Event::Errors { set, records: page.records, missed })));
    }
    Ok(())
}
