//! The engine: the single owner of all state. `apply` takes an event and returns effects; it never
//! does I/O, never looks at a clock, and checks its invariants before it returns.

mod case;
mod cure;
mod observe;
#[cfg(test)]
mod read_hold_tests;
mod relocate;
mod set;
mod snapshot;
mod spent;
mod status;
mod storm;
mod tending;
#[cfg(test)]
mod tests;
mod unremap;
#[cfg(test)]
mod unremap_tests;

pub use crate::plan::scrub::Part;
pub use case::{CaseId, Outcome, Step};
pub use set::SetState;
pub use snapshot::{Snapshot, SpareSnapshot};
pub use status::{CaseStatus, SetStatus};
pub use tending::Tended;
pub use unremap::CALLED_OFF;

use crate::model::{Entry, Extent, FailedRequest, Finder, Member, Millis, Remap, Sector, SetDescription, SetId, TargetError};
use crate::policy::Policy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something that happened, or the result of an effect. Traces hold it as it is here: see `trace/FORMAT.md` before a change.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A set's device is open and its table is live.
    Opened {
        /// The set.
        set: Box<SetDescription>,
        /// Its live remaps.
        remaps: Vec<Remap>,
        /// Sectors per spare that are in use or can be used.
        capacity: Vec<crate::model::Sectors>,
        /// The policy for its main disk.
        policy: Box<Policy>,
    },
    /// A set's device is gone or no longer ours.
    Closed {
        /// The set.
        set: SetId,
        /// Why.
        reason: String,
    },
    /// Records of the target's error ring; `missed` when the ring had overwritten some.
    Errors {
        /// The set.
        set: SetId,
        /// The records.
        records: Vec<TargetError>,
        /// How many were lost.
        missed: u64,
    },
    /// A line about a member from another source, kept as evidence.
    Noted {
        /// The set.
        set: SetId,
        /// The disk.
        member: Member,
        /// The sector on main that it names, if any.
        sector: Option<Sector>,
        /// The line.
        text: String,
        /// The request that failed, where the line tells of exactly one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<FailedRequest>,
    },
    /// Another disk at the controller's port of a member, or the port itself, has an error that says nothing about a medium.
    Nearby {
        /// The set.
        set: SetId,
        /// The line that tells of it.
        text: String,
    },
    /// A member failed a flush, and its driver asks it again.
    FlushAgain {
        /// The set.
        set: SetId,
        /// The disk.
        member: Member,
        /// The line that tells of it.
        text: String,
    },
    /// A SMART summary of a member; `worse` lists counters that rose since the last.
    Smart {
        /// The set.
        set: SetId,
        /// The disk.
        member: Member,
        /// One line.
        summary: String,
        /// What got worse.
        worse: Vec<String>,
    },
    /// What is free on a spare, instead of extents that were asked for.
    Space {
        /// The set.
        set: SetId,
        /// The spare.
        spare: u16,
        /// Sectors; 0 too where the store cannot say.
        free: crate::model::Sectors,
    },
    /// Verified extents are ready for remaps.
    Reserved {
        /// The set.
        set: SetId,
        /// The session that asked. What another one asked for is dropped: it was given back when that ended, and may be handed out again.
        session: u64,
        /// The spare.
        spare: u16,
        /// The extents; fewer than wanted when the spare fills up.
        extents: Vec<Extent>,
        /// Sectors still free on the spare after this.
        free: crate::model::Sectors,
        /// Sectors that are reserved but could not be tried yet, because the spare did not answer.
        untried: crate::model::Sectors,
    },
    /// A step of a case ended.
    Done {
        /// The set.
        set: SetId,
        /// The case.
        case: CaseId,
        /// Its result.
        outcome: Outcome,
    },
    /// An operator asks for a range to move to the spare.
    Asked {
        /// The set.
        set: SetId,
        /// The range on main.
        extent: Extent,
    },
    /// An operator asks for what spares serve of a range to go back to main.
    AskedBack {
        /// The set.
        set: SetId,
        /// The range on main.
        extent: Extent,
    },
    /// A block was tried that no application waits for, and does not read.
    Found {
        /// The set.
        set: SetId,
        /// Where it was read, and which range of the device that served then.
        part: Part,
        /// Who looked there.
        #[serde(default)]
        by: Finder,
    },
    /// A scrub has ended.
    Scrubbed {
        /// The set.
        set: SetId,
        /// What it came to.
        summary: crate::model::ScrubSummary,
    },
    /// What [`Effect::Tend`] came to, or what the actuator has to tell besides.
    Tended {
        /// The set.
        set: SetId,
        /// The spare that was looked after, and what that came to.
        #[serde(default)]
        spare: Option<(u16, Tended)>,
        /// What history is to be told, in words.
        news: Vec<String>,
    },
    /// What was spent of the spares before the set was opened, as far as the history tells.
    Spent {
        /// The set.
        set: SetId,
        /// All is told of so long, ms.
        known_ms: u64,
        /// What was spent.
        spent: Vec<Spent>,
    },
    /// Another policy is in force for a set.
    Policy {
        /// The set.
        set: SetId,
        /// The policy.
        policy: Box<Policy>,
    },
    /// A second or so has passed.
    Tick,
}

/// Sectors of a spare that were spent before the set was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The spare.
    pub spare: u16,
    /// So long ago, ms.
    pub ago_ms: u64,
    /// So many; less than 0 where they came back.
    pub sectors: i64,
}

