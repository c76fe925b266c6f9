//! The space of one spare: free, reserved, in use, bad. Pure.
//!
//! Every change is told as a list of [`Change`]s, which the store writes down before the change counts.

use crate::edge::{ExtentState, Usage};
use crate::model::{Extent, Remap, Sector, Sectors};
use std::collections::BTreeMap;

/// A request that the space cannot meet; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    /// A remap lies outside the data area.
    #[error("the remap at {0} lies outside the spare's data")]
    Outside(Extent),
    /// Two remaps share sectors of the spare.
    #[error("two remaps share sectors of the spare at {0}")]
    Shared(Extent),
    /// Part of the extent is not in a state from which it may go to the wanted one.
    #[error("extent {extent} is not reserved: {found} is not")]
    NotReserved {
        /// The extent.
        extent: Extent,
        /// A sector of it that is free, or in another state.
        found: Sector,
    },
}

/// One change of the recorded extents, by first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Record it, or replace the record with the same first sector.
    Put(Extent, ExtentState),
    /// Drop the record.
    Drop(Sector),
}

/// The space of one spare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    data: Extent,
    /// Everything that is not free, by first sector. No two overlap.
    held: BTreeMap<u64, (u64, ExtentState)>,
    /// Free ranges: first sector and length. No two touch.
    free: BTreeMap<u64, u64>,
    usage: Usage,
}

impl Space {
    /// The space after a spare's table was read: `live` is in use, of what was recorded before only bad extents stay.
    pub fn rebuild(
        data: Extent,
        before: impl IntoIterator<Item = (Extent, ExtentState)>,
        live: impl IntoIterator<Item = Remap>,
    ) -> Result<Space, SpaceError> {
        let mut space = Space {
            data,
            held: BTreeMap::new(),
            free: BTreeMap::from([(data.start().0, data.len().0)]),
            usage: Usage { free: data.len(), ..Usage::default() },
        };
        for remap in live {
            let extent = remap.spare_extent();
            if !data.covers(&extent) {
                return Err(SpaceError::Outside(extent));
            }
            if !space.take(extent) {
                return Err(SpaceError::Shared(extent));
            }
            space.hold(extent, ExtentState::InUse { main: remap.main.start() });
        }
        for (extent, state) in before {
            if state == ExtentState::Bad {
                // What the table uses in the meantime is in use, whatever was thought of it.
                for part in space.free_parts(extent) {
                    space.take(part);
                    space.hold(part, ExtentState::Bad);
                }
            }
        }
        Ok(space)
    }

    /// Takes up to `want` sectors out of the free space, lowest first, in multiples of `unit` aligned to it. Neighbouring units
    /// come as one extent.
    pub fn reserve(&mut self, want: Sectors, unit: Sectors) -> (Vec<Extent>, Vec<Change>) {
        let unit = unit.0.max(1);
        let mut left = want.0 - want.0 % unit;
        let mut found = Vec::new();
        for (&start, &len) in &self.free {
            if left == 0 {
                break;
            }
            let end = start + len;
            let Some(from) = start.checked_next_multiple_of(unit).filter(|from| *from < end) else { continue };
            let take = left.min((end - from) / unit * unit);
            if let Ok(extent) = Extent::new(Sector(from), Sectors(take)) {
                left -= take;
                found.push(extent);
            }
        }
        for extent in &found {
            self.take(*extent);
            self.hold(*extent, ExtentState::Reserved);
        }
        let changes = found.iter().map(|extent| Change::Put(*extent, ExtentState::Reserved)).collect();
        (found, changes)
    }

    /// Sets the state of a reserved range. Also what is in use may become bad, when its remap has moved away, or reserved again, when
    /// that has gone back to main: with the rest of its last block, which is free if the table was read since. Setting the state it
    /// already has changes nothing.
    pub fn mark(&mut self, extent: Extent, state: ExtentState) -> Result<Vec<Change>, SpaceError> {
        if self.held.get(&extent.start().0) == Some(&(extent.len().0, state)) {
            return Ok(Vec::new());
        }
        let goes_back = state == ExtentState::Reserved && self.is_in_use(extent.start());
        let rest = if goes_back { self.free_parts(extent) } else { Vec::new() };
        if !rest.is_empty() {
            let mut whole = self.clone();
            for part in rest {
                whole.take(part);
                whole.hold(part, state);
            }
            let changes = whole.mark(extent, state)?;
            *self = whole;
            return Ok(changes);
        }
        let parts = self.parts(extent, state)?;
        let mut changes = Vec::new();
        for (old, old_state) in parts {
            self.release(old, old_state);
            changes.push(Change::Drop(old.start()));
            let before = Extent::new(old.start(), Sectors(extent.start().0.saturating_sub(old.start().0)));
            let after = Extent::new(extent.end(), Sectors(old.end().0.saturating_sub(extent.end().0)));
            for rest in [before, after].into_iter().flatten() {
                let rest_state = continued(old_state, old, rest);
                self.hold(rest, rest_state);
                changes.push(Change::Put(rest, rest_state));
            }
        }
        self.hold(extent, state);
        changes.push(Change::Put(extent, state));
        Ok(changes)
    }

