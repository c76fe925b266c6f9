//! Tests of the history's chain and of pruning, on a real sled database.

use super::*;
use crate::model::{Breach, Broken, Pruned, RemapFlags, SetName};
use crate::store::chain::Record;
use proptest::prelude::*;
use std::path::PathBuf;
use tempfile::TempDir;

const NOW: Millis = Millis(1_000_000);

fn entry(set: u128, at: u64) -> Entry {
    let name = SetName::new(format!("set{set}")).unwrap();
    let what = What::Alert { message: format!("what happened at {at}") };
    Entry { number: 0, at: Millis(at), set: SetId(uuid::Uuid::from_u128(set)), name, what }
}

/// Entry n is of time 10 n, and of set 1 or 2 in turn.
fn store(entries: u64) -> (TempDir, PathBuf, SledStore) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = SledStore::open(&path).unwrap();
    for number in 1..=entries {
        assert_eq!(store.append(&entry(u128::from(2 - number % 2), number * 10)).unwrap(), number);
    }
    (dir, path, store)
}

fn stamp(number: u64) -> Stamp {
    Stamp { number, at: Millis(number * 10) }
}

fn verify(store: &SledStore) -> ChainReport {
    store.verify(None, usize::MAX).unwrap().report
}

fn value(store: &SledStore, number: u64) -> Vec<u8> {
    store.trees.history.get(number.to_be_bytes()).unwrap().unwrap().to_vec()
}

fn put(store: &SledStore, number: u64, value: Vec<u8>) {
    store.trees.history.insert(number.to_be_bytes(), value).unwrap();
}

fn breaches(store: &SledStore) -> Vec<(u64, Breach)> {
    verify(store).broken.into_iter().map(|broken| (broken.entry.number, broken.breach)).collect()
}

fn cut(upto: u64) -> Cut {
    Cut { upto, before: Millis(u64::MAX) }
}

/// Prunes in steps; returns how many entries are gone.
fn prune(store: &SledStore, cut: Cut, most: usize) -> u64 {
    let mut gone = 0;
    loop {
        let step = store.prune(cut, most, "a test", NOW).unwrap();
        assert!(step.entries <= most as u64);
        gone += step.entries;
        if step.done {
            return gone;
        }
    }
}

fn numbers(store: &SledStore) -> Vec<u64> {
    store.history(None, Millis(0), usize::MAX).unwrap().iter().map(|entry| entry.number).collect()
}

#[test]
fn a_chain_holds_and_is_told_from_end_to_end() {
    let (_dir, path, store) = store(7);
    let expected = ChainReport { entries: 7, first: Some(stamp(1)), last: Some(stamp(7)), ..ChainReport::default() };
    assert_eq!(verify(&store), expected);
    for most in 1..9 {
        let mut walk = store.verify(None, most).unwrap();
        while !walk.done {
            walk = store.verify(Some(walk), most).unwrap();
        }
        assert_eq!(walk.report, expected, "in steps of {most}");
    }
    store.flush().unwrap();
    drop(store);
    assert_eq!(ReadStore::open(&path).unwrap().verify().unwrap(), expected);
    let store = SledStore::open(&path).unwrap();
    store.append(&entry(1, 80)).unwrap();
    assert_eq!((verify(&store).entries, verify(&store).holds()), (8, true), "it goes on");
}

#[test]
fn a_history_without_entries_holds() {
    let (_dir, _path, store) = store(0);
    assert_eq!(verify(&store), ChainReport::default());
    assert_eq!(store.history_ends().unwrap(), None);
}

#[test]
fn every_turned_bit_is_found_at_its_entry() {
    let (_dir, _path, store) = store(4);
    for number in 1..=4 {
        let good = value(&store, number);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            put(&store, number, bad);
            assert_eq!(breaches(&store), [(number, Breach::Changed)], "bit {bit}");
        }
        put(&store, number, good);
    }
    assert!(verify(&store).holds());
}

#[test]
fn a_time_is_told_with_what_is_broken() {
    let (_dir, _path, store) = store(4);
    let mut bad = value(&store, 3);
    *bad.last_mut().unwrap() ^= 1;
    put(&store, 3, bad);
    assert_eq!(verify(&store).broken, [Broken { entry: stamp(3), breach: Breach::Changed }]);
}

