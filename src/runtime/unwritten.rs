//! History that could not be queued for the store: counted, and told when there is room again. Pure.

use crate::model::{Entry, Millis, SetId, SetName, What};
use std::collections::BTreeMap;

/// The entries that are lost and not told of yet, by set.
#[derive(Debug, Default)]
pub struct Unwritten(BTreeMap<SetId, (SetName, u64)>);

impl Unwritten {
    /// Counts an entry. True if it is the first of its set.
    pub fn lost(&mut self, set: SetId, name: SetName) -> bool {
        let (_, count) = self.0.entry(set).or_insert((name, 0));
        *count += 1;
        *count == 1
    }

    /// Entries that tell of what was lost so far, which then is told.
    pub fn tell(&mut self, now: Millis) -> Vec<Entry> {
        let entry = |(set, (name, count)): (SetId, (SetName, u64))| {
            let message =
                format!("{count} entries of the history were lost before this: the store did not keep up; the log has them");
            Entry { number: 0, at: now, set, name, what: What::Alert { message } }
        };
        std::mem::take(&mut self.0).into_iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_told_once_for_each_set() {
        let mut unwritten = Unwritten::default();
        assert_eq!(unwritten.tell(Millis(5)), []);
        let set = |n: u128| (SetId(uuid::Uuid::from_u128(n)), SetName::new(format!("set{n}")).unwrap());
        let first: Vec<bool> = [1, 1, 2, 1].map(set).into_iter().map(|(id, name)| unwritten.lost(id, name)).collect();
        assert_eq!(first, [true, false, true, false]);
        let told = unwritten.tell(Millis(5));
        let sentences: Vec<String> = told.iter().map(|entry| format!("{} {}", entry.name, entry.what.sentence())).collect();
        assert!(sentences[0].starts_with("set1 ALERT: 3 entries") && sentences[1].starts_with("set2 ALERT: 1 "), "{sentences:?}");
        assert_eq!(unwritten.tell(Millis(6)), []);
    }
}
