//! A slot of a table block: up to 126 remaps under one checksum.
//!
//! All numbers little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `RMPTABLE` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | CRC32C of the 4096 bytes with this field zero |
//! | 16 | 16 | set UUID |
//! | 32 | 2 | index of the spare |
//! | 34 | 2 | number of records, 0 to 126 |
//! | 36 | 4 | index of the table block |
//! | 40 | 8 | sequence number of the commit that wrote it; 0 in a new table |
//! | 48 | 16 | zero |
//! | 64 | 126 × 32 | records, zero from the number of records on |
//!
//! A record:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | first sector on main |
//! | 8 | 8 | first sector on the spare |
//! | 16 | 4 | sectors, at least 1 |
//! | 20 | 2 | flags: 1 = may hold lost marks |
//! | 22 | 2 | index of the spare |
//! | 24 | 8 | sequence number of the commit that made it, from 1 |

use super::layout::{self, Block, get, get_u16, get_u32, get_u64, put};
use super::{BLOCK_BYTES, VERSION};
use crate::model::{Extent, Remap, RemapFlags, Sector, Sectors, SetId};
use uuid::Uuid;

/// Records in one table block.
pub const RECORDS_PER_BLOCK: usize = 126;

/// The highest sequence number. Each takes a write of the table, and a start that finds a slot unread goes ahead by
/// 2³², so no spare comes to it; of a table that says more, the next number might not exist.
pub const MAX_SEQ: u64 = 1 << 62;

const MAGIC: &[u8; 8] = b"RMPTABLE";
const RECORDS_AT: usize = 64;
const RECORD_BYTES: usize = 32;
const MARKED: u16 = 1;
const BEYOND: &str = "has a sequence number that no spare comes to (above 2⁶²)";

/// Which slot pair a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The set.
    pub set: SetId,
    /// Index of the spare.
    pub spare: u16,
    /// Index of the table block.
    pub index: u32,
}

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableBlock {
    /// Where it belongs.
    pub place: Place,
    /// Sequence number of the commit that wrote it.
    pub seq: u64,
    /// The remaps.
    pub records: Vec<Remap>,
}

/// Why bytes are no table block, or one cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Something else is there, or nothing.
    #[error("no table block")]
    NotOurs,
    /// The checksum does not fit the content: torn or damaged.
    #[error("the table block is damaged: its checksum does not match")]
    Checksum,
    /// Written by a newer remap-guardian.
    #[error("the table block has format version {0}, this remap-guardian reads up to {VERSION}: upgrade it")]
    Newer(u32),
    /// Sound, but it belongs elsewhere: a misdirected write, or another set's.
    #[error("the table block belongs to block {} of spare {} of set {}", .0.index, .0.spare, .0.set)]
    Misplaced(Place),
    /// Sound bytes with impossible content, or content that cannot be written.
    #[error("the table block {0}")]
    Content(&'static str),
}

/// The bytes of a slot.
pub fn encode(place: Place, seq: u64, records: &[Remap]) -> Result<[u8; BLOCK_BYTES], TableError> {
    if records.len() > RECORDS_PER_BLOCK {
        return Err(TableError::Content("has too many records"));
    }
    if seq > MAX_SEQ {
        return Err(TableError::Content(BEYOND));
    }
    let mut block = [0; BLOCK_BYTES];
    put(&mut block, 0, MAGIC);
    put(&mut block, 8, &VERSION.to_le_bytes());
    put(&mut block, 16, place.set.0.as_bytes());
    put(&mut block, 32, &place.spare.to_le_bytes());
    put(&mut block, 34, &(records.len() as u16).to_le_bytes());
    put(&mut block, 36, &place.index.to_le_bytes());
    put(&mut block, 40, &seq.to_le_bytes());
    for (number, record) in records.iter().enumerate() {
        check(record, place, seq)?;
        let at = RECORDS_AT + number * RECORD_BYTES;
        let len = u32::try_from(record.main.len().0).map_err(|_| TableError::Content("has a record that is too long"))?;
        put(&mut block, at, &record.main.start().0.to_le_bytes());
        put(&mut block, at + 8, &record.at.0.to_le_bytes());
        put(&mut block, at + 16, &len.to_le_bytes());
        put(&mut block, at + 20, &(if record.flags.marked { MARKED } else { 0 }).to_le_bytes());
        put(&mut block, at + 22, &record.spare.to_le_bytes());
        put(&mut block, at + 24, &record.seq.to_le_bytes());
    }
    layout::seal(&mut block);
    Ok(block)
}

