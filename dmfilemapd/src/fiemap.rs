//! Where the file system keeps a file: the FIEMAP ioctl (Documentation/filesystems/fiemap.rst).

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};
use std::fs::File;

/// `FIEMAP_FLAG_SYNC`: write the file out first.
const FLAG_SYNC: u32 = 0x1;
/// `FIEMAP_EXTENT_LAST`: the last extent of the file.
const LAST: u32 = 0x1;
/// `FIEMAP_EXTENT_UNKNOWN`: not on the device yet.
pub const UNKNOWN: u32 = 0x2;
/// `FIEMAP_EXTENT_DELALLOC`: in memory; where it will be is not decided.
pub const DELALLOC: u32 = 0x4;
/// `FIEMAP_EXTENT_DATA_INLINE`: among the file system's own data.
pub const DATA_INLINE: u32 = 0x200;
/// `FIEMAP_EXTENT_DATA_TAIL`: shares its block with other files.
const DATA_TAIL: u32 = 0x400;
/// `FIEMAP_EXTENT_UNWRITTEN`: allocated, reads as zeros.
pub const UNWRITTEN: u32 = 0x800;

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// Where it is in the file, bytes.
    pub logical: u64,
    /// Where it is on the file system's device, bytes.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
    /// `FIEMAP_EXTENT_*`.
    pub flags: u32,
}

impl FileExtent {
    /// Whether it has whole blocks of its own on the device.
    pub fn is_on_device(&self) -> bool {
        self.flags & (UNKNOWN | DELALLOC | DATA_INLINE | DATA_TAIL) == 0 && self.length > 0
    }

    /// Whether a place will be found for it when it is written out.
    pub fn is_pending(&self) -> bool {
        self.flags & (UNKNOWN | DELALLOC) != 0
    }
}

const EXTENTS: usize = 256;

/// `struct fiemap` (include/uapi/linux/fiemap.h), without the extents that follow it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Request {
    header: Header,
    extents: [RawExtent; EXTENTS],
}

const FS_IOC_FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);

/// All extents of a file, in the order of the file. What is only in memory is written out first, so that it has a place;
/// a file that has all its places is not written out.
///
/// # Errors
/// If the file system does not tell.
pub fn extents(file: &File) -> Result<Vec<FileExtent>, Errno> {
    let extents = read(file, 0)?;
    if extents.iter().any(FileExtent::is_pending) { read(file, FLAG_SYNC) } else { Ok(extents) }
}

fn read(file: &File, flags: u32) -> Result<Vec<FileExtent>, Errno> {
    let mut found: Vec<FileExtent> = Vec::new();
    loop {
        let start = found.last().map_or(0, |last| last.logical.saturating_add(last.length));
        let page = page(file, start, flags)?;
        // A file that changes while it is read may tell of the same place twice.
        let news = page.into_iter().filter(|extent| extent.logical.saturating_add(extent.length) > start);
        let before = found.len();
        found.extend(news);
        if found.len() == before || found.last().is_some_and(|last| last.flags & LAST != 0) {
            return Ok(found);
        }
    }
}

#[allow(unsafe_code)]
fn page(file: &File, start: u64, flags: u32) -> Result<Vec<FileExtent>, Errno> {
    let header = Header { start, length: u64::MAX - start, flags, extent_count: EXTENTS as u32, ..Header::default() };
    let mut request = Box::new(Request { header, extents: [RawExtent::default(); EXTENTS] });
    // SAFETY: FS_IOC_FIEMAP reads and writes a struct fiemap with room for `extent_count` extents behind it; Request is
    // that, and all its bit patterns are valid.
    unsafe { rustix::ioctl::ioctl(file, Updater::<FS_IOC_FIEMAP, Request>::new(&mut request)) }?;
    let mapped = (request.header.mapped_extents as usize).min(EXTENTS);
    let plain =
        |raw: &RawExtent| FileExtent { logical: raw.logical, physical: raw.physical, length: raw.length, flags: raw.flags };
    Ok(request.extents[..mapped].iter().map(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!((size_of::<Header>(), size_of::<RawExtent>()), (32, 56));
        assert_eq!(FS_IOC_FIEMAP, 0xC020_660B);
    }

    /// Where the temporary folder's file system tells of extents; otherwise the refusal is what is checked.
    #[test]
    fn written_data_has_places_and_holes_have_none() {
        let mut file = tempfile::tempfile().unwrap();
        for block in 0..600 {
            file.seek(SeekFrom::Start(block * 8192)).unwrap();
            file.write_all(&[7; 4096]).unwrap();
        }
        let extents = match extents(&file) {
            Ok(extents) => extents,
            Err(refused) => return assert_eq!(refused, Errno::OPNOTSUPP),
        };
        assert!(extents.iter().all(FileExtent::is_on_device), "{extents:?}");
        assert!(extents.is_sorted_by(|a, b| a.logical + a.length <= b.logical), "{extents:?}");
        for block in 0..1199 {
            let covers = |extent: &&FileExtent| (extent.logical..extent.logical + extent.length).contains(&(block * 4096));
            assert_eq!(extents.iter().filter(covers).count() == 1, block % 2 == 0, "block {block}");
        }
    }
}
