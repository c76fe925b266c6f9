//! Joins the records of all table blocks, of all spares of a set, into one table.

use crate::model::{Extent, Remap};
use std::collections::BTreeMap;

/// One table out of many records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// What holds: no two overlap on main, sorted by main.
    pub live: Vec<Remap>,
    /// Records that a newer one covers wholly. Their space is not free until they are removed from their spare.
    pub superseded: Vec<Remap>,
    /// Records that contradict others: no correct code writes them. With any of these the set must not be opened.
    pub conflicts: Vec<Conflict>,
}

/// Two records that cannot both hold, and none of which settles the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The one with the higher sequence number.
    pub kept: Remap,
    /// The one that was left out.
    pub dropped: Remap,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Conflict { kept, dropped } = self;
        write!(f, "main {} on spare{} at {} (#{})", kept.main, kept.spare, kept.at, kept.seq)?;
        write!(f, " contradicts main {} on spare{} at {} (#{})", dropped.main, dropped.spare, dropped.at, dropped.seq)
    }
}

/// Merges: of records for the same range of main the one with the higher sequence number wins.
///
/// A record that a newer one covers only in part would leave sectors of main without their spare, two records with one
/// sequence number cannot be ordered, and two live records cannot share a sector of a spare: these are conflicts.
pub fn merge(records: impl IntoIterator<Item = Remap>) -> Merged {
    let mut records: Vec<Remap> = records.into_iter().collect();
    records.sort_unstable_by_key(|record| (std::cmp::Reverse(record.seq), record.main, record.spare, record.at));
    records.dedup();
    let mut merged = Merged::default();
    let mut by_main: BTreeMap<u64, Remap> = BTreeMap::new();
    let mut by_spare: BTreeMap<(u16, u64), Remap> = BTreeMap::new();
    for record in records {
        if let Some(kept) = overlapping(&by_main, record.main) {
            if kept.main.covers(&record.main) && kept.seq > record.seq {
                merged.superseded.push(record);
            } else {
                merged.conflicts.push(Conflict { kept, dropped: record });
            }
        } else if let Some(kept) = sharing(&by_spare, &record) {
            merged.conflicts.push(Conflict { kept, dropped: record });
        } else {
            by_main.insert(record.main.start().0, record);
            by_spare.insert((record.spare, record.at.0), record);
        }
    }
    merged.live = by_main.into_values().collect();
    merged
}

/// The entry of a map by first main sector, of ranges that do not overlap, that overlaps `main`.
fn overlapping(by_main: &BTreeMap<u64, Remap>, main: Extent) -> Option<Remap> {
    let (_, last) = by_main.range(..main.end().0).next_back()?;
    last.main.overlaps(&main).then_some(*last)
}

fn sharing(by_spare: &BTreeMap<(u16, u64), Remap>, record: &Remap) -> Option<Remap> {
    let range = (record.spare, 0)..(record.spare, record.spare_extent().end().0);
    let (_, last) = by_spare.range(range).next_back()?;
    last.spare_extent().overlaps(&record.spare_extent()).then_some(*last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RemapFlags, Sector, Sectors};
    use proptest::prelude::*;

    fn remap(main: u64, len: u64, spare: u16, at: u64, seq: u64) -> Remap {
        let main = Extent::new(Sector(main), Sectors(len)).unwrap();
        Remap { main, spare, at: Sector(at), flags: RemapFlags::default(), seq }
    }

    #[test]
    fn the_newer_of_two_wins_whatever_the_order() {
        let old = remap(8, 8, 0, 100, 1);
        let new = remap(8, 8, 1, 200, 2);
        for records in [[old, new], [new, old]] {
            let merged = merge(records);
            assert_eq!((merged.live, merged.superseded, merged.conflicts), (vec![new], vec![old], vec![]));
        }
    }

    #[test]
    fn a_range_that_would_lose_sectors_is_a_conflict() {
        let old = remap(8, 8, 0, 100, 1);
        let new = remap(12, 8, 0, 200, 2);
        assert_eq!(merge([old, new]).conflicts, vec![Conflict { kept: new, dropped: old }]);
    }

    #[test]
    fn equal_sequence_numbers_and_shared_spare_sectors_are_conflicts() {
        assert_eq!(merge([remap(8, 8, 0, 100, 1), remap(8, 8, 0, 200, 1)]).conflicts.len(), 1);
        assert_eq!(merge([remap(8, 8, 0, 100, 1), remap(16, 8, 0, 104, 2)]).conflicts.len(), 1);
        assert_eq!(merge([remap(8, 8, 0, 100, 1), remap(16, 8, 1, 104, 2)]).conflicts.len(), 0);
    }

    #[test]
    fn the_same_record_twice_is_one() {
        let record = remap(8, 8, 0, 100, 1);
        assert_eq!(merge([record, record]), Merged { live: vec![record], ..Merged::default() });
    }

    proptest! {
        #[test]
        fn live_never_overlaps_and_nothing_vanishes(
            raw in proptest::collection::vec((0u64..64, 1u64..12, 0u16..2, 0u64..64, 1u64..40), 0..40),
        ) {
            let records: Vec<Remap> = raw.iter().map(|&(main, len, spare, at, seq)| remap(main, len, spare, at, seq)).collect();
            let mut distinct = records.clone();
            distinct.sort();
            distinct.dedup();
            let merged = merge(records);
            for (number, a) in merged.live.iter().enumerate() {
                for b in &merged.live[number + 1..] {
                    prop_assert!(!a.main.overlaps(&b.main) && a.main < b.main);
                    prop_assert!(a.spare != b.spare || !a.spare_extent().overlaps(&b.spare_extent()));
                }
            }
            for old in &merged.superseded {
                prop_assert!(merged.live.iter().any(|new| new.main.covers(&old.main) && new.seq > old.seq));
            }
            prop_assert_eq!(merged.live.len() + merged.superseded.len() + merged.conflicts.len(), distinct.len());
        }
    }
}
