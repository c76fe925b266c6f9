//! Tests of what the headers of a set come to while another spare joins it, and after that was cut short.

use super::*;
use crate::actuate::spare_header::{finish_spare, format_spare, prepare_spare};
use crate::actuate::spare_join::extended;
use crate::actuate::test_disk::{TestDisk, Trouble};
use crate::model::{Identity, Millis, Secret, SetName};

fn identity(serial: &str, sectors: u64) -> Identity {
    Identity { serial: serial.into(), sectors: Sectors(sectors), logical_block: 512, physical_block: 4096, ..Identity::default() }
}

/// A set whose spares have these serial numbers.
fn set_of(serials: &[&str]) -> SetDescription {
    let none = SetDescription {
        id: SetId(uuid::Uuid::from_u128(5)),
        name: SetName::new("data").unwrap(),
        main: identity("MAIN", 1 << 20),
        spares: Vec::new(),
        secret: Secret([3; 16]),
        geometry: Vec::new(),
        created: Millis(1),
    };
    serials.iter().fold(none, |set, serial| extended(&set, &identity(serial, 4096)).unwrap())
}

fn device(serial: &str, sectors: u64) -> FoundDevice {
    FoundDevice {
        node: Path::new("/dev").join(serial),
        name: serial.into(),
        disk: serial.into(),
        identity: identity(serial, sectors),
        devno: (8, 0),
        transport: "sata".into(),
        rotational: None,
    }
}

/// What headers come to: of which disk, the set they speak of, the spare, the generation.
fn come_to(headers: &[(&str, &[&str], u16, u64)]) -> Option<Candidate> {
    let disks: Vec<FoundDevice> = headers.iter().map(|(serial, ..)| device(serial, 4096)).collect();
    let headers = headers.iter().zip(&disks).map(|((_, serials, spare, generation), disk)| {
        (disk, Header { set: set_of(serials), spare: *spare, generation: *generation })
    });
    candidate(headers.collect(), &[device("MAIN", 1 << 20)])
}

#[test]
fn the_newest_header_says_who_is_in_the_set() {
    let half = come_to(&[("A", &["A", "B", "C"], 0, 2), ("B", &["A", "B"], 1, 1), ("C", &["A", "B", "C"], 2, 0)]).unwrap();
    assert_eq!((half.desc.clone(), half.complete()), (set_of(&["A", "B", "C"]), Ok(())));
    let missing = come_to(&[("A", &["A", "B", "C"], 0, 2), ("B", &["A", "B"], 1, 1)]).unwrap();
    assert!(missing.complete().unwrap_err().contains("spare 2"), "{:?}", missing.complete());
}

#[test]
fn before_the_commit_point_the_set_is_the_old_one() {
    let before = come_to(&[("C", &["A", "B", "C"], 2, 0), ("A", &["A", "B"], 0, 1), ("B", &["A", "B"], 1, 1)]).unwrap();
    assert_eq!((before.desc.clone(), before.complete(), before.spares.len()), (set_of(&["A", "B"]), Ok(()), 2));
    assert!(come_to(&[("C", &["A", "B", "C"], 2, 0)]).is_none(), "a disk that holds nothing is no set");
}

#[test]
fn a_disk_whose_adding_was_cut_short_is_not_taken_for_another_one() {
    let set = come_to(&[("A", &["A", "C"], 0, 2), ("C", &["A", "C"], 1, 2), ("B", &["A", "B"], 1, 0)]).unwrap();
    assert_eq!((set.complete(), set.spares[&1].name.as_str()), (Ok(()), "C"));
    let only_the_old = come_to(&[("A", &["A", "C"], 0, 2), ("B", &["A", "B"], 1, 0)]).unwrap();
    assert!(only_the_old.complete().is_err(), "B is not C");
}

#[test]
fn headers_of_one_generation_must_agree() {
    let two = come_to(&[("A", &["A", "B"], 0, 2), ("B", &["A", "C"], 1, 2)]).unwrap();
    assert!(two.complete().unwrap_err().contains("otherwise"), "{:?}", two.complete());
}

