//! Little-endian fields at fixed offsets of one block, and its CRC32C.

use super::BLOCK_BYTES;

/// A block of the format.
pub(super) type Block = [u8; BLOCK_BYTES];

/// Where the CRC32C is, in every kind of block and in every version.
pub(super) const CRC_AT: usize = 12;

pub(super) fn get<const N: usize>(block: &Block, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

pub(super) fn get_u16(block: &Block, at: usize) -> u16 {
    u16::from_le_bytes(get(block, at))
}

pub(super) fn get_u32(block: &Block, at: usize) -> u32 {
    u32::from_le_bytes(get(block, at))
}

pub(super) fn get_u64(block: &Block, at: usize) -> u64 {
    u64::from_le_bytes(get(block, at))
}

pub(super) fn put(block: &mut Block, at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// CRC32C of the block with its own field zero.
fn crc(block: &Block) -> u32 {
    let head = crc32c::crc32c(&block[..CRC_AT]);
    let gap = crc32c::crc32c_append(head, &[0; 4]);
    crc32c::crc32c_append(gap, &block[CRC_AT + 4..])
}

pub(crate) fn seal(block: &mut Block) {
    let sum = crc(block);
    put(block, CRC_AT, &sum.to_le_bytes());
}

pub(super) fn is_sealed(block: &Block) -> bool {
    get_u32(block, CRC_AT) == crc(block)
}

/// Whether every byte that no field covers is zero, as version 1 promises.
pub(super) fn is_zero(block: &Block, range: std::ops::Range<usize>) -> bool {
    block[range].iter().all(|&byte| byte == 0)
}
