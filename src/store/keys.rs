//! Keys and fixed values of the store. Numbers big-endian, so that keys sort as numbers do.

use crate::edge::ExtentState;
use crate::model::{Extent, Sector, Sectors, SetId};

/// Key prefix of one spare: set (16 bytes), spare (2).
pub fn spare(set: SetId, spare: u16) -> [u8; 18] {
    let mut key = [0; 18];
    key[..16].copy_from_slice(set.0.as_bytes());
    key[16..].copy_from_slice(&spare.to_be_bytes());
    key
}

/// Key of an extent: the spare's prefix, first sector (8).
pub fn extent(set: SetId, spare: u16, start: Sector) -> [u8; 26] {
    let mut key = [0; 26];
    key[..18].copy_from_slice(&self::spare(set, spare));
    key[18..].copy_from_slice(&start.0.to_be_bytes());
    key
}

/// Value of an extent: sectors (8), state (1: 1 reserved, 2 in use, 3 bad), first main sector (8, 0 if not in use).
pub fn extent_value(extent: Extent, state: ExtentState) -> [u8; 17] {
    let (tag, main) = match state {
        ExtentState::Reserved => (1, 0),
        ExtentState::InUse { main } => (2, main.0),
        ExtentState::Bad => (3, 0),
    };
    let mut value = [0; 17];
    value[..8].copy_from_slice(&extent.len().0.to_be_bytes());
    value[8] = tag;
    value[9..].copy_from_slice(&main.to_be_bytes());
    value
}

/// Reads an extent's key and value.
pub fn read_extent(key: &[u8], value: &[u8]) -> Option<(Extent, ExtentState)> {
    let value: &[u8; 17] = value.try_into().ok()?;
    let start = Sector(number(key.get(18..)?)?);
    let main = Sector(number(&value[9..])?);
    let state = match value[8] {
        1 => ExtentState::Reserved,
        2 => ExtentState::InUse { main },
        3 => ExtentState::Bad,
        _ => return None,
    };
    Some((Extent::new(start, Sectors(number(&value[..8])?)).ok()?, state))
}

/// Value of a spare's data area: first sector (8), sectors (8).
pub fn data_value(data: Extent) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&data.start().0.to_be_bytes());
    value[8..].copy_from_slice(&data.len().0.to_be_bytes());
    value
}

/// Reads a spare's data area.
pub fn read_data(value: &[u8]) -> Option<Extent> {
    Extent::new(Sector(number(value.get(..8)?)?), Sectors(number(value.get(8..)?)?)).ok()
}

/// Key of a history entry in the index by set: set (16), number (8).
pub fn set_entry(set: SetId, number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(set.0.as_bytes());
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A big-endian number of 8 bytes.
pub fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
