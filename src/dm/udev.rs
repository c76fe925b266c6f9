//! Calls that udev hears of, and waiting until it has worked through its rules.
//!
//! Resume, rename and remove wait for udev, as every device-mapper tool does, so that `/dev/mapper/<name>` is as it
//! should be when they return. That wait has no bound of its own; here it gets one. The kernel gets none: a file system
//! that is frozen writes all it has first, however long that takes.

use super::backing;
use super::error::{ENXIO, dm_text, errno};
use devicemapper::{DM, DevId, DmError, DmNameBuf, DmOptions, DmResult, DmUuidBuf};
use devicemapper::{DeviceInfo, DmFlags};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long udev may take to work through its rules. The device itself is ready before.
pub const UDEV_WAIT: Duration = Duration::from_secs(30);

/// A device, by what does not change under our hands.
#[derive(Clone, Debug)]
pub enum Id {
    /// By its name.
    Name(DmNameBuf),
    /// By its UUID: a rename or a later device of the same name is not mistaken for it.
    Uuid(DmUuidBuf),
}

impl Id {
    /// As the crate takes it.
    pub fn dev(&self) -> DevId<'_> {
        match self {
            Id::Name(name) => DevId::Name(name),
            Id::Uuid(uuid) => DevId::Uuid(uuid),
        }
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.dev().fmt(f)
    }
}

/// Resumes, as long as the kernel takes, and waits until udev has worked through the event, at most [`UDEV_WAIT`].
pub fn resume(id: &Id, options: DmOptions) -> DmResult<()> {
    let dm = DM::new()?;
    let (_, old) = table(&dm, id, DmFlags::empty())?;
    let (_, waiting) = table(&dm, id, DmFlags::DM_QUERY_INACTIVE_TABLE)?;
    let own = id.clone();
    let receiver = started("resume", move |dm| dm.device_suspend(&own.dev(), options).map(drop))?;
    loop {
        let done = within(&receiver);
        // While the kernel freezes a file system the device is not suspended yet, and its old table is still in force.
        let is_done = || table(&dm, id, DmFlags::empty()).is_ok_and(|(info, live)| is_resumed(&info, &live, &old, &waiting));
        match done {
            None if is_done() => return unconfirmed(id, &given_up()),
            None => {}
            Some(Err(error)) if errno(&error).is_none() && is_done() => return unconfirmed(id, &error),
            Some(other) => return other,
        }
    }
}

/// A line of a table as the crate has it.
type RawLine = (u64, u64, String, String);

fn table(dm: &DM, id: &Id, which: DmFlags) -> DmResult<(DeviceInfo, Vec<RawLine>)> {
    let flags = DmFlags::DM_STATUS_TABLE | DmFlags::DM_NOFLUSH | which;
    dm.table_status(&id.dev(), DmOptions::default().set_flags(flags))
}

fn is_resumed(info: &DeviceInfo, live: &[RawLine], old: &[RawLine], waiting: &[RawLine]) -> bool {
    !info.flags().contains(DmFlags::DM_SUSPEND) && has_changed_places(live, old, waiting)
}

/// Whether the table that waited is in force, if one did. One that reads like the old one is not told apart from it.
fn has_changed_places(live: &[RawLine], old: &[RawLine], waiting: &[RawLine]) -> bool {
    waiting.is_empty() || old == waiting || live != old
}

/// Removes, and waits likewise.
pub fn remove(id: &Id) -> DmResult<()> {
    let own = id.clone();
    let done = bounded("remove", move |dm| dm.device_remove(&own.dev(), DmOptions::default()).map(drop));
    settle(id, done, |info| info.is_err_and(|error| errno(&error) == Some(ENXIO)))
}

/// Renames, and waits likewise.
pub fn rename(old: &DmNameBuf, new: &DmNameBuf) -> DmResult<()> {
    let (from, to) = (old.clone(), new.clone());
    let done = bounded("rename", move |dm| dm.device_rename(&from, &DevId::Name(&to)).map(drop));
    settle(&Id::Name(new.clone()), done, |info| info.is_ok())
}

/// Gives a device its UUID, and waits likewise.
pub fn set_uuid(name: &DmNameBuf, uuid: &DmUuidBuf) -> DmResult<()> {
    let (name, new) = (name.clone(), uuid.clone());
    let done = bounded("set-uuid", move |dm| dm.device_rename(&name, &DevId::Uuid(&new)).map(drop));
    settle(&Id::Uuid(uuid.clone()), done, |info| info.is_ok())
}

/// A call that did its work but whose wait for udev failed has succeeded: the kernel's word counts.
fn settle(id: &Id, done: DmResult<()>, is_done: impl Fn(DmResult<DeviceInfo>) -> bool) -> DmResult<()> {
    match done {
        Err(error) if errno(&error).is_none() && is_done(DM::new()?.device_info(&id.dev())) => unconfirmed(id, &error),
        other => other,
    }
}

