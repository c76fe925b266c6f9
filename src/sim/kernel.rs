//! A model of the kernel target: what `kmod` does with I/O and messages, without concurrency. Time only moves between calls.

mod control;
mod io;

use super::disk::ErrorKind;
use super::drive::Drive;
use crate::edge::{FenceId, FenceState};
use crate::model::{ErrorClass, Extent, Member, Op, Remap, Secret, Sector, TargetError, TargetErrorKind};
use std::collections::{BTreeMap, VecDeque};

/// What a device is made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Logical and physical block of main, in sectors.
    pub logical: u64,
    pub physical: u64,
    pub main: u64,
    pub closed_ms: u64,
    pub hold_ms: u64,
    /// Error records kept.
    pub ring: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed { until: u64 },
    Expired,
    Active,
}

/// An application's request.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Read { start: u64, len: u64 },
    Write { start: u64, data: Vec<u8>, fua: bool },
    Flush,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// A disk said so.
    Disk { drive: usize, sector: u64, kind: ErrorKind },
    /// A main sector reads as lost.
    Lost(u64),
    /// A flush of the owner's failed.
    OwnFlush,
    /// A seal without outcome is past its bound.
    Sealed(u64),
    /// The closed start is past its bound, or the device went away.
    Closed,
}

/// The end of a request.
#[derive(Debug)]
pub(super) struct Completion {
    pub id: u64,
    /// What was read.
    pub result: Result<Vec<u8>, Why>,
    /// Ranges of main whose data was forced to the medium before this, and which member's.
    pub forced: Vec<(u64, u64, u8)>,
}

#[derive(Debug)]
struct Io {
    request: Request,
    /// What was not tried yet.
    rest: (u64, u64),
    narrow: bool,
    deadline: u64,
    first: Option<Why>,
    pieces: usize,
    error: Option<Why>,
    forced: Vec<(u64, u64, u8)>,
    read: Vec<u8>,
}

/// A part of what failed that waits.
#[derive(Clone, Debug)]
struct Piece {
    io: u64,
    at: u64,
    len: u64,
    member: u8,
    sector: u64,
    why: Why,
}

#[derive(Clone, Debug)]
struct FenceModel {
    id: FenceId,
    extent: Extent,
    state: FenceState,
    ms: u64,
    until: u64,
}

/// A flush that waits for those of the owner's.
#[derive(Debug)]
struct AfterOwn {
    io: u64,
    /// What it has flushed: 0 for main, `n` for spare `n - 1`.
    members: Vec<usize>,
    until: u64,
}

/// The device.
#[derive(Debug)]
pub(super) struct Kernel {
    shape: Shape,
    pub instance: u64,
    token: u64,
    state: State,
    secret: Option<Secret>,
    /// By first main sector.
    pub table: BTreeMap<u64, Remap>,
    fences: Vec<FenceModel>,
    last_fence: FenceId,
    lease_until: u64,
    pub hold_reads: bool,
    ring: VecDeque<(u64, TargetError)>,
    next_seq: u64,
    held: Vec<Piece>,
    waiting: Vec<u64>,
    ios: BTreeMap<u64, Io>,
    next_io: u64,
    /// Whether a spare was written since its last flush.
    dirty: Vec<bool>,
    /// Flushes of the owner's that are under way, a bit for each.
    own_flushes: u64,
    /// One of them failed, and nobody was told yet.
    flush_owed: bool,
    /// Flushes that succeeded meanwhile, the first one first.
    after_own: Vec<AfterOwn>,
    pub now: u64,
    pub done: Vec<Completion>,
}

impl Kernel {
    /// A closed device without remaps.
    pub fn create(shape: Shape, instance: u64, spares: usize, now: u64) -> Kernel {
        Kernel {
            shape,
            instance,
            token: 0,
            state: State::Closed { until: now + shape.closed_ms },
            secret: None,
            table: BTreeMap::new(),
            fences: Vec::new(),
            last_fence: 0,
            lease_until: 0,
            hold_reads: false,
            ring: VecDeque::new(),
            next_seq: 1,
            held: Vec::new(),
            waiting: Vec::new(),
            ios: BTreeMap::new(),
            next_io: 1,
            dirty: vec![false; spares],
            own_flushes: 0,
            flush_owed: false,
            after_own: Vec::new(),
            now,
            done: Vec::new(),
        }
    }

