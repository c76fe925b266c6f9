//! What policy answers, and why.

use serde::{Deserialize, Serialize};

/// What to do with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Move the block to a spare.
    Remap,
    /// Move it to a spare and, if nothing of it was lost, back again: the drive writes it anew, and no spare is spent.
    Rewrite,
    /// Move what a spare serves back to main.
    Unremap,
    /// Record and tell; change nothing. A held write gets its error.
    Observe,
}

impl Action {
    /// Whether it needs space on a spare.
    pub fn moves(self) -> bool {
        matches!(self, Action::Remap | Action::Rewrite)
    }
}

/// An action with the rule that chose it and the reason in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The rule, as `policy-name/rule-name`.
    pub rule: String,
    /// Why, for people.
    pub reason: String,
}
