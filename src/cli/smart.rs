//! `remap-guardian smart`.

use super::text::{table, time};
use crate::config::Settings;
use crate::control::{DiskReport, Request, SmartReport, client};
use crate::model::{Counter, Millis, Sample, SetName};
use std::io::Write;
use std::process::ExitCode;

const DAY_MS: u64 = 24 * 3_600_000;

/// How far back the columns look.
const AGES: [(&str, u64); 4] =
    [("a day ago", DAY_MS), ("a week", 7 * DAY_MS), ("a month", 30 * DAY_MS), ("a year", 365 * DAY_MS)];

/// Places shown of one disk.
const SHOWN: usize = 8;

/// Options of `smart`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The daemon reads the disks of open sets every smart_minutes. Of what they count it keeps a sample of each hour for a
week and of each day for two years. What a disk calls bad is tried, and what does not read is in the history.
A disk begins anew with its counts of ICRC, of R_ERR and of FISes with CRC errors when it loses power.

Examples:
  remap-guardian smart
  remap-guardian smart data --json | jq '.disks[].samples[-1]'")]
pub struct Args {
    /// Only the disks of this set
    name: Option<SetName>,
}

/// Shows what the disks say of themselves.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let report: SmartReport = client::call(&settings.socket(), &Request::Smart { name: args.name.clone() })?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if report.disks.is_empty() {
        writeln!(out, "no set is open")?;
    }
    for (index, disk) in report.disks.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        show(disk, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(disk: &DiskReport, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{}, {} ({}): {}", disk.set, disk.member, disk.disk, disk.reading)?;
    if !disk.calls_bad.is_empty() {
        let shown: Vec<String> =
            disk.calls_bad.iter().take(SHOWN).map(|place| format!("{} ({})", place.lba, place.log)).collect();
        let more = disk.calls_bad.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more (--json lists all)") } else { String::new() };
        writeln!(out, "  it calls bad: LBA {}{more}", shown.join(", "))?;
    }
    for (kind, at) in [("short", disk.tests.short), ("long", disk.tests.long)] {
        if let Some(at) = at {
            writeln!(out, "  last {kind} self-test started: {}", time(at))?;
        }
    }
    let rows = trends(&disk.samples);
    if rows.is_empty() {
        return Ok(());
    }
    let mut all = table(&["  counter", "now", AGES[0].0, AGES[1].0, AGES[2].0, AGES[3].0]);
    for (counter, counts) in rows {
        let cells = counts.into_iter().map(|count| count.map_or_else(|| "-".to_owned(), |count| count.to_string()));
        all.add_row(std::iter::once(format!("  {}", counter.words())).chain(cells));
    }
    writeln!(out, "{}", all.trim_fmt())
}

/// Each counter now, and at the last sample that is as old as each of the columns; none where no sample is.
fn trends(samples: &[Sample]) -> Vec<(Counter, Vec<Option<u64>>)> {
    let Some(last) = samples.last() else { return Vec::new() };
    let then = |age: u64| {
        let limit = Millis(last.at.0.saturating_sub(age));
        samples.iter().rev().find(|sample| sample.at <= limit)
    };
    let columns: Vec<Option<&Sample>> = std::iter::once(Some(last)).chain(AGES.iter().map(|(_, age)| then(*age))).collect();
    let row = |counter: Counter| columns.iter().map(move |sample| sample.and_then(|sample| sample.counts.get(&counter).copied()));
    last.counts.keys().map(|counter| (*counter, row(*counter).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Named;
    use crate::model::{Member, TestTimes};

    #[test]
    fn a_disk_is_shown_with_what_it_counted_before() {
        let sample = |day: u64, n: u64| Sample { at: Millis(day * DAY_MS), counts: [(Counter::PendingSectors, n)].into() };
        let calls_bad = (0..10).map(|lba| Named { lba, log: "pending defects".into() }).collect();
        let disk = DiskReport {
            set: SetName::new("data").unwrap(),
            member: Member::Main,
            disk: "sda".into(),
            reading: "passed".into(),
            calls_bad,
            tests: TestTimes { short: Some(Millis(DAY_MS)), long: None },
            samples: vec![sample(360, 1), sample(390, 2), sample(398, 3), sample(400, 9)],
        };
        let mut out = Vec::new();
        show(&disk, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("data, main (sda): passed\n  it calls bad: LBA 0 (pending defects), "), "{text}");
        assert!(text.contains("7 (pending defects) and 2 more") && text.contains("last short self-test started: 19"), "{text}");
        assert!(!text.contains("last long"), "{text}");
        let row = text.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row, ["pending", "sectors", "9", "3", "2", "1", "-"], "{text}");
        assert_eq!(trends(&[]), []);
    }
}
