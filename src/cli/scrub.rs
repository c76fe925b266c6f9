//! `remap-guardian scrub`.

use crate::config::Settings;
use crate::control::{Request, ScrubOrder, ScrubReport, client};
use crate::model::{ScrubProgress, ScrubState, Sectors, SetName};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Options of `scrub`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every sector is read where it is served, on main or on a spare: at most as fast as the policy's
scrub.mib_per_second, and slower while applications use the device. The daemon does it; it goes on
when this command is interrupted, after a restart and after a reboot. What it finds is in the history.

Exit status: 0 if everything reads, 2 if not, 1 on error.

Examples:
  remap-guardian scrub data
  remap-guardian scrub data --background
  remap-guardian scrub data --stop
  systemctl enable --now remap-guardian-scrub@data.timer")]
pub struct Args {
    /// The set
    name: SetName,
    /// Do not wait for its end
    #[arg(long, conflicts_with_all = ["stop", "look"])]
    background: bool,
    /// Begin at the first sector, also if one was stopped half way
    #[arg(long, conflicts_with_all = ["stop", "look"])]
    anew: bool,
    /// Stop the one that is under way
    #[arg(long, conflicts_with = "look")]
    stop: bool,
    /// Only show how far it is
    #[arg(long)]
    look: bool,
}

/// Has the daemon scrub a set, and shows how far it is.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let order = match args {
        Args { stop: true, .. } => ScrubOrder::Stop,
        Args { look: true, .. } => ScrubOrder::Look,
        Args { anew: true, .. } => ScrubOrder::Anew,
        _ => ScrubOrder::Begin,
    };
    let ask = |order| -> Result<Option<ScrubProgress>, client::CallError> {
        let report: ScrubReport = client::call(&settings.socket(), &Request::Scrub { name: args.name.clone(), order })?;
        Ok(report.scrub)
    };
    let mut scrub = ask(order)?;
    if matches!(order, ScrubOrder::Begin | ScrubOrder::Anew) && !args.background {
        let bar = bar(json);
        while let Some(progress) = scrub.as_ref().filter(|progress| progress.is_under_way()) {
            bar.set_length(progress.total.bytes());
            bar.set_position(progress.next.0.saturating_mul(512));
            bar.set_message(found(progress));
            std::thread::sleep(PAUSE);
            scrub = ask(ScrubOrder::Look)?;
        }
        bar.finish_and_clear();
    }
    let mut out = std::io::stdout().lock();
    match &scrub {
        _ if json => writeln!(out, "{}", serde_json::to_string(&ScrubReport { scrub: scrub.clone() })?)?,
        Some(progress) => writeln!(out, "“{}”: {}", args.name, words(progress))?,
        None => writeln!(out, "“{}” has not been scrubbed yet", args.name)?,
    }
    let bad = scrub.is_some_and(|progress| progress.bad_blocks > 0);
    Ok(if bad { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// A bar on a terminal, nothing elsewhere.
fn bar(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {percent}%  {bytes} of {total_bytes}, {msg}, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn found(progress: &ScrubProgress) -> String {
    match (&progress.state, progress.bad_blocks) {
        (ScrubState::Waiting(why), _) => format!("waiting: {why}"),
        (_, 0) => "everything reads so far".into(),
        (_, 1) => "1 block does NOT read".into(),
        (_, bad) => format!("{bad} blocks do NOT read"),
    }
}

/// How far it is, in one line.
pub fn words(progress: &ScrubProgress) -> String {
    let (read, total) = (Sectors(progress.next.0).human(), progress.total.human());
    let found = match progress.bad_blocks {
        0 => "everything reads".to_string(),
        1 => "1 block does NOT read (remap-guardian history)".into(),
        bad => format!("{bad} blocks do NOT read (remap-guardian history)"),
    };
    let since = super::text::time(progress.began);
    match &progress.state {
        ScrubState::Running => format!("{read} of {total} read since {since}: {found} so far"),
        ScrubState::Waiting(why) => format!("{read} of {total} read since {since}: {found} so far; waiting: {why}"),
        ScrubState::Stopped => format!("stopped after {read} of {total}, begun {since}: {found} so far"),
        ScrubState::Done => format!("all {total} read, begun {since}: {found}"),
    }
}
