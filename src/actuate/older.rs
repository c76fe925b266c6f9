//! Whether spares are older than what this machine knows of them: a clone, a restored image, a disk that was away meanwhile.
//!
//! Store and history learn of a remap when its record is durable, and of one that is gone when its record is durably gone; what
//! is about to go is announced before. So they lag, and never lead: a table that lacks what they know is from before it, and so is
//! all that the spare serves.

use crate::edge::{Served, Store, StoreError, ToldRemaps};
use crate::model::{Extent, Remap, Sector, SetDescription, SetId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

/// Ranges that are named one by one.
const NAMED: usize = 8;

/// By what spares are older. Nothing if they are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Older {
    /// What is known to be served, and where, while no record of that spare serves it, or one from before it moved on the spare.
    pub lacks: Vec<(u16, Served)>,
    /// Records that had been removed when what they served went back to main.
    pub gone: Vec<Remap>,
}

impl Older {
    /// Nothing says that a spare is older.
    pub fn is_empty(&self) -> bool {
        self.lacks.is_empty() && self.gone.is_empty()
    }

    /// The ranges of main whose right content is not where the tables say, sorted.
    pub fn ranges(&self) -> Vec<Extent> {
        let mut ranges: Vec<Extent> = self.lacks.iter().map(|(_, served)| served.main).collect();
        ranges.extend(self.gone.iter().map(|remap| remap.main));
        ranges.sort();
        ranges
    }
}

/// How many remaps of how many sectors, and where on main.
fn count(ranges: &[Extent]) -> String {
    let sectors: u64 = ranges.iter().map(|range| range.len().0).sum();
    format!("{} remaps of {sectors} sectors (main {})", ranges.len(), named(ranges))
}

/// The ranges, the first ones if they are many.
pub(super) fn named(ranges: &[Extent]) -> String {
    let named: Vec<String> = ranges.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if ranges.len() > NAMED { ", …" } else { "" };
    named.join(", ") + more
}

impl fmt::Display for Older {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |spare: u16| self.lacks.iter().filter(move |(of, _)| *of == spare).map(|(_, served)| served.main);
        let spares: BTreeSet<u16> = self.lacks.iter().map(|(spare, _)| *spare).collect();
        let lacks = spares.into_iter().map(|spare| {
            let ranges: Vec<Extent> = of(spare).collect();
            format!("the table of spare {spare} lacks {} that were durable on it", count(&ranges))
        });
        let gone: Vec<Extent> = self.gone.iter().map(|remap| remap.main).collect();
        let gone = (!gone.is_empty()).then(|| format!("its spares still name {} that had gone back to main", count(&gone)));
        f.write_str(&lacks.chain(gone).collect::<Vec<_>>().join("; "))
    }
}

/// Compares what the store knows of these spares of a set with the records that their tables have, sorted by main.
pub fn find(store: &dyn Store, desc: &SetDescription, spares: Range<u16>, records: &[Remap]) -> Result<Older, StoreError> {
    let set = desc.id;
    let told = store.told(set)?;
    let returning = store.returning(set)?;
    let mut older = Older::default();
    for spare in spares.clone() {
        let live: Vec<Remap> = records.iter().filter(|remap| remap.spare == spare).copied().collect();
        let lacks = lacking(store, set, spare, &live, &told)?;
        // Whether that had its record still when it was interrupted, only the spare can say.
        let is = |served: &Served, r: &Remap| (spare, served.main.start(), served.at) == (r.spare, r.main.start(), r.at);
        let on_its_way = |served: &Served| returning.is_some_and(|r| is(served, &r));
        older.lacks.extend(lacks.into_iter().filter(|served| !on_its_way(served)).map(|served| (spare, served)));
    }
    // A later remap of the same sectors has a higher number.
    let record = |remap: &Remap| (remap.seq, remap.main, remap.spare, remap.at);
    let removed: BTreeSet<_> = told.gone.iter().map(record).collect();
    older.gone = records.iter().filter(|r| spares.contains(&r.spare) && removed.contains(&record(r))).copied().collect();
    Ok(older)
}

