//! The space of one spare in a simulation.

use crate::model::{Extent, Sector, Sectors};
use std::collections::BTreeMap;

/// Which sectors were handed out. What was reserved then comes from the start of a spare; what is assumed is taken from its end.
#[derive(Debug)]
pub(super) struct Space {
    data: Extent,
    block: Sectors,
    /// End by start.
    used: BTreeMap<u64, u64>,
    /// Everything from here on was handed out or passed over.
    top: u64,
}

impl Space {
    pub(super) fn new(data: Extent, block: Sectors, used: impl IntoIterator<Item = Extent>) -> Space {
        let used = used.into_iter().map(|extent| (extent.start().0, extent.end().0)).collect();
        let top = data.end().0 - data.end().0.saturating_sub(data.start().0) % block.0;
        Space { data, block, used, top }
    }

    fn is_used(&self, extent: &Extent) -> bool {
        self.used.range(..extent.end().0).next_back().is_some_and(|(_, end)| *end > extent.start().0)
    }

    /// The blocks of what was reserved then that are free here, too.
    pub(super) fn offer(&mut self, extents: &[Extent]) -> Vec<Extent> {
        let good: Vec<Extent> =
            extents.iter().filter(|extent| self.data.covers(extent) && !self.is_used(extent)).copied().collect();
        let mut taken = Vec::new();
        for extent in good {
            if !self.is_used(&extent) {
                self.used.insert(extent.start().0, extent.end().0);
                taken.push(extent);
            }
        }
        taken
    }

    /// Up to `want` sectors in whole blocks.
    pub(super) fn take(&mut self, want: Sectors) -> Vec<Extent> {
        let mut taken = Vec::new();
        let mut left = want.0.div_ceil(self.block.0);
        while left > 0 && self.top >= self.data.start().0 + self.block.0 {
            self.top -= self.block.0;
            let block = Extent::new(Sector(self.top), self.block).expect("it lies in the data of a spare");
            if !self.is_used(&block) {
                self.used.insert(block.start().0, block.end().0);
                taken.push(block);
                left -= 1;
            }
        }
        taken
    }

    /// Sectors that [`Space::take`] has not come to yet.
    pub(super) fn free(&self) -> Sectors {
        Sectors(self.top - self.data.start().0)
    }
}
