//! Whether somebody uses a device: mounts, swap, holders, an exclusive open. Asked before a device becomes a member.

use super::devices::{attribute, class_dir, devno_of, partitions_of};
use rustix::fs::OFlags;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const EBUSY: i32 = 16;

/// A use of a device or of one of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Mounted.
    Mounted {
        /// Kernel name.
        device: String,
        /// Where.
        at: PathBuf,
    },
    /// Used as swap.
    Swap {
        /// Kernel name.
        device: String,
    },
    /// Part of another block device.
    Holder {
        /// Kernel name.
        device: String,
        /// Kernel name of what is built on it.
        holder: String,
    },
    /// Somebody, perhaps the kernel, has it open for himself alone.
    Exclusive {
        /// Device node.
        node: PathBuf,
    },
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Use::Mounted { device, at } => write!(f, "{device} is mounted at {}", at.display()),
            Use::Swap { device } => write!(f, "{device} is swap space"),
            Use::Holder { device, holder } => write!(f, "{device} is part of {holder}"),
            Use::Exclusive { node } => write!(f, "{} is held open exclusively", node.display()),
        }
    }
}

/// Where sysfs and procfs are.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/sys`.
    pub sysfs: PathBuf,
    /// `/proc`.
    pub procfs: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Roots { sysfs: "/sys".into(), procfs: "/proc".into() }
    }
}

/// All uses of device `name` and of its partitions that the kernel tells in sysfs and procfs.
///
/// What cannot be read is an error: an unknown use is not a free device.
pub fn uses(roots: &Roots, name: &str) -> std::io::Result<Vec<Use>> {
    let mut names = vec![name.to_owned()];
    names.extend(partitions_of(&roots.sysfs, name));
    let mounts = fs::read_to_string(roots.procfs.join("self/mountinfo"))?;
    let swaps = match fs::read_to_string(roots.procfs.join("swaps")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(), // a kernel without swap
        other => other?,
    };
    let mut found = Vec::new();
    for device in names {
        let devno = devno_of(&roots.sysfs, &device);
        let node = format!("/dev/{}", device.replace('!', "/"));
        for mount in mounts.lines().filter_map(Mount::parse) {
            // Btrfs shows a number of its own, but names a device.
            if Some(mount.devno) == devno || mount.source == node {
                found.push(Use::Mounted { device: device.clone(), at: mount.at.into() });
            }
        }
        if swaps.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next()).any(|path| unescape(path) == node) {
            found.push(Use::Swap { device: device.clone() });
        }
        for holder in fs::read_dir(class_dir(&roots.sysfs, &device).join("holders")).into_iter().flatten().flatten() {
            let mut holder = holder.file_name().to_string_lossy().into_owned();
            if let Some(name) = attribute(&class_dir(&roots.sysfs, &holder), "dm/name") {
                holder += &format!(" ({name})");
            }
            found.push(Use::Holder { device: device.clone(), holder });
        }
    }
    Ok(found)
}

/// A block device that is built on the member `name` (or on its partitions, or on its whole disk) and is not the
/// device-mapper device with `uuid`.
pub fn foreign_holder(sysfs: &Path, name: &str, uuid: &str) -> Option<Use> {
    let mut names = vec![name.to_owned()];
    names.extend(partitions_of(sysfs, name));
    let disk = super::devices::disk_of(sysfs, name);
    names.extend((disk != name).then_some(disk));
    names.into_iter().find_map(|device| {
        let holders = fs::read_dir(class_dir(sysfs, &device).join("holders")).into_iter().flatten().flatten();
        let mut holders = holders.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let ours = |holder: &String| attribute(&class_dir(sysfs, holder), "dm/uuid").as_deref() == Some(uuid);
        let holder = holders.find(|holder| !ours(holder))?;
        Some(Use::Holder { device, holder })
    })
}

/// Whether the node can be opened exclusively right now. Opened for reading: closing it makes no udev event.
pub fn exclusively(node: &Path) -> std::io::Result<Option<Use>> {
    let flags = (OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    match fs::OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(node) {
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(EBUSY) => Ok(Some(Use::Exclusive { node: node.into() })),
        Err(error) => Err(error),
    }
}

/// One line of `mountinfo`.
pub(super) struct Mount {
    /// The mount's number, which no other one has while it is there; the next one may.
    pub(super) id: u64,
    pub(super) devno: (u32, u32),
    pub(super) at: String,
    source: String,
}

impl Mount {
    /// `36 35 98:0 /root /at opts… - type source superopts`.
    pub(super) fn parse(line: &str) -> Option<Mount> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ');
        let id = before.next()?.parse().ok()?;
        let mut before = before.skip(1);
        let (major, minor) = before.next()?.split_once(':')?;
        let at = unescape(before.nth(1)?);
        let source = unescape(after.split(' ').nth(1)?);
        Some(Mount { id, devno: (major.parse().ok()?, minor.parse().ok()?), at, source })
    }
}

