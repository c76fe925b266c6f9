//! Traces: what the engine saw, written down (`record`), and what it would have decided by another policy (`simulate`).
//! The form is in `FORMAT.md`.

mod answers;
mod compare;
mod read;
mod replay;
mod space;
#[cfg(test)]
mod tests;

pub use compare::{Compared, Told};
pub use read::{Trace, TraceError, read};
pub use replay::{Simulated, simulate};

use crate::engine::{CaseId, Effect, Event, Snapshot, Step};
use crate::model::{Entry, Extent, Millis, Secret, SetId};
use serde::{Deserialize, Serialize};

/// The form of traces that this program writes, and the newest that it reads.
pub const VERSION: u64 = 4;

/// The longest line, bytes.
pub const MAX_LINE: usize = 8 << 20;

/// One line of a trace. Times are milliseconds since boot and never decrease.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Trace {
        /// See [`VERSION`].
        version: u64,
        /// Version of the program that wrote it.
        program: String,
        /// When it was begun, Unix ms.
        time: Millis,
    },
    /// What the engine knew when the recording began.
    Began {
        /// When.
        at: Millis,
        /// How often a set had been opened.
        sessions: u64,
        /// The open sets.
        sets: Vec<Snapshot>,
    },
    /// What the engine was told.
    Event {
        /// When.
        at: Millis,
        /// What.
        event: Box<Event>,
    },
    /// The event before it opened a case.
    Case {
        /// The set.
        set: SetId,
        /// The case, as outcomes name it.
        case: CaseId,
        /// The range on main.
        extent: Extent,
        /// It only looks which sectors do not read.
        probe: bool,
    },
    /// What was recorded in the history.
    Entry(Box<Entry>),
    /// So many lines were lost here.
    Lost(u64),
}

impl Line {
    /// What is written of an event: no secret.
    pub fn event(at: Millis, event: &Event) -> Line {
        let mut event = Box::new(event.clone());
        if let Event::Opened { set, .. } = event.as_mut() {
            set.secret = Secret([0; 16]);
        }
        Line::Event { at, event }
    }

    /// What is written of an effect, if anything is.
    pub fn effect(effect: &Effect) -> Option<Line> {
        let case = |set: &SetId, case: &CaseId, extent: &Extent, probe| {
            Some(Line::Case { set: *set, case: *case, extent: *extent, probe })
        };
        match effect {
            Effect::Step { set, case: id, step: Step::Fence(extent) | Step::GiveUp { extent, fence: None } } => {
                case(set, id, extent, false)
            }
            Effect::Probe { set, case: id, extent } => case(set, id, extent, true),
            Effect::Announce { set, case: id, remap } => case(set, id, &remap.main, false),
            Effect::Record(entry) => Some(Line::Entry(Box::new(entry.clone()))),
            _ => None,
        }
    }
}