#[test]
fn what_is_missing_swapped_replaced_or_put_in_is_found() {
    let (_dir, _path, store) = store(6);
    let good: Vec<Vec<u8>> = (1..=6).map(|number| value(&store, number)).collect();
    let restore = || (1..).zip(&good).for_each(|(number, value)| put(&store, number, value.clone()));
    let misplaced = |number, after| (number, Breach::Misplaced { after });

    store.trees.history.remove(3u64.to_be_bytes()).unwrap();
    assert_eq!(breaches(&store), [misplaced(4, 2)]);
    restore();
    store.trees.history.remove(1u64.to_be_bytes()).unwrap();
    assert_eq!(breaches(&store), [misplaced(2, 0)]);
    restore();
    put(&store, 3, good[3].clone());
    put(&store, 4, good[2].clone());
    assert_eq!(breaches(&store)[..2], [(3, Breach::Changed), (4, Breach::Changed)]);
    restore();
    // By somebody who knows how to compute a hash.
    let record = Record::read(&good[2]).unwrap();
    put(&store, 3, chain::record(3, record.previous, b"12345678{}").0);
    assert_eq!(breaches(&store), [misplaced(4, 3)]);
    restore();
    put(&store, 7, chain::record(7, [9; 32], b"12345678{}").0);
    assert_eq!(breaches(&store), [misplaced(7, 6)]);
    store.trees.history.remove(7u64.to_be_bytes()).unwrap();
    put(&store, 5, good[4][..63].to_vec());
    assert_eq!(breaches(&store), [(5, Breach::CutShort)]);
    restore();
    assert!(verify(&store).holds());
}

#[test]
fn of_very_many_broken_entries_some_are_named_and_all_are_counted() {
    let (_dir, _path, store) = store(130);
    for number in 1..=130 {
        let mut bad = value(&store, number);
        bad[70] ^= 1;
        put(&store, number, bad);
    }
    let report = verify(&store);
    assert_eq!((report.broken.len(), report.more_broken, report.holds()), (100, 30, false));
}

#[test]
fn the_chain_survives_pruning_and_says_what_is_gone() {
    let (_dir, path, store) = store(20);
    assert_eq!(prune(&store, cut(12), 100), 12);
    assert_eq!(numbers(&store), (13..=22).collect::<Vec<_>>(), "eight are left, and one for each set says what is gone");
    let said: Vec<What> = store.history_after(20, 9).unwrap().into_iter().map(|entry| entry.what).collect();
    let pruned = |first, last| What::Pruned {
        entries: 6,
        first: stamp(first),
        last: stamp(last),
        reason: "a test".into(),
        broken: vec![],
    };
    assert_eq!(said, [pruned(1, 11), pruned(2, 12)]);
    let check = |store: &SledStore| {
        let report = verify(store);
        assert_eq!(report.pruned, Some(Pruned { entries: 12, last: stamp(12) }));
        assert_eq!((report.entries, report.first, report.holds()), (10, Some(stamp(13)), true));
    };
    check(&store);
    drop(store);
    let store = SledStore::open(&path).unwrap();
    check(&store);
    assert_eq!(store.history(Some(entry(1, 0).set), Millis(0), 99).unwrap().len(), 5);
    // The next entry is held to the hash that the anchor keeps.
    let first = value(&store, 13);
    put(&store, 13, chain::record(13, [1; 32], &first[64..]).0);
    assert_eq!(breaches(&store)[0], (13, Breach::Misplaced { after: 12 }));
    put(&store, 13, first);
    assert_eq!(prune(&store, cut(15), 1), 3);
    let report = verify(&store);
    assert_eq!((report.pruned.unwrap().entries, report.holds()), (15, true));
}

#[test]
fn pruning_by_time_ends_at_the_first_entry_that_is_to_stay() {
    let (_dir, _path, store) = store(5);
    store.append(&entry(1, 20)).unwrap();
    assert_eq!(prune(&store, Cut { upto: 6, before: Millis(30) }, 100), 2);
    assert_eq!(numbers(&store)[..4], [3, 4, 5, 6], "the clock had been set back; what comes later stays");
    assert_eq!(prune(&store, Cut { upto: 6, before: Millis(30) }, 100), 0);
    assert_eq!(numbers(&store).len(), 6, "nothing was gone, so nothing was said");
}

