//! `remap-guardian map export`.

use super::text::write;
use crate::config::Settings;
use crate::control::{MapReport, Request, client};
use crate::model::SetName;
use std::io::Write;
use std::process::ExitCode;

/// Options of `map export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The map is of /dev/mapper/NAME, in bytes, and goes to standard output: “+” is what the last scrub has read, and what
a spare serves; “-” is what is lost, and what did not read when it was last tried (written since, it may read again);
“?” is what nobody has read since. ddrescue, given the map, reads only what is “?”, and tries “-” again with -r.

Examples:
  remap-guardian map export data > data.map
  ddrescuelog -t data.map
  remap-guardian map export data --json | jq '.areas[] | select(.known == \"bad\")'")]
pub struct Args {
    /// The set
    name: SetName,
}

/// Writes the map.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let report: MapReport = client::call(&settings.socket(), &Request::Map { name: args.name.clone() })?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        let heading = [
            format!("Mapfile of /dev/mapper/{}, made by remap-guardian {}", args.name, env!("CARGO_PKG_VERSION")),
            format!("Current time: {}", jiff::Zoned::now().strftime("%F %T")),
        ];
        out.write_all(write(&report.areas, &heading).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
