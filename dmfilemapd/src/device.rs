//! The device-mapper device under a file.

use crate::Error;
use crate::update::Kernel;
use devicemapper::{DM, DevId, DmError, DmName};
use rustix::fs::{FileType, Stat, fstat, major, minor};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A device-mapper device, by its number.
pub struct Device {
    dm: DM,
    major: u32,
    minor: u32,
}

impl Device {
    /// The device that holds the file system of a regular file. `path` is for messages.
    ///
    /// # Errors
    /// If the file is no regular one, or is elsewhere than on a device-mapper device.
    pub fn of(file: &File, path: &Path) -> Result<Device, Error> {
        let refused = |why: String| Error::File(format!("{}: {why}", path.display()));
        let stat = fstat(file).map_err(|error| refused(error.to_string()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused("not a regular file".into()));
        }
        let (major, minor) = number(&stat);
        if !sysfs(major, minor).join("dm/name").exists() {
            let kind = file_system(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), major, minor);
            let kind = kind.unwrap_or_else(|| "unknown".into());
            return Err(refused(format!("its file system ({kind}, on {major}:{minor}) is not on a device-mapper device")));
        }
        let dm = DM::new().map_err(|error| Error::Kernel(format!("/dev/mapper/control: {}", text(&error))))?;
        Ok(Device { dm, major, minor })
    }

    /// Whether a file is on this device.
    pub fn holds(&self, stat: &Stat) -> bool {
        number(stat) == (self.major, self.minor)
    }

    /// Whether the device is still there.
    pub fn exists(&self) -> bool {
        sysfs(self.major, self.minor).join("dm/name").exists()
    }

    /// Its name in `/dev/mapper`, which may change while it is in use.
    fn name(&self) -> Result<String, Error> {
        let name = fs::read_to_string(sysfs(self.major, self.minor).join("dm/name"));
        let name = name.map_err(|error| Error::Kernel(format!("device {self} is gone: {error}")))?;
        Ok(name.trim_end_matches('\n').to_owned())
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl Kernel for Device {
    fn message(&mut self, message: &str) -> Result<String, Error> {
        let name = self.name()?;
        let failed = |error: DmError| Error::Kernel(format!("{name} ({self}) refused “{message}”: {}", text(&error)));
        let id = DmName::new(&name).map_err(failed)?;
        let (_, answer) = self.dm.target_msg(&DevId::Name(id), None, message).map_err(failed)?;
        Ok(answer.unwrap_or_default())
    }
}

fn number(stat: &Stat) -> (u32, u32) {
    (major(stat.st_dev), minor(stat.st_dev))
}

fn sysfs(major: u32, minor: u32) -> PathBuf {
    format!("/sys/dev/block/{major}:{minor}").into()
}

/// A device-mapper error in one line: the crate's own text prints whole ioctl headers.
fn text(error: &DmError) -> String {
    match error {
        DmError::Core(devicemapper::errors::Error::Ioctl(_, _, _, errno)) => errno.desc().to_owned(),
        other => other.to_string(),
    }
}

/// The type of the file system with a device number, from lines `36 35 98:0 /root /at opts… - type source superopts`.
fn file_system(mountinfo: &str, major: u32, minor: u32) -> Option<String> {
    let number = format!("{major}:{minor}");
    let line = mountinfo.lines().find(|line| line.split(' ').nth(2) == Some(&number))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_named() {
        let mountinfo = "22 1 0:5 / /dev rw - devtmpfs udev rw\n23 1 0:22 / /run rw shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(file_system(mountinfo, 0, 22).as_deref(), Some("tmpfs"));
        assert_eq!(file_system(mountinfo, 8, 1), None);
    }

    #[test]
    fn what_is_no_file_on_device_mapper_is_refused() {
        let refused = |path: &str| Device::of(&File::open(path).unwrap(), Path::new(path)).err().unwrap().to_string();
        assert_eq!(refused("/"), "/: not a regular file");
        assert!(refused("/proc/version").contains("(proc, on 0:"), "{}", refused("/proc/version"));
    }
}
