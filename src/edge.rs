//! The boundary, on one page: what the core needs from the world. Each trait has a real
//! implementation (`actuate`, `store`) and a simulated one (`sim`).

use crate::model::{
    ChainWalk, Cut, Entry, Extent, Identity, Millis, Remap, Sample, Secret, Sector, Sectors, SetDescription, SetId, SetName,
    Stamp, TargetError, TestTimes, Told,
};

/// Why block I/O failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The medium did not give or take these sectors (EIO, ENODATA, EREMOTEIO).
    #[error("medium error ({0})")]
    Medium(String),
    /// No answer within the time given; it may still come.
    #[error("no answer within {0} ms")]
    Late(u64),
    /// Anything else: the disk is gone, the link failed, a time-out. Says nothing about the content.
    #[error("{0}")]
    Other(String),
}

/// Raw block I/O that bypasses every cache of the host. Buffers are whole logical blocks.
pub trait BlockIo: Send {
    /// Reads `buf.len()` bytes from `at`.
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError>;
    /// As `read`, but gives up with [`IoError::Late`] after `ms`, where the device can be slow.
    fn read_within(&self, at: Sector, buf: &mut [u8], _ms: u64) -> Result<(), IoError> {
        self.read(at, buf)
    }
    /// Writes `buf`; durable only after `flush`.
    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError>;
    /// Writes `buf`; on return it is on the medium (FUA, or a flush after it).
    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError>;
    /// As `write_durable`, but gives up with [`IoError::Late`] after `ms`, where the device can be slow. It may still arrive, but never
    /// over what is written later.
    fn write_durable_within(&self, at: Sector, buf: &[u8], _ms: u64) -> Result<(), IoError> {
        self.write_durable(at, buf)
    }
    /// Makes everything written so far durable.
    fn flush(&self) -> Result<(), IoError>;
    /// Size of the device.
    fn size(&self) -> Sectors;
    /// Logical block size in bytes.
    fn logical_block(&self) -> u32;
}

/// Why a message to the target failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// Another owner took the device (EPERM) or the device was replaced (ESTALE).
    #[error("another owner has the device ({0})")]
    NotOwner(String),
    /// The fence is gone or was never drained (ENOENT, ETIME).
    #[error("the fence has ended ({0})")]
    FenceGone(String),
    /// Not yet: still draining (EAGAIN), or a fence is already there (EBUSY).
    #[error("busy ({0})")]
    Busy(String),
    /// The device does not exist (ENXIO).
    #[error("the device is gone ({0})")]
    Gone(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Identifies a fence in the target.
pub type FenceId = u64;

/// State of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceState {
    /// I/O that was under way is still running.
    Draining,
    /// No I/O is under way in the range.
    Drained,
    /// It will not let I/O through before an outcome.
    Sealed,
    /// Sealed, and past its bound: I/O in the range fails.
    Failed,
}

impl FenceState {
    /// Whether it lets no I/O through before an outcome.
    pub fn is_sealed(self) -> bool {
        matches!(self, FenceState::Sealed | FenceState::Failed)
    }
}

/// One fence, as the target lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Its id.
    pub id: FenceId,
    /// The range on main.
    pub extent: Extent,
    /// Its state.
    pub state: FenceState,
}

/// The counters of `dmsetup status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetStatus {
    /// Live remaps.
    pub remaps: u64,
    /// I/O errors counted by the target.
    pub errors: u64,
    /// `ACTIVE`, `CLOSED` or `EXPIRED`.
    pub state: String,
    /// Instance id, random per mapped device.
    pub instance: String,
    /// Sequence number of the next error record.
    pub next_seq: u64,
    /// Pieces of writes that wait.
    pub held: u64,
}

/// Error records read from the ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPage {
    /// Oldest sequence number still in the ring.
    pub oldest: u64,
    /// Sequence number of the next record.
    pub next: u64,
    /// Records, oldest first.
    pub records: Vec<TargetError>,
}

