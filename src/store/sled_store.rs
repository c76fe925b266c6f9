//! The store in sled: the only file that names it.
//!
//! Trees: `meta` (`format` = schema version, 4 bytes), `sets` (set UUID → JSON), `spares` (set, spare → data area), `extents`
//! (set, spare, first sector → length and state), `history` (number → time and JSON), `history_by_set` (set, number → nothing).
//!
//! sled makes things durable on `flush` only. Registry, reservations and marks are flushed before the call returns. History
//! entries are durable within half a second, or with the next of the others, or with [`SledStore::flush`].

use super::allocator::{Change, Space};
use super::{FORMAT, keys};
use crate::edge::{ExtentState, Store, StoreError, Usage};
use crate::model::{Entry, Extent, Millis, Remap, Sectors, SetDescription, SetId};
use std::collections::HashMap;
use std::fmt::Display;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Memory that sled may use for what it has read.
const CACHE_BYTES: u64 = 16 << 20;

/// How often opening may end the program before the store counts as unreadable.
const ATTEMPTS: u8 = 2;

/// A store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer version.
    #[error(
        "this store was written by a newer remap-guardian (format {found}); this one reads up to {FORMAT}: upgrade, or move {} aside",
        .path.display()
    )]
    Newer {
        /// Its format.
        found: u32,
        /// Where it is.
        path: PathBuf,
    },
    /// Another process has it.
    #[error("another remap-guardian is running: it has the store {} open", .0.display())]
    Locked(PathBuf),
    /// There is none.
    #[error("there is no store at {}", .0.display())]
    Missing(PathBuf),
    /// It does not open.
    #[error(
        "the store {} cannot be read ({reason}): move it aside and start again; spares and remaps are found on the disks, only older history is missed",
        .path.display()
    )]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The directory cannot be made or written.
    #[error("{}: {error}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Moves a store that does not open out of the way, never deleting it. Returns where it is now.
pub fn set_aside(path: &Path, now: Millis) -> std::io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".set-aside-{now}", now = now.0));
    let aside = PathBuf::from(aside);
    if aside.exists() {
        return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, format!("{} exists", aside.display())));
    }
    std::fs::rename(path, &aside)?;
    match std::fs::remove_file(marker(path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(aside),
    }
}

/// The file that counts attempts to open the store: sled may end the program when its file is damaged.
fn marker(path: &Path) -> PathBuf {
    let mut marker = path.as_os_str().to_owned();
    marker.push(".opening");
    PathBuf::from(marker)
}

struct Trees {
    path: PathBuf,
    db: sled::Db,
    sets: sled::Tree,
    spares: sled::Tree,
    extents: sled::Tree,
    history: sled::Tree,
    by_set: sled::Tree,
}

/// Not the content: it holds secrets, and can be long.
impl std::fmt::Debug for Trees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "store {}", self.path.display())
    }
}

impl Trees {
    fn open(path: &Path, may_create: bool) -> Result<Trees, OpenError> {
        let unreadable = |reason: String| OpenError::Unreadable { path: path.to_owned(), reason };
        let db = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open().map_err(|error| {
            let text = error.to_string();
            if text.contains("could not acquire lock") { OpenError::Locked(path.to_owned()) } else { unreadable(text) }
        })?;
        let meta = db.open_tree("meta").map_err(|error| unreadable(error.to_string()))?;
        match meta.get("format").map_err(|error| unreadable(error.to_string()))? {
            Some(value) => match value.as_ref().try_into().map(u32::from_be_bytes) {
                Ok(FORMAT) => {}
                Ok(found) if found > FORMAT => return Err(OpenError::Newer { found, path: path.to_owned() }),
                _ => return Err(unreadable("its format number makes no sense".into())),
            },
            None if may_create && db.tree_names().len() == 2 => {
                let made = meta.insert("format", &FORMAT.to_be_bytes()).and_then(|_| db.flush());
                made.map_err(|error| unreadable(error.to_string()))?;
            }
            None => return Err(unreadable("it has no format number".into())),
        }
        let tree = |name: &str| db.open_tree(name).map_err(|error| unreadable(error.to_string()));
        let (sets, spares, extents) = (tree("sets")?, tree("spares")?, tree("extents")?);
        let (history, by_set) = (tree("history")?, tree("history_by_set")?);
        Ok(Trees { path: path.to_owned(), db, sets, spares, extents, history, by_set })
    }

    fn failed(&self, error: impl Display) -> StoreError {
        StoreError(format!("store {}: {error}", self.path.display()))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(|error| self.failed(error))
    }

    fn sets(&self) -> Result<Vec<SetDescription>, StoreError> {
        let read = |pair: sled::Result<(sled::IVec, sled::IVec)>| {
            let (_, value) = pair.map_err(|error| self.failed(error))?;
            serde_json::from_slice(&value).map_err(|error| self.failed(format_args!("a set's record: {error}")))
        };
        self.sets.iter().map(read).collect()
    }

