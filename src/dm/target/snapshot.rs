//! A copy on write of a device.

use super::Needed;
use crate::dm::words::{BadParams, Device, Words, write_counted};
use std::fmt;

/// `<origin> <COW device> <persistent?> <chunksize> [<# feature args> [<arg>]*]` (`snapshot.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// The device as it was.
    pub origin: Device,
    /// Where changed chunks are.
    pub cow: Device,
    /// Whether it outlives a reboot.
    pub persistent: Persistence,
    /// Sectors of a chunk: a power of two; 0 for what the store says.
    pub chunk: u32,
    /// `discard_zeroes_cow`, `discard_passdown_origin`.
    pub features: Vec<String>,
}

/// How the changes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Persistence {
    /// `P`: on the device.
    #[serde(rename = "P")]
    Persistent,
    /// `PO`: on the device, and the status tells an overflow.
    #[serde(rename = "PO")]
    PersistentOverflow,
    /// `N`: known in memory only.
    #[serde(rename = "N")]
    Transient,
}

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Persistence::Persistent => "P",
            Persistence::PersistentOverflow => "PO",
            Persistence::Transient => "N",
        })
    }
}

impl Snapshot {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("snapshot", params);
        let (origin, cow) = (words.device("origin")?, words.device("COW device")?);
        let persistent = match words.word("persistence")? {
            "P" => Persistence::Persistent,
            "PO" => Persistence::PersistentOverflow,
            "N" => Persistence::Transient,
            _ => return Err(words.fail("the persistence has to be P, PO or N")),
        };
        let chunk: u32 = words.number("chunk size")?;
        if chunk != 0 && !chunk.is_power_of_two() {
            return Err(words.fail(format!("a chunk of {chunk} sectors: it has to be a power of two")));
        }
        let features = words.maybe_counted("feature")?;
        words.end().map(|()| Snapshot { origin, cow, persistent, chunk, features })
    }

    pub(super) fn needs(&self, length: u64) -> Vec<Needed<'_>> {
        vec![Needed::range(&self.origin, 0, length), Needed::any(&self.cow)]
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.origin, self.cow, self.persistent, self.chunk)?;
        write_counted(f, &self.features)
    }
}
