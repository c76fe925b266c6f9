//! Tests of looking at spares and mending them: every single damage is seen, mended, and costs no remap.

use super::*;
use crate::actuate::spare_table::tests::{description, new_spare, remap};
use crate::actuate::test_disk::{TestDisk, Trouble};
use crate::actuate::{NoHeader, read_header};
use crate::model::SetDescription;
use proptest::prelude::*;

const HEADER_B: u64 = 4088;

/// A spare with two remaps in rest, the second of them marked and lost.
fn spare() -> (TestDisk, SetDescription) {
    let (disk, mut table) = new_spare();
    let set = description();
    let mut mark = [0; 512];
    lost_mark::encode(&set.secret, Sector(75), &mut mark);
    disk.write(Sector(remap(9, 4, 2).at.0 + 3), &mark).unwrap();
    table.commit(&disk, remap(3, 1, 1)).unwrap();
    table.commit(&disk, remap(9, 4, 2)).unwrap();
    table.mirror(&disk).unwrap();
    (disk, set)
}

fn live(examined: &Examined) -> Vec<Remap> {
    examined.table.as_ref().unwrap().as_ref().unwrap().table.remaps().copied().collect()
}

#[test]
fn a_whole_spare_is_whole() {
    let (disk, set) = spare();
    let examined = examine(&disk);
    assert!(examined.is_whole(), "{:?} {:?}", examined.steps(), examined.beyond_repair());
    assert_eq!(examined.header.as_ref().unwrap().header.set, set);
    let table = examined.table.as_ref().unwrap().as_ref().unwrap();
    assert_eq!((table.blocks, table.top, table.lost, table.unreadable), (5, 2, Sectors(1), Sectors(0)));
    assert_eq!(live(&examined), [remap(3, 1, 1), remap(9, 4, 2)]);
    let before = disk.changes();
    repair(&disk, examined).unwrap();
    assert_eq!(disk.changes(), before + 1, "only a flush");
}

/// Every place that there is twice, flipped and unreadable.
#[test]
fn every_single_damage_is_mended_and_costs_nothing() {
    for sector in [0, 7, HEADER_B, 8, 8 + 5 * 8, 8 + 4 * 8, 8 + 9 * 8] {
        for spoiled in [false, true] {
            let (disk, set) = spare();
            if spoiled {
                disk.spoil(sector)
            } else {
                disk.flip(sector, 77)
            }
            let examined = examine(&disk);
            assert_eq!((examined.steps().len(), examined.beyond_repair()), (1, vec![]), "sector {sector}");
            assert!(!examined.is_whole());
            let after = repair(&disk, examined).unwrap();
            assert!(after.is_whole(), "sector {sector}: {:?}", after.steps());
            disk.restart(0);
            let after = examine(&disk);
            assert!(after.is_whole());
            assert_eq!((live(&after), &after.header.unwrap().header.set), (vec![remap(3, 1, 1), remap(9, 4, 2)], &set));
        }
    }
}

#[test]
fn a_slot_that_lags_is_brought_up_to_the_newer_state() {
    let (disk, _) = spare();
    let mut table = SpareTable::open(&disk, &description(), 0).unwrap();
    table.commit(&disk, remap(20, 6, 3)).unwrap();
    table.remove(&disk, Sector(24), 4).unwrap();
    let examined = examine(&disk);
    let [Step::Slot(unequal)] = &examined.steps()[..] else { panic!("{:?}", examined.steps()) };
    assert_eq!((unequal.seq, unequal.other.clone()), (4, Ok(3)));
    assert_eq!((&unequal.gained[..], &unequal.dropped[..]), (&[][..], &[remap(3, 1, 1)][..]));
    let after = repair(&disk, examined).unwrap();
    assert_eq!(live(&after), [remap(9, 4, 2), remap(20, 6, 3)]);
}

#[test]
fn what_is_lost_is_left_as_it_is() {
    let (disk, _) = spare();
    disk.flip(8, 1);
    disk.flip(8 + 5 * 8, 1);
    disk.flip(8 + 2 * 8, 1);
    let examined = examine(&disk);
    assert_eq!((examined.steps().len(), examined.beyond_repair().len()), (1, 1));
    let after = repair(&disk, examined).unwrap();
    assert_eq!((after.steps().len(), after.beyond_repair().len()), (0, 1));
    disk.flip(8, 1);
    assert_eq!(live(&examine(&disk)), [remap(3, 1, 1), remap(9, 4, 2)], "the lost slots were not written");
}

