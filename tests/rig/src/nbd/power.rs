//! What several served disks hang on together: their power, which can fail at the n-th request that changes one of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remap_guardian::sim::disk::Persist;

use super::{CMD_READ, CMD_WRITE, Request, SharedDisk};

/// The power of some disks. It is on at first.
#[derive(Clone, Default)]
pub struct Power(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    disks: Vec<SharedDisk>,
    failure: Option<Failure>,
}

/// A failure to come.
struct Failure {
    /// Requests until then.
    left: u64,
    seed: u64,
    then: Box<dyn FnOnce() + Send>,
}

impl Power {
    /// Lets the power fail when so many requests to write or to flush have come (at least 1): the last of them arrives as a
    /// power failure leaves it, in part or not at all, and nobody gets an answer to it. `seed` chooses what the caches lose.
    ///
    /// `then` is called before anybody gets an answer from a disk without power.
    pub fn fail_at(&self, request: u64, seed: u64, then: impl FnOnce() + Send + 'static) {
        self.lock().failure = Some(Failure { left: request, seed, then: Box::new(then) });
    }

    /// Lets the failure that was to come happen now. Does nothing if it has happened.
    pub fn fail_now(&self) {
        let mut state = self.lock();
        if let Some(failure) = state.failure.take() {
            state.fail(failure);
        }
    }

    /// Turns the power on again; the disks have what was on their media.
    pub fn restore(&self) {
        self.lock().disks.iter().for_each(|disk| disk.lock().set_gone(false));
    }

    pub(super) fn plug_in(&self, disk: SharedDisk) {
        self.lock().disks.push(disk);
    }

    /// A request has come, which the disk did not see yet.
    pub(super) fn draw(&self, disk: &SharedDisk, request: &Request) {
        let mut state = self.lock();
        if request.command == CMD_READ {
            return;
        }
        match state.failure.take() {
            Some(failure) if failure.left <= 1 => {
                request.arrive_unanswered(disk);
                state.fail(failure);
            }
            failure => state.failure = failure.map(|failure| Failure { left: failure.left - 1, ..failure }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fail(&mut self, failure: Failure) {
        for (number, disk) in (0..).zip(&self.disks) {
            let mut disk = disk.lock();
            disk.power_cut(failure.seed ^ number << 32);
            disk.set_gone(true);
        }
        (failure.then)();
    }
}

impl Request {
    /// What the power failure meets under way: a durable write is no more durable than another before its answer.
    fn arrive_unanswered(&self, disk: &SharedDisk) {
        if self.command == CMD_WRITE {
            // An error of the disk would not have been answered, either.
            let _ = disk.lock().write(self.sector(), &self.payload, Persist::Cached);
        }
    }
}
