use super::*;
use proptest::prelude::*;
use std::io::Write as _;

const BLOCK: usize = 4096;

fn read(disk: &mut SimDisk, sector: u64, count: usize) -> Result<Vec<u8>, DiskError> {
    let mut buf = vec![0; count * SECTOR];
    disk.read(sector, &mut buf).map(|()| buf)
}

fn kind<T>(result: Result<T, DiskError>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind)
}

#[test]
fn a_fresh_disk_is_zeros_and_keeps_what_is_written() {
    let mut disk = SimDisk::new(1000, Backing::Memory);
    assert_eq!(read(&mut disk, 990, 10).unwrap(), [0; 10 * SECTOR]);
    disk.write(126, &[5; 4 * SECTOR], Persist::Cached).unwrap();
    assert_eq!(read(&mut disk, 126, 4).unwrap(), [5; 4 * SECTOR]);
    assert_eq!(read(&mut disk, 130, 1).unwrap(), [0; SECTOR]);
}

#[test]
fn an_unreadable_sector_fails_until_written_and_spoils_the_buffer() {
    let mut disk = SimDisk::new(100, Backing::Memory);
    disk.write(0, &[1; 100 * SECTOR], Persist::Cached).unwrap();
    disk.inject(Fault::unreadable(10..12));
    let mut buf = [0; 4 * SECTOR];
    let error = disk.read(9, &mut buf).unwrap_err();
    assert_eq!(error, DiskError { kind: ErrorKind::Medium, sector: 10 });
    assert_eq!((buf[SECTOR - 1], buf[SECTOR], buf[3 * SECTOR]), (1, POISON, POISON));

    disk.write(10, &[2; SECTOR], Persist::Cached).unwrap();
    assert_eq!(read(&mut disk, 10, 1).unwrap(), [2; SECTOR]);
    assert_eq!(read(&mut disk, 11, 1).unwrap_err().sector, 11);
}

#[test]
fn a_sector_unreadable_for_ever_stays_so() {
    for disk in [SimDisk::new(8, Backing::Memory), SimDisk::new(8, Backing::Memory).with_volatile_cache()] {
        let mut disk = disk;
        disk.inject(Fault::unreadable_for_ever(3..4));
        disk.write(3, &[1; SECTOR], Persist::Cached).unwrap();
        assert_eq!(kind(read(&mut disk, 3, 1)), Some(ErrorKind::Medium));
    }
}

#[test]
fn a_failed_write_leaves_the_bad_sector_and_what_follows() {
    let mut disk = SimDisk::new(100, Backing::Memory);
    disk.write(0, &[1; 8 * SECTOR], Persist::Cached).unwrap();
    disk.inject(Fault::unwritable(3..4).reported_as(ErrorKind::Io));
    let error = disk.write(0, &[2; 8 * SECTOR], Persist::Fua).unwrap_err();
    assert_eq!(error, DiskError { kind: ErrorKind::Io, sector: 3 });
    let now: Vec<u8> = read(&mut disk, 0, 8).unwrap().chunks(SECTOR).map(|s| s[0]).collect();
    assert_eq!(now, [2, 2, 2, 1, 1, 1, 1, 1]);

    disk.inject(Fault::dead(5..6));
    assert_eq!(read(&mut disk, 0, 8).unwrap_err().sector, 5);
    disk.repair(0..100);
    disk.write(0, &[3; 8 * SECTOR], Persist::Cached).unwrap();
    assert!(disk.faults().is_empty());
}

#[test]
fn blocks_of_4096_fail_as_one_and_are_accessed_as_one() {
    let mut disk = SimDisk::new(64, Backing::Memory).with_block_size(4096);
    disk.inject(Fault::unreadable(13..14));
    assert_eq!(read(&mut disk, 0, 16).unwrap_err().sector, 8);
    assert_eq!(kind(read(&mut disk, 1, 8)), Some(ErrorKind::Misaligned));
    assert_eq!(kind(disk.write(0, &[0; SECTOR], Persist::Fua)), Some(ErrorKind::Misaligned));
    disk.write(8, &[1; BLOCK], Persist::Cached).unwrap();
    assert_eq!(read(&mut disk, 8, 8).unwrap(), [1; BLOCK]);
}

