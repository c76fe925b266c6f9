//! Making and removing the mapped device of a set.
//!
//! A device is born *closed*: I/O waits in the target and udev is told to leave the device alone (flag 0 of the
//! subsystem in the cookie, see `systemd/56-remap-guardian.rules`). [`open`] takes that back by a resume whose cookie
//! carries clear flags; a plain change event would make `55-dm.rules` import the old flags from udev's database.
//!
//! Resume and remove wait for udev to have worked through its rules (see [`crate::dm::udev`]).
//! None of this belongs on the thread that cures errors: it execs, allocates and waits for others.

use super::partitions;
use super::target_text::{self as text, BadTable, Bounds, TARGET_TYPE, UUID_PREFIX};
use crate::dm;
use crate::dm::error::{dm_text, errno};
use crate::dm::udev::{self, Id};
use crate::failpoint::reached;
use crate::memory::for_a_child;
use crate::model::{SetDescription, SetId, SetName};
use devicemapper::{DM, DevId, Device, DeviceInfo, DmError, DmFlags, DmName, DmOptions, DmResult, DmUdevFlags, DmUuidBuf};
use std::process::{Command, Stdio};

/// `DM_SUBSYSTEM_UDEV_FLAG0`: ours to give a meaning to. Here: the device is closed.
const CLOSED: u32 = 0x0100;

const EBUSY: i32 = 16;
const ENXIO: i32 = 6;

/// The kernel module of the target.
const MODULE: &str = "dm_remap_v4_real";

/// Why a device could not be made, opened or removed, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivateError {
    /// No device-mapper at all.
    #[error("device-mapper cannot be used: {0}; is the kernel module dm_mod there, and are we root?")]
    NoDeviceMapper(String),
    /// The target's module is not there.
    #[error(
        "the kernel module {MODULE} is not installed for kernel {kernel} ({why})\n  next: install the headers of this \
         kernel, then run “make build && sudo make install” in the source tree again, or give kmod/ with its dkms.conf to dkms"
    )]
    NoTarget {
        /// Running kernel.
        kernel: String,
        /// What modprobe said.
        why: String,
    },
    /// The description and the devices do not fit.
    #[error(transparent)]
    Table(#[from] BadTable),
    /// A device-mapper call failed.
    #[error("{step} of {device}: {why}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The device.
        device: String,
        /// What the kernel said.
        why: String,
    },
    /// The name or the set is taken.
    #[error("a device-mapper device named {0}, or of this set under another name, exists already (see “dmsetup ls”)")]
    Exists(String),
    /// Somebody uses the device.
    #[error("{0} is in use: unmount it first (“lsblk /dev/mapper/{0}” shows by what)")]
    InUse(String),
}

/// A mapped device of ours that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// Its name.
    pub name: String,
    /// The set, if its UUID is well-formed.
    pub set: Option<SetId>,
    /// Major and minor number.
    pub devno: (u32, u32),
    /// It is suspended: somebody died in the middle of [`open`]. [`open`] mends it.
    pub suspended: bool,
    /// A table is live. Without one somebody died in the middle of [`create_closed`]; [`remove`] it.
    pub has_table: bool,
    /// How many have it open.
    pub open_count: i32,
}

impl Active {
    fn of(info: &DeviceInfo) -> Option<Active> {
        let uuid = info.uuid().map(ToString::to_string).filter(|uuid| uuid.starts_with(UUID_PREFIX))?;
        Some(Active {
            name: info.name()?.to_string(),
            set: text::set_of(&uuid),
            devno: (info.device().major, info.device().minor),
            suspended: info.flags().contains(DmFlags::DM_SUSPEND),
            has_table: info.flags().contains(DmFlags::DM_ACTIVE_PRESENT),
            open_count: info.open_count(),
        })
    }
}

