//! A fast device before a slow one.

use super::Needed;
use crate::dm::words::{BadParams, Device, Words, write_always_counted};
use std::fmt;

/// `<metadata dev> <cache dev> <origin dev> <block size> <#feature args> [<feature arg>]* <policy> <#policy args>
/// [policy args]*` (`cache.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Cache {
    /// Where it keeps what it knows.
    pub metadata: Device,
    /// The fast device.
    pub cache: Device,
    /// The slow one.
    pub origin: Device,
    /// Sectors of a block: a multiple of 64, 64 to 2097152.
    pub block_size: u32,
    /// `writeback`, `writethrough`, `passthrough`, `metadata2`, `no_discard_passdown`.
    pub features: Vec<String>,
    /// What decides which blocks are cached.
    pub policy: String,
    /// Its settings, keys and values in turn.
    pub policy_args: Vec<String>,
}

impl Cache {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("cache", params);
        let (metadata, cache) = (words.device("metadata device")?, words.device("cache device")?);
        let origin = words.device("origin device")?;
        let block_size = words.number("block size")?;
        if !(64..=2_097_152).contains(&block_size) || block_size % 64 != 0 {
            return Err(words.fail(format!("a block of {block_size} sectors: it has to be a multiple of 64 up to 2097152")));
        }
        let features = words.counted("feature")?;
        let policy = words.text("policy")?;
        let policy_args = words.counted("policy argument")?;
        if !policy_args.len().is_multiple_of(2) {
            return Err(words.fail("policy arguments are keys and values: their number has to be even"));
        }
        words.end().map(|()| Cache { metadata, cache, origin, block_size, features, policy, policy_args })
    }

    pub(super) fn needs(&self, length: u64) -> Vec<Needed<'_>> {
        vec![Needed::any(&self.metadata), Needed::any(&self.cache), Needed::range(&self.origin, 0, length)]
    }
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.metadata, self.cache, self.origin, self.block_size)?;
        write_always_counted(f, &self.features)?;
        write!(f, " {}", self.policy)?;
        write_always_counted(f, &self.policy_args)
    }
}
