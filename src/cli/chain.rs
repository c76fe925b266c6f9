//! `remap-guardian history --verify` and `history prune`.

use super::history::parse_since;
use super::text::time;
use crate::config::Settings;
use crate::control::client::{self, CallError};
use crate::control::{Request, Said};
use crate::model::{Breach, Broken, ChainReport, Millis, Stamp};
use crate::store::ReadStore;
use std::io::Write;
use std::process::ExitCode;

/// Options of `history prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  remap-guardian history prune                      # what exceeds the settings, as the daemon does by itself
  remap-guardian history prune --before 2025-01-01
  remap-guardian history prune --keep 10000

The settings are history_days and history_entries. The oldest entries go, of all sets, up to the first that is to stay.
An entry for each set says so, and the chain goes on: see history --verify. Sets, spares and remaps are not touched.")]
pub struct PruneArgs {
    /// All that is older than this: a date, a date with time, or an RFC 3339 time
    #[arg(long, value_name = "DATE", value_parser = parse_since, conflicts_with = "keep")]
    before: Option<Millis>,
    /// All but so many, the newest
    #[arg(long, value_name = "N")]
    keep: Option<u64>,
}

/// Prunes the history.
pub fn prune(args: &PruneArgs, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let said: Said = client::call(&settings.socket(), &Request::Prune { before: args.before, keep: args.keep })?;
    super::print_said(&said, json)
}

/// Checks the chain of the history; also when the daemon does not run.
pub fn verify(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let report = match client::call(&settings.socket(), &Request::Verify) {
        Ok(report) => report,
        Err(CallError::NotRunning(_)) => match ReadStore::open_if_there(settings.store())? {
            Some(store) => store.verify()?,
            None => ChainReport::default(),
        },
        Err(error) => return Err(error.into()),
    };
    let mut out = std::io::stdout().lock();
    if json {
        let mut value = serde_json::to_value(&report)?;
        value["holds"] = report.holds().into();
        writeln!(out, "{value}")?;
    } else {
        write!(out, "{}", words(&report))?;
    }
    Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn words(report: &ChainReport) -> String {
    let mut text = String::new();
    for Broken { entry, breach } in &report.broken {
        let what = match breach {
            Breach::Changed => "it is not what was written".to_string(),
            Breach::CutShort => "its beginning is missing".to_string(),
            Breach::Misplaced { after: 0 } => "it is not the first that was written: what came before it is missing".to_string(),
            Breach::Misplaced { after } => {
                format!("it does not follow entry {after}: one of them was replaced, or what was between them is missing")
            }
        };
        text += &format!("BROKEN at {}: {what}\n", stamp(entry));
    }
    let broken = report.broken.len() as u64 + report.more_broken;
    let verdict = if broken == 0 { "the chain holds".to_string() } else { format!("{broken} of them do NOT hold") };
    text += &match (report.first, report.last) {
        (Some(first), Some(last)) => {
            format!("{} entries, from {} to {}: {verdict}\n", report.entries, stamp(&first), stamp(&last))
        }
        _ => format!("no entries: {verdict}\n"),
    };
    if let Some(pruned) = &report.pruned {
        text += &format!("{} older entries were pruned, the last of them {}\n", pruned.entries, stamp(&pruned.last));
    }
    if broken > 0 {
        text += "  next: what is on the spares is not affected; compare with a backup of the store, and see: journalctl -u remap-guardian\n";
    }
    text
}

fn stamp(stamp: &Stamp) -> String {
    match stamp.at {
        Millis(0) => format!("{} (its time cannot be read)", stamp.number),
        at => format!("{} ({})", stamp.number, time(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> Stamp {
        Stamp { number, at: Millis(1_764_000_000_000 + number * 1000) }
    }

    #[test]
    fn what_is_broken_is_named_by_number_and_time() {
        let mut report = ChainReport { entries: 7, first: Some(stamp(4)), last: Some(stamp(10)), ..ChainReport::default() };
        report.pruned = Some(crate::model::Pruned { entries: 3, last: stamp(3) });
        let (first, last) = (super::stamp(&stamp(4)), super::stamp(&stamp(10)));
        let good = format!(
            "7 entries, from {first} to {last}: the chain holds\n3 older entries were pruned, the last of them {}\n",
            super::stamp(&stamp(3))
        );
        assert_eq!(words(&report), good);
        report.broken.push(Broken { entry: stamp(5), breach: Breach::Changed });
        report.broken.push(Broken { entry: stamp(8), breach: Breach::Misplaced { after: 6 } });
        let text = words(&report);
        let named = format!("BROKEN at {}: it is not what was written\n", super::stamp(&stamp(5)));
        assert!(text.starts_with(&named) && named.contains("5 (2025-11-"), "{text}");
        assert!(text.contains("does not follow entry 6") && text.contains("2 of them do NOT hold"), "{text}");
    }

    #[test]
    fn a_new_machine_has_nothing_to_check() {
        assert_eq!(words(&ChainReport::default()), "no entries: the chain holds\n");
    }
}
