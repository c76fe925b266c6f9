//! What goes wrong: error records of the target, and the faults that triage makes of them.

use super::set::SetId;
use super::units::{Extent, Millis, Sector, Sectors};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A disk of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Member {
    /// The protected disk.
    Main,
    /// A spare, by index.
    Spare(u16),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Main => f.pad("main"),
            Member::Spare(index) => f.pad(&format!("spare{index}")),
        }
    }
}

/// The kind of I/O that failed. Words as the target prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A cache flush.
    Flush,
    /// A discard.
    Discard,
    /// Write zeroes.
    Zeroes,
    /// Secure erase.
    Erase,
}

/// The block layer's reason, as the target prints it (`blk_status_t` in `include/linux/blk_types.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// `BLK_STS_MEDIUM` (ENODATA): the medium itself.
    Medium,
    /// `BLK_STS_IOERR` (EIO): unspecific.
    Ioerr,
    /// `BLK_STS_TARGET` (EREMOTEIO): the drive refused.
    Target,
    /// `BLK_STS_TRANSPORT` (ENOLINK): the link.
    Transport,
    /// `BLK_STS_NEXUS` / reservation conflict (EBADE).
    Nexus,
    /// `BLK_STS_TIMEOUT` (ETIMEDOUT).
    Timeout,
    /// `BLK_STS_PROTECTION` (EILSEQ).
    Protection,
    /// `BLK_STS_NOSPC` (ENOSPC).
    Nospc,
    /// `BLK_STS_RESOURCE` and its kin (ENOMEM, EBUSY).
    Resource,
    /// `BLK_STS_AGAIN` (EAGAIN).
    Again,
    /// `BLK_STS_OFFLINE` (ENODEV).
    Offline,
    /// Anything else.
    Other,
}

impl ErrorClass {
    /// Whether an error of this class may, once bound to fixed blocks, cost spare space (S7).
    pub fn may_be_medium(self) -> bool {
        matches!(self, ErrorClass::Medium | ErrorClass::Ioerr | ErrorClass::Target)
    }
}

macro_rules! words {
    ($type:ty { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word used in messages, files and metrics.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
            /// The value of a word, if it is one.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

words!(Op { Read = "read", Write = "write", Flush = "flush", Discard = "discard", Zeroes = "zeroes", Erase = "erase" });
words!(ErrorClass {
    Medium = "medium", Ioerr = "ioerr", Target = "target", Transport = "transport", Nexus = "nexus", Timeout = "timeout",
    Protection = "protection", Nospc = "nospc", Resource = "resource", Again = "again", Offline = "offline", Other = "other",
});
words!(TargetErrorKind { Failed = "failed", Held = "held", Healed = "healed", Expired = "expired", Released = "released" });

/// What became of the I/O behind an error record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetErrorKind {
    /// The error went up to the application.
    Failed,
    /// A write waits for a remap.
    Held,
    /// A held write succeeded after all.
    Healed,
    /// A held write got its error because its bound passed.
    Expired,
    /// A held write got its error because we said so, or the lease lapsed.
    Released,
}

/// One record of the target's error ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetError {
    /// Sequence number, from 1, without gaps unless records were overwritten.
    pub seq: u64,
    /// What became of it.
    pub kind: TargetErrorKind,
    /// Kind of I/O.
    pub op: Op,
    /// The disk that failed.
    pub member: Member,
    /// The range on main, `None` for a flush.
    pub main: Option<Extent>,
    /// First sector on the member that failed.
    pub member_sector: Sector,
    /// The block layer's reason.
    pub class: ErrorClass,
    /// Age in ms when the ring was read.
    pub age_ms: u64,
    /// The I/O was a read-ahead: a hint, it counts for no threshold.
    pub read_ahead: bool,
}

/// Who told of a failed request to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Teller {
    /// A line of the kernel log.
    Log,
    /// The kernel's tracepoint `block_rq_error`.
    Tracepoint,
}

/// What the kernel says of a request to a disk that failed, besides where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRequest {
    /// Who told of it.
    pub by: Teller,
    /// Kind of I/O, where it is told.
    pub op: Option<Op>,
    /// The block layer's reason.
    pub class: ErrorClass,
    /// Sectors that failed; 0 where it is not told.
    pub len: Sectors,
    /// It was read in advance: a hint. Only the tracepoint tells.
    pub read_ahead: bool,
}

/// A fault as triage sees it: one physical event, however many sources told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The set it hit.
    pub set: SetId,
    /// The disk.
    pub member: Member,
    /// Kind of I/O.
    pub op: Op,
    /// The range on main, in whole cure blocks.
    pub extent: Extent,
    /// The worst class seen.
    pub class: ErrorClass,
    /// A write waits in the kernel for the outcome.
    pub held: bool,
    /// The sectors that waiting writes bring, sorted: they need no salvage.
    #[serde(default)]
    pub covered: Vec<Extent>,
    /// A write that waited for it got its error before the cure was ready.
    #[serde(default)]
    pub late: bool,
    /// When it was first seen.
    pub at: Millis,
}
