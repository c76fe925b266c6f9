//! Where a disk hangs: the controller's port, by sysfs. Disks there share cables, power and a processor, and fail together.

use super::devices::class_dir;
use std::path::Path;

/// A port of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The SCSI host, for example `host2`: an ATA port, or all of another controller.
    host: String,
    /// The name of an ATA port in the kernel log, for example `ata3`.
    ata: Option<String>,
}

impl Port {
    /// The port of the whole disk `name`; none for one that is no SCSI or ATA disk, or is gone.
    pub fn of(sysfs: &Path, name: &str) -> Option<Port> {
        Port::in_path(class_dir(sysfs, name).canonicalize().ok()?.to_str()?)
    }

    /// From `…/ata3/host2/target2:0:0/2:0:0:0/block/sdb`. Behind a USB bridge or a SAS expander the last host is the disk's.
    pub(crate) fn in_path(path: &str) -> Option<Port> {
        let numbered = |prefix: &'static str| {
            let number = move |part: &&str| {
                part.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
            };
            path.rsplit('/').find(number).map(str::to_owned)
        };
        Some(Port { host: numbered("host")?, ata: numbered("ata") })
    }

    /// Whether the kernel log means this port, or a device at it, by `ata3` or `ata3.00`.
    pub fn is_called(&self, name: &str) -> bool {
        let port = name.split_once('.').map_or(name, |(port, _)| port);
        self.ata.as_deref() == Some(port)
    }

    /// Whether two disks hang at the same.
    pub fn is_shared_with(&self, other: &Port) -> bool {
        self.host == other.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_sysfs_names_the_port() {
        let sata = "/sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sdb";
        let port = Port::in_path(sata).unwrap();
        assert!(port.is_called("ata3") && port.is_called("ata3.00"));
        assert!(!port.is_called("ata30") && !port.is_called("ata"));
        let sas = |host: u32, target: u32| {
            let path =
                format!("/sys/devices/pci0000:00/0000:03:00.0/host{host}/target{host}:0:{target}/{host}:0:{target}:0/block/sdc");
            Port::in_path(&path).unwrap()
        };
        assert!(sas(0, 1).is_shared_with(&sas(0, 2)) && !sas(0, 1).is_shared_with(&sas(10, 1)));
        assert!(!sas(0, 1).is_called("ata3"));
        assert_eq!(Port::in_path("/sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1"), None);
        assert_eq!(Port::in_path("/sys/devices/virtual/block/dm-0"), None);
        assert_eq!(Port::in_path("/sys/devices/hosting/host/hostx/block/sda"), None);
    }
}
