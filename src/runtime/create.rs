//! Makes a set: checks everything first, then writes, and takes back what it wrote when something fails.

use super::assemble::words;
use crate::actuate::{Access, DirectDevice, activate, format_spare, wipe_headers};
use crate::control::Reason;
use crate::edge::FoundDevice;
use crate::format::geometry;
use crate::model::{Identity, Millis, Secret, SetDescription, SetId, SetName};
use crate::sources::{devices, fstab, in_use, signature};
use std::path::{Path, PathBuf};

/// The most spares a set can have: what fits into a header.
pub const MAX_SPARES: usize = 8;

/// What `create` was asked.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Name.
    pub name: SetName,
    /// The disk to protect.
    pub main: PathBuf,
    /// The spares.
    pub spares: Vec<PathBuf>,
    /// Take spares that hold something.
    pub overwrite_spare: bool,
}

/// Checks a wish without changing anything. The description is complete but nowhere written.
pub fn check(wish: &Wish, found: &[FoundDevice], known: &[SetDescription], now: Millis) -> Result<SetDescription, Reason> {
    activate::ensure_target().map_err(|error| Reason::from(error.to_string()))?;
    let main = &find(&wish.main, found)?;
    let spares = wish.spares.iter().map(|path| find(path, found)).collect::<Result<Vec<_>, _>>()?;
    let spares: Vec<&FoundDevice> = spares.iter().collect();
    if spares.is_empty() || spares.len() > MAX_SPARES {
        return Err(Reason::new(format!("{} spares were given", spares.len()), format!("give 1 to {MAX_SPARES} with --spare")));
    }
    for (index, spare) in spares.iter().enumerate() {
        distinct(main, spare, "main and spare")?;
        for other in &spares[..index] {
            if other.devno == spare.devno {
                return Err(Reason::new(format!("{} is given twice", spare.node.display()), "name each spare once"));
            }
        }
        if spare.identity.logical_block != main.identity.logical_block {
            let (ours, theirs) = (main.identity.logical_block, spare.identity.logical_block);
            let message = format!(
                "{} has logical blocks of {theirs} bytes, {} of {ours}: they must be equal",
                spare.node.display(),
                main.node.display()
            );
            return Err(Reason::new(message, format!("use a spare with logical blocks of {ours} bytes")));
        }
    }
    unused_name(&wish.name, known)?;
    for device in std::iter::once(main).chain(spares.iter().copied()) {
        stranger(device, known, found, Path::new("/sys"))?;
        free(device)?;
        recognisable(device)?;
    }
    if signature::holds_spare(&main.node).map_err(|error| Reason::from(format!("{}: {error}", main.node.display())))? {
        return Err(Reason::new(format!("{} is a spare of remap-guardian", main.node.display()), "see: remap-guardian status"));
    }
    not_mounted_at_boot(main, &wish.name)?;
    for spare in &spares {
        blank(spare, wish.overwrite_spare)?;
    }
    let node = Path::new("/dev/mapper").join(wish.name.as_str());
    if node.exists() {
        return Err(Reason::new(
            format!("{} exists already", node.display()),
            "choose another name; “dmsetup ls” shows those in use",
        ));
    }
    describe(wish, main, &spares, now)
}

fn describe(wish: &Wish, main: &FoundDevice, spares: &[&FoundDevice], now: Millis) -> Result<SetDescription, Reason> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|error| Reason::from(format!("no random numbers: {error}")))?;
    let mut desc = SetDescription {
        id: SetId(uuid::Uuid::new_v4()),
        name: wish.name.clone(),
        main: main.identity.clone(),
        spares: spares.iter().map(|spare| spare.identity.clone()).collect(),
        secret: Secret(secret),
        geometry: Vec::new(),
        created: now,
    };
    let block = desc.block();
    for spare in spares {
        let geometry = geometry(spare.identity.sectors, block)
            .map_err(|error| Reason::new(format!("{}: {error}", spare.node.display()), "use a larger spare"))?;
        desc.geometry.push(geometry);
    }
    Ok(desc)
}

