use super::read::{Bounds, read_within};
use super::*;
use crate::policy::Policy;
use proptest::prelude::*;

/// A committed trace.
fn fixture(name: &str) -> Vec<u8> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/traces");
    std::fs::read(dir.join(name)).unwrap()
}

fn whatever(bytes: &[u8]) {
    if let Ok(trace) = read(bytes) {
        simulate(&trace, &Policy::test_balanced());
    }
}

proptest! {
    #[test]
    fn junk_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read(&bytes[..]).is_err());
    }

    #[test]
    fn a_damaged_trace_stops_nothing(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = fixture("medium-write.jsonl");
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        whatever(&bytes);
    }

    #[test]
    fn other_numbers_stop_nothing(which in any::<prop::sample::Index>(), number in prop::sample::select(vec!["0", "1", "4294967296", "18446744073709551615", "-1"])) {
        let text = String::from_utf8(fixture("five-runs.jsonl")).unwrap();
        let digits: Vec<usize> = text.match_indices(|c: char| c.is_ascii_digit()).map(|(at, _)| at).collect();
        let at = digits[which.index(digits.len())];
        let start = text[..at].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |before| before + 1);
        let end = at + text[at..].find(|c: char| !c.is_ascii_digit()).unwrap();
        whatever(format!("{}{number}{}", &text[..start], &text[end..]).as_bytes());
    }
}

#[test]
fn no_secret_is_written() {
    let text = String::from_utf8(fixture("medium-write.jsonl")).unwrap();
    assert!(text.contains(r#""secret":[0,0,0"#) && !text.contains("[7,7"));
}

/// A trace that somebody made up must not take all memory; what it has too much of is said with its line.
#[test]
fn a_trace_with_too_much_is_refused_with_its_line() {
    let good = fixture("medium-write.jsonl");
    let text = String::from_utf8(good.clone()).unwrap();
    let much = Bounds { lines: 1 << 20, bytes: 1 << 30, sets: 256, remaps: 1 << 20 };
    let refused = |text: &str, bounds: Bounds| match read_within(text.as_bytes(), bounds) {
        Err(TraceError::Broken { line, why }) => (line, why),
        other => panic!("{other:?}"),
    };
    assert!(read_within(&good[..], much).is_ok());
    let (line, why) = refused(&text, Bounds { lines: 5, ..much });
    assert!(line == 6 && why.contains("at most 5 lines"), "{line}: {why}");
    let (line, why) = refused(&text, Bounds { bytes: text.lines().next().unwrap().len() + 2, ..much });
    assert!(line == 2 && why.contains("bytes"), "{line}: {why}");
    let (_, why) = refused(&text, Bounds { sets: 0, ..much });
    assert!(why.contains("at most 0 sets"), "{why}");
    let held = text.lines().position(|line| line.contains("\"errors\"")).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut event: serde_json::Value = serde_json::from_str(&lines[held]).unwrap();
    event["event"]["event"]["errors"]["records"][0]["main"]["len"] = (1_u64 << 40).into();
    lines[held] = event.to_string();
    let (line, why) = refused(&(lines.join("\n") + "\n"), much);
    assert!(line == held + 1 && why.contains("too many for one error"), "{line}: {why}");
}
