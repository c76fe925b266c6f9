//! Changing devices: what an operation begins it does all of, or puts back.

use super::backing;
use super::error::{EBUSY, Error, dm_text, errno};
use super::kernel_log::KernelLog;
use super::look::Info;
use super::mapper::{Mapper, RawLine, dm_name, dm_uuid};
use super::name::{Name, Uuid};
use super::table::{Line, Table};
use super::udev::{self, Id};
use devicemapper::{DevId, DeviceInfo, DmFlags, DmOptions};

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

/// What is loaded in a device: both tables, each with what the kernel says of the device meanwhile.
struct Loaded {
    info: Info,
    live: Vec<RawLine>,
    waiting: Vec<RawLine>,
    waiting_read_only: bool,
}

impl Mapper {
    /// Sends a message to the target at a sector; the answer is what it replied, if it did.
    pub fn message(&self, name: &Name, sector: u64, message: &str) -> Result<Option<String>, Error> {
        let log = KernelLog::from_now();
        let answer = self.dm().target_msg(&DevId::Name(&dm_name(name)?), Some(sector), message);
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
        let made = self.dm().device_create(&kernel_name, Some(&kernel_uuid), DmOptions::default().set_flags(flags));
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
        let owner = dm_uuid(uuid).ok().and_then(|uuid| self.dm().device_info(&DevId::Uuid(&uuid)).ok());
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
        let loaded = self.dm().table_load(&id.dev(), &lines, DmOptions::default().set_flags(flags));
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
        let info = self.dm().device_info(&id.dev()).map_err(|error| self.failed("looking at", name, &error, Vec::new()))?;
        udev::ensure_node(name.as_str(), info.device().minor);
        Ok(())
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
            self.dm().table_clear(&id.dev()).map_err(|error| self.failed("restoring", name, &error, Vec::new()))?;
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
        let loaded = self.dm().table_load(&id.dev(), lines, DmOptions::default().set_flags(flags));
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
            if self.dm().device_info(&DevId::Uuid(&dm_uuid(uuid)?)).is_ok() {
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
        let done = self.dm().device_suspend(&id.dev(), DmOptions::default().set_flags(flags));
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
        // Somebody else may have loaded what waits.
        let waiting: Vec<Line> =
            before.waiting.iter().map(|(start, length, kind, params)| Line::of_kernel(*start, *length, kind, params)).collect();
        backing::check_no_circle(&waiting, before.info.devno())?;
        let id = Id::Name(dm_name(name)?);
        self.start(&id, name, None).map_err(|error| match before.info.inactive_table {
            true => self.undone(&id, name, &before, error),
            false => error,
        })?;
        self.info(name)
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
}