    /// Sectors by state.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The data area.
    pub fn data(&self) -> Extent {
        self.data
    }

    /// Everything that is not free, in address order.
    pub fn held(&self) -> impl Iterator<Item = (Extent, ExtentState)> {
        self.held.iter().filter_map(|(&start, &(len, state))| Some((extent(start, len)?, state)))
    }

    /// The recorded extents that make up `extent`, if all of it may go to `state`.
    fn parts(&self, extent: Extent, state: ExtentState) -> Result<Vec<(Extent, ExtentState)>, SpaceError> {
        let allowed = |old: ExtentState| match old {
            ExtentState::Reserved => true,
            ExtentState::InUse { .. } => matches!(state, ExtentState::Bad | ExtentState::Reserved),
            ExtentState::Bad => false,
        };
        let first = self.held.range(..=extent.start().0).next_back().map_or(extent.start().0, |(&start, _)| start);
        let mut parts = Vec::new();
        let mut next = extent.start();
        for (&start, &(len, old)) in self.held.range(first..extent.end().0) {
            let Some(part) = self::extent(start, len).filter(|part| part.end() > extent.start()) else { continue };
            if part.start() > next || !allowed(old) {
                break;
            }
            parts.push((part, old));
            next = part.end();
        }
        if next < extent.end() { Err(SpaceError::NotReserved { extent, found: next }) } else { Ok(parts) }
    }

    fn is_in_use(&self, sector: Sector) -> bool {
        let held = self.held.range(..=sector.0).next_back();
        held.is_some_and(|(start, (len, state))| sector.0 < start + len && matches!(state, ExtentState::InUse { .. }))
    }

    /// The free ranges inside `extent`.
    fn free_parts(&self, extent: Extent) -> Vec<Extent> {
        let clip = |(&start, &len): (&u64, &u64)| {
            let from = start.max(extent.start().0);
            let to = (start + len).min(extent.end().0);
            self::extent(from, to.checked_sub(from)?)
        };
        let first = self.free.range(..=extent.start().0).next_back().map_or(extent.start().0, |(&start, _)| start);
        self.free.range(first..extent.end().0).filter_map(clip).collect()
    }

    /// Takes a range out of the free space, if all of it is free.
    fn take(&mut self, extent: Extent) -> bool {
        let Some((&start, &len)) = self.free.range(..=extent.start().0).next_back() else { return false };
        let end = start + len;
        if extent.end().0 > end {
            return false;
        }
        self.free.remove(&start);
        for (from, to) in [(start, extent.start().0), (extent.end().0, end)] {
            if from < to {
                self.free.insert(from, to - from);
            }
        }
        self.usage.free.0 -= extent.len().0;
        true
    }

    fn hold(&mut self, extent: Extent, state: ExtentState) {
        self.held.insert(extent.start().0, (extent.len().0, state));
        self.count(state).0 += extent.len().0;
    }

    fn release(&mut self, extent: Extent, state: ExtentState) {
        self.held.remove(&extent.start().0);
        self.count(state).0 -= extent.len().0;
    }

    fn count(&mut self, state: ExtentState) -> &mut Sectors {
        match state {
            ExtentState::Reserved => &mut self.usage.reserved,
            ExtentState::InUse { .. } => &mut self.usage.in_use,
            ExtentState::Bad => &mut self.usage.bad,
        }
    }
}

fn extent(start: u64, len: u64) -> Option<Extent> {
    Extent::new(Sector(start), Sectors(len)).ok()
}

