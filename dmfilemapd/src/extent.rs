//! Ranges of sectors, and how a file's extents become such ranges.

use crate::fiemap::FileExtent;
use std::collections::BTreeSet;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// A range of sectors of 512 bytes on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// The first sector.
    pub start: u64,
    /// Number of sectors, never 0.
    pub len: u64,
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.start, self.len)
    }
}

/// The ranges of the device that a file's extents occupy.
///
/// Extents that follow each other in the file and on the device are one range, as in libdm: then what “dmstats
/// create --filemap” made is what this finds. Blocks that the file uses twice are one range, too.
pub fn on_device(extents: &[FileExtent]) -> BTreeSet<Extent> {
    let mut ranges: Vec<Extent> = Vec::new();
    for extent in extents.iter().filter(|extent| extent.is_on_device()) {
        let start = extent.physical / SECTOR;
        let end = (extent.physical + extent.length).div_ceil(SECTOR);
        match ranges.last_mut() {
            Some(last) if last.start + last.len == start => last.len += end - start,
            _ => ranges.push(Extent { start, len: end - start }),
        }
    }
    ranges.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fiemap::{DATA_INLINE, DELALLOC, UNKNOWN, UNWRITTEN};
    use proptest::prelude::*;

    fn extent(logical: u64, physical: u64, length: u64, flags: u32) -> FileExtent {
        FileExtent { logical: logical << 12, physical: physical << 12, length: length << 12, flags }
    }

    fn blocks(extents: &[FileExtent]) -> Vec<(u64, u64)> {
        on_device(extents).into_iter().map(|extent| (extent.start / 8, extent.len / 8)).collect()
    }

    #[test]
    fn neighbours_are_one_range() {
        assert_eq!(blocks(&[extent(0, 10, 2, 0), extent(2, 12, 3, UNWRITTEN), extent(5, 20, 1, 0)]), [(10, 5), (20, 1)]);
        assert_eq!(blocks(&[extent(4, 10, 2, 0), extent(9, 12, 1, 0)]), [(10, 3)], "a hole between them is no matter");
        assert_eq!(blocks(&[extent(0, 12, 1, 0), extent(1, 11, 1, 0)]), [(11, 1), (12, 1)], "backwards they are two");
        assert_eq!(blocks(&[extent(0, 10, 2, 0), extent(2, 30, 1, 0), extent(3, 10, 2, 0)]), [(10, 2), (30, 1)]);
    }

    #[test]
    fn what_is_nowhere_is_left_out() {
        let nowhere = [extent(0, 0, 8, DELALLOC | UNKNOWN), extent(8, 77, 1, DATA_INLINE)];
        assert_eq!(blocks(&nowhere), []);
        assert_eq!(blocks(&[]), []);
    }

    proptest! {
        #[test]
        fn exactly_the_files_sectors_are_covered(places in prop::collection::vec((0u64..64, 1u64..5), 0..12)) {
            let mut logical = 0;
            let extents: Vec<FileExtent> = places.iter().map(|(physical, length)| {
                logical += length;
                extent(logical - length, *physical, *length, 0)
            }).collect();
            let wanted: BTreeSet<u64> = places.iter().flat_map(|(start, len)| *start..start + len).collect();
            let covered: BTreeSet<u64> = blocks(&extents).into_iter().flat_map(|(start, len)| start..start + len).collect();
            prop_assert_eq!(wanted, covered);
        }
    }
}
