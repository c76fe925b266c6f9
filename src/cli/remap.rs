//! `remap-guardian remap`.

use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::{Extent, Sector, Sectors, SetName};
use std::process::ExitCode;

/// Options of `remap`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What can be read moves along; what cannot reads as an error until it is written again. The range is
widened to whole blocks (usually 8 sectors).

Example:
  remap-guardian remap data 123456 --length 8")]
pub struct Args {
    /// The set
    name: SetName,
    /// First sector (512 bytes) on the device
    sector: u64,
    /// Number of sectors
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    length: u64,
}

/// Asks the daemon to move a range.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let extent = Extent::new(Sector(args.sector), Sectors(args.length))
        .map_err(|error| anyhow::anyhow!("sector {} with --length {}: {error}", args.sector, args.length))?;
    let said: Said = client::call(&settings.socket(), &Request::Remap { name: args.name.clone(), extent })?;
    super::print_said(&said, json)
}
