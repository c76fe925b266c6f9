//! SMART readings by smartctl: evidence of what a drive says about itself.
//!
//! `smartctl-rs` finds the devices; the readings are parsed by [`reading`], which takes every kind of drive and survives
//! any output. A reading never decides anything by itself.

#[cfg(test)]
mod generator;
pub mod reading;
pub mod suspects;

pub use reading::{ExitBits, Nvme, Scsi, SelfTest, SmartReading, changes, parse};
pub use suspects::Suspect;

use crate::memory::for_a_child;
use crate::model::TestKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long smartctl may take: a drive that is dying answers slowly, one that is dead not at all.
const TIME: Duration = Duration::from_secs(30);

/// What is read. Not `-a`, which leaves out the logs that name places; of these more than `-x` alone shows, so after it.
const READ: [&str; 5] = ["-x", "-l", "defects,1023", "-l", "xerror,64,error"];

/// Bit of smartctl's exit status: a command to the drive failed.
const COMMAND_FAILED: u8 = 0x04;

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub enum SmartError {
    /// smartctl is not there.
    #[error("smartctl is not installed: no SMART readings (install the package smartmontools)")]
    Missing,
    /// smartctl could not be run.
    #[error("smartctl cannot be run: {0}")]
    Run(std::io::Error),
    /// No answer.
    #[error("smartctl gave no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The drive sleeps and was not woken.
    #[error("the drive is asleep")]
    Asleep,
    /// The device could not be opened or gave no answer to the first command.
    #[error("smartctl cannot read the device: {0}")]
    Refused(String),
    /// The output is no JSON object of smartctl.
    #[error("smartctl's answer cannot be understood: {0}")]
    Unreadable(String),
}

/// A device that smartctl found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Node, for example `/dev/sda`, or `/dev/bus/0` behind a controller.
    pub node: String,
    /// smartctl's name of its type, for `-d`.
    pub kind: String,
}

/// Runs smartctl, and says only once that it is missing.
#[derive(Debug)]
pub struct SmartReader {
    program: PathBuf,
    time: Duration,
    told: AtomicBool,
}

impl Default for SmartReader {
    fn default() -> Self {
        SmartReader::new("smartctl", TIME)
    }
}

impl SmartReader {
    /// A reader that runs this program, with a time-out.
    pub fn new(program: impl Into<PathBuf>, time: Duration) -> SmartReader {
        SmartReader { program: program.into(), time, told: AtomicBool::new(false) }
    }

    /// The devices smartctl sees. Through `smartctl-rs`, which runs the `smartctl` of `PATH`.
    pub async fn scan(&self) -> Result<Vec<Scanned>, SmartError> {
        let scan = tokio::task::spawn_blocking(|| for_a_child(smartctl_rs::scan::scan_devices));
        let scanned = tokio::time::timeout(self.time, scan).await.map_err(|_| SmartError::Timeout(self.time))?;
        let scanned = scanned.map_err(|error| SmartError::Unreadable(error.to_string()))?;
        use smartctl_rs::error::SmartCtlError as E;
        match scanned {
            Ok(found) => Ok(found.into_iter().map(|device| Scanned { node: device.name, kind: device.dev_type }).collect()),
            Err(E::NotFound) => Err(self.missing()),
            Err(E::Io(error)) => Err(SmartError::Run(error)),
            Err(E::CommandFailed(why)) => Err(SmartError::Refused(why.trim().to_owned())),
            Err(E::Parse(error)) => Err(SmartError::Unreadable(error.to_string())),
        }
    }

    /// Reads a whole disk by its kernel name, for example `sda`. A drive that sleeps is not woken.
    pub async fn read(&self, disk: &str, scanned: &[Scanned]) -> Result<SmartReading, SmartError> {
        let node = node_of(disk);
        let kind = kind_of(&node, scanned);
        match self.ask(&READ, kind, &node).await {
            // smartctl knows bridges by their numbers. One that is new to it most likely speaks as nearly all do.
            Err(SmartError::Refused(why)) if kind == "auto" && why.contains("Unknown USB bridge") => {
                self.ask(&READ, "sat", &node).await.map_err(|_| SmartError::Refused(why))
            }
            other => other,
        }
    }

    /// Has a whole disk begin a self-test, which it does beside its other work. A drive that sleeps is not woken, and a test that is
    /// under way not ended.
    pub async fn start_test(&self, disk: &str, scanned: &[Scanned], test: TestKind) -> Result<(), SmartError> {
        let node = node_of(disk);
        let answer = self.ask(&["-t", test.word()], kind_of(&node, scanned), &node).await?;
        if answer.exit_bits.0 & COMMAND_FAILED == 0 {
            return Ok(());
        }
        Err(SmartError::Refused(match answer.messages.join("; ") {
            none if none.is_empty() => "it did not take the command".into(),
            why => why,
        }))
    }

    /// Runs smartctl, and reads what it prints.
    async fn ask(&self, order: &[&str], kind: &str, node: &Path) -> Result<SmartReading, SmartError> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["--json=c", "-n", "standby"]).args(order).args(["-d", kind, "--"]).arg(node);
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // The child is started by the call, not when its output is awaited.
        let output = match tokio::time::timeout(self.time, for_a_child(|| command.output())).await {
            Err(_) => return Err(SmartError::Timeout(self.time)),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return Err(self.missing()),
            Ok(Err(error)) => return Err(SmartError::Run(error)),
            Ok(Ok(output)) => output,
        };
        parse(&output.stdout, output.status.code())
    }

    fn missing(&self) -> SmartError {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("{}", SmartError::Missing);
        }
        SmartError::Missing
    }
}

