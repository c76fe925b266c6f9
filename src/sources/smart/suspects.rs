//! Which blocks a drive itself calls bad: the logs of `smartctl -x` that name a place.
//!
//! Places are logical blocks of the drive, as it counts them. Names of fields as smartctl 7.3 and newer print them.

use super::reading::{at, count};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// As many are kept of one reading.
pub const MOST: usize = 1024;

/// A log that names places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Log {
    /// Pending defects log (ATA: ACS-4, log 0x0c; SCSI: SBC-4, page 0x15): not readable now, waiting for a write.
    PendingDefects,
    /// ATA error logs: a command that ended with an uncorrectable error.
    ErrorLog,
    /// A self-test stopped there.
    SelfTest,
    /// SCSI background scan: a medium or hardware error that it met.
    BackgroundScan,
    /// NVMe error log: an unrecovered read or a write fault.
    NvmeErrorLog,
}

impl Log {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Log::PendingDefects => "pending defects",
            Log::ErrorLog => "error log",
            Log::SelfTest => "self-test log",
            Log::BackgroundScan => "background scan",
            Log::NvmeErrorLog => "error log",
        }
    }
}

/// A place that a drive calls bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Suspect {
    /// Logical block of the drive.
    pub lba: u64,
    /// Where the drive says so.
    pub log: Log,
}

/// ATA error register: uncorrectable data (bit 6; ACS-3, 6.2).
const UNC: u64 = 0x40;
/// SCSI sense keys medium error and hardware error (SPC-4, 4.5.6).
const SENSE_KEYS: [u64; 2] = [3, 4];
/// NVMe status code type “media and data integrity errors” (base specification, figure “Status Code Type”).
const MEDIA_ERRORS: u64 = 2;
/// Its codes write fault and unrecovered read error.
const NVME_CODES: [u64; 2] = [0x80, 0x81];

/// Results in SCSI's self-test log (SPC-4, 7.3.20).
const SCSI_TESTS: usize = 20;

/// Every place in a reading, once, in order; at most [`MOST`].
pub fn suspects(value: &Value) -> Vec<Suspect> {
    let mut found: Vec<Suspect> = Vec::new();
    let mut add = |log: Log, lba: Option<u64>| found.extend(lba.map(|lba| Suspect { lba, log }));
    for row in rows(value, "/ata_pending_defects_log/table").chain(rows(value, "/scsi_pending_defects/table")) {
        add(Log::PendingDefects, at(row, "/lba"));
    }
    // The short log is what smartctl shows of drives that have no extended one.
    for row in rows(value, "/ata_smart_error_log/extended/table").chain(rows(value, "/ata_smart_error_log/summary/table")) {
        let uncorrectable = at(row, "/completion_registers/error").is_some_and(|error| error & UNC != 0);
        add(Log::ErrorLog, at(row, "/completion_registers/lba").filter(|_| uncorrectable));
    }
    for row in
        rows(value, "/ata_smart_self_test_log/extended/table").chain(rows(value, "/ata_smart_self_test_log/standard/table"))
    {
        // A test that passed names no place.
        let passed = row.pointer("/status/passed").and_then(Value::as_bool) == Some(true);
        add(Log::SelfTest, at(row, "/lba").filter(|_| !passed));
    }
    for row in (0..SCSI_TESTS).filter_map(|n| value.get(format!("scsi_self_test_{n}"))) {
        add(Log::SelfTest, at(row, "/lba_first_failure/value"));
    }
    let namespace = namespace(value);
    let is_ours = |row: &&Value| match (namespace, at(row, "/nsid")) {
        (Some(ours), Some(nsid)) => nsid == ours,
        _ => true,
    };
    for row in rows(value, "/nvme_self_test_log/table").filter(is_ours) {
        add(Log::SelfTest, at(row, "/lba").or_else(|| at(row, "/lba/value")));
    }
    let scan = value.pointer("/scsi_background_scan").and_then(Value::as_object);
    for (_, row) in scan.into_iter().flatten().filter(|(key, _)| key.starts_with("result_")) {
        let medium = at(row, "/sense_key/value").is_some_and(|key| SENSE_KEYS.contains(&key));
        add(Log::BackgroundScan, at(row, "/lba").filter(|_| medium));
    }
    for row in rows(value, "/nvme_error_information_log/table").filter(is_ours) {
        let status = |field: &str| row.pointer(&format!("/status_field/{field}")).and_then(count);
        let medium = status("status_code_type") == Some(MEDIA_ERRORS)
            && status("status_code").is_some_and(|code| NVME_CODES.contains(&code));
        add(Log::NvmeErrorLog, at(row, "/lba/value").filter(|_| medium));
    }
    // All ones is “no place”.
    found.retain(|suspect| suspect.lba < u64::from(u32::MAX) << 16);
    found.sort_unstable();
    found.dedup();
    found.truncate(MOST);
    found
}

