//! A generator of what `smartctl --json -x` prints of ATA, SCSI and NVMe drives, with what is true of each drive. It follows what
//! smartctl's own sources print (ataprint.cpp, scsiprint.cpp, nvmeprint.cpp); it is not smartctl, and no drive was asked.

use super::reading::SmartReading;
use super::suspects::{Log, Suspect};
use crate::model::Counter;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Output, and what must be read from it.
#[derive(Clone, Debug)]
pub struct Made {
    pub output: Value,
    pub facts: Vec<Fact>,
}

/// Something that the output says, and the places in it (JSON pointers) that say so.
#[derive(Clone, Debug)]
pub struct Fact {
    pub truth: Truth,
    pub from: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Truth {
    Counts(Counter, u64),
    CountsNo(Counter),
    Names(Suspect),
    Serial(String),
    Passed(bool),
    Temperature(i64),
    Hours(u64),
    LogicalBlock(u32),
    TestRuns(bool),
}

impl Truth {
    pub fn is_in(&self, reading: &SmartReading) -> bool {
        match self {
            Truth::Counts(counter, n) => reading.counters().get(counter) == Some(n),
            Truth::CountsNo(counter) => !reading.counters().contains_key(counter),
            Truth::Names(suspect) => reading.suspects.contains(suspect),
            Truth::Serial(text) => reading.serial.as_ref() == Some(text),
            Truth::Passed(is) => reading.passed == Some(*is),
            Truth::Temperature(degrees) => reading.temperature == Some(*degrees),
            Truth::Hours(hours) => reading.power_on_hours == Some(*hours),
            Truth::LogicalBlock(bytes) => reading.logical_block == Some(*bytes),
            Truth::TestRuns(is) => reading.self_test.running == *is,
        }
    }
}

impl Made {
    fn say(&mut self, truth: Truth, from: &[&str]) {
        self.facts.push(Fact { truth, from: from.iter().map(|place| (*place).to_owned()).collect() });
    }

    fn names(&mut self, log: Log, lba: u64, from: &[&str]) {
        self.say(Truth::Names(Suspect { lba, log }), from);
    }
}

/// Any drive.
pub fn drives() -> impl Strategy<Value = Made> {
    prop_oneof![ata(), scsi(), nvme()]
}

fn lbas(most: usize) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0u64..1 << 48, 0..most)
}

/// What all drives say.
fn common() -> impl Strategy<Value = Made> {
    let block = prop::sample::select(vec![512u32, 4096]);
    ("[A-Z0-9-]{1,20}", any::<bool>(), -40i64..120, 0u64..200_000, block).prop_map(|(serial, passed, degrees, hours, block)| {
        let output = json!({
            "json_format_version": [1, 0],
            "smartctl": {"version": [7, 4], "argv": ["smartctl", "--json=c", "-x"], "exit_status": 0},
            "local_time": {"time_t": 1_700_000_000, "asctime": "Tue Nov 14 22:13:20 2023 UTC"},
            "model_name": "ACME 4000", "serial_number": serial, "user_capacity": {"blocks": 7_814_037_168u64, "bytes": 4_000_787_030_016u64},
            "logical_block_size": block, "smart_support": {"available": true, "enabled": true},
            "smart_status": {"passed": passed}, "temperature": {"current": degrees, "lifetime_max": 61}, "power_on_time": {"hours": hours},
            "power_cycle_count": 42,
        });
        let mut made = Made { output, facts: Vec::new() };
        made.say(Truth::Serial(serial), &["/serial_number"]);
        made.say(Truth::Passed(passed), &["/smart_status"]);
        made.say(Truth::Temperature(degrees), &["/temperature"]);
        made.say(Truth::Hours(hours), &["/power_on_time"]);
        made.say(Truth::LogicalBlock(block), &["/logical_block_size"]);
        made
    })
}

