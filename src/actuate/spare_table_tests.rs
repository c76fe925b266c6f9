//! Tests of the table on a disk that fails, tears and loses power at every point.

use super::*;
use crate::actuate::format_spare;
use crate::actuate::test_disk::{TestDisk, Trouble};
use crate::format::geometry;
use crate::model::{Identity, Millis, RemapFlags, Secret, Sectors, SetId, SetName};
use proptest::prelude::*;
use uuid::Uuid;

const SECTORS: u64 = 4096;
const BASE: u64 = 88;

pub fn description() -> SetDescription {
    let member = |serial: &str, sectors| Identity {
        serial: serial.into(),
        sectors: Sectors(sectors),
        logical_block: 512,
        physical_block: 4096,
        ..Identity::default()
    };
    SetDescription {
        id: SetId(Uuid::from_u128(5)),
        name: SetName::new("data").unwrap(),
        main: member("MAIN", 1 << 20),
        spares: vec![member("SPARE", SECTORS)],
        secret: Secret([3; 16]),
        geometry: vec![geometry(Sectors(SECTORS), Sectors(8)).unwrap()],
        created: Millis(1),
    }
}

pub fn new_spare() -> (TestDisk, SpareTable) {
    let disk = TestDisk::new(SECTORS);
    format_spare(&disk, &description(), 0).unwrap();
    let table = open(&disk);
    (disk, table)
}

pub fn open(disk: &TestDisk) -> SpareTable {
    SpareTable::open(disk, &description(), 0).unwrap()
}

pub fn remap(main_block: u64, spare_block: u64, seq: u64) -> Remap {
    let main = Extent::new(Sector(main_block * 8), Sectors(8)).unwrap();
    Remap { main, spare: 0, at: Sector(BASE + spare_block * 8), flags: RemapFlags { marked: seq.is_multiple_of(2) }, seq }
}

pub fn live(table: &SpareTable) -> Vec<Remap> {
    table.remaps().copied().collect()
}

#[test]
fn committed_remaps_are_found_again() {
    let (disk, mut table) = new_spare();
    assert_eq!((table.next_seq(), table.free_records()), (1, 5 * 126));
    let (a, b) = (remap(9, 0, 1), remap(3, 1, 2));
    table.commit(&disk, a).unwrap();
    table.commit(&disk, b).unwrap();
    disk.restart(0);
    let again = open(&disk);
    assert_eq!(live(&again), vec![b, a]);
    assert_eq!((again.next_seq(), again.find(Sector(79)), again.find(Sector(80))), (3, Some(&a), None));
    assert!(again.check().is_ok());
    table.remove(&disk, a.main.start(), 3).unwrap();
    assert_eq!(live(&open(&disk)), vec![b]);
    assert_eq!(open(&disk).next_seq(), 4);
}

#[test]
fn a_replacement_is_one_write() {
    let (disk, mut table) = new_spare();
    table.commit(&disk, remap(9, 0, 1)).unwrap();
    let before = disk.changes();
    table.commit(&disk, remap(9, 5, 2)).unwrap();
    assert_eq!(disk.changes(), before + 1);
    assert_eq!(live(&open(&disk)), vec![remap(9, 5, 2)]);
    let cleared = Remap { flags: RemapFlags::default(), seq: 3, ..remap(9, 5, 2) };
    table.commit(&disk, cleared).unwrap();
    assert_eq!(live(&open(&disk)), vec![cleared]);
    table.commit(&disk, remap(10, 0, 4)).expect("the space of the replaced remap is free");
}

#[test]
fn what_cannot_be_committed_writes_nothing() {
    let (disk, mut table) = new_spare();
    table.commit(&disk, remap(9, 0, 5)).unwrap();
    let before = disk.changes();
    let wide = Extent::new(Sector(70), Sectors(8)).unwrap();
    for (wrong, why) in [
        (remap(1, 1, 5), "sequence"),
        (Remap { main: wide, ..remap(1, 1, 6) }, "overlaps"),
        (remap(1, 0, 6), "overlaps"),
        (Remap { at: Sector(BASE + 4), ..remap(1, 0, 6) }, "overlaps"),
        (Remap { spare: 1, ..remap(1, 1, 6) }, "outside"),
        (Remap { at: Sector(BASE - 8), ..remap(1, 1, 6) }, "outside"),
        (remap(1, 500, 6), "outside"),
        (Remap { at: Sector(u64::MAX), ..remap(1, 1, 6) }, "outside"),
        (remap(1 << 17, 1, 6), "outside"),
    ] {
        let error = table.commit(&disk, wrong).unwrap_err();
        assert!(matches!(error, CommitError::NotWritten(_)) && error.to_string().contains(why), "{error}");
    }
    assert!(matches!(table.remove(&disk, Sector(71), 6), Err(CommitError::NotWritten(NotWritten::NoSuchRemap(_)))));
    assert_eq!(disk.changes(), before);
}