fn step(step: &'static str, device: impl ToString) -> impl FnOnce(DmError) -> ActivateError {
    let device = device.to_string();
    move |error| ActivateError::Step { step, device, why: dm_text(&error) }
}

fn context() -> Result<DM, ActivateError> {
    DM::new().map_err(|error| ActivateError::NoDeviceMapper(dm_text(&error)))
}

fn has_target(dm: &DM) -> Result<bool, ActivateError> {
    let versions = dm.list_versions().map_err(step("listing the targets", "device-mapper"))?;
    Ok(versions.iter().any(|(name, ..)| name == TARGET_TYPE))
}

/// Loads a module; the answer is what modprobe said.
fn modprobe(module: &str) -> String {
    let run = |program| {
        let mut command = Command::new(program);
        command.args(["--", module]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for_a_child(|| command.output())
    };
    // PATH need not hold sbin.
    match run("modprobe").or_else(|_| run("/sbin/modprobe")) {
        Ok(output) if output.status.success() => format!("modprobe {module} succeeded, but the target is not there"),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("modprobe cannot be run: {error}"),
    }
}

/// Makes sure that the kernel knows the target, loading its module if needed.
pub fn ensure_target() -> Result<(), ActivateError> {
    let dm = context().or_else(|_| {
        modprobe("dm_mod");
        context()
    })?;
    if has_target(&dm)? {
        return Ok(());
    }
    let why = modprobe(MODULE);
    if has_target(&dm)? {
        return Ok(());
    }
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    Err(ActivateError::NoTarget { kernel, why })
}

/// Makes the device of a set, closed: I/O to it waits until `Target::ready`, or fails after `bounds.closed_ms`.
///
/// `main` and `spares` are major and minor numbers, spares in the set's order. What was half done is removed again.
pub fn create_closed(
    set: &SetDescription,
    main: (u32, u32),
    spares: &[(u32, u32)],
    bounds: Bounds,
) -> Result<Active, ActivateError> {
    let params = text::table_params(set, main, spares, bounds)?;
    ensure_target()?;
    let dm = context()?;
    let device = set.name.as_str();
    let name = DmName::new(device).map_err(step("naming", device))?;
    let uuid = DmUuidBuf::new(text::dm_uuid(set.id)).map_err(step("naming", device))?;
    dm.device_create(name, Some(&uuid), DmOptions::default()).map_err(|error| match errno(&error) {
        Some(EBUSY) => ActivateError::Exists(device.into()),
        _ => step("creating", device)(error),
    })?;
    let made = start_closed(&dm, &uuid, device, set.main.sectors.0, params);
    if made.is_err() {
        if let Err(error) = remove_uuid(&uuid) {
            tracing::warn!(device, "a half-made device stays behind: {}", dm_text(&error));
        }
    }
    made
}

fn load_table(dm: &DM, uuid: &DmUuidBuf, device: &str, sectors: u64, params: String) -> Result<(), ActivateError> {
    let table = [(0, sectors, TARGET_TYPE.to_owned(), params)];
    let loaded = dm.table_load(&DevId::Uuid(uuid), &table, DmOptions::default());
    loaded.map(drop).map_err(|error| {
        // The target explains itself in the kernel log only.
        let why = format!("{} (the kernel log says why)", dm_text(&error));
        ActivateError::Step { step: "loading the table", device: device.into(), why }
    })
}

fn start_closed(dm: &DM, uuid: &DmUuidBuf, device: &str, sectors: u64, params: String) -> Result<Active, ActivateError> {
    load_table(dm, uuid, device, sectors, params)?;
    let flags = DmUdevFlags::from_bits_retain(CLOSED);
    resume(uuid, flags).map_err(step("starting", device))?;
    let info = dm.device_info(&DevId::Uuid(uuid)).map_err(step("looking at", device))?;
    let gone = || ActivateError::Step { step: "looking at", device: device.into(), why: "it has gone".into() };
    let active = Active::of(&info).ok_or_else(gone)?;
    ensure_node(&active);
    Ok(active)
}

/// The devices in the live table of a set, by their numbers.
pub struct LiveMembers {
    /// Main.
    pub main: (u32, u32),
    /// Fewer than the set has, if one has joined since the table was loaded.
    pub spares: Vec<(u32, u32)>,
}

/// What the live table of a set's device has.
pub fn live_members(set: &SetDescription) -> Result<LiveMembers, ActivateError> {
    let device = set.name.as_str();
    let uuid = DmUuidBuf::new(text::dm_uuid(set.id)).map_err(step("naming", device))?;
    let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE | DmFlags::DM_NOFLUSH);
    let (_, lines) = context()?.table_status(&DevId::Uuid(&uuid), options).map_err(step("looking at", device))?;
    let strange = |why: String| ActivateError::Step { step: "reading the table", device: device.into(), why };
    let [(_, _, kind, params)] = lines.as_slice() else {
        return Err(strange(format!("it has {} lines", lines.len())));
    };
    match dm::target::Target::parse(kind, params) {
        Ok(dm::target::Target::Remap(table)) => {
            let number = |member: &dm::Device| member.devno().ok_or_else(|| strange(format!("“{}” is no number", member.0)));
            Ok(LiveMembers { main: number(&table.main)?, spares: table.spares().map(number).collect::<Result<_, _>>()? })
        }
        Ok(other) => Err(strange(format!("its target is {}", other.kind()))),
        Err(error) => Err(strange(error.to_string())),
    }
}