/// Two disks of which the second joins the first; the join ends at a write.
fn cut_short(disk: usize, nth: usize) -> [TestDisk; 2] {
    let disks = [TestDisk::new(4096), TestDisk::new(4096)];
    format_spare(&disks[0], &set_of(&["A"]), 0).unwrap();
    disks[disk].plan(nth, Trouble::Crash(0));
    let more = set_of(&["A", "B"]);
    let join = || {
        prepare_spare(&disks[1], &more, 1).map_err(drop)?;
        spare_join::announce(&[&disks[0]], &more, 2).map_err(drop)?;
        finish_spare(&disks[1], &more, 1, 2).map_err(drop)
    };
    assert_eq!(join(), Err(()), "{disk} {nth}");
    disks.iter().for_each(|disk| disk.restart(7));
    disks
}

#[test]
fn opening_completes_what_was_cut_short_if_it_may_write() {
    let (old, new) = (set_of(&["A"]), set_of(&["A", "B"]));
    // The first disk's header at its end; then that at its start, when the set is the new one already.
    let disks = cut_short(0, 0);
    check_headers(&old, &[("a", &disks[0])], Writes::Yes).unwrap();
    check_headers(&new, &[("a", &disks[0]), ("b", &disks[1])], Writes::Yes).unwrap_err();

    let disks = cut_short(0, 1);
    let both: [(&str, &dyn BlockIo); 2] = [("a", &disks[0]), ("b", &disks[1])];
    let before = disks.each_ref().map(TestDisk::changes);
    check_headers(&new, &both, Writes::No).unwrap();
    check_headers(&old, &both[..1], Writes::Yes).unwrap_err();
    assert_eq!(disks.each_ref().map(TestDisk::changes), before, "nothing was written");
    check_headers(&new, &both, Writes::Yes).unwrap();
    for (index, (_, io)) in (0u16..).zip(both) {
        let found = read_header(io).unwrap();
        assert_eq!((found.header.spare, found.header.generation, found.header.set), (index, 2, new.clone()));
        assert_eq!((found.bad_a, found.bad_b), (None, None));
    }
}

#[test]
fn a_disk_in_the_place_of_another_is_refused() {
    let disks = cut_short(0, 1);
    let new = set_of(&["A", "B"]);
    let error = check_headers(&new, &[("b", &disks[1]), ("a", &disks[0])], Writes::Yes).unwrap_err();
    assert!(error.contains("not spare 0"), "{error}");
    wipe(&disks[1]);
    check_headers(&new, &[("a", &disks[0]), ("b", &disks[1])], Writes::Yes).unwrap_err();
}

fn wipe(disk: &TestDisk) {
    crate::actuate::wipe_headers(disk).unwrap();
}

#[test]
fn a_header_that_cannot_be_brought_up_keeps_no_set_closed() {
    let new = set_of(&["A", "B"]);
    // The old header's second copy fails; then the new disk's own header.
    for disk in [0, 1] {
        let disks = cut_short(0, 1);
        let both: [(&str, &dyn BlockIo); 2] = [("a", &disks[0]), ("b", &disks[1])];
        disks[disk].plan(0, Trouble::Error(0));
        let why = check_headers(&new, &both, Writes::Yes).unwrap();
        assert!(why.as_ref().is_some_and(|why| why.contains("could not be completed")), "{disk}: {why:?}");
        disks.iter().for_each(TestDisk::forget);
        assert_eq!(check_headers(&new, &both, Writes::Yes), Ok(None), "it is completed when that can be written");
    }
}

#[test]
fn no_spare_that_serves_something_is_left_out() {
    assert_eq!(without_the_last(1, 1, Some("why")), Ok(()));
    assert_eq!(without_the_last(2, 1, None), Ok(()));
    let refused = without_the_last(1, 2, Some("its header is torn")).unwrap_err();
    assert!(refused.contains("spare 1") && refused.contains("its header is torn"), "{refused}");
    assert!(without_the_last(0, 1, None).is_err(), "the only spare of a set");
}
