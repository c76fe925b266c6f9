//! One SMART reading: a tolerant, typed reader of `smartctl --json`.
//!
//! Every field may be missing or of another type than documented; it is then not known. Drives and bridges lie, and so
//! do versions of smartctl.

use super::SmartError;
use super::suspects::{self, Suspect, suspects};
use crate::model::Counter;
use serde_json::Value;
use std::collections::BTreeMap;

/// smartctl's exit status: a set of bits (`man smartctl`, EXIT STATUS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// ATA attributes that tell of the medium and the link, by number.
const ATTRIBUTES: [(u64, Counter); 6] = [
    (5, Counter::ReallocatedSectors),
    (187, Counter::ReportedUncorrectable),
    (196, Counter::ReallocationEvents),
    (197, Counter::PendingSectors),
    (198, Counter::OfflineUncorrectable),
    (199, Counter::CrcErrors),
];

/// SATA PHY events that tell of damage on the link, by id (log 0x11: Serial ATA 3.0, “Phy event counters”; names as in smartctl's
/// ataprint.cpp), and the ids whose sum says the same: of all these a drive need only have 0x001. A frame is a “FIS”.
///
/// An ordinary start, reset or suspend damages no frame, so it moves none of them. Others it does or may, so they are not read:
/// - 0x009, PHY not ready, and 0x00a, COMRESET: each power-up and each reset by the host count there.
/// - 0x005 to 0x008, 0x00d, 0x010 and 0x013, frames without data that were refused or sent again, and refusals that are none of
///   a CRC: also a frame of a kind that the receiver does not know or expect is refused with R_ERR, and frames without data are what
///   goes to and fro around a reset. Those of them that reached the drive damaged are in 0x00b and 0x012.
/// - 0xc00 to 0xc02 are a port multiplier's, 0x8000 and above the vendor's.
const PHY_EVENTS: [(Counter, &[&[u64]]); 3] = [
    (Counter::IcrcFailures, &[&[0x001]]),
    (Counter::DataFisRErr, &[&[0x002], &[0x003, 0x004]]),
    (Counter::FisCrcErrors, &[&[0x00b], &[0x00f, 0x012]]),
];

/// NVMe's health log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scsi {
    /// Grown defects.
    pub grown_defects: Option<u64>,
    /// Uncorrected errors on reading.
    pub read_uncorrected: Option<u64>,
    /// Uncorrected errors on writing.
    pub write_uncorrected: Option<u64>,
}

/// What a drive says of its self-tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SelfTest {
    /// It has such.
    pub supported: Option<bool>,
    /// One is under way.
    pub running: bool,
}

/// One reading. What is `None` is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SmartReading {
    /// Serial number, to tell that it is the same drive.
    pub serial: Option<String>,
    /// The drive's own verdict.
    pub passed: Option<bool>,
    /// Raw values of ATA attributes.
    pub attributes: Vec<(Counter, u64)>,
    /// SATA PHY events since the drive got power, or since somebody reset them; a reset of the link keeps them (Serial ATA 3.0).
    pub phy_events: Vec<(Counter, u64)>,
    /// Entries of the pending defects log.
    pub pending_defects: Option<u64>,
    /// NVMe's health log.
    pub nvme: Option<Nvme>,
    /// SCSI's counters.
    pub scsi: Option<Scsi>,
    /// Places that the drive calls bad.
    pub suspects: Vec<Suspect>,
    /// Bytes of the blocks that these are counted in, a power of two from 512 to 65536.
    pub logical_block: Option<u32>,
    /// Its self-tests.
    pub self_test: SelfTest,
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
        let why = || if messages.is_empty() { bits.words().join(", ") } else { messages.join("; ") };
        return Err(if is_asleep(&messages) { SmartError::Asleep } else { SmartError::Refused(why()) });
    }
    Ok(SmartReading {
        serial: value.get("serial_number").and_then(Value::as_str).map(|text| clip(text, 64)),
        passed: value.pointer("/smart_status/passed").and_then(Value::as_bool),
        attributes: attributes(&value),
        phy_events: phy_events(&value),
        nvme: nvme(&value),
        scsi: scsi(&value),
        pending_defects: at(&value, "/ata_pending_defects_log/count").or_else(|| at(&value, "/scsi_pending_defects/count")),
        suspects: suspects(&value),
        logical_block: logical_block(&value),
        self_test: self_test(&value),
        temperature: value.pointer("/temperature/current").and_then(Value::as_i64).filter(|t| (-60..=200).contains(t)),
        power_on_hours: at(&value, "/power_on_time/hours"),
        exit_bits: bits,
        messages,
    })
}

fn clip(text: &str, chars: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(chars).collect()
}

pub(in crate::sources) fn messages(value: &Value) -> Vec<String> {
    let list = value.pointer("/smartctl/messages").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(|message| message.get("string")?.as_str());
    texts.take(8).map(|text| clip(text, 200)).collect()
}

