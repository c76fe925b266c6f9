//! Brings a store of an older format to the one that is written now. See `migrations/`.
//!
//! The old store is only read. A new one is written beside it, compared, made durable, and takes its place by renaming; the old one stays
//! as `<store>.format-<n>`. Whatever ends the program in between leaves the old store, or the new one, whole; and it can be repeated.

use super::chain::{self, START};
use super::trees::{OpenError, Trees};
use super::{FORMAT, keys};
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A new store that is whole has this name until the old one is out of its way.
fn whole(path: &Path) -> PathBuf {
    beside(path, &format!("format-{FORMAT}"))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Does what is left of a migration that was interrupted between its last two renames.
pub(super) fn finish(path: &Path) -> Result<(), OpenError> {
    if path.exists() || !whole(path).exists() {
        return Ok(());
    }
    rename(&whole(path), path)
}

/// Gives the store at the format of now.
pub(super) fn migrate(old: Trees) -> Result<Trees, OpenError> {
    let (path, format) = (old.path.clone(), old.format);
    let (draft, whole) = (beside(&path, &format!("format-{FORMAT}.new")), whole(&path));
    // What an interrupted attempt has left may lack what was written to the old store since.
    for left in [&draft, &whole] {
        discard(left)?;
    }
    // Asked first, for it is tried again and again until there is room.
    let (needed, free) = room(&path).map_err(|error| io(&path, error))?;
    enough(needed, free).map_err(|error| io(&draft, error))?;
    let made = write(&old, &draft).and_then(|()| sync(&draft).map_err(|error| io(&draft, error)));
    if let Err(error) = made {
        discard(&draft)?;
        return Err(error);
    }
    drop(old);
    rename(&draft, &whole)?;
    let kept = kept(&path, format);
    rename(&path, &kept)?;
    rename(&whole, &path)?;
    tracing::info!(from = format, to = FORMAT, "the store has a new format; the old one is kept as {}", kept.display());
    Trees::open(&path, false)
}

/// Writes everything that `old` holds to a new store, and the format number when all of it was read back.
fn write(old: &Trees, at: &Path) -> Result<(), OpenError> {
    let bad = |error: sled::Error| OpenError::of(error, &old.path);
    // What goes wrong with the new store says nothing about the old one.
    let failed = |error: sled::Error| io(at, Error::from(error));
    DirBuilder::new().mode(0o700).create(at).map_err(|error| io(at, error))?;
    let new = Trees::draft(at)?;
    for (from, to) in old.plain().into_iter().zip(new.plain()) {
        for pair in from.iter() {
            let (key, value) = pair.map_err(bad)?;
            to.insert(key, value).map_err(failed)?;
        }
    }
    // Bytes, not entries: also what this version cannot read is kept as it is.
    let mut previous = START;
    for pair in old.history.iter() {
        let (key, body) = pair.map_err(bad)?;
        let (value, own) = chain::record(keys::number(&key).unwrap_or_default(), previous, &body);
        new.history.insert(key, value).map_err(failed)?;
        previous = own;
    }
    new.db.flush().map_err(failed)?;
    let same = old.plain().into_iter().zip(new.plain()).all(|(from, to)| from.iter().eq(to.iter()));
    let read_back = |pair: sled::Result<(sled::IVec, sled::IVec)>| {
        pair.ok().and_then(|(key, value)| Some((key, chain::Record::read(&value)?.body.to_vec())))
    };
    let before = old.history.iter().map(|pair| pair.ok().map(|(key, body)| (key, body.to_vec())));
    if !same || !before.eq(new.history.iter().map(read_back)) {
        return Err(io(at, Error::new(ErrorKind::InvalidData, "what was written does not read back")));
    }
    new.set_format(FORMAT).map_err(failed)
}

/// A free name for the old store: an earlier migration may have left one, when the program was downgraded in between.
fn kept(path: &Path, format: u32) -> PathBuf {
    let first = beside(path, &format!("format-{format}"));
    let more = (2u32..).map(|n| beside(path, &format!("format-{format}-{n}")));
    std::iter::once(first).chain(more).find(|name| !name.exists()).unwrap_or_else(|| unreachable!("names do not end"))
}

fn discard(path: &Path) -> Result<(), OpenError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io(path, error)),
        _ => Ok(()),
    }
}

/// Bytes that a store takes, and bytes that are free beside it.
fn room(path: &Path) -> std::io::Result<(u64, u64)> {
    fn taken(path: &Path) -> std::io::Result<u64> {
        let found = std::fs::symlink_metadata(path)?;
        if !found.is_dir() {
            return Ok(found.blocks() * 512);
        }
        std::fs::read_dir(path)?.map(|entry| taken(&entry?.path())).sum()
    }
    let free = rustix::fs::statvfs(path)?;
    Ok((taken(path)?, free.f_bavail * free.f_frsize))
}

fn enough(needed: u64, free: u64) -> std::io::Result<()> {
    if needed <= free {
        return Ok(());
    }
    let message = format!("a store in the new format needs {} KiB, {} KiB are free", needed >> 10, free >> 10);
    Err(Error::new(ErrorKind::StorageFull, message))
}

/// Renames, and makes it durable.
fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    std::fs::rename(from, to).map_err(|error| io(from, error))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|error| io(parent, error))
}

/// Makes a directory and all in it durable.
fn sync(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            sync(&entry?.path())?;
        }
    }
    File::open(path)?.sync_all()
}

fn io(path: &Path, error: Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;
