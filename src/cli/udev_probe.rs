//! `remap-guardian udev-probe`: called by the udev rule for every block device, so it does one small read.

use crate::actuate::{Access, DirectDevice, read_header};
use crate::runtime::shield;
use crate::sources::devices::{self, Loops};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Links by which a file system or a partition is found, not a disk.
const BY_CONTENT: [&str; 4] = ["disk/by-uuid/", "disk/by-label/", "disk/by-partuuid/", "disk/by-partlabel/"];

/// Options of `udev-probe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The device node
    device: PathBuf,
    /// The links that udev would make to it
    links: Vec<String>,
    /// The list of main devices
    #[arg(long, default_value = shield::LIST)]
    mains: PathBuf,
}

/// Prints `KEY=value` lines for udev if the device is a spare or a main device, and fails if it is neither.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if is_spare(&args.device) || is_main(args) { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::FAILURE) }
}

fn is_spare(device: &Path) -> bool {
    let Ok(device) = DirectDevice::open(device, Access::READ) else { return false };
    let Ok(found) = read_header(&device) else { return false };
    println!("ID_FS_TYPE=remap_guardian_spare");
    println!("ID_FS_USAGE=other");
    println!("REMAP_GUARDIAN_SET={}", found.header.set.name);
    println!("REMAP_GUARDIAN_SET_ID={}", found.header.set.id);
    println!("UDISKS_IGNORE=1");
    true
}

fn is_main(args: &Args) -> bool {
    let list = match shield::read(&args.mains) {
        Ok(list) if list.is_empty() => return false,
        Ok(list) => list,
        Err(error) => {
            eprintln!("{}: {error}", args.mains.display());
            return false;
        }
    };
    let node = args.device.strip_prefix("/dev").unwrap_or(&args.device).to_string_lossy();
    // udev gives what it knows of the device so far.
    let property = |name: &str| std::env::var(name).ok();
    let found = devices::describe(Path::new("/sys"), &node, args.device.clone(), Loops::ByBackingFile, &property);
    let Some(entry) = found.and_then(|found| list.into_iter().find(|entry| entry.is(&found.identity))) else { return false };
    let kept: Vec<&str> =
        args.links.iter().map(String::as_str).filter(|link| !BY_CONTENT.iter().any(|by| link.starts_with(by))).collect();
    println!("REMAP_GUARDIAN_MAIN={}", entry.name);
    println!("REMAP_GUARDIAN_SET_ID={}", entry.set);
    println!("REMAP_GUARDIAN_REASON=main device of the set {0}: use /dev/mapper/{0}", entry.name);
    println!("REMAP_GUARDIAN_LINKS={}", kept.join(" "));
    true
}
