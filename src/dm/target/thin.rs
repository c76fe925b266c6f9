//! Thin provisioning: a pool and the volumes in it.

use super::Needed;
use crate::dm::words::{BadParams, Device, Words, write_always_counted};
use std::fmt;

/// `<metadata dev> <data dev> <data block size> <low water mark> [<number of feature args> [<arg>]*]`
/// (`thin-provisioning.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ThinPool {
    /// Where the pool keeps what it knows.
    pub metadata: Device,
    /// Where the blocks are.
    pub data: Device,
    /// Sectors of a block: a multiple of 128, 128 to 2097152.
    pub block_size: u32,
    /// So few free blocks raise an event.
    pub low_water_mark: u64,
    /// `skip_block_zeroing`, `ignore_discard`, `no_discard_passdown`, `read_only`, `error_if_no_space`.
    pub features: Vec<String>,
}

impl ThinPool {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("thin-pool", params);
        let (metadata, data) = (words.device("metadata device")?, words.device("data device")?);
        let block_size = words.number("block size")?;
        if !(128..=2_097_152).contains(&block_size) || block_size % 128 != 0 {
            return Err(words.fail(format!("a block of {block_size} sectors: it has to be a multiple of 128 up to 2097152")));
        }
        let low_water_mark = words.number("low water mark")?;
        let features = words.maybe_counted("feature")?;
        words.end().map(|()| ThinPool { metadata, data, block_size, low_water_mark, features })
    }

    pub(super) fn needs(&self, _length: u64) -> Vec<Needed<'_>> {
        vec![Needed::any(&self.metadata), Needed::any(&self.data)]
    }
}

impl fmt::Display for ThinPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.metadata, self.data, self.block_size, self.low_water_mark)?;
        write_always_counted(f, &self.features)
    }
}

/// `<pool dev> <dev id> [<external origin dev>]` (`thin-provisioning.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Thin {
    /// The pool.
    pub pool: Device,
    /// Its number in the pool, below 2^24.
    pub id: u32,
    /// Where blocks come from that it has not got yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Device>,
}

impl Thin {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("thin", params);
        let (pool, id) = (words.device("pool")?, words.number("device id")?);
        if id >= 1 << 24 {
            return Err(words.fail(format!("the device id {id} is not below 2^24")));
        }
        let origin = words.next().map(|word| Device(word.into()));
        words.end().map(|()| Thin { pool, id, origin })
    }

    pub(super) fn needs(&self, _length: u64) -> Vec<Needed<'_>> {
        std::iter::once(&self.pool).chain(&self.origin).map(Needed::any).collect()
    }
}

impl fmt::Display for Thin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pool, self.id)?;
        self.origin.iter().try_for_each(|origin| write!(f, " {origin}"))
    }
}
