//! Raw error records become faults: clipped, widened to whole cure blocks, and merged, so that one
//! physical event is one fault however often it was reported.

mod notes;

pub use notes::{Note, Notes};

use crate::model::{ErrorClass, Extent, Fault, Member, Millis, Op, Sectors, SetId, TargetError, TargetErrorKind};

/// The most cure blocks that one fault spans; a longer run of bad blocks becomes several.
pub const MAX_BLOCKS: u64 = 256;

/// What a page of error records says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Triage {
    /// Writes and reads that wait in the kernel, by block, neighbours of a kind merged.
    pub held: Vec<Fault>,
    /// Errors that went up to the application.
    pub failed: Vec<Failed>,
    /// Held writes that got their error after all (bound passed, lease lapsed).
    pub given_up: Vec<TargetError>,
}

/// Errors of one kind on neighbouring sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The first record.
    pub error: TargetError,
    /// How many records were merged into it.
    pub count: u64,
    /// The range on main that they span.
    pub extent: Option<Extent>,
}

/// Sorts records of one set. `block` is the cure unit, `main` the size of the main device.
pub fn triage(set: SetId, records: &[TargetError], block: Sectors, main: Sectors, now: Millis) -> Triage {
    let mut out = Triage::default();
    let mut held: Vec<&TargetError> = Vec::new();
    for record in records {
        match record.kind {
            TargetErrorKind::Held => held.push(record),
            TargetErrorKind::Healed => {}
            TargetErrorKind::Expired | TargetErrorKind::Released => out.given_up.push(record.clone()),
            TargetErrorKind::Failed if record.read_ahead => {}
            TargetErrorKind::Failed => merge_failed(&mut out.failed, record),
        }
    }
    held.sort_by_key(|record| (record.op == Op::Read, record.main.map(|extent| extent.start())));
    for record in held {
        let Some(extent) = record.main.and_then(|extent| whole_blocks(extent, block, main)) else { continue };
        let at = Millis(now.0.saturating_sub(record.age_ms));
        match out.held.last_mut() {
            Some(last) if joins(last, record, extent, block) => {
                last.extent = union(last.extent, extent);
                last.covered.extend(brought(record));
                last.class = last.class.min(record.class);
                last.at = last.at.min(at);
            }
            _ => out.held.push(Fault {
                set,
                member: record.member,
                op: record.op,
                extent,
                class: record.class,
                held: true,
                covered: brought(record).into_iter().collect(),
                late: false,
                at,
            }),
        }
    }
    out
}

/// What the I/O that waits will write: a read brings nothing.
fn brought(record: &TargetError) -> Option<Extent> {
    record.main.filter(|_| record.op == Op::Write)
}

/// The range widened to whole blocks, but not beyond the end of main.
pub fn whole_blocks(extent: Extent, block: Sectors, main: Sectors) -> Option<Extent> {
    let wide = extent.align_outward(block)?;
    let len = wide.end().0.min(main.0).checked_sub(wide.start().0)?;
    Extent::new(wide.start(), Sectors(len)).ok()
}

fn joins(last: &Fault, record: &TargetError, extent: Extent, block: Sectors) -> bool {
    let fits = union(last.extent, extent).len().0 <= MAX_BLOCKS * block.0;
    last.member == record.member && last.op == record.op && last.extent.end() >= extent.start() && fits
}

fn union(a: Extent, b: Extent) -> Extent {
    let start = a.start().min(b.start());
    let end = a.end().max(b.end());
    Extent::new(start, Sectors(end.0 - start.0)).expect("the union of two extents is one")
}

/// Failed I/O is one event up to so many sectors: more is looked at by parts.
const MAX_FAILED: u64 = MAX_BLOCKS * 8;

