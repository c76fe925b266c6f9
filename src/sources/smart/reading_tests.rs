use super::super::generator::{self, Damage, Made, Truth};
use super::*;
use proptest::prelude::*;

const SATA: &str = r#"{
  "json_format_version": [1, 0],
  "smartctl": {"version": [7, 3], "exit_status": 64, "messages": [{"string": "Warning: something odd", "severity": "warning"}]},
  "device": {"name": "/dev/sda", "info_name": "/dev/sda [SAT]", "type": "sat", "protocol": "ATA"},
  "model_name": "ACME 4T", "serial_number": "AC-1",
  "smart_status": {"passed": true},
  "ata_smart_attributes": {"revision": 16, "table": [
    {"id": 5, "name": "Reallocated_Sector_Ct", "value": 100, "raw": {"value": 8, "string": "8"}},
    {"id": 9, "name": "Power_On_Hours", "value": 50, "raw": {"value": 97568523698765, "string": "12345h+11m+02.1s"}},
    {"id": 187, "name": "Reported_Uncorrect", "raw": {"value": 3, "string": "3"}},
    {"id": 194, "name": "Temperature_Celsius", "raw": {"value": 77309411366, "string": "38 (0 18 0 0 0)"}},
    {"id": 196, "name": "Reallocated_Event_Count", "raw": {"value": 4295229440, "string": "2 (1, 4)"}},
    {"id": 197, "name": "Current_Pending_Sector", "raw": {"value": 281474976710659, "string": "oops"}},
    {"id": 198, "name": "Offline_Uncorrectable", "raw": {"value": 1}},
    {"id": 199, "name": "UDMA_CRC_Error_Count", "raw": "0"}
  ]},
  "temperature": {"current": 38}, "power_on_time": {"hours": 12345, "minutes": 11}
}"#;

const NVME: &str = r#"{
  "smartctl": {"version": [7, 4], "exit_status": 0},
  "serial_number": "NV-1", "smart_status": {"passed": true, "nvme": {"value": 0}},
  "nvme_smart_health_information_log": {"nsid": -1, "critical_warning": 4, "temperature": 41, "available_spare": 97,
    "available_spare_threshold": 10, "percentage_used": 12, "data_units_read": [1, 2, 3], "media_errors": 5,
    "num_err_log_entries_s": "18446744073709551615", "temperature_sensors": [41, null, 52]},
  "temperature": {"current": 41}, "power_on_time": {"hours": 99}
}"#;

const SCSI: &str = r#"{
  "smart_status": {"passed": false},
  "scsi_grown_defect_list": 17,
  "scsi_error_counter_log": {"read": {"errors_corrected_by_eccfast": 9, "total_uncorrected_errors": 2},
    "write": {"total_uncorrected_errors": 1}, "verify": {}}
}"#;

fn read(text: &str) -> SmartReading {
    parse(text.as_bytes(), Some(0)).unwrap()
}

#[test]
fn a_sata_disk_is_read_and_packed_values_are_not_misread() {
    let reading = parse(SATA.as_bytes(), Some(64)).unwrap();
    assert_eq!(
        reading.attributes,
        [
            (Counter::ReallocatedSectors, 8),
            (Counter::ReportedUncorrectable, 3),
            (Counter::ReallocationEvents, 2),
            (Counter::PendingSectors, 3),
            (Counter::OfflineUncorrectable, 1),
        ]
    );
    assert_eq!((reading.passed, reading.temperature, reading.power_on_hours), (Some(true), Some(38), Some(12345)));
    assert_eq!(reading.exit_bits.words(), ["the error log has entries"]);
    assert_eq!(reading.messages, ["Warning: something odd"]);
    assert_eq!(
        reading.summary(),
        "SMART: passed, reallocated sectors 8, reported uncorrectable errors 3, reallocation events 2, pending sectors 3, \
         offline uncorrectable sectors 1, 38 °C, 12345 h"
    );
}

