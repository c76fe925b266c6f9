//! Tests of the store on a real sled database.

use super::*;
use crate::model::{Identity, RemapFlags, Secret, Sector, SetName, What};
use crate::store::set_aside;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;
use uuid::Uuid;

fn set(number: u128) -> SetDescription {
    SetDescription {
        id: SetId(Uuid::from_u128(number)),
        name: SetName::new(format!("set{number}")).unwrap(),
        main: Identity { serial: "M".into(), sectors: Sectors(1 << 20), ..Identity::default() },
        spares: vec![Identity { serial: "S".into(), sectors: Sectors(4096), ..Identity::default() }],
        secret: Secret([7; 16]),
        geometry: vec![],
        created: Millis(3),
    }
}

fn ext(start: u64, len: u64) -> Extent {
    Extent::new(Sector(start), Sectors(len)).unwrap()
}

fn remap(main: u64, at: u64) -> Remap {
    Remap { main: ext(main, 8), spare: 0, at: Sector(at), flags: RemapFlags::default(), seq: 1 }
}

fn entry(set: &SetDescription, at: u64, message: &str) -> Entry {
    Entry { number: 0, at: Millis(at), set: set.id, name: set.name.clone(), what: What::Alert { message: message.into() } }
}

fn messages(entries: Vec<Entry>) -> Vec<(u64, String)> {
    let text = |what| if let What::Alert { message } = what { message } else { unreachable!() };
    entries.into_iter().map(|entry| (entry.number, text(entry.what))).collect()
}

fn store() -> (TempDir, PathBuf, SledStore) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = SledStore::open(&path).unwrap();
    (dir, path, store)
}

const DATA: (u64, u64) = (88, 4000);

#[test]
fn what_is_reserved_in_use_or_bad_is_never_given_again() {
    let (_dir, path, store) = store();
    let id = set(1).id;
    let data = ext(DATA.0, DATA.1);
    assert!(store.reserve(id, 0, Sectors(8), Sectors(8)).is_err(), "not before the table was read");
    store.rebuild(id, 0, data, &[remap(0, 96)]).unwrap();
    let got = store.reserve(id, 0, Sectors(32), Sectors(8)).unwrap();
    assert_eq!(got, [ext(88, 8), ext(104, 24)]);
    store.mark(id, 0, ext(88, 8), ExtentState::Bad).unwrap();
    store.mark(id, 0, ext(104, 8), ExtentState::InUse { main: Sector(800) }).unwrap();
    assert!(store.mark(id, 0, ext(200, 8), ExtentState::Bad).is_err(), "never reserved");
    let expected = Usage { free: Sectors(3960), reserved: Sectors(16), in_use: Sectors(16), bad: Sectors(8) };
    assert_eq!(store.usage(id, 0).unwrap(), expected);
    drop(store);
    assert_eq!(ReadStore::open(&path).unwrap().usage(id, 0).unwrap(), expected);

    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.usage(id, 0).unwrap(), expected);
    assert!(store.reserve(id, 0, Sectors(8), Sectors(8)).is_err(), "not before the table was read again");
    // The table of the spare knows one remap that the store does not, and not the one that the store thinks is in use.
    store.rebuild(id, 0, data, &[remap(0, 96), remap(8, 112)]).unwrap();
    let expected = Usage { free: Sectors(3976), reserved: Sectors(0), in_use: Sectors(16), bad: Sectors(8) };
    assert_eq!(store.usage(id, 0).unwrap(), expected);
    assert_eq!(store.reserve(id, 0, Sectors(16), Sectors(8)).unwrap(), [ext(104, 8), ext(120, 8)]);
}

