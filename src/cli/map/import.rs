//! `remap-guardian map import`.

use super::text::{MOST_BYTES, parse, suspects};
use crate::config::Settings;
use crate::control::{ImportReport, MOST_AREAS, MOST_SECTORS, Request, StatusReport, client};
use crate::model::{Extent, Sectors, SetName};
use anyhow::Context;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Options of `map import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The map has to be of the set's main device, or of /dev/mapper/NAME. What it calls bad, or failed and not yet tried sector by
sector (- / *), is read on main, a block at a time and as slowly as a scrub; what does not read is told in the
history and treated as if a scrub had found it. The map itself proves nothing: what reads is well, and nothing becomes
lost because a file says so. It waits until all is read; interrupted, the daemon goes on.

Exit status: 0 if everything reads, 2 if not, 1 on error.

Examples:
  remap-guardian map import data rescue.map
  ddrescue -n /dev/mapper/data /dev/null rescue.map; remap-guardian map import data rescue.map")]
pub struct Args {
    /// The set
    name: SetName,
    /// The map; “-” for standard input
    file: PathBuf,
}

/// Has the daemon look at what a map calls bad.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let (name, file) = (&args.name, args.file.display());
    // What is wrong with the file is told before anybody is asked.
    let rows = parse(&read(&args.file)?).with_context(|| format!("{file} is no map that can be used"))?;
    let areas = suspects(&rows, size(name, settings)?).with_context(|| format!("{file} is no map of “{name}”"))?;
    let total: u64 = areas.iter().map(|area| area.len().0).sum();
    if areas.len() > MOST_AREAS || total > MOST_SECTORS.0 {
        anyhow::bail!(
            "{file} calls {} in {} ranges bad; at most {} in {MOST_AREAS} are taken\n  next: have all of it read: remap-guardian scrub {name}",
            Sectors(total).human(),
            areas.len(),
            MOST_SECTORS.human()
        );
    }
    let report = if areas.is_empty() { ImportReport::default() } else { ask(name, areas, settings)? };
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "“{name}”: {}", words(&report))?;
    }
    Ok(if report.bad_blocks > 0 { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = path.display();
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path).with_context(|| format!("{name} cannot be opened"))?),
    };
    source.take(MOST_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("{name} cannot be read"))?;
    anyhow::ensure!(bytes.len() as u64 <= MOST_BYTES, "{name} is longer than {} MiB: it is no map of ddrescue", MOST_BYTES >> 20);
    Ok(bytes)
}

/// Size of the set's device.
fn size(name: &SetName, settings: &Settings) -> anyhow::Result<Sectors> {
    let report: StatusReport = client::call(&settings.socket(), &Request::Status { name: Some(name.clone()) })?;
    let status = report.sets.into_iter().find(|set| set.name == *name).and_then(|set| set.status);
    let status = status.with_context(|| format!("“{name}” is not open\n  next: remap-guardian status {name}"))?;
    Ok(status.sectors)
}

fn ask(name: &SetName, areas: Vec<Extent>, settings: &Settings) -> Result<ImportReport, client::CallError> {
    client::call(&settings.socket(), &Request::ImportMap { name: name.clone(), areas })
}

fn words(report: &ImportReport) -> String {
    let ImportReport { blocks, bad_blocks, on_spare } = report;
    let tried = match (blocks, bad_blocks) {
        (0, _) => "nothing that the map calls bad is on main".to_string(),
        (blocks, 0) => format!("the map calls {blocks} blocks bad: all of them read"),
        (blocks, bad) => format!("the map calls {blocks} blocks bad: {bad} do NOT read"),
    };
    match on_spare {
        0 => tried,
        on_spare => format!("{tried}; {on_spare} others have moved to a spare before"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_it_is_one_line() {
        let said = |blocks, bad_blocks, on_spare| words(&ImportReport { blocks, bad_blocks, on_spare });
        assert_eq!(said(0, 0, 0), "nothing that the map calls bad is on main");
        assert_eq!(said(5, 2, 0), "the map calls 5 blocks bad: 2 do NOT read");
        assert_eq!(said(5, 0, 3), "the map calls 5 blocks bad: all of them read; 3 others have moved to a spare before");
    }
}