/// Writes the headers and tables. On failure the spares are blank again.
pub fn write(desc: &SetDescription, wish: &Wish) -> Result<(), Reason> {
    let mut written: Vec<&Path> = Vec::new();
    for (index, path) in wish.spares.iter().enumerate() {
        written.push(path);
        let result = DirectDevice::open(path, Access::SOLE)
            .map_err(|error| error.to_string())
            .and_then(|io| format_spare(&io, desc, index as u16).map_err(|error| error.to_string()));
        if let Err(error) = result {
            take_back(&written);
            return Err(Reason::new(format!("{}: {error}", path.display()), "check the disk with smartctl, or use another one"));
        }
    }
    Ok(())
}

/// Makes spares blank again after a failed `create`.
pub fn take_back(spares: &[&Path]) {
    for path in spares {
        let wiped = DirectDevice::open(path, Access::SOLE)
            .map_err(|error| error.to_string())
            .and_then(|io| wipe_headers(&io).map_err(|error| error.to_string()));
        if let Err(error) = wiped {
            tracing::error!(spare = %path.display(), error, "headers of a set that was not made stay on the spare");
        }
    }
}

/// The device at a path, called by that path from here on, as the user calls it.
pub(super) fn find(path: &Path, devices: &[FoundDevice]) -> Result<FoundDevice, Reason> {
    let at = |error: std::io::Error| {
        let what = match error.kind() {
            std::io::ErrorKind::NotFound => format!("{} does not exist", path.display()),
            _ => format!("{}: {error}", path.display()),
        };
        Reason::new(what, "see “lsblk” for the devices there are")
    };
    let real = std::fs::canonicalize(path).map_err(at)?;
    let kind = std::fs::metadata(&real).map_err(at)?;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    if !kind.file_type().is_block_device() {
        return Err(Reason::new(format!("{} is not a block device", path.display()), "see “lsblk” for the devices there are"));
    }
    let devno = (rustix::fs::major(kind.rdev()), rustix::fs::minor(kind.rdev()));
    let found = devices.iter().find(|device| device.devno == devno);
    found.map(|device| FoundDevice { node: path.to_owned(), ..device.clone() }).ok_or_else(|| {
        let hint = "use a disk or a partition; devices of remap-guardian itself and empty drives cannot be members";
        Reason::new(format!("{} cannot be a member of a set", path.display()), hint)
    })
}

pub(super) fn distinct(one: &FoundDevice, two: &FoundDevice, what: &str) -> Result<(), Reason> {
    if one.devno == two.devno {
        let message = format!("{what} are the same device: {} and {}", one.node.display(), two.node.display());
        return Err(Reason::new(message, "use a spare on another disk"));
    }
    let disks = |device: &FoundDevice| devices::bottom_disks(Path::new("/sys"), &device.name);
    let (ours, theirs) = (&one.identity, &two.identity);
    // Namespaces of one NVMe drive have names of their own, but the drive's serial number.
    let nvme = one.disk.starts_with("nvme") && two.disk.starts_with("nvme");
    let same_drive = !ours.serial.is_empty() && ours.serial == theirs.serial && (nvme || ours.wwn == theirs.wwn);
    if !disks(one).is_disjoint(&disks(two)) || same_drive {
        let message = format!("{what} are on the same disk: {} and {}", one.node.display(), two.node.display());
        return Err(Reason::new(message, "a disk that dies takes its spare with it: use a spare on another disk"));
    }
    Ok(())
}

