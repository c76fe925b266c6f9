//! Tests of adding a spare: after a power cut at any write the headers come to the old set or to the new one.

use super::*;
use crate::actuate::spare_header::{format_spare, prepare_spare};
use crate::actuate::spare_table::tests::description;
use crate::actuate::test_disk::{TestDisk, Trouble};
use crate::actuate::{SpareTable, wipe_headers};
use crate::model::{Extent, Remap, RemapFlags, Sectors};
use std::collections::BTreeSet;

const SIZES: [u64; 3] = [4096, 2048, 8192];

fn spare(number: usize) -> Identity {
    let serial = format!("SPARE {number}");
    Identity { serial, sectors: Sectors(SIZES[number]), ..description().spares[0].clone() }
}

/// The set with so many of the spares.
fn set_of(count: usize) -> SetDescription {
    let one = SetDescription { spares: Vec::new(), geometry: Vec::new(), ..description() };
    (0..count).fold(one, |set, number| extended(&set, &spare(number)).unwrap())
}

fn kept() -> Remap {
    let main = Extent::new(Sector(72), Sectors(8)).unwrap();
    Remap { main, spare: 0, at: set_of(1).geometry[0].data.start(), flags: RemapFlags { marked: false }, seq: 1 }
}

/// A set with two spares, one of which serves something; the third disk is blank.
fn disks() -> [TestDisk; 3] {
    let disks = SIZES.map(TestDisk::new);
    (0..2).for_each(|index| format_spare(&disks[index], &set_of(2), index as u16).unwrap());
    SpareTable::open(&disks[0], &set_of(2), 0).unwrap().commit(&disks[0], kept()).unwrap();
    wipe_headers(&disks[2]).unwrap();
    disks
}