#[test]
fn spares_and_sets_have_their_own_space() {
    let (_dir, _path, store) = store();
    for (id, spare) in [(set(1).id, 0), (set(1).id, 1), (set(2).id, 0)] {
        store.rebuild(id, spare, ext(88, 64), &[remap(0, 96)]).unwrap();
        assert_eq!(store.reserve(id, spare, Sectors(8), Sectors(8)).unwrap(), [ext(88, 8)]);
    }
    assert_eq!(store.usage(set(1).id, 0).unwrap().in_use, Sectors(8));
    assert_eq!(store.usage(set(1).id, 1).unwrap().in_use, Sectors(0), "the remap is on spare 0");
    assert_eq!(store.usage(set(3).id, 0).unwrap(), Usage::default());
    let everything = store.reserve(set(2).id, 0, Sectors(1 << 40), Sectors(8)).unwrap();
    assert_eq!(everything, [ext(104, 48)]);
    assert_eq!(store.reserve(set(2).id, 0, Sectors(8), Sectors(8)).unwrap(), []);
}

#[test]
fn a_table_that_cannot_be_stops_the_spare() {
    let (_dir, _path, store) = store();
    let id = set(1).id;
    store.rebuild(id, 0, ext(88, 64), &[]).unwrap();
    let error = store.rebuild(id, 0, ext(88, 64), &[remap(0, 96), remap(8, 100)]).unwrap_err();
    assert!(error.0.contains("share"), "{error}");
    assert!(store.reserve(id, 0, Sectors(8), Sectors(8)).is_err());
}

#[test]
fn a_set_is_forgotten_but_its_history_is_not() {
    let (_dir, path, store) = store();
    for n in [1, 2] {
        store.put_set(&set(n)).unwrap();
        store.rebuild(set(n).id, 0, ext(DATA.0, DATA.1), &[remap(0, 96)]).unwrap();
        store.append(&entry(&set(n), 5, "x")).unwrap();
    }
    store.remove_set(set(1).id).unwrap();
    assert!(store.reserve(set(1).id, 0, Sectors(8), Sectors(8)).is_err());
    store.reserve(set(2).id, 0, Sectors(8), Sectors(8)).unwrap();
    store.remove_set(set(1).id).unwrap();
    drop(store);
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.sets().unwrap(), [set(2)]);
    assert_eq!(store.usage(set(1).id, 0).unwrap(), Usage::default());
    assert_eq!(store.history(Some(set(1).id), Millis(0), 9).unwrap().len(), 1);
}

#[test]
fn sets_are_remembered() {
    let (_dir, path, store) = store();
    store.put_set(&set(1)).unwrap();
    store.put_set(&set(2)).unwrap();
    let renamed = SetDescription { name: SetName::new("other").unwrap(), ..set(1) };
    store.put_set(&renamed).unwrap();
    drop(store);
    assert_eq!(SledStore::open(&path).unwrap().sets().unwrap(), [renamed.clone(), set(2)]);
    assert_eq!(ReadStore::open(&path).unwrap().sets().unwrap(), [renamed, set(2)]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "secrets are for their owner");
}

#[test]
fn history_is_numbered_filtered_and_cut() {
    let (_dir, path, store) = store();
    let (a, b) = (set(1), set(2));
    for (number, (set, at)) in [(&a, 10), (&b, 20), (&a, 30), (&a, 25), (&b, 40)].into_iter().enumerate() {
        assert_eq!(store.append(&entry(set, at, &format!("m{number}"))).unwrap(), number as u64 + 1);
    }
    let read = |store: &SledStore, set, since, limit| messages(store.history(set, Millis(since), limit).unwrap());
    let one = |number: u64| (number, format!("m{}", number - 1));
    assert_eq!(read(&store, None, 0, 99), (1..=5).map(one).collect::<Vec<_>>());
    assert_eq!(read(&store, None, 0, 2), [one(4), one(5)]);
    assert_eq!(read(&store, Some(a.id), 0, 99), [one(1), one(3), one(4)]);
    assert_eq!(read(&store, Some(a.id), 25, 1), [one(4)]);
    assert_eq!(read(&store, None, 26, 99), [one(3), one(5)], "clocks jump");
    assert_eq!(read(&store, Some(set(3).id), 0, 99), []);
    let named = |name: &SetName, since, limit| messages(store.history_named(name, Millis(since), limit).unwrap());
    assert_eq!((named(&a.name, 0, 99), named(&a.name, 25, 1)), (vec![one(1), one(3), one(4)], vec![one(4)]));
    assert_eq!(named(&set(3).name, 0, 99), []);
    let after = |number, limit| messages(store.history_after(number, limit).unwrap());
    assert_eq!(after(0, 99), read(&store, None, 0, 99));
    assert_eq!(after(2, 2), [one(3), one(4)]);
    assert_eq!((after(5, 99), after(u64::MAX, 99)), (Vec::new(), Vec::new()));
    store.flush().unwrap();
    drop(store);
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.append(&entry(&b, 50, "m5")).unwrap(), 6, "numbers go on");
    assert_eq!(read(&store, Some(b.id), 0, 99), [one(2), one(5), one(6)]);
}

