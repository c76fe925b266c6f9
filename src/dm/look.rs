//! Looking at devices.

use super::backing::{self, Devno};
use super::error::{ENXIO, Error, dm_text, errno};
use super::mapper::{Mapper, RawLine, dm_name};
use super::name::{Name, Uuid};
use super::table::Line;
use devicemapper::{DevId, DeviceInfo, DmFlags, DmNameBuf, DmOptions};

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
    pub(super) fn of(info: &DeviceInfo, target_count: usize) -> Info {
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

impl Mapper {
    /// All devices. The crate gives up on a name that is not ASCII; sysfs has it, but not its event number.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let listed = |(name, device, event_nr): (DmNameBuf, devicemapper::Device, _)| Listed {
            name: Name::of_kernel(name.to_string()),
            major: device.major,
            minor: device.minor,
            event_nr,
        };
        match self.dm().list_devices() {
            Ok(devices) => Ok(devices.into_iter().map(listed).collect()),
            Err(error) if errno(&error).is_some() => Err(Error::NoDeviceMapper(dm_text(&error))),
            Err(_) => {
                let known = backing::mapped_devices().map_err(|error| Error::NoDeviceMapper(error.to_string()))?;
                let listed = |(name, (major, minor))| {
                    let name = Name::of_kernel(name);
                    Listed { event_nr: self.device(&name).map(|info| info.event_nr()), name, major, minor }
                };
                Ok(known.into_iter().map(listed).collect())
            }
        }
    }

    /// What the kernel says of a device without looking at its tables, if there is such a device.
    fn device(&self, name: &Name) -> Option<DeviceInfo> {
        self.dm().device_info(&DevId::Name(&dm_name(name).ok()?)).ok()
    }

    /// The UUID of a device, if it is there and has one.
    pub fn uuid(&self, name: &Name) -> Option<Uuid> {
        self.device(name)?.uuid().map(|uuid| Uuid::of_kernel(uuid.to_string()))
    }

    /// Whether there is such a device.
    pub fn exists(&self, name: &Name) -> Result<bool, Error> {
        match self.dm().device_info(&DevId::Name(&dm_name(name)?)) {
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

    pub(super) fn raw_table(&self, name: &Name, flags: DmFlags) -> Result<(DeviceInfo, Vec<RawLine>), Error> {
        let options = DmOptions::default().set_flags(DmFlags::DM_STATUS_TABLE | DmFlags::DM_NOFLUSH | flags);
        let answer = self.dm().table_status(&DevId::Name(&dm_name(name)?), options);
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
        let answer = self.dm().table_status(&DevId::Name(&dm_name(name)?), DmOptions::default().set_flags(flags));
        answer.map(|(_, lines)| lines).map_err(|error| self.failed("reading the status of", name, &error, Vec::new()))
    }

    /// The devices that the live table stands on.
    pub fn deps(&self, name: &Name) -> Result<Vec<Devno>, Error> {
        let answer = self.dm().table_deps(&DevId::Name(&dm_name(name)?), DmOptions::default());
        let devices = answer.map_err(|error| self.failed("reading the dependencies of", name, &error, Vec::new()))?;
        Ok(devices.into_iter().map(|device| (device.major, device.minor)).collect())
    }

    /// The target types that the kernel has loaded. Others may be there as modules.
    pub fn targets(&self) -> Result<Vec<TargetVersion>, Error> {
        let versions = self.dm().list_versions().map_err(|error| Error::NoDeviceMapper(dm_text(&error)))?;
        let version = |(name, major, minor, patch)| TargetVersion { name, version: (major, minor, patch) };
        Ok(versions.into_iter().map(version).collect())
    }
}
