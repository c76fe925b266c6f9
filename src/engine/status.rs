//! What people and other programs may see of the engine.

use super::case::Stage;
use super::set::{Counters, SetState, SpareState};
use crate::model::{Extent, Member, Millis, Remap, Sectors, SetId, SetName};
use crate::plan::forecast::Forecast;
use serde::{Deserialize, Serialize};

/// One set, summed up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetStatus {
    /// The set.
    pub id: SetId,
    /// Its name.
    pub name: SetName,
    /// Size of the device.
    pub sectors: Sectors,
    /// Live remaps.
    pub remaps: Vec<Remap>,
    /// Per spare: capacity, in use, ready.
    pub spares: Vec<SpareStatus>,
    /// Cures under way.
    pub cases: Vec<CaseStatus>,
    /// Counts since the device was opened.
    pub counters: Counters,
    /// Errors in the storm that is under way, during which nothing moves to a spare; 0 if none is.
    #[serde(default)]
    pub storm: u64,
    /// Last SMART line per member.
    pub smart: Vec<(Member, String)>,
}

/// Space of one spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpareStatus {
    /// Sectors that can serve main.
    pub capacity: Sectors,
    /// Sectors that do.
    pub in_use: Sectors,
    /// Sectors verified and ready.
    pub ready: Sectors,
    /// When it will be full, as far as that can be told.
    #[serde(default)]
    pub forecast: Option<Forecast>,
}

/// One cure under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseStatus {
    /// Number.
    pub id: u64,
    /// The range on main.
    pub extent: Extent,
    /// Where it stands.
    pub stage: String,
    /// Why it is stuck, if it is.
    pub trouble: Option<String>,
}

impl SetState {
    /// A summary for display, at this time.
    pub fn status(&self, now: Millis) -> SetStatus {
        let spare = |spare: &SpareState| SpareStatus {
            capacity: spare.capacity,
            in_use: spare.in_use,
            ready: spare.reserve.total(),
            forecast: spare.forecast(now),
        };
        SetStatus {
            id: self.desc.id,
            name: self.desc.name.clone(),
            sectors: self.desc.main.sectors,
            remaps: self.remaps.values().copied().collect(),
            spares: self.spares.iter().map(spare).collect(),
            cases: self
                .cases
                .values()
                .map(|case| CaseStatus {
                    id: case.id.0,
                    extent: case.fault.extent,
                    stage: stage_word(&case.stage),
                    trouble: case.failure.clone(),
                })
                .collect(),
            counters: self.counters,
            storm: self.storm.errors(),
            smart: self.smart.iter().map(|(member, line)| (*member, line.clone())).collect(),
        }
    }
}

fn stage_word(stage: &Stage) -> String {
    format!("{stage:?}").to_lowercase()
}
