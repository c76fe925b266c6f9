//! How often what was reached: a simulation that never crashes in a commit proves nothing about commits.

use std::collections::BTreeMap;
use std::fmt;

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
