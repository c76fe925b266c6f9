//! Tests of what a start does with a kernel and with tables that do not agree, or of which a slot does not read.

use super::*;
use crate::actuate::Care;
use crate::actuate::probe::{Prober, Verified};
use crate::actuate::spare_table::tests::{description, new_spare, remap};
use crate::actuate::steps::Actuator;
use crate::actuate::test_disk::{TestDisk, Trouble};
use crate::edge::{ErrorPage, FenceState, TargetStatus};
use crate::engine::{Outcome, Step, Tended};
use crate::format::table;
use crate::model::Secret;
use std::sync::{Arc, Mutex};

/// First sectors of the two slots of the first table block.
const SLOTS: [u64; 2] = [8, 8 + 5 * 8];

#[derive(Default)]
struct Kernel {
    open: bool,
    remaps: Vec<Remap>,
    fences: Vec<Fence>,
}

#[derive(Clone, Default)]
struct FakeTarget(Arc<Mutex<Kernel>>);

impl FakeTarget {
    fn open(remaps: &[Remap]) -> FakeTarget {
        FakeTarget(Arc::new(Mutex::new(Kernel { open: true, remaps: remaps.to_vec(), fences: Vec::new() })))
    }

    fn with_fence(self, extent: Extent, state: FenceState) -> FakeTarget {
        let id = self.fence(extent, FENCE_MS).unwrap();
        self.0.lock().unwrap().fences.iter_mut().filter(|fence| fence.id == id).for_each(|fence| fence.state = state);
        self
    }

    /// Ranges that are sealed.
    fn sealed(&self) -> Vec<Extent> {
        let kernel = self.0.lock().unwrap();
        assert!(kernel.fences.iter().all(|fence| fence.state.is_sealed()), "a fence is left");
        kernel.fences.iter().map(|fence| fence.extent).collect()
    }

    fn is_open(&self) -> bool {
        self.0.lock().unwrap().open
    }
}

impl Target for FakeTarget {
    fn status(&self) -> Result<TargetStatus, TargetFault> {
        let kernel = self.0.lock().unwrap();
        let state = if kernel.open { "ACTIVE" } else { "CLOSED" }.into();
        Ok(TargetStatus { remaps: 0, errors: 0, state, instance: "1".into(), next_seq: 1, held: 0 })
    }
    fn errors(&self, _since: u64) -> Result<ErrorPage, TargetFault> {
        Ok(ErrorPage::default())
    }
    fn dump(&self) -> Result<Vec<Remap>, TargetFault> {
        Ok(self.0.lock().unwrap().remaps.clone())
    }
    fn fences(&self) -> Result<Vec<Fence>, TargetFault> {
        Ok(self.0.lock().unwrap().fences.clone())
    }
    fn lease(&self, _ms: u64, _reads: bool) -> Result<(), TargetFault> {
        Ok(())
    }
    fn secret(&self, _secret: &Secret) -> Result<(), TargetFault> {
        Ok(())
    }
    fn fence(&self, extent: Extent, _ms: u64) -> Result<FenceId, TargetFault> {
        let mut kernel = self.0.lock().unwrap();
        if kernel.fences.iter().any(|fence| fence.extent.overlaps(&extent)) {
            return Err(TargetFault::Busy("EBUSY".into()));
        }
        let id = 1 + kernel.fences.iter().map(|fence| fence.id).max().unwrap_or(0);
        kernel.fences.push(Fence { id, extent, state: FenceState::Drained });
        Ok(id)
    }
    fn seal(&self, fence: FenceId) -> Result<(), TargetFault> {
        let mut kernel = self.0.lock().unwrap();
        kernel.fences.iter_mut().filter(|known| known.id == fence).for_each(|known| known.state = FenceState::Sealed);
        Ok(())
    }
    fn unfence(&self, fence: FenceId) -> Result<(), TargetFault> {
        self.0.lock().unwrap().fences.retain(|known| known.id != fence);
        Ok(())
    }
    fn add_remap(&self, remap: &Remap, fence: Option<FenceId>) -> Result<(), TargetFault> {
        self.0.lock().unwrap().remaps.push(*remap);
        fence.map_or(Ok(()), |fence| self.unfence(fence))
    }
    fn remove_remap(&self, main: Sector, fence: FenceId) -> Result<(), TargetFault> {
        self.0.lock().unwrap().remaps.retain(|remap| remap.main.start() != main);
        self.unfence(fence)
    }
    fn load(&self, remaps: &[Remap]) -> Result<(), TargetFault> {
        self.0.lock().unwrap().remaps.extend(remaps);
        Ok(())
    }
    fn ready(&self, _remaps: &[Remap]) -> Result<(), TargetFault> {
        self.0.lock().unwrap().open = true;
        Ok(())
    }
    fn retry(&self, _extent: Extent) -> Result<u64, TargetFault> {
        Ok(0)
    }
    fn release_reads(&self, _extent: Extent) -> Result<u64, TargetFault> {
        Ok(0)
    }
    fn flush_begin(&self, _n: u8) -> Result<(), TargetFault> {
        Ok(())
    }
    fn flush_end(&self, _n: u8, _failed: bool) -> Result<(), TargetFault> {
        Ok(())
    }
    fn release(&self, _extent: Extent) -> Result<u64, TargetFault> {
        Ok(0)
    }
}

