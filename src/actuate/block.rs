//! Raw block I/O on a real device or file: `O_DIRECT`, past every cache of the host.

use crate::edge::{BlockIo, IoError};
use crate::model::units::SECTOR_BYTES;
use crate::model::{Sector, Sectors};
use aligned_vec::{AVec, ConstAlign};
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Alignment of the buffer in memory: the largest logical block.
const ALIGN: usize = 4096;

/// Size of the buffer, and with it of one request to the kernel.
const CHUNK: usize = 256 << 10;

type Buffer = AVec<u8, ConstAlign<ALIGN>>;

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// For writing too.
    pub write: bool,
    /// Only if nothing else has the device: no mount, no device-mapper device, no other exclusive opener (`O_EXCL`).
    pub exclusive: bool,
}

impl Access {
    /// Reading only.
    pub const READ: Access = Access { write: false, exclusive: false };
    /// Reading and writing.
    pub const WRITE: Access = Access { write: true, exclusive: false };
    /// Reading and writing, and nobody else has it.
    pub const SOLE: Access = Access { write: true, exclusive: true };
}

/// An open block device, or a file that stands for one.
///
/// The buffer is allocated once, when the device is opened: no I/O needs memory. One request runs at a time; a second thread
/// opens the device again.
#[derive(Debug)]
pub struct DirectDevice {
    fd: OwnedFd,
    path: PathBuf,
    size: Sectors,
    logical_block: u32,
    buffer: Mutex<Buffer>,
    no_dsync: AtomicBool,
}

impl DirectDevice {
    /// Opens `path`. A regular file counts as a device with 512-byte blocks.
    pub fn open(path: impl AsRef<Path>, access: Access) -> Result<DirectDevice, IoError> {
        let path = path.as_ref().to_owned();
        let failed = |what: &str, error: Errno| classify(error, format!("{}: cannot {what}: {error}", path.display()));
        let mut flags = OFlags::DIRECT | OFlags::CLOEXEC | if access.write { OFlags::RDWR } else { OFlags::RDONLY };
        if access.exclusive {
            flags |= OFlags::EXCL;
        }
        let fd = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| failed("open it", error))?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed("stat it", error))?;
        let logical_block = match FileType::from_raw_mode(stat.st_mode) {
            FileType::BlockDevice => rustix::fs::ioctl_blksszget(&fd).map_err(|error| failed("ask for its block size", error))?,
            FileType::RegularFile => 512,
            _ => return Err(IoError::Other(format!("{}: neither a block device nor a file", path.display()))),
        };
        if !logical_block.is_power_of_two() || !(512..=ALIGN as u32).contains(&logical_block) {
            return Err(IoError::Other(format!("{}: logical blocks of {logical_block} bytes", path.display())));
        }
        let bytes = rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(|error| failed("find its end", error))?;
        let mut buffer = Buffer::new(ALIGN);
        buffer.resize(CHUNK, 0);
        Ok(DirectDevice {
            fd,
            path,
            size: Sectors::from_bytes(bytes),
            logical_block,
            buffer: Mutex::new(buffer),
            no_dsync: AtomicBool::new(false),
        })
    }

    /// Major and minor number of what was opened; none for a file.
    pub fn devno(&self) -> Result<Option<(u32, u32)>, IoError> {
        let failed = |error: Errno| classify(error, format!("{}: cannot stat it: {error}", self.path.display()));
        let stat = rustix::fs::fstat(&self.fd).map_err(failed)?;
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        Ok(is_device.then(|| (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))))
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        // A panic elsewhere leaves bytes in the buffer that nobody reads before they are replaced.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, what: &str, byte: u64, error: Errno) -> IoError {
        classify(error, format!("{}: {what} at sector {}: {error}", self.path.display(), byte / SECTOR_BYTES))
    }

    /// The byte where a request starts, if all of it lies on the device in whole blocks.
    fn range(&self, what: &str, at: Sector, len: usize) -> Result<u64, IoError> {
        let block = u64::from(self.logical_block);
        let bytes = self.size.bytes();
        let start = at.bytes().filter(|start| start.checked_add(len as u64).is_some_and(|end| end <= bytes));
        let refused = |why: &str| IoError::Other(format!("{}: {what} of {len} bytes at sector {at}: {why}", self.path.display()));
        let start = start.ok_or_else(|| refused("beyond the end of the device"))?;
        if start % block != 0 || !(len as u64).is_multiple_of(block) {
            return Err(refused("not in whole logical blocks"));
        }
        Ok(start)
    }

    fn read_at(&self, mut start: u64, buf: &mut [u8]) -> Result<(), IoError> {
        let mut buffer = self.buffer();
        for piece in buf.chunks_mut(CHUNK) {
            let mut done = 0;
            while done < piece.len() {
                let at = start + done as u64;
                let into = &mut [IoSliceMut::new(&mut buffer[done..piece.len()])];
                match rustix::io::preadv(&self.fd, into, at) {
                    Ok(0) => {
                        return Err(IoError::Other(format!("{}: the device ended at sector {}", self.path.display(), at / 512)));
                    }
                    Ok(count) => done += self.whole_blocks(count, "read", at)?,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(self.failed("read", at, error)),
                }
            }
            piece.copy_from_slice(&buffer[..piece.len()]);
            start += piece.len() as u64;
        }
        Ok(())
    }

    fn write_at(&self, mut start: u64, buf: &[u8], flags: ReadWriteFlags) -> Result<(), IoError> {
        let mut buffer = self.buffer();
        for piece in buf.chunks(CHUNK) {
            buffer[..piece.len()].copy_from_slice(piece);
            let mut done = 0;
            while done < piece.len() {
                let at = start + done as u64;
                match self.write_some(&buffer[done..piece.len()], at, flags) {
                    Ok(0) => {
                        return Err(IoError::Other(format!("{}: wrote nothing at sector {}", self.path.display(), at / 512)));
                    }
                    Ok(count) => done += self.whole_blocks(count, "write", at)?,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(self.failed("write", at, error)),
                }
            }
            start += piece.len() as u64;
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8], at: u64, flags: ReadWriteFlags) -> Result<usize, Errno> {
        let from = &[IoSlice::new(bytes)];
        if flags.is_empty() || self.no_dsync.load(Ordering::Relaxed) {
            return rustix::io::pwritev(&self.fd, from, at);
        }
        match rustix::io::pwritev2(&self.fd, from, at, flags) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.no_dsync.store(true, Ordering::Relaxed);
                rustix::io::pwritev(&self.fd, from, at)
            }
            result => result,
        }
    }

    /// Direct I/O goes on only at a block boundary.
    fn whole_blocks(&self, count: usize, what: &str, at: u64) -> Result<usize, IoError> {
        if count.is_multiple_of(self.logical_block as usize) {
            return Ok(count);
        }
        let text = format!("{}: {what} at sector {} ended after {count} bytes", self.path.display(), at / SECTOR_BYTES);
        Err(IoError::Other(text))
    }
}

