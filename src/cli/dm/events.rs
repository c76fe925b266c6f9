//! `remap-guardian dm events`.

use super::print_json;
use crate::dm::Mapper;
use crate::dm::events::{Change, Watch, What, Woken};
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `dm events`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --count and --timeout it goes on until it is interrupted.

Exit status: 2 if --timeout ended it before --count was reached.

Examples:
  remap-guardian dm events
  remap-guardian dm events pool --count 1 --timeout 60
  remap-guardian dm events --json | jq -r 'select(.what == \"event\") | .name'")]
pub struct Events {
    /// Only these devices
    devices: Vec<String>,
    /// End after so many
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
}

impl Events {
    pub(super) fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mapper = Mapper::new()?;
        let mut wanted = Vec::new();
        for device in &self.devices {
            wanted.push(mapper.info(&mapper.find(device)?)?.devno());
        }
        let deadline = self.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        let mut watch = Watch::new()?;
        let mut told = 0;
        loop {
            let changes = match watch.wait(deadline, std::io::stdout())? {
                Woken::Changes(changes) => changes,
                Woken::Late if self.count.is_some() => return Ok(ExitCode::from(2)),
                Woken::Late | Woken::Unread => return Ok(ExitCode::SUCCESS),
            };
            for change in changes {
                // By number: a device that was renamed is still the one that was asked for.
                if !wanted.is_empty() && !wanted.contains(&(change.major, change.minor)) {
                    continue;
                }
                if json {
                    print_json(&change)?;
                } else {
                    writeln!(std::io::stdout().lock(), "{}", sentence(&change))?;
                }
                std::io::stdout().lock().flush()?;
                told += 1;
                if self.count.is_some_and(|count| told >= count) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
}

fn sentence(change: &Change) -> String {
    let Change { name, major, minor, what } = change;
    let what = match what {
        What::Event { from, to } => format!("event {to} (was {from})"),
        What::Created => "is new".into(),
        What::Removed => "has gone".into(),
        What::Renamed { from } => format!("was {from} before"),
    };
    format!("{name} ({major}:{minor}): {what}")
}