fn opened(disk: impl BlockIo + 'static) -> (Vec<OpenSpare>, Vec<Remap>) {
    open_tables(&description(), vec![("spare0".into(), Box::new(disk))]).unwrap()
}

/// Settles and loads as a start does.
fn start(target: &FakeTarget, spares: &mut [OpenSpare], remaps: &[Remap]) -> Result<(Loaded, Care), String> {
    let mut care = Care::begin(spares);
    let unsettled = unsettled(spares);
    let loaded = load(target, &description(), Truth { remaps, unsettled: &unsettled, older: &[] })?;
    care.keep_sealed(loaded.sealed.clone());
    Ok((loaded, care))
}

/// A spare with one remap, and another one whose commit failed and has arrived nevertheless, in a slot that does not read now.
fn unread(kept: Remap, unknown: Remap) -> TestDisk {
    let (disk, mut table) = new_spare();
    table.commit(&disk, kept).unwrap();
    table.mirror(&disk).unwrap();
    disk.plan(0, Trouble::Error(u64::MAX));
    table.commit(&disk, unknown).unwrap_err();
    disk.spoil(SLOTS[0]);
    disk
}

#[test]
fn a_slot_that_reads_again_later_brings_nothing_back() {
    let (kept, unknown) = (remap(9, 0, 1), remap(3, 1, 2));
    let (mut spares, remaps) = opened(unread(kept, unknown));
    assert_eq!(remaps, [kept]);
    let target = FakeTarget::open(&remaps).with_fence(unknown.main, FenceState::Sealed);
    start(&target, &mut spares, &remaps).unwrap();
    assert_eq!(target.sealed(), [], "the table is certain");
    // The slot turns out to hold what it held before.
    let place = table::Place { set: description().id, spare: 0, index: 0 };
    for seq in [2, 1_000_000] {
        let old = table::encode(place, seq, &[kept, unknown]).unwrap();
        spares[0].io.write_durable(Sector(SLOTS[0]), &old).unwrap();
        let again = SpareTable::open(spares[0].io.as_ref(), &description(), 0).unwrap();
        assert_eq!(again.remaps().copied().collect::<Vec<_>>(), [kept], "main served it meanwhile");
    }
}

#[test]
fn what_cannot_be_settled_stays_sealed_or_closed() {
    let (kept, unknown) = (remap(9, 0, 1), remap(3, 1, 2));
    let failing = || {
        let disk = unread(kept, unknown);
        // The flush at the start, then both tries at the slot.
        [1, 2].iter().for_each(|nth| disk.plan(*nth, Trouble::Error(0)));
        opened(disk)
    };
    let (mut spares, remaps) = failing();
    let closed = FakeTarget::default();
    let refused = start(&closed, &mut spares, &remaps).unwrap_err();
    assert!(refused.contains("table block 0 of spare 0") && !closed.is_open(), "{refused}");

    let (mut spares, remaps) = failing();
    let target = FakeTarget::open(&remaps).with_fence(unknown.main, FenceState::Sealed);
    let drained = remap(20, 5, 1).main;
    let target = target.with_fence(drained, FenceState::Drained);
    let (loaded, mut care) = start(&target, &mut spares, &remaps).unwrap();
    assert_eq!(target.sealed(), [unknown.main], "without a seal nothing was recorded");
    assert!(loaded.mended.iter().any(|line| line.contains("stay so")), "{:?}", loaded.mended);
    // What the slot holds may be anywhere on the spare.
    let own = Arc::new(TestDisk::new(description().spares[0].sectors.0));
    let place = unknown.spare_extent();
    own.write(place.start(), &[7; 4096]).unwrap();
    let (disks, tables) = (vec![Box::new(own.clone()) as _], care.whole_tables());
    let mut prober = Prober::new(&description(), Box::new(target.clone()), Box::new(TestDisk::new(1 << 10)), disks, tables);
    assert_eq!(prober.verify(0, vec![place]), Verified { untried: place.len(), ..Verified::default() });
    let mut there = [0; 4096];
    own.read(place.start(), &mut there).unwrap();
    assert_eq!(there, [7; 4096]);
    // The slot takes writes again.
    let (tended, news) = care.tend(&target, &mut spares, 0);
    assert_eq!(prober.verify(0, Vec::new()), Verified { good: vec![place], ..Verified::default() });
    assert_eq!((target.sealed(), tended), (vec![], Tended::Mended));
    assert!(news.len() == 3 && news[0].contains("only one good copy") && news[2].contains("lifted"), "{news:?}");
    assert_eq!(care.tend(&target, &mut spares, 0), (Tended::Well, vec![]));
}