#[test]
fn without_a_header_nothing_is_done_and_the_table_is_named() {
    let (disk, set) = spare();
    disk.flip(0, 9);
    disk.flip(HEADER_B, 9);
    let examined = examine(&disk);
    assert!(examined.steps().is_empty() && examined.table.is_none() && !examined.is_whole());
    assert_eq!(examined.stray.map(|place| place.set), Some(set.id));
    let writes = disk.changes();
    let _ = repair(&disk, examined);
    assert_eq!(disk.changes(), writes + 1, "only a flush");
}

#[test]
fn a_copy_on_a_larger_disk_is_not_written_to() {
    let (disk, _) = spare();
    let larger = TestDisk::new(4096 + 512);
    let mut all = vec![0; 4096 * 512];
    disk.read(Sector(0), &mut all).unwrap();
    larger.write_durable(Sector(0), &all[..64 * 512]).unwrap();
    let examined = examine(&larger);
    assert!(examined.steps().is_empty() && examined.beyond_repair()[0].contains("4096"), "{:?}", examined.beyond_repair());
}

#[test]
fn a_write_that_fails_is_told() {
    let (disk, _) = spare();
    disk.flip(0, 9);
    let examined = examine(&disk);
    disk.plan(0, Trouble::Error(0));
    assert!(matches!(repair(&disk, examined), Err(RepairError::Io(_))));
    assert_eq!(examine(&disk).steps().len(), 1);
}

/// A disk that says yes and does nothing.
struct Deaf(TestDisk);

impl BlockIo for Deaf {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        self.0.read(at, buf)
    }
    fn write(&self, _: Sector, _: &[u8]) -> Result<(), IoError> {
        Ok(())
    }
    fn write_durable(&self, _: Sector, _: &[u8]) -> Result<(), IoError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }
    fn size(&self) -> Sectors {
        self.0.size()
    }
    fn logical_block(&self) -> u32 {
        512
    }
}

#[test]
fn a_disk_that_keeps_nothing_is_told() {
    for sector in [0, HEADER_B, 8] {
        let (disk, _) = spare();
        disk.flip(sector, 9);
        let deaf = Deaf(disk);
        assert!(matches!(repair(&deaf, examine(&deaf)), Err(RepairError::NotKept(_))), "sector {sector}");
    }
}

/// What a hostile hand, or a disk, does to the blocks that describe a spare.
#[derive(Clone, Debug)]
enum Harm {
    /// A byte changes.
    Byte(usize, u8),
    /// A byte changes, and the checksum of its block fits again.
    Sealed(usize, u8),
    /// A block is written to the place of another one.
    Misdirected(usize, usize),
    /// A block is zero.
    Zero(usize),
    /// A block cannot be read.
    Bad(usize),
    /// A block holds anything.
    Any(usize, Vec<u8>),
    /// A slot holds these records, and is sound.
    Records(u32, u8, Vec<Remap>),
}

/// First sectors of the headers and of all slots.
fn described() -> Vec<u64> {
    (0..11).map(|number| number * 8).chain([HEADER_B]).collect()
}

fn harm() -> impl Strategy<Value = Harm> {
    let block = 0..described().len();
    // Where fields are; the rest of a block is zero.
    let field = prop_oneof![3 => 0..208usize, 1 => 464..544usize, 1 => 0..BLOCK_BYTES];
    let value = prop_oneof![Just(0), Just(1), Just(8), Just(0xff), any::<u8>()];
    // So few places that they are often claimed twice.
    let record = (0..12u64, 0..12u64, 1..9u64).prop_map(|(main, at, seq)| remap(main, at, seq));
    let byte = (block.clone(), field, value).prop_map(|(block, field, value)| (block * BLOCK_BYTES + field, value));
    prop_oneof![
        2 => byte.clone().prop_map(|(at, value)| Harm::Byte(at, value)),
        6 => byte.prop_map(|(at, value)| Harm::Sealed(at, value)),
        2 => (block.clone(), block.clone()).prop_map(|(from, to)| Harm::Misdirected(from, to)),
        1 => block.clone().prop_map(Harm::Zero),
        1 => block.clone().prop_map(Harm::Bad),
        1 => (block, proptest::collection::vec(any::<u8>(), BLOCK_BYTES)).prop_map(|(block, bytes)| Harm::Any(block, bytes)),
        4 => (0..5u32, 0..2u8, proptest::collection::vec(record, 0..4))
            .prop_map(|(index, slot, records)| Harm::Records(index, slot, records)),
    ]
}

fn seal(block: &mut [u8]) {
    block[12..16].fill(0);
    let sum = crc32c::crc32c(block);
    block[12..16].copy_from_slice(&sum.to_le_bytes());
}

