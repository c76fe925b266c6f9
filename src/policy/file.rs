//! A policy as its TOML files say it.

use crate::model::{Action, ErrorClass};
use serde::{Deserialize, Serialize};

/// A complete policy, merged from its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name: the file name without `.toml`.
    #[serde(default)]
    pub name: String,
    /// One line for people.
    pub description: String,
    /// What to do with failed writes.
    pub write_error: WriteError,
    /// Limits.
    pub spending: Spending,
    /// Spare handling.
    pub spare: Spare,
}

/// Failed writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteError {
    /// The cure.
    pub action: Action,
    /// Error classes that may cost a spare; only those that can mean the medium are accepted.
    pub classes: Vec<ErrorClass>,
}

/// Limits on what may move to a spare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spending {
    /// Cure blocks in one hour.
    pub blocks_per_hour: u64,
    /// Cure blocks in 24 hours.
    pub blocks_per_day: u64,
}

/// Spare handling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spare {
    /// Cure blocks kept verified and ready, at most 65536.
    pub reserve_blocks: u64,
    /// Percentages of use that raise an alert, each 1 to 100.
    pub alert_percent: Vec<u8>,
}

impl Policy {
    /// Checks ranges that types cannot; the message names the key.
    pub fn check(&self) -> Result<(), String> {
        if let Some(class) = self.write_error.classes.iter().find(|class| !class.may_be_medium()) {
            return Err(format!("write_error.classes: “{class}” can never cost a spare; use medium, ioerr, target"));
        }
        if self.spare.reserve_blocks > 65536 {
            return Err(format!("spare.reserve_blocks: {} is more than 65536", self.spare.reserve_blocks));
        }
        if let Some(percent) = self.spare.alert_percent.iter().find(|&&percent| percent == 0 || percent > 100) {
            return Err(format!("spare.alert_percent: {percent} is not within 1 to 100"));
        }
        Ok(())
    }

    /// The shipped default, for tests of the core.
    #[cfg(test)]
    pub(crate) fn test_balanced() -> Policy {
        let mut policy: Policy = toml::from_str(include_str!("../../policies/balanced.toml")).unwrap();
        policy.name = "balanced".into();
        policy
    }
}