#[test]
fn a_second_copy_that_failed_is_made_up_for_after_the_next_cure_unless_the_spare_was_slow() {
    for slow in [false, true] {
        let (disk, mut table) = new_spare();
        table.commit(&disk, remap(9, 0, 1)).unwrap();
        disk.plan(0, Trouble::Error(0));
        table.mirror_changed(&disk).unwrap_err();
        let mut spare = OpenSpare { io: Box::new(disk), table };
        let mut care = Care::default();
        if slow {
            care.late(0);
        }
        care.try_again(0, &mut spare);
        assert_eq!(spare.table.single(), usize::from(slow));
        care.tend(&FakeTarget::open(&[]), std::slice::from_mut(&mut spare), 0);
        assert_eq!(spare.table.single(), 0);
    }
}

/// A cure may come at any time, and waits for a tend to end: on a dying disk for one write that is given up.
#[test]
fn one_block_is_tried_at_a_time_and_they_take_turns() {
    let (disk, _) = new_spare();
    let disk = Arc::new(disk);
    let unread: Vec<u64> = (0..3).map(|block| SLOTS[1] + 8 * block).collect();
    unread.iter().for_each(|sector| disk.spoil(*sector));
    let (mut spares, _) = opened(disk.clone());
    // None takes its first write, nor one more.
    (0..6).for_each(|nth| disk.plan(nth, Trouble::Error(0)));
    let mut care = Care::begin(&mut spares);
    let target = FakeTarget::open(&[]);
    let mut tend = || {
        let before = disk.changes();
        let (tended, news) = care.tend(&target, &mut spares, 0);
        (tended, disk.changes() - before, news.len())
    };
    disk.plan(0, Trouble::Error(0));
    assert_eq!(tend(), (Tended::Failed { sealed: false }, 1, 1));
    // The next one, then the third, and only then the first again.
    assert_eq!(tend(), (Tended::Mended, 2, 0));
    assert_eq!(tend(), (Tended::Mended, 2, 0));
    assert_eq!(tend(), (Tended::Mended, 2, 1));
    assert_eq!(tend(), (Tended::Well, 0, 0));
}

#[test]
fn a_record_that_nobody_kept_sealed_is_not_mapped_over_what_main_has() {
    let (mapped, sealed, open) = (remap(9, 0, 1), remap(3, 1, 2), remap(30, 2, 3));
    let (disk, mut table) = new_spare();
    [mapped, sealed, open].iter().for_each(|remap| table.commit(&disk, *remap).unwrap());
    let (mut spares, remaps) = opened(disk);
    let target = FakeTarget::open(&[mapped]).with_fence(sealed.main, FenceState::Sealed);
    let wider = Extent::new(open.main.start(), Sectors(9)).unwrap();
    // The next run must not take the seal for that of a commit.
    for _run in 0..2 {
        let (loaded, _) = start(&target, &mut spares, &remaps).unwrap();
        assert_eq!(target.dump().unwrap(), [mapped, sealed]);
        assert_eq!(target.sealed(), [wider]);
        assert!(loaded.mended.iter().any(|line| line.contains("each side may have")), "{:?}", loaded.mended);
    }
    // When the set is opened from its disks, the spare is what there is.
    let fresh = FakeTarget::default();
    start(&fresh, &mut spares, &remaps).unwrap();
    assert!(fresh.is_open() && fresh.dump().unwrap().len() == 3);
}

