//! One SMART reading: a tolerant, typed reader of `smartctl --json`.
//!
//! Every field may be missing or of another type than documented; it is then not known. Drives and bridges lie, and so
//! do versions of smartctl.

use super::SmartError;
use super::suspects::{self, Suspect, suspects};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// smartctl's exit status: a set of bits (`man smartctl`, EXIT STATUS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExitBits(pub u8);

impl ExitBits {
    const WORDS: [(u8, &'static str); 8] = [
        (0x01, "the command line was refused"),
        (0x02, "the device could not be opened, or sleeps"),
        (0x04, "a SMART command failed or a checksum was wrong"),
        (0x08, "the drive says that it is failing"),
        (0x10, "prefail attributes are at or below their threshold"),
        (0x20, "attributes were at or below their threshold in the past"),
        (0x40, "the error log has entries"),
        (0x80, "the self-test log has errors"),
    ];

    /// The bits in words.
    pub fn words(self) -> Vec<&'static str> {
        Self::WORDS.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, word)| *word).collect()
    }

    /// The drive says that it is failing.
    pub fn failing(self) -> bool {
        self.0 & 0x08 != 0
    }
}

/// ATA attributes that tell of the medium and the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// 5.
    ReallocatedSectors,
    /// 187.
    ReportedUncorrectable,
    /// 196.
    ReallocationEvents,
    /// 197.
    PendingSectors,
    /// 198.
    OfflineUncorrectable,
    /// 199: the link, not the medium.
    CrcErrors,
}

impl Attribute {
    /// All, by number.
    pub const ALL: [(u64, Attribute); 6] = [
        (5, Attribute::ReallocatedSectors),
        (187, Attribute::ReportedUncorrectable),
        (196, Attribute::ReallocationEvents),
        (197, Attribute::PendingSectors),
        (198, Attribute::OfflineUncorrectable),
        (199, Attribute::CrcErrors),
    ];

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Attribute::ReallocatedSectors => "reallocated sectors",
            Attribute::ReportedUncorrectable => "reported uncorrectable errors",
            Attribute::ReallocationEvents => "reallocation events",
            Attribute::PendingSectors => "pending sectors",
            Attribute::OfflineUncorrectable => "offline uncorrectable sectors",
            Attribute::CrcErrors => "CRC errors of the link",
        }
    }
}

/// NVMe's health log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nvme {
    /// Critical warning bits.
    pub critical_warning: Option<u64>,
    /// Media and data integrity errors.
    pub media_errors: Option<u64>,
    /// Wear, in percent; can exceed 100.
    pub percentage_used: Option<u64>,
    /// Spare blocks left, in percent.
    pub available_spare: Option<u64>,
    /// Entries ever made in the error log.
    pub error_log_entries: Option<u64>,
}

/// SCSI's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scsi {
    /// Grown defects.
    pub grown_defects: Option<u64>,
    /// Uncorrected errors on reading.
    pub read_uncorrected: Option<u64>,
    /// Uncorrected errors on writing.
    pub write_uncorrected: Option<u64>,
}

/// One reading. What is `None` is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmartReading {
    /// Serial number, to tell that it is the same drive.
    pub serial: Option<String>,
    /// The drive's own verdict.
    pub passed: Option<bool>,
    /// Raw values of ATA attributes, by number.
    pub attributes: Vec<(Attribute, u64)>,
    /// NVMe's health log.
    pub nvme: Option<Nvme>,
    /// SCSI's counters.
    pub scsi: Option<Scsi>,
    /// Places that the drive calls bad.
    #[serde(default)]
    pub suspects: Vec<Suspect>,
    /// Degrees Celsius.
    pub temperature: Option<i64>,
    /// Hours in operation.
    pub power_on_hours: Option<u64>,
    /// smartctl's exit status.
    pub exit_bits: ExitBits,
    /// What smartctl had to say.
    pub messages: Vec<String>,
}