/// The state of `rest`, a part of `old`: the main sector moves along.
fn continued(state: ExtentState, old: Extent, rest: Extent) -> ExtentState {
    match state {
        ExtentState::InUse { main } => ExtentState::InUse { main: Sector(main.0 + (rest.start().0 - old.start().0)) },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RemapFlags;
    use proptest::prelude::*;

    fn ext(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    fn remap(main: u64, at: u64, len: u64) -> Remap {
        Remap { main: ext(main, len), spare: 0, at: Sector(at), flags: RemapFlags::default(), seq: 1 }
    }

    fn in_use(main: u64) -> ExtentState {
        ExtentState::InUse { main: Sector(main) }
    }

    #[test]
    fn reserving_is_first_fit_aligned_and_coalesced() {
        let mut space = Space::rebuild(ext(88, 4000), [], [remap(0, 96, 8), remap(8, 200, 8)]).unwrap();
        let (found, changes) = space.reserve(Sectors(130), Sectors(16));
        assert_eq!(found, vec![ext(112, 80), ext(208, 48)]);
        assert_eq!(
            changes,
            vec![Change::Put(ext(112, 80), ExtentState::Reserved), Change::Put(ext(208, 48), ExtentState::Reserved)]
        );
        assert_eq!(space.usage(), Usage { free: Sectors(3856), reserved: Sectors(128), in_use: Sectors(16), bad: Sectors(0) });
        assert!(space.reserve(Sectors(7), Sectors(8)).0.is_empty());
    }

    #[test]
    fn marking_splits_what_was_reserved() {
        let mut space = Space::rebuild(ext(0, 64), [], []).unwrap();
        space.reserve(Sectors(32), Sectors(8));
        let changes = space.mark(ext(8, 8), in_use(1000)).unwrap();
        let put = |start, len, state| Change::Put(ext(start, len), state);
        let reserved = ExtentState::Reserved;
        assert_eq!(changes, vec![Change::Drop(Sector(0)), put(0, 8, reserved), put(16, 16, reserved), put(8, 8, in_use(1000))]);
        assert_eq!(space.mark(ext(8, 8), in_use(1000)), Ok(vec![]), "again is nothing");
        assert_eq!(space.mark(ext(8, 8), in_use(1001)), Err(SpaceError::NotReserved { extent: ext(8, 8), found: Sector(8) }));
        assert_eq!(
            space.mark(ext(24, 16), ExtentState::Bad),
            Err(SpaceError::NotReserved { extent: ext(24, 16), found: Sector(32) })
        );
        space.mark(ext(10, 2), ExtentState::Bad).unwrap();
        let held: Vec<_> = space.held().collect();
        let bad = ExtentState::Bad;
        let expected = [(0, 8, reserved), (8, 2, in_use(1000)), (10, 2, bad), (12, 4, in_use(1004)), (16, 16, reserved)]
            .map(|(s, l, state)| (ext(s, l), state));
        assert_eq!(held, expected);
    }

    /// A remap that ends with main, in the middle of a block, goes back: its whole block is the engine's again.
    #[test]
    fn what_goes_back_takes_the_rest_of_its_block_along() {
        let mut space = Space::rebuild(ext(0, 64), [], [remap(7, 8, 9)]).unwrap();
        assert_eq!(space.usage().in_use, Sectors(9));
        space.mark(ext(8, 16), ExtentState::Reserved).unwrap();
        assert_eq!(space.held().collect::<Vec<_>>(), [(ext(8, 16), ExtentState::Reserved)]);
        assert_eq!((space.usage().free, space.usage().in_use), (Sectors(48), Sectors(0)));
        let before = space.clone();
        space.mark(ext(8, 8), ExtentState::Bad).unwrap();
        assert!(space.mark(ext(8, 24), ExtentState::Reserved).is_err(), "bad sectors are bad");
        assert_eq!(space.usage().free, before.usage().free);
    }

    #[test]
    fn a_rebuild_keeps_bad_and_frees_reserved() {
        let before = [
            (ext(0, 8), ExtentState::Reserved),
            (ext(8, 16), ExtentState::Bad),
            (ext(60, 100), ExtentState::Bad),
            (ext(24, 8), in_use(5)),
        ];
        let space = Space::rebuild(ext(0, 64), before, [remap(7, 12, 4)]).unwrap();
        let held: Vec<_> = space.held().collect();
        let bad = ExtentState::Bad;
        assert_eq!(held, [(8, 4, bad), (12, 4, in_use(7)), (16, 8, bad), (60, 4, bad)].map(|(s, l, state)| (ext(s, l), state)));
        assert_eq!(space.usage(), Usage { free: Sectors(44), reserved: Sectors(0), in_use: Sectors(4), bad: Sectors(16) });
    }

    #[test]
    fn impossible_tables_are_refused() {
        let shared = Space::rebuild(ext(0, 64), [], [remap(0, 0, 8), remap(100, 4, 8)]);
        assert_eq!(shared, Err(SpaceError::Shared(ext(4, 8))));
        assert_eq!(Space::rebuild(ext(8, 64), [], [remap(0, 0, 8)]), Err(SpaceError::Outside(ext(0, 8))));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u64, u64),
        Mark(u64, u64, ExtentState),
        Rebuild,
    }

    fn step() -> impl Strategy<Value = Step> {
        let state = prop_oneof![Just(ExtentState::Reserved), Just(ExtentState::Bad), (0u64..1000).prop_map(in_use)];
        prop_oneof![
            3 => (0u64..80, 1u64..20).prop_map(|(want, unit)| Step::Reserve(want, unit)),
            4 => (0u64..270, 1u64..24, state).prop_map(|(start, len, state)| Step::Mark(start, len, state)),
            1 => Just(Step::Rebuild),
        ]
    }

    /// The model: the state of every single sector.
    type Cells = Vec<Option<ExtentState>>;

    fn cells(space: &Space) -> Cells {
        let mut cells = vec![None; 256];
        for (extent, state) in space.held() {
            for sector in extent.start().0..extent.end().0 {
                assert!(cells[sector as usize].is_none(), "two records hold sector {sector}");
                cells[sector as usize] = Some(continued(state, extent, ext(sector, 1)));
            }
        }
        cells
    }

    fn recorded(held: &BTreeMap<u64, (Extent, ExtentState)>) -> Vec<(Extent, ExtentState)> {
        held.values().copied().collect()
    }

    proptest! {
        #[test]
        fn no_sector_is_ever_given_twice(steps in proptest::collection::vec(step(), 1..60)) {
            let data = ext(10, 240);
            let mut space = Space::rebuild(data, [], []).unwrap();
            let mut model: Cells = vec![None; 256];
            let mut record: BTreeMap<u64, (Extent, ExtentState)> = BTreeMap::new();
            for step in steps {
                let changes = match step {
                    Step::Reserve(want, unit) => {
                        let (found, changes) = space.reserve(Sectors(want), Sectors(unit));
                        let mut total = 0;
                        for extent in found {
                            prop_assert!(data.covers(&extent));
                            prop_assert_eq!((extent.start().0 % unit, extent.len().0 % unit), (0, 0));
                            total += extent.len().0;
                            for cell in &mut model[extent.start().0 as usize..extent.end().0 as usize] {
                                prop_assert!(cell.is_none(), "given twice");
                                *cell = Some(ExtentState::Reserved);
                            }
                        }
                        prop_assert!(total <= want);
                        if total < want - want % unit {
                            let aligned = (0..256 / unit).map(|block| (block * unit) as usize..((block + 1) * unit) as usize);
                            let mut free = aligned.filter(|range| range.start >= 10 && range.end <= 250 && model[range.clone()].iter().all(Option::is_none));
                            prop_assert_eq!(free.next(), None, "space was left");
                        }
                        changes
                    }
                    Step::Mark(start, len, state) => {
                        let extent = ext(start, len);
                        let range = start as usize..((start + len) as usize).min(256);
                        let inside = start + len <= 256;
                        let in_use = |sector: usize| matches!(model.get(sector), Some(Some(ExtentState::InUse { .. })));
                        let goes_back = state == ExtentState::Reserved && in_use(start as usize);
                        let reserved = inside && range.clone().all(|sector| match model[sector] {
                            Some(ExtentState::Reserved) => true,
                            Some(ExtentState::InUse { .. }) => matches!(state, ExtentState::Bad | ExtentState::Reserved),
                            None => goes_back && (10..250).contains(&sector),
                            Some(ExtentState::Bad) => false,
                        });
                        match space.mark(extent, state) {
                            Ok(changes) => {
                                let wanted = |sector: usize| Some(continued(state, extent, ext(sector as u64, 1)));
                                prop_assert!(reserved || range.clone().all(|sector| model[sector] == wanted(sector)));
                                range.for_each(|sector| model[sector] = wanted(sector));
                                changes
                            }
                            Err(_) => { prop_assert!(!reserved); vec![] }
                        }
                    }
                    Step::Rebuild => {
                        // As after a restart: only what was written down is known, and the remaps of the table.
                        let live: Vec<Remap> = space.held().filter_map(|(extent, state)| match state {
                            ExtentState::InUse { main } => Some(remap(main.0, extent.start().0, extent.len().0)),
                            _ => None,
                        }).collect();
                        space = Space::rebuild(data, recorded(&record), live).unwrap();
                        model.iter_mut().for_each(|cell| if *cell == Some(ExtentState::Reserved) { *cell = None });
                        record = space.held().map(|(extent, state)| (extent.start().0, (extent, state))).collect();
                        vec![]
                    }
                };
                for change in changes {
                    match change {
                        Change::Put(extent, state) => { record.insert(extent.start().0, (extent, state)); }
                        Change::Drop(at) => { record.remove(&at.0); }
                    }
                }
                prop_assert_eq!(&cells(&space), &model);
                prop_assert_eq!(recorded(&record), space.held().collect::<Vec<_>>(), "what is written down is what holds");
                let count = |want: fn(&ExtentState) -> bool| Sectors(model.iter().flatten().filter(|state| want(state)).count() as u64);
                let usage = space.usage();
                prop_assert_eq!(usage.reserved, count(|state| *state == ExtentState::Reserved));
                prop_assert_eq!(usage.bad, count(|state| *state == ExtentState::Bad));
                prop_assert_eq!(usage.in_use, count(|state| matches!(state, ExtentState::InUse { .. })));
                prop_assert_eq!(usage.free.0 + usage.reserved.0 + usage.bad.0 + usage.in_use.0, 240);
            }
        }
    }
}
