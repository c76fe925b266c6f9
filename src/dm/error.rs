//! Why an operation was not done.

use super::name::BadName;
use super::table::BadTable;
use devicemapper::DmError;
use std::path::PathBuf;

pub(super) const ENXIO: i32 = 6;
pub(super) const EBUSY: i32 = 16;

/// The errno of a failed device-mapper call, if the kernel gave one.
pub fn errno(error: &DmError) -> Option<i32> {
    match error {
        DmError::Core(devicemapper::errors::Error::Ioctl(_, _, _, errno)) => Some(**errno as i32),
        _ => None,
    }
}

/// A device-mapper error in one line. The crate's own text prints whole ioctl headers.
pub fn dm_text(error: &DmError) -> String {
    match errno(error) {
        Some(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        None => error.to_string(),
    }
}

/// Why an operation was not done. Nothing has changed, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No device-mapper at all.
    #[error("device-mapper cannot be used: {0}\n  next: run this as root; the kernel module is dm_mod")]
    NoDeviceMapper(String),
    /// The kernel cannot wake those who wait for events.
    #[error("this kernel cannot tell of events (it needs device-mapper 4.37, Linux 4.14)")]
    NoEvents,
    /// No name.
    #[error(transparent)]
    Name(#[from] BadName),
    /// No table.
    #[error(transparent)]
    Table(#[from] BadTable),
    /// There is no such device.
    #[error("there is no device-mapper device named “{0}”\n  next: see those that are there: remap-guardian dm list")]
    Missing(String),
    /// A name that others gave.
    #[error("“{0}” has a name that is not ASCII, as no tool makes it by itself\n  next: let it be mangled: dmsetup mangle")]
    NotAscii(String),
    /// A path that leads to something else.
    #[error("{} is no device-mapper device: {why}", path.display())]
    NotMapped {
        /// The path.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// The name is taken.
    #[error("a device-mapper device named “{0}” exists already")]
    NameTaken(String),
    /// The UUID is taken.
    #[error("the UUID “{uuid}” is that of the device “{name}” already")]
    UuidTaken {
        /// The UUID.
        uuid: String,
        /// Who has it.
        name: String,
    },
    /// A device has one UUID for its life.
    #[error("“{name}” has the UUID “{uuid}” already, and the kernel lets nobody change it")]
    HasUuid {
        /// The device.
        name: String,
        /// What it has.
        uuid: String,
    },
    /// A device that a table names.
    #[error("the table needs {device} ({kind} target at sector {start}): {why}")]
    Backing {
        /// As the table names it.
        device: String,
        /// The target that needs it.
        kind: String,
        /// Where that target starts.
        start: u64,
        /// What is wrong.
        why: String,
    },
    /// Nothing to activate.
    #[error("“{0}” has no table to resume with\n  next: give it one: remap-guardian dm reload {0} --table …")]
    NoTable(String),
    /// Somebody uses a device.
    #[error("{step} “{name}”: the kernel says that a device is in use")]
    Busy {
        /// What was tried.
        step: &'static str,
        /// The mapped device.
        name: String,
        /// Kernel names of the devices that it can be about.
        devices: Vec<String>,
    },
    /// The kernel refused.
    #[error("{step} “{name}”: {why}{}", told(log))]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// The mapped device.
        name: String,
        /// Its error.
        why: String,
        /// What it said in its log meanwhile.
        log: Vec<String>,
    },
    /// It failed, and so did putting things back.
    #[error("{error}\n  and {left}")]
    Left {
        /// What failed first.
        error: Box<Error>,
        /// What is not as it was.
        left: String,
    },
}

fn told(log: &[String]) -> String {
    log.iter().map(|line| format!("\n  kernel: {line}")).collect()
}