fn headers(disks: &[&TestDisk]) -> Vec<Header> {
    let header = |disk: &&TestDisk| match read_header(*disk) {
        Ok(found) => Some(found.header),
        Err(NoHeader::Unfinished(header)) => Some(*header),
        Err(NoHeader::NotOurs | NoHeader::Damaged { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    disks.iter().filter_map(header).collect()
}

fn add(disks: &[TestDisk; 3], generation: u64) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let set = set_of(3);
    prepare_spare(&disks[2], &set, 2).map_err(|error| text(&error))?;
    announce(&[&disks[0], &disks[1]], &set, generation).map_err(|error| text(&error))?;
    finish_spare(&disks[2], &set, 2, generation).map_err(|error| text(&error))
}

/// What the disks come to opens: all members are there, and their tables say what they said. Returns the number of spares.
fn opens(disks: &[TestDisk; 3]) -> usize {
    let settled = settle(&headers(&[&disks[0], &disks[1], &disks[2]])).unwrap();
    let count = settled.set.spares.len();
    assert_eq!(settled.set, set_of(count));
    let members: Vec<&dyn BlockIo> = disks[..count].iter().map(|disk| disk as &dyn BlockIo).collect();
    complete(&members, &settled).unwrap();
    for (index, disk) in (0u16..).zip(&disks[..count]) {
        let found = read_header(disk).unwrap();
        assert_eq!((&found.header.set, found.header.spare, found.header.generation), (&settled.set, index, settled.generation));
        assert_eq!((found.bad_a, found.bad_b), (None, None));
        let table = SpareTable::open(disk, &settled.set, index).unwrap();
        table.check().unwrap();
        let expected = if index == 0 { vec![kept()] } else { Vec::new() };
        assert_eq!(table.remaps().copied().collect::<Vec<_>>(), expected);
    }
    let changes = disks.each_ref().map(TestDisk::changes);
    complete(&members, &settled).unwrap();
    assert_eq!(disks.each_ref().map(TestDisk::changes), changes, "it was complete");
    count
}

/// Every write and flush of `add`, as disk and number on that disk.
fn changes_of_adding() -> Vec<(usize, usize)> {
    let disks = disks();
    let before = disks.each_ref().map(TestDisk::changes);
    add(&disks, 2).unwrap();
    let of = |disk: usize| (0..disks[disk].changes() - before[disk]).map(move |nth| (disk, nth));
    let all: Vec<_> = [0, 1, 2].into_iter().flat_map(of).collect();
    // Two headers each of those that were there; more than two of the new one, which gets a table, too.
    assert_eq!(all.iter().filter(|(disk, _)| *disk < 2).count(), 4);
    assert!(all.len() > 4 + 6, "{all:?}");
    all
}

#[test]
fn a_power_cut_at_any_write_leaves_the_old_set_or_the_new_one() {
    let mut ends = BTreeSet::new();
    for (disk, nth) in changes_of_adding() {
        for arrives in [0, 1, 0x0f, 0xf0, 0xff] {
            let disks = disks();
            disks[disk].plan(nth, Trouble::Crash(arrives));
            add(&disks, 2).unwrap_err();
            disks.iter().for_each(|disk| disk.restart(nth as u64 * 31 + arrives));
            let count = opens(&disks);
            ends.insert(count);
            if count == 2 {
                // The half-added disk is in nobody's way, and is added when that is asked for again.
                add(&disks, 2).unwrap();
                assert_eq!(opens(&disks), 3);
            }
        }
    }
    assert_eq!(ends, BTreeSet::from([2, 3]));
}

#[test]
fn a_write_that_fails_leaves_the_old_set_or_the_new_one() {
    for (disk, nth) in changes_of_adding() {
        for arrives in [0, 0x0f, 0xff] {
            let disks = disks();
            disks[disk].plan(nth, Trouble::Error(arrives));
            add(&disks, 2).unwrap_err();
            disks.iter().for_each(TestDisk::forget);
            assert!([2, 3].contains(&opens(&disks)), "{disk} {nth} {arrives}");
        }
    }
}

#[test]
fn a_power_cut_while_it_is_completed_is_survived() {
    let committed = || {
        let disks = disks();
        prepare_spare(&disks[2], &set_of(3), 2).unwrap();
        disks[1].plan(0, Trouble::Crash(0));
        announce(&[&disks[0], &disks[1]], &set_of(3), 2).unwrap_err();
        disks.iter().for_each(TestDisk::forget);
        disks
    };
    for (disk, nth) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        for arrives in [0, 1, 0xf0, 0xff] {
            let disks = committed();
            let settled = settle(&headers(&[&disks[0], &disks[1], &disks[2]])).unwrap();
            assert_eq!(settled.behind, [1, 2]);
            disks[disk].plan(nth, Trouble::Crash(arrives));
            complete(&[&disks[0], &disks[1], &disks[2]], &settled).unwrap_err();
            disks.iter().for_each(TestDisk::forget);
            assert_eq!(opens(&disks), 3);
        }
    }
}

#[test]
fn a_half_added_disk_does_not_count_when_another_took_its_place() {
    let disks = disks();
    let other =
        SetDescription { spares: [set_of(2).spares, vec![Identity { serial: "X".into(), ..spare(2) }]].concat(), ..set_of(3) };
    let half = TestDisk::new(SIZES[2]);
    prepare_spare(&half, &other, 2).unwrap();
    let settled = settle(&headers(&[&disks[0], &disks[1], &half])).unwrap();
    assert_eq!((settled.set.spares.len(), settled.behind.len()), (2, 0));
    add(&disks, 2).unwrap();
    let settled = settle(&headers(&[&half, &disks[2], &disks[1], &disks[0]])).unwrap();
    assert_eq!((settled.set, settled.generation, settled.behind), (set_of(3), 2, Vec::new()));
    assert_eq!(settle(&headers(&[&half])), None);
}

#[test]
fn the_only_good_copy_is_not_written_first() {
    for arrives in [0, 0x0f] {
        for nth in 0..3 {
            let disks = disks();
            disks[0].flip(0, 300);
            disks[0].plan(nth, Trouble::Crash(arrives));
            add(&disks, 2).unwrap_err();
            disks.iter().for_each(TestDisk::forget);
            assert!([2, 3].contains(&opens(&disks)));
        }
    }
}

#[test]
fn nothing_is_announced_when_a_spare_is_not_what_it_was() {
    let disks = disks();
    wipe_headers(&disks[1]).unwrap();
    let before = disks[0].changes();
    let error = announce(&[&disks[0], &disks[1]], &set_of(3), 2).unwrap_err();
    assert!(matches!(&error, JoinError::Changed { spare: 1, .. }), "{error}");
    assert_eq!(disks[0].changes(), before);
    // Nor is a newer header written over.
    let disks = self::disks();
    write_headers(&disks[0], &set_of(2), 0, 7).unwrap();
    let error = announce(&[&disks[0], &disks[1]], &set_of(3), 2).unwrap_err();
    assert!(error.to_string().contains("generation 7"), "{error}");
}

#[test]
fn what_cannot_join_is_told_apart() {
    let set = set_of(2);
    let fresh = spare(2);
    assert_eq!(extended(&set, &spare(1)), Err(CannotJoin::Member));
    assert_eq!(extended(&set, &set.main), Err(CannotJoin::Member));
    let logical = Identity { logical_block: 4096, ..fresh.clone() };
    assert_eq!(extended(&set, &logical), Err(CannotJoin::LogicalBlock { found: 4096, expected: 512 }));
    let physical = Identity { physical_block: 16384, ..fresh.clone() };
    assert_eq!(extended(&set, &physical), Err(CannotJoin::PhysicalBlock { found: 16384, most: 4096 }));
    let small = Identity { sectors: Sectors(100), ..fresh.clone() };
    assert!(matches!(extended(&set, &small), Err(CannotJoin::TooSmall(_))));
    let more = |set: SetDescription, number: usize| extended(&set, &Identity { serial: format!("N{number}"), ..fresh.clone() });
    let full = (2..MAX_SPARES).fold(set.clone(), |set, number| more(set, number).unwrap());
    assert_eq!(more(full, 99), Err(CannotJoin::Full));
    assert_eq!(extended(&set, &fresh).unwrap().geometry[..2], set.geometry);
}
