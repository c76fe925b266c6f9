//! I/O on a spare that tells the target of each flush that goes past it.
//!
//! A drive that could not write what it had in its cache says so once, to whoever flushes first. What an application wrote
//! to the spare is in that cache, too, so its flush must not succeed after ours has taken the error.

use crate::edge::{BlockIo, IoError, Target, TargetFault};
use crate::model::{Sector, Sectors};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// A lost message would keep flushes of applications waiting, so it is sent again, so often.
const TRIES: usize = 3;

/// Held by each flush from its announcement to the word of how it ended.
static UNDER_WAY: RwLock<()> = RwLock::new(());

/// Waits until no announced flush is under way, and lets none begin any more: to be called before the process ends. What it
/// leaves behind under way the next owner cannot know the end of, so an application would be told that it failed. False if the
/// time was not enough.
pub fn quiesce(bound: Duration) -> bool {
    let until = Instant::now() + bound;
    loop {
        if let Ok(still) = UNDER_WAY.try_write() {
            std::mem::forget(still);
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
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

/// A spare's device with announced flushes.
pub struct Announced<Io> {
    io: Io,
    listener: Listener,
    n: u8,
}

impl<Io: BlockIo> Announced<Io> {
    /// `n`, 0 to 63, is of no other handle that `listener` hears of.
    pub fn new(io: Io, listener: &Listener, n: u8) -> Announced<Io> {
        Announced { io, listener: listener.clone(), n }
    }

    fn announced(&self, flush: impl FnOnce(&Io) -> Result<(), IoError>) -> Result<(), IoError> {
        let _under_way = UNDER_WAY.read().unwrap_or_else(PoisonError::into_inner);
        let Some(target) = self.listener.0.get() else { return flush(&self.io) };
        let end = |failed| (0..TRIES).map(|_| target.flush_end(self.n, failed)).find(Result::is_ok).is_some();
        let untold =
            |fault: TargetFault| IoError::Other(format!("nothing was flushed, as the target could not be told of it: {fault}"));
        if let Err(fault) = target.flush_begin(self.n) {
            // It may have arrived all the same.
            end(false);
            return Err(untold(fault));
        }
        let flushed = flush(&self.io);
        match end(flushed.is_err()) {
            true => flushed,
            // The target knows of a flush without an end, and will not let others succeed.
            false => Err(IoError::Other("the target could not be told how a flush ended".into())),
        }
    }
}

impl<Io: BlockIo> BlockIo for Announced<Io> {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        self.io.read(at, buf)
    }

    fn read_within(&self, at: Sector, buf: &mut [u8], ms: u64) -> Result<(), IoError> {
        self.io.read_within(at, buf, ms)
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.io.write(at, buf)
    }

    /// A flush, too, where the drive knows no FUA.
    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.announced(|io| io.write_durable(at, buf))
    }

    fn flush(&self) -> Result<(), IoError> {
        self.announced(Io::flush)
    }

    fn size(&self) -> Sectors {
        self.io.size()
    }

    fn logical_block(&self) -> u32 {
        self.io.logical_block()
    }
}
