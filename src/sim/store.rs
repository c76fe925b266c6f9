//! The host's store, in memory, over the allocator that the real one uses. A crash may take its last changes: it can lag.

use crate::edge::{ExtentState, Prune, Served, Store, StoreError, ToldRemaps, Usage};
use crate::model::{
    ChainWalk, Cut, Entry, Extent, Millis, Remap, Sample, Sectors, SetDescription, SetId, SetName, Stamp, TestTimes, Told,
};
use crate::store::Space;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Extents = BTreeMap<u16, Vec<(Extent, ExtentState)>>;

/// What is written down.
#[derive(Clone, Debug, Default)]
struct Records {
    extents: Extents,
    /// What history tells of remaps, in order.
    told: Vec<Told>,
    returning: Option<Remap>,
}

#[derive(Debug, Default)]
struct State {
    /// Spares whose table was read since this run of the daemon began.
    spaces: BTreeMap<u16, Space>,
    /// What is written down, after each change.
    versions: Vec<Records>,
    entries: u64,
}

/// A handle; clones share the store.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryStore(Arc<Mutex<State>>);

impl MemoryStore {
    /// The daemon's memory is gone, and with it the last `lag` changes.
    pub fn crash(&self, lag: usize) {
        let mut state = self.state();
        state.spaces.clear();
        let keep = state.versions.len().saturating_sub(lag);
        state.versions.truncate(keep);
        let last = state.versions.pop();
        state.versions = last.into_iter().collect();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn record(&mut self) {
        let mut records = self.latest();
        for (spare, space) in &self.spaces {
            records.extents.insert(*spare, space.held().collect());
        }
        self.versions.push(records);
    }

    fn latest(&self) -> Records {
        self.versions.last().cloned().unwrap_or_default()
    }

    fn extents(&self, spare: u16) -> Vec<(Extent, ExtentState)> {
        self.versions.last().and_then(|records| records.extents.get(&spare)).cloned().unwrap_or_default()
    }

    fn space(&mut self, spare: u16) -> Result<&mut Space, StoreError> {
        self.spaces.get_mut(&spare).ok_or_else(|| StoreError(format!("the table of spare{spare} was not read")))
    }
}

impl Store for MemoryStore {
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    // The simulated machine reads no SMART.
    fn keep_sample(&self, _: &str, sample: &Sample) -> Result<Vec<Sample>, StoreError> {
        Ok(vec![sample.clone()])
    }

    fn samples(&self, _: &str) -> Result<Vec<Sample>, StoreError> {
        Ok(Vec::new())
    }

    fn test_times(&self, _: &str) -> Result<TestTimes, StoreError> {
        Ok(TestTimes::default())
    }

    fn set_test_times(&self, _: &str, _: TestTimes) -> Result<(), StoreError> {
        Ok(())
    }

    fn put_set(&self, _: &SetDescription) -> Result<(), StoreError> {
        Ok(())
    }

    fn remove_set(&self, _: SetId) -> Result<(), StoreError> {
        Ok(())
    }

    fn sets(&self) -> Result<Vec<SetDescription>, StoreError> {
        Ok(Vec::new())
    }

    fn rebuild(&self, _: SetId, spare: u16, data: Extent, live: &[Remap]) -> Result<(), StoreError> {
        let mut state = self.state();
        let before = state.extents(spare);
        let live = live.iter().filter(|remap| remap.spare == spare).copied();
        let space = Space::rebuild(data, before, live).map_err(|error| StoreError(error.to_string()))?;
        state.spaces.insert(spare, space);
        state.record();
        Ok(())
    }

    fn reserve(&self, _: SetId, spare: u16, want: Sectors, unit: Sectors) -> Result<Vec<Extent>, StoreError> {
        let mut state = self.state();
        let (extents, _) = state.space(spare)?.reserve(want, unit);
        state.record();
        Ok(extents)
    }

    fn mark(&self, _: SetId, spare: u16, extent: Extent, to: ExtentState) -> Result<(), StoreError> {
        let mut state = self.state();
        state.space(spare)?.mark(extent, to).map_err(|error| StoreError(error.to_string()))?;
        state.record();
        Ok(())
    }

    fn usage(&self, _: SetId, spare: u16) -> Result<Usage, StoreError> {
        self.state().space(spare).map(|space| space.usage())
    }

    fn in_use(&self, _: SetId, spare: u16) -> Result<Vec<Served>, StoreError> {
        let records = self.state().extents(spare);
        let served = |(extent, state): (Extent, ExtentState)| match state {
            ExtentState::InUse { main } => Some(Extent::new(main, extent.len()).map(|main| Served { main, at: extent.start() })),
            ExtentState::Reserved | ExtentState::Bad => None,
        };
        records.into_iter().filter_map(served).collect::<Result<_, _>>().map_err(|error| StoreError(error.to_string()))
    }

    fn append(&self, entry: &Entry) -> Result<u64, StoreError> {
        let mut state = self.state();
        state.entries += 1;
        if let Some(told) = entry.what.told() {
            let mut records = state.latest();
            records.told.push(told);
            state.versions.push(records);
        }
        Ok(state.entries)
    }

    fn history(&self, _: Option<SetId>, _: Millis, _: usize) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }

    fn history_named(&self, _: &SetName, _: Millis, _: usize) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }

    fn history_after(&self, _: u64, _: usize) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }

    // Of entries only that is kept: there is nothing to check or to prune.

    fn told(&self, _: SetId) -> Result<ToldRemaps, StoreError> {
        let mut told = ToldRemaps::default();
        self.state().latest().told.into_iter().for_each(|news| told.add(news));
        Ok(told)
    }

    /// Durable, and with it all that came before.
    fn set_returning(&self, _: SetId, remap: Option<&Remap>) -> Result<(), StoreError> {
        let mut state = self.state();
        let records = Records { returning: remap.copied(), ..state.latest() };
        if remap.is_some() {
            state.versions.clear();
        }
        state.versions.push(records);
        Ok(())
    }

    fn returning(&self, _: SetId) -> Result<Option<Remap>, StoreError> {
        Ok(self.state().latest().returning)
    }

    fn history_ends(&self) -> Result<Option<(Stamp, Stamp)>, StoreError> {
        Ok(None)
    }

    fn verify(&self, _: Option<ChainWalk>, _: usize) -> Result<ChainWalk, StoreError> {
        Ok(ChainWalk { done: true, ..crate::store::chain::begin(None) })
    }

    fn prune(&self, _: Cut, _: usize, _: &str, _: Millis) -> Result<Prune, StoreError> {
        Ok(Prune { entries: 0, done: true })
    }
}
