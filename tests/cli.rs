//! Laws of the command line that need no daemon: help with examples, errors that name the input and the next step.

use assert_cmd::Command;
use std::path::Path;

const VERBS: [&str; 16] = [
    "run",
    "create",
    "status",
    "history",
    "history prune",
    "restore",
    "activate",
    "remap",
    "forget",
    "files watch",
    "policy",
    "record",
    "simulate",
    "map",
    "map export",
    "map import",
];

const DM_VERBS: [&str; 16] = [
    "create", "reload", "rename", "remove", "suspend", "resume", "message", "table", "status", "info", "list", "exists", "deps",
    "devno", "targets", "events",
];

/// The command, with its daemon's socket and store in an empty directory.
fn command(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("remap-guardian").unwrap();
    command.env("REMAP_GUARDIAN_RUN_DIR", dir).env("REMAP_GUARDIAN_STATE_DIR", dir);
    command
}

/// Runs it and returns exit code, standard output and standard error.
fn run(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = command(dir).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_verb_has_help() {
    let dir = tempfile::tempdir().unwrap();
    for verb in VERBS {
        let words: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let (code, out, _) = run(dir.path(), &words);
        assert_eq!(code, 0, "{verb}");
        assert!(verb == "run" || out.contains("Example"), "{verb} --help shows no example:\n{out}");
        assert!(out.contains("--json"), "{verb}");
    }
}

/// The command, with the shipped policies and one directory above them.
fn policy(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let dirs = format!("{}:{}", shipped.display(), dir.join("policies").display());
    let output = command(dir).env("REMAP_GUARDIAN_POLICY_DIRS", dirs).arg("policy").args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn policies_are_listed_and_shown_with_where_each_value_is_from() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("policies/balanced.d")).unwrap();
    std::fs::write(dir.path().join("policies/balanced.d/mine.toml"), "[spending]\nblocks_per_day = 99\n").unwrap();
    let (code, out, err) = policy(dir.path(), &["list"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for name in ["aggressive", "archive", "balanced", "observe"] {
        assert!(out.lines().any(|line| line.trim_start().starts_with(name)), "{out}");
    }
    let (_, out, _) = policy(dir.path(), &["show"]);
    let line = |key: &str| out.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("no {key}: {out}")).to_owned();
    assert!(line("blocks_per_day").contains("99") && line("blocks_per_day").contains("mine.toml"));
    assert!(line("blocks_per_hour").contains("policies/balanced.toml"));
    let (_, out, _) = policy(dir.path(), &["show", "observe", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["name"], "observe");
    let values = shown["values"].as_array().unwrap();
    assert!(values.iter().any(|v| v["key"] == "write_error.action" && v["value"] == "observe" && v["from"].is_string()));
    assert!(policy(dir.path(), &["check"]).1.contains("balanced: good"));
}

#[test]
fn mistakes_in_policies_are_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("policies")).unwrap();
    let (code, _, err) = policy(dir.path(), &["show", "nosuch"]);
    assert!(code == 1 && err.contains("nosuch") && err.contains("policy list"), "{err}");
    let (code, _, err) = policy(dir.path(), &["explain", "7"]);
    assert!(code == 1 && err.contains("no entry 7"), "{err}");
    let (code, _, err) = policy(dir.path(), &["reload"]);
    assert!(code == 1 && err.contains("systemctl start"), "{err}");
    std::fs::write(dir.path().join("policies/archive.toml"), "[spending]\n\nblocks_per_huor = 1\n").unwrap();
    for verb in ["check", "list", "show"] {
        let (code, out, err) = policy(dir.path(), &[verb]);
        assert_eq!((code, out.as_str()), (1, ""), "{verb}");
        assert!(err.contains("archive.toml") && err.contains("line 3") && err.contains("blocks_per_huor"), "{err}");
    }
}