/// A raw value of 48 bits whose count is `word`, in one of the forms of smartctl's drive database.
fn raw(form: u8, word: u16, other: (u16, u16)) -> Value {
    let (high, middle) = other;
    let packed = u64::from(high) << 32 | u64::from(middle) << 16 | u64::from(word);
    let bytes = packed.to_be_bytes();
    match form {
        // raw16(raw16): the others are left out when both are 0.
        0 if (high, middle) == (0, 0) => json!({"value": packed, "string": word.to_string()}),
        0 => json!({"value": packed, "string": format!("{word} ({high} {middle})")}),
        1 => json!({"value": packed, "string": format!("{high} {middle} {word}")}),
        2 => json!({"value": packed, "string": bytes[2..].iter().map(u8::to_string).collect::<Vec<_>>().join(" ")}),
        // raw48, and without its text.
        3 => json!({"value": word, "string": word.to_string()}),
        _ => json!({"value": word}),
    }
}

/// SATA PHY event counters: which of them there are, whether in few bytes or in many, and their values.
fn phy_events() -> impl Strategy<Value = Vec<(u64, u8, u64)>> {
    let ids: Vec<u64> = (1..=0x13).filter(|id| ![0xc, 0xe, 0x11].contains(id)).chain([0xc00, 0x8000, 0x8e01]).collect();
    let value = prop_oneof![Just(0), 1u64..100, Just(u64::MAX), any::<u64>()];
    prop::collection::vec(prop::option::weighted(0.7, (1u8..5, value)), ids.len()).prop_map(move |rows| {
        ids.iter().zip(rows).filter_map(|(id, row)| row.map(|(words, value)| (*id, words * 2, value))).collect()
    })
}

fn say_phy_events(made: &mut Made, events: Vec<(u64, u8, u64)>) {
    let mut table = Vec::new();
    let mut rows = std::collections::BTreeMap::new();
    for (id, size, value) in events {
        let most = u64::MAX >> (64 - u32::from(size) * 8);
        let value = value.min(most);
        rows.insert(id, (value, format!("/sata_phy_event_counters/table/{}", table.len())));
        table.push(json!({"id": id, "name": "x", "size": size, "value": value, "overflow": value == most}));
    }
    let mut of = |counter: Counter, both: u64, halves: [u64; 2]| match (rows.get(&both), halves.map(|id| rows.get(&id))) {
        (Some((count, from)), _) => made.say(Truth::Counts(counter, *count), &[from]),
        (None, [Some((a, from_a)), Some((b, from_b))]) => {
            made.say(Truth::Counts(counter, a.saturating_add(*b)), &[from_a, from_b]);
        }
        _ => made.say(Truth::CountsNo(counter), &["/sata_phy_event_counters"]),
    };
    of(Counter::IcrcFailures, 1, [0, 0]);
    of(Counter::DataFisRErr, 2, [3, 4]);
    of(Counter::FisCrcErrors, 11, [15, 18]);
    made.output["sata_phy_event_counters"] = json!({"table": table, "reset": false});
}

