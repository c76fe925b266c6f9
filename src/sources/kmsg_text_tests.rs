use super::*;
use proptest::prelude::*;

fn note(text: &str) -> Option<KernelNote> {
    parse(format!("3,1234,567890,-;{text}\n").as_bytes(), Millis(7))
}

#[test]
fn lines_of_the_block_layer_are_exact() {
    let found =
        note("critical medium error, dev nvme0n1, sector 1234 op 0x1:(WRITE) flags 0x8800 phys_seg 1 prio class 2").unwrap();
    assert_eq!((found.source, found.device.as_deref()), (NoteSource::Block, Some("nvme0n1")));
    assert_eq!((found.sector, found.op, found.class), (Some(Sector(1234)), Some(Op::Write), Some(ErrorClass::Medium)));
    assert_eq!(found.at, Millis(7));
    let found =
        note("blk_update_request: I/O error, dev sdb, sector 99 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0").unwrap();
    assert_eq!((found.sector, found.op, found.class), (Some(Sector(99)), Some(Op::Read), Some(ErrorClass::Ioerr)));
    let old = note("print_req_error: critical target error, dev sdb, sector 99").unwrap();
    assert_eq!((old.sector, old.op, old.class), (Some(Sector(99)), None, Some(ErrorClass::Target)));
    let far = note("I/O error, dev sdb, sector 99999999999999999999999 op 0x0:(READ)").unwrap();
    assert_eq!(far.sector, None);
}

#[test]
fn lines_of_the_drivers_are_evidence() {
    let sense = note("sd 0:0:0:0: [sda] tag#3 Sense Key : Medium Error [current] ").unwrap();
    assert_eq!((sense.device.as_deref(), sense.class), (Some("sda"), Some(ErrorClass::Medium)));
    let add = note("sd 0:0:0:0: [sda] tag#3 Add. Sense: Unrecovered read error").unwrap();
    assert_eq!((add.source, add.class), (NoteSource::Scsi, None));
    assert_eq!(note("sd 0:0:0:0: [sda] tag#3 CDB: Read(10) 28 00 00 00 04 d2 00 00 08 00").unwrap().op, Some(Op::Read));
    assert_eq!(note("sd 0:0:0:0: [sda] 2048 512-byte logical blocks"), None);
    let nvme = note("nvme0n1: Read(0x2) @ LBA 99, 8 blocks, Unrecovered Read Error (sct 0x2 / sc 0x81) DNR ").unwrap();
    assert_eq!((nvme.device.as_deref(), nvme.op, nvme.class), (Some("nvme0n1"), Some(Op::Read), Some(ErrorClass::Medium)));
    assert_eq!((nvme.sector, nvme.block), (None, Some(99)), "it is told in blocks of the device");
    let late = note("nvme nvme0: I/O 5 QID 1 timeout, aborting").unwrap();
    assert_eq!((late.device.as_deref(), late.class), (Some("nvme0"), Some(ErrorClass::Timeout)));
    let ata = note("ata3.00: failed command: READ FPDMA QUEUED").unwrap();
    assert_eq!((ata.device.as_deref(), ata.op), (Some("ata3.00"), Some(Op::Read)));
    assert_eq!(note("ata3.00: error: { UNC }").unwrap().class, Some(ErrorClass::Medium));
    assert_eq!(note("ata3: SATA link down (SStatus 0 SControl 300)").unwrap().class, Some(ErrorClass::Transport));
    let buffer = note("Buffer I/O error on dev sdb1, logical block 12, async page read").unwrap();
    assert_eq!((buffer.device.as_deref(), buffer.op, buffer.sector), (Some("sdb1"), Some(Op::Read), None));
}

#[test]
fn a_drives_own_error_at_a_flush_is_told_apart() {
    let line = |command: &str, mask: &str| {
        let answer = "\\x0a         res 41/04:00:00:00:00/00:00:00:00:00/a0 Emask";
        note(&format!("ata1.00: cmd {command}/00:00:00:00:00/00:00:00:00:00/a0 tag 17{answer} {mask}"))
    };
    for flush in ["e7", "ea"] {
        let lost = line(flush, "0x1 (device error)").unwrap();
        assert!(
            lost.is_lost_flush()
                && lost.text.ends_with("tag 17, res 41/04:00:00:00:00/00:00:00:00:00/a0 Emask 0x1 (device error)"),
            "{lost:?}"
        );
        assert_eq!(line(flush, "0x4 (timeout)"), None, "it says nothing of what the drive lost");
    }
    assert_eq!(line("35", "0x1 (device error)"), None);
    assert!(!note("ata1.00: failed command: FLUSH CACHE").unwrap().is_lost_flush(), "it does not say why");
}

#[test]
fn hidden_lines_are_a_hint() {
    assert_eq!(note("blk_print_req_error: 12 callbacks suppressed").unwrap().source, NoteSource::Suppressed(12));
    assert_eq!(note("net_ratelimit: 12 callbacks suppressed"), None);
}

#[test]
fn only_the_kernel_is_believed() {
    let text = "critical medium error, dev sda, sector 1 op 0x0:(READ)";
    assert!(parse(format!("11,1,1,-;{text}").as_bytes(), Millis(0)).is_none(), "written by a process");
    assert!(parse(format!("3,1,1,-,caller=T1;{text}\n SUBSYSTEM=block\n DEVICE=b8:0\n").as_bytes(), Millis(0)).is_some());
    assert!(note("usb 1-1: new high-speed USB device").is_none());
}

#[test]
fn hostile_names_are_dropped() {
    assert_eq!(note("I/O error, dev ../../x y, sector 1").unwrap().device, None);
    let long = note(&format!("I/O error, dev sda, sector 1 {}", "é".repeat(4000))).unwrap();
    assert!(long.text.len() <= TEXT_BYTES);
}

proptest! {
    #[test]
    fn no_bytes_make_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, Millis(0));
    }

    #[test]
    fn nor_do_lines_that_are_nearly_right(
        words in prop::collection::vec(prop::sample::select(vec![
            "3,1,1,-;", " error, dev ", ", sector ", "I/O", ": ", "sd ", ": [", "] ", "Sense", "CDB: ", "nvme0n1", "ata1", "(sct ",
            "op 0x0:(", ")", "READ", "12", " callbacks suppressed", "\n", "é", "Buffer I/O error on dev ", "failed command: ",
        ]), 0..20),
        bytes in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut record = b"3,1,1,-;".to_vec();
        record.extend(words.concat().as_bytes());
        record.extend(bytes);
        if let Some(note) = parse(&record, Millis(0)) {
            prop_assert!(note.text.len() <= TEXT_BYTES);
        }
    }
}