fn merge_failed(failed: &mut Vec<Failed>, record: &TargetError) {
    let same = |f: &&mut Failed| {
        let near = match (f.extent, record.main) {
            (Some(a), Some(b)) => a.end() >= b.start() && b.end() >= a.start() && union(a, b).len().0 <= MAX_FAILED,
            (None, None) => true,
            _ => false,
        };
        f.error.member == record.member && f.error.op == record.op && f.error.class == record.class && near
    };
    if let Some(found) = failed.iter_mut().find(same) {
        found.count += 1;
        if let (Some(a), Some(b)) = (found.extent, record.main) {
            found.extent = Some(union(a, b));
        }
    } else {
        failed.push(Failed { error: record.clone(), count: 1, extent: record.main });
    }
}

/// Whether a failed I/O is one that main's medium may explain and a later write may cure.
pub fn is_unreadable(failed: &Failed) -> bool {
    failed.error.op == Op::Read && failed.error.member == Member::Main && failed.error.class.may_be_medium()
}

/// How many of these records tell of a link, a power or a controller that fails: of anything but the medium, and but of a shortage
/// on our own side.
pub fn not_the_medium(records: &[TargetError]) -> u64 {
    use ErrorClass::{Again, Nospc, Resource};
    let of_a_disk = |record: &&TargetError| {
        matches!(record.kind, TargetErrorKind::Failed | TargetErrorKind::Held)
            && !record.class.may_be_medium()
            && ![Again, Nospc, Resource].contains(&record.class)
    };
    records.iter().filter(of_a_disk).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sector;

    fn record(kind: TargetErrorKind, op: Op, start: u64, len: u64) -> TargetError {
        TargetError {
            seq: 1,
            kind,
            op,
            member: Member::Main,
            main: Some(Extent::new(Sector(start), Sectors(len)).unwrap()),
            member_sector: Sector(start),
            class: ErrorClass::Medium,
            age_ms: 5,
            read_ahead: false,
        }
    }

    fn run(records: &[TargetError]) -> Triage {
        triage(SetId(uuid::Uuid::nil()), records, Sectors(8), Sectors(4100), Millis(100))
    }

    #[test]
    fn pieces_of_one_block_are_one_fault() {
        let held = TargetErrorKind::Held;
        let faults = run(&[record(held, Op::Write, 17, 1), record(held, Op::Write, 16, 1), record(held, Op::Write, 17, 1)]).held;
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].extent, Extent::new(Sector(16), Sectors(8)).unwrap());
        assert_eq!(faults[0].at, Millis(95));
    }

    #[test]
    fn neighbours_merge_strangers_do_not_and_runs_are_cut() {
        let held = TargetErrorKind::Held;
        let extents = |records: &[TargetError]| {
            run(records).held.iter().map(|f| (f.extent.start().0, f.extent.len().0)).collect::<Vec<_>>()
        };
        assert_eq!(
            extents(&[record(held, Op::Write, 8, 8), record(held, Op::Write, 16, 8), record(held, Op::Write, 40, 8)]),
            [(8, 16), (40, 8)]
        );
        let run: Vec<_> = (0..300).map(|i| record(held, Op::Write, i * 8, 8)).collect();
        assert_eq!(extents(&run), [(0, 2048), (2048, 352)]);
    }

    #[test]
    fn the_last_block_ends_with_main() {
        let faults = run(&[record(TargetErrorKind::Held, Op::Write, 4099, 1)]).held;
        assert_eq!(faults[0].extent, Extent::new(Sector(4096), Sectors(4)).unwrap());
    }

    #[test]
    fn read_ahead_counts_for_nothing_and_repeats_merge() {
        let mut ahead = record(TargetErrorKind::Failed, Op::Read, 8, 8);
        ahead.read_ahead = true;
        let read = record(TargetErrorKind::Failed, Op::Read, 8, 8);
        let failed = run(&[ahead, read.clone(), read]).failed;
        assert_eq!((failed.len(), failed[0].count), (1, 2));
        assert!(is_unreadable(&failed[0]));
    }
}