#[test]
fn nothing_beyond_the_end() {
    let mut disk = SimDisk::new(8, Backing::Memory);
    assert_eq!(kind(read(&mut disk, 7, 2)), Some(ErrorKind::OutOfRange));
    assert_eq!(kind(read(&mut disk, u64::MAX, 2)), Some(ErrorKind::OutOfRange));
    assert_eq!(kind(disk.discard(0, u64::MAX)), Some(ErrorKind::OutOfRange));
}

#[test]
fn a_gone_disk_fails_everything_and_comes_back_whole() {
    let mut disk = SimDisk::new(8, Backing::Memory).with_volatile_cache();
    disk.write(0, &[1; SECTOR], Persist::Cached).unwrap();
    disk.set_gone(true);
    assert_eq!(kind(read(&mut disk, 0, 1)), Some(ErrorKind::Gone));
    assert_eq!(kind(disk.write(0, &[2; SECTOR], Persist::Fua)), Some(ErrorKind::Gone));
    assert_eq!(kind(disk.flush()), Some(ErrorKind::Gone));
    assert_eq!(kind(disk.discard(0, 8)), Some(ErrorKind::Gone));
    disk.set_gone(false);
    assert_eq!(read(&mut disk, 0, 1).unwrap(), [1; SECTOR]);
}

#[test]
fn slow_sectors_cost_time_only_when_touched() {
    let mut disk = SimDisk::new(100, Backing::Memory);
    let second = Duration::from_secs(1);
    disk.inject(Fault::slow(10..20, second));
    disk.inject(Fault::slow(15..16, 2 * second));
    assert_eq!(disk.delay(0, 10), Duration::ZERO);
    assert_eq!(disk.delay(19, 5), second);
    assert_eq!(disk.delay(0, 100), 2 * second);
}

#[test]
fn a_discard_skips_what_cannot_be_written() {
    let mut disk = SimDisk::new(16, Backing::Memory);
    disk.write(0, &[1; 16 * SECTOR], Persist::Cached).unwrap();
    disk.inject(Fault::unwritable(4..5));
    disk.discard(0, 8).unwrap();
    let now: Vec<u8> = read(&mut disk, 0, 9).unwrap().chunks(SECTOR).map(|s| s[0]).collect();
    assert_eq!(now, [0, 0, 0, 0, 1, 0, 0, 0, 1]);
}

#[test]
fn a_power_cut_keeps_what_was_flushed_or_forced_and_tears_the_rest() {
    let mut fates = std::collections::HashSet::new();
    for seed in 0..64 {
        let mut disk = SimDisk::new(64, Backing::Memory).with_volatile_cache();
        disk.write(0, &[1; 8 * SECTOR], Persist::Cached).unwrap();
        disk.flush().unwrap();
        disk.write(0, &[2; 8 * SECTOR], Persist::Cached).unwrap();
        disk.write(8, &[3; SECTOR], Persist::Cached).unwrap();
        disk.write(8, &[4; SECTOR], Persist::Fua).unwrap();
        disk.power_cut(seed);
        assert_eq!(read(&mut disk, 8, 1).unwrap(), [4; SECTOR], "an older write came back over a forced one");
        let kept = read(&mut disk, 0, 8).unwrap().chunks(SECTOR).filter(|s| s[0] == 2).count();
        fates.insert(match kept {
            0 => "dropped",
            8 => "kept",
            _ => "torn",
        });
    }
    assert_eq!(fates.len(), 3);
}