#[test]
fn what_no_disk_could_ever_follow_is_named() {
    for (file, text, says) in [
        ("balanced.old.toml", "", "rename the file"),
        ("balancd.d/mine.toml", "[spending]\nblocks_per_hour = 1\n", "there is no policy “balancd”"),
        ("archive.toml", "[[match]]\ntransport = \"SATA\"\n", "fits none of nvme, sata"),
        ("archive.toml", "[spare]\nreserve_blocks = 0\n", "0 is not within 1 to 65536"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policies").join(file);
        std::fs::create_dir_all(dir.path().join("policies")).unwrap();
        std::fs::write(dir.path().join("policies/.#archive.toml"), "what an editor leaves").unwrap();
        assert_eq!(policy(dir.path(), &["check"]).0, 0, "before {file}");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        let (code, out, err) = policy(dir.path(), &["check"]);
        assert!(code == 1 && out.is_empty(), "{file}: {out}");
        assert!(err.contains(says) && err.contains(file.split('/').next().unwrap()), "{file}: {err}");
    }
}

#[test]
fn every_verb_of_dm_has_help() {
    let dir = tempfile::tempdir().unwrap();
    let (_, all, _) = run(dir.path(), &["dm", "--help"]);
    for verb in DM_VERBS {
        let (code, out, _) = run(dir.path(), &["dm", verb, "--help"]);
        assert_eq!(code, 0, "{verb}");
        assert!(out.contains(&format!("remap-guardian dm {verb}")), "dm {verb} --help shows no example:\n{out}");
        assert!(out.contains("--json") && all.contains(&format!("  {verb} ")), "{verb}");
    }
}

/// What is wrong with a name or a table is told before the kernel is asked, so nobody needs to be root for it.
#[test]
fn bad_input_of_dm_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let long = "n".repeat(128);
    for (args, code, named) in [
        (&["create", "a/b", "--notable"][..], 1, "a/b"),
        (&["create", &long, "--notable"], 1, "at most 127"),
        (&["create", "x", "--uuid", "", "--notable"], 1, "empty UUID"),
        (&["create", "x", "--notable", "--table", "0 8 error"], 1, "--notable"),
        (&["create", "x", "--table", "0 1G error"], 1, "1G is 2097152 sectors"),
        (&["create", "x", "--table", "0 8 error", "--table", "9 8 error"], 1, "a gap of 1 sectors"),
        (&["create", "x", "nosuch"], 1, "nosuch"),
        (&["create", "x"], 1, "standard input: the table has no line"),
        (&["rename", "x"], 1, "NEW"),
        (&["message", "x", "first", "help"], 1, "first"),
        (&["message", "x", "0"], 1, "MESSAGE"),
        (&["events", "--count", "0"], 1, "0"),
        (&["devno", "/dev/zero"], 1, "not a block device"),
        (&["exists"], 1, "<DEVICE>"),
        (&["frobnicate"], 1, "frobnicate"),
    ] {
        let args = [&["dm"], args].concat();
        let (exit, out, err) = run(dir.path(), &args);
        assert_eq!((exit, out.as_str()), (code, ""), "{args:?}: {err}");
        assert!(err.contains(named), "{args:?}: {err}");
    }
}

/// 2 is the answer no, so that a script can ask; and the error text may have lost its reader.
#[test]
fn an_error_that_nobody_reads_is_no_crash() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_remap-guardian"));
    assert_eq!(command.args(["dm", "devno", "/dev/zero"]).stderr(writer).status().unwrap().code(), Some(1));
}

