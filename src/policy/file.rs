//! A policy as its TOML files say it.

use super::disk::Disk;
use crate::model::{Action, ErrorClass};
use serde::{Deserialize, Serialize};

/// A complete policy, merged from its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name: the file name without `.toml`.
    #[serde(default)]
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Main disks that it is meant for, whatever the default policy is. Any of these suffices.
    #[serde(default, rename = "match")]
    pub matches: Vec<Match>,
    /// What to do with failed writes.
    pub write_error: WriteError,
    /// What to do with blocks that do not read.
    pub read_error: ReadError,
    /// Limits.
    pub spending: Spending,
    /// When errors are the fault of something else than the medium.
    pub storm: Storm,
    /// Spare handling.
    pub spare: Spare,
    /// Looking for bad sectors before an application meets them.
    pub scrub: Scrub,
    /// What drives say of themselves.
    #[serde(default)]
    pub smart: Smart,
}

/// A kind of disk. Every key that is given must fit; texts may hold `*`, `?` and `[…]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// World wide name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// How it is attached: `nvme`, `sata`, `ata`, `sas`, `scsi`, `usb`, `virtio`, `mmc` or `other`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// Whether it has turning platters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
}

/// What a disk's transport can be.
pub const TRANSPORTS: [&str; 9] = ["nvme", "sata", "ata", "sas", "scsi", "usb", "virtio", "mmc", "other"];

/// Failed writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteError {
    /// The cure.
    pub action: Action,
    /// Error classes that may cost a spare; only those that can mean the medium are accepted.
    pub classes: Vec<ErrorClass>,
}

/// Blocks that do not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadError {
    /// The cure. What is moved keeps what still reads; the rest is marked lost.
    pub action: Action,
    /// Whether the read waits for that, as a write does.
    #[serde(default)]
    pub hold: bool,
}

/// Limits on what may move to a spare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spending {
    /// Cure blocks in one hour.
    pub blocks_per_hour: u64,
    /// Cure blocks in 24 hours.
    pub blocks_per_day: u64,
}

/// When errors are the fault of something else than the medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    /// So many errors that say nothing about the medium within a minute stop all spending, at least 1.
    pub errors_per_minute: u64,
}

/// Spare handling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spare {
    /// Cure blocks kept verified and ready, at most 65536.
    pub reserve_blocks: u64,
    /// Percentages of use that raise an alert, each 1 to 100.
    pub alert_percent: Vec<u8>,
}

/// Looking for bad sectors before an application meets them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrub {
    /// How fast it reads at most, MiB a second, 1 to 10000.
    pub mib_per_second: u64,
}

/// What drives say of themselves. A policy written before there was this has what is built in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Smart {
    /// A counter that grows by so much within a week is told; 0: never.
    pub growth_per_week: u64,
    /// A short self-test of each disk is started when the last one was so many days ago, at most 3650; 0: never.
    pub short_test_days: u64,
    /// The same of long ones.
    pub long_test_days: u64,
}

impl Default for Smart {
    fn default() -> Smart {
        Smart { growth_per_week: 16, short_test_days: 0, long_test_days: 0 }
    }
}