#[test]
fn healing_is_as_durable_as_the_write() {
    let mut outcomes = std::collections::HashSet::new();
    for seed in 0..16 {
        let mut disk = SimDisk::new(8, Backing::Memory).with_volatile_cache();
        disk.inject(Fault::unreadable(3..4));
        disk.write(3, &[1; SECTOR], Persist::Cached).unwrap();
        assert_eq!(read(&mut disk, 3, 1).unwrap(), [1; SECTOR]);
        disk.power_cut(seed);
        outcomes.insert(read(&mut disk, 3, 1).is_ok());
    }
    assert_eq!(outcomes.len(), 2);
}

#[test]
fn an_error_met_while_flushing_is_reported_by_the_flush() {
    let mut disk = SimDisk::new(8, Backing::Memory).with_volatile_cache();
    disk.write(0, &[1; 8 * SECTOR], Persist::Cached).unwrap();
    disk.inject(Fault::unwritable(2..3));
    assert_eq!(disk.flush().unwrap_err().sector, 2);
    disk.flush().unwrap();
    assert_eq!(read(&mut disk, 2, 1).unwrap(), [0; SECTOR]);
    assert_eq!(read(&mut disk, 3, 1).unwrap(), [1; SECTOR]);
}

#[test]
fn a_full_cache_writes_itself_out() {
    let sectors = 2 * CACHE_SECTORS as u64;
    let mut disk = SimDisk::new(sectors, Backing::Memory).with_volatile_cache();
    let piece = vec![1; 1024 * SECTOR];
    for at in (0..sectors).step_by(1024) {
        disk.write(at, &piece, Persist::Cached).unwrap();
    }
    assert!(disk.cache.as_ref().unwrap().len() <= CACHE_SECTORS);
}

#[test]
fn files_hold_disks_and_lie_under_them() {
    let path = std::env::temp_dir().join(format!("simdisk-{}", std::process::id()));
    let open = || std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    open().write_all(&[9; SECTOR]).unwrap();

    let mut over = SimDisk::new(500, Backing::Over(open()));
    over.write(1, &[8; SECTOR], Persist::Fua).unwrap();
    assert_eq!(read(&mut over, 0, 1).unwrap(), [9; SECTOR]);
    assert_eq!(read(&mut over, 1, 1).unwrap(), [8; SECTOR]);
    assert_eq!(read(&mut over, 400, 1).unwrap(), [0; SECTOR]);

    let mut kept = SimDisk::new(500, Backing::File(open()));
    assert_eq!(read(&mut kept, 1, 1).unwrap(), [0; SECTOR], "the file under a disk was changed");
    kept.write(400, &[7; SECTOR], Persist::Fua).unwrap();
    let mut again = SimDisk::new(500, Backing::File(open()));
    assert_eq!(read(&mut again, 400, 1).unwrap(), [7; SECTOR]);
    std::fs::remove_file(path).unwrap();
}

/// One step of the comparison with the naive model below.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8, Persist),
    Read(u64, u64),
    Discard(u64, u64),
    Flush,
    Unreadable(u64, u64),
    Unwritable(u64, u64),
    PowerCut(u64),
}

const SIZE: u64 = 48;

fn step() -> impl Strategy<Value = Step> {
    let at = 0..SIZE;
    let count = 1..9u64;
    let persist = prop_oneof![Just(Persist::Cached), Just(Persist::Fua)];
    prop_oneof![
        6 => (at.clone(), count.clone(), 1..255u8, persist).prop_map(|(s, n, v, p)| Step::Write(s, n, v, p)),
        4 => (at.clone(), count.clone()).prop_map(|(s, n)| Step::Read(s, n)),
        1 => (at.clone(), count.clone()).prop_map(|(s, n)| Step::Discard(s, n)),
        2 => Just(Step::Flush),
        1 => (at.clone(), count.clone()).prop_map(|(s, n)| Step::Unreadable(s, n)),
        1 => (at, count).prop_map(|(s, n)| Step::Unwritable(s, n)),
        1 => any::<u64>().prop_map(Step::PowerCut),
    ]
}

