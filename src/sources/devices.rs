//! What a block device is, from sysfs and udev's properties. Readers take the root of sysfs, so that a test is a directory.

use crate::actuate::target_text::is_ours;
use crate::edge::FoundDevice;
use crate::model::{Identity, Sectors};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Longest text of an identity field.
const FIELD_BYTES: usize = 64;

/// Whether a loop device may be recognised by its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loops {
    /// A loop device has no name, so it cannot be a member.
    #[default]
    Nameless,
    /// Its serial number is `loop:<backing file>` (the last bytes of a long path). For trials and tests: a file can be
    /// copied, replaced or attached elsewhere without notice, which a real disk cannot.
    ByBackingFile,
}

/// Kernel names that are never members: memory, optical and floppy drives.
const SKIPPED: [&str; 4] = ["ram", "zram", "sr", "fd"];

/// The directory of a block device in sysfs.
pub fn class_dir(sysfs: &Path, name: &str) -> PathBuf {
    // The kernel shows a “/” in a name (cciss/c0d0) as “!”.
    sysfs.join("class/block").join(name.replace('/', "!"))
}

/// A trimmed attribute, `None` if it is not there or empty.
pub fn attribute(dir: &Path, name: &str) -> Option<String> {
    let text = fs::read(dir.join(name)).ok()?;
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn number<N: std::str::FromStr>(dir: &Path, name: &str) -> Option<N> {
    attribute(dir, name)?.parse().ok()
}

/// Kernel name of the whole disk of `name`: itself, unless it is a partition.
pub fn disk_of(sysfs: &Path, name: &str) -> String {
    let dir = class_dir(sysfs, name);
    let parent = || dir.canonicalize().ok()?.parent()?.file_name()?.to_str().map(str::to_owned);
    if dir.join("partition").exists() { parent().unwrap_or_else(|| name.to_owned()) } else { name.to_owned() }
}

/// Kernel names of the disks that `name` is finally made of: through partitions, volumes and arrays.
pub fn bottom_disks(sysfs: &Path, name: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![disk_of(sysfs, name)];
    let mut bottom = BTreeSet::new();
    while let Some(disk) = open.pop() {
        if !seen.insert(disk.clone()) {
            continue;
        }
        let below = fs::read_dir(class_dir(sysfs, &disk).join("slaves")).into_iter().flatten().flatten();
        let below: Vec<String> = below.map(|entry| disk_of(sysfs, &entry.file_name().to_string_lossy())).collect();
        if below.is_empty() {
            bottom.insert(disk);
        }
        open.extend(below);
    }
    bottom
}

/// Whether `upper` is `lower`, a partition of it, or made of it through volumes and arrays.
pub fn rests_on(sysfs: &Path, upper: &str, lower: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![upper.to_owned()];
    while let Some(name) = open.pop() {
        if name == lower {
            return true;
        }
        if !seen.insert(name.clone()) {
            continue;
        }
        open.push(disk_of(sysfs, &name));
        let below = fs::read_dir(class_dir(sysfs, &name).join("slaves")).into_iter().flatten().flatten();
        open.extend(below.map(|entry| entry.file_name().to_string_lossy().into_owned()));
    }
    false
}

/// Kernel names of the partitions of a disk, sorted.
pub fn partitions_of(sysfs: &Path, disk: &str) -> Vec<String> {
    let entries = fs::read_dir(class_dir(sysfs, disk)).into_iter().flatten().flatten();
    let parts = entries.filter(|entry| entry.path().join("partition").exists());
    let mut names: Vec<String> = parts.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Major and minor number, from sysfs.
pub fn devno_of(sysfs: &Path, name: &str) -> Option<(u32, u32)> {
    let text = attribute(&class_dir(sysfs, name), "dev")?;
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// At most [`FIELD_BYTES`] of a text, without control characters.
fn field(text: &str) -> String {
    let clean: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    let mut end = clean.len().min(FIELD_BYTES);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean[..end].trim_end().to_owned()
}

/// The last `bytes` of a text, or a few less.
fn tail(text: &str, bytes: usize) -> &str {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// Describes the block device `name`, or `None` if it can be no member: memory, optical, hidden, empty, or our own
/// mapped device.
///
/// `property` gives udev's properties of the device. Where udev knows no serial number (it does not run, or the
/// driver tells it in sysfs only), sysfs is asked for the same text that udev's rules would take.
pub fn describe(
    sysfs: &Path,
    name: &str,
    node: PathBuf,
    loops: Loops,
    property: &dyn Fn(&str) -> Option<String>,
) -> Option<FoundDevice> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if SKIPPED.contains(&stem) {
        return None;
    }
    let dir = class_dir(sysfs, name);
    let dm_uuid = attribute(&dir, "dm/uuid");
    let ours = dm_uuid.as_deref().is_some_and(is_ours);
    let sectors = number(&dir, "size").map(Sectors).filter(|size| size.0 > 0)?;
    if ours || number::<u8>(&dir, "hidden") == Some(1) {
        return None;
    }
    let devno = devno_of(sysfs, name)?;
    let disk = disk_of(sysfs, name);
    let disk_dir = class_dir(sysfs, &disk);
    let logical_block: u32 = number(&disk_dir, "queue/logical_block_size").unwrap_or(512);
    let physical_block: u32 = number(&disk_dir, "queue/physical_block_size").unwrap_or(logical_block);
    let first = |names: &[&str]| names.iter().find_map(|name| property(name).filter(|text| !text.trim().is_empty()));
    let serial = first(&["ID_SERIAL_SHORT", "ID_SCSI_SERIAL", "ID_SERIAL"])
        .or_else(|| stacked_serial(&disk_dir, &disk, loops, dm_uuid.as_deref()))
        .or_else(|| attribute(&disk_dir, "serial"))
        .or_else(|| attribute(&disk_dir, "device/serial"));
    let wwn = first(&["ID_WWN_WITH_EXTENSION", "ID_WWN"]).or_else(|| attribute(&disk_dir, "wwid"));
    let model = first(&["ID_MODEL"]).or_else(|| attribute(&disk_dir, "device/model"));
    let partition = if disk == name { None } else { first(&["ID_PART_ENTRY_UUID"]).or_else(|| kernel_partuuid(&dir)) };
    let text = |value: Option<String>| field(&value.unwrap_or_default());
    let identity = Identity {
        serial: text(serial),
        wwn: text(wwn),
        model: text(model),
        partition: text(partition),
        sectors,
        logical_block,
        physical_block: physical_block.max(logical_block),
    };
    let transport = transport(&disk, property).to_owned();
    let rotational = number::<u8>(&disk_dir, "queue/rotational").map(|is| is != 0);
    Some(FoundDevice { node, name: name.into(), disk, identity, devno, transport, rotational })
}

/// How a disk is attached: by udev's `ID_BUS` and the properties of its builtins, where those say nothing by the driver's names.
fn transport(disk: &str, property: &dyn Fn(&str) -> Option<String>) -> &'static str {
    let has = |name: &str| property(name).is_some_and(|value| value == "1");
    let path = property("ID_PATH").unwrap_or_default();
    match property("ID_BUS").as_deref() {
        Some("usb") => return "usb",
        Some("ata") if has("ID_ATA_SATA") => return "sata",
        Some("ata") => return "ata",
        Some("scsi") if path.contains("-sas-") => return "sas",
        Some("scsi") => return "scsi",
        _ => {}
    }
    let by_name = [("nvme", "nvme"), ("vd", "virtio"), ("mmcblk", "mmc"), ("sd", "scsi")];
    by_name.into_iter().find(|(prefix, _)| disk.starts_with(prefix)).map_or("other", |(_, transport)| transport)
}

/// The partition's UUID as newer kernels tell it themselves.
fn kernel_partuuid(dir: &Path) -> Option<String> {
    let uevent = attribute(dir, "uevent")?;
    uevent.lines().find_map(|line| line.strip_prefix("PARTUUID=")).map(str::to_owned)
}

/// A serial number for devices that are made of others: logical volumes, arrays, loop devices if allowed.
fn stacked_serial(disk_dir: &Path, disk: &str, loops: Loops, dm_uuid: Option<&str>) -> Option<String> {
    if let Some(uuid) = dm_uuid {
        return Some(format!("dm:{uuid}"));
    }
    if let Some(uuid) = attribute(disk_dir, "md/uuid") {
        return Some(format!("md:{uuid}"));
    }
    if loops == Loops::ByBackingFile && disk.starts_with("loop") {
        let file = attribute(disk_dir, "loop/backing_file")?;
        // The end of a path tells more than its beginning.
        return Some(format!("loop:{}", tail(&file, FIELD_BYTES - "loop:".len())));
    }
    None
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    /// Writes a sysfs with one disk and optional partitions; attributes are paths below the device.
    pub(crate) fn disk(root: &Path, disk: &str, attributes: &[(&str, &str)]) {
        let dir = root.join("devices/pci/block").join(disk);
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(root.join("class/block")).unwrap();
        link(root, &dir, disk);
        for (name, text) in attributes {
            let file = dir.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
            // A directory with the name of a partition.
            if let Some(part) = name.strip_suffix("/partition") {
                link(root, &dir.join(part), part);
            }
        }
    }

    fn link(root: &Path, dir: &Path, name: &str) {
        symlink(dir, root.join("class/block").join(name)).unwrap();
    }

    fn look(root: &Path, name: &str, loops: Loops, properties: &[(&str, &str)]) -> Option<FoundDevice> {
        let property = |wanted: &str| properties.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_string());
        describe(root, name, PathBuf::from("/dev").join(name), loops, &property)
    }

    #[test]
    fn a_partition_has_its_disks_blocks_and_serial() {
        let root = tempfile::tempdir().unwrap();
        disk(
            root.path(),
            "sda",
            &[
                ("dev", "8:0\n"),
                ("size", "2048\n"),
                ("queue/logical_block_size", "512\n"),
                ("queue/physical_block_size", "4096\n"),
                ("sda1/partition", "1\n"),
                ("sda1/size", "1024\n"),
                ("sda1/dev", "8:1\n"),
                ("sda1/uevent", "MAJOR=8\nPARTN=1\nPARTUUID=k-1\n"),
            ],
        );
        assert_eq!(look(root.path(), "sda1", Loops::Nameless, &[]).unwrap().identity.partition, "k-1", "the kernel's word");
        let properties = [("ID_SERIAL_SHORT", "S1"), ("ID_SERIAL", "long"), ("ID_WWN", "0x5"), ("ID_PART_ENTRY_UUID", "p-1")];
        let found = look(root.path(), "sda1", Loops::Nameless, &properties).unwrap();
        assert_eq!((found.disk.as_str(), found.devno), ("sda", (8, 1)));
        assert_eq!((found.identity.serial.as_str(), found.identity.partition.as_str()), ("S1", "p-1"));
        assert_eq!((found.identity.sectors, found.identity.physical_block), (Sectors(1024), 4096));
        let whole = look(root.path(), "sda", Loops::Nameless, &properties).unwrap();
        assert_eq!((whole.identity.partition.as_str(), whole.disk.as_str()), ("", "sda"));
        assert_eq!(partitions_of(root.path(), "sda"), ["sda1"]);
    }

    #[test]
    fn how_a_disk_is_attached_is_known() {
        let of = |disk: &str, known: &[(&str, &str)]| {
            transport(disk, &|name| known.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of("sda", &[("ID_BUS", "ata"), ("ID_ATA_SATA", "1")]), "sata");
        assert_eq!(of("sda", &[("ID_BUS", "ata")]), "ata");
        assert_eq!(of("sda", &[("ID_BUS", "scsi"), ("ID_PATH", "pci-0000:03:00.0-sas-phy0-lun-0")]), "sas");
        assert_eq!(of("sda", &[("ID_BUS", "usb")]), "usb");
        assert_eq!(
            [of("nvme0n1", &[]), of("vda", &[]), of("mmcblk0", &[]), of("loop0", &[])],
            ["nvme", "virtio", "mmc", "other"]
        );
        let root = tempfile::tempdir().unwrap();
        disk(root.path(), "sda", &[("dev", "8:0"), ("size", "8"), ("queue/rotational", "1\n")]);
        assert_eq!(look(root.path(), "sda", Loops::Nameless, &[]).unwrap().rotational, Some(true));
    }

    #[test]
    fn without_udev_sysfs_tells_the_serial() {
        let root = tempfile::tempdir().unwrap();
        disk(root.path(), "vda", &[("dev", "254:0"), ("size", "8"), ("serial", "V-1\n")]);
        disk(root.path(), "nvme0n1", &[("dev", "259:0"), ("size", "8"), ("device/serial", "N-1   \n"), ("wwid", "eui.1\n")]);
        assert_eq!(look(root.path(), "vda", Loops::Nameless, &[]).unwrap().identity.serial, "V-1");
        let nvme = look(root.path(), "nvme0n1", Loops::Nameless, &[]).unwrap();
        assert_eq!((nvme.identity.serial.as_str(), nvme.identity.wwn.as_str()), ("N-1", "eui.1"));
        assert_eq!((nvme.identity.logical_block, nvme.identity.physical_block), (512, 512));
    }

    #[test]
    fn what_can_be_no_member_is_skipped() {
        let root = tempfile::tempdir().unwrap();
        for name in ["ram0", "zram1", "sr0"] {
            disk(root.path(), name, &[("dev", "1:0"), ("size", "8")]);
            assert_eq!(look(root.path(), name, Loops::Nameless, &[]), None, "{name}");
        }
        disk(root.path(), "sdb", &[("dev", "8:16"), ("size", "0")]);
        disk(root.path(), "dm-0", &[("dev", "253:0"), ("size", "8"), ("dm/uuid", "REMAP-GUARDIAN-1")]);
        disk(root.path(), "nvme0c0n1", &[("dev", "0:0"), ("size", "8"), ("hidden", "1")]);
        disk(root.path(), "dm-1", &[("dev", "253:1"), ("size", "8"), ("dm/uuid", "part1-REMAP-GUARDIAN-1")]);
        for name in ["sdb", "dm-0", "dm-1", "nvme0c0n1", "absent"] {
            assert_eq!(look(root.path(), name, Loops::Nameless, &[]), None, "{name}");
        }
    }

    #[test]
    fn two_volumes_on_one_disk_are_found_out() {
        let root = tempfile::tempdir().unwrap();
        disk(root.path(), "sda", &[("dev", "8:0"), ("size", "64"), ("sda1/partition", "1\n"), ("sda2/partition", "2\n")]);
        disk(root.path(), "sdb", &[("dev", "8:16"), ("size", "64")]);
        // md0 of sda1 and sdb; dm-1 on md0 and sda2.
        disk(root.path(), "md0", &[("dev", "9:0"), ("size", "64"), ("slaves/sda1", ""), ("slaves/sdb", "")]);
        disk(root.path(), "dm-1", &[("dev", "253:1"), ("size", "64"), ("slaves/md0", ""), ("slaves/sda2", "")]);
        let bottom = |name| bottom_disks(root.path(), name).into_iter().collect::<Vec<_>>();
        assert_eq!(bottom("sda2"), ["sda"]);
        assert_eq!(bottom("md0"), ["sda", "sdb"]);
        assert_eq!(bottom("dm-1"), ["sda", "sdb"]);
        assert!(rests_on(root.path(), "dm-1", "sdb") && rests_on(root.path(), "dm-1", "sda1"));
        assert!(!rests_on(root.path(), "md0", "sda2") && !rests_on(root.path(), "sda", "sda1"));
    }

    #[test]
    fn stacked_devices_are_named_by_what_they_are() {
        let root = tempfile::tempdir().unwrap();
        disk(root.path(), "dm-1", &[("dev", "253:1"), ("size", "8"), ("dm/uuid", "LVM-abc\n")]);
        assert_eq!(look(root.path(), "dm-1", Loops::Nameless, &[]).unwrap().identity.serial, "dm:LVM-abc");
        let long = format!("/{}é/disk.img", "x".repeat(47));
        disk(root.path(), "loop0", &[("dev", "7:0"), ("size", "8"), ("loop/backing_file", &long)]);
        assert_eq!(look(root.path(), "loop0", Loops::Nameless, &[]).unwrap().identity.serial, "");
        let serial = look(root.path(), "loop0", Loops::ByBackingFile, &[]).unwrap().identity.serial;
        assert!(serial.starts_with("loop:") && serial.ends_with("/disk.img") && serial.len() <= 64, "{serial}");
    }

    proptest! {
        #[test]
        fn fields_stay_short_and_clean(text in any::<String>()) {
            let field = field(&text);
            prop_assert!(field.len() <= FIELD_BYTES);
            prop_assert!(!field.chars().any(char::is_control));
        }
    }
}
