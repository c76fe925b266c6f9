//! `remap-guardian history`.

use super::chain;
use super::text::time;
use crate::config::Settings;
use crate::control::client::CallError;
use crate::control::{HistoryReport, NewsReport, Request, client};
use crate::model::{Entry, Millis, Sector, SetName, What};
use std::io::Write;
use std::process::ExitCode;

/// Options of `history`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  remap-guardian history
  remap-guardian history data --since 2026-05-01 --limit 20
  remap-guardian history --json | jq 'select(.kind == \"remapped\")'
  remap-guardian history --verify
  remap-guardian history prune --before 2025-01-01

With --json every entry is one line.

Each entry carries a hash of the one before it. --verify finds entries that were changed, put in, or taken out between
others, names them, and exits with 1. Nothing tells that the newest are missing.")]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only this set
    name: Option<SetName>,
    /// Entries at or after this: a date, a date with time, or an RFC 3339 time
    #[arg(long, value_parser = parse_since, default_value = "1970-01-01", hide_default_value = true)]
    since: Millis,
    /// At most this many, the newest
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    /// Check that every entry, of all sets, is what was written, and none is missing
    #[arg(long, conflicts_with_all = ["name", "since", "limit"])]
    verify: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Take the oldest entries out
    Prune(chain::PruneArgs),
}

pub(super) fn parse_since(text: &str) -> Result<Millis, String> {
    let stamp = text.parse::<jiff::Timestamp>().or_else(|_| {
        let local: jiff::civil::DateTime = text
            .parse()
            .or_else(|_| text.parse::<jiff::civil::Date>().map(|date| date.to_datetime(jiff::civil::Time::midnight())))?;
        local.to_zoned(jiff::tz::TimeZone::system()).map(|zoned| zoned.timestamp())
    });
    let stamp = stamp.map_err(|_| "use a date like 2026-05-01, or a time like 2026-05-01T12:00:00".to_string())?;
    Ok(Millis(stamp.as_millisecond().max(0) as u64))
}

/// Shows the history; also when the daemon does not run.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    if let Some(Verb::Prune(args)) = &args.verb {
        return chain::prune(args, settings, json);
    }
    if args.verify {
        return chain::verify(settings, json);
    }
    let request = Request::History { name: args.name.clone(), since: args.since, limit: args.limit };
    let report: HistoryReport = match client::call(&settings.socket(), &request) {
        Ok(report) => report,
        Err(CallError::NotRunning(_)) => from_store(args, settings)?,
        Err(error) => return Err(error.into()),
    };
    let mut out = std::io::stdout().lock();
    for entry in &report.entries {
        if json {
            writeln!(out, "{}", line_of_json(entry)?)?;
        } else {
            show(entry, &mut out)?;
        }
    }
    if report.entries.is_empty() && !json {
        let narrowed = args.since > Millis(0) || args.limit == 0;
        writeln!(out, "{}", if narrowed { "nothing of it has happened" } else { "nothing has happened yet" })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One entry, by its number.
pub(super) fn entry(settings: &Settings, number: u64) -> anyhow::Result<Option<Entry>> {
    let request = Request::News { after: Some(number.saturating_sub(1)) };
    let entries = match client::call::<NewsReport>(&settings.socket(), &request) {
        Ok(report) => report.entries,
        Err(CallError::NotRunning(_)) => match crate::store::ReadStore::open_if_there(settings.store())? {
            Some(store) => store.history(None, Millis(0), usize::MAX)?,
            None => Vec::new(),
        },
        Err(error) => return Err(error.into()),
    };
    Ok(entries.into_iter().find(|entry| entry.number == number))
}

fn from_store(args: &Args, settings: &Settings) -> anyhow::Result<HistoryReport> {
    let store = crate::store::ReadStore::open_if_there(settings.store())?;
    // Without a store nothing has happened on this machine.
    let (sets, entries) = match (store, &args.name) {
        (Some(store), Some(name)) => (store.sets()?, store.history_named(name, args.since, args.limit)?),
        (Some(store), None) => (store.sets()?, store.history(None, args.since, args.limit)?),
        (None, _) => (Vec::new(), Vec::new()),
    };
    if let (Some(name), true) = (&args.name, entries.is_empty()) {
        let known = sets.iter().any(|desc| desc.name == *name);
        anyhow::ensure!(known, "there is no set “{name}”\n  next: see the known ones: remap-guardian status");
    }
    Ok(HistoryReport { entries })
}

/// One flat object: number, at, set, name, kind and what belongs to the kind.
pub(super) fn line_of_json(entry: &Entry) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(entry)?;
    if let Some(what) = value.as_object_mut().and_then(|object| object.remove("what")) {
        if let (Some(object), serde_json::Value::Object(what)) = (value.as_object_mut(), what) {
            object.extend(what);
        }
    }
    serde_json::to_string(&value)
}

