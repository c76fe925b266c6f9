//! `remap-guardian udev-probe`: called by the udev rule for every block device, so it does one small read.

use crate::actuate::{Access, DirectDevice, read_header};
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `udev-probe`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The device node
    device: PathBuf,
}

/// Prints `KEY=value` lines for udev if the device is a spare, and fails if it is not.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let Ok(device) = DirectDevice::open(&args.device, Access::READ) else { return Ok(ExitCode::FAILURE) };
    let Ok(found) = read_header(&device) else { return Ok(ExitCode::FAILURE) };
    println!("ID_FS_TYPE=remap_guardian_spare");
    println!("ID_FS_USAGE=other");
    println!("REMAP_GUARDIAN_SET={}", found.header.set.name);
    println!("REMAP_GUARDIAN_SET_ID={}", found.header.set.id);
    println!("UDISKS_IGNORE=1");
    Ok(ExitCode::SUCCESS)
}
