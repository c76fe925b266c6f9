use super::*;
use proptest::prelude::*;

fn failed(line: &str) -> Option<RequestLine> {
    match parse(line.as_bytes()) {
        Some(Line::Failed(failed)) => Some(failed),
        _ => None,
    }
}

#[test]
fn a_line_says_which_sectors_failed_and_how() {
    let read = RequestLine {
        devno: (8, 16),
        op: Some(Op::Read),
        read_ahead: false,
        sector: Sector(1234),
        len: Sectors(8),
        class: ErrorClass::Medium,
    };
    assert_eq!(failed("block_rq_error: 8,16 R 4096 () 1234 + 8 [-61]"), Some(read));
    assert_eq!(failed("block_rq_error: 8,16 R 4096 () 1234 + 8 none,0,0 [-61]"), Some(read), "since Linux 6.11");
    let write = failed("block_rq_error: 259,0 FWFS 512 () 0 + 1 be,0,4 [-121]").unwrap();
    assert_eq!((write.devno, write.op, write.class), ((259, 0), Some(Op::Write), ErrorClass::Target));
}

#[test]
fn what_is_read_in_advance_is_told_apart() {
    let of = |letters: &str| failed(&format!("block_rq_error: 8,16 {letters} 0 () 8 + 8 [-5]")).map(|f| (f.op, f.read_ahead));
    assert_eq!(of("RA"), Some((Some(Op::Read), true)));
    assert_eq!(of("RAM"), Some((Some(Op::Read), true)));
    assert_eq!(of("RS"), Some((Some(Op::Read), false)));
    assert_eq!(of("ZA"), Some((Some(Op::Write), false)), "a zone append is no read in advance");
    assert_eq!((of("W"), of("DE"), of("D")), (plain(Op::Write), plain(Op::Erase), plain(Op::Discard)));
    assert_eq!((of("FF"), of("F"), of("FS")), (plain(Op::Flush), plain(Op::Flush), plain(Op::Flush)));
    assert_eq!(of("N"), Some((None, false)));
}

fn plain(op: Op) -> Option<(Option<Op>, bool)> {
    Some((Some(op), false))
}

#[test]
fn every_error_has_its_class() {
    let of = |error: i32| failed(&format!("block_rq_error: 8,0 W 0 () 8 + 8 [{error}]")).unwrap().class;
    let known = [-61, -5, -121, -67, -52, -110, -84, -28, -12, -16, -11, -19, -95];
    use ErrorClass::*;
    let classes =
        [Medium, Ioerr, Target, Transport, Nexus, Timeout, Protection, Nospc, Resource, Resource, Again, Offline, Other];
    assert_eq!(known.map(of), classes);
    assert_eq!(of(i32::MAX), Other);
}

#[test]
fn hostile_lines_are_none() {
    // The kernel would put such a name of a process before its own words.
    assert_eq!(failed("block_rq_error: 8,0-1 [000] d..1. 1.0: block_rq_error: 8,16 R 0 () 8 + 8 [-61]"), None);
    assert_eq!(failed(" block_rq_error: 8,16 R 0 () 8 + 8 [-61]"), None);
    assert_eq!(failed("block_rq_complete: 8,16 R () 8 + 8 [-61]"), None);
    for broken in [
        "block_rq_error: ",
        "block_rq_error: 8 R 0 () 8 + 8 [-61]",
        "block_rq_error: 8,16 R 0 () -8 + 8 [-61]",
        "block_rq_error: 8,16 R 0 () 8 - 8 [-61]",
        "block_rq_error: 8,16 R 0 () 8 + 8 [-99999999999]",
        "block_rq_error: 8,16 R 0 () 8 + 99999999999 [-61]",
        "block_rq_error: 99999999999,16 R 0 () 8 + 8 [-61]",
        "block_rq_error: 8,16 R 0 () 8 + 8 -61",
        "block_rq_error: 8,16 R 0 () 8 + [-61]",
        "block_rq_error: 8,16 R 0 ) ( 8",
    ] {
        assert_eq!(failed(broken), None, "{broken}");
    }
    assert_eq!(parse(b"CPU:1 [LOST 12 EVENTS]"), Some(Line::Lost));
    assert_eq!(parse(b"CPU:1 [LOST EVENTS]"), Some(Line::Lost));
}

#[test]
fn a_storm_grows_nothing() {
    let mut lines = Lines::default();
    let mut told = 0;
    for n in 0..100_000 {
        // Some end nowhere.
        let end = if n % 3 == 0 { "" } else { "\n" };
        told += lines.cut(format!("block_rq_error: 8,16 R 0 () {n} + 8 [-61]{end}").as_bytes()).len();
        assert!(lines.begun.capacity() <= 2 * LINE_BYTES);
    }
    assert!(told > 30_000, "{told}");
    lines.cut(&[b'x'; 1 << 20]);
    assert!(lines.begun.capacity() <= 2 * LINE_BYTES);
    assert_eq!(lines.cut(b"\nblock_rq_error: 8,16 R 0 () 8 + 8 [-61]\n").len(), 1, "the line after one that is too long");
}

proptest! {
    #[test]
    fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn nor_do_lines_that_are_nearly_right(
        words in prop::collection::vec(prop::sample::select(vec![
            "8,16", " ", "R", "RA", "F", "ZA", "(", ") ", " (", "()", "+", "8", "-1", "18446744073709551615", "[-61]", "[", "]",
            "none,0,0", "\n", "é", "\0", "block_rq_error: ", "CPU:0 [LOST ",
        ]), 0..20),
    ) {
        let line = format!("block_rq_error: {}", words.concat());
        let _ = parse(line.as_bytes());
        let _ = Lines::default().cut(line.as_bytes());
    }

    #[test]
    fn it_does_not_matter_where_a_read_ends(cuts in prop::collection::vec(0_usize..200, 0..6)) {
        let text = b"block_rq_error: 8,16 R 0 () 8 + 8 [-61]\nCPU:0 [LOST 3 EVENTS]\nblock_rq_error: 8,0 RA 0 () 16 + 8 [-5]\n";
        let mut ends: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
        ends.sort_unstable();
        let mut lines = Lines::default();
        let found: Vec<Line> = ends.windows(2).flat_map(|pair| lines.cut(&text[pair[0]..pair[1]])).collect();
        prop_assert_eq!(found, Lines::default().cut(text));
    }
}