#[test]
fn an_nvme_disk_with_arrays_in_its_log_is_read() {
    let nvme = read(NVME).nvme.unwrap();
    assert_eq!((nvme.critical_warning, nvme.media_errors, nvme.percentage_used), (Some(4), Some(5), Some(12)));
    assert_eq!((nvme.available_spare, nvme.error_log_entries), (Some(97), Some(u64::MAX)));
    let lying = NVME.replace(r#""media_errors": 5"#, r#""media_errors": [5]"#);
    assert_eq!(read(&lying).nvme.unwrap().media_errors, None, "an array is not a count");
}

#[test]
fn a_scsi_disk_is_read() {
    let reading = read(SCSI);
    let expected = Scsi { grown_defects: Some(17), read_uncorrected: Some(2), write_uncorrected: Some(1) };
    assert_eq!((reading.scsi, reading.passed), (Some(expected), Some(false)));
}

#[test]
fn no_answer_is_a_typed_error() {
    for (stdout, code) in
        [("", Some(0)), ("{\"a\":", Some(0)), ("[]", Some(0)), ("null", Some(0)), ("text", Some(0)), ("{}", None)]
    {
        assert!(matches!(parse(stdout.as_bytes(), code), Err(SmartError::Unreadable(_))), "{stdout}");
    }
    let message = |text: &str| format!(r#"{{"smartctl":{{"messages":[{{"string":"{text}","severity":"error"}}]}}}}"#);
    let asleep = message("Device is in STANDBY mode, exit(2)");
    assert!(matches!(parse(asleep.as_bytes(), Some(2)), Err(SmartError::Asleep)));
    let absent = message("Smartctl open device: /dev/sdz failed: No such device");
    assert!(matches!(parse(absent.as_bytes(), Some(2)), Err(SmartError::Refused(why)) if why.contains("No such device")));
    assert!(matches!(parse(b"{}", Some(1)), Err(SmartError::Refused(_))));
    assert_eq!(read("{}"), SmartReading::default());
}

#[test]
fn only_what_gets_worse_is_told() {
    let before = read(SATA);
    assert!(changes(&before, &before).is_empty());
    let after = read(&SATA.replace(r#""value": 8, "string": "8""#, r#""value": 9, "string": "9""#).replace("true", "false"));
    assert_eq!(changes(&before, &after), ["the drive now says that it is failing", "reallocated sectors: 8 → 9"]);
    assert!(changes(&after, &before).is_empty(), "a counter that falls is no worsening");
    let other = read(&SATA.replace("AC-1", "AC-2").replace("true", "false"));
    assert!(changes(&before, &other).is_empty(), "another drive");
    let (nvme, worn) =
        (read(NVME), read(&NVME.replace(": 97", ": 90").replace("\"critical_warning\": 4", "\"critical_warning\": 5")));
    assert_eq!(changes(&nvme, &worn), ["critical warning: 0x04 → 0x05", "spare blocks left: 97 % → 90 %"]);
    let logged = SmartReading { exit_bits: ExitBits(0x40), ..before.clone() };
    assert_eq!(changes(&before, &logged), ["now the error log has entries"]);
    assert!(changes(&SmartReading::default(), &SmartReading { attributes: before.attributes, ..Default::default() }).is_empty());
}

/// PHY event counters as drives show them: row by row (id, value).
fn phy(rows: &[(u64, Value)]) -> SmartReading {
    let row = |(id, value): &(u64, Value)| serde_json::json!({"id": id, "name": "x", "size": 2, "value": value, "overflow": *value == 65535});
    let table: Vec<Value> = rows.iter().map(row).collect();
    read(&serde_json::json!({"serial_number": "S", "sata_phy_event_counters": {"table": table, "reset": false}}).to_string())
}

#[test]
fn phy_events_that_count_damage_are_read_and_their_growth_is_told() {
    let drive = |icrc: u64, data: u64, crc: u64| {
        let rows = [(1, icrc), (2, data), (3, 7), (4, data), (5, 2), (9, 461), (10, 8), (11, crc), (13, 1), (0x8e00, 5)];
        phy(&rows.map(|(id, n)| (id, n.into())))
    };
    let (before, after) = (drive(0, 0, 3), drive(1, 2, 4));
    let expected = [(Counter::IcrcFailures, 1), (Counter::DataFisRErr, 2), (Counter::FisCrcErrors, 4)];
    assert_eq!((&after.phy_events[..], after.counters()), (&expected[..], expected.into()));
    assert_eq!(
        changes(&before, &after),
        [
            "commands failed with ICRC: 0 → 1",
            "data FISes answered with R_ERR: 0 → 2",
            "host-to-device FISes with CRC errors: 3 → 4",
        ]
    );
    assert!(after.summary().contains("data FISes answered with R_ERR 2"), "{}", after.summary());
    // A drive that counts the directions and the reasons only.
    let apart = phy(&[(3, 5), (4, 6), (15, 1), (18, 2), (7, 90)].map(|(id, n)| (id, n.into())));
    assert_eq!(apart.phy_events, [(Counter::DataFisRErr, 11), (Counter::FisCrcErrors, 3)]);
}

#[test]
fn a_reboot_a_suspend_and_a_full_counter_are_no_news_of_the_link() {
    let drive = |damage: u64, resets: u64| {
        let harmless = [5, 6, 7, 8, 9, 10, 13, 16, 19, 0xc00, 0x8000, 0x8e00].map(|id| (id, resets.into()));
        let counting = [1, 2, 3, 4, 11, 15, 18].map(|id| (id, damage.into()));
        phy(&[&harmless[..], &counting[..]].concat())
    };
    // A reset by the host keeps the counts, a loss of power does not, nor does `-l sataphy,reset`.
    for (before, after) in [((9, 1), (9, 4)), ((9, 4), (0, 1)), ((9, 4), (3, 400)), ((65535, 1), (65535, 2))] {
        assert_eq!(changes(&drive(before.0, before.1), &drive(after.0, after.1)), Vec::<String>::new(), "{before:?} {after:?}");
    }
    assert_eq!(changes(&drive(0, 1), &drive(2, 1)).len(), 3, "what comes after that is told again");
}

#[test]
fn phy_events_that_make_no_sense_are_left_out() {
    let huge: Value = serde_json::from_str("1e300").unwrap();
    for value in [Value::Null, true.into(), (-1).into(), 1.5.into(), huge, "x".into(), vec![3].into()] {
        let reading = phy(&[(1, value.clone()), (2, value.clone()), (3, 1.into()), (4, 2.into()), (15, 4.into()), (18, value)]);
        assert_eq!(reading.phy_events, [], "no other count stands in for one that does not read");
    }
    let most = phy(&[(1, u64::MAX.into()), (3, u64::MAX.into()), (4, 2.into()), (1, 5.into())]);
    assert_eq!(most.phy_events, [(Counter::IcrcFailures, u64::MAX), (Counter::DataFisRErr, u64::MAX)]);
    for odd in ["[]", "7", "{}", r#"{"table": {"id": 1}}"#, r#"{"table": [null, 1, [], {"id": [1], "value": 2}, {"value": 2}]}"#]
    {
        assert_eq!(read(&format!(r#"{{"sata_phy_event_counters": {odd}}}"#)).phy_events, [], "{odd}");
    }
    assert_eq!(phy(&[(3, 1.into()), (0x8001, 2.into()), (0x1001, 2.into())]).phy_events, [], "one half is not the whole");
    // Known to one of the two readings only.
    assert_eq!(changes(&phy(&[]), &phy(&[(1, 5.into())])), Vec::<String>::new());
}

/// Any JSON, not too deep.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9a-zé(/ .]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(inner, 3).prop_map(|v| serde_json::json!({"id": v[0], "raw": {"value": v[1], "string": v[2]}})),
        ]
    })
}

proptest! {
    #[test]
    fn no_output_makes_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), code in any::<Option<i32>>()) {
        let _ = parse(&bytes, code);
    }

    #[test]
    fn a_truncated_answer_is_an_error_or_a_reading(cut in 0usize..2000, bytes in prop::sample::select(vec![SATA, NVME, SCSI])) {
        let _ = parse(&bytes.as_bytes()[..cut.min(bytes.len())], Some(0));
    }

    #[test]
    fn any_type_in_any_place_is_survived(v in prop::collection::vec(json(), 8)) {
        let value = serde_json::json!({
            "smartctl": {"messages": v[0]}, "smart_status": {"passed": v[1]}, "ata_smart_attributes": {"table": [v[2], {"id": 5, "raw": v[3]}]},
            "nvme_smart_health_information_log": {"media_errors": v[4], "critical_warning": v[5]},
            "sata_phy_event_counters": {"table": [v[2], {"id": 1, "value": v[3]}, {"id": v[4], "value": 5}, {"id": 3, "value": v[5]}, {"id": 4, "value": v[6]}]},
            "scsi_error_counter_log": v[6], "temperature": {"current": v[7]}, "power_on_time": v[0], "serial_number": v[1],
        });
        let reading = parse(value.to_string().as_bytes(), Some(0)).unwrap();
        let _ = reading.summary();
        let _ = changes(&SmartReading::default(), &reading);
    }
}

/// What a drive names must all be read, and nothing else.
fn named(made: &Made) -> Vec<Suspect> {
    let suspect = |truth: &Truth| match truth {
        Truth::Names(suspect) => Some(*suspect),
        _ => None,
    };
    let mut named: Vec<Suspect> = made.facts.iter().filter_map(|fact| suspect(&fact.truth)).collect();
    named.sort();
    named.dedup();
    named
}

proptest! {
    #[test]
    fn whatever_a_generated_drive_says_is_read(made in generator::drives(), bits in 0u8..64) {
        let reading = parse(made.output.to_string().as_bytes(), Some(i32::from(bits << 2))).unwrap();
        for fact in &made.facts {
            prop_assert!(fact.truth.is_in(&reading), "{fact:?} in {reading:?}\n{}", made.output);
        }
        prop_assert_eq!(reading.suspects, named(&made));
    }

    #[test]
    fn what_is_whole_beside_something_damaged_is_read(
        made in generator::drives(),
        damages in prop::collection::vec((any::<prop::sample::Index>(), generator::damage()), 1..6),
    ) {
        let places = generator::places(&made.output);
        let damages: Vec<(&String, &Damage)> = damages.iter().map(|(at, damage)| (at.get(&places), damage)).collect();
        let mut output = made.output.clone();
        for (at, damage) in &damages {
            generator::spoil(&mut output, at, damage);
        }
        let reading = parse(output.to_string().as_bytes(), Some(0)).unwrap();
        let _ = (reading.summary(), changes(&SmartReading::default(), &reading), changes(&reading, &SmartReading::default()));
        for fact in &made.facts {
            let is_whole = fact.from.iter().all(|from| damages.iter().all(|(at, _)| !generator::touches(at, from)));
            prop_assert!(!is_whole || fact.truth.is_in(&reading), "{fact:?} after {damages:?} in {reading:?}");
        }
    }

    #[test]
    fn output_that_is_cut_short_is_refused(made in generator::drives(), at in any::<prop::sample::Index>()) {
        let text = made.output.to_string();
        let cut = at.index(text.len());
        prop_assert!(matches!(parse(&text.as_bytes()[..cut], Some(0)), Err(SmartError::Unreadable(_))));
    }
}
