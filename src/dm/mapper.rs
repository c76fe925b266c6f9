//! The operations. What changes a device either does all of it or puts things back.

use super::error::{EBUSY, ENXIO, Error, dm_text, errno};
use super::kernel_log::KernelLog;
use super::name::{Name, Uuid};
use super::table::{Line, Table};
use super::udev::{self, Id};
use super::{backing, backing::Devno};
use devicemapper::{DM, DevId, DeviceInfo, DmError, DmFlags, DmNameBuf, DmOptions, DmUuidBuf};
use std::path::Path;

/// A line of a table or status as the crate has it: start, length, target type, parameters.
type RawLine = (u64, u64, String, String);

/// What is known of a device. One that does not exist has nothing but a name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Info {
    /// Its name.
    pub name: Name,
    /// Its UUID, if it has one.
    pub uuid: Option<Uuid>,
    /// Whether there is such a device.
    pub exists: bool,
    /// Whether I/O to it waits.
    pub suspended: bool,
    /// Whether a table is in force.
    pub live_table: bool,
    /// Whether a table waits to be put into force by the next resume.
    pub inactive_table: bool,
    /// How many have it open.
    pub open_count: i32,
    /// The number of its last event.
    pub event_nr: u32,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Whether nobody may write to it.
    pub read_only: bool,
    /// Lines of the live table.
    pub target_count: usize,
}

impl Info {
    fn of(info: &DeviceInfo, target_count: usize) -> Info {
        let has = |flag| info.flags().contains(flag);
        Info {
            name: Name::of_kernel(info.name().map(ToString::to_string).unwrap_or_default()),
            uuid: info.uuid().map(|uuid| Uuid::of_kernel(uuid.to_string())),
            exists: true,
            suspended: has(DmFlags::DM_SUSPEND),
            live_table: has(DmFlags::DM_ACTIVE_PRESENT),
            inactive_table: has(DmFlags::DM_INACTIVE_PRESENT),
            open_count: info.open_count(),
            event_nr: info.event_nr(),
            major: info.device().major,
            minor: info.device().minor,
            read_only: has(DmFlags::DM_READONLY),
            target_count,
        }
    }

    /// Of a device that does not exist.
    pub fn missing(name: &Name) -> Info {
        Info {
            name: name.clone(),
            uuid: None,
            exists: false,
            suspended: false,
            live_table: false,
            inactive_table: false,
            open_count: 0,
            event_nr: 0,
            major: 0,
            minor: 0,
            read_only: false,
            target_count: 0,
        }
    }

    /// Major and minor number.
    pub fn devno(&self) -> Devno {
        (self.major, self.minor)
    }
}

/// A device in the list of all.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// The number of its last event; Linux before 4.14 does not tell.
    pub event_nr: Option<u32>,
}

/// A target type that the kernel has loaded.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TargetVersion {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: (u32, u32, u32),
}

/// How a device is suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspend {
    /// Do not wait for I/O that is under way.
    pub no_flush: bool,
    /// Do not freeze a file system on it.
    pub no_lockfs: bool,
}

/// How a table is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Nobody may write to the device.
    pub read_only: bool,
    /// Leave it beside the live table; the next resume puts it into force.
    pub inactive: bool,
}

/// Device-mapper.
pub struct Mapper {
    dm: DM,
}

fn dm_name(name: &Name) -> Result<DmNameBuf, Error> {
    DmNameBuf::new(name.as_str().into()).map_err(|_| Error::NotAscii(name.to_string()))
}

fn dm_uuid(uuid: &Uuid) -> Result<DmUuidBuf, Error> {
    DmUuidBuf::new(uuid.as_str().into()).map_err(|error| Error::NoDeviceMapper(dm_text(&error)))
}

/// What is loaded in a device: both tables, each with what the kernel says of the device meanwhile.
struct Loaded {
    info: Info,
    live: Vec<RawLine>,
    waiting: Vec<RawLine>,
    waiting_read_only: bool,
}

