//! `remap-guardian dm events`.

use super::print_json;
use crate::dm::Mapper;
use crate::dm::backing::Devno;
use crate::dm::events::{Change, Watch, What, Woken};
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Options of `dm events`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --count and --timeout it goes on until it is interrupted, or until the last of the devices named has gone.

Exit status: 2 if it ended before --count was reached.

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
        let deadline = self.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
        let mut watch = Watch::new()?;
        let mut wanted = Wanted::All;
        for device in &self.devices {
            wanted.add(mapper.info(&mapper.find(device)?)?.devno());
        }
        let mut told = 0;
        loop {
            let changes = match watch.wait(deadline, std::io::stdout())? {
                Woken::Changes(changes) => changes,
                Woken::Late if self.count.is_some() => return Ok(ExitCode::from(2)),
                Woken::Late | Woken::Unread => return Ok(ExitCode::SUCCESS),
            };
            for change in changes {
                if !wanted.takes(&change) {
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
            if wanted.is_nothing() {
                return Ok(if self.count.is_some() { ExitCode::from(2) } else { ExitCode::SUCCESS });
            }
        }
    }
}

/// Whose events are told.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// By number: a device that was renamed is still the one that was asked for.
    These(Vec<Devno>),
}

impl Wanted {
    fn add(&mut self, devno: Devno) {
        match self {
            Wanted::All => *self = Wanted::These(vec![devno]),
            Wanted::These(these) => these.push(devno),
        }
    }

    /// Whether to tell it. A number that is free again can become a stranger's.
    fn takes(&mut self, change: &Change) -> bool {
        let Wanted::These(these) = self else { return true };
        let devno = change.devno();
        let takes = these.contains(&devno);
        if change.what == What::Removed {
            these.retain(|of| *of != devno);
        }
        takes
    }

    fn is_nothing(&self) -> bool {
        *self == Wanted::These(Vec::new())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dm::Name;

    #[test]
    fn a_stranger_with_a_number_that_was_free_again_is_not_told() {
        let change = |minor, what| Change { name: Name::new("x").unwrap(), major: 253, minor, what };
        let mut wanted = Wanted::All;
        assert!(wanted.takes(&change(7, What::Removed)) && !wanted.is_nothing());
        wanted.add((253, 1));
        assert!(!wanted.takes(&change(0, What::Created)));
        assert!(wanted.takes(&change(1, What::Removed)), "that it goes is told");
        assert!(!wanted.takes(&change(1, What::Created)) && wanted.is_nothing());
    }
}
