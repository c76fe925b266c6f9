//! `remap-guardian spare add`.

use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::SetName;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `spare add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The set must be closed (unmount it, then: dmsetup remove NAME), with all of its disks attached. The new disk must be
unused, and another one than main; what is on it is overwritten. What the other spares hold stays where it is. A power
cut in the middle leaves the set with the old spares or with the new one, too.

Examples:
  umount /mnt/data && dmsetup remove data
  remap-guardian spare add data --spare /dev/sdd1
  remap-guardian restore data")]
pub struct Args {
    /// The set; or its id, where several have the same name
    name: SetName,
    /// The disk or partition that becomes a spare
    #[arg(long, value_name = "DEV")]
    spare: PathBuf,
    /// Use it although something is on it; it will be lost
    #[arg(long)]
    overwrite_spare: bool,
}

/// Asks the daemon to add a spare to a set.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let request = Request::AddSpare {
        name: args.name.clone(),
        spare: std::path::absolute(&args.spare)?,
        overwrite_spare: args.overwrite_spare,
    };
    let said: Said = client::call(&settings.socket(), &request)?;
    super::super::print_said(&said, json)
}
