//! The store of the daemon, and the reader for when there is none.
//!
//! sled makes things durable on `flush` only. Registry, reservations and marks are flushed before the call returns. History
//! entries are durable within half a second, or with the next of the others, or with [`Store::flush`].

use super::FORMAT;
use super::allocator::{Change, Space};
use super::chain::{self, Hash};
use super::trees::{OpenError, Trees, marker};
use super::{keys, migrate};
use crate::edge::{ExtentState, Prune, Served, Store, StoreError, ToldRemaps, Usage};
use crate::model::{
    ChainReport, ChainWalk, Cut, Entry, Extent, Millis, Remap, Sample, Sector, Sectors, SetDescription, SetId, SetName, Stamp,
    TestTimes, What,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::fs::DirBuilderExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How often opening may end the program before the store counts as unreadable.
const ATTEMPTS: u8 = 2;

/// The store, open for reading while no daemon has it. (sled itself may still finish what an unclean stop left.)
#[derive(Debug)]
pub struct ReadStore(Trees);

impl ReadStore {
    /// Opens an existing store.
    pub fn open(path: impl AsRef<Path>) -> Result<ReadStore, OpenError> {
        let path = path.as_ref();
        // sled would make one where there is none.
        if !path.join("db").exists() {
            return Err(OpenError::Missing(path.to_owned()));
        }
        Ok(ReadStore(Trees::open(path, false)?))
    }

    /// Opens the store at `path` if there is one.
    pub fn open_if_there(path: impl AsRef<Path>) -> Result<Option<ReadStore>, OpenError> {
        match ReadStore::open(path) {
            Err(OpenError::Missing(_)) => Ok(None),
            other => other.map(Some),
        }
    }

    /// All known sets.
    pub fn sets(&self) -> Result<Vec<SetDescription>, StoreError> {
        self.0.sets()
    }

    /// Space of a spare, as last recorded.
    pub fn usage(&self, set: SetId, spare: u16) -> Result<Usage, StoreError> {
        self.0.usage(set, spare)
    }

    /// As [`Store::in_use`].
    pub fn in_use(&self, set: SetId, spare: u16) -> Result<Vec<Served>, StoreError> {
        self.0.in_use(set, spare)
    }

    /// As [`Store::verify`], in one step.
    pub fn verify(&self) -> Result<ChainReport, StoreError> {
        self.0.verify(None, usize::MAX).map(|walk| walk.report)
    }

    /// As [`Store::history_named`].
    pub fn history_named(&self, name: &SetName, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.0.history_named(name, since, limit)
    }

    /// As [`Store::history`].
    pub fn history(&self, set: Option<SetId>, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.0.history(set, since, limit)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Space of the spares whose table was read since the store was opened: only from these is anything handed out.
    spaces: HashMap<(SetId, u16), Space>,
    /// Number and hash of the newest history record.
    last: (u64, Hash),
}

/// The store of the daemon.
#[derive(Debug)]
pub struct SledStore {
    trees: Trees,
    state: Mutex<State>,
}

impl SledStore {
    /// Opens the store, or makes a new one, readable by its owner only: it holds the secrets of the sets. One of an older format
    /// is brought to that of now.
    pub fn open(path: impl AsRef<Path>) -> Result<SledStore, OpenError> {
        let path = path.as_ref();
        let io = |error| OpenError::Io { path: path.to_owned(), error };
        migrate::finish(path)?;
        if !path.exists() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        }
        let marker = marker(path);
        let attempts = std::fs::read(&marker).ok().and_then(|bytes| bytes.first().copied()).unwrap_or(0);
        if attempts >= ATTEMPTS {
            let reason = format!("opening it ended the program {attempts} times");
            return Err(OpenError::Unreadable { path: path.to_owned(), reason });
        }
        std::fs::write(&marker, [attempts + 1]).map_err(io)?;
        let unreadable = |error: StoreError| OpenError::Unreadable { path: path.to_owned(), reason: error.0 };
        // sled panics on some damage. Where a panic ends the program, the marker stays and counts.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let trees = Trees::open(path, true)?;
            trees.walk().map_err(unreadable)?;
            Ok(trees)
        }));
        let opened = opened.unwrap_or_else(|_| Err(unreadable(StoreError("its content is damaged".into()))));
        // A migration is not counted: all that it reads has been read once, and it may be interrupted as often as it likes.
        std::fs::remove_file(&marker).map_err(io)?;
        let trees = opened?;
        let trees = if trees.format < FORMAT { migrate::migrate(trees)? } else { trees };
        if let Err(error) = trees.sweep() {
            tracing::warn!(%error, "entries that were pruned from the history may still be there");
        }
        let last = trees.last().map_err(unreadable)?;
        Ok(SledStore { trees, state: Mutex::new(State { last, ..State::default() }) })
    }

    #[cfg(test)]
    pub(super) fn trees(&self) -> &Trees {
        &self.trees
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Memory may be ahead of the record after a failure, never behind: what it holds as taken stays taken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, set: SetId, spare: u16, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for change in changes {
            match *change {
                Change::Put(extent, state) => {
                    batch.insert(&keys::extent(set, spare, extent.start()), &keys::extent_value(extent, state));
                }
                Change::Drop(at) => batch.remove(&keys::extent(set, spare, at)),
            }
        }
        self.trees.extents.apply_batch(batch).map_err(|error| self.trees.failed(error))?;
        self.flush()
    }

    fn unknown(&self, set: SetId, spare: u16) -> StoreError {
        self.trees.failed(format_args!(
            "the table of spare{spare} of set {set} was not read since the start; nothing is handed out from it"
        ))
    }
}