#[test]
fn all_of_it_can_be_pruned_and_numbers_go_on() {
    let (_dir, path, store) = store(3);
    assert_eq!(prune(&store, cut(3), 2), 3);
    let last = store.trees.anchor().unwrap().unwrap();
    assert_eq!((last.last, last.entries), (stamp(3), 3));
    // As if nothing had been said.
    store.trees.history.clear().unwrap();
    store.flush().unwrap();
    drop(store);
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.append(&entry(1, 40)).unwrap(), 4);
    assert!(verify(&store).holds());
}

#[test]
fn what_is_needed_to_restore_is_never_pruned() {
    let (_dir, path, store) = store(9);
    let id = SetId(uuid::Uuid::from_u128(1));
    let set = SetDescription {
        id,
        name: SetName::new("set1").unwrap(),
        main: crate::model::Identity { serial: "M".into(), ..Default::default() },
        spares: vec![],
        secret: crate::model::Secret([7; 16]),
        geometry: vec![],
        created: Millis(3),
    };
    let ext = |start, len| Extent::new(Sector(start), Sectors(len)).unwrap();
    let remap = Remap { main: ext(8, 8), spare: 0, at: Sector(96), flags: RemapFlags::default(), seq: 1 };
    store.put_set(&set).unwrap();
    store.rebuild(id, 0, ext(88, 4000), &[remap]).unwrap();
    store.reserve(id, 0, Sectors(32), Sectors(8)).unwrap();
    store.mark(id, 0, ext(88, 8), ExtentState::Bad).unwrap();
    let held = |store: &SledStore| {
        let extents = store.trees.extents(id, 0).unwrap();
        (store.sets().unwrap(), store.usage(id, 0).unwrap(), store.in_use(id, 0).unwrap(), extents)
    };
    let before = held(&store);
    assert_eq!(prune(&store, cut(9), 4), 9);
    assert_eq!(held(&store), before);
    drop(store);
    assert_eq!(held(&SledStore::open(&path).unwrap()), before);
}

#[test]
fn remaps_that_pruned_entries_told_of_are_still_known() {
    let (_dir, path, store) = store(2);
    let id = SetId(uuid::Uuid::from_u128(1));
    let remap = |main: u64, at: u64, seq| {
        let main = Extent::new(Sector(main), Sectors(8)).unwrap();
        Remap { main, spare: 0, at: Sector(at), flags: RemapFlags { marked: true }, seq }
    };
    let told = |remap| What::Remapped {
        remap,
        saved: Sectors(8),
        lost: vec![],
        decision: crate::model::Decision { action: crate::model::Action::Remap, rule: "r".into(), reason: "r".into() },
        class: crate::model::ErrorClass::Medium,
        took_ms: 1,
        evidence: vec![],
    };
    let all = [remap(800, 96, 1), remap(8, 104, 2), remap(16, 112, 3), remap(400, 120, 9)];
    for (at, remap) in (30..).zip(all) {
        for set in [1, 2] {
            store.append(&Entry { what: told(remap), ..entry(set, at) }).unwrap();
        }
    }
    assert_eq!(store.told_remaps(id).unwrap(), all);
    assert_eq!(prune(&store, cut(8), 2), 8);
    assert_eq!(store.told_remaps(id).unwrap(), all);
    drop(store);
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.told_remaps(id).unwrap(), all);
    store.remove_set(id).unwrap();
    assert_eq!(store.told_remaps(id).unwrap(), all[3..], "what history still says");
    assert_eq!(store.told_remaps(SetId(uuid::Uuid::from_u128(2))).unwrap(), all);
}

