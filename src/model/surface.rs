//! What is known of each sector of a device, as one list of ranges.

use super::units::{Extent, Sector, Sectors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is known of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Nobody has tried it.
    Unknown,
    /// A scrub has read it.
    Read,
    /// A spare serves it.
    Remapped,
    /// It did not read when it was last tried, or a spare holds the mark of its loss.
    Bad,
}

/// A range of the device, and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// The range.
    pub extent: Extent,
    /// What is known.
    pub known: Known,
}

/// What is known of a whole device. What is painted last covers what was there.
#[derive(Clone, Debug)]
pub struct Surface {
    size: Sectors,
    /// Where each range begins; it ends where the next one does.
    begins: BTreeMap<u64, Known>,
}

impl Surface {
    /// A device of which nothing is known.
    pub fn new(size: Sectors) -> Surface {
        Surface { size, begins: BTreeMap::from([(0, Known::Unknown)]) }
    }

    /// Says what is known of a range; what lies beyond the end of the device is left out.
    pub fn paint(&mut self, extent: Extent, known: Known) {
        let (start, end) = (extent.start().0, extent.end().0.min(self.size.0));
        if start >= end {
            return;
        }
        let after = self.at(end);
        self.begins.retain(|at, _| *at < start || *at >= end);
        self.begins.insert(start, known);
        if end < self.size.0 {
            self.begins.entry(end).or_insert(after);
        }
    }

    fn at(&self, sector: u64) -> Known {
        self.begins.range(..=sector).next_back().map_or(Known::Unknown, |(_, known)| *known)
    }

    /// The ranges in order, without gaps, neighbours of one kind joined.
    pub fn areas(&self) -> Vec<Area> {
        let ends = self.begins.keys().skip(1).copied().chain([self.size.0]);
        let mut areas: Vec<Area> = Vec::new();
        for ((&start, &known), end) in self.begins.iter().zip(ends) {
            let Ok(extent) = Extent::new(Sector(start), Sectors(end - start)) else { continue };
            match areas.last_mut().filter(|last| last.known == known).and_then(|last| Some((last.extent.join(&extent)?, last))) {
                Some((joined, last)) => last.extent = joined,
                None => areas.push(Area { extent, known }),
            }
        }
        areas
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    #[test]
    fn what_is_painted_last_covers_what_was_there() {
        let mut surface = Surface::new(Sectors(100));
        surface.paint(extent(0, 60), Known::Read);
        surface.paint(extent(8, 16), Known::Remapped);
        surface.paint(extent(10, 1), Known::Bad);
        surface.paint(extent(90, 50), Known::Remapped);
        surface.paint(extent(200, 8), Known::Bad);
        let found: Vec<_> = surface.areas().iter().map(|area| (area.extent.start().0, area.extent.len().0, area.known)).collect();
        assert_eq!(
            found,
            [
                (0, 8, Known::Read),
                (8, 2, Known::Remapped),
                (10, 1, Known::Bad),
                (11, 13, Known::Remapped),
                (24, 36, Known::Read),
                (60, 30, Known::Unknown),
                (90, 10, Known::Remapped),
            ]
        );
    }

    proptest! {
        #[test]
        fn every_sector_is_what_was_said_last(
            said in prop::collection::vec((0u64..60, 1u64..30, 0usize..4), 0..20),
        ) {
            let kinds = [Known::Unknown, Known::Read, Known::Remapped, Known::Bad];
            let mut surface = Surface::new(Sectors(64));
            let mut plain = [Known::Unknown; 64];
            for (start, len, kind) in said {
                surface.paint(extent(start, len), kinds[kind]);
                plain[start as usize..(start + len).min(64) as usize].fill(kinds[kind]);
            }
            let areas = surface.areas();
            prop_assert!(areas.windows(2).all(|pair| pair[0].known != pair[1].known));
            let told: Vec<Known> =
                areas.iter().flat_map(|area| std::iter::repeat_n(area.known, area.extent.len().0 as usize)).collect();
            prop_assert_eq!(told, plain.to_vec());
        }
    }
}