#[test]
fn what_an_older_spare_lacks_stays_closed_off_from_run_to_run() {
    let (disk, _) = new_spare();
    let (spares, remaps) = opened(disk);
    let (older, wider) = (remap(9, 0, 1).main, Extent::new(remap(9, 0, 1).main.start(), Sectors(9)).unwrap());
    let target = FakeTarget::open(&[]);
    let main = description().main.sectors.0;
    // While it is served, as the store came late.
    assert_eq!(close_off(&target, &[older], 1, main), Ok(vec![wider]));
    assert_eq!(close_off(&target, &[older], 1, main), Ok(vec![]));
    for _run in 0..2 {
        let truth = Truth { remaps: &remaps, unsettled: &unsettled(&spares), older: &[older] };
        let loaded = load(&target, &description(), truth).unwrap();
        assert_eq!(target.sealed(), [wider]);
        assert!(
            loaded.mended.iter().any(|line| line.contains("older") && line.contains("dmsetup remove")),
            "{:?}",
            loaded.mended
        );
    }
    // A cure has its fence there: it is tried again later.
    let target = FakeTarget::open(&[]).with_fence(older, FenceState::Drained);
    assert!(close_off(&target, &[older], 1, main).is_err());
}

#[test]
fn ranges_are_joined_until_there_are_few() {
    let range = |start, len| Extent::new(Sector(start), Sectors(len)).unwrap();
    let ranges = vec![range(100, 8), range(0, 8), range(4, 8), range(12, 4), range(200, 8), range(20, 2)];
    assert_eq!(few(ranges.clone(), 9), [range(0, 16), range(20, 2), range(100, 8), range(200, 8)]);
    assert_eq!(few(ranges.clone(), 3), [range(0, 22), range(100, 8), range(200, 8)]);
    assert_eq!(few(ranges, 1), [range(0, 208)]);
    assert_eq!(few(Vec::new(), 1), []);
}

/// A start may read either of the two, and the store may have forgotten what went back.
#[test]
fn both_copies_of_the_table_forget_what_goes_back() {
    let (disk, mut table) = new_spare();
    let (disk, gone) = (Arc::new(disk), remap(9, 0, 1));
    table.commit(disk.as_ref(), gone).unwrap();
    let mut spares = opened(disk.clone()).0;
    let care = Care::begin(&mut spares);
    let target = FakeTarget::open(&[gone]);
    let main = Box::new(TestDisk::new(1 << 10));
    let mut actuator = Actuator::new(&description(), Box::new(target.clone()), main, spares, care);
    let named = |slot: usize| {
        let mut bytes = [0; 4096];
        disk.read(Sector(SLOTS[slot]), &mut bytes).unwrap();
        !table::decode(&bytes).unwrap().records.is_empty()
    };
    let fence = target.fence(gone.main, FENCE_MS).unwrap();
    target.seal(fence).unwrap();
    // Where one of them takes no write, nothing is removed.
    for nth in [0, 1] {
        disk.plan(nth, Trouble::Error(0));
        assert!(matches!(actuator.run(&Step::Unrecord(gone)), Outcome::NotCommitted(why) if why.contains("one good copy")));
        assert!(named(0) && named(1));
    }
    assert_eq!(actuator.run(&Step::Unrecord(gone)), Outcome::Committed(gone));
    assert!(!named(0) && !named(1) && target.dump().unwrap() == [gone] && target.sealed() == [gone.main]);
    assert_eq!(actuator.run(&Step::RemoveRemap { remap: gone, fence }), Outcome::Unmapped { free: true });
    assert!(target.dump().unwrap().is_empty());
    // One that goes bad between the two writes keeps the place, which it may name later.
    actuator.run(&Step::Commit(remap(3, 1, 0)));
    let other = Remap { seq: 0, ..remap(3, 1, 0) };
    disk.plan(3, Trouble::Error(0));
    assert!(matches!(actuator.run(&Step::Unrecord(other)), Outcome::Committed(_)));
    let fence = target.fence(other.main, FENCE_MS).unwrap();
    disk.plan(0, Trouble::Error(0));
    assert_eq!(actuator.run(&Step::RemoveRemap { remap: other, fence }), Outcome::Unmapped { free: false });
}
