//! What sectors hold: each write has a version, and each of its sectors is made of that and its place, so that old,
//! torn and misplaced content shows.

use remap_guardian::format::lost_mark;
use remap_guardian::model::{Secret, Sector};

/// Bytes of a sector, which is also the logical block of the disks here.
pub const SECTOR: usize = 512;

/// The version of what was on main before anything was written.
pub const INITIAL: u64 = 0;

const MAGIC: &[u8; 8] = b"a sector";

/// What was found in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The sector of this version.
    Version(u64),
    /// Its lost mark, or an error where a device was asked.
    Lost,
    /// What nobody wrote there.
    Foreign,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Found::Version(INITIAL) => write!(f, "what it held at first"),
            Found::Version(version) => write!(f, "write {version}"),
            Found::Lost => write!(f, "lost"),
            Found::Foreign => write!(f, "what nobody wrote there"),
        }
    }
}

/// The bytes of a main sector in a version.
pub fn sector(version: u64, main: u64) -> [u8; SECTOR] {
    let mut bytes = noise(version.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ main);
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&version.to_le_bytes());
    bytes
}

/// The bytes of `len` sectors.
pub fn sectors(version: u64, main: u64, len: u64) -> Vec<u8> {
    (main..main + len).flat_map(|at| sector(version, at)).collect()
}

/// What was on a spare before it was one.
pub fn stale(spare: u64) -> [u8; SECTOR] {
    noise(!spare)
}

/// What the bytes of a main sector are.
pub fn found(main: u64, bytes: &[u8]) -> Found {
    let Some(version) = bytes.get(8..16).and_then(|part| part.try_into().ok()).map(u64::from_le_bytes) else {
        return Found::Foreign;
    };
    if bytes == sector(version, main) { Found::Version(version) } else { Found::Foreign }
}

/// As [`found`], on a spare: it can be the sector's lost mark, too.
pub fn found_on_spare(secret: &Secret, main: u64, bytes: &[u8]) -> Found {
    if lost_mark::is_lost(secret, Sector(main), bytes) { Found::Lost } else { found(main, bytes) }
}

fn noise(seed: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_tells_its_version_and_nothing_else_does() {
        assert_eq!(found(9, &sector(3, 9)), Found::Version(3));
        assert_eq!(found(10, &sector(3, 9)), Found::Foreign, "another's");
        let mut torn = sector(3, 9);
        torn[500] ^= 1;
        assert_eq!(found(9, &torn), Found::Foreign);
        assert_eq!([found(9, &stale(9)), found(9, &[0; SECTOR])], [Found::Foreign; 2]);
    }

    #[test]
    fn a_lost_mark_is_told_from_content() {
        let secret = Secret([7; 16]);
        let mut mark = [0; SECTOR];
        lost_mark::encode(&secret, Sector(9), &mut mark);
        assert_eq!(found_on_spare(&secret, 9, &mark), Found::Lost);
        assert_eq!(found_on_spare(&secret, 10, &mark), Found::Foreign);
        assert_eq!(found(9, &mark), Found::Foreign, "one that reaches the reader of a device");
    }
}