/// Broken settings are the daemon's trouble.
#[test]
fn dm_needs_no_settings() {
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path()).env("REMAP_GUARDIAN_HOLD_MS", "99").args(["dm", "devno", "/dev/zero"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/zero"));
}

#[test]
fn without_a_daemon_it_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let create = ["create", "data", "--main", "/dev/null", "--spare", "/dev/zero"];
    for args in [
        &create[..],
        &["restore"],
        &["restore", "data", "--from-history"],
        &["activate", "data", "--degraded"],
        &["remap", "data", "5"],
        &["forget", "data", "--yes"],
        &["map", "export", "data"],
    ] {
        let (code, out, err) = run(dir.path(), args);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
        assert!(err.contains("not running") && err.contains("systemctl start remap-guardian"), "{args:?}: {err}");
    }
    let (code, out, err) = run(dir.path(), &["status"]);
    assert_eq!(code, 2, "{err}");
    assert!(out.contains("NOT running") && out.contains("remap-guardian create"), "{out}");
    assert_eq!(run(dir.path(), &["history"]), (0, "nothing has happened yet\n".into(), String::new()));
    for verb in ["status", "history"] {
        let (code, out, err) = run(dir.path(), &[verb, "data", "--json"]);
        assert_eq!((code, out.as_str()), (1, ""), "{verb}");
        assert!(err.contains("“data”") && err.contains("next:"), "{verb}: {err}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "asking left something behind");
}

#[test]
fn bad_arguments_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (args, named) in [
        (&["create", ".x", "--main", "a", "--spare", "b"][..], ".x"),
        (&["create", "a/b", "--main", "a", "--spare", "b"], "a/b"),
        (&["create", "data", "--main", "a"], "--spare"),
        (&["remap", "data", "-1"], "-1"),
        (&["remap", "data", "5", "--length", "0"], "0"),
        (&["remap", "data", "x5"], "x5"),
        (&["history", "--since", "yesterday"], "yesterday"),
        (&["history", "--limit", "many"], "many"),
        (&["restore", "--from-history"], "<NAME>"),
        (&["restore", "data", "--yes"], "--from-history"),
        (&["activate", "data"], "--degraded"),
        (&["spare", "inspect"], "<DEVICE>"),
        (&["files", "watch"], "<PATH>"),
        (&["files", "mend", "f"], "mend"),
        (&["map", "import", "data"], "<FILE>"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let (code, out, err) = run(dir.path(), args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}");
        assert!(err.contains(named), "{args:?}: {err}");
    }
    let (code, _, err) = run(dir.path(), &["remap", "data", "18446744073709551615"]);
    assert_eq!(code, 1);
    assert!(err.contains("beyond the last sector"), "{err}");
}

#[test]
fn a_file_that_is_on_no_set_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let folder = dir.path().to_str().unwrap();
    for (path, says) in [
        (missing.to_str().unwrap(), "No such file"),
        (folder, "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("/proc/version", "no block device"),
    ] {
        let (code, out, err) = run(dir.path(), &["files", "watch", path]);
        assert_eq!((code, out.as_str()), (1, ""), "{path}");
        assert!(err.contains(&format!("{path}: ")) && err.contains(says), "{path}: {err}");
    }
}

/// What is wrong with a map is told with its line, before the daemon is asked.
#[test]
fn a_broken_map_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let maps = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/maps");
    for (map, says) in [
        ("overlap", "line 4"),
        ("gap", "line 4"),
        ("overflow", "line 3"),
        ("status-unknown", "line 4"),
        ("empty", "status line"),
        ("real", "systemctl start remap-guardian"),
        ("no-such-map", "cannot be opened"),
    ] {
        let path = maps.join(map);
        let (code, out, err) = run(dir.path(), &["map", "import", "data", path.to_str().unwrap()]);
        assert_eq!((code, out.as_str()), (1, ""), "{map}");
        assert!(err.contains(says) && (map == "real" || err.contains(map)), "{map}: {err}");
    }
}

#[test]
fn settings_from_the_environment_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    for (key, value, named) in [("REMAP_GUARDIAN_HOLD_MS", "99", "hold_ms"), ("REMAP_GUARDIAN_HODL_MS", "1", "hodl_ms")] {
        let output = command(dir.path()).env(key, value).arg("status").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(named));
    }
    // What a command of notify's has in its environment is none.
    let told = command(dir.path()).env("REMAP_GUARDIAN_SET", "data").env("REMAP_GUARDIAN_SENTENCE", "x").arg("status").output();
    assert!(!String::from_utf8_lossy(&told.unwrap().stderr).contains("settings"));
}

#[test]
fn the_daemon_refuses_an_unusable_policy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, "[spending\n").unwrap();
    let policies = dir.path().to_str().unwrap();
    let output =
        command(dir.path()).env("REMAP_GUARDIAN_POLICY", "mine").env("REMAP_GUARDIAN_POLICY_DIRS", policies).arg("run").output();
    let output = output.unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("root") || err.contains("mine.toml"), "{err}");
    assert!(!dir.path().join("control").exists());
}
