//! `remap-guardian record`.

use crate::config::Settings;
use crate::control::{RecordOrder, RecordReport, Request, client};
use anyhow::Context;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Between two questions when there was nothing new.
const PAUSE: Duration = Duration::from_millis(250);

/// Options of `record`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Everything that the daemon's engine is told from now on (errors, kernel log lines, how cures went) is written to a
trace, after what it knows already, until this is interrupted or the trace is full. What was written is a trace at
any time. It holds serial numbers of disks, but neither content nor keys. “simulate” shows what another policy
would have done about it.

Examples:
  remap-guardian record --output trace.jsonl
  remap-guardian record --output trace.jsonl --most 16
  remap-guardian simulate --policy aggressive --trace trace.jsonl")]
pub struct Args {
    /// The file to write; it must not be there yet
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Its size at most, MiB, up to the 512 that `simulate` reads
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=512))]
    most: u64,
}

/// Writes what the daemon sees.
pub fn main(args: &Args, settings: &Settings) -> anyhow::Result<ExitCode> {
    let name = args.output.display();
    let ask = |order| client::call::<RecordReport>(&settings.socket(), &Request::Record { order });
    let mut report = ask(RecordOrder::Begin)?;
    // It tells serial numbers.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.output);
    if file.is_err() {
        drop(ask(RecordOrder::End(report.recording)));
    }
    let mut file = file.with_context(|| {
        format!("{name} cannot be made\n  next: give another --output, in a directory that is there and on a disk with room")
    })?;
    let (number, mut written) = (report.recording, 0);
    eprintln!("recording to {name}; interrupt this to end it");
    loop {
        let page: String = report.lines.iter().map(|line| format!("{line}\n")).collect();
        if written + page.len() as u64 > args.most << 20 {
            eprintln!("{name} is full after {written} bytes (--most {}): the recording has ended", args.most);
            // It ends by itself, too.
            drop(ask(RecordOrder::End(number)));
            return Ok(ExitCode::SUCCESS);
        }
        file.write_all(page.as_bytes()).with_context(|| format!("writing {name}"))?;
        written += page.len() as u64;
        if report.lost > 0 {
            anyhow::bail!(
                "{} lines were lost, because the daemon saw more than was read: {name} ends with that gap\n  next: record again, \
                 on a disk that is not the failing one",
                report.lost
            );
        }
        if report.lines.len() < 2 {
            std::thread::sleep(PAUSE);
        }
        report =
            ask(RecordOrder::More(number)).with_context(|| format!("the recording has ended; {name} is whole until then"))?;
    }
}
