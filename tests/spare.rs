//! `remap-guardian spare` on images of spares, whole and damaged.

// Shared with others, who need more of it.
#[allow(dead_code)]
mod format_1;

use assert_cmd::Command;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory where direct I/O works: /tmp may be a tmpfs.
fn scratch() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The image of a spare of the fixture.
fn image(dir: &Path, spare: usize) -> PathBuf {
    let image = dir.join(format!("spare{spare}.img"));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1");
    format_1::unpack(&fixtures.join(format!("spare{spare}.packed")), &image).unwrap();
    image
}

/// Overwrites a sector.
fn spoil(image: &Path, sector: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    file.write_all_at(&[0xff; 512], sector * 512).unwrap();
}

/// Runs `spare` and returns exit code, standard output and standard error.
fn spare(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("remap-guardian").unwrap();
    command.env("REMAP_GUARDIAN_RUN_DIR", dir.join("run")).env("REMAP_GUARDIAN_STATE_DIR", dir);
    let output = command.arg("spare").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_verb_of_spare_has_help() {
    let dir = scratch();
    for verb in ["inspect", "repair"] {
        let (code, out, _) = spare(dir.path(), &[verb, "--help"]);
        assert!(code == 0 && out.contains("Example") && out.contains("--json") && out.contains("Exit status"), "{out}");
    }
}

#[test]
fn a_whole_spare_is_shown_to_the_last_field() {
    let dir = scratch();
    let image = image(dir.path(), 0);
    let before = std::fs::read(&image).unwrap();
    let (code, out, err) = spare(dir.path(), &["inspect", image.to_str().unwrap()]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    for words in [
        "whole, generation 3",
        "fixture-1 (6ba7b8109dad41d180b400c04fd430c8)",
        "Old Disk 4000 MAIN0001",
        "New Disk 1 SPARE0, 2 MiB (4096 sectors), blocks of 512/4096 bytes, this one",
        "Größe 2 SPARE1",
        "5 blocks: 5 whole, 0 with an older slot, 0 with one slot, 0 lost; highest number 6",
        "3, 24 sectors",
        "2 sectors, in 2 remaps that may hold lost ones",
        "main 1000+8 at 88, #1, may hold lost sectors",
        "it is whole",
    ] {
        assert!(out.contains(words), "“{words}” is not in:\n{out}");
    }
    assert!(!out.contains("sixteen"), "the secret is shown");
    // The columns align.
    let second = |line: &str| line.len() - line.trim_start_matches(|c| c != ' ').trim_start().len();
    let starts: Vec<usize> = out.lines().filter(|line| line.contains("remap ")).map(second).collect();
    assert!(starts.len() == 3 && starts.iter().all(|at| *at == starts[0]), "{out}");

    let (code, out, _) = spare(dir.path(), &["inspect", image.to_str().unwrap(), "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["whole"], &shown["set"]["name"]), (0, &true.into(), &"fixture-1".into()));
    assert_eq!(shown["table"]["remaps"].as_array().unwrap().len(), 3);
    assert_eq!((&shown["table"]["lost_sectors"], &shown["set"]["spare"]), (&2.into(), &0.into()));
    assert!(!out.contains("secret"), "{out}");
    assert_eq!(std::fs::read(&image).unwrap(), before, "inspect wrote");
}

/// Who looks at a damaged spare may have damaged settings, too.
#[test]
fn inspect_needs_no_settings() {
    let dir = scratch();
    let mut command = Command::cargo_bin("remap-guardian").unwrap();
    command.env("REMAP_GUARDIAN_HOLD_MS", "99").args(["spare", "inspect"]).arg(image(dir.path(), 0)).assert().success();
}

#[test]
fn damage_is_shown_with_what_would_be_done() {
    let dir = scratch();
    let image = image(dir.path(), 0);
    for sector in [4088, 8] {
        spoil(&image, sector);
    }
    let path = image.to_str().unwrap();
    let (code, out, err) = spare(dir.path(), &["inspect", path]);
    assert_eq!((code, err.as_str()), (2, ""), "{out}");
    assert!(out.contains(&format!("remap-guardian spare repair {path} would:")), "{out}");
    assert!(out.contains("write the header at the end (sector 4088) anew from the one at the start"), "{out}");
    assert!(out.contains("write the first slot of table block 0 (sector 8) anew from the second, #6: no table block"), "{out}");
    assert!(out.contains("4 whole, 0 with an older slot, 1 with one slot, 0 lost") && !out.contains("it is whole"), "{out}");
    spoil(&image, 8 + 5 * 8);
    let (code, out, _) = spare(dir.path(), &["inspect", path, "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["table"]["lost"], &shown["headers"][1]["whole"]), (2, &1.into(), &false.into()));
    assert!(shown["beyond_repair"][0].as_str().unwrap().contains("table block 0 is lost"), "{out}");
}

#[test]
fn what_is_no_spare_is_named() {
    let dir = scratch();
    let image = image(dir.path(), 0);
    let path = image.to_str().unwrap();
    let blank = dir.path().join("blank.img");
    std::fs::write(&blank, vec![0; 1 << 20]).unwrap();
    for name in [blank.to_str().unwrap(), "/nonexistent", "/dev/null", dir.path().to_str().unwrap()] {
        let (code, out, err) = spare(dir.path(), &["inspect", name]);
        assert!(code == 1 && out.is_empty() && err.contains(name), "{name}: {code} {out} {err}");
    }
    for sector in [0, 4088] {
        spoil(&image, sector);
    }
    let (code, _, err) = spare(dir.path(), &["inspect", path]);
    assert!(
        code == 1 && err.contains("6ba7b8109dad41d180b400c04fd430c8") && err.contains("restore NAME --from-history"),
        "{err}"
    );
    let (code, out, _) = spare(dir.path(), &["inspect", path, "--json"]);
    assert!(code == 1 && serde_json::from_str::<Value>(&out).unwrap()["set"].is_null(), "{out}");
}

#[test]
fn repair_says_first_what_it_will_do() {
    let dir = scratch();
    let image = image(dir.path(), 0);
    let path = image.to_str().unwrap();
    let whole = std::fs::read(&image).unwrap();
    let (code, out, _) = spare(dir.path(), &["repair", path]);
    assert!(code == 0 && out.contains("nothing to write"), "{out}");
    for sector in [0, 8 + 5 * 8 + 2] {
        spoil(&image, sector);
    }
    let before = std::fs::read(&image).unwrap();
    // Nobody is there to say yes.
    for args in [&["repair", path][..], &["repair", path, "--json"]] {
        let (code, out, err) = spare(dir.path(), args);
        assert_eq!((code, err.as_str()), (2, ""), "{out}");
        assert!(out.contains("would write the header at the start (sector 0) anew") && out.contains("--yes"), "{out}");
        assert!(out.contains("would write the second slot of table block 0 (sector 48) anew from the first"), "{out}");
    }
    assert_eq!(std::fs::read(&image).unwrap(), before, "written without a yes");
    let (code, out, err) = spare(dir.path(), &["repair", path, "--yes"]);
    assert!(code == 0 && err.is_empty() && out.contains("repaired, and read back"), "{out} {err}");
    assert!(std::fs::read(&image).unwrap() == whole, "not as it was before the damage");
}

#[test]
fn repair_does_what_it_can_and_leaves_the_rest() {
    let dir = scratch();
    let image = image(dir.path(), 0);
    let path = image.to_str().unwrap();
    for sector in [8, 48, 4088] {
        spoil(&image, sector);
    }
    let (code, out, err) = spare(dir.path(), &["repair", path, "--yes"]);
    assert!(code == 2 && err.is_empty() && out.contains("beyond repair: table block 0 is lost"), "{out} {err}");
    let (_, out, _) = spare(dir.path(), &["inspect", path, "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&shown["headers"][1]["whole"], &shown["table"]["lost"]), (&true.into(), &1.into()));
}

#[test]
fn repair_refuses_what_it_cannot_know_and_what_others_write() {
    let dir = scratch();
    let image = image(dir.path(), 0);
    let path = image.to_str().unwrap();
    spoil(&image, 0);
    {
        // As a daemon has it.
        let lock = std::fs::File::create(dir.path().join("run.lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let (code, out, err) = spare(dir.path(), &["repair", path, "--yes"]);
        assert!(code == 1 && out.is_empty() && err.contains("systemctl stop remap-guardian"), "{out} {err}");
    }
    spoil(&image, 4088);
    let (code, _, err) = spare(dir.path(), &["repair", path, "--yes"]);
    assert!(code == 1 && err.contains("restore NAME --from-history"), "{err}");
    // Not even a table says whose it was.
    spoil(&image, 8);
    let (code, _, err) = spare(dir.path(), &["repair", path, "--yes"]);
    assert!(code == 1 && err.contains("restore NAME --from-history"), "{err}");
    let larger = dir.path().join("larger.img");
    let whole = self::image(dir.path(), 1);
    let mut bytes = std::fs::read(&whole).unwrap();
    bytes.resize(bytes.len() + 8 * 512, 0);
    std::fs::write(&larger, &bytes).unwrap();
    let (code, out, err) = spare(dir.path(), &["repair", larger.to_str().unwrap(), "--yes"]);
    assert!(code == 2 && out.contains("2053 sectors") && out.contains("nothing to write"), "{out} {err}");
    assert!(std::fs::read(&larger).unwrap() == bytes, "a copy of another size was written to");
}
