//! Traces: the committed ones are decided as their table says, through the program; what is broken is named.

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};

#[derive(serde::Deserialize)]
struct Scenarios {
    scenario: Vec<Scenario>,
}

#[derive(serde::Deserialize)]
struct Scenario {
    name: String,
    trace: String,
    policy: String,
    #[serde(default)]
    repeat_transport: usize,
    cases: Vec<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/traces")
}

fn simulate(trace: &Path, policy: &str, json: bool) -> (i32, String, String) {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut command = Command::cargo_bin("remap-guardian").unwrap();
    command.env("REMAP_GUARDIAN_POLICY_DIRS", policies).args(["simulate", "--policy", policy, "--trace"]).arg(trace);
    let output = if json { command.arg("--json") } else { &mut command }.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// As the table of scenarios says it.
fn words(case: &Value) -> String {
    let extent = format!("{}+{}", case["extent"]["start"], case["extent"]["len"]);
    let side = |side: &Value| {
        let star = if side["assumed"] == true { " *" } else { "" };
        side["rule"].as_str().map_or_else(|| "–".to_owned(), |rule| format!("{rule}{star}"))
    };
    let count = |side: &str, what: &str| case[side][what].as_u64().unwrap_or(0);
    let lost = match (count("then", "lost"), count("now", "lost")) {
        (0, 0) => String::new(),
        (then, now) => format!(" | lost {then} {now}"),
    };
    let (fault, spent) = (case["fault"].as_str().unwrap(), (count("then", "spent"), count("now", "spent")));
    format!("{extent} | {fault} | {} | {} | {} {}{lost}", side(&case["then"]), side(&case["now"]), spent.0, spent.1)
}

#[test]
fn every_scenario_is_decided_as_the_table_says() {
    let table: Scenarios = toml::from_str(&std::fs::read_to_string(fixtures().join("scenarios.toml")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for Scenario { name, trace, policy, repeat_transport, cases } in table.scenario {
        let mut path = fixtures().join(trace).with_extension("jsonl");
        if repeat_transport > 0 {
            let text = std::fs::read_to_string(&path).unwrap();
            let is_error = |line: &str| line.starts_with(r#"{"event""#) && line.contains(r#""class":"transport""#);
            let times = |line: &str| if is_error(line) { repeat_transport } else { 1 };
            let long: String = text.lines().map(|line| format!("{line}\n").repeat(times(line))).collect();
            assert!(long.lines().count() > repeat_transport, "{name}: nothing to repeat");
            path = dir.path().join("long.jsonl");
            std::fs::write(&path, long).unwrap();
        }
        let (code, out, err) = simulate(&path, &policy, true);
        assert_eq!((code, err.as_str()), (0, ""), "{name}");
        let simulated: Value = serde_json::from_str(&out).unwrap();
        let found: Vec<String> = simulated["cases"].as_array().unwrap().iter().map(words).collect();
        assert_eq!(found, cases, "{name}");
        assert_eq!(simulate(&path, &policy, true).1, out, "{name}: it is not the same each time");
    }
}

#[test]
fn people_see_a_table() {
    let (code, out, err) = simulate(&fixtures().join("read-lost.jsonl"), "aggressive", false);
    assert_eq!((code, err.as_str()), (0, ""));
    for word in
        ["SPARE NOW", "80+8", "aggressive/read_error.action", "spare spent: 0 blocks then, 1 under “aggressive”", "* assumed"]
    {
        assert!(out.contains(word), "{word}: {out}");
    }
}

#[test]
fn what_is_broken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    let good = std::fs::read_to_string(fixtures().join("medium-write.jsonl")).unwrap();
    let check = |text: String, expected: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let (code, out, err) = simulate(&path, "balanced", false);
        assert!(code == 1 && out.is_empty(), "{out}");
        for word in expected {
            assert!(err.contains(word), "{word}: {err}");
        }
    };
    check(good.replace(r#""version":1"#, r#""version":5"#), &["t.jsonl", "form 5", "next:"]);
    let lines: Vec<&str> = good.lines().collect();
    check(format!("{}\n{}\nnonsense\n", lines[0], lines[1]), &["line 3", "t.jsonl"]);
    check(format!("{}\n{}\n{{\"lost\":17}}\n", lines[0], lines[1]), &["line 3", "17 lines are missing", "next:"]);
    check(String::new(), &["line 1"]);
    let (code, _, err) = simulate(Path::new("/nonexistent/trace"), "balanced", false);
    assert!(code == 1 && err.contains("/nonexistent/trace") && err.contains("next:"), "{err}");
    let (code, _, err) = simulate(&path, "nosuch", false);
    assert!(code == 1 && err.contains("nosuch") && err.contains("policy list"), "{err}");
    // Stopped within its last line: the rest is a trace.
    std::fs::write(&path, &good[..good.len() - 5]).unwrap();
    let (code, out, _) = simulate(&path, "balanced", false);
    assert!(code == 0 && out.contains("cut off"), "{out}");
}
