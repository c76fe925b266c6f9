//! The log of dm-log-writes (drivers/md/dm-log-writes.c).
//!
//! A superblock in the first sector, then an entry after the other: one sector of head, then the data. All numbers are
//! little-endian. What was written without FUA is in the log only from the flush on that made it durable, so what a
//! prefix of the log makes is a state in which the power may have failed.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const SECTOR: u64 = 512;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// The mark that the kernel writes when the device is removed.
pub const END: &str = "dm-log-writes-end";

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Sectors that were written.
    Write {
        /// First sector.
        at: u64,
        /// What.
        bytes: Vec<u8>,
        /// It was durable when it was done.
        fua: bool,
    },
    /// Everything before it is durable.
    Flush,
    /// A word of the test.
    Mark(String),
}

/// Reads a whole log. One that the kernel did not end is refused: it may lack entries.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    entries(&file).with_context(|| format!("{}: no log of dm-log-writes that can be used", path.display()))
}

fn entries(file: &impl FileExt) -> Result<Vec<Entry>> {
    let head = sector(file, 0)?;
    ensure!(number(&head, 0) == MAGIC && number(&head, 8) == VERSION, "the superblock is another one");
    let (count, sector_bytes) = (number(&head, 16), u64::from(number(&head, 24) as u32));
    ensure!(sector_bytes == SECTOR, "its sectors have {sector_bytes} bytes");
    let mut entries = Vec::new();
    let mut at = 1;
    for index in 0..count {
        let head = sector(file, at)?;
        at += 1;
        let (to, len, flags) = (number(&head, 0), number(&head, 8), number(&head, 16));
        ensure!(flags & DISCARD == 0, "entry {index} is a discard, of which nobody knows what it leaves");
        if flags & MARK != 0 {
            let text = usize::try_from(number(&head, 24)).ok().and_then(|len| head.get(32..32 + len));
            let text = text.with_context(|| format!("entry {index} is a mark that is too long"))?;
            entries.push(Entry::Mark(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()));
            continue;
        }
        // A flush that brings data makes what is before it durable, not the data.
        if flags & FLUSH != 0 {
            entries.push(Entry::Flush);
        }
        if len > 0 {
            let mut bytes = vec![0; usize::try_from(len * SECTOR)?];
            file.read_exact_at(&mut bytes, at * SECTOR)?;
            entries.push(Entry::Write { at: to, bytes, fua: flags & FUA != 0 });
            at += len;
        }
    }
    match entries.last() {
        Some(Entry::Mark(text)) if text == END => Ok(entries),
        last => bail!("it does not end with “{END}” but with {last:?}"),
    }
}

fn sector(file: &impl FileExt, at: u64) -> Result<[u8; SECTOR as usize]> {
    let mut bytes = [0; SECTOR as usize];
    file.read_exact_at(&mut bytes, at * SECTOR)?;
    Ok(bytes)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that is all in memory.
    struct Bytes(Vec<u8>);

    impl FileExt for Bytes {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }

        fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::Unsupported.into())
        }
    }

    fn head(numbers: [u64; 4], text: &str) -> Vec<u8> {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).chain(text.bytes()).collect();
        bytes.resize(SECTOR as usize, 0);
        bytes
    }

    fn log(entries: &[Vec<u8>], count: u64) -> Bytes {
        Bytes([head([MAGIC, VERSION, count, SECTOR], "")].iter().chain(entries).flatten().copied().collect())
    }

    #[test]
    fn entries_are_read_in_order() {
        let end = head([0, 0, MARK, END.len() as u64], END);
        let log = log(
            &[
                head([8, 2, 0, 0], ""),
                vec![7; 1024],
                head([0, 0, FLUSH, 0], ""),
                head([16, 1, FUA, 0], ""),
                vec![9; 512],
                head([0, 0, MARK, 3], "now"),
                end,
            ],
            5,
        );
        let write = |at, bytes, fua| Entry::Write { at, bytes, fua };
        let mark = |text: &str| Entry::Mark(text.into());
        let wanted = [write(8, vec![7; 1024], false), Entry::Flush, write(16, vec![9; 512], true), mark("now"), mark(END)];
        assert_eq!(entries(&log).unwrap(), wanted);
    }

    #[test]
    fn what_is_no_whole_log_is_refused() {
        assert!(entries(&Bytes(vec![0; 4096])).is_err(), "no superblock");
        assert!(entries(&log(&[head([0, 0, FLUSH, 0], "")], 1)).is_err(), "not ended");
        assert!(entries(&log(&[head([8, 8, FUA, 0], "")], 1)).is_err(), "cut off");
        assert!(entries(&log(&[head([8, 8, DISCARD, 0], "")], 1)).is_err(), "a discard");
    }
}