fn unconfirmed(id: &Id, error: &DmError) -> DmResult<()> {
    tracing::warn!(device = %id, "the device is as it should be, but udev did not confirm it: {}", dm_text(error));
    Ok(())
}

/// Runs a call that waits for udev on a thread of its own, for at most [`UDEV_WAIT`]. A thread whose udev never answers
/// stays behind: “dmsetup udevcomplete_all” ends it.
fn bounded(what: &'static str, call: impl FnOnce(DM) -> DmResult<()> + Send + 'static) -> DmResult<()> {
    within(&started(what, call)?).unwrap_or_else(|| Err(given_up()))
}

type Answer = mpsc::Receiver<DmResult<()>>;

fn started(what: &'static str, call: impl FnOnce(DM) -> DmResult<()> + Send + 'static) -> DmResult<Answer> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        // The receiver may have given up: nobody is left to tell.
        let _ = sender.send(DM::new().and_then(call));
    };
    let spawned = std::thread::Builder::new().name(format!("dm-{what}")).spawn(work);
    spawned.map_err(|error| failed(format!("no thread: {error}")))?;
    Ok(receiver)
}

/// The answer, if there is one within [`UDEV_WAIT`].
fn within(receiver: &Answer) -> Option<DmResult<()>> {
    match receiver.recv_timeout(UDEV_WAIT) {
        Ok(answer) => Some(answer),
        Err(mpsc::RecvTimeoutError::Timeout) => None,
        Err(mpsc::RecvTimeoutError::Disconnected) => Some(Err(failed("the call ended without an answer".into()))),
    }
}

fn given_up() -> DmError {
    failed(format!("no answer from udev within {} s", UDEV_WAIT.as_secs()))
}

fn failed(why: String) -> DmError {
    DmError::Dm(devicemapper::ErrorEnum::Error, why)
}

/// Where a mapped device is to be found.
pub fn node(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

/// Makes `/dev/mapper/<name>` where udev has not: an initramfs or a container may have none. libdevmapper does it itself
/// then, and so do we. What is there and leads to another device is replaced.
pub fn ensure_node(name: &str, minor: u32) {
    let link = node(name);
    if let Err(error) = link_to(&link, minor) {
        tracing::warn!("{} cannot be made without udev: {error}", link.display());
    }
}

fn link_to(link: &Path, minor: u32) -> std::io::Result<()> {
    if leads_to(link, minor) {
        return Ok(());
    }
    if link.symlink_metadata().is_ok() {
        std::fs::remove_file(link)?;
    }
    std::os::unix::fs::symlink(format!("../dm-{minor}"), link)
}

/// Whether it leads to the mapped device of this minor number; without udev it can be a node of its own.
fn leads_to(link: &Path, minor: u32) -> bool {
    match std::fs::read_link(link) {
        Ok(target) => target.file_name().is_some_and(|file| *file == *format!("dm-{minor}")),
        Err(_) => std::fs::metadata(link)
            .is_ok_and(|node| node.file_type().is_block_device() && rustix::fs::minor(node.rdev()) == minor),
    }
}

/// Takes away a `/dev/mapper/<name>` that leads nowhere, a link or a node of its own. A udev that works has done it already; one
/// that hangs does not know of a link that we made, and leaves it also when it goes on.
pub fn forget_node(name: &str) {
    let link = node(name);
    let kind = link.symlink_metadata().map(|metadata| metadata.file_type());
    if kind.is_ok_and(|kind| kind.is_symlink() || kind.is_block_device()) && backing::devno(&link).is_err() {
        // One that stays behind is replaced by the next device of that name.
        let _ = std::fs::remove_file(link);
    }
}

/// Takes away the `/dev/mapper/<name>` of a device that has another name now; as [`forget_node`].
pub fn forget_old_node(name: &str, minor: u32) {
    let link = node(name);
    if leads_to(&link, minor) {
        let _ = std::fs::remove_file(link);
    }
}

/// Whether there is a udev.
pub fn runs() -> bool {
    Path::new("/run/udev/control").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_still_waits_behind_a_freeze_is_not_in_force() {
        let table = |offset: u32| vec![(0, 8, "linear".to_owned(), format!("8:0 {offset}"))];
        let (old, new) = (table(0), table(8));
        assert!(!has_changed_places(&old, &old, &new));
        assert!(has_changed_places(&new, &old, &new));
        assert!(has_changed_places(&old, &old, &[]), "none waited");
        assert!(has_changed_places(&new, &[], &new), "the first table");
    }

    #[test]
    fn a_link_of_another_device_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("a");
        for minor in [1, 0, 0] {
            link_to(&link, minor).unwrap();
            assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(&format!("../dm-{minor}")));
            assert!(leads_to(&link, minor) && !leads_to(&link, minor + 10));
        }
        assert!(!leads_to(&dir.path().join("b"), 0));
    }
}
