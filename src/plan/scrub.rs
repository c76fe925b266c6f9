//! What a scrub reads: every sector of the device at the place that serves it, on main or on a spare.

use crate::model::{Extent, Member, Remap, Sector, Sectors};

/// A range to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Part {
    /// The disk that serves it.
    pub member: Member,
    /// The range there.
    pub at: Extent,
    /// The range of the device.
    pub main: Extent,
}

impl Part {
    /// Its pieces of at most one block, aligned on the device.
    pub fn blocks(&self, block: Sectors) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut start = self.main.start().0;
        while start < self.main.end().0 {
            let end = (start - start % block.0 + block.0).min(self.main.end().0);
            let at = self.at.start().0 + (start - self.main.start().0);
            parts.extend(part(self.member, at, start, end));
            start = end;
        }
        parts
    }
}

fn part(member: Member, at: u64, start: u64, end: u64) -> Option<Part> {
    let len = Sectors(end.checked_sub(start)?);
    Some(Part { member, at: Extent::new(Sector(at), len).ok()?, main: Extent::new(Sector(start), len).ok()? })
}

/// The parts of `range`, in order. `remaps` are those that overlap it, in order of main sectors.
pub fn parts<'a>(range: Extent, remaps: impl IntoIterator<Item = &'a Remap>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut next = range.start().0;
    for remap in remaps {
        let (start, end) = (remap.main.start().0.max(next), remap.main.end().0.min(range.end().0));
        if start >= end {
            continue;
        }
        parts.extend((start > next).then(|| part(Member::Main, next, next, start)).flatten());
        let at = remap.at.0 + (start - remap.main.start().0);
        parts.extend(part(Member::Spare(remap.spare), at, start, end));
        next = end;
    }
    parts.extend((next < range.end().0).then(|| part(Member::Main, next, next, range.end().0)).flatten());
    parts
}

/// What the remaps of one spare serve from a range of that spare.
pub fn served_from<'a>(spare: u16, range: Extent, remaps: impl IntoIterator<Item = &'a Remap>) -> Vec<Part> {
    let there = remaps.into_iter().filter(|remap| remap.spare == spare && remap.spare_extent().overlaps(&range));
    let served = |remap: &Remap| {
        let at = remap.spare_extent();
        let (start, end) = (at.start().max(range.start()), at.end().min(range.end()));
        let main = remap.main.start().0 + (start.0 - at.start().0);
        part(Member::Spare(spare), start.0, main, main + (end.0 - start.0))
    };
    there.filter_map(served).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RemapFlags;

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    fn remap(start: u64, len: u64, at: u64) -> Remap {
        Remap { main: extent(start, len), spare: 1, at: Sector(at), seq: 1, flags: RemapFlags::default() }
    }

    #[test]
    fn every_sector_is_read_once_where_it_is_served() {
        let remaps = [remap(0, 8, 900), remap(16, 8, 100), remap(24, 8, 500)];
        let found = parts(extent(4, 40), &remaps);
        let main = |start, len| Part { member: Member::Main, at: extent(start, len), main: extent(start, len) };
        let spare = |at, start, len| Part { member: Member::Spare(1), at: extent(at, len), main: extent(start, len) };
        assert_eq!(found, [spare(904, 4, 4), main(8, 8), spare(100, 16, 8), spare(500, 24, 8), main(32, 12)]);
        assert_eq!(parts(extent(18, 2), &remaps), [spare(102, 18, 2)]);
        assert_eq!(parts(extent(40, 8), &[]), [main(40, 8)]);
    }

    #[test]
    fn a_range_of_a_spare_is_known_by_what_it_serves() {
        let remaps = [remap(0, 8, 900), remap(16, 16, 100), remap(40, 8, 300)];
        let spare = |at, start, len| Part { member: Member::Spare(1), at: extent(at, len), main: extent(start, len) };
        assert_eq!(served_from(1, extent(896, 8), &remaps), [spare(900, 0, 4)]);
        assert_eq!(served_from(1, extent(104, 8), &remaps), [spare(104, 20, 8)]);
        assert_eq!(served_from(1, extent(90, 300), &remaps), [spare(100, 16, 16), spare(300, 40, 8)]);
        assert_eq!(served_from(0, extent(90, 300), &remaps), []);
        assert_eq!(served_from(1, extent(116, 100), &remaps), []);
    }

    #[test]
    fn blocks_are_aligned_on_the_device() {
        let whole = Part { member: Member::Spare(0), at: extent(103, 15), main: extent(3, 15) };
        let blocks: Vec<(u64, u64, u64)> =
            whole.blocks(Sectors(8)).iter().map(|part| (part.main.start().0, part.at.start().0, part.main.len().0)).collect();
        assert_eq!(blocks, [(3, 103, 5), (8, 108, 8), (16, 116, 2)]);
    }
}
