//! `remap-guardian restore`.

use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::SetName;
use std::process::ExitCode;

/// Options of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
At boot and when a disk arrives the daemon does this by itself.

Examples:
  remap-guardian restore
  remap-guardian restore data")]
pub struct Args {
    /// Only this set
    name: Option<SetName>,
}

/// Asks the daemon to look at the disks now.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let said: Said = client::call(&settings.socket(), &Request::Restore { name: args.name.clone() })?;
    super::print_said(&said, json)
}
