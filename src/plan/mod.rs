//! Plans: which verified spare range a cure takes, and what a scrub reads next.

pub mod forecast;
pub mod scrub;

use crate::model::{Extent, Sector, Sectors};

/// Verified extents of one spare that are durably reserved and wait for a remap. Taking one needs no I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    free: Vec<Extent>,
}

impl Reserve {
    /// Adds extents; they must be disjoint from those already here.
    pub fn add(&mut self, extents: impl IntoIterator<Item = Extent>) {
        self.free.extend(extents);
        self.free.sort();
        self.free.dedup_by(|next, last| last.join(next).map(|joined| *last = joined).is_some());
    }

    /// Takes the first `len` sectors that lie together, if there are any.
    pub fn take(&mut self, len: Sectors) -> Option<Extent> {
        let index = self.free.iter().position(|extent| extent.len() >= len)?;
        let (taken, rest) = self.free[index].split_at(len)?;
        match rest {
            Some(rest) => self.free[index] = rest,
            None => drop(self.free.remove(index)),
        }
        Some(taken)
    }

    /// The extents, in order.
    pub fn extents(&self) -> &[Extent] {
        &self.free
    }

    /// Sectors waiting.
    pub fn total(&self) -> Sectors {
        Sectors(self.free.iter().map(|extent| extent.len().0).sum())
    }

    /// The longest run: the largest cure that can start now.
    pub fn longest(&self) -> Sectors {
        self.free.iter().map(Extent::len).max().unwrap_or_default()
    }

    /// Whether any waiting sector lies in `extent`.
    pub fn overlaps(&self, extent: &Extent) -> bool {
        self.free.iter().any(|free| free.overlaps(extent))
    }
}

/// Sectors to take for a cure of `len` sectors: whole blocks, so that the next one stays aligned.
pub fn spare_len(len: Sectors, block: Sectors) -> Sectors {
    Sectors(len.0.next_multiple_of(block.0))
}

/// Splits a fault's extent into what fits into runs of at most `longest` sectors, in whole blocks. Empty if not one block fits.
pub fn pieces(extent: Extent, longest: Sectors, block: Sectors) -> Vec<Extent> {
    let step = longest.0 - longest.0 % block.0;
    if step == 0 {
        return Vec::new();
    }
    let mut out = Vec::new();
    let mut start = extent.start().0;
    while start < extent.end().0 {
        let len = step.min(extent.end().0 - start);
        out.push(Extent::new(Sector(start), Sectors(len)).expect("a part of an extent is one"));
        start += len;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    #[test]
    fn a_reserve_joins_neighbours_and_gives_each_sector_once() {
        let mut reserve = Reserve::default();
        reserve.add([extent(16, 8), extent(0, 8), extent(8, 8)]);
        assert_eq!(reserve.longest(), Sectors(24));
        assert_eq!(reserve.take(Sectors(16)), Some(extent(0, 16)));
        assert_eq!(reserve.take(Sectors(16)), None);
        assert_eq!(reserve.take(Sectors(8)), Some(extent(16, 8)));
        assert_eq!(reserve.total(), Sectors(0));
    }

    #[test]
    fn pieces_cover_the_extent() {
        assert_eq!(pieces(extent(8, 40), Sectors(17), Sectors(8)), [extent(8, 16), extent(24, 16), extent(40, 8)]);
        assert_eq!(pieces(extent(8, 4), Sectors(8), Sectors(8)), [extent(8, 4)]);
        assert!(pieces(extent(8, 8), Sectors(7), Sectors(8)).is_empty());
    }
}
