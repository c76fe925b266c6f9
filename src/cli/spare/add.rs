//! `remap-guardian spare add`.

use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::SetName;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `spare add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The set may be open and in use, or closed; all of its disks have to be attached. The new disk must be unused, and another
one than main; what is on it is overwritten. What the other spares hold stays where it is.

Applications notice nothing: for a moment their I/O waits. A power cut in the middle leaves the set with the old spares
or with the new one, too. What fails on the way is told; then the old spares serve on, and the same command, or opening
the set again, goes on with it.

Examples:
  remap-guardian spare add data --spare /dev/sdd1
  remap-guardian spare add data --spare /dev/sdd1 --overwrite-spare")]
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