/// All devices. The crate gives up on a name that is not ASCII; sysfs has it, but not its event number.
pub fn list(dm: &DM) -> Result<Vec<Listed>, Error> {
    let devices = match dm.list_devices() {
        Ok(devices) => devices,
        Err(error) if errno(&error).is_some() => return Err(Error::NoDeviceMapper(dm_text(&error))),
        Err(_) => {
            let known = backing::mapped_devices().map_err(|error| Error::NoDeviceMapper(error.to_string()))?;
            let event_nr = |name: &Name| dm.device_info(&DevId::Name(&dm_name(name).ok()?)).ok().map(|info| info.event_nr());
            let listed = |(name, (major, minor))| {
                let name = Name::of_kernel(name);
                Listed { event_nr: event_nr(&name), name, major, minor }
            };
            return Ok(known.into_iter().map(listed).collect());
        }
    };
    let listed = |(name, device, event_nr): (DmNameBuf, devicemapper::Device, _)| Listed {
        name: Name::of_kernel(name.to_string()),
        major: device.major,
        minor: device.minor,
        event_nr,
    };
    Ok(devices.into_iter().map(listed).collect())
}

impl Mapper {
    /// Opens device-mapper; this needs root.
    pub fn new() -> Result<Mapper, Error> {
        DM::new().map(|dm| Mapper { dm }).map_err(|error| Error::NoDeviceMapper(dm_text(&error)))
    }

    pub(super) fn dm(&self) -> &DM {
        &self.dm
    }

    /// What a failed call means where nothing better is known. ENXIO alone says little: a target that does not find a
    /// device by its number answers the same.
    fn failed(&self, step: &'static str, name: &Name, error: &DmError, log: Vec<String>) -> Error {
        if errno(error) == Some(ENXIO) && !self.is_there(name) {
            return Error::Missing(name.to_string());
        }
        Error::Kernel { step, name: name.to_string(), why: dm_text(error), log }
    }

    fn is_there(&self, name: &Name) -> bool {
        let asked = dm_name(name).map(|name| self.dm.device_info(&DevId::Name(&name)));
        !asked.is_ok_and(|answer| answer.is_err_and(|error| errno(&error) == Some(ENXIO)))
    }

    /// Fails on a kernel whose descriptor cannot be waited on.
    pub(super) fn needs_events(&self) -> Result<(), Error> {
        let version = self.dm.version().map_err(|error| Error::NoDeviceMapper(dm_text(&error)))?;
        if version < (4, 37, 0) { Err(Error::NoEvents) } else { Ok(()) }
    }

    /// The device that a person means: its name, or a path that leads to it.
    pub fn find(&self, text: &str) -> Result<Name, Error> {
        if !text.contains('/') {
            return Ok(Name::new(text)?);
        }
        let not = |why: String| Error::NotMapped { path: text.into(), why };
        // Nothing there: the name is meant, and there may be no such device.
        if let Some(name) = text.strip_prefix("/dev/mapper/").filter(|_| !Path::new(text).exists()) {
            return Ok(Name::new(name)?);
        }
        let devno = backing::devno(Path::new(text)).map_err(not)?;
        let name = backing::mapped_name(devno).ok_or_else(|| not("device-mapper did not make it".into()))?;
        Ok(Name::of_kernel(name))
    }