#[test]
fn what_went_back_to_main_is_not_told_of_any_more() {
    let (_dir, path, store) = store(2);
    let id = SetId(uuid::Uuid::from_u128(1));
    let remap = |main: u64, at: u64, seq| {
        let main = Extent::new(Sector(main), Sectors(8)).unwrap();
        Remap { main, spare: 0, at: Sector(at), flags: RemapFlags { marked: true }, seq }
    };
    let decision = crate::model::Decision { action: crate::model::Action::Remap, rule: "r".into(), reason: "r".into() };
    let (class, took_ms) = (crate::model::ErrorClass::Medium, 1);
    let (saved, lost, evidence) = (Sectors(8), Vec::new(), Vec::new());
    let live = |remap| What::Remapped {
        remap,
        saved,
        lost: lost.clone(),
        decision: decision.clone(),
        class,
        took_ms,
        evidence: evidence.clone(),
    };
    let gone = |remap| What::Unremapped { remap, decision: decision.clone(), took_ms };
    let (first, moved, other, again) = (remap(800, 96, 1), remap(800, 104, 2), remap(8, 112, 3), remap(800, 96, 5));
    let story = [live(first), live(moved), live(other), gone(moved), live(again)];
    for (at, what) in (30..).zip(story) {
        store.append(&Entry { what, ..entry(1, at) }).unwrap();
    }
    let known = |store: &SledStore| {
        let mut told = store.told_remaps(id).unwrap();
        told.sort_by_key(|remap| remap.seq);
        told
    };
    assert_eq!(known(&store), [other, again]);
    for upto in 1..=8 {
        prune(&store, cut(upto), 1);
        assert_eq!(known(&store), [other, again], "pruned up to {upto}");
    }
    drop(store);
    assert_eq!(known(&SledStore::open(&path).unwrap()), [other, again]);
}

#[test]
fn a_crash_between_the_steps_of_pruning_is_mended() {
    let (_dir, path, store) = store(10);
    let oldest = store.trees.oldest(cut(4), 99).unwrap().unwrap();
    // The anchor is there, the entries are not gone yet.
    store.trees.meta.insert("pruned", oldest.anchor.encode()).unwrap();
    store.flush().unwrap();
    assert_eq!((verify(&store).entries, verify(&store).holds()), (6, true));
    drop(store);
    let store = SledStore::open(&path).unwrap();
    assert_eq!(numbers(&store), (5..=10).collect::<Vec<_>>());
    assert_eq!(store.trees.by_set.len(), 6, "the index too");
    // It was said, the anchor is not there yet.
    store.append(&entry(1, 110)).unwrap();
    assert_eq!(prune(&store, cut(6), 99), 2);
    assert!(verify(&store).holds());
}

#[test]
fn what_was_broken_is_not_washed_away_by_pruning() {
    let (_dir, _path, store) = store(8);
    let mut bad = value(&store, 3);
    bad[80] ^= 4;
    put(&store, 3, bad);
    prune(&store, cut(5), 99);
    let named = store.history(None, Millis(0), 1).unwrap().pop().unwrap();
    assert!(matches!(&named.what, What::Pruned { broken, .. } if *broken == [3]), "{named:?}");
    assert!(named.what.sentence().contains("BROKEN were [3]"), "{}", named.what.sentence());
}

#[test]
fn a_damaged_anchor_is_told_and_nothing_more_is_pruned() {
    let (_dir, path, store) = store(8);
    prune(&store, cut(5), 99);
    let good = store.trees.meta.get("pruned").unwrap().unwrap().to_vec();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        store.trees.meta.insert("pruned", bad).unwrap();
        for error in [store.verify(None, 9).unwrap_err(), store.prune(cut(7), 9, "a test", NOW).unwrap_err()] {
            assert!(error.0.contains("what was pruned is damaged"), "bit {bit}: {error}");
        }
    }
    let kept = numbers(&store);
    store.flush().unwrap();
    drop(store);
    assert_eq!(numbers(&SledStore::open(&path).unwrap()), kept, "it opens all the same");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn appending_pruning_and_reopening_leave_a_chain(steps in proptest::collection::vec((0u8..4, 0u64..12), 1..20)) {
        let (_dir, path, mut store) = store(3);
        for (kind, number) in steps {
            let (first, last) = store.history_ends().unwrap().unwrap();
            match kind {
                0 => drop(store.append(&entry(u128::from(number % 3), last.at.0 + number)).unwrap()),
                1 | 2 => {
                    let upto = last.number.min(first.number + number);
                    let gone = prune(&store, cut(upto), 1 + number as usize % 4);
                    prop_assert_eq!(gone, upto + 1 - first.number);
                    prop_assert_eq!(store.history_ends().unwrap().unwrap().0.number, upto + 1);
                }
                _ => {
                    store.flush().unwrap();
                    drop(store);
                    store = SledStore::open(&path).unwrap();
                }
            }
            let report = verify(&store);
            prop_assert!(report.holds(), "{:?}", report);
            prop_assert_eq!(report.entries as usize, store.history(None, Millis(0), usize::MAX).unwrap().len());
            prop_assert_eq!(store.trees.by_set.len(), store.trees.history.len());
        }
    }
}
