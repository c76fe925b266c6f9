use super::*;
use crate::format::table_checksum as checksum;
use crate::model::{Geometry, Identity, Millis, Secret, SetId, SetName};
use proptest::prelude::*;

const CHECKSUM_ONE: u64 = 0xffab7ca894d7d033;
const CHECKSUM_TWO: u64 = 0x7421a62837bcd627;

fn remap(main: u64, at: u64, len: u64, spare: u16, marked: bool) -> Remap {
    let main = Extent::new(Sector(main), Sectors(len)).unwrap();
    Remap { main, spare, at: Sector(at), flags: RemapFlags { marked }, seq: 0 }
}

#[test]
fn a_status_line_is_read() {
    let status = parse_status("3 17 CLOSED 1 00c0ffee00c0ffee 18 2 1").unwrap();
    assert_eq!((status.remaps, status.errors, status.next_seq, status.held), (3, 17, 18, 2));
    assert_eq!((status.state.as_str(), status.instance.as_str()), ("CLOSED", "00c0ffee00c0ffee"));
}

#[test]
fn a_status_of_another_protocol_says_so() {
    let error = parse_status("3 17 ACTIVE 2 00c0ffee00c0ffee 18 2 1").unwrap_err().to_string();
    assert!(error.contains("protocol 2"), "{error}");
}

#[test]
fn hostile_status_lines_are_refused() {
    for line in [
        "",
        "x",
        "1 2",
        "1 2 OPEN 1 00c0ffee00c0ffee 1 0 0",
        "1 2 ACTIVE 1 short 1 0 0",
        "1 2 ACTIVE 1 zzzzzzzzzzzzzzzz 1 0 0",
        "-1 2 ACTIVE 1 00c0ffee00c0ffee 1 0 0",
        "+1 2 ACTIVE 1 00c0ffee00c0ffee 1 0 0",
        "99999999999999999999999 2 ACTIVE 1 00c0ffee00c0ffee 1 0 0",
        "1 2 ACTIVE 1 00c0ffee00c0ffee",
    ] {
        assert!(parse_status(line).is_err(), "{line}");
    }
}

#[test]
fn error_records_are_read() {
    let reply = "errors 5 9\n\
                 e 5 failed read main 1000 1000 8 medium 12 ra,failfast\n\
                 e 6 held write spare1 2048 96 1 ioerr 3 -\n\
                 e 7 failed flush main - 0 0 transport 1 fua\n\
                 e 8 expired write main 7 7 1 newclass 0 -\n";
    let text = parse_errors(reply).unwrap();
    assert!(text.unreadable.is_empty());
    let page = text.page;
    assert_eq!((page.oldest, page.next, page.records.len()), (5, 9, 4));
    assert_eq!(
        page.records[0],
        TargetError {
            seq: 5,
            kind: TargetErrorKind::Failed,
            op: Op::Read,
            member: Member::Main,
            main: Some(Extent::new(Sector(1000), Sectors(8)).unwrap()),
            member_sector: Sector(1000),
            class: ErrorClass::Medium,
            age_ms: 12,
            read_ahead: true,
        }
    );
    assert_eq!((page.records[1].member, page.records[1].read_ahead), (Member::Spare(1), false));
    assert_eq!((page.records[2].main, page.records[2].op), (None, Op::Flush));
    assert_eq!(page.records[3].class, ErrorClass::Other, "an unknown class is never the medium");
}

#[test]
fn one_bad_record_does_not_hide_the_others() {
    let reply = "errors 1 4\n\
                 e 1 failed read main 18446744073709551615 0 8 medium 1 -\n\
                 e 2 failed read spare 1 1 1 medium 1 -\n\
                 e nonsense \u{1b}[31m\n\
                 e 3 failed read main 1 1 1 medium 1 -";
    let text = parse_errors(reply).unwrap();
    assert_eq!(text.page.records.len(), 1);
    assert_eq!(text.unreadable.len(), 3);
    assert!(!text.unreadable[2].contains('\u{1b}'), "control characters are escaped");
    assert!(parse_errors("").is_err());
    assert!(parse_errors("errors 1").is_err());
}

