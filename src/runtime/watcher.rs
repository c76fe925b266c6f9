//! One thread per set that keeps the lease and reads the target's error ring, so that a slow disk under
//! the actuator never makes the kernel believe that the daemon died.

use super::critical::{self, Critical};
use crate::actuate::target::DmTarget;
use crate::edge::{Target, TargetFault};
use crate::engine::Event;
use crate::model::{SetId, TargetErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The last lease of a set that is taken over at once, ms: it lasts until then, and what fails meanwhile is held.
const LAST_LEASE_MS: u64 = 30_000;

/// Which error records are news.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// The first one.
    pub since: u64,
    /// The first one that says that a write waits: those which wait since before tell of themselves anew.
    pub held_since: u64,
}

/// What the kernel may hold, and for how long without a word from us.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    /// How long, ms.
    pub ms: u64,
    /// Failed reads, too.
    pub reads: bool,
}

/// The thread of a set.
pub struct Watching {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watching {
    /// Whether failed reads are held from the next lease on, too.
    pub fn hold_reads(&self, reads: bool) {
        self.reads.store(reads, Ordering::Relaxed);
    }

    /// Looks once more, and ends with a long lease: somebody takes the device over at once. Returns when it has ended.
    pub fn end(self) {
        self.stop.store(true, Ordering::Release);
        // One that has panicked has ended, too.
        drop(self.thread.join());
    }
}

/// Starts the thread. It ends when it is told to, when the device is gone or belongs to somebody else, or when the engine's thread
/// has ended.
pub fn start(set: SetId, target: DmTarget, from: From, lease: Lease, engine: Critical) -> std::io::Result<Watching> {
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(lease.reads)));
    let (told, asked) = (stop.clone(), reads.clone());
    let From { since, held_since } = from;
    let watcher = Watcher { set, target, since, held_since, lease_ms: lease.ms, reads: asked, engine, stop: told };
    Ok(Watching { stop, reads, thread: critical::thread("watcher", move || watcher.run())? })
}

struct Watcher {
    set: SetId,
    target: DmTarget,
    since: u64,
    held_since: u64,
    lease_ms: u64,
    reads: Arc<AtomicBool>,
    engine: Critical,
    stop: Arc<AtomicBool>,
}

impl Watcher {
    fn run(mut self) {
        let pause = Duration::from_millis((self.lease_ms / 4).min(1_000));
        loop {
            let last = self.stop.load(Ordering::Acquire);
            if last {
                self.lease_ms = self.lease_ms.max(LAST_LEASE_MS);
            }
            // Before looking: an event after the look ends the pause.
            let armed = self.target.arm();
            match self.look() {
                Ok(true) => {}
                Ok(false) => return,
                Err(fault @ (TargetFault::NotOwner(_) | TargetFault::Gone(_))) => {
                    self.engine.event(Event::Closed { set: self.set, reason: fault.to_string() });
                    return;
                }
                Err(other) => tracing::warn!(%other, "the target's errors could not be read"),
            }
            if last {
                return;
            }
            // Where events cannot be had, errors are found a little later.
            if armed.is_ok() { self.target.wait(pause) } else { std::thread::sleep(pause) }
        }
    }

    /// False if nobody listens any more.
    fn look(&mut self) -> Result<bool, TargetFault> {
        self.target.lease(self.lease_ms, self.reads.load(Ordering::Relaxed))?;
        let mut page = self.target.errors(self.since)?;
        // After the ring was overwritten the oldest record is beyond the one we asked for.
        let missed = page.oldest.min(page.next).saturating_sub(self.since);
        self.since = page.next;
        page.records.retain(|record| record.kind != TargetErrorKind::Held || record.seq >= self.held_since);
        if missed == 0 && page.records.is_empty() {
            return Ok(true);
        }
        Ok(self.engine.event(Event::Errors { set: self.set, records: page.records, missed }))
    }
}
