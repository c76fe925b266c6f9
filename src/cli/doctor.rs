//! `remap-guardian doctor`.

use crate::config::Settings;
use crate::control::{InForce, Request, SetReport, StatusReport, client};
use crate::model::{Action, ScrubState, Sectors};
use crate::policy::{Policies, PolicyError};
use crate::sources::patience::{self, Patience, Recovery};
use crate::sources::tool::run;
use crate::sources::tracepoint;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The kernel is given this much more time than a drive takes, ms: a command may wait behind another one.
const MARGIN_MS: u64 = 5_000;
/// A drive that tries as long as it likes has been seen to try for so long, ms.
const LONGEST_MS: u64 = 180_000;
/// A device that was not read for so long is to be scrubbed, ms.
const SCRUB_AGE_MS: u64 = 45 * 24 * 3_600_000;
/// How long a question to systemd may take.
const SYSTEMD: Duration = Duration::from_secs(10);

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It changes nothing. Exit status: 0 if nothing is wrong, 2 if something is, 1 on error.

Examples:
  remap-guardian doctor
  remap-guardian doctor --json | jq 'select(.level == \"wrong\")'")]
pub struct Args {}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Well,
    /// Could be better.
    Advice,
    /// A bad sector may go without a cure.
    Wrong,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    about: String,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn well(about: &str, says: impl Into<String>) -> Finding {
    Finding { level: Level::Well, about: about.into(), says: says.into(), next: None }
}

fn advice(about: &str, says: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { level: Level::Advice, about: about.into(), says: says.into(), next: Some(next.into()) }
}

fn wrong(about: &str, says: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { level: Level::Wrong, ..advice(about, says, next) }
}

