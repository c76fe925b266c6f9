//! The trees of the store in sled: opening them, reading them. Only `store` names sled.
//!
//! Trees: `meta` (`format` = schema version, 4 bytes; `pruned` = the
//! [`Anchor`](super::chain::Anchor) of the history), `sets` (set UUID → JSON), `spares` (set, spare → data area), `extents`
//! (set, spare, first sector → length and state), `history` (number → a record of the [`chain`]; in format 1 time and JSON),
//! `history_by_set` (set, number → nothing), `moved` (set, sequence number,
//! spare, first sector → a remap that pruned history told of, as JSON), `returning` (set UUID → the remap that is about to go back to
//! main, as JSON), `smart` (see [`smart`](super::smart)).

use super::{FORMAT, keys};
use crate::edge::{ExtentState, Served, StoreError, Usage};
use crate::model::{Extent, Millis, Remap, Sectors, SetDescription, SetId};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Memory that sled may use for what it has read.
const CACHE_BYTES: u64 = 16 << 20;

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

impl OpenError {
    /// What an error of sled means. A file system that is full, read-only or shut to us says nothing about the store: it is tried
    /// again, not set aside.
    pub(super) fn of(error: sled::Error, path: &Path) -> OpenError {
        use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match error {
            sled::Error::Io(error)
                if [PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull].contains(&error.kind()) =>
            {
                OpenError::Io { path: path.to_owned(), error }
            }
            other => OpenError::Unreadable { path: path.to_owned(), reason: other.to_string() },
        }
    }
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
pub(super) fn marker(path: &Path) -> PathBuf {
    let mut marker = path.as_os_str().to_owned();
    marker.push(".opening");
    PathBuf::from(marker)
}

pub(super) struct Trees {
    pub path: PathBuf,
    pub meta: sled::Tree,
    /// What it is written in; never newer than [`FORMAT`].
    pub format: u32,
    pub db: sled::Db,
    pub sets: sled::Tree,
    pub spares: sled::Tree,
    pub extents: sled::Tree,
    pub history: sled::Tree,
    pub by_set: sled::Tree,
    pub moved: sled::Tree,
    pub returning: sled::Tree,
    pub smart: sled::Tree,
}

/// A lock outlives its owner for a moment: in a child that it has forked, until that child runs its program.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

const META: &str = "meta";
const FORMAT_KEY: &str = "format";

fn database(path: &Path) -> Result<sled::Db, OpenError> {
    let mut patience = LOCK_TRIES;
    loop {
        match sled::Config::new().path(path).cache_capacity(CACHE_BYTES).open() {
            Ok(db) => return Ok(db),
            Err(error) if !error.to_string().contains("could not acquire lock") => return Err(OpenError::of(error, path)),
            Err(_) if patience == 0 => return Err(OpenError::Locked(path.to_owned())),
            Err(_) => {
                patience -= 1;
                std::thread::sleep(LOCK_PAUSE);
            }
        }
    }
}

/// Not the content: it holds secrets, and can be long.
impl std::fmt::Debug for Trees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "store {}", self.path.display())
    }
}

impl Trees {
    pub fn open(path: &Path, may_create: bool) -> Result<Trees, OpenError> {
        let unreadable = |reason: &str| OpenError::Unreadable { path: path.to_owned(), reason: reason.into() };
        let failed = |error: sled::Error| OpenError::of(error, path);
        let db = database(path)?;
        let meta = db.open_tree(META).map_err(failed)?;
        let format = match meta.get(FORMAT_KEY).map_err(failed)? {
            Some(value) => match value.as_ref().try_into().map(u32::from_be_bytes) {
                Ok(found) if (1..=FORMAT).contains(&found) => found,
                Ok(found) if found > FORMAT => return Err(OpenError::Newer { found, path: path.to_owned() }),
                _ => return Err(unreadable("its format number makes no sense")),
            },
            None if may_create && db.tree_names().len() == 2 => {
                let made = meta.insert(FORMAT_KEY, &FORMAT.to_be_bytes()).and_then(|_| db.flush());
                made.map_err(failed)?;
                FORMAT
            }
            None => return Err(unreadable("it has no format number")),
        };
        Trees::of(db, path, format).map_err(failed)
    }