#[test]
fn fences_need_an_end() {
    let fences = parse_fences("fence 7 100 8 draining 900\nfence 9 300 16 sealed 1\nend\n").unwrap();
    assert_eq!(fences.len(), 2);
    assert_eq!((fences[0].id, fences[0].state), (7, FenceState::Draining));
    assert_eq!((fences[1].extent.len(), fences[1].state), (Sectors(16), FenceState::Sealed));
    assert_eq!(parse_fences("end").unwrap(), []);
    for reply in ["", "fence 7 100 8 draining 900\n", "fence 7 100 0 drained 1\nend", "fence 7 1 1 odd 1\nend", "x\nend"] {
        assert!(parse_fences(reply).is_err(), "{reply}");
    }
}

#[test]
fn dumps_are_read_page_by_page() {
    let page = parse_dump("dump 3 00000000000000ff\nremap 8 96 8 0 0\nremap 16 64 8 1 1\nnext 24\n").unwrap();
    assert_eq!((page.total, page.checksum, page.next), (3, 255, Some(Sector(24))));
    assert_eq!(page.remaps, [remap(8, 96, 8, 0, false), remap(16, 64, 8, 1, true)]);
    assert_eq!(parse_dump("dump 0 0000000000000000\nend").unwrap().remaps, []);
    for reply in [
        "",
        "dump 1 ff\nend",
        "dump 1 00000000000000ff\nremap 8 96 8 0 0\n",
        "dump 2 00000000000000ff\nremap 8 96 8 0 0\nremap 8 96 8 0 0\nend",
        "dump 1 00000000000000ff\nremap 8 96 0 0 0\nend",
        "dump 1 00000000000000ff\nremap 8 96 4294967296 0 0\nend",
        "dump 1 00000000000000ff\nremap 8 18446744073709551615 8 0 0\nend",
        "dump 1 00000000000000ff\nremap 8 96 8 70000 0\nend",
    ] {
        assert!(parse_dump(reply).is_err(), "{reply}");
    }
}

#[test]
fn fence_ids_and_counts() {
    assert_eq!(parse_fence_id("fence 12\n").unwrap(), 12);
    assert!(parse_fence_id("12").is_err());
    assert_eq!(parse_count("retry", "3\n").unwrap(), 3);
    assert!(parse_count("retry", "").is_err());
}

#[test]
fn the_checksum_is_the_protocols() {
    assert_eq!(checksum(&[]), 0);
    let one = remap(1000, 2048, 8, 0, false);
    // Computed by hand from the protocol's formula (Python).
    assert_eq!(checksum(&[one]), CHECKSUM_ONE);
    let two = remap(5000, 4096, 16, 1, true);
    assert_eq!(checksum(&[two]), CHECKSUM_TWO);
    assert_eq!(checksum(&[one, two]), checksum(&[two, one]));
    assert_eq!(checksum(&[one, two]), CHECKSUM_ONE.wrapping_add(CHECKSUM_TWO));
}

#[test]
fn load_messages_are_short_and_complete() {
    assert!(load_messages(&[]).is_empty());
    let widest = remap(u64::MAX - 0xffff_ffff, u64::MAX - 0xffff_ffff, 0xffff_ffff, u16::MAX, true);
    let messages = load_messages(&vec![widest; LOAD_CHUNK * 2 + 1]);
    assert_eq!(messages.len(), 3);
    assert!(messages.iter().all(|message| message.len() < 14_000), "they fit the first buffer of the crate");
    assert_eq!(load_messages(&[remap(8, 96, 8, 0, false), remap(16, 64, 8, 1, true)]), ["load 8:96:8:0:0,16:64:8:1:1"]);
}

#[test]
fn messages_for_a_remap() {
    assert_eq!(add_message(&remap(8, 96, 8, 0, false), None), "add_remap 8 96 8 0");
    assert_eq!(add_message(&remap(8, 96, 8, 2, true), Some(5)), "add_remap 8 96 8 2 fence=5 marked");
    assert_eq!(ready_message(&[]), "ready 0 0000000000000000");
}

