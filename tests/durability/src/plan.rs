//! Where main is bad, by a seed.

use fastrand::Rng;
use std::collections::BTreeSet;
use std::ops::Range;

/// The cure unit of the sets here, in sectors.
pub const BLOCK: u64 = 8;

/// The first place; sectors before it are good.
const FIRST: u64 = 1024;

/// Sectors from one place to the next, so that each has good neighbours.
const STEP: u64 = 64;

/// One or two blocks of main with bad sectors in each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its sectors.
    pub sectors: Range<u64>,
    /// The bad ones.
    pub bad: BTreeSet<u64>,
}

impl Place {
    /// First sectors of its blocks.
    pub fn blocks(&self) -> impl Iterator<Item = u64> + use<> {
        self.sectors.clone().step_by(BLOCK as usize)
    }
}

/// The places, in the order of main.
pub fn places(seed: u64, count: u64) -> Vec<Place> {
    let mut rng = Rng::with_seed(seed);
    (0..count).map(|number| place(&mut rng, FIRST + number * STEP)).collect()
}

fn place(rng: &mut Rng, start: u64) -> Place {
    let whole = |block: u64| (block..block + BLOCK).collect::<BTreeSet<u64>>();
    let (blocks, bad) = match rng.u8(..5) {
        0 => (1, BTreeSet::from([start + rng.u64(..BLOCK)])),
        1 => (1, whole(start)),
        2 => (2, (start + rng.u64(1..BLOCK)..start + BLOCK + rng.u64(1..BLOCK)).collect()),
        3 => (2, &whole(start) | &whole(start + BLOCK)),
        _ => {
            let first = start + rng.u64(..BLOCK);
            (1, (start..start + BLOCK).filter(|sector| *sector == first || rng.bool()).collect())
        }
    };
    Place { sectors: start..start + blocks * BLOCK, bad }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_of_a_place_is_bad_somewhere_and_places_are_apart() {
        let places = places(1, 200);
        for place in &places {
            assert!(place.bad.iter().all(|sector| place.sectors.contains(sector)));
            assert!(place.blocks().all(|block| place.bad.range(block..block + BLOCK).next().is_some()), "{place:?}");
        }
        assert!(places.windows(2).all(|two| two[0].sectors.end + BLOCK <= two[1].sectors.start));
        assert_eq!(places, super::places(1, 200));
    }
}