/// The error that a number means.
fn classify(error: Errno, text: String) -> IoError {
    match error {
        Errno::IO | Errno::NODATA | Errno::REMOTEIO => IoError::Medium(text),
        _ => IoError::Other(text),
    }
}

impl BlockIo for DirectDevice {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        let start = self.range("read", at, buf.len())?;
        self.read_at(start, buf)
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        let start = self.range("write", at, buf.len())?;
        self.write_at(start, buf, ReadWriteFlags::empty())
    }

    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        let start = self.range("write", at, buf.len())?;
        self.write_at(start, buf, ReadWriteFlags::DSYNC)?;
        if self.no_dsync.load(Ordering::Relaxed) { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), IoError> {
        rustix::fs::fdatasync(&self.fd).map_err(|error| classify(error, format!("{}: flush: {error}", self.path.display())))
    }

    fn size(&self) -> Sectors {
        self.size
    }

    fn logical_block(&self) -> u32 {
        self.logical_block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> tempfile::NamedTempFile {
        // Not in /tmp, which may be a tmpfs without direct I/O.
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read() {
        let file = file(1 << 20);
        let device = DirectDevice::open(file.path(), Access::SOLE).unwrap();
        assert_eq!((device.size(), device.logical_block()), (Sectors(2048), 512));
        let pattern: Vec<u8> = (0..600 << 10).map(|byte| (byte % 251) as u8).collect();
        device.write(Sector(1), &pattern).unwrap();
        device.write_durable(Sector(1300), &pattern[..4096]).unwrap();
        device.flush().unwrap();
        let mut back = vec![0; pattern.len()];
        device.read(Sector(1), &mut back).unwrap();
        assert_eq!(back, pattern);
        let whole = std::fs::read(file.path()).unwrap();
        assert_eq!(whole[..512], [0; 512]);
        assert_eq!(whole[512..512 + pattern.len()], pattern);
        assert_eq!(whole[1300 * 512..1308 * 512], pattern[..4096]);
    }

    #[test]
    fn requests_outside_or_in_parts_of_blocks_are_refused() {
        let file = file(1 << 20);
        let device = DirectDevice::open(file.path(), Access::WRITE).unwrap();
        for (at, len) in [(2048, 512), (2047, 1024), (0, 100), (u64::MAX, 512), (1 << 55, 512)] {
            assert!(matches!(device.write(Sector(at), &vec![0; len]), Err(IoError::Other(_))), "{at} {len}");
            assert!(matches!(device.read(Sector(at), &mut vec![0; len]), Err(IoError::Other(_))), "{at} {len}");
        }
        let error = device.read(Sector(2048), &mut [0; 512]).unwrap_err().to_string();
        assert!(error.contains("sector 2048") && error.contains(&*file.path().to_string_lossy()), "{error}");
    }

    #[test]
    fn a_read_only_device_is_not_written() {
        let file = file(4096);
        let device = DirectDevice::open(file.path(), Access::READ).unwrap();
        device.read(Sector(0), &mut [0; 512]).unwrap();
        assert!(matches!(device.write(Sector(0), &[0; 512]), Err(IoError::Other(_))));
        assert!(matches!(device.write_durable(Sector(0), &[0; 512]), Err(IoError::Other(_))));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(DirectDevice::open("/", Access::READ).is_err());
        assert!(DirectDevice::open("/nonexistent", Access::READ).is_err());
    }

    #[test]
    fn only_medium_errors_are_medium_errors() {
        for (error, medium) in [
            (Errno::IO, true),
            (Errno::NODATA, true),
            (Errno::REMOTEIO, true),
            (Errno::NOLINK, false),
            (Errno::TIMEDOUT, false),
            (Errno::NXIO, false),
        ] {
            assert_eq!(matches!(classify(error, String::new()), IoError::Medium(_)), medium, "{error}");
        }
    }
}
