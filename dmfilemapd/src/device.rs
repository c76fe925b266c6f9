//! The device-mapper device under a file.

use crate::Error;
use crate::update::Kernel;
use devicemapper::{DM, DevId, DmError, DmName};
use rustix::fs::{FileType, Stat, fstat, major, minor};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
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
            let kind = file_system(file).unwrap_or_else(|| "unknown".into());
            return Err(refused(match major {
                NO_DEVICE => format!("its file system ({kind}) is on no block device of its own, so on no device-mapper device"),
                _ => format!("its file system ({kind}, on {major}:{minor}) is not on a device-mapper device"),
            }));
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

/// The major number of file systems that are on no block device (NFS, tmpfs) or share several (btrfs).
pub const NO_DEVICE: u32 = 0;

/// The type of the file system that an open file is on, if the kernel tells.
pub fn file_system(file: &File) -> Option<String> {
    let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = fdinfo.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
    type_of_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?, mount.trim())
}

/// The type of a mounted file system, from lines `<mount id> <parent> 98:0 /root /at opts… - <type> source superopts`.
fn type_of_mount(mountinfo: &str, mount: &str) -> Option<String> {
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(mount))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_named() {
        let mountinfo = "22 1 0:5 / /dev rw - devtmpfs udev rw\n23 1 0:22 / /run rw shared:1 - tmpfs tmpfs rw\n";
        assert_eq!(type_of_mount(mountinfo, "23").as_deref(), Some("tmpfs"));
        assert_eq!(type_of_mount(mountinfo, "2"), None);
    }

    #[test]
    fn what_is_no_file_on_device_mapper_is_refused() {
        let refused = |path: &str| Device::of(&File::open(path).unwrap(), Path::new(path)).err().unwrap().to_string();
        assert_eq!(refused("/"), "/: not a regular file");
        let proc = "/proc/version: its file system (proc) is on no block device of its own, so on no device-mapper device";
        assert_eq!(refused("/proc/version"), proc);
    }
}