/// Prints an entry as `history` does.
pub(super) fn show(entry: &Entry, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{:>5}  {}  {:<12} {}", entry.number, time(entry.at), entry.name, entry.what.sentence())?;
    for line in details(&entry.what) {
        writeln!(out, "{:>5}  {:19}  {:<12}   {line}", "", "", "")?;
    }
    Ok(())
}

/// Why, and with what evidence.
fn details(what: &What) -> Vec<String> {
    let mut lines = Vec::new();
    let list = |sectors: &[Sector]| {
        let shown: Vec<String> = sectors.iter().take(16).map(Sector::to_string).collect();
        let more = if sectors.len() > 16 { ", …" } else { "" };
        format!("{}{more}", shown.join(", "))
    };
    match what {
        What::Adopted { mended, .. } => lines.extend(mended.iter().map(|line| format!("mended: {line}"))),
        What::Remapped { lost, decision, evidence, .. } | What::Relocated { lost, decision, evidence, .. } => {
            lines.push(format!("why: {} ({})", decision.reason, decision.rule));
            if !lost.is_empty() {
                lines.push(format!("lost until written again: {}", list(lost)));
            }
            lines.extend(evidence.iter().map(|line| format!("evidence: {line}")));
        }
        What::Unremapped { decision, .. } | What::StaysRemapped { decision, .. } | What::Trend { decision, .. } => {
            lines.push(format!("why: {} ({})", decision.reason, decision.rule));
        }
        What::NotRemapped { decision, evidence, .. } => {
            lines.push(format!("why: {} ({})", decision.reason, decision.rule));
            lines.extend(evidence.iter().map(|line| format!("evidence: {line}")));
        }
        What::Error { unreadable, meaning, evidence, .. } => {
            if !unreadable.is_empty() {
                lines.push(format!("unreadable: {}", list(unreadable)));
            }
            lines.push(format!("meaning: {meaning}"));
            lines.extend(evidence.iter().map(|line| format!("evidence: {line}")));
        }
        What::Pruned { first, last, .. } => lines.push(format!("they were from {} to {}", time(first.at), time(last.at))),
        _ => {}
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_what_people_type() {
        for good in ["2026-05-01", "2026-05-01T12:00:00", "2026-05-01T12:00:00Z", "2026-05-01 12:00"] {
            assert!(parse_since(good).is_ok(), "{good}");
        }
        for bad in ["", "yesterday", "2026-13-01"] {
            assert!(parse_since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_lines_are_flat() {
        let entry = Entry {
            number: 3,
            at: Millis(5),
            set: crate::model::SetId(uuid::Uuid::nil()),
            name: SetName::new("data").unwrap(),
            what: What::Restored { remaps: 2 },
        };
        let value: serde_json::Value = serde_json::from_str(&line_of_json(&entry).unwrap()).unwrap();
        assert_eq!(
            (value["kind"].as_str(), value["remaps"].as_u64(), value["name"].as_str()),
            (Some("restored"), Some(2), Some("data"))
        );
    }
}
