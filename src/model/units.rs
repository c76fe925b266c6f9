//! Sectors of 512 bytes, ranges of them, and times in milliseconds.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes in one sector. Device-mapper and the block layer count in these, whatever the disk's logical block is.
pub const SECTOR_BYTES: u64 = 512;

/// A position on a device, in sectors of 512 bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sector(pub u64);

/// A length in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sectors(pub u64);

/// A point in time: milliseconds since the Unix epoch. The core has no clock; times arrive with events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Sector {
    /// The byte offset, or `None` beyond 2^64 bytes.
    pub fn bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_BYTES)
    }

    /// Rounded down to a multiple of `unit` sectors (`unit` > 0).
    pub fn align_down(self, unit: Sectors) -> Sector {
        Sector(self.0 - self.0 % unit.0.max(1))
    }
}

impl Sectors {
    /// A length in sectors from bytes, rounded down.
    pub fn from_bytes(bytes: u64) -> Sectors {
        Sectors(bytes / SECTOR_BYTES)
    }

    /// The length in bytes. Saturates, which no device reaches.
    pub fn bytes(self) -> u64 {
        self.0.saturating_mul(SECTOR_BYTES)
    }

    /// The length for people, with a binary unit.
    pub fn human(self) -> String {
        let bytes = self.bytes();
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.iter().find(|(_, shift)| bytes >> shift >= 1) {
            Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
            None => format!("{bytes} B"),
        }
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a start and a length make no extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// The length is zero.
    #[error("an extent needs at least one sector")]
    Empty,
    /// Start plus length exceeds 2^64 sectors.
    #[error("the extent ends beyond the last sector a device can have")]
    Overflow,
}

/// A non-empty range of sectors whose end does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawExtent", into = "RawExtent")]
pub struct Extent {
    start: Sector,
    len: Sectors,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct RawExtent {
    start: u64,
    len: u64,
}

impl TryFrom<RawExtent> for Extent {
    type Error = ExtentError;
    fn try_from(raw: RawExtent) -> Result<Self, ExtentError> {
        Extent::new(Sector(raw.start), Sectors(raw.len))
    }
}

impl From<Extent> for RawExtent {
    fn from(extent: Extent) -> Self {
        RawExtent { start: extent.start.0, len: extent.len.0 }
    }
}

impl Extent {
    /// The range of `len` sectors from `start`.
    pub fn new(start: Sector, len: Sectors) -> Result<Extent, ExtentError> {
        if len.0 == 0 {
            return Err(ExtentError::Empty);
        }
        start.0.checked_add(len.0).ok_or(ExtentError::Overflow)?;
        Ok(Extent { start, len })
    }

    /// First sector.
    pub fn start(&self) -> Sector {
        self.start
    }

    /// Number of sectors, at least 1.
    pub fn len(&self) -> Sectors {
        self.len
    }

    /// An extent is never empty; here for the habit of asking.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The first sector after the range.
    pub fn end(&self) -> Sector {
        Sector(self.start.0 + self.len.0)
    }

    /// Whether `sector` lies inside.
    pub fn contains(&self, sector: Sector) -> bool {
        self.start <= sector && sector < self.end()
    }

    /// Whether all of `other` lies inside.
    pub fn covers(&self, other: &Extent) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Whether the two share a sector.
    pub fn overlaps(&self, other: &Extent) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// This range and the one that begins where it ends as one; `None` if `next` begins elsewhere.
    pub fn join(&self, next: &Extent) -> Option<Extent> {
        if self.end() == next.start { Extent::new(self.start, Sectors(self.len.0 + next.len.0)).ok() } else { None }
    }

    /// Adds what the last of these ranges does not hold yet, joined to that if it follows it. None of them begins after this one.
    pub fn add_to(self, sorted: &mut Vec<Extent>) {
        let Some(last) = sorted.last_mut() else { return sorted.push(self) };
        let start = self.start.max(last.end());
        let Ok(rest) = Extent::new(start, Sectors(self.end().0.saturating_sub(start.0))) else { return };
        match last.join(&rest) {
            Some(joined) => *last = joined,
            None => sorted.push(rest),
        }
    }

    /// The smallest extent of whole `unit`-sized blocks that covers this one; `None` on overflow.
    pub fn align_outward(&self, unit: Sectors) -> Option<Extent> {
        let start = self.start.align_down(unit);
        let end = self.end().0.checked_next_multiple_of(unit.0.max(1))?;
        Extent::new(start, Sectors(end - start.0)).ok()
    }

    /// Cuts the range after `len` sectors: the front, and what remains if anything does. `None` if `len` is 0 or too long.
    pub fn split_at(&self, len: Sectors) -> Option<(Extent, Option<Extent>)> {
        if len.0 == 0 || len > self.len {
            return None;
        }
        let front = Extent { start: self.start, len };
        let rest = Extent::new(Sector(self.start.0 + len.0), Sectors(self.len.0 - len.0)).ok();
        Some((front, rest))
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    #[test]
    fn empty_and_overflowing_extents_are_refused() {
        assert_eq!(Extent::new(Sector(5), Sectors(0)), Err(ExtentError::Empty));
        assert_eq!(Extent::new(Sector(u64::MAX), Sectors(1)), Err(ExtentError::Overflow));
        assert!(Extent::new(Sector(u64::MAX - 1), Sectors(1)).is_ok());
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(Sectors(1).human(), "512 B");
        assert_eq!(Sectors(8).human(), "4.0 KiB");
        assert_eq!(Sectors(3 << 20).human(), "1.5 GiB");
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!extent(0, 8).overlaps(&extent(8, 8)));
        assert!(extent(0, 9).overlaps(&extent(8, 8)));
    }

    #[test]
    fn aligning_outward_covers() {
        let outer = extent(1001, 2).align_outward(Sectors(8)).unwrap();
        assert_eq!(outer, extent(1000, 8));
        assert!(outer.covers(&extent(1001, 2)));
    }

    #[test]
    fn splitting_keeps_every_sector() {
        let (front, rest) = extent(10, 5).split_at(Sectors(2)).unwrap();
        assert_eq!((front, rest), (extent(10, 2), Some(extent(12, 3))));
        assert_eq!(extent(10, 5).split_at(Sectors(5)).unwrap(), (extent(10, 5), None));
        assert!(extent(10, 5).split_at(Sectors(6)).is_none());
    }

    #[test]
    fn a_bad_extent_in_json_is_refused() {
        assert!(serde_json::from_str::<Extent>(r#"{"start":1,"len":0}"#).is_err());
        assert_eq!(serde_json::from_str::<Extent>(r#"{"start":1,"len":2}"#).unwrap(), extent(1, 2));
    }
}
