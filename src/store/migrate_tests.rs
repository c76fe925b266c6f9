//! Tests of the migration, at every point where it can be interrupted.

use super::*;
use crate::edge::Store;
use crate::model::{Entry, Millis, SetId, SetName, What};
use crate::store::{ReadStore, SledStore};
use tempfile::TempDir;

const ENTRIES: u64 = 50;

fn entry(number: u64) -> Entry {
    let what = What::Alert { message: format!("message {number}") };
    let (set, name) = (SetId(uuid::Uuid::from_u128(1)), SetName::new("data").unwrap());
    Entry { number, at: Millis(1000 + number), set, name, what }
}

fn append_1(trees: &Trees, number: u64) {
    let mut body = entry(number).at.0.to_be_bytes().to_vec();
    serde_json::to_writer(&mut body, &entry(number)).unwrap();
    trees.by_set.insert(keys::set_entry(entry(number).set, number), &[]).unwrap();
    trees.history.insert(number.to_be_bytes(), body).unwrap();
}

/// A store as format 1 was. Its set's record and extent are no more than bytes here.
fn old_store(path: &Path) {
    let trees = Trees::draft(path).unwrap();
    for tree in trees.plain() {
        tree.insert(b"some key", b"some value").unwrap();
    }
    (1..=ENTRIES).for_each(|number| append_1(&trees, number));
    // Damaged already, and to be kept as it is.
    trees.history.insert((ENTRIES + 7).to_be_bytes(), b"short").unwrap();
    trees.set_format(1).unwrap();
}

fn scratch() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    old_store(&path);
    (dir, path)
}

fn beside_it(path: &Path) -> Vec<String> {
    let all = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let mut names: Vec<String> = all.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn migrated(path: &Path, entries: u64) {
    finish(path).unwrap();
    let trees = Trees::open(path, false).unwrap();
    let trees = if trees.format == 1 { migrate(trees).unwrap() } else { trees };
    assert_eq!(trees.format, FORMAT);
    for tree in [&trees.sets, &trees.spares, &trees.extents] {
        assert_eq!(tree.iter().map(Result::unwrap).collect::<Vec<_>>(), [(b"some key".into(), b"some value".into())]);
    }
    let mut previous = START;
    for pair in &trees.history {
        let (key, value) = pair.unwrap();
        let record = chain::Record::read(&value).unwrap();
        assert_eq!((record.previous, record.own), (previous, record.hash(keys::number(&key).unwrap())));
        previous = record.own;
    }
    assert_eq!(trees.history.get((ENTRIES + 7).to_be_bytes()).unwrap().unwrap()[64..], *b"short");
    assert_eq!(trees.history(None, Millis(0), 999).unwrap(), (1..=entries).map(entry).collect::<Vec<_>>());
    drop(trees);
    assert_eq!(beside_it(path), ["store", "store.format-1"]);
}

#[test]
fn everything_survives_and_the_old_store_is_kept() {
    let (_dir, path) = scratch();
    assert_eq!(ReadStore::open(&path).unwrap().history(None, Millis(0), 99).unwrap().len() as u64, ENTRIES, "read as it is");
    migrated(&path, ENTRIES);
    let old = Trees::open(&beside(&path, "format-1"), false).unwrap();
    assert_eq!((old.format, old.history(None, Millis(0), 99).unwrap().len() as u64), (1, ENTRIES));
}

#[test]
fn interrupted_while_it_was_copied() {
    let (_dir, path) = scratch();
    let draft = Trees::draft(&beside(&path, "format-2.new")).unwrap();
    draft.history.insert(1u64.to_be_bytes(), b"half of it").unwrap();
    drop(draft);
    migrated(&path, ENTRIES);
}

/// Between two attempts the program may even have been the older one, which goes on writing to the old store.
#[test]
fn interrupted_before_the_old_store_was_moved() {
    let (_dir, path) = scratch();
    let old = Trees::open(&path, false).unwrap();
    write(&old, &whole(&path)).unwrap();
    append_1(&old, ENTRIES + 1);
    drop(old);
    migrated(&path, ENTRIES + 1);
}

#[test]
fn interrupted_between_the_last_two_renames() {
    let (_dir, path) = scratch();
    write(&Trees::open(&path, false).unwrap(), &whole(&path)).unwrap();
    std::fs::rename(&path, beside(&path, "format-1")).unwrap();
    assert_eq!(beside_it(&path), ["store.format-1", "store.format-2"]);
    migrated(&path, ENTRIES);
}

#[test]
fn an_unfinished_copy_is_no_store() {
    let (_dir, path) = scratch();
    let draft = beside(&path, "format-2.new");
    drop(Trees::draft(&draft).unwrap());
    let error = Trees::open(&draft, false).unwrap_err().to_string();
    assert!(error.contains("no format number"), "{error}");
}

#[test]
fn one_that_cannot_be_written_leaves_the_old_store_and_is_no_damage() {
    let (_dir, path) = scratch();
    std::fs::write(beside(&path, "format-2.new"), "in the way").unwrap();
    let error = SledStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }) && error.to_string().contains("format-2.new"), "{error}");
    std::fs::remove_file(beside(&path, "format-2.new")).unwrap();
    migrated(&path, ENTRIES);
}

#[test]
fn room_is_asked_for_first() {
    let (_dir, path) = scratch();
    let db = std::fs::metadata(path.join("db")).unwrap();
    let (needed, free) = room(&path).unwrap();
    assert!(needed >= db.blocks() * 512 && needed > 0 && free > 0, "{needed} {free}");
    assert!(enough(needed, needed).is_ok());
    let error = enough(5 << 10, 4 << 10).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string()),
        (ErrorKind::StorageFull, "a store in the new format needs 5 KiB, 4 KiB are free".into())
    );
}

#[test]
fn every_old_store_is_kept() {
    let (_dir, path) = scratch();
    drop(SledStore::open(&path).unwrap());
    std::fs::remove_dir_all(&path).unwrap();
    old_store(&path);
    drop(SledStore::open(&path).unwrap());
    assert_eq!(beside_it(&path), ["store", "store.format-1", "store.format-1-2"]);
}

#[test]
fn numbers_and_chain_go_on_after_it() {
    let (_dir, path) = scratch();
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.append(&entry(0)).unwrap(), ENTRIES + 8);
}
