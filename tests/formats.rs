//! Spares and stores as released versions wrote them are read, to the last field.

mod format_1;

use remap_guardian::actuate::{Access, DirectDevice, SpareTable, read_header};
use remap_guardian::edge::{BlockIo, ExtentState, Served, Store};
use remap_guardian::format::header::Header;
use remap_guardian::format::{lost_mark, merge};
use remap_guardian::model::{Millis, Remap, Sector, Sectors};
use remap_guardian::store::{ReadStore, SledStore};
use std::path::{Path, PathBuf};
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
    let path = dir.join("store");
    std::fs::create_dir(&path).unwrap();
    for file in std::fs::read_dir(fixtures().join("store.packed")).unwrap() {
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
    {
        let store = ReadStore::open(&path).unwrap();
        assert_eq!(store.sets().unwrap(), std::slice::from_ref(&set));
        assert_eq!(store.history(None, Millis(0), 99).unwrap(), format_1::history());
        assert_eq!(store.history(Some(set.id), Millis(0), 1).unwrap(), format_1::history()[3..]);
    }
    let store = SledStore::open(&path).unwrap();
    let usage = |spare| store.usage(set.id, spare).unwrap();
    assert_eq!([usage(0), usage(1)], format_1::usage());
    for (spare, live) in (0u16..).zip(format_1::remaps()) {
        let mut expected: Vec<Served> = live.iter().map(|remap| Served { main: remap.main, at: remap.at }).collect();
        expected.sort_by_key(|served| served.at);
        assert_eq!(store.in_use(set.id, spare).unwrap(), expected);
    }
    store.rebuild(set.id, 0, set.geometry[0].data, &format_1::remaps()[0]).unwrap();
    assert_eq!((usage(0).bad, usage(0).reserved), (format_1::bad().len(), Sectors(0)), "bad stays bad");
    let given = store.reserve(set.id, 0, Sectors(32), Sectors(8)).unwrap();
    assert!(given.iter().all(|extent| !extent.overlaps(&format_1::bad())));
    store.mark(set.id, 0, given[0], ExtentState::Bad).unwrap();
    assert_eq!(store.append(&format_1::history()[0]).unwrap(), 5);
}
