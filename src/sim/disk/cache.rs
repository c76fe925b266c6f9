//! The volatile write cache: what a power cut may take.

use std::collections::BTreeMap;
use std::ops::Range;

use super::SECTOR;

type Data = Box<[u8; SECTOR]>;

/// Writes that were acknowledged, not flushed. Each sector has all of its versions, oldest first, with the number
/// of the write that each belongs to: any of them may be the one that reaches the medium.
#[derive(Debug, Default)]
pub(super) struct Cache {
    sectors: BTreeMap<u64, Vec<(u64, Data)>>,
    writes: u64,
}

impl Cache {
    pub(super) fn add(&mut self, sector: u64, data: &[u8]) {
        self.writes += 1;
        for (at, piece) in (sector..).zip(data.chunks_exact(SECTOR)) {
            let mut copy = Box::new([0; SECTOR]);
            copy.copy_from_slice(piece);
            self.sectors.entry(at).or_default().push((self.writes, copy));
        }
    }

    pub(super) fn has(&self, sector: u64) -> bool {
        self.sectors.contains_key(&sector)
    }

    /// The sectors held.
    pub(super) fn sectors(&self) -> impl Iterator<Item = u64> + '_ {
        self.sectors.keys().copied()
    }

    /// Sectors held.
    pub(super) fn len(&self) -> usize {
        self.sectors.len()
    }

    pub(super) fn forget(&mut self, range: &Range<u64>) {
        let held: Vec<u64> = self.sectors.range(range.clone()).map(|(&at, _)| at).collect();
        for at in held {
            self.sectors.remove(&at);
        }
    }

    /// Puts the newest cached content over `buf`, which is what the medium has from `sector` on.
    pub(super) fn overlay(&self, sector: u64, buf: &mut [u8]) {
        let end = sector + (buf.len() / SECTOR) as u64;
        for (&at, versions) in self.sectors.range(sector..end) {
            let offset = (at - sector) as usize * SECTOR;
            if let Some((_, data)) = versions.last() {
                buf[offset..offset + SECTOR].copy_from_slice(&data[..]);
            }
        }
    }

    /// Empties the cache; gives the newest content of each sector.
    pub(super) fn take_newest(&mut self) -> impl Iterator<Item = (u64, Data)> + use<> {
        let sectors = std::mem::take(&mut self.sectors);
        sectors.into_iter().filter_map(|(at, mut versions)| versions.pop().map(|(_, data)| (at, data)))
    }

    /// Empties the cache; gives what a power cut leaves: for each sector the newest version that survived.
    pub(super) fn take_survivors<'f>(&mut self, fates: &'f mut Fates) -> impl Iterator<Item = (u64, Data)> + use<'f> {
        let sectors = std::mem::take(&mut self.sectors);
        sectors.into_iter().filter_map(|(at, versions)| {
            let survivor = versions.into_iter().rev().find(|(write, _)| fates.survives(*write, at));
            survivor.map(|(_, data)| (at, data))
        })
    }
}

/// What becomes of each un-flushed write at a power cut: kept, dropped or torn, a third each. A torn write
/// keeps about half of its logical blocks; a block is written as a whole or not at all.
#[derive(Debug)]
pub(super) struct Fates {
    seed: u64,
    /// Sectors in a logical block.
    block: u64,
}

impl Fates {
    pub(super) fn new(seed: u64, block: u64) -> Self {
        Self { seed, block }
    }

    fn survives(&self, write: u64, sector: u64) -> bool {
        match scramble(self.seed ^ scramble(write)) % 3 {
            0 => true,
            1 => false,
            _ => scramble(self.seed ^ scramble(write) ^ scramble(!(sector / self.block))) & 1 == 0,
        }
    }
}

/// The mixing step of SplitMix64 (Steele, Lea and Flood, 2014).
fn scramble(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