#[test]
fn a_full_table_says_so() {
    let disk = TestDisk::new(544);
    let mut set = description();
    set.spares[0].sectors = Sectors(544);
    set.geometry = vec![geometry(Sectors(544), Sectors(8)).unwrap()];
    format_spare(&disk, &set, 0).unwrap();
    let mut table = SpareTable::open(&disk, &set, 0).unwrap();
    let data = set.geometry[0].data;
    let one = |number: u64| Remap {
        main: Extent::new(Sector(number), Sectors(1)).unwrap(),
        at: Sector(data.start().0 + number),
        ..remap(0, 0, number + 1)
    };
    (0..126).for_each(|number| table.commit(&disk, one(number)).unwrap());
    assert_eq!(table.commit(&disk, one(126)), Err(CommitError::NotWritten(NotWritten::Full)));
    table.remove(&disk, Sector(7), 127).unwrap();
    table.commit(&disk, one(127)).unwrap();
    let again = SpareTable::open(&disk, &set, 0).unwrap();
    assert_eq!((again.remaps().len(), again.free_records()), (126, 0));
}

#[test]
fn a_block_that_did_not_take_its_second_copy_keeps_no_later_cure_waiting() {
    let (disk, mut table) = new_spare();
    table.commit(&disk, remap(9, 0, 1)).unwrap();
    disk.plan(0, Trouble::Error(0));
    table.mirror_changed(&disk).unwrap_err();
    let before = disk.changes();
    table.mirror_changed(&disk).unwrap();
    assert_eq!((disk.changes(), table.single()), (before, 1));
    // The next record goes to another block.
    table.commit(&disk, remap(10, 1, 2)).unwrap();
    table.mirror_changed(&disk).unwrap();
    assert_eq!((disk.changes(), table.single()), (before + 2, 1));
}