fn set() -> SetDescription {
    let disk = Identity { sectors: Sectors(1 << 20), logical_block: 512, physical_block: 512, ..Identity::default() };
    let geometry = |start, len| Geometry {
        table_start: Sector(8),
        table_blocks: 1,
        data: Extent::new(Sector(start), Sectors(len)).unwrap(),
        header_b: Sector((1 << 20) - 8),
    };
    SetDescription {
        id: SetId(uuid::Uuid::from_u128(0x1234)),
        name: SetName::new("data").unwrap(),
        main: disk.clone(),
        spares: vec![disk.clone(), disk],
        secret: Secret([0; 16]),
        geometry: vec![geometry(2048, 1000), geometry(1024, (1 << 20) - 1024 - 8)],
        created: Millis(0),
    }
}

#[test]
fn the_table_line_counts_its_words() {
    let bounds = Bounds { hold_ms: 10_000, closed_ms: 60_000 };
    let line = table_params(&set(), (8, 16), &[(8, 32), (259, 3)], bounds).unwrap();
    assert_eq!(line, "8:16 8:32 11 managed reserve 1024 8 closed 60000 hold 10000 small_spare spare 259:3");
    assert_eq!(dm_uuid(set().id), "REMAP-GUARDIAN-00000000000000000000000000001234");
}

#[test]
fn a_table_line_that_would_be_refused_is_not_made() {
    let good = Bounds { hold_ms: 0, closed_ms: 1 };
    let two = [(8, 32), (8, 48)];
    assert!(table_params(&set(), (8, 16), &two, good).is_ok());
    assert!(table_params(&set(), (8, 16), &[], good).is_err());
    assert!(table_params(&set(), (8, 16), &two[..1], good).is_err());
    assert!(table_params(&set(), (8, 16), &two, Bounds { hold_ms: 15_001, ..good }).is_err());
    assert!(table_params(&set(), (8, 16), &two, Bounds { closed_ms: 0, ..good }).is_err());
}

proptest! {
    #[test]
    fn no_reply_makes_a_panic(reply in "\\PC*") {
        let _ = parse_status(&reply);
        let _ = parse_errors(&reply);
        let _ = parse_fences(&reply);
        let _ = parse_dump(&reply);
        let _ = parse_fence_id(&reply);
        let _ = parse_count("retry", &reply);
    }

    #[test]
    fn nor_does_a_reply_of_the_right_words(
        words in prop::collection::vec(
            prop::sample::select(vec!["e", "remap", "fence", "dump", "errors", "end", "next", "-", "main", "spare0", "read",
                "failed", "medium", "0", "1", "8", "18446744073709551615", "00000000000000ff", "sealed", "\n"]), 0..60),
    ) {
        let reply = words.join(" ");
        let _ = parse_errors(&reply);
        let _ = parse_fences(&reply);
        let _ = parse_dump(&reply);
        let _ = parse_errors(&format!("errors 1 9\n{reply}"));
        let _ = parse_dump(&format!("dump 1 00000000000000ff\n{reply}"));
    }

    #[test]
    fn what_is_dumped_is_what_was_loaded(
        entries in prop::collection::vec((1u64..1000, 0u64..1 << 40, 1u64..64, 0u16..4, any::<bool>()), 0..50),
    ) {
        let mut at = 0;
        let remaps: Vec<Remap> = entries.into_iter().map(|(gap, spare_at, len, spare, marked)| {
            at += gap;
            let remap = remap(at, spare_at, len, spare, marked);
            at += len;
            remap
        }).collect();
        let mut reply = format!("dump {} {:016x}\n", remaps.len(), checksum(&remaps));
        for r in &remaps {
            reply += &format!("remap {} {} {} {} {}\n", r.main.start(), r.at, r.main.len(), r.spare, u8::from(r.flags.marked));
        }
        let page = parse_dump(&(reply + "end\n")).unwrap();
        prop_assert_eq!(page.checksum, checksum(&page.remaps));
        prop_assert_eq!(page.remaps, remaps);
    }
}