#[test]
fn an_open_store_is_not_opened_twice() {
    let (_dir, path, store) = store();
    for error in [SledStore::open(&path).map(drop).unwrap_err(), ReadStore::open(&path).map(drop).unwrap_err()] {
        assert!(matches!(error, OpenError::Locked(_)), "{error}");
        assert!(error.to_string().contains("another remap-guardian is running"));
    }
    drop(store);
    SledStore::open(&path).unwrap();
}

#[test]
fn a_full_or_read_only_file_system_is_no_damage() {
    // ENOSPC, EROFS, EDQUOT, EACCES, and as the kernel gives it for an immutable file, EPERM.
    for errno in [28, 30, 122, 13, 1] {
        let error = OpenError::of(sled::Error::Io(std::io::Error::from_raw_os_error(errno)), Path::new("/x"));
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
    }
    for damage in [sled::Error::Io(std::io::Error::from_raw_os_error(5)), sled::Error::Unsupported("x".into())] {
        assert!(matches!(OpenError::of(damage, Path::new("/x")), OpenError::Unreadable { .. }));
    }
}

#[test]
fn a_newer_store_is_refused() {
    let (_dir, path, store) = store();
    store.trees.db.open_tree("meta").unwrap().insert("format", &9u32.to_be_bytes()).unwrap();
    store.flush().unwrap();
    drop(store);
    let error = SledStore::open(&path).unwrap_err().to_string();
    let expected = format!(
        "this store was written by a newer remap-guardian (format 9); this one reads up to 2: upgrade, or move {} aside",
        path.display()
    );
    assert_eq!(error, expected);
}

#[test]
fn a_reader_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    assert!(matches!(ReadStore::open(&path), Err(OpenError::Missing(_))));
    assert!(!path.exists());
}

#[test]
fn an_unreadable_store_is_named_and_set_aside() {
    let (_dir, path, store) = store();
    store.append(&entry(&set(1), 1, "m")).unwrap();
    store.flush().unwrap();
    drop(store);
    std::fs::remove_file(path.join("db")).unwrap();
    std::fs::create_dir(path.join("db")).unwrap();
    let error = SledStore::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Unreadable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains("move it aside"), "{text}");
    let aside = set_aside(&path, Millis(12)).unwrap();
    assert!(aside.join("db").exists() && !path.exists());
    SledStore::open(&path).unwrap();
}

#[test]
fn a_store_that_ends_the_program_is_unreadable_in_the_end() {
    let (_dir, path, store) = store();
    drop(store);
    std::fs::write(marker(&path), [1]).unwrap();
    drop(SledStore::open(&path).unwrap());
    assert!(!marker(&path).exists(), "opening it well forgives");
    std::fs::write(marker(&path), [2]).unwrap();
    let error = SledStore::open(&path).unwrap_err().to_string();
    assert!(error.contains("ended the program 2 times"), "{error}");
    set_aside(&path, Millis(1)).unwrap();
    SledStore::open(&path).unwrap();
}