/// Reads the output of smartctl. `code` is its exit status, `None` if it was killed.
pub fn parse(stdout: &[u8], code: Option<i32>) -> Result<SmartReading, SmartError> {
    let Some(code) = code else { return Err(SmartError::Unreadable("smartctl was killed".into())) };
    let value: Value = serde_json::from_slice(stdout).map_err(|error| SmartError::Unreadable(error.to_string()))?;
    if !value.is_object() {
        return Err(SmartError::Unreadable("it is no object".into()));
    }
    let bits = ExitBits(u8::try_from(code & 0xff).unwrap_or(u8::MAX));
    let messages = messages(&value);
    if bits.0 & 0x03 != 0 {
        // “Device is in STANDBY mode, exit(2)”, or SLEEP; the same bit as a device that does not open.
        let asleep = messages.iter().any(|text| text.contains("STANDBY") || text.contains("SLEEP"));
        let why = || if messages.is_empty() { bits.words().join(", ") } else { messages.join("; ") };
        return Err(if asleep { SmartError::Asleep } else { SmartError::Refused(why()) });
    }
    Ok(SmartReading {
        serial: value.get("serial_number").and_then(Value::as_str).map(|text| clip(text, 64)),
        passed: value.pointer("/smart_status/passed").and_then(Value::as_bool),
        attributes: attributes(&value),
        nvme: nvme(&value),
        scsi: scsi(&value),
        suspects: suspects(&value),
        temperature: value.pointer("/temperature/current").and_then(Value::as_i64).filter(|t| (-60..=200).contains(t)),
        power_on_hours: at(&value, "/power_on_time/hours"),
        exit_bits: bits,
        messages,
    })
}

fn clip(text: &str, chars: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(chars).collect()
}

fn messages(value: &Value) -> Vec<String> {
    let list = value.pointer("/smartctl/messages").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(|message| message.get("string")?.as_str());
    texts.take(8).map(|text| clip(text, 200)).collect()
}

/// A count: a number, or a number in text (smartctl prints what JSON cannot hold beside it, as `…_s`).
pub(super) fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub(super) fn at(value: &Value, pointer: &str) -> Option<u64> {
    let exact = value.pointer(pointer).and_then(count);
    exact.or_else(|| value.pointer(&format!("{pointer}_s")).and_then(count))
}

fn attributes(value: &Value) -> Vec<(Attribute, u64)> {
    let table = value.pointer("/ata_smart_attributes/table").and_then(Value::as_array);
    let mut found = Vec::new();
    for row in table.into_iter().flatten() {
        let id = row.get("id").and_then(count);
        let known = Attribute::ALL.iter().find(|(number, _)| Some(*number) == id).map(|(_, attribute)| *attribute);
        if let (Some(attribute), Some(raw)) = (known, row.get("raw").and_then(raw_count)) {
            if !found.iter().any(|(seen, _)| *seen == attribute) {
                found.push((attribute, raw));
            }
        }
    }
    found
}

/// The count in a raw value. Vendors pack more than one number into its 48 bits (`8 (0 12)`); smartctl's text begins
/// with the count where it knows the packing. Without it, more than 32 bits are taken for packed.
fn raw_count(raw: &Value) -> Option<u64> {
    let text = raw.get("string").and_then(Value::as_str).map(str::trim_start).unwrap_or_default();
    let digits = text.bytes().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    // “0x…” or “12h+34m” is a form of another kind than a count.
    let count_follows = text[digits..].is_empty() || text[digits..].starts_with([' ', '(', '/', '\t']);
    if let Some(number) = text[..digits].parse::<u64>().ok().filter(|number| count_follows && *number <= u64::from(u32::MAX)) {
        return Some(number);
    }
    let value = raw.get("value").and_then(count)?;
    Some(if value > u64::from(u32::MAX) { value & 0xffff_ffff } else { value })
}

fn nvme(value: &Value) -> Option<Nvme> {
    let log = value.get("nvme_smart_health_information_log")?;
    let log = log.is_object().then_some(log)?;
    Some(Nvme {
        critical_warning: at(log, "/critical_warning"),
        media_errors: at(log, "/media_errors"),
        percentage_used: at(log, "/percentage_used"),
        available_spare: at(log, "/available_spare"),
        error_log_entries: at(log, "/num_err_log_entries"),
    })
}