    fn extents(&self, set: SetId, spare: u16) -> Result<Vec<(Extent, ExtentState)>, StoreError> {
        let read = |pair: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = pair.map_err(|error| self.failed(error))?;
            keys::read_extent(&key, &value)
                .ok_or_else(|| self.failed(format_args!("an extent's record of spare{spare} is damaged")))
        };
        self.extents.scan_prefix(keys::spare(set, spare)).map(read).collect()
    }

    /// Space as recorded; what no record covers is free.
    fn usage(&self, set: SetId, spare: u16) -> Result<Usage, StoreError> {
        let data = self.spares.get(keys::spare(set, spare)).map_err(|error| self.failed(error))?;
        let Some(data) = data.and_then(|value| keys::read_data(&value)) else { return Ok(Usage::default()) };
        let mut usage = Usage::default();
        for (extent, state) in self.extents(set, spare)? {
            let count = match state {
                ExtentState::Reserved => &mut usage.reserved,
                ExtentState::InUse { .. } => &mut usage.in_use,
                ExtentState::Bad => &mut usage.bad,
            };
            count.0 = count.0.saturating_add(extent.len().0);
        }
        let taken = usage.reserved.0.saturating_add(usage.in_use.0).saturating_add(usage.bad.0);
        usage.free = Sectors(data.len().0.saturating_sub(taken));
        Ok(usage)
    }

    /// The last `limit` entries at or after `since`. Clocks jump, so an older one ends nothing.
    fn history(&self, set: Option<SetId>, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let keys: Box<dyn Iterator<Item = sled::Result<sled::IVec>>> = match set {
            Some(set) => Box::new(self.by_set.scan_prefix(set.0.as_bytes()).keys().rev()),
            None => Box::new(self.history.iter().keys().rev()),
        };
        let mut found = Vec::new();
        for key in keys {
            if found.len() >= limit {
                break;
            }
            let key = key.map_err(|error| self.failed(error))?;
            let number = &key[key.len().saturating_sub(8)..];
            // The index is written first: a crash may leave a number without its entry.
            let Some(value) = self.history.get(number).map_err(|error| self.failed(error))? else { continue };
            found.extend(read_entry(number, &value, since));
        }
        found.reverse();
        Ok(found)
    }

    fn last_number(&self) -> Result<u64, StoreError> {
        let last = self.history.last().map_err(|error| self.failed(error))?;
        Ok(last.and_then(|(key, _)| keys::number(&key)).unwrap_or(0))
    }
}

/// Reads a history entry that is not older than `since`. The time stands before the JSON, so that older ones need no parsing.
fn read_entry(number: &[u8], value: &[u8], since: Millis) -> Option<Entry> {
    let number = keys::number(number)?;
    let (time, json) = value.split_first_chunk()?;
    if u64::from_be_bytes(*time) < since.0 {
        return None;
    }
    match serde_json::from_slice::<Entry>(json) {
        Ok(entry) => Some(Entry { number, ..entry }),
        Err(error) => {
            tracing::warn!(number, %error, "a history entry cannot be read");
            None
        }
    }
}

/// The store, open for reading while no daemon has it. (sled itself may still finish what an unclean stop left.)
#[derive(Debug)]
pub struct ReadStore(Trees);

impl ReadStore {
    /// Opens an existing store.
    pub fn open(path: impl AsRef<Path>) -> Result<ReadStore, OpenError> {
        let path = path.as_ref();
        if !path.exists() {
            return Err(OpenError::Missing(path.to_owned()));
        }
        Ok(ReadStore(Trees::open(path, false)?))
    }

    /// All known sets.
    pub fn sets(&self) -> Result<Vec<SetDescription>, StoreError> {
        self.0.sets()
    }

    /// Space of a spare, as last recorded.
    pub fn usage(&self, set: SetId, spare: u16) -> Result<Usage, StoreError> {
        self.0.usage(set, spare)
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
    last_number: u64,
}

/// The store of the daemon.
#[derive(Debug)]
pub struct SledStore {
    trees: Trees,
    state: Mutex<State>,
}

impl SledStore {
    /// Opens the store, or makes a new one, readable by its owner only: it holds the secrets of the sets.
    pub fn open(path: impl AsRef<Path>) -> Result<SledStore, OpenError> {
        let path = path.as_ref();
        let io = |error| OpenError::Io { path: path.to_owned(), error };
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
        let trees = Trees::open(path, true);
        std::fs::remove_file(&marker).map_err(io)?;
        let trees = trees?;
        let last_number =
            trees.last_number().map_err(|error| OpenError::Unreadable { path: path.to_owned(), reason: error.0 })?;
        Ok(SledStore { trees, state: Mutex::new(State { last_number, ..State::default() }) })
    }

    /// Makes everything durable, history too.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.trees.flush()
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
    fn put_set(&self, set: &SetDescription) -> Result<(), StoreError> {
        let json = serde_json::to_vec(set).map_err(|error| self.trees.failed(error))?;
        self.trees.sets.insert(set.id.0.as_bytes(), json).map_err(|error| self.trees.failed(error))?;
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
        let drops = before.iter().map(|(extent, _)| Change::Drop(extent.start()));
        let changes: Vec<Change> = drops.chain(space.held().map(|(extent, state)| Change::Put(extent, state))).collect();
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

    fn append(&self, entry: &Entry) -> Result<u64, StoreError> {
        let mut state = self.state();
        let number = state.last_number + 1;
        let mut value = entry.at.0.to_be_bytes().to_vec();
        serde_json::to_writer(&mut value, &Entry { number, ..entry.clone() }).map_err(|error| self.trees.failed(error))?;
        state.last_number = number;
        self.trees.by_set.insert(keys::set_entry(entry.set, number), &[]).map_err(|error| self.trees.failed(error))?;
        self.trees.history.insert(number.to_be_bytes(), value).map_err(|error| self.trees.failed(error))?;
        Ok(number)
    }

    fn history(&self, set: Option<SetId>, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.trees.history(set, since, limit)
    }
}

#[cfg(test)]
#[path = "sled_store_tests.rs"]
mod tests;