fn ata() -> impl Strategy<Value = Made> {
    let attribute = (any::<bool>(), 0u8..5, any::<u16>(), any::<(u16, u16)>());
    let errors = prop::collection::vec((0u64..1 << 48, any::<u8>()), 0..6);
    let tests = prop::collection::vec((0u64..1 << 48, 0u8..16, 1u8..3), 0..6);
    let status = (any::<u8>(), any::<bool>());
    (common(), prop::collection::vec(attribute, 6), lbas(40), errors, tests, status, phy_events()).prop_map(
        |(mut made, attributes, pending, errors, tests, (status, extended), phy_events)| {
            say_phy_events(&mut made, phy_events);
            let mut table = vec![
                json!({"id": 9, "name": "Power_On_Hours", "value": 50, "raw": {"value": 97_568_523_698_765u64, "string": "12345h+11m+02.1s"}}),
                json!({"id": 194, "name": "Temperature_Celsius", "value": 112, "raw": {"value": 77_309_411_366u64, "string": "38 (0 18 0 0 0)"}}),
            ];
            let ids = [
                (5, Counter::ReallocatedSectors),
                (187, Counter::ReportedUncorrectable),
                (196, Counter::ReallocationEvents),
                (197, Counter::PendingSectors),
                (198, Counter::OfflineUncorrectable),
                (199, Counter::CrcErrors),
            ];
            for ((id, counter), (there, form, word, other)) in ids.into_iter().zip(attributes) {
                if there {
                    made.say(Truth::Counts(counter, word.into()), &[&format!("/ata_smart_attributes/table/{}", table.len())]);
                    table.push(json!({"id": id, "name": "x", "value": 100, "worst": 100, "thresh": 10, "when_failed": "",
                        "flags": {"value": 51, "string": "PO--CK "}, "raw": raw(form, word, other)}));
                }
            }
            made.output["device"] = json!({"name": "/dev/sda", "info_name": "/dev/sda [SAT]", "type": "sat", "protocol": "ATA"});
            made.output["ata_smart_attributes"] = json!({"revision": 16, "table": table});
            made.output["ata_smart_data"] = json!({
                "offline_data_collection": {"status": {"value": 130, "string": "was completed without error", "passed": true}},
                "self_test": {"status": {"value": status, "string": "x"}, "polling_minutes": {"short": 2, "extended": 480}},
                "capabilities": {"values": [91, 3], "self_tests_supported": true, "error_logging_supported": true},
            });
            made.say(Truth::TestRuns(status >> 4 == 15), &["/ata_smart_data"]);
            made.say(Truth::Counts(Counter::PendingDefects, pending.len() as u64), &["/ata_pending_defects_log/count"]);
            let row = |lba: &u64| json!({"lba": lba, "power_on_hours": 7});
            made.output["ata_pending_defects_log"] =
                json!({"size": 1023, "count": pending.len(), "table": pending.iter().map(row).collect::<Vec<_>>()});
            for (i, lba) in pending.iter().enumerate() {
                made.names(Log::PendingDefects, *lba, &[&format!("/ata_pending_defects_log/table/{i}")]);
            }
            // A drive without the long logs has short ones, whose LBAs are short.
            let (which, of_tests, bits) = if extended { ("extended", "extended", 48) } else { ("summary", "standard", 28) };
            let mut rows = Vec::new();
            for (i, (lba, register)) in errors.into_iter().enumerate() {
                let lba = lba & ((1 << bits) - 1);
                rows.push(json!({"error_number": i + 1, "lifetime_hours": 5, "error_description": "Error: UNC at LBA",
                    "completion_registers": {"error": register, "status": 65, "count": 8, "lba": lba, "device": 64},
                    "previous_commands": [{"registers": {"command": 96, "lba": lba}, "command_name": "READ FPDMA QUEUED"}]}));
                if register & 0x40 != 0 {
                    made.names(Log::ErrorLog, lba, &[&format!("/ata_smart_error_log/{which}/table/{i}")]);
                }
            }
            made.output["ata_smart_error_log"] = json!({which: {"revision": 1, "count": rows.len(), "table": rows}});
            let mut rows = Vec::new();
            for (i, (lba, result, kind)) in tests.into_iter().enumerate() {
                let lba = lba & ((1 << bits) - 1);
                let mut row = json!({"type": {"value": kind, "string": "x"}, "status": {"value": result << 4, "string": "x"}, "lifetime_hours": 9});
                if !(1..=3).contains(&result) {
                    row["status"]["passed"] = json!(!(4..=8).contains(&result));
                }
                if (3..=8).contains(&result) {
                    row["lba"] = json!(lba);
                    made.names(Log::SelfTest, lba, &[&format!("/ata_smart_self_test_log/{of_tests}/table/{i}")]);
                }
                rows.push(row);
            }
            made.output["ata_smart_self_test_log"] = json!({of_tests: {"revision": 1, "count": rows.len(), "table": rows}});
            made
        },
    )
}