/// Reads a slot.
pub fn decode(bytes: &[u8]) -> Result<TableBlock, TableError> {
    let block: &Block = bytes.try_into().map_err(|_| TableError::NotOurs)?;
    if !block.starts_with(MAGIC) {
        return Err(TableError::NotOurs);
    }
    if !layout::is_sealed(block) {
        return Err(TableError::Checksum);
    }
    match get_u32(block, 8) {
        VERSION => {}
        0 => return Err(TableError::Content("has version 0")),
        found => return Err(TableError::Newer(found)),
    }
    let set = SetId(Uuid::from_bytes(get(block, 16)));
    let place = Place { set, spare: get_u16(block, 32), index: get_u32(block, 36) };
    let count = usize::from(get_u16(block, 34));
    if count > RECORDS_PER_BLOCK {
        return Err(TableError::Content("has too many records"));
    }
    let used = RECORDS_AT + count * RECORD_BYTES;
    if !layout::is_zero(block, 48..RECORDS_AT) || !layout::is_zero(block, used..BLOCK_BYTES) {
        return Err(TableError::Content("is not zero where it is unused"));
    }
    let seq = get_u64(block, 40);
    if seq > MAX_SEQ {
        return Err(TableError::Content(BEYOND));
    }
    let records = (0..count).map(|number| record(block, RECORDS_AT + number * RECORD_BYTES, place, seq));
    Ok(TableBlock { place, seq, records: records.collect::<Result<_, _>>()? })
}

/// Reads a slot that must be at `place`.
pub fn decode_at(bytes: &[u8], place: Place) -> Result<TableBlock, TableError> {
    let block = decode(bytes)?;
    if block.place == place { Ok(block) } else { Err(TableError::Misplaced(block.place)) }
}

fn record(block: &Block, at: usize, place: Place, seq: u64) -> Result<Remap, TableError> {
    let len = Sectors(u64::from(get_u32(block, at + 16)));
    let main = Extent::new(Sector(get_u64(block, at)), len).map_err(|_| TableError::Content("has an impossible range"))?;
    let flags = get_u16(block, at + 20);
    if flags & !MARKED != 0 {
        return Err(TableError::Content("has unknown flags"));
    }
    let remap = Remap {
        main,
        spare: get_u16(block, at + 22),
        at: Sector(get_u64(block, at + 8)),
        flags: RemapFlags { marked: flags & MARKED != 0 },
        seq: get_u64(block, at + 24),
    };
    check(&remap, place, seq)?;
    Ok(remap)
}

