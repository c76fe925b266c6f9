//! The devices that a table names, looked at before the kernel is asked: its own answer is an errno without a name.

use super::error::Error;
use super::stack;
use super::table::{Line, Table};
use super::target::{Device, Needed};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Major and minor number.
pub type Devno = (u32, u32);

/// What sysfs has about a block device.
fn sysfs((major, minor): Devno) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{major}:{minor}"))
}

/// The kernel's name of a block device, if it is there: `sda1`, `dm-0`.
pub fn kernel_name(devno: Devno) -> Option<String> {
    Some(fs::canonicalize(sysfs(devno)).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// The device-mapper name of a block device, if it is one of device-mapper's.
pub fn mapped_name(devno: Devno) -> Option<String> {
    fs::read_to_string(sysfs(devno).join("dm/name")).ok().map(|name| name.trim_end_matches('\n').to_owned())
}

/// Name and number of every mapped device, as sysfs has them.
pub(super) fn mapped_devices() -> std::io::Result<Vec<(String, Devno)>> {
    let mut devices = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let folder = entry?.path();
        // One that goes meanwhile is not there.
        let number = fs::read_to_string(folder.join("dev")).ok().and_then(|text| Device(text.trim().into()).devno());
        let name = fs::read(folder.join("dm/name")).map(|name| String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned());
        devices.extend(name.ok().zip(number));
    }
    Ok(devices)
}

/// The number of the block device at `path`; otherwise what is there instead.
pub fn devno(path: &Path) -> Result<Devno, String> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "it does not exist".to_owned(),
        _ => error.to_string(),
    })?;
    if !metadata.file_type().is_block_device() {
        return Err("it is not a block device".into());
    }
    let number @ (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    // A node can outlive its device, where nobody takes it away.
    if !sysfs(number).exists() {
        return Err(format!("it is a node of {major}:{minor}, and there is no block device of this number"));
    }
    Ok(number)
}

/// The number of a device as a table names it.
fn find(device: &Device) -> Result<Devno, String> {
    match device.devno() {
        Some(number) if sysfs(number).exists() => Ok(number),
        Some(_) => Err("there is no block device of this number".into()),
        None => devno(Path::new(&device.path())),
    }
}

/// What a person knows a device by.
fn shown(devno: Devno) -> String {
    let mapped = mapped_name(devno).map(|name| format!("“{name}”"));
    mapped.or_else(|| kernel_name(devno)).unwrap_or_else(|| format!("{}:{}", devno.0, devno.1))
}

/// Makes sure that a device does not stand on `own`.
fn check_above(devno: Devno, own: Devno) -> Result<(), String> {
    match stack::way_down(&|devno| stack::below(Path::new("/sys"), devno), devno, own).as_deref() {
        None => Ok(()),
        Some([_]) => Err("that is the device itself, it cannot stand on its own".into()),
        Some(way) => {
            let way = way.iter().map(|devno| shown(*devno)).collect::<Vec<_>>().join(" on ");
            Err(format!("that is {way}, the device itself: it cannot stand on its own"))
        }
    }
}

fn check_size(needed: &Needed<'_>, devno: Devno) -> Result<(), String> {
    // A size that cannot be read is left to the kernel.
    let size = fs::read_to_string(sysfs(devno).join("size")).ok().and_then(|size| size.trim().parse::<u64>().ok());
    match size {
        Some(size) if size < needed.sectors => {
            Err(format!("it has {size} sectors, the table reaches to sector {} of it", needed.sectors))
        }
        _ => Ok(()),
    }
}

fn refused(line: &Line, device: &Device, why: String) -> Error {
    Error::Backing { device: device.to_string(), kind: line.target.kind().to_owned(), start: line.start, why }
}

/// Makes sure that every device that the table names is there and large enough, and none of them stands on `own`, the
/// device that gets the table.
pub fn check(table: &Table, own: Option<Devno>) -> Result<(), Error> {
    for line in table.lines() {
        for needed in line.target.needs(line.length) {
            let fits = find(needed.device).and_then(|devno| check_size(&needed, devno));
            fits.map_err(|why| refused(line, needed.device, why))?;
        }
    }
    own.map_or(Ok(()), |own| check_no_circle(table.lines(), own))
}

/// Makes sure that nothing in the lines stands on `own`. Of a target that has no type here, whatever names a block device
/// is taken for one.
pub(super) fn check_no_circle(lines: &[Line], own: Devno) -> Result<(), Error> {
    for line in lines {
        for device in line.target.devices(line.length) {
            if let Ok(devno) = find(&device) {
                check_above(devno, own).map_err(|why| refused(line, &device, why))?;
            }
        }
    }
    Ok(())
}

/// The kernel's names of all devices that the table names.
pub fn kernel_names(table: &Table) -> Vec<String> {
    let needs = table.lines().iter().flat_map(|line| line.target.needs(line.length));
    let mut names: Vec<String> = needs.filter_map(|needed| kernel_name(find(needed.device).ok()?)).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(table: &str) -> String {
        check(&table.parse().unwrap(), None).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_block_device_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        for (device, why) in [
            ("/dev/nosuch", "does not exist"),
            ("/dev/zero", "not a block device"),
            (path, "not a block device"),
            ("4095:77", "no block device"),
        ] {
            let error = refused(&format!("0 8 error\n8 8 linear {device} 0"));
            assert!(error.contains(why) && error.contains(device) && error.contains("linear target at sector 8"), "{error}");
        }
        assert!(check(&"0 8 zero\n8 8 unheard-of /dev/nosuch".parse().unwrap(), None).is_ok(), "not ours to know");
    }
}
