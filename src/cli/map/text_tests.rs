use super::*;
use crate::model::surface::Surface;
use proptest::prelude::*;
use std::path::Path;

const SIZE: Sectors = Sectors(65_536);

/// The committed maps: real ones in form, and broken ones, which are named after what is wrong.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/maps");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> =
        files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())).collect();
    all.sort();
    assert!(all.len() >= 10, "only {}", all.len());
    all
}

/// What a map of the corpus comes to, in one line.
fn told(bytes: &[u8]) -> String {
    match parse(bytes).and_then(|rows| suspects(&rows, SIZE)) {
        Ok(found) => found.iter().map(Extent::to_string).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    }
}

#[test]
fn each_map_of_the_corpus_says_what_it_should() {
    let expected = [
        ("beyond-the-device", "line 5: it ends at byte 0x2000200, but the device has 0x2000000"),
        ("bytes-within-a-sector", "2+3 9+1"),
        ("empty", "line 1: the file ends without a status line"),
        ("finished", ""),
        ("gap", "line 4: it begins at byte 0x400, and the line before ends at 0x200: a gap"),
        ("negative", "line 3: “-512 512 -” is no range"),
        ("not-utf8", "8+8"),
        ("octal-and-decimal", "8+8 32+1"),
        ("old-without-pass", "8+24"),
        ("overflow", "line 3: “0x200 0x7fffffffffffffff -” ends beyond what a position can be"),
        ("overlap", "line 4: it begins at byte 0x100, within the line before, which ends at 0x200"),
        ("real", "2048+8 4096+16"),
        ("status-missing", "line 2: “0x0 0x200 +” is no status line"),
        ("status-unknown", "line 4: “0x200 0x200 !” is no range"),
        ("unknown-end", "8+1"),
        ("zero-size", "line 3: “0x0 0 -” is a range of no bytes"),
    ];
    let corpus = corpus();
    assert_eq!(corpus.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected.map(|(name, _)| name));
    for ((name, bytes), (_, said)) in corpus.iter().zip(expected) {
        let told = told(bytes);
        assert!(if said.starts_with("line") { told.starts_with(said) } else { told == said }, "{name}: {told}");
    }
}

#[test]
fn numbers_are_those_of_c() {
    let read = ["0", "00", "017", "0x1F", "0X1f", "512", "9223372036854775807"].map(number);
    assert_eq!(read, [Some(0), Some(0), Some(15), Some(31), Some(31), Some(512), Some(FAR)]);
    for word in ["", "0x", "08", "+5", "-5", "0x+5", "0+5", "1k", "9223372036854775808", "0x1ffffffffffffffff", "５"] {
        assert_eq!(number(word), None, "{word}");
    }
}

#[test]
fn a_map_that_is_written_can_be_read() {
    let extent = |start, len| Extent::new(Sector(start), Sectors(len)).unwrap();
    let mut surface = Surface::new(SIZE);
    surface.paint(extent(0, 1000), Known::Read);
    surface.paint(extent(8, 16), Known::Remapped);
    surface.paint(extent(10, 2), Known::Bad);
    let text = write(&surface.areas(), &["made by hand\nwith a trap".into()]);
    let rows = parse(text.as_bytes()).unwrap();
    let read: Vec<_> = rows.iter().map(|row| (row.start / 512, row.end / 512, row.status)).collect();
    assert_eq!(
        read,
        [(0, 10, Status::Finished), (10, 12, Status::Bad), (12, 1000, Status::Finished), (1000, SIZE.0, Status::NonTried)]
    );
    assert!(text.starts_with("# made by hand with a trap\n") && text.contains("\n0x0007d000     ?               1\n"), "{text}");
    assert_eq!(suspects(&rows, SIZE).unwrap(), [extent(10, 2)]);
}

/// What holds of whatever `parse` takes.
fn is_sound(bytes: &[u8]) -> Result<(), TestCaseError> {
    let rows = match parse(bytes) {
        Ok(rows) => rows,
        Err(error) => {
            prop_assert!(error.line >= 1 && error.line <= bytes.iter().filter(|c| **c == b'\n').count() + 1);
            return Ok(());
        }
    };
    prop_assert!(rows.iter().all(|row| row.start < row.end && row.end <= FAR));
    prop_assert!(rows.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].line < pair[1].line));
    if let Ok(found) = suspects(&rows, SIZE) {
        prop_assert!(found.windows(2).all(|pair| pair[0].end() < pair[1].start()));
        prop_assert!(found.last().is_none_or(|last| last.end().0 <= SIZE.0));
        for row in rows.iter().filter(|row| row.status.is_suspect()) {
            let first = Sector(row.start / 512);
            prop_assert!(found.iter().any(|extent| extent.contains(first) && extent.end().0 * 512 >= row.end));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_a_map_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        is_sound(&bytes)?;
    }

    #[test]
    fn so_are_maps_that_were_damaged(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6),
    ) {
        let corpus = corpus();
        let mut bytes = which.get(&corpus).1.clone();
        for (at, byte, how) in damage.into_iter().filter(|_| !corpus.is_empty()) {
            if bytes.is_empty() { bytes.push(byte); }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"0 x\n#+-*/?\t8"[usize::from(byte) % 12]),
            }
        }
        is_sound(&bytes)?;
    }

    #[test]
    fn lines_in_order_are_taken(parts in prop::collection::vec((1u64..5000, 0usize..5, 0u8..3), 0..30), start in 0u64..4096) {
        let mut text = String::from("# a map\n0x0 + 1\n");
        let mut at = start;
        for (size, status, form) in &parts {
            let status = ["?", "*", "/", "-", "+"][*status];
            text.push_str(&match form {
                0 => format!("{at:#x} {size:#x} {status}\n"),
                1 => format!("{at}\t{size}  {status} # seen\n"),
                _ => format!("0{at:o} 0{size:o} {status}\n"),
            });
            at += size;
        }
        prop_assert_eq!(parse(text.as_bytes()).unwrap().len(), parts.len());
        is_sound(text.as_bytes())?;
    }
}
