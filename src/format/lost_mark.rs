//! The lost mark: what the spare block of a lost main block holds until the block is written again.
//!
//! In the first 512 bytes of a logical block; the rest of a 4096-byte one is zero.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 16 | `remap-guard LOST` |
//! | 16 | 4 | version, 1 |
//! | 20 | 4 | logical block size in bytes |
//! | 24 | 8 | main sector of the block |
//! | 32 | 8 | SipHash-2-4 of bytes 0 to 31, keyed with the set's secret |
//! | 40 | 468 | zero |
//! | 508 | 4 | CRC32C of bytes 0 to 507 |
//!
//! The kernel target checks the same fields (`kmod`). Only who knows the secret can make a mark, so no application data is
//! ever taken for one; the mark does not tell the secret.

use crate::model::{Secret, Sector};
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Bytes that are checked.
pub const MARK_BYTES: usize = 512;

const MAGIC: &[u8; 16] = b"remap-guard LOST";
const VERSION: u32 = 1;

fn mark(secret: &Secret, main: Sector, logical_block: u32) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..20].copy_from_slice(&VERSION.to_le_bytes());
    bytes[20..24].copy_from_slice(&logical_block.to_le_bytes());
    bytes[24..32].copy_from_slice(&main.0.to_le_bytes());
    let mut mac = SipHasher24::new_with_key(&secret.0);
    mac.write(&bytes[..32]);
    bytes[32..40].copy_from_slice(&mac.finish().to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..508]);
    bytes[508..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Fills `block`, one logical block (512 or 4096 bytes), with the mark of the main block that starts at `main`.
pub fn encode(secret: &Secret, main: Sector, block: &mut [u8]) {
    let bytes = mark(secret, main, u32::try_from(block.len()).unwrap_or(u32::MAX));
    let marked = block.len().min(MARK_BYTES);
    block[..marked].copy_from_slice(&bytes[..marked]);
    block[marked..].fill(0);
}

/// Whether `block`, one logical block as read from a spare, is the mark of the main block that starts at `main`.
pub fn is_lost(secret: &Secret, main: Sector, block: &[u8]) -> bool {
    let Ok(logical_block) = u32::try_from(block.len()) else { return false };
    block.starts_with(MAGIC) && block.starts_with(&mark(secret, main, logical_block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: Secret = Secret([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

    /// The reference vector of SipHash-2-4 (its paper, appendix A).
    #[test]
    fn the_hash_is_siphash_2_4() {
        let mut hasher = SipHasher24::new_with_key(&SECRET.0);
        hasher.write(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert_eq!(hasher.finish(), 0xa129_ca61_49be_45e5);
    }

    /// Bytes from an independent implementation of the protocol page, in Python.
    #[test]
    fn known_mark() {
        let mut block = [0xff; 512];
        encode(&SECRET, Sector(123_456_789), &mut block);
        assert_eq!(&block[..16], b"remap-guard LOST");
        assert_eq!(
            &block[16..40],
            &[
                0x01, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x15, 0xcd, 0x5b, 0x07, 0x00, 0x00, 0x00, 0x00, 0x43, 0x85, 0xe1,
                0xa0, 0xd2, 0x04, 0xd0, 0x4c
            ]
        );
        assert_eq!(&block[508..], &[0x87, 0xc1, 0x4e, 0x73]);
        assert!(block[40..508].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_mark_belongs_to_one_sector_one_block_size_and_one_secret() {
        for size in [512, 4096] {
            let mut block = vec![0xaa; size];
            encode(&SECRET, Sector(80), &mut block);
            assert!(is_lost(&SECRET, Sector(80), &block));
            assert!(!is_lost(&SECRET, Sector(81), &block));
            assert!(!is_lost(&Secret([9; 16]), Sector(80), &block));
            assert!(!is_lost(&SECRET, Sector(80), &vec![0; size]));
            assert!(block[512..].iter().all(|&byte| byte == 0));
        }
        let mut block = vec![0; 4096];
        encode(&SECRET, Sector(80), &mut block);
        assert!(!is_lost(&SECRET, Sector(80), &block[..512]), "a mark of a 4096-byte block is not one of a 512-byte block");
    }

    #[test]
    fn any_flipped_bit_ends_the_mark() {
        let mut block = [0; 512];
        encode(&SECRET, Sector(7), &mut block);
        for bit in 0..512 * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_lost(&SECRET, Sector(7), &flipped), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_mark(bytes in proptest::collection::vec(any::<u8>(), 0..5000), sector in any::<u64>()) {
            prop_assert!(!is_lost(&SECRET, Sector(sector), &bytes));
        }
    }
}
