//! How far a scrub is, and what it came to.

use super::units::{Millis, Sector, Sectors};
use serde::{Deserialize, Serialize};

/// A scrub, under way or over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScrubProgress {
    /// The first sector of the device that is still to be read.
    pub next: Sector,
    /// Size of the device.
    pub total: Sectors,
    /// Blocks that do not read.
    pub bad_blocks: u64,
    /// When it was begun.
    pub began: Millis,
    /// Whether it goes on.
    pub state: ScrubState,
}

/// Whether a scrub goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScrubState {
    /// It reads.
    #[default]
    Running,
    /// It goes on when this is over: the set is closed, or a disk does not answer.
    Waiting(String),
    /// Somebody stopped it. It goes on from here when it is asked for again.
    Stopped,
    /// It has reached the end.
    Done,
}

impl ScrubProgress {
    /// Whether it goes on by itself.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, ScrubState::Running | ScrubState::Waiting(_))
    }
}

/// What a scrub came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubSummary {
    /// Sectors that were looked at since it was begun.
    pub read: Sectors,
    /// Blocks that do not read.
    pub bad_blocks: u64,
    /// From its beginning, ms; breaks included.
    pub took_ms: u64,
    /// Somebody stopped it before the end of the device.
    #[serde(default)]
    pub stopped: bool,
}
