//! What device-mapper says in the kernel log while it refuses a call: its errno alone is nearly always EINVAL.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// A read that is too small for a record fails; the kernel's longest is 8 KiB.
const RECORD_BYTES: usize = 16 * 1024;
/// Others use device-mapper too: not more than this is ours.
const LINES: usize = 4;

/// The kernel log from a moment on.
pub(super) struct KernelLog(Option<File>);

impl KernelLog {
    /// From now on. Where the log cannot be read it stays empty: it is a help, no more.
    pub(super) fn from_now() -> KernelLog {
        let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg");
        KernelLog(file.and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file)).ok())
    }

    /// What device-mapper has said since.
    pub(super) fn lines(self) -> Vec<String> {
        let Some(mut file) = self.0 else { return Vec::new() };
        let mut record = vec![0; RECORD_BYTES];
        let mut lines = Vec::new();
        while let Ok(len @ 1..) = file.read(&mut record) {
            lines.extend(message(&record[..len]));
        }
        lines.truncate(LINES);
        lines
    }
}

/// The text of a record `<priority>,<sequence>,<time>,<flags>;<text>` if it is device-mapper's.
fn message(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (_, text) = record.split_once(';')?;
    Some(text.lines().next()?.strip_prefix("device-mapper: ")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_device_mapper_is_heard() {
        let record = b"3,601,1234,-;device-mapper: table: 253:0: linear: Device lookup failed\n SUBSYSTEM=block\n";
        assert_eq!(message(record).unwrap(), "table: 253:0: linear: Device lookup failed");
        assert_eq!(message(b"6,602,1235,-;sda: sda1\n"), None);
        assert_eq!(message(b"no record"), None);
    }
}