/// Undoes the kernel's octal escapes (`\040` for a space).
pub(super) fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let octal = digits.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|text| u8::from_str_radix(text, 8).ok());
        plain.push(octal.unwrap_or(byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::disk;
    use super::*;
    use proptest::prelude::*;

    fn roots(mountinfo: &str, swaps: &str) -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { sysfs: dir.path().join("sys"), procfs: dir.path().join("proc") };
        fs::create_dir_all(roots.procfs.join("self")).unwrap();
        fs::create_dir_all(&roots.sysfs).unwrap();
        fs::write(roots.procfs.join("self/mountinfo"), mountinfo).unwrap();
        fs::write(roots.procfs.join("swaps"), swaps).unwrap();
        let parts = [("dev", "8:0"), ("sda1/partition", "1"), ("sda1/dev", "8:1"), ("sda2/partition", "2"), ("sda2/dev", "8:2")];
        disk(&roots.sysfs, "sda", &parts);
        (dir, roots)
    }

    #[test]
    fn a_mounted_partition_is_a_use_of_its_disk() {
        let (_dir, roots) = roots("36 35 8:1 / /mnt/my\\040disk rw,noatime shared:1 - ext4 /dev/root rw\n", "Filename\n");
        let found = uses(&roots, "sda").unwrap();
        assert_eq!(found, [Use::Mounted { device: "sda1".into(), at: "/mnt/my disk".into() }]);
        assert_eq!(found[0].to_string(), "sda1 is mounted at /mnt/my disk");
        assert_eq!(uses(&roots, "sda2").unwrap(), []);
    }

    #[test]
    fn btrfs_swap_and_holders_are_seen() {
        let swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n";
        let (_dir, roots) = roots("36 35 0:41 / /data rw - btrfs /dev/sda1 rw\n", swaps);
        fs::create_dir_all(class_dir(&roots.sysfs, "sda2").join("holders/dm-3")).unwrap();
        let found = uses(&roots, "sda").unwrap();
        assert_eq!(
            found,
            [
                Use::Mounted { device: "sda1".into(), at: "/data".into() },
                Use::Swap { device: "sda2".into() },
                Use::Holder { device: "sda2".into(), holder: "dm-3".into() },
            ]
        );
    }

    #[test]
    fn only_its_own_device_may_hold_a_member() {
        let (_dir, roots) = roots("", "");
        let held = |name: &str| foreign_holder(&roots.sysfs, name, "REMAP-GUARDIAN-1").map(|held| held.to_string());
        disk(&roots.sysfs, "dm-3", &[("dm/uuid", "REMAP-GUARDIAN-1\n")]);
        disk(&roots.sysfs, "dm-4", &[("dm/uuid", "LVM-1\n")]);
        fs::create_dir_all(class_dir(&roots.sysfs, "sda2").join("holders/dm-3")).unwrap();
        assert_eq!(held("sda2"), None);
        fs::create_dir_all(class_dir(&roots.sysfs, "sda1").join("holders/dm-4")).unwrap();
        assert_eq!(held("sda2"), None, "another partition is no concern");
        assert_eq!(held("sda1").unwrap(), "sda1 is part of dm-4");
        assert_eq!(held("sda").unwrap(), "sda1 is part of dm-4");
        fs::create_dir_all(class_dir(&roots.sysfs, "sda").join("holders/dm-4")).unwrap();
        assert_eq!(held("sda2").unwrap(), "sda is part of dm-4");
    }

    #[test]
    fn what_cannot_be_read_is_not_free() {
        let (_dir, roots) = roots("", "");
        fs::remove_file(roots.procfs.join("self/mountinfo")).unwrap();
        assert!(uses(&roots, "sda").is_err());
    }

    proptest! {
        #[test]
        fn no_mountinfo_makes_a_panic(line in any::<String>()) {
            let _ = Mount::parse(&line);
            let _ = Mount::parse(&format!("1 2 3:4 {line} - {line}"));
            let _ = unescape(&line);
        }
    }
}