fn scsi() -> impl Strategy<Value = Made> {
    let scan = prop::collection::vec((0u64..1 << 48, 0u8..16), 0..8);
    let tests = prop::collection::vec((0u64..1 << 48, 0u8..16), 0..20);
    (common(), any::<[u32; 3]>(), scan, tests, lbas(20)).prop_map(|(mut made, [grown, read, write], scan, tests, pending)| {
        made.output["device"] = json!({"name": "/dev/sdb", "info_name": "/dev/sdb", "type": "scsi", "protocol": "SCSI"});
        made.output["scsi_grown_defect_list"] = json!(grown);
        made.output["scsi_error_counter_log"] = json!({
            "read": {"errors_corrected_by_eccfast": 9, "gigabytes_processed": "12.345", "total_uncorrected_errors": read},
            "write": {"gigabytes_processed": "0.5", "total_uncorrected_errors": write},
            "verify": {"total_uncorrected_errors": 3},
        });
        made.say(Truth::Counts(Counter::GrownDefects, grown.into()), &["/scsi_grown_defect_list"]);
        made.say(Truth::Counts(Counter::ReadUncorrected, read.into()), &["/scsi_error_counter_log/read"]);
        made.say(Truth::Counts(Counter::WriteUncorrected, write.into()), &["/scsi_error_counter_log/write"]);
        let mut results =
            json!({"status": {"value": 1, "string": "background medium scan is active", "number_scans_performed": 3}});
        for (i, (lba, key)) in scan.into_iter().enumerate() {
            let name = format!("result_{}", i + 1);
            results[&name] = json!({"parameter_code": i + 1, "accumulated_power_on": {"minutes": 77}, "lba": lba,
                "sense_key": {"value": key, "string": "x"}, "asc": 17, "ascq": 0, "reassign_status": {"value": 0}});
            if [3, 4].contains(&key) {
                made.names(Log::BackgroundScan, lba, &[&format!("/scsi_background_scan/{name}")]);
            }
        }
        made.output["scsi_background_scan"] = results;
        let newest = tests.first().map(|(_, result)| *result);
        for (i, (lba, result)) in tests.into_iter().enumerate() {
            let mut row = json!({"code": {"value": 1, "string": "Background short"}, "result": {"value": result, "string": "x"},
                "power_on_time": {"hours": 9, "aka": "accumulated_power_on_hours"}});
            if (1..15).contains(&result) {
                row["lba_first_failure"] = json!({"value": lba, "aka": "address_of_first_failure"});
                made.names(Log::SelfTest, lba, &[&format!("/scsi_self_test_{i}")]);
            }
            made.output[format!("scsi_self_test_{i}")] = row;
        }
        made.output["scsi_self_test_status"] = json!({"in_progress": newest == Some(15)});
        made.say(Truth::TestRuns(newest == Some(15)), &["/scsi_self_test_status", "/scsi_self_test_0"]);
        // Rows are counted from 1, so the first is empty.
        let mut table = vec![Value::Null];
        for lba in &pending {
            made.names(Log::PendingDefects, *lba, &[&format!("/scsi_pending_defects/table/{}", table.len())]);
            table.push(json!({"lba": lba, "accum_power_on_hours": 5}));
        }
        made.say(Truth::Counts(Counter::PendingDefects, pending.len() as u64), &["/scsi_pending_defects/count"]);
        made.output["scsi_pending_defects"] = json!({"count": pending.len(), "table": table});
        made
    })
}

