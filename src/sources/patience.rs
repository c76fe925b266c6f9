//! How long a drive tries to read or write a sector, and how long the kernel waits for it.

use super::smart::reading::{is_asleep, messages};
use super::tool::{PROBE_TIME, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// How long a drive tries before it reports an error: SCT error recovery control (ACS-4, 8.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// For so long, ms.
    Bounded {
        /// Reads.
        read_ms: u64,
        /// Writes.
        write_ms: u64,
    },
    /// As long as it likes: it could be bounded, and is not.
    Unbounded,
    /// Nobody can tell: the drive has no such setting.
    Unknown,
}

/// What there is to know of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The drive's.
    pub drive: Recovery,
    /// The kernel's time-out for one command, ms; none where the driver has none (`/sys/block/<disk>/device/timeout`).
    pub kernel_ms: Option<u64>,
}

/// Asks a whole disk by its kernel name, for example `sda`. `None` for disks that are not ATA.
///
/// # Errors
/// If smartctl cannot be run or does not answer, in words.
pub fn of(disk: &str) -> Result<Option<Patience>, String> {
    let mut command = Command::new("smartctl");
    command.env("LC_ALL", "C").args(["--json=c", "-n", "standby", "-i", "-l", "scterc", "--"]).arg(format!("/dev/{disk}"));
    let output = run(&mut command, PROBE_TIME).map_err(|why| format!("smartctl {why}"))?;
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("smartctl: {error}"))?;
    if is_asleep(&messages(&answer)) {
        return Err("it sleeps, and was not woken to ask how long it tries".into());
    }
    let seconds = std::fs::read_to_string(Path::new("/sys/block").join(disk).join("device/timeout"));
    let kernel_ms = seconds.ok().and_then(|text| text.trim().parse::<u64>().ok()).map(|seconds| seconds * 1000);
    Ok(recovery(&answer).map(|drive| Patience { drive, kernel_ms }))
}

/// From smartctl's `--json -l scterc`.
fn recovery(answer: &Value) -> Option<Recovery> {
    if answer["device"]["protocol"] != "ATA" {
        return None;
    }
    let erc = &answer["ata_sct_erc"];
    if !erc.is_object() {
        return Some(Recovery::Unknown);
    }
    // A limit of 0 is none.
    let bound = |which: &str| {
        let is_on = erc[which]["enabled"] == true;
        erc[which]["deciseconds"].as_u64().filter(|limit| is_on && *limit > 0).map(|limit| limit * 100)
    };
    Some(match (bound("read"), bound("write")) {
        (Some(read_ms), Some(write_ms)) => Recovery::Bounded { read_ms, write_ms },
        _ => Recovery::Unbounded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_drive_says_of_its_patience() {
        let with = |erc: Value| recovery(&json!({"device": {"protocol": "ATA"}, "ata_sct_erc": erc}));
        let on = |limit: u64| json!({"enabled": true, "deciseconds": limit});
        assert_eq!(with(json!({"read": on(70), "write": on(80)})), Some(Recovery::Bounded { read_ms: 7000, write_ms: 8000 }));
        for off in [json!({"read": {"enabled": false}, "write": {"enabled": false}}), json!({"read": on(70)}), json!({})] {
            assert_eq!(with(off), Some(Recovery::Unbounded));
        }
        assert_eq!(with(json!({"read": on(0), "write": on(70)})), Some(Recovery::Unbounded));
        assert_eq!(with(Value::Null), Some(Recovery::Unknown));
        assert_eq!(with(json!([70])), Some(Recovery::Unknown));
        assert_eq!(recovery(&json!({"device": {"protocol": "NVMe"}})), None);
        assert_eq!(recovery(&json!([])), None);
    }
}