/// “Device is in STANDBY mode, exit(2)”, or SLEEP; the same bit of the exit status as of a device that does not open.
pub(in crate::sources) fn is_asleep(messages: &[String]) -> bool {
    messages.iter().any(|text| text.contains("STANDBY") || text.contains("SLEEP"))
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

fn attributes(value: &Value) -> Vec<(Counter, u64)> {
    let table = value.pointer("/ata_smart_attributes/table").and_then(Value::as_array);
    let mut found = Vec::new();
    for row in table.into_iter().flatten() {
        let id = row.get("id").and_then(count);
        let known = ATTRIBUTES.iter().find(|(number, _)| Some(*number) == id).map(|(_, attribute)| *attribute);
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
    if let Some(count) = lowest_word(text) {
        return Some(count);
    }
    let digits = text.bytes().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    // “0x…” or “12h+34m” is a form of another kind than a count.
    let count_follows = text[digits..].is_empty() || text[digits..].starts_with([' ', '(', '/', '\t']);
    if let Some(number) = text[..digits].parse::<u64>().ok().filter(|number| count_follows && *number <= u64::from(u32::MAX)) {
        return Some(number);
    }
    let value = raw.get("value").and_then(count)?;
    Some(if value > u64::from(u32::MAX) { value & 0xffff_ffff } else { value })
}

/// The lowest 16 bits of a raw value that is shown as its 3 words or 6 bytes, the highest first (`raw16` and `raw8` of smartctl).
fn lowest_word(text: &str) -> Option<u64> {
    let parts: Vec<u64> = text.split_whitespace().map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [high, middle, low] if [high, middle, low].iter().all(|word| *word <= 0xffff) => Some(low),
        [_, _, _, _, high, low] if parts.iter().all(|byte| *byte <= 0xff) => Some(high << 8 | low),
        _ => None,
    }
}

/// A counter that is full (`overflow`) stays at what it is, and so tells of no growth any more.
fn phy_events(value: &Value) -> Vec<(Counter, u64)> {
    let table = value.pointer("/sata_phy_event_counters/table").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let row = |id: &u64| table.iter().find(|row| at(row, "/id") == Some(*id));
    let counted = |(counter, ways): &(Counter, &[&[u64]])| {
        // Where the count cannot be read another way is no substitute: a sum need not be the same, and that would look like growth.
        let ids = ways.iter().find(|ids| ids.iter().all(|id| row(id).is_some()))?;
        let mut counts = ids.iter().map(|id| at(row(id)?, "/value"));
        Some((*counter, counts.try_fold(0u64, |sum, count| Some(sum.saturating_add(count?)))?))
    };
    PHY_EVENTS.iter().filter_map(counted).collect()
}

fn logical_block(value: &Value) -> Option<u32> {
    let bytes = at(value, "/logical_block_size").and_then(|bytes| u32::try_from(bytes).ok())?;
    (bytes.is_power_of_two() && (512..=65_536).contains(&bytes)).then_some(bytes)
}

fn self_test(value: &Value) -> SelfTest {
    // ATA: the upper half of the status is 15. SCSI: told by the drive's sense data, or by the newest result. NVMe: which one runs.
    let ata = at(value, "/ata_smart_data/self_test/status/value").map(|status| status >> 4 == 15);
    let nvme = at(value, "/nvme_self_test_log/current_self_test_operation/value").map(|operation| operation != 0);
    let truth = |pointer: &str| value.pointer(pointer).and_then(Value::as_bool);
    let scsi = [
        truth("/scsi_self_test_status/in_progress"),
        truth("/scsi_self_test_0/self_test_in_progress"),
        at(value, "/scsi_self_test_0/result/value").map(|result| result == 15),
    ];
    let supported = truth("/ata_smart_data/capabilities/self_tests_supported")
        .or_else(|| truth("/nvme_optional_admin_commands/self_test"))
        .or_else(|| (nvme.is_some() || scsi.iter().any(Option::is_some)).then_some(true));
    SelfTest { supported, running: [ata, nvme].iter().chain(&scsi).any(|running| *running == Some(true)) }
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
    /// The counters that grow when a drive gets worse, as far as they are known.
    pub fn counters(&self) -> BTreeMap<Counter, u64> {
        let nvme = self.nvme.clone().unwrap_or_default();
        let scsi = self.scsi.clone().unwrap_or_default();
        let others = [
            (Counter::PendingDefects, self.pending_defects),
            (Counter::MediaErrors, nvme.media_errors),
            (Counter::Wear, nvme.percentage_used),
            (Counter::ErrorLogEntries, nvme.error_log_entries),
            (Counter::GrownDefects, scsi.grown_defects),
            (Counter::ReadUncorrected, scsi.read_uncorrected),
            (Counter::WriteUncorrected, scsi.write_uncorrected),
        ];
        let of_ata = self.attributes.iter().chain(&self.phy_events).copied();
        of_ata.chain(others.into_iter().filter_map(|(counter, n)| Some((counter, n?)))).collect()
    }

    /// One line for the history: the verdict and every counter that is not zero.
    pub fn summary(&self) -> String {
        let verdict = match self.passed {
            Some(true) => "SMART: passed",
            Some(false) => "SMART: FAILING",
            None => "SMART: no verdict",
        };
        let mut parts = vec![verdict.to_owned()];
        let grown = self.counters().into_iter().filter(|(_, n)| *n > 0);
        parts.extend(grown.map(|(counter, n)| format!("{} {n}", counter.words())));
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
        if self.self_test.running {
            parts.push("a self-test is under way".to_owned());
        }
        parts.extend(self.temperature.map(|degrees| format!("{degrees} °C")));
        parts.extend(self.power_on_hours.map(|hours| format!("{hours} h")));
        parts.join(", ")
    }
}

/// What got worse from one reading to the next, in words. Counters that one of the two does not know are left out,
/// and so is everything if the two are of different drives.
/// One that is smaller than before is no news: the sector was written, or the drive lost power and counts anew.
pub fn changes(before: &SmartReading, after: &SmartReading) -> Vec<String> {
    if before.serial.is_some() && after.serial.is_some() && before.serial != after.serial {
        return Vec::new();
    }
    let mut worse = Vec::new();
    if after.passed == Some(false) && before.passed != Some(false) {
        worse.push("the drive now says that it is failing".to_owned());
    }
    let old = before.counters();
    for (counter, new) in after.counters() {
        if let Some(old) = old.get(&counter).filter(|old| new > **old) {
            worse.push(format!("{}: {old} → {new}", counter.words()));
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
