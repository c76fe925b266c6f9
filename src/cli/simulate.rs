//! `remap-guardian simulate`.

use super::text::{table, tame, time};
use crate::config::Settings;
use crate::model::{Action, Millis};
use crate::policy::Policies;
use crate::trace::{self, Compared, Simulated, Told, Trace};
use anyhow::Context;
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of `simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The real engine decides anew about what was recorded; nothing is carried out, and no daemon is needed. How a cure went is
taken from the trace. What nobody has tried then is assumed to go well, and marked by “*”: sectors that did not read
at some time are lost, all others are saved. SPARE counts blocks.

Examples:
  remap-guardian simulate --policy aggressive --trace trace.jsonl
  remap-guardian simulate --policy observe --trace trace.jsonl --json")]
pub struct Args {
    /// The policy that decides; “remap-guardian policy list” shows them
    #[arg(long, value_name = "NAME")]
    policy: String,
    /// What “remap-guardian record” wrote
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
}

/// Shows what a policy would have done.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let policies = Policies::load(&settings.policy, &settings.policy_dirs).context("policy")?;
    let loaded = policies.get(&args.policy).with_context(|| {
        format!("there is no policy “{}”\n  next: see the known ones: remap-guardian policy list", args.policy)
    })?;
    let name = args.trace.display();
    let file = File::open(&args.trace)
        .with_context(|| format!("{name} cannot be opened\n  next: write one: remap-guardian record --output {name}"))?;
    let trace = trace::read(BufReader::new(file)).with_context(|| name.to_string())?;
    let simulated = trace::simulate(&trace, &loaded.policy);
    let mut out = std::io::stdout().lock();
    if json {
        show_json(&trace, &simulated, &args.policy, &mut out)?;
    } else {
        show(&trace, &simulated, &args.policy, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Blocks spent then and now.
fn spent(cases: &[Compared]) -> (u64, u64) {
    let sum =
        |side: fn(&Compared) -> &Option<Told>| cases.iter().filter_map(|case| side(case).as_ref()).map(|told| told.spent).sum();
    (sum(|case| &case.then), sum(|case| &case.now))
}

fn show_json(trace: &Trace, simulated: &Simulated, policy: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let (then, now) = spent(&simulated.cases);
    let shown = json!({
        "policy": policy,
        "recorded_by": trace.program,
        "began": trace.time,
        "began_uptime": trace.began,
        "cut": trace.cut,
        "not_compared": simulated.under_way,
        "spent": {"then": then, "now": now},
        "cases": simulated.cases,
    });
    Ok(writeln!(out, "{shown}")?)
}

fn show(trace: &Trace, simulated: &Simulated, policy: &str, out: &mut impl Write) -> anyhow::Result<()> {
    if trace.cut {
        writeln!(out, "the trace was cut off within its last line, which is left out")?;
    }
    if simulated.under_way > 0 {
        writeln!(out, "{} cures were under way when it began: what came of them is not compared", simulated.under_way)?;
    }
    if simulated.cases.is_empty() {
        return Ok(writeln!(out, "nothing was decided, then or under “{policy}”")?);
    }
    let mut rows = table(&["when", "set", "sectors", "fault", "then", policy, "spare then", "spare now"]);
    for case in &simulated.cases {
        let at = case.then.iter().chain(&case.now).map(|told| told.at).min().unwrap_or_default();
        let when = Millis(trace.time.0.saturating_add(at.0.saturating_sub(trace.began.0)));
        rows.add_row([
            time(when),
            case.set.to_string(),
            case.extent.map_or_else(|| "–".into(), |extent| extent.to_string()),
            tame(&case.fault),
            words(&case.then),
            words(&case.now),
            blocks(&case.then),
            blocks(&case.now),
        ]);
    }
    writeln!(out, "{}", rows.trim_fmt())?;
    let (then, now) = spent(&simulated.cases);
    writeln!(out, "\nspare spent: {then} blocks then, {now} under “{policy}”")?;
    if simulated.cases.iter().filter_map(|case| case.now.as_ref()).any(|told| told.assumed) {
        writeln!(out, "* assumed: nobody has tried it then")?;
    }
    Ok(())
}

fn words(told: &Option<Told>) -> String {
    let Some(told) = told else { return "–".into() };
    let lost = if told.lost > 0 { format!(", {} do not read", told.lost) } else { String::new() };
    let done = match (told.action, told.spent, told.rule.as_str()) {
        (Action::Rewrite, 1.., _) => "rewrite",
        (_, 1.., _) => "remap",
        (Action::Observe, 0, "recorded") => "record",
        (Action::Observe, 0, _) => "no change",
        (Action::Unremap, 0, _) => "unremap",
        (Action::Rewrite, 0, _) => "rewrite failed",
        (Action::Remap, 0, _) => "remap failed",
    };
    let rule = if told.rule == "recorded" { String::new() } else { format!(" ({})", tame(&told.rule)) };
    format!("{done}{rule}{lost}{}", if told.assumed { " *" } else { "" })
}

fn blocks(told: &Option<Told>) -> String {
    told.as_ref().map_or_else(|| "–".into(), |told| told.spent.to_string())
}