fn suffer(disk: &TestDisk, harm: &Harm) {
    let places = described();
    let read = |block: usize| {
        let mut bytes = vec![0; BLOCK_BYTES];
        // What cannot be read is taken for zero.
        let _ = disk.read(Sector(places[block]), &mut bytes);
        bytes
    };
    let write = |block: usize, bytes: &[u8]| disk.write_durable(Sector(places[block]), bytes).unwrap();
    match harm {
        Harm::Byte(at, value) | Harm::Sealed(at, value) => {
            let mut bytes = read(at / BLOCK_BYTES);
            bytes[at % BLOCK_BYTES] = *value;
            if matches!(harm, Harm::Sealed(..)) {
                seal(&mut bytes);
            }
            write(at / BLOCK_BYTES, &bytes);
        }
        Harm::Misdirected(from, to) => write(*to, &read(*from)),
        Harm::Zero(block) => write(*block, &[0; BLOCK_BYTES]),
        Harm::Bad(block) => disk.spoil(places[*block] + 3),
        Harm::Any(block, bytes) => write(*block, bytes),
        Harm::Records(index, slot, records) => {
            let set = description();
            let scope = Scope::new(&set, 0).unwrap();
            let seq = records.iter().map(|record| record.seq).max().unwrap_or(0);
            disk.write_durable(scope.slot(*index, *slot), &table::encode(scope.place(*index), seq, records).unwrap()).unwrap();
        }
    }
}

/// What must hold of every device whatsoever: the reader agrees with what opens a set, nothing is given twice, and a repair
/// changes nothing of what counts.
fn holds_of(disk: &TestDisk) -> Result<(), TestCaseError> {
    let examined = examine(disk);
    prop_assert_eq!(&examined.header, &read_header(disk));
    let _ = (examined.steps(), examined.beyond_repair());
    let table = match &examined.table {
        Some(Ok(table)) => table,
        Some(Err(error)) => return Err(TestCaseError::fail(error.to_string())),
        None => {
            prop_assert!(examined.steps().is_empty() && !examined.is_whole());
            return Ok(());
        }
    };
    let header = examined.header.as_ref().unwrap().header.clone();
    let opened = SpareTable::open(disk, &header.set, header.spare).unwrap();
    let all = |table: &SpareTable| table.records().copied().collect::<Vec<_>>();
    prop_assert_eq!(all(&table.table), all(&opened));
    prop_assert_eq!(table.table.check(), opened.check());
    let live: Vec<Remap> = opened.remaps().copied().collect();
    for (number, one) in live.iter().enumerate() {
        prop_assert!(one.main.end().0 <= header.set.main.sectors.0);
        prop_assert!(header.set.geometry[usize::from(header.spare)].data.covers(&one.spare_extent()));
        for two in &live[number + 1..] {
            prop_assert!(!one.main.overlaps(&two.main) && !one.spare_extent().overlaps(&two.spare_extent()));
        }
    }
    let beyond = examined.beyond_repair();
    let after = repair(disk, examined).map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!((after.steps(), after.beyond_repair()), (vec![], beyond));
    let again = SpareTable::open(disk, &header.set, header.spare).unwrap();
    prop_assert_eq!((all(&again), again.check()), (all(&opened), opened.check()));
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happened_to_a_spare_is_read_and_mended_the_same(harms in proptest::collection::vec(harm(), 1..8)) {
        let (disk, _) = spare();
        harms.iter().for_each(|harm| suffer(&disk, harm));
        holds_of(&disk)?;
    }

    #[test]
    fn arbitrary_devices_are_read(
        sectors in prop_oneof![0..40u64, 540..600u64, Just(4096)],
        blocks in proptest::collection::vec((0..600u64, proptest::collection::vec(any::<u8>(), 512)), 0..12),
        magic in proptest::option::of(prop_oneof![Just(b"RMPGUARD"), Just(b"RMPTABLE")]),
    ) {
        let disk = TestDisk::new(sectors);
        for (at, mut bytes) in blocks {
            if let Some(magic) = magic {
                bytes[..8].copy_from_slice(magic);
            }
            if at < sectors {
                disk.write_durable(Sector(at), &bytes).unwrap();
            }
        }
        let examined = examine(&disk);
        prop_assert!(matches!(examined.header, Err(NoHeader::NotOurs | NoHeader::Damaged { .. })), "{:?}", examined.header);
        prop_assert!(examined.table.is_none() && examined.stray.is_none() && examined.steps().is_empty());
    }
}
