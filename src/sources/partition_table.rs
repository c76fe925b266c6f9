//! The partition table on a device, as libblkid reads it: GPT, MBR with its logical partitions, and what else it knows.

use super::tool::{PROBE_TIME, run};
use crate::actuate::partitions::Partition;
use std::path::Path;
use std::process::Command;

/// What MBR calls the container of logical partitions: it holds no data of its own.
const EXTENDED: [&str; 3] = ["0x5", "0xf", "0x85"];

/// The partitions of a device; `None` if it has no partition table, or none that can be read: partx does not tell which.
///
/// It is read by partx, which opens the device for reading only, so that no udev event comes of it.
///
/// # Errors
/// If partx cannot be run, in words.
pub fn read(node: &Path) -> Result<Option<Vec<Partition>>, String> {
    let mut command = Command::new("partx");
    command.env("LC_ALL", "C").args(["--raw", "--noheadings", "--output", "NR,START,SECTORS,TYPE", "--"]).arg(node);
    let output = run(&mut command, PROBE_TIME).map_err(|why| format!("partx {why}"))?;
    Ok(output.status.success().then(|| parse(&String::from_utf8_lossy(&output.stdout))))
}

fn parse(listing: &str) -> Vec<Partition> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let mut number = || words.next()?.parse::<u64>().ok();
        let (number, start, sectors) = (u32::try_from(number()?).ok()?, number()?, number()?);
        let container = words.next().is_some_and(|kind| EXTENDED.contains(&kind));
        (!container && number > 0 && sectors > 0).then_some(Partition { number, start, sectors })
    };
    listing.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: u8, start: u32, sectors: u32) -> [u8; 16] {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..].copy_from_slice(&sectors.to_le_bytes());
        entry
    }

    #[test]
    fn partx_reads_what_is_on_a_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut disk = vec![0; 4 << 20];
        std::fs::write(file.path(), &disk).unwrap();
        match read(file.path()) {
            Ok(none) => assert_eq!(none, None),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return;
            }
        }
        disk[446..462].copy_from_slice(&entry(0x83, 64, 128));
        disk[462..478].copy_from_slice(&entry(0x05, 1024, 2048));
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[1024 * 512 + 446..][..16].copy_from_slice(&entry(0x83, 64, 256));
        disk[1024 * 512 + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(file.path(), &disk).unwrap();
        let (first, logical) =
            (Partition { number: 1, start: 64, sectors: 128 }, Partition { number: 5, start: 1088, sectors: 256 });
        assert_eq!(read(file.path()).unwrap(), Some(vec![first, logical]), "the container is no partition");
    }

    #[test]
    fn odd_lines_are_no_partitions() {
        assert_eq!(
            parse("1 2048\n0 8 8\nx 8 8 0x83\n2 8 0 0x83\n99999999999 8 8\n3 16 8\n"),
            [Partition { number: 3, start: 16, sectors: 8 }]
        );
    }
}
