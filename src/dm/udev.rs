//! Calls that udev hears of, and waiting until it has worked through its rules.
//!
//! Resume, rename and remove wait for udev, as every device-mapper tool does, so that `/dev/mapper/<name>` is as it
//! should be when they return. That wait has no bound of its own; here it gets one.

use super::error::{ENXIO, dm_text, errno};
use devicemapper::{DM, DevId, DmError, DmNameBuf, DmOptions, DmResult, DmUuidBuf};
use devicemapper::{DeviceInfo, DmFlags};
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

/// Resumes, and waits until udev has worked through the event, at most [`UDEV_WAIT`].
pub fn resume(id: &Id, options: DmOptions) -> DmResult<()> {
    let own = id.clone();
    let done = bounded("resume", move |dm| dm.device_suspend(&own.dev(), options).map(drop));
    settle(id, done, |info| info.is_ok_and(|info| !info.flags().contains(DmFlags::DM_SUSPEND)))
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

/// A call that did its work but whose wait for udev failed has succeeded: the kernel's word counts.
fn settle(id: &Id, done: DmResult<()>, is_done: impl Fn(DmResult<DeviceInfo>) -> bool) -> DmResult<()> {
    match done {
        Err(error) if errno(&error).is_none() && is_done(DM::new()?.device_info(&id.dev())) => {
            tracing::warn!(device = %id, "the device is as it should be, but udev did not confirm it: {}", dm_text(&error));
            Ok(())
        }
        other => other,
    }
}

/// Runs a call that waits for udev on a thread of its own, for at most [`UDEV_WAIT`]. A thread whose udev never answers
/// stays behind: “dmsetup udevcomplete_all” ends it.
fn bounded(what: &'static str, call: impl FnOnce(DM) -> DmResult<()> + Send + 'static) -> DmResult<()> {
    let failed = |why: String| DmError::Dm(devicemapper::ErrorEnum::Error, why);
    let (sender, receiver) = mpsc::sync_channel(1);
    let work = move || {
        // The receiver may have given up: nobody is left to tell.
        let _ = sender.send(DM::new().and_then(call));
    };
    let spawned = std::thread::Builder::new().name(format!("dm-{what}")).spawn(work);
    spawned.map_err(|error| failed(format!("no thread: {error}")))?;
    let given_up = |_| failed(format!("no answer from udev within {} s", UDEV_WAIT.as_secs()));
    receiver.recv_timeout(UDEV_WAIT).map_err(given_up)?
}

/// Where a mapped device is to be found.
pub fn node(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

/// Makes `/dev/mapper/<name>` where udev has not: an initramfs or a container may have none. libdevmapper does it itself
/// then, and so do we.
pub fn ensure_node(name: &str, minor: u32) {
    let link = node(name);
    if link.symlink_metadata().is_ok() {
        return;
    }
    if let Err(error) = std::os::unix::fs::symlink(format!("../dm-{minor}"), &link) {
        tracing::warn!("{} cannot be made without udev: {error}", link.display());
    }
}

/// Takes away a `/dev/mapper/<name>` that leads nowhere, where no udev does it.
pub fn forget_node(name: &str) {
    let link = node(name);
    let dangles = link.is_symlink() && !link.exists();
    if dangles && !runs() {
        // A link that stays behind points nowhere and is replaced by the next device of that name.
        let _ = std::fs::remove_file(&link);
    }
}

/// Whether there is a udev.
pub fn runs() -> bool {
    Path::new("/run/udev/control").exists()
}