/// Gives the live device of a set a table with more spares, behind those that it has. The device stays, with all that the target
/// knows of it, and whoever uses it sees no error: I/O that cannot go on meanwhile is sent again.
///
/// After an error the old table is in force, which [`live_members`] tells.
pub fn extend(set: &SetDescription, main: (u32, u32), spares: &[(u32, u32)], bounds: Bounds) -> Result<(), ActivateError> {
    let params = text::table_params(set, main, spares, bounds)?;
    let device = set.name.as_str();
    let dm = context()?;
    let uuid = DmUuidBuf::new(text::dm_uuid(set.id)).map_err(step("naming", device))?;
    let info = dm.device_info(&DevId::Uuid(&uuid)).map_err(step("looking at", device))?;
    // Somebody else has yet to open it.
    let told = if udev_waits(&info) { CLOSED } else { 0 };
    load_table(&dm, &uuid, device, set.main.sectors.0, params)?;
    reached("table loaded");
    // One call suspends, changes the tables and resumes, so nobody who is killed leaves the device suspended. No flush and no freeze:
    // I/O that waits or is held comes back to device-mapper, and goes through the new table.
    let flags = DmFlags::DM_NOFLUSH | DmFlags::DM_SKIP_LOCKFS;
    let options = DmOptions::default().set_flags(flags).set_udev_flags(DmUdevFlags::from_bits_retain(told));
    udev::resume(&Id::Uuid(uuid.clone()), options).map_err(|error| {
        put_back(&dm, &uuid);
        step("changing the table", device)(error)
    })
}

/// The live table goes on, and none waits behind it: with one beside it the target maps nothing more.
fn put_back(dm: &DM, uuid: &DmUuidBuf) {
    let id = DevId::Uuid(uuid);
    if let Err(error) = dm.table_clear(&id) {
        tracing::warn!(device = %**uuid, "a table that was not put in force stays loaded: {}", dm_text(&error));
    }
    let suspended = dm.device_info(&id).is_ok_and(|info| info.flags().contains(DmFlags::DM_SUSPEND));
    if let Some(Err(error)) = suspended.then(|| resume_by_all_means(uuid)) {
        tracing::error!(device = %**uuid, "the device stays suspended: {}", dm_text(&error));
    }
}

