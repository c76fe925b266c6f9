//! What applications write: every sector says where it belongs and which write it came from, so that nothing else passes for
//! it: not zeros, not another sector's content, not an older or a torn one.

use super::disk::SECTOR;

const WORDS: usize = SECTOR / 8;

/// The content of `sector` after write number `version`.
pub(super) fn fill(sector: u64, version: u64, bytes: &mut [u8]) {
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&word_at(sector, version, index).to_le_bytes());
    }
}

/// The content of a range.
pub(super) fn range(sector: u64, count: u64, version: u64) -> Vec<u8> {
    let mut bytes = vec![0; count as usize * SECTOR];
    for (at, piece) in (sector..).zip(bytes.chunks_exact_mut(SECTOR)) {
        fill(at, version, piece);
    }
    bytes
}

/// The write that `bytes`, read from `sector`, came from; `None` if from none.
pub(super) fn version_of(sector: u64, bytes: &[u8]) -> Option<u64> {
    let word = |index: usize| bytes.get(index * 8..index * 8 + 8)?.try_into().ok().map(u64::from_le_bytes);
    let version = word(1)?;
    (0..WORDS).all(|index| word(index) == Some(word_at(sector, version, index))).then_some(version)
}

fn word_at(sector: u64, version: u64, index: usize) -> u64 {
    match index {
        0 => sector ^ 0x5eed_0fa1_1b10_c500,
        1 => version,
        _ => (sector << 32 ^ version).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(index as u32),
    }
}
