//! `remap-guardian unremap`.

use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::{Extent, Sector, Sectors, SetName};
use std::process::ExitCode;

/// Options of `unremap`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What a spare serves is written to main, and read back, while nothing else may write there; only then does
main serve it again, and its space on the spare is free. A drive may take what it once refused, as it
has spare sectors of its own. What it does not take stays on the spare, and so does a block of which sectors
are lost: write those first. Each outcome is in the history.

Examples:
  remap-guardian unremap data 123456
  remap-guardian unremap data 123456 --length 4096
  remap-guardian unremap data --all")]
pub struct Args {
    /// The set
    name: SetName,
    /// First sector (512 bytes) on the device
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    sector: Option<u64>,
    /// Number of sectors
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "all")]
    length: u64,
    /// Everything that is on a spare
    #[arg(long)]
    all: bool,
}

/// Asks the daemon to move a range back.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let extent = args.sector.map(|sector| {
        Extent::new(Sector(sector), Sectors(args.length))
            .map_err(|error| anyhow::anyhow!("sector {sector} with --length {}: {error}", args.length))
    });
    let said: Said =
        client::call(&settings.socket(), &Request::Unremap { name: args.name.clone(), extent: extent.transpose()? })?;
    super::print_said(&said, json)
}
