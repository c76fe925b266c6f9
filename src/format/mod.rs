//! What is written on a spare: headers, table blocks, lost marks, and the checksum of a live table.
//!
//! Pure: bytes in, values out. Never does I/O, never panics on what it reads, never allocates more than one block describes.
//! `FORMAT.md` beside this file is the same in prose, for people who write another reader.

pub mod checksum;
pub mod geometry;
pub mod header;
pub(crate) mod layout;
pub mod lost_mark;
pub mod merge;
pub mod table;

pub use checksum::table_checksum;
pub use geometry::{TooSmall, geometry};
pub use merge::{Merged, merge};

/// Bytes in a header and in a slot of a table block.
pub const BLOCK_BYTES: usize = 4096;

/// Sectors in a header and in a slot of a table block.
pub const BLOCK_SECTORS: u64 = 8;

/// The format version that is written. Older ones are read, newer ones refused.
pub const VERSION: u32 = 1;
