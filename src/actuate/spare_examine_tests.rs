//! Tests of looking at spares and mending them: every single damage is seen, mended, and costs no remap.

use super::*;
use crate::actuate::spare_table::tests::{description, new_spare, remap};
use crate::actuate::test_disk::{TestDisk, Trouble};
use crate::model::SetDescription;

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
    assert_eq!(disk.changes(), before + 2, "only flushes");
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
