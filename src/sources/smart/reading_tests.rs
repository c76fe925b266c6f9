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
            (Attribute::ReallocatedSectors, 8),
            (Attribute::ReportedUncorrectable, 3),
            (Attribute::ReallocationEvents, 2),
            (Attribute::PendingSectors, 3),
            (Attribute::OfflineUncorrectable, 1),
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
            "scsi_error_counter_log": v[6], "temperature": {"current": v[7]}, "power_on_time": v[0], "serial_number": v[1],
        });
        let reading = parse(value.to_string().as_bytes(), Some(0)).unwrap();
        let _ = reading.summary();
        let _ = changes(&SmartReading::default(), &reading);
    }
}
