//! How often what was reached: a simulation that never crashes in a commit proves nothing about commits.

use std::collections::BTreeMap;
use std::fmt;

/// What every action of the daemon must have met: it failed, it failed after it was done, and the daemon or the power ended in it.
const ENDS: [&str; 4] = ["failed", "unknown", "killed", "power cut"];
const ACTIONS: [&str; 15] = [
    "start",
    "fence",
    "salvage",
    "seal",
    "commit",
    "settle",
    "add_remap",
    "give_up",
    "retry",
    "probe",
    "verify",
    "watch",
    "return",
    "unrecord",
    "remove_remap",
];

/// What must have happened besides.
const REACHED: [(&str, &str); 21] = [
    ("settle", "→ not committed"),
    ("settle", "→ unknown"),
    ("commit", "→ unknown"),
    ("commit", "→ not committed"),
    ("salvage", "→ spare failed"),
    ("give_up", "→ failed"),
    ("add_remap", "→ failed"),
    ("remap", "live"),
    ("remap", "live with lost sectors"),
    ("remap", "moved on its spare"),
    ("start", "mapped now"),
    ("start", "fence lifted"),
    ("start", "unmapped"),
    ("lift", "→ released"),
    ("return", "→ brought back"),
    ("return", "→ failed"),
    ("unrecord", "→ unknown"),
    ("remove_remap", "→ unmapped"),
    ("remap", "went back to main"),
    ("spare", "extent given up"),
    ("spare", "told the daemon what it lost"),
];

/// Counters by what was done and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<(&'static str, &'static str), u64>);

impl Coverage {
    pub(super) fn count(&mut self, what: &'static str, how: &'static str) {
        *self.0.entry((what, how)).or_default() += 1;
    }

    /// Adds another run's counters.
    pub fn add(&mut self, other: &Coverage) {
        for (key, count) in &other.0 {
            *self.0.entry(*key).or_default() += count;
        }
    }

    /// How often `what` came to `how`.
    #[must_use]
    pub fn get(&self, what: &'static str, how: &'static str) -> u64 {
        self.0.get(&(what, how)).copied().unwrap_or(0)
    }

    /// What was reached less than `least` times of what has to be: every action with every end of it, and the rare outcomes.
    #[must_use]
    pub fn missing(&self, least: u64) -> Vec<(&'static str, &'static str)> {
        let wanted = ACTIONS.iter().flat_map(|action| ENDS.map(|end| (*action, end))).chain(REACHED);
        wanted.filter(|(what, how)| self.get(what, how) < least).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((what, how), count) in &self.0 {
            if *what == last {
                write!(f, "  {how} {count}")?;
            } else {
                write!(f, "{}{what:<10} {how} {count}", if last.is_empty() { "" } else { "\n" })?;
            }
            last = what;
        }
        Ok(())
    }
}
