//! One remap: sectors of main that live on a spare.

use super::units::{Extent, Sector};
use serde::{Deserialize, Serialize};

/// What is known of the content of a remap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RemapFlags {
    /// Sectors of it may hold lost marks. Unknown means true.
    pub marked: bool,
}

/// A range of main that a spare serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Remap {
    /// The range on main.
    pub main: Extent,
    /// Index of the spare in the set.
    pub spare: u16,
    /// First sector on that spare; the length is main's.
    pub at: Sector,
    /// Content flags.
    pub flags: RemapFlags,
    /// Set-wide sequence number of the commit that made it, from 1.
    pub seq: u64,
}

impl Remap {
    /// Whether both serve the same range of main at the same place, whatever is known of the content.
    pub fn same_place(&self, other: &Remap) -> bool {
        (self.main, self.spare, self.at) == (other.main, other.spare, other.at)
    }

    /// Whether this is the same or a later remap of the same range of main.
    pub fn outdates(&self, other: &Remap) -> bool {
        self.main == other.main && self.seq >= other.seq
    }

    /// The range on the spare.
    pub fn spare_extent(&self) -> Extent {
        Extent::new(self.at, self.main.len()).expect("a remap's spare range was checked when it was made")
    }
}
