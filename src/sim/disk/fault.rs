//! What can be wrong with sectors of a simulated disk.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::DiskError;

/// The two directions of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// The medium is read.
    Read,
    /// The medium is written.
    Write,
}

/// How a disk reports a failed access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The sector is bad, and the disk says so.
    Medium,
    /// An error without a reason.
    Io,
    /// The way to the disk failed.
    Transport,
    /// No answer in time.
    Timeout,
    /// The disk is not there.
    Gone,
    /// The access goes beyond the end.
    OutOfRange,
    /// The access does not consist of whole logical blocks.
    Misaligned,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Medium => "medium error",
            Self::Io => "I/O error",
            Self::Transport => "transport error",
            Self::Timeout => "time-out",
            Self::Gone => "no disk",
            Self::OutOfRange => "access beyond the end",
            Self::Misaligned => "access not of whole blocks",
        })
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Reads fail.
    Unreadable {
        /// A write makes the sector readable again.
        heals: bool,
    },
    /// Writes fail, for ever.
    Unwritable {
        /// Reads give the old content; otherwise they fail too.
        readable: bool,
    },
    /// Every access takes longer.
    Slow {
        /// By so much.
        delay: Duration,
    },
}

/// A fault of a range of sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The sectors that have it.
    pub sectors: Range<u64>,
    /// What is wrong with them.
    pub kind: FaultKind,
    /// How failures are reported.
    pub reported: ErrorKind,
}

impl Fault {
    /// Reads fail until the sector is written.
    #[must_use]
    pub fn unreadable(sectors: Range<u64>) -> Self {
        Self::new(sectors, FaultKind::Unreadable { heals: true })
    }

    /// Reads fail for ever; writes claim to succeed.
    #[must_use]
    pub fn unreadable_for_ever(sectors: Range<u64>) -> Self {
        Self::new(sectors, FaultKind::Unreadable { heals: false })
    }

    /// Writes fail; reads give the old content.
    #[must_use]
    pub fn unwritable(sectors: Range<u64>) -> Self {
        Self::new(sectors, FaultKind::Unwritable { readable: true })
    }

    /// Reads and writes fail.
    #[must_use]
    pub fn dead(sectors: Range<u64>) -> Self {
        Self::new(sectors, FaultKind::Unwritable { readable: false })
    }

    /// Accesses work, but take `delay` longer.
    #[must_use]
    pub fn slow(sectors: Range<u64>, delay: Duration) -> Self {
        Self::new(sectors, FaultKind::Slow { delay })
    }

    /// The same fault, reported otherwise than as a medium error.
    #[must_use]
    pub fn reported_as(self, reported: ErrorKind) -> Self {
        Self { reported, ..self }
    }

    fn new(sectors: Range<u64>, kind: FaultKind) -> Self {
        Self { sectors, kind, reported: ErrorKind::Medium }
    }

    pub(super) fn fails(&self, op: Op) -> bool {
        match self.kind {
            FaultKind::Unreadable { .. } => op == Op::Read,
            FaultKind::Unwritable { readable } => op == Op::Write || !readable,
            FaultKind::Slow { .. } => false,
        }
    }

    pub(super) fn heals(&self) -> bool {
        self.kind == FaultKind::Unreadable { heals: true }
    }
}

/// All faults of a disk.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        if !fault.sectors.is_empty() {
            self.0.push(fault);
        }
    }

    pub(super) fn all(&self) -> &[Fault] {
        &self.0
    }

    /// The first failure that `op` meets in `range`.
    pub(super) fn first(&self, op: Op, range: &Range<u64>) -> Option<DiskError> {
        self.first_where(range, |_, fault| fault.fails(op))
    }

    /// The first sector of `range` with a fault for which `fails` holds.
    pub(super) fn first_where(&self, range: &Range<u64>, fails: impl Fn(u64, &Fault) -> bool) -> Option<DiskError> {
        let in_fault = |fault: &Fault| {
            overlap(&fault.sectors, range)
                .find(|&sector| fails(sector, fault))
                .map(|sector| DiskError { kind: fault.reported, sector })
        };
        self.0.iter().filter_map(in_fault).min_by_key(|error| error.sector)
    }

    pub(super) fn delay(&self, range: &Range<u64>) -> Duration {
        let slow = |fault: &Fault| match fault.kind {
            FaultKind::Slow { delay } if !overlap(&fault.sectors, range).is_empty() => Some(delay),
            _ => None,
        };
        self.0.iter().filter_map(slow).max().unwrap_or_default()
    }

    /// The medium of `range` was written.
    pub(super) fn heal(&mut self, range: &Range<u64>) {
        self.cut(range, Fault::heals);
    }

    pub(super) fn remove(&mut self, range: &Range<u64>) {
        self.cut(range, |_| true);
    }

    /// Takes `range` out of the faults that `affected` names; what is left of them on either side stays.
    fn cut(&mut self, range: &Range<u64>, affected: impl Fn(&Fault) -> bool) {
        let touched = |fault: &Fault| affected(fault) && !overlap(&fault.sectors, range).is_empty();
        if !self.0.iter().any(touched) {
            return;
        }
        for fault in std::mem::take(&mut self.0) {
            if touched(&fault) {
                let before = fault.sectors.start..range.start;
                let after = range.end..fault.sectors.end;
                self.add(Fault { sectors: before, ..fault.clone() });
                self.add(Fault { sectors: after, ..fault });
            } else {
                self.0.push(fault);
            }
        }
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}