/// Tells udev, and through it systemd, that the device can be used. To be called after `Target::ready`.
///
/// Calling it again does no harm, and mends a device that was left suspended. A device that udev knows as open is left
/// in peace: a suspend has to wait for the I/O under way.
pub fn open(name: &SetName) -> Result<(), ActivateError> {
    let dm = context()?;
    let name = DmName::new(name.as_str()).map_err(step("naming", name))?;
    let info = dm.device_info(&DevId::Name(name)).map_err(step("looking at", name))?;
    let uuid = info.uuid().filter(|uuid| uuid.to_string().starts_with(UUID_PREFIX));
    let uuid = uuid.ok_or_else(|| step("opening", name)(not_ours()))?.to_owned();
    let suspended = info.flags().contains(DmFlags::DM_SUSPEND);
    if !suspended && !udev_waits(&info) {
        return Ok(());
    }
    if !suspended {
        // No flush and no freeze: I/O that is under way stays under way, the file system notices nothing.
        let flags = DmFlags::DM_SUSPEND | DmFlags::DM_NOFLUSH | DmFlags::DM_SKIP_LOCKFS;
        let suspended = dm.device_suspend(&DevId::Uuid(&uuid), DmOptions::default().set_flags(flags));
        suspended.map_err(step("suspending", name))?;
    }
    // Whatever happens now, the device must not stay suspended: nobody else would resume it.
    resume_by_all_means(&uuid).map_err(step("opening", name))?;
    let info = dm.device_info(&DevId::Uuid(&uuid)).map_err(step("looking at", name))?;
    if let Some(active) = Active::of(&info) {
        ensure_node(&active);
    }
    Ok(())
}

/// Whether udev still has to be told that the device is open.
fn udev_waits(info: &DeviceInfo) -> bool {
    let Device { major, minor } = info.device();
    udev::runs() && !known_as_open(&std::fs::read_to_string(format!("/run/udev/data/b{major}:{minor}")).unwrap_or_default())
}

/// Whether an entry of udev's database is that of an open device. An event that was never worked through leaves none.
fn known_as_open(entry: &str) -> bool {
    let has = |wanted: &str| entry.lines().any(|line| line == wanted);
    has("E:SYSTEMD_READY=1") && !has("E:DM_SUBSYSTEM_UDEV_FLAG0=1") && !has("E:DM_UDEV_DISABLE_OTHER_RULES_FLAG=1")
}

fn not_ours() -> DmError {
    DmError::Dm(devicemapper::ErrorEnum::Invalid, "it is not a device of remap-guardian".into())
}

/// Removes a device of ours. A device that is not there is removed.
pub fn remove(name: &SetName) -> Result<(), ActivateError> {
    let dm = context()?;
    let dm_name = DmName::new(name.as_str()).map_err(step("naming", name))?;
    let info = match dm.device_info(&DevId::Name(dm_name)) {
        Err(error) if errno(&error) == Some(ENXIO) => return Ok(()),
        other => other.map_err(step("looking at", name))?,
    };
    let uuid = info.uuid().filter(|uuid| uuid.to_string().starts_with(UUID_PREFIX));
    let uuid = uuid.ok_or_else(|| step("removing", name)(not_ours()))?.to_owned();
    if let Some(set) = text::set_of(&uuid.to_string()) {
        let left = |why| ActivateError::Step { step: "removing the partitions", device: name.to_string(), why };
        partitions::remove_all(set).map_err(left)?;
    }
    remove_uuid(&uuid).map_err(|error| match errno(&error) {
        Some(EBUSY) => ActivateError::InUse(name.to_string()),
        _ => step("removing", name)(error),
    })?;
    udev::forget_node(name.as_str());
    Ok(())
}

/// The device of a set, if there is one, under whatever name.
pub fn find_active(set: SetId) -> Result<Option<Active>, ActivateError> {
    find_uuid(&text::dm_uuid(set))
}

