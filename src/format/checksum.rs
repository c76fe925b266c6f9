//! The checksum over a live table that `dump` and `ready` of the target carry: order does not matter.

use crate::model::Remap;

const K: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// What one entry adds.
fn entry(remap: &Remap) -> u64 {
    let rest = remap.main.len().0 & 0xffff_ffff | u64::from(remap.spare) << 32 | u64::from(remap.flags.marked) << 48;
    mix(mix(mix(remap.main.start().0.wrapping_add(K)) ^ remap.at.0) ^ rest)
}

/// Checksum of a table: the wrapping sum over its entries. Sequence numbers do not count; the kernel has none.
pub fn table_checksum<'a>(remaps: impl IntoIterator<Item = &'a Remap>) -> u64 {
    remaps.into_iter().fold(0, |sum, remap| sum.wrapping_add(entry(remap)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Extent, RemapFlags, Sector, Sectors};

    fn remap(main: u64, at: u64, len: u64, spare: u16, marked: bool) -> Remap {
        let main = Extent::new(Sector(main), Sectors(len)).unwrap();
        Remap { main, spare, at: Sector(at), flags: RemapFlags { marked }, seq: 7 }
    }

    /// Numbers from an independent implementation of the protocol page, in Python.
    #[test]
    fn known_sums() {
        let a = remap(1000, 2048, 8, 0, true);
        let b = remap(0, 0, 1, 3, false);
        assert_eq!(table_checksum([]), 0);
        assert_eq!(table_checksum([&a]), 0x4dc6_1d33_ac7d_8394);
        assert_eq!(table_checksum([&b]), 0x0abe_e4f4_9605_2a06);
        assert_eq!(table_checksum([&a, &b]), table_checksum([&b, &a]));
    }

    #[test]
    fn every_field_counts_but_the_sequence() {
        let base = remap(1000, 2048, 8, 0, false);
        for other in [
            remap(1001, 2048, 8, 0, false),
            remap(1000, 2049, 8, 0, false),
            remap(1000, 2048, 9, 0, false),
            remap(1000, 2048, 8, 1, false),
            remap(1000, 2048, 8, 0, true),
        ] {
            assert_ne!(table_checksum([&base]), table_checksum([&other]));
        }
        assert_eq!(table_checksum([&base]), table_checksum([&Remap { seq: 9, ..base }]));
    }
}
