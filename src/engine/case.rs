//! A case: one cure under way, from the fault to the live remap. The stages are those of the commit
//! order; each ends with an `Outcome` that the runtime reports.

use crate::edge::FenceId;
use crate::model::{Action, Decision, Extent, Fault, Millis, Remap, Sector, Sectors};
use serde::{Deserialize, Serialize};

/// Number of a case within this run of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CaseId(pub u64);

/// One step towards a remap. `actuate::steps` does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stop new I/O to the range. Ends with `Fenced`.
    Fence(Extent),
    /// Wait until no I/O is under way in the range, then copy what can be read of it to the spare, mark the
    /// rest lost, and flush. Ends with `Salvaged`.
    Salvage {
        /// The fence to wait for.
        fence: FenceId,
        /// From where to where; `flags` and `seq` are filled in later.
        remap: Remap,
        /// The remap that serves the range until then; without one main does.
        from: Option<Remap>,
        /// The kernel called it a medium error; of other errors it must be shown that the disk works elsewhere.
        medium: bool,
        /// Sectors that waiting writes bring: not read where that can be spared, a drive may need seconds to fail.
        covered: Vec<Extent>,
    },
    /// Seal the fence. Ends with `Sealed`.
    Seal(FenceId),
    /// Write the record on the spare: the commit point. Ends with `Committed`, `NotCommitted` or `Unknown`.
    Commit(Remap),
    /// After an unknown outcome: make it certain that the remap is not recorded. Ends with `NotCommitted` or `Unknown`.
    Settle(Remap),
    /// Make the remap live. Ends with `Live`.
    AddRemap {
        /// The remap, as recorded.
        remap: Remap,
        /// The sealed fence.
        fence: FenceId,
    },
    /// Durably remove the record of a remap whose content is on main again: the commit point of an un-remap. Ends as `Commit` does.
    Unrecord(Remap),
    /// Let main serve its sectors again. Ends with `Unmapped`.
    RemoveRemap {
        /// The remap, whose record is gone.
        remap: Remap,
        /// The sealed fence.
        fence: FenceId,
    },
    /// Lift a fence; what serves the range goes on serving it. Ends with `Released`.
    Lift(FenceId),
    /// Give held writes in the range their error and lift the fence, if there is one. Ends with `Released`.
    GiveUp {
        /// The range.
        extent: Extent,
        /// The fence.
        fence: Option<FenceId>,
    },
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The fence is up.
    Fenced(FenceId),
    /// The content is on the spare, flushed.
    Salvaged {
        /// Sectors copied.
        saved: Sectors,
        /// Sectors that could not be read and that no waiting write brings.
        lost: Vec<Sector>,
        /// Lost marks were written.
        marked: bool,
    },
    /// The spare extent did not take the content: another one is needed.
    SpareFailed(String),
    /// What is about to go back to main is durably written down.
    Announced,
    /// What a spare holds is on main again, durably and read back, under this fence.
    BroughtBack(FenceId),
    /// The fence is sealed.
    Sealed,
    /// The change of the table is durable.
    Committed(Remap),
    /// It certainly is not there.
    NotCommitted(String),
    /// Nobody knows whether it is there.
    Unknown(String),
    /// I/O follows the remap.
    Live,
    /// Main serves the sectors again.
    Unmapped {
        /// No copy of the table names the sectors of the spare any more: they can serve others.
        free: bool,
    },
    /// Held writes got their error, the fence is gone.
    Released,
    /// Sectors that do not read.
    Probed {
        /// Those that failed with a medium error.
        unreadable: Vec<Sector>,
    },
    /// The step failed before it changed anything that matters.
    Failed(String),
}

/// Where a case stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// What is about to go back to main is being written down.
    Announcing,
    /// Content goes back to main, under a fence.
    Returning,
    /// Waiting for the fence.
    Fencing,
    /// Copying.
    Salvaging,
    /// Waiting for the seal.
    Sealing,
    /// Writing the record.
    Committing,
    /// The record's fate is unknown; the range stays sealed until it is settled.
    Settling,
    /// The record is durable; the kernel is being told.
    Mapping,
    /// Giving up.
    Releasing,
    /// Looking which sectors do not read.
    Probing,
}

/// A cure under way.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its number.
    pub id: CaseId,
    /// What started it.
    pub fault: Fault,
    /// Policy's answer.
    pub decision: Decision,
    /// Where it stands.
    pub stage: Stage,
    /// The remap being made.
    pub remap: Option<Remap>,
    /// The live one that it replaces: its sectors of the spare went bad. Without a new one it goes back to main.
    pub from: Option<Remap>,
    /// The fence around it.
    pub fence: Option<FenceId>,
    /// Result of the salvage.
    pub saved: Sectors,
    /// Result of the salvage.
    pub lost: Vec<Sector>,
    /// Why it is being given up.
    pub failure: Option<String>,
    /// When an effect that can be repeated was last tried.
    pub tried_at: Millis,
    /// History has it already, from a minute ago at most.
    pub told: bool,
}

impl Case {
    /// The remap that it takes back, if it is an un-remap.
    pub fn taken_back(&self) -> Option<Remap> {
        self.from.filter(|_| self.remap.is_none() && self.decision.action == Action::Unremap)
    }

    /// Whether it is about to move any of these sectors.
    pub fn cures(&self, extent: &Extent) -> bool {
        self.stage != Stage::Probing && self.fault.extent.overlaps(extent)
    }
}