/// The device of ours with this UUID, if there is one, under whatever name.
pub(super) fn find_uuid(text: &str) -> Result<Option<Active>, ActivateError> {
    let dm = context()?;
    let uuid = DmUuidBuf::new(text.to_owned()).map_err(step("naming", text))?;
    match dm.device_info(&DevId::Uuid(&uuid)) {
        Ok(info) => Ok(Active::of(&info)),
        Err(error) if errno(&error) == Some(ENXIO) => Ok(None),
        Err(error) => Err(step("looking for", text)(error)),
    }
}

/// All devices of ours.
pub fn all_active() -> Result<Vec<Active>, ActivateError> {
    let dm = context()?;
    let devices = dm.list_devices().map_err(step("listing", "the devices"))?;
    // A device that goes away in between is not there.
    let infos = devices.iter().filter_map(|(name, ..)| dm.device_info(&DevId::Name(name)).ok());
    Ok(infos.filter_map(|info| Active::of(&info)).collect())
}

/// Resumes with a cookie of these flags.
fn resume(uuid: &DmUuidBuf, flags: DmUdevFlags) -> DmResult<()> {
    udev::resume(&Id::Uuid(uuid.clone()), DmOptions::default().set_udev_flags(flags))
}

/// Nobody else would resume it.
fn resume_by_all_means(uuid: &DmUuidBuf) -> DmResult<()> {
    resume(uuid, DmUdevFlags::empty()).or_else(|error| resume_without_cookie(uuid).then_some(()).ok_or(error))
}

/// The crate cannot resume without a cookie while udev runs, and a cookie cannot be made when the system's semaphores
/// are used up. dmsetup can. udev then hears of it by a plain event, which our rules understand.
fn resume_without_cookie(uuid: &DmUuidBuf) -> bool {
    let device = uuid.to_string();
    let resume = |program| Command::new(program).args(["resume", "--noudevsync", "-u", &device]).stdin(Stdio::null()).output();
    let run = |program| for_a_child(|| resume(program));
    let output = run("dmsetup").or_else(|_| run("/sbin/dmsetup"));
    let resumed = output.is_ok_and(|output| output.status.success());
    tracing::warn!(device, resumed, "the device had to be resumed by dmsetup");
    resumed
}

fn remove_uuid(uuid: &DmUuidBuf) -> DmResult<()> {
    udev::remove(&Id::Uuid(uuid.clone()))
}

/// Without udev nobody else makes the node. With it, a node that is not there yet is its business.
fn ensure_node(active: &Active) {
    if !udev::runs() {
        udev::ensure_node(&active.name, active.devno.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_says_what_to_do() {
        let error = ActivateError::NoTarget { kernel: "6.1.0".into(), why: "not found".into() }.to_string();
        assert!(error.contains("6.1.0") && error.contains("make build"), "{error}");
    }

    #[test]
    fn without_device_mapper_nothing_panics() {
        // On a machine that has it, and as root, this lists devices; both are fine.
        match all_active() {
            Ok(_) | Err(ActivateError::NoDeviceMapper(_) | ActivateError::Step { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn only_a_plain_entry_is_that_of_an_open_device() {
        assert!(known_as_open("I:1\nE:DM_NAME=data\nE:SYSTEMD_READY=1\nG:systemd\n"));
        assert!(!known_as_open(""));
        assert!(!known_as_open("E:SYSTEMD_READY=0\n"));
        assert!(!known_as_open("E:SYSTEMD_READY=1\nE:DM_SUBSYSTEM_UDEV_FLAG0=1\n"));
        assert!(!known_as_open("E:SYSTEMD_READY=1\nE:DM_UDEV_DISABLE_OTHER_RULES_FLAG=1\n"));
    }

    #[test]
    fn the_closed_flag_survives_the_crates_flag_type() {
        assert_eq!(DmOptions::default().set_udev_flags(DmUdevFlags::from_bits_retain(CLOSED)).udev_flags().bits(), CLOSED);
    }
}