/// Looks at the machine, the daemon and every set.
pub fn main(_: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let tells = told_by(tracepoint::is_there());
    let loaded = Policies::load(&settings.policy, &settings.policy_dirs);
    let mut all = vec![module(Path::new("/sys/module/dm_remap_v4_real")), tells, smartctl(), policies(&loaded)];
    match client::call::<StatusReport>(&settings.socket(), &Request::Status { name: None }) {
        Ok(report) => {
            all.push(well("daemon", format!("version {} answers", report.daemon)));
            all.push(at_boot());
            for set in &report.sets {
                all.extend(of_set(set, settings.hold_ms));
                let followed = loaded.as_ref().ok().zip(set.policy.as_ref());
                all.extend(followed.and_then(|(policies, in_force)| of_policy(set, in_force, policies)));
            }
        }
        Err(error) => {
            let text = error.to_string();
            let (says, next) = text.split_once("\n  next: ").unwrap_or((&text, "journalctl -u remap-guardian"));
            all.push(wrong("daemon", says, next));
        }
    }
    let mut out = std::io::stdout().lock();
    for finding in &all {
        if json {
            writeln!(out, "{}", serde_json::to_string(finding)?)?;
        } else {
            show(finding, &mut out)?;
        }
    }
    let is_wrong = all.iter().any(|finding| finding.level == Level::Wrong);
    Ok(if is_wrong { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn show(finding: &Finding, out: &mut impl Write) -> std::io::Result<()> {
    let level = match finding.level {
        Level::Well => "well",
        Level::Advice => "advice",
        Level::Wrong => "WRONG",
    };
    writeln!(out, "{level:<8}{:<12}{}", finding.about, finding.says)?;
    finding.next.iter().try_for_each(|next| writeln!(out, "{:20}next: {next}", ""))
}

fn module(loaded: &Path) -> Finding {
    if !loaded.exists() {
        return wrong(
            "kernel",
            "the module dm_remap_v4_real is not loaded",
            "modprobe dm_remap_v4_real; if there is none: make install",
        );
    }
    well("kernel", "the module dm_remap_v4_real is loaded")
}

/// How the daemon hears what the kernel says of disks; it needs nothing of this for a cure.
fn told_by(tracepoint: bool) -> Finding {
    if tracepoint {
        return well("evidence", "the kernel tells of every failed request to a disk, by its tracepoint block_rq_error");
    }
    advice(
        "evidence",
        "the kernel tells of failed requests to disks by its log only, where it leaves out what comes too fast",
        "Linux 5.18 or newer; mount -t tracefs tracefs /sys/kernel/tracing && systemctl restart remap-guardian",
    )
}

fn smartctl() -> Finding {
    match run(Command::new("smartctl").arg("--version"), SYSTEMD) {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            well("smartctl", text.lines().next().unwrap_or_default().split(" [").next().unwrap_or_default())
        }
        Ok(output) => advice("smartctl", format!("does not work: {}", output.status), "smartctl --version"),
        Err(why) => advice("smartctl", format!("{why}: nothing is known of the disks' own view"), "apt install smartmontools"),
    }
}

fn policies(loaded: &Result<Policies, PolicyError>) -> Finding {
    match loaded {
        Ok(policies) => well("policies", format!("all can be used; the default is “{}”", policies.default().policy.name)),
        Err(error) => wrong("policies", error.to_string(), "remap-guardian policy check"),
    }
}

fn at_boot() -> Finding {
    let asked = run(Command::new("systemctl").args(["is-enabled", "remap-guardian.service"]), SYSTEMD);
    let state = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    match state.as_str() {
        "enabled" => well("boot", "the daemon starts at boot"),
        _ => wrong("boot", "the daemon does not start at boot: the devices would be missing", "systemctl enable remap-guardian"),
    }
}

fn of_set(set: &SetReport, hold_ms: u64) -> Vec<Finding> {
    let name = set.name.to_string();
    let Some(status) = &set.status else {
        return vec![wrong(&name, format!("is not open: {}", set.state), format!("remap-guardian status {name}"))];
    };
    let (used, capacity) =
        status.spares.iter().fold((0, 0), |(used, all), spare| (used + spare.in_use.0, all + spare.capacity.0));
    let space = format!("{} of {} of spare space are used", Sectors(used).human(), Sectors(capacity).human());
    let mut all = vec![match used * 100 / capacity.max(1) {
        90.. => wrong(&name, space, "replace the main disk soon"),
        70.. => advice(&name, space, "plan to replace the main disk"),
        _ => well(&name, space),
    }];
    if status.storm > 0 {
        let says = format!("{} errors that say nothing about the medium: nothing moves to a spare meanwhile", status.storm);
        all.push(wrong(&name, says, "look at cables, power and controller"));
    }
    let timer = format!("systemctl enable --now remap-guardian-scrub@{name}.timer");
    let now = jiff::Timestamp::now().as_millisecond().max(0) as u64;
    all.push(match &set.scrub {
        Some(scrub) if scrub.bad_blocks > 0 => {
            advice(&name, super::scrub::words(scrub), format!("remap-guardian history {name}"))
        }
        Some(scrub) if scrub.state == ScrubState::Stopped => {
            advice(&name, super::scrub::words(scrub), format!("remap-guardian scrub {name}"))
        }
        Some(scrub) if now.saturating_sub(scrub.began.0) > SCRUB_AGE_MS => {
            advice(&name, format!("{}: that is long ago", super::scrub::words(scrub)), timer)
        }
        Some(scrub) => well(&name, super::scrub::words(scrub)),
        None => advice(&name, "has never been read whole: bad sectors that nobody met are not known", timer),
    });
    let mut disks = set.disks.clone();
    disks.dedup();
    for disk in disks {
        match patience::of(&disk) {
            Ok(Some(patience)) => all.push(of_patience(&disk, &patience, hold_ms)),
            Ok(None) => {}
            Err(why) => all.push(advice(&disk, why, format!("smartctl -x /dev/{disk}"))),
        }
    }
    all
}

/// A set whose policy only watches.
fn of_policy(set: &SetReport, in_force: &InForce, policies: &Policies) -> Option<Finding> {
    let policy = &policies.get(&in_force.name)?.policy;
    let says = format!("its policy “{}” moves nothing when a write fails: {}", in_force.name, in_force.why);
    let next = format!("remap-guardian policy show --set {}", set.name);
    (policy.write_error.action == Action::Observe).then(|| advice(set.name.as_str(), says, next))
}

/// Whether a drive gives up a sector before the kernel gives up the drive, and before a held write gets its error.
fn of_patience(disk: &str, patience: &Patience, hold_ms: u64) -> Finding {
    let raise = |ms: u64| format!("echo {} > /sys/block/{disk}/device/timeout", ms.div_ceil(1000));
    let too_short = |needed: u64| patience.kernel_ms.filter(|kernel| *kernel < needed);
    match patience.drive {
        Recovery::Bounded { read_ms, write_ms } => {
            let (slowest, words) =
                (read_ms.max(write_ms), format!("gives up a bad sector after {read_ms} ms, written {write_ms} ms"));
            if let Some(kernel) = too_short(slowest + MARGIN_MS) {
                return wrong(
                    disk,
                    format!("{words}; the kernel gives up the drive after {kernel} ms, and its other I/O with it"),
                    raise(slowest + MARGIN_MS),
                );
            }
            if write_ms > hold_ms {
                return advice(
                    disk,
                    format!("{words}: longer than a write waits for its cure (hold_ms = {hold_ms})"),
                    format!("smartctl -l scterc,70,70 /dev/{disk}"),
                );
            }
            well(disk, words)
        }
        Recovery::Unbounded => {
            let next = format!("smartctl -l scterc,70,70 /dev/{disk}   (at each boot: drives forget it)");
            let words = "tries a bad sector for as long as it likes";
            match too_short(LONGEST_MS) {
                Some(kernel) => wrong(
                    disk,
                    format!("{words}; the kernel gives up the drive after {kernel} ms: then that says nothing about the sector"),
                    next,
                ),
                None => advice(disk, words, next),
            }
        }
        Recovery::Unknown => match too_short(LONGEST_MS) {
            Some(kernel) => advice(
                disk,
                format!("does not tell how long it tries a bad sector; the kernel gives up the drive after {kernel} ms"),
                raise(LONGEST_MS),
            ),
            None => well(disk, "does not tell how long it tries a bad sector; the kernel waits long enough"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_has_to_give_up_first() {
        let level = |drive, kernel_ms| of_patience("sda", &Patience { drive, kernel_ms }, 10_000).level;
        let bounded = |read_ms, write_ms| Recovery::Bounded { read_ms, write_ms };
        assert_eq!(level(bounded(7_000, 7_000), Some(30_000)), Level::Well);
        assert_eq!(level(bounded(7_000, 7_000), None), Level::Well);
        assert_eq!(level(bounded(26_000, 7_000), Some(30_000)), Level::Wrong);
        assert_eq!(level(bounded(7_000, 12_000), Some(30_000)), Level::Advice);
        assert_eq!(level(Recovery::Unbounded, Some(30_000)), Level::Wrong);
        assert_eq!(level(Recovery::Unbounded, Some(180_000)), Level::Advice);
        assert_eq!(level(Recovery::Unknown, Some(30_000)), Level::Advice);
        assert_eq!(level(Recovery::Unknown, Some(180_000)), Level::Well);
    }

    #[test]
    fn every_finding_but_a_good_one_says_what_to_do() {
        let finding = of_patience("sda", &Patience { drive: Recovery::Unknown, kernel_ms: Some(30_000) }, 10_000);
        assert_eq!(finding.next.as_deref(), Some("echo 180 > /sys/block/sda/device/timeout"));
        let mut shown = Vec::new();
        show(&finding, &mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        assert!(
            shown.starts_with("advice  sda         does not tell") && shown.contains("\n                    next: echo"),
            "{shown}"
        );
        assert_eq!(module(Path::new("/absent")).level, Level::Wrong);
        assert_eq!((told_by(true).level, told_by(false).level), (Level::Well, Level::Advice));
    }
}
