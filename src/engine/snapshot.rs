//! What an engine knows, written down, so that another one can go on from there.

use super::Engine;
use super::set::SetState;
use super::storm::Storm;
use crate::model::{Extent, Millis, Remap, Secret, Sectors, SetDescription};
use crate::policy::Policy;
use serde::{Deserialize, Serialize};

/// One open set. Cures under way are only counted, and evidence is left out: no decision needs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The set; its secret is blank.
    pub set: SetDescription,
    /// The policy in force.
    pub policy: Policy,
    /// Live remaps, in order of main sectors.
    pub remaps: Vec<Remap>,
    /// Its spares, by index.
    pub spares: Vec<SpareSnapshot>,
    /// When how many cure blocks were spent within the last day.
    pub spent: Vec<(Millis, u64)>,
    /// Errors that say nothing about the medium.
    pub storm: Storm,
    /// Number of this opening.
    pub session: u64,
    /// Cures under way.
    pub under_way: u64,
}

/// One spare.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpareSnapshot {
    /// Sectors that can serve main.
    pub capacity: Sectors,
    /// Extents that are verified and ready.
    pub ready: Vec<Extent>,
}

impl SetState {
    fn snapshot(&self) -> Snapshot {
        let spare =
            |spare: &super::set::SpareState| SpareSnapshot { capacity: spare.capacity, ready: spare.reserve.extents().to_vec() };
        Snapshot {
            set: SetDescription { secret: Secret([0; 16]), ..self.desc.clone() },
            policy: self.policy.clone(),
            remaps: self.remaps.values().copied().collect(),
            spares: self.spares.iter().map(spare).collect(),
            spent: self.spent.iter().copied().collect(),
            storm: self.storm.clone(),
            session: self.session,
            under_way: self.cures_under_way() as u64 + self.waiting.len() as u64,
        }
    }
}

impl Snapshot {
    /// Whether it can have been taken at `now`, as far as times and counts go.
    pub fn is_sound(&self, now: Millis) -> bool {
        self.storm.is_sound(now) && self.spent.iter().all(|&(at, blocks)| at <= now && blocks <= u64::from(u32::MAX))
    }
}

impl Engine {
    /// How often a set was opened so far, and every open set.
    pub fn snapshot(&self) -> (u64, Vec<Snapshot>) {
        (self.sessions, self.sets.values().map(SetState::snapshot).collect())
    }

    /// Goes on from what another engine knew. Extents and remaps must not overlap.
    pub fn resume(sessions: u64, sets: Vec<Snapshot>) -> Engine {
        let mut engine = Engine { sessions, ..Engine::new() };
        for Snapshot { set, policy, remaps, spares, spent, storm, session, .. } in sets {
            let capacity = spares.iter().map(|spare| spare.capacity).collect();
            let mut state = SetState::new(set, remaps, capacity, policy, session);
            for (spare, known) in state.spares.iter_mut().zip(spares) {
                spare.reserve.add(known.ready);
            }
            (state.spent, state.storm) = (spent.into(), storm);
            state.check();
            engine.sets.insert(state.id(), state);
        }
        engine
    }
}
