//! Device-mapper, opened. What it can do is in [`super::look`] and [`super::change`].

use super::backing::{self, Devno};
use super::error::{ENXIO, Error, dm_text, errno};
use super::name::{Name, Uuid};
use devicemapper::{DM, DevId, DmError, DmNameBuf, DmUuidBuf};
use std::path::Path;

/// A line of a table or status as the crate has it: start, length, target type, parameters.
pub(super) type RawLine = (u64, u64, String, String);

/// Device-mapper.
pub struct Mapper {
    dm: DM,
}

pub(super) fn dm_name(name: &Name) -> Result<DmNameBuf, Error> {
    DmNameBuf::new(name.as_str().into()).map_err(|_| Error::NotAscii(name.to_string()))
}

pub(super) fn dm_uuid(uuid: &Uuid) -> Result<DmUuidBuf, Error> {
    DmUuidBuf::new(uuid.as_str().into()).map_err(|error| Error::NoDeviceMapper(dm_text(&error)))
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
    pub(super) fn failed(&self, step: &'static str, name: &Name, error: &DmError, log: Vec<String>) -> Error {
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
        Mapper::name_of(devno).ok_or_else(|| not("device-mapper did not make it".into()))
    }

    /// The name of a block device, if it is one of device-mapper's and has a table.
    pub fn name_of(devno: Devno) -> Option<Name> {
        backing::mapped_name(devno).map(Name::of_kernel)
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