    /// All devices.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        list(&self.dm)
    }

    /// Whether there is such a device.
    pub fn exists(&self, name: &Name) -> Result<bool, Error> {
        match self.dm.device_info(&DevId::Name(&dm_name(name)?)) {
            Ok(_) => Ok(true),
            Err(error) if errno(&error) == Some(ENXIO) => Ok(false),
            Err(error) => Err(self.failed("looking at", name, &error, Vec::new())),
        }
    }

    /// What is known of a device.
    pub fn info(&self, name: &Name) -> Result<Info, Error> {
        // The crate keeps the number of targets to itself; the table has it, and all else of the same moment.
        self.raw_table(name, DmFlags::empty()).map(|(info, lines)| Info::of(&info, lines.len()))
    }

    fn raw_table(&self, name: &Name, flags: DmFlags) -> Result<(DeviceInfo, Vec<RawLine>), Error> {
        let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE | DmFlags::DM_NOFLUSH | flags);
        let answer = self.dm.table_status(&DevId::Name(&dm_name(name)?), options);
        answer.map_err(|error| self.failed("reading the table of", name, &error, Vec::new()))
    }

    /// The live table, or the inactive one; nothing if there is none. Keys are in it.
    pub fn table(&self, name: &Name, inactive: bool) -> Result<Vec<Line>, Error> {
        let flags = if inactive { DmFlags::DM_QUERY_INACTIVE_TABLE } else { DmFlags::empty() };
        let (_, lines) = self.raw_table(name, flags)?;
        Ok(lines.iter().map(|(start, length, kind, params)| Line::of_kernel(*start, *length, kind, params)).collect())
    }

    /// What the targets say about themselves: start, length, target type, status. Without `no_flush` some write their
    /// metadata first, so that what they say is up to date.
    pub fn status(&self, name: &Name, no_flush: bool) -> Result<Vec<RawLine>, Error> {
        let flags = if no_flush { DmFlags::DM_NOFLUSH } else { DmFlags::empty() };
        let answer = self.dm.table_status(&DevId::Name(&dm_name(name)?), DmOptions::default().set_flags(flags));
        answer.map(|(_, lines)| lines).map_err(|error| self.failed("reading the status of", name, &error, Vec::new()))
    }

    /// The devices that the live table stands on.
    pub fn deps(&self, name: &Name) -> Result<Vec<Devno>, Error> {
        let answer = self.dm.table_deps(&DevId::Name(&dm_name(name)?), DmOptions::default());
        let devices = answer.map_err(|error| self.failed("reading the dependencies of", name, &error, Vec::new()))?;
        Ok(devices.into_iter().map(|device| (device.major, device.minor)).collect())
    }

    /// The target types that the kernel has loaded. Others may be there as modules.
    pub fn targets(&self) -> Result<Vec<TargetVersion>, Error> {
        let versions = self.dm.list_versions().map_err(|error| Error::NoDeviceMapper(dm_text(&error)))?;
        let version = |(name, major, minor, patch)| TargetVersion { name, version: (major, minor, patch) };
        Ok(versions.into_iter().map(version).collect())
    }

    /// Sends a message to the target at a sector; the answer is what it replied, if it did.
    pub fn message(&self, name: &Name, sector: u64, message: &str) -> Result<Option<String>, Error> {
        let log = KernelLog::from_now();
        let answer = self.dm.target_msg(&DevId::Name(&dm_name(name)?), Some(sector), message);
        answer.map(|(_, reply)| reply).map_err(|error| self.failed("sending a message to", name, &error, log.lines()))
    }

    /// Makes a device; without a table it has none yet. Its UUID is made up if none is given. When this returns,
    /// `/dev/mapper/<name>` is there; when it fails, no device is.
    pub fn create(&self, name: &Name, uuid: Option<&Uuid>, table: Option<&Table>, read_only: bool) -> Result<Info, Error> {
        if let Some(table) = table {
            backing::check(table, None)?;
        }
        let uuid = uuid.cloned().unwrap_or_else(Uuid::generate);
        let (kernel_name, kernel_uuid) = (dm_name(name)?, dm_uuid(&uuid)?);
        let flags = if read_only { DmFlags::DM_READONLY } else { DmFlags::empty() };
        let made = self.dm.device_create(&kernel_name, Some(&kernel_uuid), DmOptions::default().set_flags(flags));
        made.map_err(|error| match errno(&error) {
            Some(EBUSY) => self.taken(name, &uuid),
            _ => self.failed("creating", name, &error, Vec::new()),
        })?;
        let Some(table) = table else { return self.info(name) };
        let id = Id::Uuid(kernel_uuid);
        let started = self.load(&id, name, table, read_only).and_then(|()| self.start(&id, name, Some(table)));
        started.map_err(|error| match udev::remove(&id) {
            Ok(()) => {
                udev::forget_node(name.as_str());
                error
            }
            Err(left) => {
                let left = format!("the device “{name}” stays behind: {} (remap-guardian dm remove {name})", dm_text(&left));
                Error::Left { error: Box::new(error), left }
            }
        })?;
        self.info(name)
    }

    /// Who has what `create` or `rename` wanted.
    fn taken(&self, name: &Name, uuid: &Uuid) -> Error {
        let owner = dm_uuid(uuid).ok().and_then(|uuid| self.dm.device_info(&DevId::Uuid(&uuid)).ok());
        match owner.as_ref().and_then(DeviceInfo::name) {
            Some(owner) if owner.to_string() != name.as_str() => {
                Error::UuidTaken { uuid: uuid.to_string(), name: owner.to_string() }
            }
            _ => Error::NameTaken(name.to_string()),
        }
    }

    fn load(&self, id: &Id, name: &Name, table: &Table, read_only: bool) -> Result<(), Error> {
        let raw = |line: &Line| (line.start, line.length, line.target.kind().to_owned(), line.target.to_string());
        let lines: Vec<RawLine> = table.lines().iter().map(raw).collect();
        let mut flags = DmFlags::empty();
        flags.set(DmFlags::DM_READONLY, read_only);
        flags.set(DmFlags::DM_SECURE_DATA, table.lines().iter().any(|line| line.target.may_hold_key()));
        let log = KernelLog::from_now();
        let loaded = self.dm.table_load(&id.dev(), &lines, DmOptions::default().set_flags(flags));
        loaded.map(drop).map_err(|error| match errno(&error) {
            Some(EBUSY) => self.busy("loading the table of", name, table),
            _ => self.failed("loading the table of", name, &error, log.lines()),
        })
    }

    fn busy(&self, step: &'static str, name: &Name, table: &Table) -> Error {
        Error::Busy { step, name: name.to_string(), devices: backing::kernel_names(table) }
    }

    /// Resumes, and sees to the node.
    fn start(&self, id: &Id, name: &Name, table: Option<&Table>) -> Result<(), Error> {
        let log = KernelLog::from_now();
        udev::resume(id, DmOptions::default()).map_err(|error| match (errno(&error), table) {
            (Some(EBUSY), Some(table)) => self.busy("resuming", name, table),
            _ => self.failed("resuming", name, &error, log.lines()),
        })?;
        let info = self.dm.device_info(&id.dev()).map_err(|error| self.failed("looking at", name, &error, Vec::new()))?;
        udev::ensure_node(name.as_str(), info.device().minor);
        Ok(())
    }

    fn loaded(&self, name: &Name) -> Result<Loaded, Error> {
        let (info, live) = self.raw_table(name, DmFlags::empty())?;
        let info = Info::of(&info, live.len());
        if !info.inactive_table {
            return Ok(Loaded { info, live, waiting: Vec::new(), waiting_read_only: false });
        }
        let (inactive, waiting) = self.raw_table(name, DmFlags::DM_QUERY_INACTIVE_TABLE)?;
        Ok(Loaded { info, live, waiting, waiting_read_only: inactive.flags().contains(DmFlags::DM_READONLY) })
    }

    /// Replaces the table in one step: I/O waits while the tables change places, and none is lost. If the new table
    /// cannot be put into force, the old one is again, and a table that waited before waits again.
    ///
    /// A device that was suspended stays so: its new table waits for the next resume, as with [`Load::inactive`].
    pub fn reload(&self, name: &Name, table: &Table, how: Load) -> Result<Info, Error> {
        let before = self.loaded(name)?;
        backing::check(table, Some(before.info.devno()))?;
        let id = Id::Name(dm_name(name)?);
        // The kernel keeps what was in the inactive slot if this fails.
        self.load(&id, name, table, how.read_only)?;
        let stays_suspended = before.info.suspended && before.info.live_table;
        if !how.inactive && !stays_suspended {
            self.start(&id, name, Some(table)).map_err(|error| self.undone(&id, name, &before, error))?;
        }
        self.info(name)
    }

    /// What a resume that failed comes to, after things were put back.
    fn undone(&self, id: &Id, name: &Name, before: &Loaded, error: Error) -> Error {
        let left = match self.put_back(id, name, before) {
            Ok(None) => return error,
            Ok(Some(left)) => left,
            Err(why) => {
                format!("“{name}” could not be put back as it was: {why}\n  next: see how it is: remap-guardian dm info {name}")
            }
        };
        Error::Left { error: Box::new(error), left }
    }

    /// After a resume that failed: the kernel may have refused the new table before or after it took the old one away.
    /// The answer is what is not as it was.
    fn put_back(&self, id: &Id, name: &Name, before: &Loaded) -> Result<Option<String>, Error> {
        let now = self.info(name)?;
        if now.inactive_table {
            self.dm.table_clear(&id.dev()).map_err(|error| self.failed("restoring", name, &error, Vec::new()))?;
        }
        if !before.info.live_table && now.live_table {
            // A table that is live cannot be taken away again.
            return Ok(Some(format!(
                "“{name}” has this table now and stays suspended\n  next: remap-guardian dm reload {name} --table …"
            )));
        }
        if before.info.live_table && now.suspended {
            self.load_raw(id, name, &before.live, before.info.read_only)?;
            if before.info.suspended {
                // A resume would let I/O through that somebody has stopped on purpose.
                return Ok(Some(format!(
                    "“{name}” is suspended as before, its old table waits for the next resume: remap-guardian dm resume {name}"
                )));
            }
            self.start(id, name, None)?;
        }
        if !before.waiting.is_empty() {
            self.load_raw(id, name, &before.waiting, before.waiting_read_only)?;
        }
        Ok(None)
    }

    /// Loads a table as the kernel printed it.
    fn load_raw(&self, id: &Id, name: &Name, lines: &[RawLine], read_only: bool) -> Result<(), Error> {
        let mut flags = DmFlags::DM_SECURE_DATA;
        flags.set(DmFlags::DM_READONLY, read_only);
        let log = KernelLog::from_now();
        let loaded = self.dm.table_load(&id.dev(), lines, DmOptions::default().set_flags(flags));
        loaded.map(drop).map_err(|error| self.failed("restoring", name, &error, log.lines()))
    }

    /// Gives a device a new name, a UUID if it had none, or both.
    pub fn rename(&self, name: &Name, new: Option<&Name>, uuid: Option<&Uuid>) -> Result<Info, Error> {
        let info = self.info(name)?;
        if let Some(uuid) = uuid {
            if let Some(has) = &info.uuid {
                return Err(Error::HasUuid { name: name.to_string(), uuid: has.to_string() });
            }
            // Asked in advance: a rename that is taken back is an event of the device all the same.
            if self.dm.device_info(&DevId::Uuid(&dm_uuid(uuid)?)).is_ok() {
                return Err(self.taken(name, uuid));
            }
        }
        if let Some(new) = new {
            if self.exists(new)? {
                return Err(Error::NameTaken(new.to_string()));
            }
            self.rename_node(name, new, info.minor)?;
        }
        let now = new.unwrap_or(name);
        if let Some(uuid) = uuid {
            if let Err(error) = udev::set_uuid(&dm_name(now)?, &dm_uuid(uuid)?) {
                let error = match errno(&error) {
                    Some(EBUSY) => self.taken(now, uuid),
                    _ => self.failed("giving a UUID to", now, &error, Vec::new()),
                };
                return Err(match new.map(|new| self.rename_node(new, name, info.minor)) {
                    Some(Err(_)) => {
                        Error::Left { error: Box::new(error), left: format!("the device has its new name “{now}”") }
                    }
                    _ => error,
                });
            }
        }
        self.info(now)
    }

    fn rename_node(&self, old: &Name, new: &Name, minor: u32) -> Result<(), Error> {
        udev::rename(&dm_name(old)?, &dm_name(new)?).map_err(|error| match errno(&error) {
            Some(EBUSY) => Error::NameTaken(new.to_string()),
            _ => self.failed("renaming", old, &error, Vec::new()),
        })?;
        udev::ensure_node(new.as_str(), minor);
        udev::forget_old_node(old.as_str(), minor);
        Ok(())
    }

    /// Removes a device that nobody has open.
    pub fn remove(&self, name: &Name) -> Result<(), Error> {
        let info = self.info(name)?;
        let id = match &info.uuid {
            Some(uuid) => Id::Uuid(dm_uuid(uuid)?),
            None => Id::Name(dm_name(name)?),
        };
        udev::remove(&id).map_err(|error| match errno(&error) {
            Some(EBUSY) => {
                let devices = backing::kernel_name(info.devno()).into_iter().collect();
                Error::Busy { step: "removing", name: name.to_string(), devices }
            }
            _ => self.failed("removing", name, &error, Vec::new()),
        })?;
        udev::forget_node(name.as_str());
        Ok(())
    }

    /// Makes I/O wait, after what is under way is done.
    pub fn suspend(&self, name: &Name, how: Suspend) -> Result<Info, Error> {
        let mut flags = DmFlags::DM_SUSPEND;
        flags.set(DmFlags::DM_NOFLUSH, how.no_flush);
        flags.set(DmFlags::DM_SKIP_LOCKFS, how.no_lockfs);
        let id = Id::Name(dm_name(name)?);
        let done = self.dm.device_suspend(&id.dev(), DmOptions::default().set_flags(flags));
        done.map_err(|error| self.failed("suspending", name, &error, Vec::new()))?;
        self.info(name)
    }

    /// Puts an inactive table into force, if there is one, and lets I/O go on. If that fails, a device that was active is
    /// so again, with both tables as they were; one that was suspended stays so, and its live table is in its place
    /// again with the next resume.
    pub fn resume(&self, name: &Name) -> Result<Info, Error> {
        let before = self.loaded(name)?;
        if !before.info.live_table && !before.info.inactive_table {
            return Err(Error::NoTable(name.to_string()));
        }
        let id = Id::Name(dm_name(name)?);
        self.start(&id, name, None).map_err(|error| match before.info.inactive_table {
            true => self.undone(&id, name, &before, error),
            false => error,
        })?;
        self.info(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_device_mapper_nothing_panics() {
        // On a machine that has it, and as root, this lists devices; both are fine.
        match Mapper::new().and_then(|mapper| mapper.list()) {
            Ok(_) | Err(Error::NoDeviceMapper(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}
