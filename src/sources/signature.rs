//! What a device already holds: file systems, partition tables, spares. Asked before a device becomes a member.

use super::tool::{PROBE_TIME, run};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

/// What every header on a spare begins with.
pub const SPARE_MAGIC: &[u8; 8] = b"RMPGUARD";

/// Why nothing is known of a device's content.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// It cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, std::io::Error),
    /// blkid failed.
    #[error("blkid {0}")]
    Probe(String),
}

/// What the device holds, in words; `None` if there is nothing that any tool would know.
///
/// blkid answers 2 both for “nothing” and for “cannot open”, so the device is read here first.
pub fn signature(node: &Path) -> Result<Option<String>, SignatureError> {
    let unreadable = |error| SignatureError::Unreadable(node.display().to_string(), error);
    if holds_spare(node).map_err(unreadable)? {
        return Ok(Some("a spare of remap-guardian".into()));
    }
    foreign(node)
}

/// What others left on the device, in words. The device can be read.
pub fn foreign(node: &Path) -> Result<Option<String>, SignatureError> {
    let mut command = blkid();
    command.args(["-p", "-o", "export", "--"]).arg(node);
    let output = run(&mut command, PROBE_TIME).map_err(SignatureError::Probe)?;
    judge(output.status.code(), &String::from_utf8_lossy(&output.stdout), &String::from_utf8_lossy(&output.stderr))
}

/// What the content can be named by, as blkid knows it: `UUID`, `LABEL`, `PARTUUID` and the like.
pub fn tags(node: &Path) -> Result<Vec<(String, String)>, SignatureError> {
    let mut command = blkid();
    command.args(["-c", "/dev/null", "-o", "export", "--"]).arg(node);
    let output = run(&mut command, PROBE_TIME).map_err(SignatureError::Probe)?;
    match output.status.code() {
        Some(0) => Ok(pairs(&String::from_utf8_lossy(&output.stdout))),
        Some(2) => Ok(Vec::new()),
        code => Err(SignatureError::Probe(format!("failed with {code:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))),
    }
}

/// `NAME=value` lines; blkid puts a backslash before what a shell would take apart.
fn pairs(export: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let mut plain = String::new();
        let mut chars = value.chars();
        while let Some(c) = chars.next() {
            plain.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        Some((name.to_owned(), plain))
    };
    export.lines().filter_map(pair).collect()
}

fn blkid() -> Command {
    // PATH need not hold sbin. It is not changed for the child: that would make starting one a plain fork.
    let places = ["/usr/sbin/blkid", "/sbin/blkid"];
    let mut command = Command::new(places.into_iter().find(|place| Path::new(place).exists()).unwrap_or("blkid"));
    command.env("LC_ALL", "C");
    command
}

/// Whether a header of ours is at the start, or in the last whole 4096 bytes, of the device.
pub fn holds_spare(node: &Path) -> std::io::Result<bool> {
    let mut file = File::open(node)?;
    let size = file.seek(SeekFrom::End(0))?;
    for at in [0, (size / 4096).saturating_sub(1) * 4096] {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; SPARE_MAGIC.len()];
        match file.read_exact(&mut head) {
            Ok(()) if &head == SPARE_MAGIC => return Ok(true),
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// What blkid's answer means.
fn judge(code: Option<i32>, stdout: &str, stderr: &str) -> Result<Option<String>, SignatureError> {
    match code {
        Some(0) => Ok(Some(describe(stdout))),
        Some(2) => Ok(None),
        Some(8) => Ok(Some("signatures of several kinds (wipefs lists them)".into())),
        other => {
            let code = other.map_or_else(|| "was killed".to_owned(), |code| format!("failed with {code}"));
            Err(SignatureError::Probe(format!("{code}: {}", stderr.trim())))
        }
    }
}

fn describe(export: &str) -> String {
    let value = |key: &str| export.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).filter(|v| !v.is_empty());
    let label = value("LABEL").map(|label| format!(" “{label}”")).unwrap_or_default();
    match (value("TYPE"), value("PTTYPE")) {
        (Some(kind), _) => format!("{kind}{label}"),
        (None, Some(table)) => format!("a partition table ({table})"),
        (None, None) => "a signature that blkid does not name".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blkids_answers_are_judged() {
        assert_eq!(judge(Some(2), "", "").unwrap(), None);
        assert_eq!(judge(Some(0), "DEVNAME=/dev/x\nTYPE=ext4\nLABEL=data\n", "").unwrap().unwrap(), "ext4 “data”");
        assert_eq!(judge(Some(0), "PTTYPE=gpt\n", "").unwrap().unwrap(), "a partition table (gpt)");
        assert!(judge(Some(8), "", "").unwrap().is_some(), "ambivalent is not free");
        assert!(judge(Some(0), "", "").unwrap().is_some());
        assert!(judge(Some(4), "", "usage").is_err());
        assert!(judge(None, "", "").is_err());
    }

    #[test]
    fn tags_are_read_as_they_are() {
        let found = pairs("DEVNAME=/dev/x\nLABEL=my\\ disk\\\\\n\nUUID=1-2\n");
        assert_eq!(found[1..], [("LABEL".into(), "my disk\\".into()), ("UUID".into(), "1-2".into())]);
    }

    #[test]
    fn our_own_magic_is_found_at_both_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 3 * 4096 + 512];
        for at in [0, 2 * 4096] {
            bytes[at..at + 8].copy_from_slice(SPARE_MAGIC);
            std::fs::write(file.path(), &bytes).unwrap();
            assert_eq!(signature(file.path()).unwrap().unwrap(), "a spare of remap-guardian");
            bytes.fill(0);
        }
        std::fs::write(file.path(), &bytes).unwrap();
        assert!(!holds_spare(file.path()).unwrap());
    }

    #[test]
    fn an_unreadable_device_is_not_empty() {
        assert!(matches!(signature(Path::new("/dev/absent")), Err(SignatureError::Unreadable(..))));
    }

    #[test]
    fn blkid_knows_a_partition_table() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0; 1 << 20]).unwrap();
        match signature(file.path()) {
            Ok(None) => {}
            Err(SignatureError::Probe(why)) if why.contains("cannot be run") => return,
            other => panic!("{other:?}"),
        }
        // A swap header: page size minus ten bytes into the file.
        let mut bytes = vec![0; 1 << 20];
        bytes[1024..1032].copy_from_slice(&[1, 0, 0, 0, 255, 0, 0, 0]);
        bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
        std::fs::write(file.path(), &bytes).unwrap();
        assert_eq!(signature(file.path()).unwrap().unwrap(), "swap");
    }
}