/// What both directions demand of a record.
fn check(record: &Remap, place: Place, seq: u64) -> Result<(), TableError> {
    if Extent::new(record.at, record.main.len()).is_err() {
        return Err(TableError::Content("has an impossible range"));
    }
    if record.spare != place.spare {
        return Err(TableError::Content("has a record of another spare"));
    }
    if record.seq == 0 || record.seq > seq {
        return Err(TableError::Content("has a record newer than itself"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place { set: SetId(Uuid::from_u128(77)), spare: 1, index: 3 };

    fn remap(main: u64, at: u64, len: u64, marked: bool, seq: u64) -> Remap {
        let main = Extent::new(Sector(main), Sectors(len)).unwrap();
        Remap { main, spare: PLACE.spare, at: Sector(at), flags: RemapFlags { marked }, seq }
    }

    #[test]
    fn a_sequence_number_that_leaves_no_next_one_is_refused() {
        assert_eq!(decode(&encode(PLACE, MAX_SEQ, &[]).unwrap()).unwrap().seq, MAX_SEQ);
        for seq in [MAX_SEQ + 1, u64::MAX] {
            let refused = Err(TableError::Content(BEYOND));
            assert_eq!(encode(PLACE, seq, &[]).map(drop), refused);
            let mut crafted = encode(PLACE, 9, &[remap(8, 16, 8, true, 9)]).unwrap();
            put(&mut crafted, 40, &seq.to_le_bytes());
            layout::seal(&mut crafted);
            assert_eq!(decode(&crafted).map(drop), refused);
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let block = encode(PLACE, 9, &[remap(8, 16, 8, true, 9), remap(80, 160, 8, false, 2)]).unwrap();
        for bit in 0..BLOCK_BYTES * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_block_in_the_wrong_place_is_named() {
        let block = encode(PLACE, 0, &[]).unwrap();
        assert!(decode_at(&block, PLACE).is_ok());
        for other in [Place { index: 4, ..PLACE }, Place { spare: 0, ..PLACE }, Place { set: SetId(Uuid::nil()), ..PLACE }] {
            assert_eq!(decode_at(&block, other), Err(TableError::Misplaced(PLACE)));
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_when_written() {
        let good = remap(8, 16, 8, false, 5);
        assert!(encode(PLACE, 5, &vec![good; RECORDS_PER_BLOCK]).is_ok());
        for (seq, records) in [
            (5, vec![good; RECORDS_PER_BLOCK + 1]),
            (4, vec![good]),
            (5, vec![Remap { seq: 0, ..good }]),
            (5, vec![Remap { spare: 0, ..good }]),
            (5, vec![Remap { at: Sector(u64::MAX), ..good }]),
            (5, vec![remap(0, 0, 1 << 32, false, 5)]),
        ] {
            assert!(encode(PLACE, seq, &records).is_err(), "{records:?}");
        }
    }

    #[test]
    fn sound_bytes_with_impossible_content_are_refused() {
        let good = encode(PLACE, 9, &[remap(8, 16, 8, true, 9)]).unwrap();
        let changes = [
            (8, 0),
            (8, 2),
            (34, 0),
            (34, 2),
            (34, 127),
            (35, 1),
            (48, 1),
            (40, 8),
            (80, 0),
            (84, 2),
            (85, 1),
            (86, 0),
            (4000, 1),
        ];
        for (at, value) in changes {
            let mut block = good;
            block[at] = value;
            layout::seal(&mut block);
            assert!(decode(&block).is_err(), "byte {at} = {value}");
        }
    }

    prop_compose! {
        fn any_remap()(main in 0..u64::MAX - (1 << 33), at in 0..u64::MAX - (1 << 33), len in 1..1u64 << 32, marked: bool, seq in 1..=MAX_SEQ)
            -> Remap { remap(main, at, len, marked, seq) }
    }

    proptest! {
        #[test]
        fn round_trip(records in proptest::collection::vec(any_remap(), 0..=RECORDS_PER_BLOCK)) {
            let block = encode(PLACE, MAX_SEQ, &records).unwrap();
            prop_assert_eq!(decode_at(&block, PLACE), Ok(TableBlock { place: PLACE, seq: MAX_SEQ, records }));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..BLOCK_BYTES + 2)) {
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn resealed_bytes_are_refused_or_mean_what_they_say(changes in proptest::collection::vec((8..200usize, any::<u8>()), 1..8)) {
            let mut block = encode(PLACE, 9, &[remap(8, 16, 8, true, 9), remap(80, 160, 8, false, 2)]).unwrap();
            for (at, value) in changes {
                block[at] = value;
            }
            layout::seal(&mut block);
            if let Ok(read) = decode(&block) {
                prop_assert_eq!(encode(read.place, read.seq, &read.records).unwrap(), block);
            }
        }
    }
}