impl Store for SledStore {
    fn flush(&self) -> Result<(), StoreError> {
        self.trees.flush()
    }

    fn put_set(&self, set: &SetDescription) -> Result<(), StoreError> {
        let json = serde_json::to_vec(set).map_err(|error| self.trees.failed(error))?;
        self.trees.sets.insert(set.id.0.as_bytes(), json).map_err(|error| self.trees.failed(error))?;
        self.flush()
    }

    fn remove_set(&self, set: SetId) -> Result<(), StoreError> {
        let mut state = self.state();
        state.spaces.retain(|(of, _), _| *of != set);
        // The registry last: what is left after a failure can be removed again.
        for tree in [&self.trees.returning, &self.trees.moved, &self.trees.extents, &self.trees.spares, &self.trees.sets] {
            for key in tree.scan_prefix(set.0.as_bytes()).keys() {
                key.and_then(|key| tree.remove(key)).map_err(|error| self.trees.failed(error))?;
            }
        }
        self.flush()
    }

    fn sets(&self) -> Result<Vec<SetDescription>, StoreError> {
        self.trees.sets()
    }

    fn rebuild(&self, set: SetId, spare: u16, data: Extent, live: &[Remap]) -> Result<(), StoreError> {
        let mut state = self.state();
        state.spaces.remove(&(set, spare));
        let before = self.trees.extents(set, spare)?;
        let live = live.iter().filter(|remap| remap.spare == spare).copied();
        let space = Space::rebuild(data, before.iter().copied(), live)
            .map_err(|error| self.trees.failed(format_args!("spare{spare} of set {set}: {error}")))?;
        let after: BTreeMap<Sector, Change> =
            space.held().map(|(extent, state)| (extent.start(), Change::Put(extent, state))).collect();
        let drops = before.iter().map(|(extent, _)| extent.start()).filter(|at| !after.contains_key(at)).map(Change::Drop);
        let known: BTreeSet<Sector> = before
            .iter()
            .filter(|(extent, state)| after.get(&extent.start()) == Some(&Change::Put(*extent, *state)))
            .map(|(extent, _)| extent.start())
            .collect();
        let puts = after.iter().filter(|(at, _)| !known.contains(at)).map(|(_, change)| *change);
        let changes: Vec<Change> = drops.chain(puts).collect();
        self.trees.spares.insert(keys::spare(set, spare), &keys::data_value(data)).map_err(|error| self.trees.failed(error))?;
        self.record(set, spare, &changes)?;
        self.flush()?;
        state.spaces.insert((set, spare), space);
        Ok(())
    }

    fn reserve(&self, set: SetId, spare: u16, want: Sectors, unit: Sectors) -> Result<Vec<Extent>, StoreError> {
        let mut state = self.state();
        let space = state.spaces.get_mut(&(set, spare)).ok_or_else(|| self.unknown(set, spare))?;
        // If writing it down fails, these stay reserved in memory until the next start: space lost for a while, never given twice.
        let (extents, changes) = space.reserve(want, unit);
        self.record(set, spare, &changes)?;
        Ok(extents)
    }

