//! When the tables of the spares are looked after: only while no cure could wait behind it, the rarer the longer a spare takes no
//! write; often where ranges of main stay sealed until it does.

use super::Effect;
use super::case::Stage;
use super::set::{HOUR, SetState};
use crate::model::Millis;
use serde::{Deserialize, Serialize};

/// How long until a spare is looked after again, ms, and at most.
const TEND_MS: (u64, u64) = (30_000, HOUR);
/// That, where a seal stays until a block is mended: I/O fails there.
const SEALED_MS: (u64, u64) = (1_000, 8_000);

/// What [`Effect::Tend`] came to. It is about one block of a spare's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tended {
    /// Nothing was to be done.
    Well,
    /// A block has two good copies again. There may be more.
    Mended,
    /// A block did not take its second copy.
    Failed {
        /// Ranges of main stay sealed until it does.
        sealed: bool,
    },
}

/// When a spare's table is looked after.
#[derive(Debug, Default)]
pub(super) struct Tending {
    next: Millis,
    under_way: bool,
    /// Without a success between.
    failures: u32,
}

impl Tending {
    pub(super) fn answered(&mut self, now: Millis, tended: Tended) {
        let wait = match tended {
            Tended::Well => TEND_MS.0,
            Tended::Mended => 0,
            Tended::Failed { sealed } => {
                let (first, most) = if sealed { SEALED_MS } else { TEND_MS };
                first.saturating_mul(1 << self.failures.min(16)).min(most)
            }
        };
        self.failures = if matches!(tended, Tended::Failed { .. }) { self.failures.saturating_add(1) } else { 0 };
        (self.next, self.under_way) = (Millis(now.0 + wait), false);
    }
}

impl SetState {
    pub(super) fn tend(&mut self, now: Millis) -> Vec<Effect> {
        // What is to be settled waits for just such writes.
        let aside = |stage| matches!(stage, Stage::Probing | Stage::Announcing | Stage::Returning | Stage::Settling);
        if !self.waiting.is_empty() || !self.cases.values().all(|case| aside(case.stage)) {
            return Vec::new();
        }
        let (set, mut effects) = (self.id(), Vec::new());
        for (spare, state) in (0u16..).zip(&mut self.spares) {
            if now >= state.tending.next && !state.tending.under_way {
                state.tending.under_way = true;
                effects.push(Effect::Tend { set, spare });
            }
        }
        effects
    }
}