/// A slot with the highest number, which is what somebody would write to make the next one overflow, does not count.
#[test]
fn a_crafted_sequence_number_stops_neither_the_other_slot_nor_the_program() {
    let (disk, mut table) = new_spare();
    table.commit(&disk, remap(9, 0, 1)).unwrap();
    table.mirror(&disk).unwrap();
    let place = table::Place { set: description().id, spare: 0, index: 0 };
    let mut crafted = table::encode(place, 7, &[]).unwrap();
    crafted[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    crate::format::layout::seal(&mut crafted);
    disk.write_durable(Sector(8), &crafted).unwrap();
    let mut again = open(&disk);
    assert_eq!((live(&again), again.next_seq()), (vec![remap(9, 0, 1)], 2));
    again.settle(&disk).unwrap();
    assert!(open(&disk).next_seq() > 2);
    [8, 8 + 5 * 8].into_iter().for_each(|slot| disk.write_durable(Sector(slot), &crafted).unwrap());
    let problem = open(&disk).check().unwrap_err();
    assert!(problem.contains("above 2⁶²"), "{problem}");
}

/// Every way in which one commit can be torn, each followed by a restart.
#[test]
fn a_torn_commit_is_before_or_after() {
    let mut seen = [0, 0];
    for mask in 0..256 {
        for (crash, mirrored) in [(false, false), (false, true), (true, false), (true, true)] {
            let (disk, mut table) = new_spare();
            table.commit(&disk, remap(9, 0, 1)).unwrap();
            if mirrored {
                table.mirror(&disk).unwrap();
            }
            let (before, new) = (live(&table), remap(3, 1, 2));
            disk.plan(0, if crash { Trouble::Crash(mask) } else { Trouble::Error(mask) });
            assert!(matches!(table.commit(&disk, new), Err(CommitError::Unknown(_))));
            assert_eq!(live(&table), before);
            disk.restart(mask);
            let found = open(&disk);
            assert!(found.check().is_ok());
            let after = live(&found) == [new, before[0]];
            assert!(after || live(&found) == before, "{mask}: {:?}", live(&found));
            seen[usize::from(after)] += 1;
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

/// An unknown commit that may have arrived is settled; the settling write fails or tears in every way first.
#[test]
fn settling_ends_in_the_state_before() {
    for arrived in [0, 0x0f, 0xff] {
        for mask in 0..256 {
            let (disk, mut table) = new_spare();
            table.commit(&disk, remap(9, 0, 1)).unwrap();
            let (before, new) = (live(&table), remap(3, 1, 2));
            disk.plan(0, Trouble::Error(arrived));
            table.commit(&disk, new).unwrap_err();
            assert_eq!(table.unsettled().collect::<Vec<_>>(), vec![0]);
            let replace = table.commit(&disk, remap(9, 2, 3));
            assert_eq!(replace, Err(CommitError::NotWritten(NotWritten::Unsettled)), "its block waits");
            assert_eq!(
                table.commit(&disk, remap(3, 2, 3)),
                Err(CommitError::NotWritten(NotWritten::Unsettled)),
                "its range waits"
            );
            assert_eq!(
                table.commit(&disk, remap(4, 1, 3)),
                Err(CommitError::NotWritten(NotWritten::Unsettled)),
                "its space waits"
            );
            table.commit(&disk, remap(5, 3, 3)).expect("other blocks go on");
            disk.plan(0, Trouble::Error(mask));
            table.settle(&disk).unwrap_err();
            assert_eq!(table.unsettled().count(), 1);
            let found: Vec<Remap> = live(&open(&disk)).into_iter().filter(|remap| remap.seq != 3).collect();
            assert!(found == before || found == [new, before[0]], "{found:?}");
            table.settle(&disk).unwrap();
            disk.restart(mask);
            let found = open(&disk);
            assert_eq!(live(&found), [remap(5, 3, 3), before[0]]);
            assert_eq!(found.next_seq(), table.next_seq());
            table.commit(&disk, Remap { seq: table.next_seq(), ..new }).unwrap();
        }
    }
}

#[test]
fn a_failed_write_that_arrives_when_it_is_settled_changes_nothing() {
    let (disk, mut table) = new_spare();
    table.commit(&disk, remap(9, 0, 1)).unwrap();
    let before = live(&table);
    disk.plan(0, Trouble::Error(0));
    table.commit(&disk, remap(3, 1, 2)).unwrap_err();
    table.settle(&disk).unwrap();
    // It went over the first slot, as the first commit had gone over the second.
    let place = table::Place { set: description().id, spare: 0, index: 0 };
    let late = table::encode(place, 2, &[remap(9, 0, 1), remap(3, 1, 2)]).unwrap();
    disk.write_durable(Sector(8), &late).unwrap();
    assert_eq!(live(&open(&disk)), before);
}

#[test]
fn a_block_that_cannot_be_settled_keeps_no_other_from_it() {
    let (disk, mut table) = new_spare();
    for number in 0..2 {
        disk.plan(0, Trouble::Error(0));
        table.commit(&disk, remap(number, number, number + 1)).unwrap_err();
    }
    assert_eq!(table.unsettled().collect::<Vec<_>>(), vec![0, 1]);
    disk.plan(0, Trouble::Error(0));
    table.settle(&disk).unwrap_err();
    assert_eq!(table.unsettled().collect::<Vec<_>>(), vec![0]);
    assert!(table.is_unsettled(&remap(0, 0, 0)) && !table.is_unsettled(&remap(1, 1, 0)));
    table.settle(&disk).unwrap();
    assert_eq!(table.unsettled().count(), 0);
}

#[test]
fn a_block_that_did_not_take_its_second_copy_is_used_last() {
    let (disk, mut table) = new_spare();
    let in_block = |disk: &TestDisk, index: u64| {
        let slots = [8 + index * 8, 8 + (5 + index) * 8].map(|sector| {
            let mut slot = [0; 4096];
            disk.read(Sector(sector), &mut slot).unwrap();
            table::decode(&slot).unwrap().records.len()
        });
        slots.into_iter().max().unwrap()
    };
    // Two blocks have changed; the first of them does not take its second copy.
    table.commit(&disk, remap(0, 0, 1)).unwrap();
    disk.plan(0, Trouble::Error(0));
    table.mirror(&disk).unwrap_err();
    table.commit(&disk, remap(1, 1, 2)).unwrap();
    assert_eq!([0, 1].map(|index| in_block(&disk, index)), [1, 1]);
    disk.plan(0, Trouble::Error(0));
    table.mirror(&disk).unwrap_err();
    assert_eq!(table.single(), 1, "the other one was mended nevertheless");
    for number in 2..5 * 126 {
        let main = Extent::new(Sector(800 + number), Sectors(1)).unwrap();
        let one = Remap { main, at: Sector(BASE + 80 + number), ..remap(0, 0, number + 1) };
        table.commit(&disk, one).unwrap_or_else(|error| panic!("{number}: {error}"));
    }
    assert_eq!(in_block(&disk, 0), 126, "when there is nothing else");
}

#[test]
fn any_one_damaged_slot_is_survived() {
    let (disk, mut table) = new_spare();
    for number in 0..10 {
        table.commit(&disk, remap(number, number, number + 1)).unwrap();
    }
    assert_eq!(table.single(), 1);
    table.mirror(&disk).unwrap();
    assert_eq!(table.single(), 0);
    let before = live(&table);
    for slot in 0..10 {
        let sector = 8 + slot * 8 + slot % 8;
        disk.flip(sector, 77);
        let mut found = open(&disk);
        assert_eq!((live(&found), found.single(), found.check()), (before.clone(), 1, Ok(())));
        disk.flip(sector, 77);
        disk.spoil(sector);
        found = open(&disk);
        assert_eq!((live(&found), found.single(), found.check()), (before.clone(), 1, Ok(())));
        found.mirror(&disk).unwrap();
        assert_eq!(open(&disk).single(), 0, "the bad sector healed when it was written");
    }
}

#[test]
fn a_lost_block_stops_commits_and_names_itself() {
    let (disk, mut table) = new_spare();
    table.commit(&disk, remap(0, 0, 1)).unwrap();
    disk.flip(8 + 2 * 8, 777);
    disk.spoil(8 + (5 + 2) * 8);
    let mut found = open(&disk);
    assert_eq!(found.damaged().iter().map(|block| block.index).collect::<Vec<_>>(), vec![2]);
    let text = found.check().unwrap_err();
    assert!(text.contains("block 2") && text.contains("checksum") && text.contains("bad sector"), "{text}");
    assert_eq!(live(&found), vec![remap(0, 0, 1)]);
    assert!(matches!(found.commit(&disk, remap(1, 1, 2)), Err(CommitError::NotWritten(NotWritten::Unsound(_)))));
    found.mirror(&disk).unwrap();
    assert!(open(&disk).check().is_err(), "mirroring does not paper over it");
}

#[test]
fn a_misdirected_slot_is_not_taken() {
    let (disk, mut table) = new_spare();
    table.commit(&disk, remap(0, 0, 1)).unwrap();
    table.mirror(&disk).unwrap();
    let mut slot = [0; 4096];
    disk.read(Sector(8), &mut slot).unwrap();
    disk.write_durable(Sector(16), &slot).unwrap();
    let found = open(&disk);
    assert_eq!((live(&found), found.single(), found.check()), (vec![remap(0, 0, 1)], 1, Ok(())));
}

#[test]
fn a_superseded_record_does_not_come_back() {
    let (disk, _) = new_spare();
    let (old, new) = (remap(0, 0, 1), remap(0, 1, 2));
    let place = |index| table::Place { set: description().id, spare: 0, index };
    for (index, record) in [(1, old), (3, new)] {
        let bytes = table::encode(place(index), record.seq, &[record]).unwrap();
        disk.write_durable(Sector(8 + u64::from(index) * 8), &bytes).unwrap();
    }
    let mut table = open(&disk);
    assert_eq!((live(&table), table.superseded()), (vec![new], &[old][..]));
    assert_eq!(table.remove(&disk, Sector(0), 3), Err(CommitError::NotWritten(NotWritten::Superseded(old.main))));
    assert!(table.commit(&disk, remap(7, 0, 3)).is_err(), "its space is not free");
    table.remove_record(&disk, &old, 3).unwrap();
    table.remove(&disk, Sector(0), 4).unwrap();
    assert_eq!(live(&open(&disk)), vec![]);
}

#[test]
fn contradicting_records_stop_the_table() {
    let (disk, _) = new_spare();
    let bytes = table::encode(table::Place { set: description().id, spare: 0, index: 1 }, 2, &[remap(0, 0, 1), remap(1, 0, 2)]);
    disk.write_durable(Sector(16), &bytes.unwrap()).unwrap();
    let mut table = open(&disk);
    assert_eq!(table.conflicts().len(), 1);
    assert!(table.check().unwrap_err().contains("contradicts"));
    assert!(table.commit(&disk, remap(5, 5, 3)).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Commit { main: u64, spare: u64 },
    Remove { main: u64 },
    Mirror,
    Settle,
    Reopen { seed: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u64..24, 0u64..40).prop_map(|(main, spare)| Step::Commit { main, spare }),
        3 => (0u64..24).prop_map(|main| Step::Remove { main }),
        2 => Just(Step::Mirror),
        1 => Just(Step::Settle),
        1 => any::<u64>().prop_map(|seed| Step::Reopen { seed }),
    ]
}

/// What the spare may hold: each unknown change may be there or not.
#[derive(Default)]
struct Model {
    sure: BTreeMap<u64, Remap>,
    /// Main block of an unknown change and what is there if it arrived.
    unknown: Option<(u64, Option<Remap>)>,
}

impl Model {
    fn change(&mut self, main: u64, to: Option<Remap>, result: &Result<(), CommitError>) {
        match result {
            Ok(()) => {
                self.sure.remove(&main);
                self.sure.extend(to.map(|remap| (main, remap)));
            }
            Err(CommitError::Unknown(_)) => self.unknown = Some((main, to)),
            Err(CommitError::NotWritten(_)) => {}
        }
    }

    /// Takes what a restart found, if it is one of the possible states.
    fn accept(&mut self, found: Vec<Remap>) -> Result<(), TestCaseError> {
        let mut with = self.sure.clone();
        if let Some((main, to)) = self.unknown.take() {
            with.remove(&main);
            with.extend(to.map(|remap| (main, remap)));
        }
        let found: BTreeMap<u64, Remap> = found.into_iter().map(|remap| (remap.main.start().0 / 8, remap)).collect();
        prop_assert!(found == self.sure || found == with, "found {found:?}\nsure {:?}\nwith {with:?}", self.sure);
        self.sure = found;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    /// Any sequence of changes with any failures: what is found is what was promised, and memory agrees with the spare.
    #[test]
    fn any_sequence_of_changes_and_failures(
        steps in proptest::collection::vec((step(), proptest::option::weighted(0.25, (any::<bool>(), any::<u8>()))), 1..60),
    ) {
        let (disk, mut table) = new_spare();
        let mut model = Model::default();
        for (step, trouble) in steps {
            let unsettled = table.unsettled().count() > 0;
            if let Some((crash, mask)) = trouble {
                // One unknown change at a time keeps the model small; the exhaustive tests cover the rest.
                let mask = u64::from(mask);
                disk.plan(0, if crash || unsettled { Trouble::Crash(mask) } else { Trouble::Error(mask) });
            }
            match step {
                Step::Commit { main, spare } if !unsettled => {
                    let new = remap(main, spare, table.next_seq());
                    let result = table.commit(&disk, new);
                    model.change(main, Some(new), &result);
                }
                Step::Remove { main } if !unsettled => {
                    let result = table.remove(&disk, Sector(main * 8), table.next_seq());
                    model.change(main, None, &result);
                }
                Step::Mirror => {
                    let _ = table.mirror(&disk);
                }
                Step::Settle => model.unknown = model.unknown.take().filter(|_| table.settle(&disk).is_err()),
                _ => {}
            }
            prop_assert_eq!(live(&table), model.sure.values().copied().collect::<Vec<_>>());
            let off = disk.read(Sector(0), &mut [0; 512]).is_err();
            if off || matches!(step, Step::Reopen { .. }) {
                disk.restart(if let Step::Reopen { seed } = step { seed } else { 0 });
                let seen = table.next_seq();
                table = open(&disk);
                prop_assert!(table.check().is_ok());
                prop_assert!(table.next_seq() <= seen);
                model.accept(live(&table))?;
            }
        }
    }
}