/// The node of a whole disk. The kernel shows a “/” in a name as “!”.
fn node_of(disk: &str) -> PathBuf {
    Path::new("/dev").join(disk.replace('!', "/"))
}

/// The type to ask with. A plain scan calls every SATA disk “scsi”, and asking so hides its attributes: what smartctl
/// can find out by itself is left to it. Types that name a way through a controller are kept.
fn kind_of<'a>(node: &Path, scanned: &'a [Scanned]) -> &'a str {
    let found = scanned.iter().find(|device| Path::new(&device.node) == node).map(|device| device.kind.as_str());
    match found {
        Some(kind) if !["scsi", "ata", ""].contains(&kind) => kind,
        _ => "auto",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A smartctl that runs a shell script.
    fn fake(script: &str, time: Duration) -> (tempfile::TempDir, SmartReader) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("smartctl");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let reader = SmartReader::new(program, time);
        (dir, reader)
    }

    #[tokio::test]
    async fn a_missing_smartctl_is_an_error_of_its_own() {
        let reader = SmartReader::new("/nonexistent/smartctl", TIME);
        for _ in 0..3 {
            assert!(matches!(reader.read("sda", &[]).await, Err(SmartError::Missing)));
        }
        assert!(reader.told.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_silent_smartctl_is_given_up() {
        let (_dir, reader) = fake("exec sleep 60", Duration::from_millis(100));
        assert!(matches!(reader.read("sda", &[]).await, Err(SmartError::Timeout(_))));
    }

    #[tokio::test]
    async fn the_command_line_and_the_exit_bits_are_used() {
        let (_dir, reader) = fake(
            r#"echo "{\"smartctl\":{\"messages\":[{\"string\":\"$*\"}]},\"smart_status\":{\"passed\":false}}"; exit 8"#,
            TIME,
        );
        let reading = reader.read("sda", &[]).await.unwrap();
        assert_eq!(reading.messages, ["--json=c -n standby -x -l defects,1023 -l xerror,64,error -d auto -- /dev/sda"]);
        assert_eq!((reading.passed, reading.exit_bits), (Some(false), ExitBits(8)));
    }

    #[tokio::test]
    async fn a_self_test_is_started_and_a_refusal_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let seen = dir.path().join("seen");
        let (_program, reader) = fake(&format!("echo \"$*\" >>{}; echo '{{}}'", seen.display()), TIME);
        reader.start_test("sda", &[], TestKind::Short).await.unwrap();
        reader.start_test("sda", &[], TestKind::Long).await.unwrap();
        let lines = std::fs::read_to_string(&seen).unwrap();
        let line = |kind| format!("--json=c -n standby -t {kind} -d auto -- /dev/sda\n");
        assert_eq!(lines, line("short") + &line("long"));
        for (output, code, words) in [
            (r#"{"smartctl":{"messages":[{"string":"Self-test not supported"}]}}"#, 4, "not supported"),
            ("{}", 4, "did not take"),
            (r#"{"smartctl":{"messages":[{"string":"Device is in STANDBY mode, exit(2)"}]}}"#, 2, "asleep"),
        ] {
            let (_program, reader) = fake(&format!("echo '{output}'; exit {code}"), TIME);
            let error = reader.start_test("sda", &[], TestKind::Short).await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn a_bridge_that_smartctl_does_not_know_is_asked_as_most_bridges_are() {
        let unknown = r#"{"smartctl":{"messages":[{"string":"/dev/sda: Unknown USB bridge [0x152d:0x0561 (0x0201)]"}]}}"#;
        let only = |kind: &str| {
            format!("case \"$*\" in *'-d {kind} --'*) echo '{{\"serial_number\":\"S\"}}' ;; *) echo '{unknown}'; exit 1 ;; esac")
        };
        let (_dir, reader) = fake(&only("sat"), TIME);
        assert_eq!(reader.read("sda", &[]).await.unwrap().serial.as_deref(), Some("S"));
        let (_dir, reader) = fake(&only("other"), TIME);
        assert!(matches!(reader.read("sda", &[]).await, Err(SmartError::Refused(why)) if why.contains("Unknown USB bridge")));
    }

    #[test]
    fn disks_are_asked_by_the_right_type() {
        let scan = |node: &str, kind: &str| Scanned { node: node.into(), kind: kind.into() };
        let scanned =
            [scan("/dev/sda", "scsi"), scan("/dev/sdb", "sat"), scan("/dev/sdc", "sntrealtek"), scan("/dev/nvme0", "nvme")];
        for (disk, kind) in [("sda", "auto"), ("sdb", "sat"), ("sdc", "sntrealtek"), ("nvme0n1", "auto"), ("sdz", "auto")] {
            assert_eq!(kind_of(&node_of(disk), &scanned), kind, "{disk}");
        }
        assert_eq!(node_of("cciss!c0d0"), Path::new("/dev/cciss/c0d0"));
    }
}