    /// A new store that has no format number yet: only [`Trees::set_format`] makes it one that can be opened.
    pub fn draft(path: &Path) -> Result<Trees, OpenError> {
        let failed = |error: sled::Error| OpenError::Io { path: path.to_owned(), error: error.into() };
        Trees::of(database(path)?, path, FORMAT).map_err(failed)
    }

    fn of(db: sled::Db, path: &Path, format: u32) -> sled::Result<Trees> {
        let tree = |name: &str| db.open_tree(name);
        let meta = tree(META)?;
        let (sets, spares, extents) = (tree("sets")?, tree("spares")?, tree("extents")?);
        let (history, by_set, moved) = (tree("history")?, tree("history_by_set")?, tree("moved")?);
        let (returning, smart) = (tree("returning")?, tree("smart")?);
        Ok(Trees { path: path.to_owned(), meta, format, db, sets, spares, extents, history, by_set, moved, returning, smart })
    }

    pub fn set_format(&self, format: u32) -> sled::Result<()> {
        self.meta.insert(FORMAT_KEY, &format.to_be_bytes())?;
        self.db.flush().map(drop)
    }

    /// The trees that no format has changed so far.
    pub fn plain(&self) -> [&sled::Tree; 4] {
        [&self.sets, &self.spares, &self.extents, &self.by_set]
    }

    pub fn failed(&self, error: impl Display) -> StoreError {
        StoreError(format!("store {}: {error}", self.path.display()))
    }

    /// Reads everything once. sled may end the program when it comes to a damaged page; better now, while the attempt is counted.
    pub fn walk(&self) -> Result<(), StoreError> {
        for tree in self.plain().into_iter().chain([&self.history, &self.moved, &self.returning, &self.smart]) {
            for pair in tree.iter() {
                pair.map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(|error| self.failed(error))
    }

    pub fn sets(&self) -> Result<Vec<SetDescription>, StoreError> {
        let read = |pair: sled::Result<(sled::IVec, sled::IVec)>| {
            let (_, value) = pair.map_err(|error| self.failed(error))?;
            serde_json::from_slice(&value).map_err(|error| self.failed(format_args!("a set's record: {error}")))
        };
        self.sets.iter().map(read).collect()
    }

    pub fn returning(&self, set: SetId) -> Result<Option<Remap>, StoreError> {
        let value = self.returning.get(set.0.as_bytes()).map_err(|error| self.failed(error))?;
        let read = |value: sled::IVec| serde_json::from_slice(&value);
        value.map(read).transpose().map_err(|error| self.failed(format_args!("the remap that was to go back: {error}")))
    }

    pub fn extents(&self, set: SetId, spare: u16) -> Result<Vec<(Extent, ExtentState)>, StoreError> {
        let read = |pair: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = pair.map_err(|error| self.failed(error))?;
            keys::read_extent(&key, &value)
                .ok_or_else(|| self.failed(format_args!("an extent's record of spare{spare} is damaged")))
        };
        self.extents.scan_prefix(keys::spare(set, spare)).map(read).collect()
    }

    pub fn in_use(&self, set: SetId, spare: u16) -> Result<Vec<Served>, StoreError> {
        let served = |(extent, state): (Extent, ExtentState)| match state {
            ExtentState::InUse { main } => Some(
                Extent::new(main, extent.len())
                    .map(|main| Served { main, at: extent.start() })
                    .map_err(|error| self.failed(format_args!("an extent's record of spare{spare} is damaged: {error}"))),
            ),
            ExtentState::Reserved | ExtentState::Bad => None,
        };
        self.extents(set, spare)?.into_iter().filter_map(served).collect()
    }

    /// Space as recorded; what no record covers is free.
    pub fn usage(&self, set: SetId, spare: u16) -> Result<Usage, StoreError> {
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
}