fn nvme() -> impl Strategy<Value = Made> {
    // Of this namespace, of another one, of all.
    let of = prop::sample::select(vec![json!(1), json!(2), json!(-1), Value::Null]);
    let errors =
        prop::collection::vec((0u64..1 << 48, prop::sample::select(vec![0x281u64, 0x280, 0x2, 0x284]), of.clone()), 0..8);
    let tests = prop::collection::vec((0u64..1 << 48, any::<bool>(), of), 0..8);
    let operation = prop::sample::select(vec![0u8, 1, 2, 14]);
    (common(), any::<(u32, u64)>(), 0u8..=255, errors, tests, operation).prop_map(
        |(mut made, (media, entries), used, errors, tests, operation)| {
            let ours = |nsid: &Value| *nsid != json!(2);
            made.output["device"] = json!({"name": "/dev/nvme0n1", "type": "nvme", "protocol": "NVMe"});
            made.output["nvme_namespaces"] = json!([{"id": 1, "formatted_lba_size": 512, "eui64": {"oui": 1, "ext_id": 2}}]);
            // What JSON's numbers cannot hold everywhere comes as text beside it.
            made.output["nvme_smart_health_information_log"] = json!({"nsid": -1, "critical_warning": 0, "temperature": 41,
                "available_spare": 97, "available_spare_threshold": 10, "percentage_used": used, "data_units_read": [1, 2, 3],
                "media_errors": media, "num_err_log_entries_s": entries.to_string(), "num_err_log_entries_le": [1, 2, 3],
                "temperature_sensors": [41, null, 52]});
            let health = "/nvme_smart_health_information_log";
            made.say(Truth::Counts(Counter::MediaErrors, media.into()), &[&format!("{health}/media_errors")]);
            made.say(Truth::Counts(Counter::Wear, used.into()), &[&format!("{health}/percentage_used")]);
            made.say(Truth::Counts(Counter::ErrorLogEntries, entries), &[&format!("{health}/num_err_log_entries_s")]);
            let mut rows = Vec::new();
            for (i, (lba, status, nsid)) in errors.into_iter().enumerate() {
                let mut row = json!({"error_count": 9 - i, "submission_queue_id": 3, "command_id": 77, "lba": {"value": lba}, "phase_tag": false,
                    "status_field": {"value": status, "do_not_retry": false, "status_code_type": status >> 8 & 7, "status_code": status & 0xff}});
                if ours(&nsid) && [0x280, 0x281].contains(&status) {
                    made.names(Log::NvmeErrorLog, lba, &[&format!("/nvme_error_information_log/table/{i}"), "/nvme_namespaces"]);
                }
                if !nsid.is_null() {
                    row["nsid"] = nsid;
                }
                rows.push(row);
            }
            made.output["nvme_error_information_log"] = json!({"size": 63, "read": 16, "unread": 0, "table": rows});
            let mut rows = Vec::new();
            for (i, (lba, failed, nsid)) in tests.into_iter().enumerate() {
                let mut row = json!({"self_test_code": {"value": 1, "string": "Short"}, "self_test_result": {"value": if failed { 7 } else { 0 }},
                    "power_on_hours": 9});
                if failed {
                    row["lba"] = json!(lba);
                    if ours(&nsid) {
                        made.names(Log::SelfTest, lba, &[&format!("/nvme_self_test_log/table/{i}"), "/nvme_namespaces"]);
                    }
                }
                if !nsid.is_null() {
                    row["nsid"] = nsid;
                }
                rows.push(row);
            }
            made.output["nvme_self_test_log"] =
                json!({"nsid": -1, "current_self_test_operation": {"value": operation, "string": "x"}, "table": rows});
            made.say(Truth::TestRuns(operation != 0), &["/nvme_self_test_log"]);
            made
        },
    )
}

/// What may stand where something else should.
pub fn damage() -> impl Strategy<Value = Damage> {
    let other = vec![
        Value::Null,
        json!(true),
        json!([]),
        json!([3, 4, 5]),
        json!({}),
        json!({"value": [1]}),
        json!(""),
        json!("12 (oops"),
        json!("é"),
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
    ];
    prop_oneof![Just(Damage::Missing), Just(Damage::Wrapped), prop::sample::select(other).prop_map(Damage::Other)]
}

#[derive(Clone, Debug)]
pub enum Damage {
    Missing,
    /// An array of what was there.
    Wrapped,
    Other(Value),
}

/// Every place below the root.
pub fn places(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, found: &mut Vec<String>) {
        let inner: Vec<(String, &Value)> = match value {
            Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(array) => array.iter().enumerate().map(|(i, value)| (i.to_string(), value)).collect(),
            _ => Vec::new(),
        };
        for (key, value) in inner {
            let at = format!("{at}/{key}");
            walk(value, &at, found);
            found.push(at);
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

/// Damages one place, if it is still there. Rows keep their numbers.
pub fn spoil(output: &mut Value, at: &str, damage: &Damage) {
    let (above, key) = at.rsplit_once('/').unwrap();
    match damage {
        Damage::Missing => match output.pointer_mut(above) {
            Some(Value::Object(object)) => drop(object.remove(key)),
            Some(Value::Array(array)) => {
                if let Some(row) = array.get_mut(key.parse::<usize>().unwrap_or(usize::MAX)) {
                    *row = Value::Null;
                }
            }
            _ => {}
        },
        Damage::Wrapped => {
            if let Some(value) = output.pointer_mut(at) {
                *value = json!([value.clone()]);
            }
        }
        Damage::Other(other) => {
            if let Some(value) = output.pointer_mut(at) {
                *value = other.clone();
            }
        }
    }
}

/// Whether damage at one place can be felt at another: one is the other or holds it.
pub fn touches(a: &str, b: &str) -> bool {
    let holds = |a: &str, b: &str| a == b || b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
    holds(a, b) || holds(b, a)
}