    fn mark(&self, set: SetId, spare: u16, extent: Extent, to: ExtentState) -> Result<(), StoreError> {
        let mut state = self.state();
        let space = state.spaces.get_mut(&(set, spare)).ok_or_else(|| self.unknown(set, spare))?;
        let changes =
            space.mark(extent, to).map_err(|error| self.trees.failed(format_args!("spare{spare} of set {set}: {error}")))?;
        self.record(set, spare, &changes)
    }

    fn usage(&self, set: SetId, spare: u16) -> Result<Usage, StoreError> {
        match self.state().spaces.get(&(set, spare)) {
            Some(space) => Ok(space.usage()),
            None => self.trees.usage(set, spare),
        }
    }

    fn in_use(&self, set: SetId, spare: u16) -> Result<Vec<Served>, StoreError> {
        self.trees.in_use(set, spare)
    }

    fn append(&self, entry: &Entry) -> Result<u64, StoreError> {
        let mut state = self.state();
        let (last, previous) = state.last;
        let number = last + 1;
        let mut body = entry.at.0.to_be_bytes().to_vec();
        serde_json::to_writer(&mut body, &Entry { number, ..entry.clone() }).map_err(|error| self.trees.failed(error))?;
        let (value, own) = chain::record(number, previous, &body);
        self.trees.by_set.insert(keys::set_entry(entry.set, number), &[]).map_err(|error| self.trees.failed(error))?;
        self.trees.history.insert(number.to_be_bytes(), value).map_err(|error| self.trees.failed(error))?;
        // Only now: what failed leaves no gap.
        state.last = (number, own);
        Ok(number)
    }

    fn history(&self, set: Option<SetId>, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.trees.history(set, since, limit)
    }

    fn history_named(&self, name: &SetName, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.trees.history_named(name, since, limit)
    }

    fn history_after(&self, number: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.trees.history_after(number, limit)
    }

    fn told(&self, set: SetId) -> Result<ToldRemaps, StoreError> {
        self.trees.told(set)
    }

    fn set_returning(&self, set: SetId, remap: Option<&Remap>) -> Result<(), StoreError> {
        let key = set.0.as_bytes();
        match remap.map(serde_json::to_vec).transpose().map_err(|error| self.trees.failed(error))? {
            Some(json) => self.trees.returning.insert(key, json),
            None => self.trees.returning.remove(key),
        }
        .map_err(|error| self.trees.failed(error))?;
        self.flush()
    }

    fn returning(&self, set: SetId) -> Result<Option<Remap>, StoreError> {
        self.trees.returning(set)
    }

    fn keep_sample(&self, disk: &str, sample: &Sample) -> Result<Vec<Sample>, StoreError> {
        self.trees.keep_sample(disk, sample)
    }

    fn samples(&self, disk: &str) -> Result<Vec<Sample>, StoreError> {
        self.trees.samples(disk)
    }

    fn test_times(&self, disk: &str) -> Result<TestTimes, StoreError> {
        self.trees.test_times(disk)
    }

    fn set_test_times(&self, disk: &str, times: TestTimes) -> Result<(), StoreError> {
        self.trees.set_test_times(disk, times)?;
        self.flush()
    }

    fn history_ends(&self) -> Result<Option<(Stamp, Stamp)>, StoreError> {
        self.trees.history_ends()
    }

    fn verify(&self, walk: Option<ChainWalk>, most: usize) -> Result<ChainWalk, StoreError> {
        self.trees.verify(walk, most)
    }

    fn prune(&self, cut: Cut, most: usize, reason: &str, now: Millis) -> Result<Prune, StoreError> {
        let Some(oldest) = self.trees.oldest(cut, most)? else { return Ok(Prune { entries: 0, done: true }) };
        // Said before it is done: what a crash leaves may be said twice, nothing goes unsaid.
        for (set, (name, first, last, entries)) in oldest.sets {
            let (reason, broken) = (reason.to_owned(), oldest.broken.clone());
            let what = What::Pruned { entries, first, last, reason, broken };
            self.append(&Entry { number: 0, at: now, set, name, what })?;
        }
        self.trees.begin_after(&oldest.anchor, &oldest.told)?;
        Ok(Prune { entries: oldest.entries, done: oldest.all })
    }
}

#[cfg(test)]
#[path = "sled_store_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "history_tests.rs"]
mod history_tests;