/// What the table of one spare lacks: `live` are its records, sorted by main.
fn lacking(store: &dyn Store, set: SetId, spare: u16, live: &[Remap], told: &ToldRemaps) -> Result<Vec<Served>, StoreError> {
    let known = store.in_use(set, spare)?;
    let mut lacks = beyond(&known, live);
    let moved = known.iter().any(|known| place_of(known.main, live).is_some_and(|at| at != known.at));
    if lacks.is_empty() && !moved {
        return Ok(lacks);
    }
    // The allocator may not have been told that it went back, while history was.
    let is = |served: &Served, remap: &Remap| {
        let there = || remap.at.0 + (served.main.start().0 - remap.main.start().0) == served.at.0;
        remap.spare == spare && remap.main.covers(&served.main) && there()
    };
    lacks.retain(|served| !told.gone.iter().any(|r| is(served, r)) || told.live.iter().any(|r| is(served, r)));
    // It may lag behind a move, or the table may be from before one.
    lacks.extend(moved_on(&told.live, spare, live));
    Ok(lacks)
}

/// What is known to be served and no remap serves.
fn beyond(known: &[Served], live: &[Remap]) -> Vec<Served> {
    known.iter().filter(|known| serving(known.main, live).is_none()).copied().collect()
}

/// The remap that serves all of a range.
pub fn serving(main: Extent, live: &[Remap]) -> Option<&Remap> {
    let next = live.partition_point(|remap| remap.main.start() <= main.start());
    next.checked_sub(1).map(|before| &live[before]).filter(|remap| remap.main.covers(&main))
}

fn place_of(main: Extent, live: &[Remap]) -> Option<Sector> {
    serving(main, live).filter(|remap| remap.main.start() == main.start()).map(|remap| remap.at)
}

/// What history has newer remaps of on this spare than the table: the newest of each range.
fn moved_on(told: &[Remap], spare: u16, live: &[Remap]) -> Vec<Served> {
    let mut newest: BTreeMap<Extent, Remap> = BTreeMap::new();
    for told in told.iter().filter(|told| told.spare == spare) {
        let is_newer = |now: &Remap| now.main == told.main && now.seq < told.seq;
        if serving(told.main, live).is_some_and(is_newer) && newest.get(&told.main).is_none_or(|known| known.seq < told.seq) {
            newest.insert(told.main, *told);
        }
    }
    newest.into_values().map(|told| Served { main: told.main, at: told.at }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RemapFlags, Sectors};

    fn remap(main: u64, len: u64) -> Remap {
        let main = Extent::new(Sector(main), Sectors(len)).unwrap();
        Remap { main, spare: 0, at: Sector(900), flags: RemapFlags::default(), seq: 1 }
    }

    #[test]
    fn a_table_that_lacks_what_is_known_is_older() {
        let known = [(8, 8), (24, 8), (40, 16)].map(|(main, len)| Served { main: remap(main, len).main, at: Sector(900) });
        let lacks = |live: &[Remap]| beyond(&known, live).iter().map(|served| served.main.start().0).collect::<Vec<_>>();
        assert_eq!(lacks(&[remap(8, 8), remap(24, 8), remap(40, 16), remap(80, 8)]), Vec::<u64>::new(), "the store may lag");
        assert_eq!(lacks(&[remap(8, 8), remap(40, 8)]), [24, 40]);
        assert_eq!(lacks(&[]), [8, 24, 40]);
    }

    #[test]
    fn a_table_from_before_a_move_is_older() {
        let (before, after) = (remap(8, 8), Remap { at: Sector(1000), seq: 5, ..remap(8, 8) });
        let later = Remap { at: Sector(1100), seq: 7, ..before };
        assert_eq!(moved_on(&[before, later, after], 0, &[before]), [Served { main: before.main, at: Sector(1100) }]);
        assert_eq!(moved_on(&[before, after], 0, &[after]), [], "the store may lag");
        assert_eq!(moved_on(&[after], 1, &[before]), [], "another spare's");
        assert_eq!((place_of(before.main, &[before]), place_of(before.main, &[])), (Some(Sector(900)), None));
    }

    #[test]
    fn it_is_told_how_much_and_where() {
        let lacks = (0..9).map(|n| (1, Served { main: remap(8 + n * 16, 8).main, at: Sector(900) })).collect();
        let told = Older { lacks, gone: vec![remap(800, 8)] }.to_string();
        assert!(told.starts_with("the table of spare 1 lacks 9 remaps of 72 sectors (main 8+8, 24+8, "), "{told}");
        assert!(
            told.contains("120+8, …)") && told.ends_with("name 1 remaps of 8 sectors (main 800+8) that had gone back to main"),
            "{told}"
        );
    }
}