/// Something to do. The runtime does it and answers with an event where the variant says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// One step on the path to a remap, in order per set. Answer: `Event::Done`.
    Step {
        /// The set.
        set: SetId,
        /// The case.
        case: CaseId,
        /// The step.
        step: Step,
    },
    /// Find out which sectors of a range of main do not read; a read may wait for that, no write does. Answer: `Event::Done` with `Probed`.
    Probe {
        /// The set.
        set: SetId,
        /// The case.
        case: CaseId,
        /// The range.
        extent: Extent,
    },
    /// Write down durably that a remap is about to go back to main. Answer: `Event::Done` with `Announced` or `Failed`.
    Announce {
        /// The set.
        set: SetId,
        /// The case.
        case: CaseId,
        /// The remap.
        remap: Remap,
    },
    /// Fence a remap's range, write what its spare holds to main, durably, and read it back. Answer: `Event::Done` with
    /// `BroughtBack`, the fence up, or `Failed`, the fence lifted.
    Return {
        /// The set.
        set: SetId,
        /// The case.
        case: CaseId,
        /// The remap.
        remap: Remap,
    },
    /// A write waits for what is to be returned. If nothing of that was done yet, its answer is `Failed` with [`CALLED_OFF`].
    CallOff {
        /// The set.
        set: SetId,
        /// The case.
        case: CaseId,
    },
    /// Reserve and verify spare space. Answer: `Event::Reserved`.
    Reserve {
        /// The set.
        set: SetId,
        /// To be named in the answer.
        session: u64,
        /// The spare.
        spare: u16,
        /// Sectors wanted.
        want: crate::model::Sectors,
    },
    /// A spare extent now serves main: move it from reserved to in use.
    MarkInUse {
        /// The set.
        set: SetId,
        /// The remap.
        remap: Remap,
    },
    /// A spare extent serves nothing any more.
    MarkReserved {
        /// The set.
        set: SetId,
        /// The spare.
        spare: u16,
        /// The extent.
        extent: Extent,
    },
    /// A spare extent failed: never use it again.
    MarkBad {
        /// The set.
        set: SetId,
        /// The spare.
        spare: u16,
        /// The extent.
        extent: Extent,
    },
    /// Held I/O in the range has another chance: it belongs on a remap by now, or its sectors read again.
    Retry {
        /// The set.
        set: SetId,
        /// The range.
        extent: Extent,
    },
    /// Held reads in the range cannot be helped: they get their error.
    ReleaseReads {
        /// The set.
        set: SetId,
        /// The range.
        extent: Extent,
    },
    /// Try one block of a spare's table again that did not take its second copy. Answer: `Event::Tended`.
    Tend {
        /// The set.
        set: SetId,
        /// The spare.
        spare: u16,
    },
    /// Read a SMART sample of the members soon.
    SampleSmart {
        /// The set.
        set: SetId,
    },
    /// Read everything that the set has, unless that is under way: somewhere a disk lost what it had taken.
    Scrub {
        /// The set.
        set: SetId,
    },
    /// Append to the history.
    Record(Entry),
}

/// All state of the daemon's core.
#[derive(Debug)]
pub struct Engine {
    sets: BTreeMap<SetId, SetState>,
    next_case: u64,
    /// How often a set was opened.
    sessions: u64,
}

impl Engine {
    /// An engine without sets.
    #[expect(clippy::new_without_default, reason = "an engine is made on purpose")]
    pub fn new() -> Engine {
        Engine { sets: BTreeMap::new(), next_case: 1, sessions: 0 }
    }

    /// The open sets.
    pub fn sets(&self) -> impl Iterator<Item = &SetState> {
        self.sets.values()
    }

    /// One open set.
    pub fn set(&self, id: SetId) -> Option<&SetState> {
        self.sets.get(&id)
    }

    /// Takes one event at time `now` and says what to do.
    pub fn apply(&mut self, now: Millis, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Opened { set, remaps, capacity, policy } => {
                self.sessions += 1;
                let mut state = SetState::new(*set, remaps, capacity, *policy, self.sessions);
                // It was taken over from ourselves.
                if let Some(before) = self.sets.remove(&state.id()) {
                    state = state.after(before);
                }
                // More may be told of what came before.
                state.spares.iter_mut().for_each(|spare| spare.spending.known_since(now.0 as i64));
                effects.extend(state.refill(now));
                effects.extend(state.start_returning(now, &mut self.next_case));
                effects.push(Effect::SampleSmart { set: state.id() });
                self.sets.insert(state.id(), state);
            }
            Event::Closed { set, reason } => {
                if let Some(state) = self.sets.remove(&set) {
                    effects.push(Effect::Record(state.alert(now, format!("the device is no longer served: {reason}"))));
                }
            }
            Event::Tick => {
                for set in self.sets.values_mut() {
                    effects.extend(set.tick(now, &mut self.next_case));
                    effects.extend(set.refill(now));
                }
            }
            Event::Errors { set, .. }
            | Event::Noted { set, .. }
            | Event::Nearby { set, .. }
            | Event::FlushAgain { set, .. }
            | Event::Smart { set, .. }
            | Event::Space { set, .. }
            | Event::Reserved { set, .. }
            | Event::Done { set, .. }
            | Event::Policy { set, .. }
            | Event::Spent { set, .. }
            | Event::Found { set, .. }
            | Event::Scrubbed { set, .. }
            | Event::AskedBack { set, .. }
            | Event::Tended { set, .. }
            | Event::Asked { set, .. } => {
                if let Some(state) = self.sets.get_mut(&set) {
                    effects.extend(state.apply(now, event, &mut self.next_case));
                }
            }
        }
        for set in self.sets.values() {
            set.check();
        }
        effects
    }
}