/// Damage anywhere in the file: opened with what can be read, or refused with a reason. Never a dead end.
#[test]
fn a_damaged_store_opens_or_says_why() {
    let (_dir, path, store) = store();
    for number in 0..200 {
        store.append(&entry(&set(1), number, &format!("message {number} {}", "x".repeat(200)))).unwrap();
    }
    store.put_set(&set(1)).unwrap();
    drop(store);
    let good = std::fs::read(path.join("db")).unwrap();
    let content: Vec<usize> =
        (0..good.len()).step_by(512).filter(|&at| good[at..].iter().take(512).any(|&byte| byte != 0)).collect();
    for at in content.iter().step_by(content.len().div_ceil(6)) {
        let mut bad = good.clone();
        bad[*at..].iter_mut().take(512).for_each(|byte| *byte ^= 0x55);
        std::fs::write(path.join("db"), bad).unwrap();
        match SledStore::open(&path) {
            Ok(store) => drop(store.history(None, Millis(0), 999).unwrap()),
            Err(error) => assert!(matches!(error, OpenError::Unreadable { .. }), "{error}"),
        }
        set_aside(&path, Millis(*at as u64)).unwrap();
        drop(SledStore::open(&path).expect("a new one can be made"));
    }
}

/// Cut short or with one bit turned, at many places: whatever such a store says, once the spare's table was read nothing that the
/// table uses is handed out, and nothing twice.
#[test]
fn a_damaged_store_hands_out_nothing_that_the_table_uses() {
    let (_dir, path, store) = store();
    let (id, data) = (set(1).id, ext(DATA.0, DATA.1));
    let live: Vec<Remap> = (0..40).map(|n| remap(n * 8, 96 + n * 16)).collect();
    store.put_set(&set(1)).unwrap();
    store.rebuild(id, 0, data, &live).unwrap();
    store.reserve(id, 0, Sectors(64), Sectors(8)).unwrap();
    drop(store);
    let good = std::fs::read(path.join("db")).unwrap();
    let used = good.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    for copy in 0..32 {
        let at = used * copy / 32;
        let mut bad = good.clone();
        if copy % 2 == 0 {
            bad.truncate(at)
        } else {
            bad[at] ^= 1 << (copy / 2 % 8)
        }
        std::fs::write(path.join("db"), bad).unwrap();
        let store = match SledStore::open(&path) {
            Ok(store) => store,
            Err(error) => {
                assert!(matches!(error, OpenError::Unreadable { .. }), "{error}");
                set_aside(&path, Millis(1000 + copy as u64)).unwrap();
                SledStore::open(&path).expect("a new one can be made")
            }
        };
        assert!(store.reserve(id, 0, Sectors(8), Sectors(8)).is_err(), "not before the table was read");
        store.rebuild(id, 0, data, &live).unwrap();
        let mut given: Vec<Extent> = Vec::new();
        loop {
            let batch = store.reserve(id, 0, Sectors(640), Sectors(8)).unwrap();
            if batch.is_empty() {
                break;
            }
            for extent in batch {
                assert!(live.iter().all(|remap| !remap.spare_extent().overlaps(&extent)), "{extent} is in use");
                assert!(given.iter().all(|other| !other.overlaps(&extent)), "{extent} is given twice");
                given.push(extent);
            }
        }
        assert!(given.iter().map(|extent| extent.len().0).sum::<u64>() > 3000, "space is there");
        drop(store);
        std::fs::rename(&path, path.with_extension(format!("copy-{copy}"))).unwrap();
        std::fs::create_dir(&path).unwrap();
        if let Ok(conf) = std::fs::read(path.with_extension(format!("copy-{copy}")).join("conf")) {
            std::fs::write(path.join("conf"), conf).unwrap();
        }
    }
}
