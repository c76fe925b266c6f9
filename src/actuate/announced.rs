//! I/O on a member that tells the target of each flush that goes past it.
//!
//! A drive that could not write what it had in its cache says so once, to whoever flushes first. What an application wrote
//! is in that cache, too, so its flush must not succeed after ours has taken the error.

use crate::edge::{BlockIo, IoError, Target, TargetFault};
use crate::model::{Sector, Sectors};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A lost message would keep flushes of applications waiting, so it is sent again, so often.
const TRIES: usize = 3;

/// The announced flushes of the process.
struct UnderWay {
    count: usize,
    /// None begins any more.
    over: bool,
}

static UNDER_WAY: Mutex<UnderWay> = Mutex::new(UnderWay { count: 0, over: false });
static ENDED: Condvar = Condvar::new();

fn under_way() -> MutexGuard<'static, UnderWay> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From a flush's announcement to the word of how it ended.
struct Counted;

impl Counted {
    fn begin() -> Result<Counted, IoError> {
        let mut all = under_way();
        if all.over {
            return Err(IoError::Other("nothing is flushed any more: this process ends".into()));
        }
        all.count += 1;
        Ok(Counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        under_way().count -= 1;
        ENDED.notify_all();
    }
}

/// Waits until no announced flush is under way, and lets none begin any more: to be called before the process ends. What it
/// leaves behind under way the next owner cannot know the end of, so an application would be told that it failed. False if the
/// time was not enough.
pub fn quiesce(bound: Duration) -> bool {
    let mut all = under_way();
    all.over = true;
    let (all, _) = ENDED.wait_timeout_while(all, bound, |all| all.count > 0).unwrap_or_else(PoisonError::into_inner);
    all.count == 0
}

/// The number by which the target knows the flushes of a handle, if no other one of this member has the same `handle`.
///
/// Member 0 is main, 1 is spare 0 and so on up to 8; handles are 0 to 3. See the module's `flush` message.
pub fn number(member: u8, handle: u8) -> u8 {
    debug_assert!(member < 16 && handle < 4, "{member} {handle}");
    handle * 16 + member
}

/// Who is told: the target of a set, once there is one. Before that nobody writes to the spare but us.
#[derive(Clone, Default)]
pub struct Listener(Arc<OnceLock<Box<dyn Target + Sync>>>);

impl Listener {
    /// From now on this target is told. A second one changes nothing.
    pub fn hear(&self, target: Box<dyn Target + Sync>) {
        drop(self.0.set(target));
    }
}

/// A member's device with announced flushes.
pub struct Announced<Io> {
    io: Io,
    listener: Listener,
    n: u8,
}

impl<Io: BlockIo> Announced<Io> {
    /// `n` is the [`number`] of no other handle that `listener` hears of.
    pub fn new(io: Io, listener: &Listener, n: u8) -> Announced<Io> {
        Announced { io, listener: listener.clone(), n }
    }
}

impl<Io: BlockIo> BlockIo for Announced<Io> {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        self.io.read(at, buf)
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.io.write(at, buf)
    }

    /// Not with FUA: the kernel flushes the whole cache after such a write of ours, and a write that fails is no flush that failed.
    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.io.write(at, buf)?;
        self.flush()
    }

    fn flush(&self) -> Result<(), IoError> {
        let Some(target) = self.listener.0.get() else { return self.io.flush() };
        let _counted = Counted::begin()?;
        let end = |failed| (0..TRIES).map(|_| target.flush_end(self.n, failed)).find(Result::is_ok).is_some();
        let untold =
            |fault: TargetFault| IoError::Other(format!("nothing was flushed, as the target could not be told of it: {fault}"));
        if let Err(fault) = target.flush_begin(self.n) {
            // It may have arrived all the same.
            end(false);
            return Err(untold(fault));
        }
        let flushed = self.io.flush();
        match end(flushed.is_err()) {
            true => flushed,
            // The target knows of a flush without an end, and will not let others succeed.
            false => Err(IoError::Other("the target could not be told how a flush ended".into())),
        }
    }

    fn size(&self) -> Sectors {
        self.io.size()
    }

    fn logical_block(&self) -> u32 {
        self.io.logical_block()
    }
}