/// The kernel target of one set. Owned: messages carry our token.
pub trait Target: Send {
    /// Counters.
    fn status(&self) -> Result<TargetStatus, TargetFault>;
    /// Error records from `since` on; may be a page of them.
    fn errors(&self, since: u64) -> Result<ErrorPage, TargetFault>;
    /// All live remaps, sorted by main sector.
    fn dump(&self) -> Result<Vec<Remap>, TargetFault>;
    /// All fences.
    fn fences(&self) -> Result<Vec<Fence>, TargetFault>;
    /// Holding of failed writes, and of failed reads if `reads`, is allowed for the next `ms`.
    fn lease(&self, ms: u64, reads: bool) -> Result<(), TargetFault>;
    /// Key of the lost marks.
    fn secret(&self, secret: &Secret) -> Result<(), TargetFault>;
    /// Stops new I/O to a range.
    fn fence(&self, extent: Extent, ms: u64) -> Result<FenceId, TargetFault>;
    /// Waits until no I/O is under way in a fence's range. Fails when the fence has ended before that.
    fn await_drained(&self, fence: FenceId) -> Result<(), TargetFault> {
        loop {
            match self.fences()?.iter().find(|known| known.id == fence).map(|known| known.state) {
                Some(FenceState::Draining) => std::thread::sleep(std::time::Duration::from_millis(2)),
                Some(_) => return Ok(()),
                None => return Err(TargetFault::FenceGone("its bound passed while I/O was still under way".into())),
            }
        }
    }
    /// Makes a drained fence last until an outcome; its bound starts anew.
    fn seal(&self, fence: FenceId) -> Result<(), TargetFault>;
    /// Ends a fence and lets I/O through.
    fn unfence(&self, fence: FenceId) -> Result<(), TargetFault>;
    /// Makes a remap live and ends its fence. Without a fence only while the device is closed.
    fn add_remap(&self, remap: &Remap, fence: Option<FenceId>) -> Result<(), TargetFault>;
    /// Lets main serve the range again and ends the fence.
    fn remove_remap(&self, main: Sector, fence: FenceId) -> Result<(), TargetFault>;
    /// Loads many remaps into a closed device.
    fn load(&self, remaps: &[Remap]) -> Result<(), TargetFault>;
    /// Opens a closed device if its table is exactly `remaps`.
    fn ready(&self, remaps: &[Remap]) -> Result<(), TargetFault>;
    /// Tries held writes in a range again; returns how many pieces.
    fn retry(&self, extent: Extent) -> Result<u64, TargetFault>;
    /// Gives held I/O in a range its error; returns how many pieces.
    fn release(&self, extent: Extent) -> Result<u64, TargetFault>;
    /// The same for reads alone: a write may wait for the same sectors, and for another answer.
    fn release_reads(&self, extent: Extent) -> Result<u64, TargetFault>;
    /// A member is about to be flushed past the target. `n` is its number, which tells apart what goes on at the same time: see
    /// `actuate::announced::number`.
    fn flush_begin(&self, n: u8) -> Result<(), TargetFault>;
    /// That has ended. If it failed, the drive has told us what an application's flush should have been told: that one fails then.
    fn flush_end(&self, n: u8, failed: bool) -> Result<(), TargetFault>;
}

/// What a history tells of remaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToldRemaps {
    /// Those that were made, and did not go back since; also from entries that were pruned.
    pub live: Vec<Remap>,
    /// Those that went back to main; not what was pruned. It is told only when the record is gone durably.
    pub gone: Vec<Remap>,
}

impl ToldRemaps {
    /// Takes one more piece of news, which is later than all before.
    pub fn add(&mut self, news: Told) {
        if let Told::Gone(remap) = news {
            self.gone.push(remap);
        }
        news.apply(&mut self.live);
    }
}

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// State of a range of a spare in the allocator. What is in none of these is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ExtentState {
    /// Taken out of the free space, verified, waiting for a remap.
    Reserved,
    /// Serves main sectors from here on.
    InUse {
        /// First main sector.
        main: Sector,
    },
    /// Failed its verification; never used again.
    Bad,
}

