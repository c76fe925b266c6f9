//! The history: what happened to a set, with the evidence. Append-only, but for its oldest entries, which may be pruned.

use super::chain::Stamp;
use super::decision::Decision;
use super::fault::{ErrorClass, Member, Op};
use super::remap::Remap;
use super::scrub::ScrubSummary;
use super::set::{SetId, SetName};
use super::trend::Growth;
use super::units::{Extent, Millis, Sector, Sectors};
use serde::{Deserialize, Serialize};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number in the store, from 1; 0 until it is stored.
    #[serde(default)]
    pub number: u64,
    /// When.
    pub at: Millis,
    /// The set.
    pub set: SetId,
    /// Its name at the time.
    pub name: SetName,
    /// What happened.
    pub what: What,
}

/// What an entry tells of a remap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It became live.
    Live(Remap),
    /// Main serves its sectors again. So it does whatever was told of them before.
    Gone(Remap),
}

impl Told {
    /// Brings what was told so far up to date.
    pub fn apply(self, told: &mut Vec<Remap>) {
        match self {
            Told::Live(remap) => told.push(remap),
            Told::Gone(gone) => told.retain(|remap| !gone.outdates(remap)),
        }
    }
}

impl What {
    /// What it tells of a remap: that it became live, or that it is gone.
    pub fn told(&self) -> Option<Told> {
        match self {
            What::Remapped { remap, .. } | What::Relocated { remap, .. } => Some(Told::Live(*remap)),
            What::Unremapped { remap, .. } => Some(Told::Gone(*remap)),
            _ => None,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// The set was made.
    Created {
        /// Main, in words.
        main: String,
        /// Spares, in words.
        spares: Vec<String>,
        /// Sectors that can serve main.
        capacity: Sectors,
    },
    /// Another disk became a spare of the set.
    SpareAdded {
        /// The disk, in words.
        disk: String,
        /// Which spare it is, from 0.
        spare: u16,
        /// Sectors of it that can serve main.
        capacity: Sectors,
    },
    /// The device was assembled from its disks and opened.
    Restored {
        /// Remaps loaded.
        remaps: u64,
    },
    /// The daemon found the device already open and took it over.
    Adopted {
        /// Remaps in the kernel.
        remaps: u64,
        /// Differences between spare and kernel that were mended, in words.
        mended: Vec<String>,
    },
    /// A device could not be assembled.
    NotRestored {
        /// Why, and what to do.
        reason: String,
    },
    /// The set was given up.
    Forgotten {
        /// The spares that are blank now, in words.
        wiped: Vec<String>,
    },
    /// A block moved to a spare.
    Remapped {
        /// The remap.
        remap: Remap,
        /// Sectors whose content was saved from main.
        saved: Sectors,
        /// Sectors that could not be read and are marked lost (those that the waiting write covers heal with it).
        lost: Vec<Sector>,
        /// Policy's answer.
        decision: Decision,
        /// Error class.
        class: ErrorClass,
        /// From the first record to the live remap, ms.
        took_ms: u64,
        /// Evidence lines: kernel log, earlier read errors, SMART.
        evidence: Vec<String>,
    },
    /// Sectors of a spare that served main went bad, and what they held moved to others of it.
    Relocated {
        /// The remap that serves main now.
        remap: Remap,
        /// First sector on the spare that served it before; it is never used again.
        from: Sector,
        /// Sectors whose content was saved from there, lost marks of earlier losses among them.
        saved: Sectors,
        /// Sectors that could not be read there and are marked lost.
        lost: Vec<Sector>,
        /// Policy's answer.
        decision: Decision,
        /// Error class.
        class: ErrorClass,
        /// From the first record to the live remap, ms.
        took_ms: u64,
        /// Evidence lines.
        evidence: Vec<String>,
    },
    /// What a spare served went back to main, and its space is ready for the next cure.
    Unremapped {
        /// The remap that is gone.
        remap: Remap,
        /// Why.
        decision: Decision,
        /// From the request to main serving the sectors, ms.
        took_ms: u64,
    },
    /// What a spare serves could not go back to main.
    StaysRemapped {
        /// The remap, which goes on serving.
        remap: Remap,
        /// Why it was to go back.
        decision: Decision,
        /// What stopped it.
        reason: String,
    },
    /// A cure was given up; the application got the error it would have got without us.
    NotRemapped {
        /// The block on main.
        extent: Extent,
        /// Policy's answer.
        decision: Decision,
        /// What stopped it.
        reason: String,
        /// Evidence lines.
        evidence: Vec<String>,
    },
    /// I/O failed and nothing can be cured now.
    Error {
        /// The disk.
        member: Member,
        /// Kind of I/O.
        op: Op,
        /// The range on main, none for a flush.
        extent: Option<Extent>,
        /// Error class.
        class: ErrorClass,
        /// The sectors that did not read when tried one by one, where that was tried.
        unreadable: Vec<Sector>,
        /// What it means, in words.
        meaning: String,
        /// Evidence lines.
        evidence: Vec<String>,
    },
    /// A SMART reading changed for the worse.
    Smart {
        /// The disk.
        member: Member,
        /// What changed, in words.
        change: String,
    },
    /// A counter of a drive grows faster than the policy takes for harmless.
    Trend {
        /// The disk.
        member: Member,
        /// Which counter, and how far it has come within a week.
        growth: Growth,
        /// By which rule that is told.
        decision: Decision,
    },
    /// A file system on the set met an error of its own.
    FileSystem {
        /// Where it is mounted.
        at: String,
        /// The first error since the last entry, in words.
        error: String,
        /// How many there were since.
        count: u32,
        /// The inode that the first one is about, if it is about one.
        inode: Option<u64>,
    },
    /// The oldest entries of the set were taken out of the history.
    Pruned {
        /// How many.
        entries: u64,
        /// The first of them.
        first: Stamp,
        /// The last of them.
        last: Stamp,
        /// Why.
        reason: String,
        /// Numbers of those, of any set and at most 100, that no longer were as they had been written.
        broken: Vec<u64>,
    },
    /// A scrub has ended.
    Scrubbed(ScrubSummary),
    /// Something a person should look at.
    Alert {
        /// In words.
        message: String,
    },
}