fn scsi(value: &Value) -> Option<Scsi> {
    let scsi = Scsi {
        grown_defects: at(value, "/scsi_grown_defect_list"),
        read_uncorrected: at(value, "/scsi_error_counter_log/read/total_uncorrected_errors"),
        write_uncorrected: at(value, "/scsi_error_counter_log/write/total_uncorrected_errors"),
    };
    (scsi != Scsi::default()).then_some(scsi)
}

impl SmartReading {
    /// The counters that grow when a drive gets worse, with their words.
    fn counters(&self) -> Vec<(&'static str, Option<u64>)> {
        let attribute = |wanted: Attribute| self.attributes.iter().find(|(seen, _)| *seen == wanted).map(|(_, raw)| *raw);
        let mut all: Vec<_> = Attribute::ALL.iter().map(|(_, kind)| (kind.words(), attribute(*kind))).collect();
        let nvme = self.nvme.clone().unwrap_or_default();
        all.push(("media errors", nvme.media_errors));
        all.push(("wear in percent", nvme.percentage_used));
        all.push(("error log entries", nvme.error_log_entries));
        let scsi = self.scsi.clone().unwrap_or_default();
        all.push(("grown defects", scsi.grown_defects));
        all.push(("uncorrected read errors", scsi.read_uncorrected));
        all.push(("uncorrected write errors", scsi.write_uncorrected));
        all
    }

    /// One line for the history: the verdict and every counter that is not zero.
    pub fn summary(&self) -> String {
        let verdict = match self.passed {
            Some(true) => "SMART: passed",
            Some(false) => "SMART: FAILING",
            None => "SMART: no verdict",
        };
        let mut parts = vec![verdict.to_owned()];
        parts.extend(self.counters().into_iter().filter_map(|(what, n)| Some(format!("{what} {}", n.filter(|n| *n > 0)?))));
        let nvme = self.nvme.as_ref();
        if let Some(bits) = nvme.and_then(|nvme| nvme.critical_warning).filter(|bits| *bits != 0) {
            parts.push(format!("critical warning 0x{bits:02x}"));
        }
        if let Some(left) = nvme.and_then(|nvme| nvme.available_spare) {
            parts.push(format!("spare blocks left {left} %"));
        }
        if !self.suspects.is_empty() {
            parts.push(format!("calls {} places bad", self.suspects.len()));
        }
        parts.extend(self.temperature.map(|degrees| format!("{degrees} °C")));
        parts.extend(self.power_on_hours.map(|hours| format!("{hours} h")));
        parts.join(", ")
    }
}

/// What got worse from one reading to the next, in words. Counters that one of the two does not know are left out,
/// and so is everything if the two are of different drives.
pub fn changes(before: &SmartReading, after: &SmartReading) -> Vec<String> {
    if before.serial.is_some() && after.serial.is_some() && before.serial != after.serial {
        return Vec::new();
    }
    let mut worse = Vec::new();
    if after.passed == Some(false) && before.passed != Some(false) {
        worse.push("the drive now says that it is failing".to_owned());
    }
    for ((what, old), (_, new)) in before.counters().into_iter().zip(after.counters()) {
        if let (Some(old), Some(new)) = (old, new) {
            if new > old {
                worse.push(format!("{what}: {old} → {new}"));
            }
        }
    }
    let (old, new) = (before.nvme.clone().unwrap_or_default(), after.nvme.clone().unwrap_or_default());
    if let (Some(old), Some(new)) = (old.critical_warning, new.critical_warning) {
        if new & !old != 0 {
            worse.push(format!("critical warning: 0x{old:02x} → 0x{new:02x}"));
        }
    }
    if let (Some(old), Some(new)) = (old.available_spare, new.available_spare) {
        if new < old {
            worse.push(format!("spare blocks left: {old} % → {new} %"));
        }
    }
    worse.extend(suspects::news(&before.suspects, &after.suspects));
    let bits = ExitBits(after.exit_bits.0 & !before.exit_bits.0 & 0xf0);
    worse.extend(bits.words().into_iter().map(|word| format!("now {word}")));
    worse
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
