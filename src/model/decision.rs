//! What policy answers, and why.

use serde::{Deserialize, Serialize};

/// What to do with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Move the block to a spare.
    Remap,
    /// Record and tell; change nothing. A held write gets its error.
    Observe,
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