/// No line of `/etc/fstab` would mount main, or a partition of it, past the device above it: with stale sectors, and with
/// writes that the device knows nothing of.
fn not_mounted_at_boot(main: &FoundDevice, name: &SetName) -> Result<(), Reason> {
    let text = match std::fs::read_to_string("/etc/fstab") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|error| Reason::from(format!("/etc/fstab: {error}")))?,
    };
    let sysfs = Path::new("/sys");
    let parts = devices::partitions_of(sysfs, &main.name).into_iter();
    let parts = parts.map(|part| (Path::new("/dev").join(part.replace('!', "/")), devices::devno_of(sysfs, &part)));
    for (node, devno) in std::iter::once((main.node.clone(), Some(main.devno))).chain(parts) {
        let tags = signature::tags(&node).map_err(|error| Reason::from(format!("{}: {error}", node.display())))?;
        let is_it = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            let rdev = std::fs::metadata(path).map(|found| found.rdev());
            rdev.is_ok_and(|rdev| Some((rustix::fs::major(rdev), rustix::fs::minor(rdev))) == devno && rdev != 0)
        };
        if let Some(line) = fstab::line_of(&text, &tags, &is_it) {
            let message = format!(
                "/etc/fstab would mount {} itself at the next boot, past /dev/mapper/{name}; its line is:\n  {}",
                node.display(),
                line.trim()
            );
            let hint = if node == main.node {
                format!("write instead, then repeat:\n  {}", fstab::with_device(line, &format!("/dev/mapper/{name}")))
            } else {
                format!("protect the partition instead of the disk (--main {}), or remove the line", node.display())
            };
            return Err(Reason::new(message, hint));
        }
    }
    Ok(())
}

/// Nobody else uses the device.
pub(super) fn free(device: &FoundDevice) -> Result<(), Reason> {
    let at = |error: std::io::Error| Reason::from(format!("{}: {error}", device.node.display()));
    let mut uses = in_use::uses(&in_use::Roots::default(), &device.name).map_err(at)?;
    uses.extend(in_use::exclusively(&device.node).map_err(at)?);
    match uses.first() {
        Some(first) => {
            Err(Reason::new(format!("{} is in use: {first}", device.node.display()), "unmount it, or stop what uses it, first"))
        }
        None => Ok(()),
    }
}

fn unused_name(name: &SetName, known: &[SetDescription]) -> Result<(), Reason> {
    match known.iter().find(|desc| desc.name == *name) {
        Some(_) => {
            Err(Reason::new(format!("there is a set “{name}” already"), "choose another name, or see: remap-guardian status"))
        }
        None => Ok(()),
    }
}

/// The device belongs to no set that the disks of this machine or the registry speak of, open or not; neither does its whole
/// disk, one of its partitions, or what it is made of.
pub(super) fn stranger(
    device: &FoundDevice,
    known: &[SetDescription],
    found: &[FoundDevice],
    sysfs: &Path,
) -> Result<(), Reason> {
    let shares = |member: &Identity| {
        let there = found.iter().filter(|other| member.matches(&other.identity).is_ok());
        let stacked = |other: &FoundDevice| {
            devices::rests_on(sysfs, &device.name, &other.name) || devices::rests_on(sysfs, &other.name, &device.name)
        };
        same_place(member, &device.identity) || there.into_iter().any(stacked)
    };
    match known.iter().find(|desc| std::iter::once(&desc.main).chain(&desc.spares).any(shares)) {
        Some(desc) => Err(Reason::new(
            format!("{} belongs to the set “{}” already, wholly or in part", device.node.display(), desc.name),
            format!("remap-guardian status {}; to give the set up: remap-guardian forget {}", desc.name, desc.name),
        )),
        None => Ok(()),
    }
}

/// Whether two devices share sectors, as far as their identities tell: the same one, or a disk and a partition of it. Two
/// partitions of a disk share none, and neither do two namespaces of a drive.
fn same_place(one: &Identity, two: &Identity) -> bool {
    if one.matches(two).is_ok() {
        return true;
    }
    let equal = |a: &str, b: &str| !a.is_empty() && a == b;
    let same_drive = if one.wwn.is_empty() || two.wwn.is_empty() {
        equal(&one.serial, &two.serial)
    } else {
        one.wwn == two.wwn && (one.serial == two.serial || one.serial.is_empty() || two.serial.is_empty())
    };
    same_drive && (one.partition == two.partition || one.partition.is_empty() || two.partition.is_empty())
}