    /// Moves the clock and acts on every bound that has passed.
    pub fn pass_time(&mut self, drives: &mut [Drive], now: u64) {
        self.now = now;
        if matches!(self.state, State::Closed { until } if until <= now) {
            self.state = State::Expired;
            self.kick(drives);
        }
        let over: Vec<FenceModel> =
            self.fences.iter().filter(|fence| fence.until <= now && fence.state != FenceState::Failed).cloned().collect();
        for fence in over {
            if fence.state == FenceState::Sealed {
                self.fences.iter_mut().filter(|other| other.id == fence.id).for_each(|other| other.state = FenceState::Failed);
                self.redrive(drives, fence.extent);
                self.kick(drives);
            } else {
                self.end_fence(drives, fence.id);
            }
        }
        let lapsed = self.lease_until <= now;
        self.flush_bounds(lapsed);
        let over = |piece: &Piece, ios: &BTreeMap<u64, Io>| lapsed || ios.get(&piece.io).is_none_or(|io| io.deadline <= now);
        let (expired, held) = std::mem::take(&mut self.held).into_iter().partition(|piece| over(piece, &self.ios));
        self.held = held;
        for piece in expired {
            self.fail_piece(&piece, TargetErrorKind::Expired);
            self.finish(piece.io);
        }
    }

    /// The device is removed: what waits fails.
    pub fn remove(mut self) -> Vec<Completion> {
        let left: Vec<u64> = self.ios.keys().copied().collect();
        for id in left {
            self.give_up(id, Why::Closed);
            self.held.retain(|piece| piece.io != id);
            if let Some(io) = self.ios.get_mut(&id) {
                io.pieces = 0;
            }
            self.finish(id);
        }
        self.done
    }

    /// The number of the next request.
    pub fn next_id(&self) -> u64 {
        self.next_io
    }

    /// Requests that have not ended.
    pub fn pending(&self) -> usize {
        self.ios.len()
    }

    /// Whether a fence of any state covers part of a range.
    pub fn fence_states(&self) -> impl Iterator<Item = FenceState> + '_ {
        self.fences.iter().map(|fence| fence.state)
    }

    /// Whether a live remap covers `sector`.
    /// Whether no I/O reaches any of these sectors until an outcome.
    pub fn is_sealed(&self, extent: Extent) -> bool {
        self.fences.iter().any(|fence| fence.state.is_sealed() && fence.extent.covers(&extent))
    }

    /// Whether this fence lets no I/O through until an outcome.
    pub fn is_sealed_by(&self, id: FenceId) -> bool {
        self.fences.iter().any(|fence| fence.id == id && fence.state.is_sealed())
    }

    /// The writes under way that have forced this sector to a medium.
    pub fn forced(&self, sector: u64) -> impl Iterator<Item = u64> + '_ {
        let forced = move |io: &Io| io.forced.iter().any(|&(at, len, _)| (at..at + len).contains(&sector));
        self.ios.iter().filter(move |(_, io)| forced(io)).map(|(id, _)| *id)
    }

    fn find(&self, sector: u64) -> Option<&Remap> {
        let (_, remap) = self.table.range(..=sector).next_back()?;
        remap.main.contains(Sector(sector)).then_some(remap)
    }

    fn record(&mut self, kind: TargetErrorKind, op: Op, member: u8, main: Option<Extent>, at: u64, class: ErrorClass) {
        let member = if member == 0 { Member::Main } else { Member::Spare(u16::from(member) - 1) };
        let seq = self.next_seq;
        let member_sector = Sector(at);
        let error = TargetError { seq, kind, op, member, main, member_sector, class, age_ms: 0, read_ahead: false };
        self.ring.push_back((self.now, error));
        self.next_seq += 1;
        while self.ring.len() > self.shape.ring {
            self.ring.pop_front();
        }
    }
}

/// The block layer's word for a failure.
fn class(why: &Why) -> ErrorClass {
    match why {
        Why::Disk { kind: ErrorKind::Medium, .. } | Why::Lost(_) => ErrorClass::Medium,
        Why::Disk { kind: ErrorKind::Transport, .. } => ErrorClass::Transport,
        Why::Disk { kind: ErrorKind::Timeout, .. } => ErrorClass::Timeout,
        Why::Disk { kind: ErrorKind::Gone, .. } => ErrorClass::Offline,
        Why::Disk { .. } | Why::OwnFlush | Why::Sealed(_) | Why::Closed => ErrorClass::Ioerr,
    }
}