/// Says nothing, but refuses keys that a policy does not have: what one file may hold.
///
/// Kept beside [`Policy`] because only a single file knows its lines; the merged whole does not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked")]
pub(super) struct Fragment {
    description: Option<String>,
    #[serde(rename = "match")]
    matches: Option<Vec<Match>>,
    write_error: Option<WriteErrorFragment>,
    read_error: Option<ReadErrorFragment>,
    spending: Option<SpendingFragment>,
    storm: Option<StormFragment>,
    spare: Option<SpareFragment>,
    scrub: Option<ScrubFragment>,
    smart: Option<SmartFragment>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked")]
struct WriteErrorFragment {
    action: Option<Action>,
    classes: Option<Vec<ErrorClass>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked")]
struct ReadErrorFragment {
    action: Option<Action>,
    hold: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked")]
struct SpendingFragment {
    blocks_per_hour: Option<u64>,
    blocks_per_day: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked")]
struct StormFragment {
    errors_per_minute: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked")]
struct SpareFragment {
    reserve_blocks: Option<u64>,
    alert_percent: Option<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked")]
struct ScrubFragment {
    mib_per_second: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is asked")]
struct SmartFragment {
    growth_per_week: Option<u64>,
    short_test_days: Option<u64>,
    long_test_days: Option<u64>,
}

/// A value that its type allows and its meaning does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadValue {
    /// The key, with dots.
    pub(super) key: &'static str,
    /// What is wrong.
    pub(super) why: String,
}

impl Policy {
    /// Checks ranges that types cannot.
    pub(super) fn check(&self) -> Result<(), BadValue> {
        let bad = |key, why| Err(BadValue { key, why });
        if let Some(class) = self.write_error.classes.iter().find(|class| !class.may_be_medium()) {
            return bad("write_error.classes", format!("“{class}” can never cost a spare; use medium, ioerr, target"));
        }
        if !matches!(self.write_error.action, Action::Remap | Action::Observe) {
            return bad("write_error.action", "a failed write can be cured by “remap” only, or observed by “observe”".into());
        }
        if self.read_error.action == Action::Unremap {
            return bad("read_error.action", "use observe, remap or rewrite".into());
        }
        if !(1..=65_536).contains(&self.spare.reserve_blocks) {
            let why = format!("{} is not within 1 to 65536: what is not ready serves no error", self.spare.reserve_blocks);
            return bad("spare.reserve_blocks", why);
        }
        if let Some(percent) = self.spare.alert_percent.iter().find(|&&percent| percent == 0 || percent > 100) {
            return bad("spare.alert_percent", format!("{percent} is not within 1 to 100"));
        }
        if self.storm.errors_per_minute == 0 {
            return bad("storm.errors_per_minute", "0 would be a storm for ever; use a large number for none".into());
        }
        if !(1..=10_000).contains(&self.scrub.mib_per_second) {
            return bad("scrub.mib_per_second", format!("{} is not within 1 to 10000", self.scrub.mib_per_second));
        }
        let Smart { short_test_days, long_test_days, .. } = self.smart;
        for (key, days) in [("smart.short_test_days", short_test_days), ("smart.long_test_days", long_test_days)] {
            if days > 3_650 {
                return bad(key, format!("{days} is more than 3650; 0 is never"));
            }
        }
        for wanted in &self.matches {
            if let Err(why) = wanted.check() {
                return bad("match", why);
            }
        }
        Ok(())
    }

    /// The first of its matches that fits.
    pub fn fits(&self, disk: &Disk) -> Option<&Match> {
        self.matches.iter().find(|wanted| wanted.fits(disk))
    }

    /// The shipped default, for tests of the core.
    #[cfg(test)]
    pub(crate) fn test_balanced() -> Policy {
        let mut policy: Policy = toml::from_str(include_str!("../../policies/balanced.toml")).unwrap();
        policy.name = "balanced".into();
        policy
    }
}

impl Match {
    fn texts<'a>(&'a self, disk: &'a Disk) -> [(&'static str, &'a Option<String>, &'a str); 4] {
        [
            ("serial", &self.serial, &disk.serial),
            ("model", &self.model, &disk.model),
            ("wwn", &self.wwn, &disk.wwn),
            ("transport", &self.transport, &disk.transport),
        ]
    }

    fn check(&self) -> Result<(), String> {
        if *self == Match::default() {
            return Err("an entry without a key would fit every disk; set “policy” in config.toml instead".into());
        }
        for (key, pattern, _) in self.texts(&Disk::default()) {
            if let Some(text) = pattern {
                let pattern = glob::Pattern::new(text).map_err(|error| format!("{key} = “{text}”: {}", error.msg))?;
                if key == "transport" && !TRANSPORTS.iter().any(|known| pattern.matches(known)) {
                    return Err(format!("{key} = “{text}” fits none of {}", TRANSPORTS.join(", ")));
                }
            }
        }
        Ok(())
    }

    fn fits(&self, disk: &Disk) -> bool {
        let text = |pattern: &str, text: &str| glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(text));
        let texts = self.texts(disk).into_iter().all(|(_, pattern, found)| pattern.as_ref().is_none_or(|p| text(p, found)));
        texts && self.rotational.is_none_or(|wanted| disk.rotational == Some(wanted))
    }
}

impl std::fmt::Display for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let none = Disk::default();
        let texts =
            self.texts(&none).into_iter().filter_map(|(key, pattern, _)| Some(format!("{key} = “{}”", pattern.as_ref()?)));
        let all: Vec<String> = texts.chain(self.rotational.map(|is| format!("rotational = {is}"))).collect();
        f.write_str(&all.join(", "))
    }
}
