//! Where things are on a spare, as a pure function of its size and the set's cure block.

use super::{BLOCK_SECTORS, table::RECORDS_PER_BLOCK};
use crate::model::{Extent, Geometry, Sector, Sectors};

/// Most records that a spare's table has room for.
pub const MAX_RECORDS: u64 = 1 << 20;

/// Fewest cure blocks that make a spare worth having.
pub const MIN_DATA_BLOCKS: u64 = 64;

/// From this size on the data area starts at a multiple of 1 MiB.
const LARGE: u64 = 64 << 11;

const MIB: u64 = 1 << 11;

/// A device cannot serve as a spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the spare has {have} sectors of 512 bytes; at least {need} are needed")]
pub struct TooSmall {
    /// What it has.
    pub have: Sectors,
    /// The smallest size that would do.
    pub need: Sectors,
}

/// The layout of a spare of `spare` sectors in a set whose cure block is `block` sectors.
///
/// Header A, then two slots for each table block, then data in whole cure blocks, then header B in the last whole 4096
/// bytes. The table has a record for every cure block of data, up to [`MAX_RECORDS`].
pub fn geometry(spare: Sectors, block: Sectors) -> Result<Geometry, TooSmall> {
    let block = Sectors(block.0.clamp(BLOCK_SECTORS, u64::from(u32::MAX)).next_multiple_of(BLOCK_SECTORS));
    let too_small = TooSmall { have: spare, need: smallest(block) };
    if spare < too_small.need {
        return Err(too_small);
    }
    let header_b = spare.0 / BLOCK_SECTORS * BLOCK_SECTORS - BLOCK_SECTORS;
    let records = ((header_b - BLOCK_SECTORS) / block.0).min(MAX_RECORDS);
    let table_blocks = records.div_ceil(RECORDS_PER_BLOCK as u64);
    let align = if spare.0 >= LARGE { lcm(block.0, MIB) } else { block.0 };
    let start = (BLOCK_SECTORS + table_blocks * 2 * BLOCK_SECTORS).next_multiple_of(align);
    let blocks = header_b.saturating_sub(start) / block.0;
    if blocks < MIN_DATA_BLOCKS {
        return Err(too_small);
    }
    let data = Extent::new(Sector(start), Sectors(blocks * block.0)).map_err(|_| too_small)?;
    let table_blocks = u32::try_from(table_blocks).map_err(|_| too_small)?;
    Ok(Geometry { table_start: Sector(BLOCK_SECTORS), table_blocks, data, header_b: Sector(header_b) })
}

/// The smallest spare for a cure block: 64 blocks of data need one table block.
fn smallest(block: Sectors) -> Sectors {
    let before = |align: u64| (3 * BLOCK_SECTORS).next_multiple_of(align);
    let after = MIN_DATA_BLOCKS * block.0 + BLOCK_SECTORS;
    let small = before(block.0) + after;
    Sectors(if small < LARGE { small } else { before(lcm(block.0, MIB)) + after })
}

fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_spare_is_the_smallest() {
        for block in [8, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192] {
            let need = geometry(Sectors(0), Sectors(block)).unwrap_err().need;
            assert!(geometry(need, Sectors(block)).is_ok(), "{block}: {need}");
            assert!(geometry(Sectors(need.0 - 1), Sectors(block)).is_err(), "{block}: {need}");
        }
        let small = geometry(Sectors(100), Sectors(8)).unwrap_err();
        assert_eq!(small, TooSmall { have: Sectors(100), need: Sectors(544) });
        assert!(small.to_string().contains("100") && small.to_string().contains("544"));
    }

    #[test]
    fn known_layouts_stay() {
        let small = geometry(Sectors(4096), Sectors(8)).unwrap();
        let expected = Geometry {
            table_start: Sector(8),
            table_blocks: 5,
            data: Extent::new(Sector(88), Sectors(4000)).unwrap(),
            header_b: Sector(4088),
        };
        assert_eq!(small, expected);
        let large = geometry(Sectors(2 << 30), Sectors(8)).unwrap();
        assert_eq!(large.table_blocks, 8323, "2^20 records");
        assert_eq!(large.data.start(), Sector(66 << 11));
    }

    proptest! {
        #[test]
        fn every_layout_is_sound(spare in prop_oneof![0u64..300_000, any::<u64>()], shift in 0u32..8, odd in 0u64..3) {
            let block = (8u64 << shift) + odd * 8;
            if let Ok(g) = geometry(Sectors(spare), Sectors(block)) {
                let table_end = g.table_start.0 + u64::from(g.table_blocks) * 16;
                prop_assert!(table_end <= g.data.start().0);
                prop_assert!(g.data.end() <= g.header_b);
                prop_assert!(g.header_b.0 + 8 <= spare && spare - (g.header_b.0 + 8) < 8);
                prop_assert_eq!(g.data.start().0 % block, 0);
                prop_assert_eq!(g.data.len().0 % block, 0);
                prop_assert!(spare < LARGE || g.data.start().0 % MIB == 0);
                let blocks = g.data.len().0 / block;
                prop_assert!(blocks >= MIN_DATA_BLOCKS);
                prop_assert!(u64::from(g.table_blocks) * 126 >= blocks.min(MAX_RECORDS));
            }
        }
    }
}