/// What the daemon remembers on the host: registry, allocator, history. Can lag the spares; never decides against them.
pub trait Store: Send {
    /// Adds or replaces a set in the registry.
    fn put_set(&self, set: &SetDescription) -> Result<(), StoreError>;
    /// Removes a set and what is known of its spares; its history stays.
    fn remove_set(&self, set: SetId) -> Result<(), StoreError>;
    /// All known sets.
    fn sets(&self) -> Result<Vec<SetDescription>, StoreError>;
    /// Makes the allocator of one spare agree with its table: `live` are the extents in use there. Reserved extents of an
    /// earlier run become free (they must be verified anew), bad ones stay bad.
    fn rebuild(&self, set: SetId, spare: u16, data: Extent, live: &[Remap]) -> Result<(), StoreError>;
    /// Durably reserves up to `want` sectors in extents that are multiples of `unit` sectors and aligned to it; fewer if space ends.
    fn reserve(&self, set: SetId, spare: u16, want: Sectors, unit: Sectors) -> Result<Vec<Extent>, StoreError>;
    /// Sets the state of a range that was reserved.
    fn mark(&self, set: SetId, spare: u16, extent: Extent, state: ExtentState) -> Result<(), StoreError>;
    /// Sectors: free, reserved, in use, bad.
    fn usage(&self, set: SetId, spare: u16) -> Result<Usage, StoreError>;
    /// What a spare serves as last recorded, by place on the spare. Also before its table was read: it is what is left to go by
    /// when that table is lost. Can lag the spare.
    fn in_use(&self, set: SetId, spare: u16) -> Result<Vec<Served>, StoreError>;
    /// Appends to the history; returns the entry's number.
    fn append(&self, entry: &Entry) -> Result<u64, StoreError>;
    /// Makes everything durable, history too.
    fn flush(&self) -> Result<(), StoreError>;
    /// History entries, oldest first: the last `limit` of those at or after `since` of `set` (all sets if none).
    fn history(&self, set: Option<SetId>, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError>;
    /// As `history`, of sets that had this name at the time.
    fn history_named(&self, name: &SetName, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError>;
    /// The first `limit` history entries whose number is above `number`, oldest first.
    fn history_after(&self, number: u64, limit: usize) -> Result<Vec<Entry>, StoreError>;
    /// What the history of a set tells of its remaps. Can lag the spares.
    fn told(&self, set: SetId) -> Result<ToldRemaps, StoreError>;
    /// Every remap that the history of a set tells of, also the entries that were pruned. Can lag the spares.
    fn told_remaps(&self, set: SetId) -> Result<Vec<Remap>, StoreError> {
        Ok(self.told(set)?.live)
    }
    /// Durably remembers that a remap is about to go back to main, or forgets it: whether its record is still there when that is
    /// interrupted, only its spare can say. There is one of a set at a time.
    fn set_returning(&self, set: SetId, remap: Option<&Remap>) -> Result<(), StoreError>;
    /// What was last remembered so.
    fn returning(&self, set: SetId) -> Result<Option<Remap>, StoreError>;
    /// Keeps what a drive counted, thins out what is kept of it, and gives what is kept up to this sample, in order of time.
    fn keep_sample(&self, disk: &str, sample: &Sample) -> Result<Vec<Sample>, StoreError>;
    /// What is kept of a drive, in order of time.
    fn samples(&self, disk: &str) -> Result<Vec<Sample>, StoreError>;
    /// When self-tests of a drive were last started.
    fn test_times(&self, disk: &str) -> Result<TestTimes, StoreError>;
    /// Durably remembers that.
    fn set_test_times(&self, disk: &str, times: TestTimes) -> Result<(), StoreError>;
    /// The oldest and the newest history entry.
    fn history_ends(&self) -> Result<Option<(Stamp, Stamp)>, StoreError>;
    /// Goes on with a check of the history's chain, or begins one, and looks at up to `most` entries.
    fn verify(&self, walk: Option<ChainWalk>, most: usize) -> Result<ChainWalk, StoreError>;
    /// Takes up to `most` of the oldest entries out of the history, and appends one to each of their sets that says so, of the
    /// time `now`. Nothing but history is touched, and what they told of remaps stays in [`Store::told_remaps`].
    fn prune(&self, cut: Cut, most: usize, reason: &str, now: Millis) -> Result<Prune, StoreError>;
}

/// One step of pruning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prune {
    /// Entries that are gone.
    pub entries: u64,
    /// Nothing more is to go.
    pub done: bool,
}

/// A range of main that a spare serves, as the store knows it: a remap without its flags and sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The range of main.
    pub main: Extent,
    /// First sector on the spare.
    pub at: Sector,
}

/// Space of one spare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Never used, or given back.
    pub free: Sectors,
    /// Verified and waiting.
    pub reserved: Sectors,
    /// Serving main sectors.
    pub in_use: Sectors,
    /// Found bad.
    pub bad: Sectors,
}

/// A block device found on this machine.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FoundDevice {
    /// Device node, for example `/dev/sdb1`.
    pub node: std::path::PathBuf,
    /// Kernel name, for example `sdb1`.
    pub name: String,
    /// Kernel name of the whole disk, for example `sdb`; its own name if it is one.
    pub disk: String,
    /// How it is recognised.
    pub identity: Identity,
    /// Major and minor number.
    pub devno: (u32, u32),
    /// How it is attached: `nvme`, `sata`, `ata`, `sas`, `scsi`, `usb`, `virtio`, `mmc` or `other`.
    #[serde(default)]
    pub transport: String,
    /// Whether it has turning platters, where the kernel says so.
    #[serde(default)]
    pub rotational: Option<bool>,
}
