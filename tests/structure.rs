//! The direction of the flow, held: who may use whom, and where effects may live.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each part of the crate with the parts it may use.
const MAY_USE: [(&str, &[&str]); 19] = [
    ("model", &[]),
    ("config", &[]),
    ("dm", &[]),
    ("failpoint", &[]),
    ("memory", &[]),
    ("edge", &["model"]),
    ("format", &["model"]),
    ("plan", &["model"]),
    ("policy", &["model"]),
    ("triage", &["model"]),
    ("engine", &["edge", "model", "plan", "policy", "triage"]),
    ("trace", &["engine", "model", "plan", "policy", "triage"]),
    ("store", &["edge", "model"]),
    ("actuate", &["dm", "edge", "engine", "failpoint", "format", "memory", "model", "plan"]),
    ("sources", &["actuate", "dm", "edge", "memory", "model"]),
    ("control", &["edge", "engine", "model"]),
    (
        "runtime",
        &[
            "actuate",
            "config",
            "control",
            "dm",
            "edge",
            "engine",
            "failpoint",
            "format",
            "memory",
            "model",
            "policy",
            "sources",
            "store",
            "trace",
            "triage",
        ],
    ),
    ("cli", &["actuate", "config", "control", "dm", "edge", "memory", "model", "policy", "runtime", "sources", "store", "trace"]),
    ("sim", &["actuate", "edge", "engine", "format", "model", "plan", "policy", "store", "triage"]),
];

/// Crates that bring effects, with the parts that may use them.
const EFFECTS: [(&str, &[&str]); 5] = [
    ("sled", &["store"]),
    ("tokio", &["sources", "control", "runtime", "cli"]),
    ("devicemapper", &["actuate", "dm", "sources"]),
    ("smartctl_rs", &["sources"]),
    ("dmfilemapd", &["sources"]),
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    std::fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect()
}

/// The code of one part, without comments.
fn code(part: &str) -> Vec<(PathBuf, String)> {
    let (folder, file) = (source().join(part), source().join(format!("{part}.rs")));
    let all = files(if folder.is_dir() { &folder } else { &file });
    let plain = |text: String| text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    all.into_iter().map(|path| (path.clone(), plain(std::fs::read_to_string(path).unwrap()))).collect()
}

fn words_after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(prefix).map(move |(at, _)| {
        let rest = &text[at + prefix.len()..];
        &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

#[test]
fn imports_follow_the_flow() {
    let parts: BTreeSet<&str> = MAY_USE.iter().map(|(part, _)| *part).collect();
    for (part, allowed) in MAY_USE {
        for (path, text) in code(part) {
            for used in words_after(&text, "crate::").filter(|used| parts.contains(used) && *used != part) {
                assert!(allowed.contains(&used), "{} uses {used}, which {part} may not", path.display());
            }
        }
    }
}

#[test]
fn every_part_is_listed() {
    for entry in std::fs::read_dir(source()).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        let listed = MAY_USE.iter().any(|(part, _)| *part == name);
        assert!(listed || ["lib", "main"].contains(&name.as_str()), "src/{name} is not in the list of this test");
    }
}

#[test]
fn effects_live_at_the_edges() {
    for (part, _) in MAY_USE {
        for (path, text) in code(part) {
            for (name, allowed) in EFFECTS {
                let used = text.contains(&format!("{name}::"));
                assert!(!used || allowed.contains(&part), "{} uses {name}", path.display());
            }
        }
    }
}