/// What one sector may be. The last of `contents` is what it reads as; the others may come back in a power cut.
/// `None` is unreadable content.
#[derive(Clone, Debug)]
struct Sector {
    contents: Vec<Option<u8>>,
    unwritable: bool,
}

impl Sector {
    fn now(&self) -> Option<u8> {
        *self.contents.last().unwrap()
    }

    fn write(&mut self, value: u8, persist: Persist) {
        if persist == Persist::Fua {
            self.contents.clear();
        }
        self.contents.push(Some(value));
    }
}

proptest! {
    #[test]
    fn a_disk_does_what_a_naive_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let mut disk = SimDisk::new(SIZE, Backing::Memory).with_volatile_cache();
        let mut model = vec![Sector { contents: vec![Some(0)], unwritable: false }; SIZE as usize];
        for step in steps {
            match step {
                Step::Write(at, n, value, persist) => {
                    let end = (at + n).min(SIZE);
                    let result = disk.write(at, &vec![value; (end - at) as usize * SECTOR], persist);
                    let bad = (at..end).find(|&s| model[s as usize].unwritable);
                    prop_assert_eq!(result.err().map(|e| e.sector), bad);
                    for s in at..bad.unwrap_or(end) {
                        model[s as usize].write(value, persist);
                    }
                }
                Step::Read(at, n) => {
                    let end = (at + n).min(SIZE);
                    let mut buf = vec![0; (end - at) as usize * SECTOR];
                    let bad = disk.read(at, &mut buf).err().map(|e| e.sector);
                    prop_assert_eq!(bad, (at..end).find(|&s| model[s as usize].now().is_none()));
                    for (s, data) in (at..bad.unwrap_or(end)).zip(buf.chunks(SECTOR)) {
                        prop_assert_eq!(data, [model[s as usize].now().unwrap(); SECTOR]);
                    }
                }
                Step::Discard(at, n) => {
                    let end = (at + n).min(SIZE);
                    disk.discard(at, end - at).unwrap();
                    for sector in &mut model[at as usize..end as usize] {
                        if !sector.unwritable {
                            sector.write(0, Persist::Cached);
                        }
                    }
                }
                Step::Flush => {
                    disk.flush().unwrap();
                    for sector in &mut model {
                        sector.contents = vec![sector.now()];
                    }
                }
                // New faults meet an empty cache here; the tests above cover those that do not.
                Step::Unreadable(at, n) => {
                    disk.flush().unwrap();
                    let end = (at + n).min(SIZE);
                    disk.inject(Fault::unreadable(at..end));
                    for (s, sector) in model.iter_mut().enumerate() {
                        let hit = (at..end).contains(&(s as u64));
                        sector.contents = vec![sector.now().filter(|_| !hit)];
                    }
                }
                Step::Unwritable(at, n) => {
                    disk.flush().unwrap();
                    let end = (at + n).min(SIZE);
                    disk.inject(Fault::unwritable(at..end));
                    for (s, sector) in model.iter_mut().enumerate() {
                        sector.contents = vec![sector.now()];
                        sector.unwritable |= (at..end).contains(&(s as u64));
                    }
                }
                Step::PowerCut(seed) => {
                    disk.power_cut(seed);
                    for (s, sector) in model.iter_mut().enumerate() {
                        let left = read(&mut disk, s as u64, 1).ok().map(|data| data[0]);
                        prop_assert!(sector.contents.contains(&left), "sector {} became {:?}", s, left);
                        sector.contents = vec![left];
                    }
                }
            }
        }
    }
}

#[test]
fn a_power_cut_tears_no_logical_block() {
    for seed in 0..64 {
        let mut disk = SimDisk::new(64, Backing::Memory).with_block_size(4096).with_volatile_cache();
        disk.write(0, &[2; 32 * SECTOR], Persist::Cached).unwrap();
        disk.power_cut(seed);
        let after = read(&mut disk, 0, 32).unwrap();
        assert!(after.chunks(4096).all(|block| block.iter().all(|&byte| byte == block[0])), "seed {seed}");
    }
}
