//! Spares and stores as released versions wrote them are read, to the last field.

mod format_1;

use remap_guardian::actuate::{Access, DirectDevice, SpareTable, read_header};
use remap_guardian::edge::{BlockIo, ExtentState, Served, Store};
use remap_guardian::format::header::Header;
use remap_guardian::format::{lost_mark, merge};
use remap_guardian::model::{Entry, Millis, Pruned, Remap, Sector, Sectors, Stamp, What};
use remap_guardian::store::{ReadStore, SledStore};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

/// A directory where direct I/O works: /tmp may be a tmpfs.
fn scratch() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn spare(dir: &Path, spare: usize) -> DirectDevice {
    let image = dir.join(format!("spare{spare}"));
    format_1::unpack(&fixtures().join(format!("spare{spare}.packed")), &image).unwrap();
    assert_eq!(
        format_1::pack(&std::fs::read(&image).unwrap()),
        std::fs::read(fixtures().join(format!("spare{spare}.packed"))).unwrap()
    );
    DirectDevice::open(&image, Access::READ).unwrap()
}

#[test]
fn format_1_headers() {
    let dir = scratch();
    for index in 0..2 {
        let found = read_header(&spare(dir.path(), index)).unwrap();
        assert_eq!((found.bad_a, found.bad_b), (None, None));
        let expected = Header { set: format_1::set(), spare: index as u16, generation: format_1::GENERATION };
        assert_eq!(found.header, expected);
    }
}

#[test]
fn format_1_tables() {
    let dir = scratch();
    let mut all = Vec::new();
    for index in 0..2 {
        let table = SpareTable::open(&spare(dir.path(), index), &format_1::set(), index as u16).unwrap();
        assert_eq!((table.check(), table.single(), table.superseded()), (Ok(()), 0, &[][..]));
        assert_eq!(table.remaps().copied().collect::<Vec<_>>(), format_1::remaps()[index]);
        assert_eq!(table.next_seq(), format_1::NEXT_SEQ[index]);
        assert!(!table.records().any(|record| *record == format_1::removed()));
        all.extend(table.records().copied());
    }
    let mut expected: Vec<Remap> = format_1::remaps().concat();
    expected.sort_by_key(|remap| remap.main);
    assert_eq!(merge(all).live, expected);
}

#[test]
fn format_1_lost_marks() {
    let dir = scratch();
    let io = spare(dir.path(), 0);
    let set = format_1::set();
    let remap = format_1::remaps()[0][1];
    for offset in 0..remap.main.len().0 {
        let mut block = [0; 512];
        io.read(Sector(remap.at.0 + offset), &mut block).unwrap();
        let main = Sector(remap.main.start().0 + offset);
        assert_eq!(lost_mark::is_lost(&set.secret, main, &block), format_1::LOST.contains(&main.0), "{main}");
    }
}

fn store(dir: &Path) -> PathBuf {
    store_of(dir, &fixtures())
}

fn store_of(dir: &Path, fixtures: &Path) -> PathBuf {
    let path = dir.join("store");
    std::fs::create_dir(&path).unwrap();
    for file in std::fs::read_dir(fixtures.join("store.packed")).unwrap() {
        let file = file.unwrap();
        format_1::unpack(&file.path(), &path.join(file.file_name())).unwrap();
    }
    path
}

#[test]
fn format_1_store() {
    let dir = scratch();
    let path = store(dir.path());
    let set = format_1::set();
    // As it is, and after the store of now has been made of it.
    for _ in 0..2 {
        {
            let store = ReadStore::open(&path).unwrap();
            assert_eq!(store.sets().unwrap(), std::slice::from_ref(&set));
            assert_eq!(store.history(None, Millis(0), 99).unwrap(), format_1::history());
            assert_eq!(store.history(Some(set.id), Millis(0), 1).unwrap(), format_1::history()[3..]);
        }
        holds_everything(&SledStore::open(&path).unwrap());
    }
    let store = SledStore::open(&path).unwrap();
    let usage = |spare| store.usage(set.id, spare).unwrap();
    store.rebuild(set.id, 0, set.geometry[0].data, &format_1::remaps()[0]).unwrap();
    assert_eq!((usage(0).bad, usage(0).reserved), (format_1::bad().len(), Sectors(0)), "bad stays bad");
    let given = store.reserve(set.id, 0, Sectors(32), Sectors(8)).unwrap();
    assert!(given.iter().all(|extent| !extent.overlaps(&format_1::bad())));
    store.mark(set.id, 0, given[0], ExtentState::Bad).unwrap();
    assert_eq!(store.append(&format_1::history()[0]).unwrap(), 5);
    // The old one is kept, byte for byte readable.
    let old = ReadStore::open(dir.path().join("store.format-1")).unwrap();
    assert_eq!(old.history(None, Millis(0), 99).unwrap(), format_1::history());
}

