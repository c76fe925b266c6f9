//! A device whose content is checked against a tree of hashes.

use super::Needed;
use crate::dm::words::{BadParams, Device, Words, write_counted};
use std::fmt;

/// `<version> <dev> <hash_dev> <data_block_size> <hash_block_size> <num_data_blocks> <hash_start_block> <algorithm>
/// <digest> <salt> [<#opt_params> <opt_params>]` (`verity.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Verity {
    /// Of the format of the hashes: 0 or 1.
    pub version: u32,
    /// The device with the data.
    pub data: Device,
    /// The device with the hashes.
    pub hash: Device,
    /// Bytes.
    pub data_block_size: u32,
    /// Bytes.
    pub hash_block_size: u32,
    /// Blocks of the device.
    pub data_blocks: u64,
    /// The first block of hashes, in blocks of hashes.
    pub hash_start: u64,
    /// Name of the hash.
    pub algorithm: String,
    /// The root hash in hexadecimal digits.
    pub digest: String,
    /// In hexadecimal digits; `-` for none.
    pub salt: String,
    /// `ignore_corruption`, `fec_roots 2`, …, word by word.
    pub options: Vec<String>,
}

impl Verity {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("verity", params);
        let verity = Verity {
            version: words.number("version")?,
            data: words.device("data device")?,
            hash: words.device("hash device")?,
            data_block_size: words.number("data block size")?,
            hash_block_size: words.number("hash block size")?,
            data_blocks: words.number("number of data blocks")?,
            hash_start: words.number("first hash block")?,
            algorithm: words.text("hash algorithm")?,
            digest: words.text("root digest")?,
            salt: words.text("salt")?,
            options: words.maybe_counted("option")?,
        };
        let hexadecimal = |text: &str| text.bytes().all(|c| c.is_ascii_hexdigit()) && text.len().is_multiple_of(2);
        if !hexadecimal(&verity.digest) {
            return Err(words.fail("the root digest has to be pairs of hexadecimal digits"));
        }
        if !hexadecimal(&verity.salt) && verity.salt != "-" {
            return Err(words.fail("the salt has to be pairs of hexadecimal digits, or “-”"));
        }
        for size in [verity.data_block_size, verity.hash_block_size] {
            if size < 512 || !size.is_power_of_two() {
                return Err(words.fail(format!("a block of {size} bytes: it has to be a power of two of at least 512")));
            }
        }
        words.end().map(|()| verity)
    }

    pub(super) fn needs(&self, _length: u64) -> Vec<Needed<'_>> {
        let sectors = self.data_blocks.saturating_mul(u64::from(self.data_block_size / 512));
        vec![Needed::range(&self.data, 0, sectors), Needed::any(&self.hash)]
    }
}

impl fmt::Display for Verity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verity { version, data, hash, data_block_size, hash_block_size, data_blocks, hash_start, .. } = self;
        write!(f, "{version} {data} {hash} {data_block_size} {hash_block_size} {data_blocks} {hash_start}")?;
        write!(f, " {} {} {}", self.algorithm, self.digest, self.salt)?;
        write_counted(f, &self.options)
    }
}