/// The namespace that was asked, if it is the only one shown: logs are of the controller, and tell of the others, too.
fn namespace(value: &Value) -> Option<u64> {
    match value.pointer("/nvme_namespaces").and_then(Value::as_array)?.as_slice() {
        [one] => at(one, "/id"),
        _ => None,
    }
}

fn rows<'a>(value: &'a Value, table: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(table).and_then(Value::as_array).into_iter().flatten().take(MOST)
}

/// New places in words: `pending defects: LBA 8, 9, 11`; none if there are none.
pub fn news(before: &[Suspect], after: &[Suspect]) -> Vec<String> {
    const SHOWN: usize = 8;
    let mut lines: Vec<(Log, Vec<u64>)> = Vec::new();
    for suspect in after.iter().filter(|suspect| !before.contains(suspect)) {
        match lines.iter_mut().find(|(log, _)| *log == suspect.log) {
            Some((_, places)) => places.push(suspect.lba),
            None => lines.push((suspect.log, vec![suspect.lba])),
        }
    }
    let words = |(log, places): (Log, Vec<u64>)| {
        let shown: Vec<String> = places.iter().take(SHOWN).map(u64::to_string).collect();
        let more = places.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("the drive calls bad ({}): LBA {}{more}", log.words(), shown.join(", "))
    };
    lines.into_iter().map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn places(value: &Value) -> Vec<(u64, Log)> {
        suspects(value).into_iter().map(|suspect| (suspect.lba, suspect.log)).collect()
    }

    #[test]
    fn every_log_that_names_a_place_is_read() {
        let ata = json!({
            "ata_pending_defects_log": {"size": 65535, "count": 2, "table": [{"lba": 5000, "power_on_hours": 7}, {"lba": 5001}]},
            "ata_smart_error_log": {"extended": {"table": [
                {"completion_registers": {"error": 64, "status": 65, "lba": 6000}, "error_description": "Error: UNC at LBA = 6000"},
                {"completion_registers": {"error": 132, "lba": 6001}, "error_description": "Error: ICRC, ABRT"},
            ]}},
            "ata_smart_self_test_log": {"extended": {"table": [
                {"type": {"value": 2}, "status": {"value": 121, "string": "Completed: read failure", "passed": false}, "lba": 7000},
                {"type": {"value": 1}, "status": {"value": 0, "passed": true}, "lba": 7001},
            ]}},
        });
        let expected = [(5000, Log::PendingDefects), (5001, Log::PendingDefects), (6000, Log::ErrorLog), (7000, Log::SelfTest)];
        assert_eq!(places(&ata), expected);
        let scsi = json!({"scsi_background_scan": {
            "status": {"value": 1, "number_scans_performed": 3},
            "result_1": {"lba": 80, "sense_key": {"value": 3, "string": "Medium Error"}, "asc": 17, "ascq": 0},
            "result_2": {"lba": 81, "sense_key": {"value": 1, "string": "Recovered Error"}},
        }});
        assert_eq!(places(&scsi), [(80, Log::BackgroundScan)]);
        let nvme = json!({
            "nvme_error_information_log": {"table": [
                {"status_field": {"value": 641, "status_code": 129, "status_code_type": 2}, "lba": {"value": 90}, "nsid": 1},
                {"status_field": {"value": 2, "status_code": 2, "status_code_type": 0}, "lba": {"value": 91}},
            ]},
            "nvme_self_test_log": {"table": [{"self_test_result": {"value": 7}, "lba": {"value": 92}}]},
        });
        assert_eq!(places(&nvme), [(90, Log::NvmeErrorLog), (92, Log::SelfTest)]);
    }

    #[test]
    fn nonsense_names_no_place() {
        for value in [
            json!({}),
            json!({"ata_pending_defects_log": []}),
            json!({"ata_pending_defects_log": {"table": [{"lba": [1]}, 7, null, {"lba": -4}, {"lba": u64::MAX}]}}),
            json!({"scsi_background_scan": {"result_1": 3, "result_2": {"lba": 4}}}),
        ] {
            assert_eq!(suspects(&value), [], "{value}");
        }
        let many: Vec<Value> = (0..5000).map(|lba| json!({"lba": lba})).collect();
        assert_eq!(suspects(&json!({"ata_pending_defects_log": {"table": many}})).len(), MOST);
    }

    #[test]
    fn only_new_places_are_told() {
        let of = |places: std::ops::Range<u64>| places.map(|lba| Suspect { lba, log: Log::PendingDefects }).collect::<Vec<_>>();
        assert_eq!(news(&of(1..4), &of(1..4)), Vec::<String>::new());
        assert_eq!(news(&of(1..4), &of(2..6)), ["the drive calls bad (pending defects): LBA 4, 5"]);
        assert!(news(&[], &of(0..20))[0].ends_with("7 and 12 more"));
    }
}
