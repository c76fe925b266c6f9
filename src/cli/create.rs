//! `remap-guardian create`.

use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::SetName;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `create`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The main disk keeps what is on it; the spare is overwritten. Both must be unused, and on different disks.

Example:
  remap-guardian create data --main /dev/sdb --spare /dev/sdc1")]
pub struct Args {
    /// Name of the device: it appears as /dev/mapper/NAME
    name: SetName,
    /// The disk or partition to protect; its content stays
    #[arg(long, value_name = "DEV")]
    main: PathBuf,
    /// A disk or partition that takes the place of bad sectors; repeat for more
    #[arg(long, value_name = "DEV", required = true)]
    spare: Vec<PathBuf>,
    /// Use the spare although something is on it; it will be lost
    #[arg(long)]
    overwrite_spare: bool,
}

impl std::str::FromStr for SetName {
    type Err = crate::model::set::BadName;
    fn from_str(name: &str) -> Result<SetName, Self::Err> {
        SetName::new(name)
    }
}

/// Asks the daemon to make a set.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let request = Request::Create {
        name: args.name.clone(),
        main: std::path::absolute(&args.main)?,
        spares: args.spare.iter().map(std::path::absolute).collect::<Result<_, _>>()?,
        overwrite_spare: args.overwrite_spare,
    };
    let said: Said = client::call(&settings.socket(), &request)?;
    super::print_said(&said, json)
}
