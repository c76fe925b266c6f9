//! `remap-guardian status`.

use super::text::table;
use crate::config::Settings;
use crate::control::client::CallError;
use crate::control::{Request, SetReport, StatusReport, client};
use crate::model::{Sectors, SetId, SetName};
use std::io::Write;
use std::process::ExitCode;

/// Options of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if every set shown is open and nothing is stuck, 2 if not, 1 on error.

Examples:
  remap-guardian status
  remap-guardian status data --json")]
pub struct Args {
    /// Only this set, in detail
    name: Option<SetName>,
}

/// Shows the sets; without a daemon, what the store knows.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let report = match client::call(&settings.socket(), &Request::Status { name: args.name.clone() }) {
        Ok(report) => report,
        Err(CallError::NotRunning(_)) => from_store(args, settings)?,
        Err(error) => return Err(error.into()),
    };
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        show(&report, args.name.is_some(), &mut out)?;
    }
    let troubled = report.daemon.is_empty() || report.sets.iter().any(is_troubled);
    Ok(if troubled { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn is_troubled(set: &SetReport) -> bool {
    set.state != "open"
        || set.status.as_ref().is_some_and(|status| status.storm > 0 || status.cases.iter().any(|case| case.trouble.is_some()))
}

fn from_store(args: &Args, settings: &Settings) -> anyhow::Result<StatusReport> {
    let store = crate::store::ReadStore::open_if_there(settings.store())?;
    let known = store
        .map(|store| store.sets())
        .transpose()?
        .unwrap_or_default()
        .into_iter()
        .filter(|desc| args.name.as_ref().is_none_or(|name| *name == desc.name));
    let sets: Vec<SetReport> = known
        .map(|desc| SetReport {
            name: desc.name.clone(),
            id: desc.id.to_string(),
            state: match crate::actuate::degraded::find(desc.id) {
                Ok(Some(degraded)) => degraded.to_string(),
                _ if is_mapped(desc.id) => "open, but remap-guardian is not running".into(),
                _ => "remap-guardian is not running".into(),
            },
            disks: Vec::new(),
            main: crate::runtime::words(&desc.main),
            spares: desc.spares.iter().map(crate::runtime::words).collect(),
            status: None,
            policy: None,
            scrub: None,
            target: None,
            usage: Vec::new(),
        })
        .collect();
    if let (Some(name), true) = (&args.name, sets.is_empty()) {
        anyhow::bail!("there is no set “{name}”\n  next: see the known ones: remap-guardian status");
    }
    Ok(StatusReport { daemon: String::new(), policy: String::new(), sets })
}

fn is_mapped(set: SetId) -> bool {
    crate::actuate::activate::find_active(set).is_ok_and(|active| active.is_some_and(|active| active.has_table))
}

fn show(report: &StatusReport, detail: bool, out: &mut impl Write) -> std::io::Result<()> {
    if report.daemon.is_empty() {
        writeln!(out, "remap-guardian is NOT running: bad sectors are not cured (systemctl start remap-guardian)\n")?;
    }
    if report.sets.is_empty() {
        return writeln!(out, "no sets yet; make one: remap-guardian create NAME --main DEV --spare DEV");
    }
    let mut rows = table(&["name", "state", "size", "remaps", "spare used", "cured", "given up", "read errors"]);
    for set in &report.sets {
        let mut row = vec![set.name.to_string(), short_state(set)];
        match &set.status {
            Some(status) => row.extend([
                status.sectors.human(),
                status.remaps.len().to_string(),
                used(set),
                status.counters.cured.to_string(),
                status.counters.given_up.to_string(),
                status.counters.read_errors.to_string(),
            ]),
            None => row.extend(std::iter::repeat_n("-".to_string(), 6)),
        }
        rows.add_row(row);
    }
    writeln!(out, "{}", rows.trim_fmt())?;
    for set in &report.sets {
        if detail || is_troubled(set) {
            writeln!(out)?;
            show_one(set, out)?;
        }
    }
    Ok(())
}

fn short_state(set: &SetReport) -> String {
    match set.state.as_str() {
        "open" => "open".into(),
        open if open.starts_with("open, but") => "open, not cured".into(),
        degraded if degraded.starts_with("DEGRADED") => "DEGRADED".into(),
        _ => "NOT OPEN".into(),
    }
}

fn used(set: &SetReport) -> String {
    let spares = set.status.iter().flat_map(|status| &status.spares);
    let (used, capacity) = spares.fold((0, 0), |(used, all), spare| (used + spare.in_use.0, all + spare.capacity.0));
    format!("{} of {}", Sectors(used).human(), Sectors(capacity).human())
}

fn show_one(set: &SetReport, out: &mut impl Write) -> std::io::Result<()> {
    let mut rows = table(&[]);
    rows.add_row([format!("{}:", set.name), set.state.clone()]);
    rows.add_row(["  main".to_string(), set.main.clone()]);
    for (index, spare) in set.spares.iter().enumerate() {
        rows.add_row([format!("  spare {index}"), spare.clone()]);
    }
    for (index, usage) in set.usage.iter().enumerate() {
        let words = format!(
            "{} free, {} ready, {} in use, {} bad",
            usage.free.human(),
            usage.reserved.human(),
            usage.in_use.human(),
            usage.bad.human()
        );
        let forecast = set.status.as_ref().and_then(|status| status.spares.get(index)?.forecast);
        let forecast = forecast.map(|forecast| format!("; {forecast}")).unwrap_or_default();
        rows.add_row([format!("  space {index}"), format!("{words}{forecast}")]);
    }
    if let Some(target) = &set.target {
        let words = format!("{}, {} remaps, {} errors, {} held", target.state, target.remaps, target.errors, target.held);
        rows.add_row(["  kernel".to_string(), words]);
    }
    if let Some(scrub) = &set.scrub {
        rows.add_row(["  scrub".to_string(), super::scrub::words(scrub)]);
    }
    if let Some(policy) = &set.policy {
        rows.add_row(["  policy".to_string(), format!("{}: {}", policy.name, policy.why)]);
    }
    if let Some(status) = &set.status {
        if status.storm > 0 {
            let words = format!("{} errors that say nothing about the medium: nothing moves to a spare meanwhile", status.storm);
            rows.add_row(["  STORM".to_string(), words]);
        }
        for (_, line) in &status.smart {
            let (what, reading) = line.split_once(": ").unwrap_or(("SMART", line));
            rows.add_row([format!("  {what}"), reading.to_string()]);
        }
        for case in &status.cases {
            let trouble = case.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default();
            rows.add_row([format!("  cure {}", case.id), format!("sectors {}, {}{trouble}", case.extent, case.stage)]);
        }
        for remap in status.remaps.iter().take(20) {
            let marks = if remap.flags.marked { ", may hold lost sectors until rewritten" } else { "" };
            let words = format!("main {} → spare {} at {}{marks}", remap.main, remap.spare, remap.at);
            rows.add_row(["  remap".to_string(), words]);
        }
        if status.remaps.len() > 20 {
            rows.add_row(["  remap".to_string(), format!("… and {} more (--json lists all)", status.remaps.len() - 20)]);
        }
    }
    writeln!(out, "{}", rows.trim_fmt())
}
