//! `remap-guardian forget`.

use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::SetName;
use std::process::ExitCode;

/// Options of `forget`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For a set that is not open. What its spares hold of main's bad sectors is lost; main is not changed. Its history
stays. Without --yes it says what it would do, and the exit status is 2.

Example:
  remap-guardian forget data --yes")]
pub struct Args {
    /// The set; or its id, where several have the same name
    name: SetName,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// Asks the daemon to give up a set.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let request = Request::Forget { name: args.name.clone(), sure: args.yes };
    let said: Said = client::call(&settings.socket(), &request)?;
    let code = super::print_said(&said, json)?;
    Ok(if args.yes { code } else { ExitCode::from(2) })
}
