//! `history --verify` on a store that nobody has open.

use assert_cmd::Command;
use remap_guardian::edge::Store;
use remap_guardian::model::{Cut, Entry, Millis, SetId, SetName, What};
use remap_guardian::store::SledStore;
use std::path::Path;

/// 2025-11-24 16:00:00 UTC.
const START: u64 = 1_764_000_000_000;

fn history(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("remap-guardian").unwrap();
    command.env("REMAP_GUARDIAN_RUN_DIR", dir.join("run")).env("REMAP_GUARDIAN_STATE_DIR", dir).env("TZ", "UTC");
    let output = command.arg("history").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn store(dir: &Path, entries: u64) -> SledStore {
    let store = SledStore::open(dir.join("store")).unwrap();
    for number in 0..entries {
        let what = What::Alert { message: format!("message {number}") };
        let (set, name) = (SetId(uuid::Uuid::from_u128(1)), SetName::new("data").unwrap());
        store.append(&Entry { number: 0, at: Millis(START + number * 1000), set, name, what }).unwrap();
    }
    store
}

/// Changes what is stored of one entry, past everything that would notice.
fn tamper(dir: &Path, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let db = sled::open(dir.join("store")).unwrap();
    let tree = db.open_tree("history").unwrap();
    let mut value = tree.get(number.to_be_bytes()).unwrap().unwrap().to_vec();
    change(&mut value);
    tree.insert(number.to_be_bytes(), value).unwrap();
    db.flush().unwrap();
}

#[test]
fn a_chain_that_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = history(dir.path(), &["--verify"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "no entries: the chain holds\n", ""), "without a store");
    drop(store(dir.path(), 5));
    let (code, out, err) = history(dir.path(), &["--verify"]);
    let expected = "5 entries, from 1 (2025-11-24 16:00:00) to 5 (2025-11-24 16:00:04): the chain holds\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));
    let (code, out, _) = history(dir.path(), &["--verify", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["holds"], &value["entries"], &value["last"]["number"]), (0, &true.into(), &5.into(), &5.into()));
}

#[test]
fn a_broken_link_is_named_and_the_exit_status_says_so() {
    let dir = tempfile::tempdir().unwrap();
    drop(store(dir.path(), 5));
    tamper(dir.path(), 3, |value| value[100] ^= 0x10);
    let (code, out, _) = history(dir.path(), &["--verify"]);
    assert_eq!(code, 1);
    assert!(out.starts_with("BROKEN at 3 (2025-11-24 16:00:02): it is not what was written\n"), "{out}");
    assert!(out.contains("1 of them do NOT hold"), "{out}");
    let (code, out, _) = history(dir.path(), &["--verify", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let broken = serde_json::json!([{"number": 3, "at": START + 2000, "breach": "changed"}]);
    assert_eq!((code, &value["holds"], &value["broken"]), (1, &false.into(), &broken));
}

#[test]
fn what_was_pruned_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let cut = Cut { upto: 3, before: Millis(u64::MAX) };
    store(dir.path(), 5).prune(cut, 10, "a test", Millis(START + 9000)).unwrap();
    let (code, out, _) = history(dir.path(), &["--verify"]);
    let expected = "3 entries, from 4 (2025-11-24 16:00:03) to 6 (2025-11-24 16:00:09): the chain holds\n\
        3 older entries were pruned, the last of them 3 (2025-11-24 16:00:02)\n";
    assert_eq!((code, out.as_str()), (0, expected));
    let (_, out, _) = history(dir.path(), &[]);
    assert!(out.contains("3 entries of the history from 1 to 3 pruned: a test"), "{out}");
}

#[test]
fn pruning_needs_the_daemon_and_one_wish_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = history(dir.path(), &["prune", "--keep", "5"]);
    assert!(code == 1 && err.contains("the daemon is not running") && err.contains("next:"), "{err}");
    for args in [&["prune", "--keep", "5", "--before", "2025-01-01"][..], &["--verify", "data"], &["prune", "--before", "soon"]] {
        let (code, _, err) = history(dir.path(), args);
        assert!(code == 2 && !err.is_empty(), "{args:?}: {err}");
    }
}