pub(super) fn recognisable(device: &FoundDevice) -> Result<(), Reason> {
    device.identity.matches(&device.identity).map_err(|reason| {
        Reason::new(
            format!("{}: {reason}", device.node.display()),
            "use a disk with a serial number, or a GPT partition, so that it is found again after a reboot",
        )
    })
}

pub(super) fn blank(spare: &FoundDevice, overwrite: bool) -> Result<(), Reason> {
    let signature = signature::signature(&spare.node).map_err(|error| Reason::from(error.to_string()))?;
    if !overwrite && signature::holds_spare(&spare.node).is_ok_and(|holds| holds) {
        return Err(Reason::new(
            format!(
                "{} ({}) holds an unfinished or damaged spare of remap-guardian",
                spare.node.display(),
                words(&spare.identity)
            ),
            "if nothing on it is needed: repeat with --overwrite-spare",
        ));
    }
    match signature {
        Some(what) if !overwrite => Err(Reason::new(
            format!("{} ({}) is not blank: it holds {what}", spare.node.display(), words(&spare.identity)),
            "if nothing on it is needed: wipefs --all on it, or repeat with --overwrite-spare",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sectors;
    use crate::sources::devices::tests::disk;

    fn identity(serial: &str, wwn: &str, partition: &str) -> Identity {
        let (sectors, text) = (Sectors(64), str::to_owned);
        Identity {
            serial: text(serial),
            wwn: text(wwn),
            partition: text(partition),
            sectors,
            logical_block: 512,
            ..Identity::default()
        }
    }

    fn device(name: &str, disk: &str, identity: Identity) -> FoundDevice {
        FoundDevice {
            node: Path::new("/dev").join(name),
            name: name.into(),
            disk: disk.into(),
            identity,
            devno: (8, 0),
            transport: "sata".into(),
            rotational: None,
        }
    }

    #[test]
    fn a_disk_and_its_partition_share_sectors() {
        let (whole, part) = (identity("S1", "W1", ""), identity("S1", "W1", "p-1"));
        assert!(same_place(&whole, &whole) && same_place(&whole, &part) && same_place(&part, &whole));
        assert!(same_place(&whole, &Identity { sectors: Sectors(65), ..whole.clone() }), "it was resized");
        assert!(same_place(&identity("S1", "", ""), &part), "its WWN was not known then");
        assert!(!same_place(&part, &identity("S1", "W1", "p-2")), "another partition");
        assert!(!same_place(&whole, &identity("S1", "W2", "")), "another namespace");
        assert!(
            !same_place(&whole, &identity("S2", "W2", "")) && !same_place(&identity("", "", "p-1"), &identity("", "", "p-2"))
        );
    }

    #[test]
    fn what_rests_on_a_member_is_no_stranger() {
        let root = tempfile::tempdir().unwrap();
        disk(root.path(), "sda", &[("sda1/partition", "1\n"), ("sda2/partition", "2\n")]);
        disk(root.path(), "dm-1", &[("slaves/sda2", "")]);
        disk(root.path(), "dm-2", &[("slaves/sda1", "")]);
        let member = device("sda2", "sda", identity("S1", "", "p-2"));
        let (above, beside) =
            (device("dm-1", "dm-1", identity("dm:1", "", "")), device("dm-2", "dm-2", identity("dm:2", "", "")));
        let known = [SetDescription {
            id: SetId(uuid::Uuid::nil()),
            name: SetName::new("data").unwrap(),
            main: member.identity.clone(),
            spares: Vec::new(),
            secret: Secret([0; 16]),
            geometry: Vec::new(),
            created: Millis(0),
        }];
        let found = [member, above.clone(), beside.clone()];
        assert!(stranger(&above, &known, &found, root.path()).unwrap_err().message.contains("“data”"));
        assert!(stranger(&beside, &known, &found, root.path()).is_ok());
        assert!(unused_name(&known[0].name, &known).is_err());
    }
}