#[test]
fn format_2_store() {
    let dir = scratch();
    let path = store_of(dir.path(), &fixtures().with_file_name("format-2"));
    let written = format_1::history();
    let gone = Stamp { number: 1, at: written[0].at };
    let mut expected = written[1..].to_vec();
    expected.push(Entry {
        number: 5,
        at: format_1::PRUNED_AT,
        what: What::Pruned { entries: 1, first: gone, last: gone, reason: format_1::WHY.into(), broken: vec![] },
        ..written[0].clone()
    });
    assert_eq!(ReadStore::open(&path).unwrap().history(None, Millis(0), 99).unwrap(), expected);
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.history(Some(format_1::set().id), Millis(0), 99).unwrap(), expected);
    holds_sets_and_extents(&store);
    let mut report = store.verify(None, 99).unwrap().report;
    assert_eq!((report.holds(), report.entries, report.pruned), (true, 4, Some(Pruned { entries: 1, last: gone })));
    assert_eq!(store.append(&written[0]).unwrap(), 6);
    report = store.verify(None, 99).unwrap().report;
    assert_eq!((report.holds(), report.entries), (true, 5));
}

/// Every set, entry and extent of the fixture of format 1.
fn holds_everything(store: &SledStore) {
    assert_eq!(store.history(None, Millis(0), 99).unwrap(), format_1::history());
    assert_eq!(store.history(Some(format_1::set().id), Millis(0), 99).unwrap(), format_1::history());
    holds_sets_and_extents(store);
}

fn holds_sets_and_extents(store: &SledStore) {
    let set = format_1::set();
    assert_eq!(store.sets().unwrap(), std::slice::from_ref(&set));
    assert_eq!([0, 1].map(|spare| store.usage(set.id, spare).unwrap()), format_1::usage());
    for (spare, live) in (0u16..).zip(format_1::remaps()) {
        let mut expected: Vec<Served> = live.iter().map(|remap| Served { main: remap.main, at: remap.at }).collect();
        expected.sort_by_key(|served| served.at);
        assert_eq!(store.in_use(set.id, spare).unwrap(), expected);
    }
}

/// Where the process that is to be killed finds the store.
const VICTIM: &str = "REMAP_GUARDIAN_TEST_STORE";

/// A migration may be killed whenever it likes, and as often.
#[test]
fn format_1_store_killed_while_it_is_migrated() {
    // The process that is killed runs this test, too.
    if let Some(path) = std::env::var_os(VICTIM) {
        return drop(SledStore::open(PathBuf::from(path)).unwrap());
    }
    let open = |path: &Path| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "format_1_store_killed_while_it_is_migrated"]).env(VICTIM, path).stdout(Stdio::null());
        command.spawn().unwrap()
    };
    let mut unfinished = 0;
    for round in 0..16 {
        let dir = scratch();
        let path = store(dir.path());
        let copy = dir.path().join("store.format-2.new");
        for again in 0..2 {
            let mut child = open(&path);
            while !copy.exists() && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
            // Later each time, so that each phase is met.
            std::thread::sleep(Duration::from_millis(6) * (round + again));
            child.kill().unwrap();
            child.wait().unwrap();
            // What opening counts is another matter.
            drop(std::fs::remove_file(dir.path().join("store.opening")));
        }
        unfinished += u32::from(copy.exists() || dir.path().join("store.format-2").exists());
        holds_everything(&SledStore::open(&path).unwrap());
        let left: BTreeSet<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["store", "store.format-1"].map(Into::into).into());
    }
    println!("{unfinished} of 16 stores were half-migrated after the last kill");
    assert!(unfinished > 0, "killed too late");
}
