//! Tests of making a spare anew: what is whole on it wins, what is lost comes from the store, a crash at any point is survived.

use super::*;
use crate::actuate::spare_table::tests::{description, new_spare, remap};
use crate::actuate::test_disk::{TestDisk, Trouble};
use crate::actuate::{read_header, wipe_headers};
use crate::model::{Sector, SetId};

const TABLE: u64 = 8;
const BLOCKS: u64 = 5;

fn served(remap: Remap) -> Served {
    Served { main: remap.main, at: remap.at }
}

/// A spare in rest whose remaps are in its first table block.
fn spare(remaps: &[Remap]) -> TestDisk {
    let (disk, mut table) = new_spare();
    remaps.iter().for_each(|remap| table.commit(&disk, *remap).unwrap());
    table.mirror(&disk).unwrap();
    disk
}

fn lose_block(disk: &TestDisk, index: u64) {
    for slot in 0..2 {
        disk.write_durable(Sector(TABLE + (slot * BLOCKS + index) * 8), &[0; 4096]).unwrap();
    }
}

fn live(disk: &TestDisk) -> Vec<Remap> {
    let found = read_header(disk).unwrap().header;
    let table = SpareTable::open(disk, &found.set, found.spare).unwrap();
    table.check().unwrap();
    table.remaps().copied().collect()
}

#[test]
fn a_whole_table_needs_no_history() {
    let remaps = [remap(3, 1, 1), remap(9, 4, 2)];
    let disk = spare(&remaps);
    wipe_headers(&disk).unwrap();
    // The store lags, and knows one that is no more.
    let plan = plan(&disk, &description(), 0, &[served(remap(50, 9, 1))], 7).unwrap();
    assert_eq!((&plan.own[..], plan.lost.len(), plan.added.len(), plan.left_out.len()), (&remaps[..], 0, 0, 0));
    rebuild(&disk, &description(), plan, 4).unwrap();
    disk.restart(0);
    assert_eq!(live(&disk), remaps);
    assert_eq!(read_header(&disk).unwrap().header.generation, 4);
}

#[test]
fn lost_blocks_come_from_the_store_and_are_marked() {
    let remaps = [remap(3, 1, 1), remap(9, 4, 3)];
    for wiped in [&[0][..], &[0, 1, 2, 3, 4]] {
        let disk = spare(&remaps);
        wipe_headers(&disk).unwrap();
        wiped.iter().for_each(|index| lose_block(&disk, *index));
        let plan = plan(&disk, &description(), 0, &remaps.map(served), 30).unwrap();
        assert_eq!((plan.own.len(), plan.lost.len(), plan.added.len()), (0, wiped.len(), 2));
        rebuild(&disk, &description(), plan, 1).unwrap();
        let marked = |remap: Remap, seq| Remap { flags: RemapFlags { marked: true }, seq, ..remap };
        assert_eq!(live(&disk), [marked(remaps[0], 31), marked(remaps[1], 32)]);
    }
}

#[test]
fn what_the_table_has_wins_over_the_store() {
    let remaps = [remap(3, 1, 1), remap(9, 4, 3)];
    let disk = spare(&remaps);
    wipe_headers(&disk).unwrap();
    lose_block(&disk, 4);
    // The same, one that moved since, one whose place was given to another, and one that only the lost block can have had.
    let known = [remap(3, 1, 1), remap(9, 7, 3), remap(40, 4, 3), remap(60, 12, 3)].map(served);
    let plan = plan(&disk, &description(), 0, &known, 0).unwrap();
    assert_eq!(plan.left_out, known[1..3]);
    rebuild(&disk, &description(), plan, 1).unwrap();
    let added = Remap { flags: RemapFlags { marked: true }, seq: 4, ..remap(60, 12, 0) };
    assert_eq!(live(&disk), [remaps[0], remaps[1], added]);
}

#[test]
fn more_remaps_than_one_block_holds() {
    let known: Vec<Served> = (0..200).map(|number| served(remap(number * 2, number, 1))).collect();
    let disk = spare(&[]);
    wipe_headers(&disk).unwrap();
    lose_block(&disk, 0);
    assert!(matches!(plan(&disk, &description(), 0, &known, 0), Err(RebuildError::Contradiction(_))));
    lose_block(&disk, 3);
    let plan = plan(&disk, &description(), 0, &known, 0).unwrap();
    rebuild(&disk, &description(), plan, 1).unwrap();
    assert_eq!(live(&disk).iter().copied().map(served).collect::<Vec<_>>(), known);
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    let set = description();
    let other = SetDescription { id: SetId(uuid::Uuid::from_u128(77)), ..set.clone() };
    let disk = spare(&[remap(3, 1, 1)]);
    let refused = |known: &[Served], set: &SetDescription| {
        let before = disk.changes();
        let error = plan(&disk, set, 0, known, 0).unwrap_err();
        assert!(disk.changes() <= before + 1, "more than a flush");
        error
    };
    assert_eq!(refused(&[], &set), RebuildError::HasHeader);
    disk.write_durable(Sector(0), &[0; 4096]).unwrap();
    assert_eq!(refused(&[], &set), RebuildError::HasHeader);
    disk.write_durable(Sector(4088), &[0; 4096]).unwrap();
    assert!(matches!(refused(&[], &other), RebuildError::Other(_)), "the table of another set");
    lose_block(&disk, 0);
    for known in [[remap(3, 1, 1), remap(3, 2, 1)], [remap(3, 1, 1), remap(4, 1, 1)], [remap(1 << 20, 1, 1), remap(3, 2, 1)]] {
        assert!(matches!(refused(&known.map(served), &set), RebuildError::Contradiction(_)), "{known:?}");
    }
    let larger = TestDisk::new(4104);
    assert!(matches!(plan(&larger, &set, 0, &[], 0), Err(RebuildError::Other(_))));
}

/// The power fails at each write; then it is done again.
#[test]
fn a_crash_at_any_point_is_survived() {
    let remaps = [remap(3, 1, 1), remap(9, 4, 3)];
    for nth in 0..20 {
        for mask in [0, 1, u64::MAX] {
            let disk = spare(&remaps);
            wipe_headers(&disk).unwrap();
            lose_block(&disk, 0);
            lose_block(&disk, 2);
            let first = plan(&disk, &description(), 0, &remaps.map(served), 0).unwrap();
            disk.plan(nth, Trouble::Crash(mask));
            let done = rebuild(&disk, &description(), first, 1);
            disk.restart(nth as u64);
            // The headers are whole as soon as one is; the rest is for a repair.
            if read_header(&disk).is_err() {
                assert!(done.is_err());
                let again = plan(&disk, &description(), 0, &remaps.map(served), 0).unwrap();
                rebuild(&disk, &description(), again, 1).unwrap();
            }
            let found: Vec<Served> = live(&disk).into_iter().map(served).collect();
            assert_eq!(found, remaps.map(served), "crash at {nth}, {mask:b}");
        }
    }
}
