//! What block devices stand on, as sysfs has it, to see a table that would stand on its own device: the kernel lets that
//! pass, and I/O goes round in circles.

use super::backing::Devno;
use super::words::Device;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The devices on the way from one device down to another, both included, if the first stands on the second. Each is
/// asked for what is directly below it.
pub(super) fn way_down(below: &dyn Fn(Devno) -> Vec<Devno>, from: Devno, to: Devno) -> Option<Vec<Devno>> {
    let mut seen = BTreeSet::from([from]);
    let mut ways = vec![vec![from]];
    while let Some(way) = ways.pop() {
        let last = *way.last()?;
        if last == to {
            return Some(way);
        }
        let next = below(last).into_iter().filter(|next| seen.insert(*next));
        ways.extend(next.map(|next| way.iter().copied().chain([next]).collect::<Vec<_>>()));
    }
    None
}

/// What a device stands on directly: the devices of its tables, the live one and the inactive one (or the members of an
/// array), the disk of a partition, the file system or device of a loop device.
pub fn below(sysfs: &Path, (major, minor): Devno) -> Vec<Devno> {
    // What goes while it is looked at is not there.
    let Ok(folder) = fs::canonicalize(sysfs.join(format!("dev/block/{major}:{minor}"))) else { return Vec::new() };
    let number = |folder: &Path| Device(fs::read_to_string(folder.join("dev")).ok()?.trim().into()).devno();
    let slaves = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
    let mut found: Vec<Devno> = slaves.filter_map(|slave| number(&slave.path())).collect();
    if folder.join("partition").exists() {
        found.extend(folder.parent().and_then(number));
    }
    let file = fs::read_to_string(folder.join("loop/backing_file")).ok();
    if let Some(metadata) = file.and_then(|file| fs::metadata(file.trim_end_matches('\n')).ok()) {
        let device = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
        found.push((rustix::fs::major(device), rustix::fs::minor(device)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_down_is_found() {
        // 4 on 3 and 2, 3 on 2, 2 on 1; 8 and 9 on each other.
        let below = |(major, minor): Devno| -> Vec<Devno> {
            let minors: &[u32] = match minor {
                4 => &[3, 2],
                3 => &[2],
                2 => &[1],
                8 => &[9],
                9 => &[8],
                _ => &[],
            };
            minors.iter().map(|minor| (major, *minor)).collect()
        };
        let way = |from, to| way_down(&below, (253, from), (253, to)).map(|way| way.iter().map(|(_, minor)| *minor).collect());
        assert_eq!(way(4, 1), Some(vec![4, 2, 1]));
        assert_eq!(way(3, 3), Some(vec![3]));
        assert_eq!((way(1, 4), way(8, 1)), (None::<Vec<u32>>, None), "and a circle ends");
    }

    #[test]
    fn sysfs_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let sysfs = folder.path();
        let device = |path: &str, number: &str| {
            fs::create_dir_all(sysfs.join(path).join("slaves")).unwrap();
            fs::create_dir_all(sysfs.join("dev/block")).unwrap();
            fs::write(sysfs.join(path).join("dev"), format!("{number}\n")).unwrap();
            std::os::unix::fs::symlink(format!("../../{path}"), sysfs.join("dev/block").join(number)).unwrap();
        };
        device("block/sda", "8:0");
        device("block/sda/sda1", "8:1");
        fs::write(sysfs.join("block/sda/sda1/partition"), "1\n").unwrap();
        device("block/dm-0", "253:0");
        std::os::unix::fs::symlink("../../sda/sda1", sysfs.join("block/dm-0/slaves/sda1")).unwrap();
        device("block/loop0", "7:0");
        fs::create_dir(sysfs.join("block/loop0/loop")).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(sysfs.join("block/loop0/loop/backing_file"), format!("{}\n", file.path().display())).unwrap();
        assert_eq!(below(sysfs, (253, 0)), [(8, 1)]);
        assert_eq!(below(sysfs, (8, 1)), [(8, 0)]);
        assert_eq!(below(sysfs, (8, 0)), []);
        assert_eq!(below(sysfs, (9, 9)), []);
        let own = file.as_file().metadata().unwrap().dev();
        assert_eq!(below(sysfs, (7, 0)), [(rustix::fs::major(own), rustix::fs::minor(own))]);
    }
}
