//! Application I/O: routed, narrowed, held, re-driven, as `kmod/slow.c` and `kmod/route.c` do.

use super::{AfterOwn, Completion, Io, Kernel, Piece, Request, State, Why, class};
use crate::edge::FenceState;
use crate::format::lost_mark;
use crate::model::{Extent, Op, Sector, Sectors, TargetErrorKind};
use crate::sim::disk::{Persist, SECTOR};
use crate::sim::drive::Drive;

/// How long a flush waits for the owner's.
const OWN_FLUSH_MS: u64 = 30_000;

/// Where the start of a range goes, and how far that answer reaches.
enum Route {
    Go { member: u8, sector: u64, marked: bool, len: u64 },
    Wait(u64),
    Fail(Why),
}

/// What became of a part of a range.
enum Step {
    Done(u64),
    Wait(u64),
    /// It must not go on: no error of a member.
    Stop(Why),
    Failed {
        member: u8,
        sector: u64,
        len: u64,
        why: Why,
    },
}

impl Kernel {
    /// Takes a request; it may end at once or later, see `done`.
    pub fn submit(&mut self, drives: &mut [Drive], request: Request) -> u64 {
        let id = self.next_io;
        self.next_io += 1;
        let rest = match &request {
            Request::Read { start, len } => (*start, *len),
            Request::Write { start, data, .. } => (*start, (data.len() / SECTOR) as u64),
            Request::Flush => (0, 0),
        };
        let read = match &request {
            Request::Read { len, .. } => vec![0; *len as usize * SECTOR],
            _ => Vec::new(),
        };
        let io = Io {
            request,
            rest,
            narrow: false,
            deadline: u64::MAX,
            first: None,
            pieces: 0,
            error: None,
            forced: Vec::new(),
            read,
        };
        self.ios.insert(id, io);
        self.run(drives, id);
        id
    }

    /// Requests that wait look at the gate again.
    pub(super) fn kick(&mut self, drives: &mut [Drive]) {
        for id in std::mem::take(&mut self.waiting) {
            self.run(drives, id);
        }
    }

    fn run(&mut self, drives: &mut [Drive], id: u64) {
        if matches!(self.ios.get(&id), Some(Io { request: Request::Flush, .. })) {
            return self.flush(drives, id);
        }
        while let Some((at, len)) = self.ios.get(&id).map(|io| io.rest).filter(|(_, len)| *len > 0) {
            match self.step(drives, id, at, len) {
                Step::Done(len) => self.advance(id, len),
                Step::Stop(why) => self.give_up(id, why),
                Step::Wait(len) if self.ios[&id].narrow => {
                    let why = self.ios[&id].first.unwrap_or(Why::Closed);
                    self.hold_rest(id, Piece { io: id, at, len, member: 0, sector: at, why }, false);
                }
                Step::Wait(_) => return self.waiting.push(id),
                Step::Failed { member, sector, len, why } => {
                    self.rest_failed(id, Piece { io: id, at, len, member, sector, why });
                }
            }
        }
        self.finish(id);
    }

    fn flush(&mut self, drives: &mut [Drive], id: u64) {
        let why = match self.state {
            State::Closed { .. } => return self.waiting.push(id),
            State::Expired => Some(Why::Closed),
            State::Active => None,
        };
        let owed = why.is_none() && std::mem::take(&mut self.flush_owed);
        let why = why.or(owed.then_some(Why::OwnFlush));
        let mut first = why;
        let mut members = Vec::new();
        for drive in 0..if why.is_none() { drives.len() } else { 0 } {
            // What another flush waits with may be lost.
            let is_open = self.after_own.iter().any(|flush| flush.members.contains(&drive));
            if drive > 0 && !self.dirty[drive - 1] && !is_open {
                continue;
            }
            members.push(drive);
            match drives[drive].flush() {
                Ok(()) if drive > 0 => self.dirty[drive - 1] = false,
                Ok(()) => {}
                Err(error) => {
                    let why = Why::Disk { drive, sector: error.sector, kind: error.kind };
                    self.record(TargetErrorKind::Failed, Op::Flush, drive as u8, None, error.sector, class(&why));
                    first = first.or(Some(why));
                }
            }
        }
        if first.is_none() && members.iter().any(|member| self.own_flush_of(*member)) {
            return self.after_own.push(AfterOwn { io: id, members, until: self.now + OWN_FLUSH_MS });
        }
        if let Some(io) = self.ios.get_mut(&id) {
            io.error = first;
        }
        self.finish(id);
    }

    fn advance(&mut self, id: u64, len: u64) {
        if let Some(io) = self.ios.get_mut(&id) {
            io.rest = (io.rest.0 + len, io.rest.1 - len);
        }
    }

    /// Ends a request that has nothing left to do.
    pub(super) fn finish(&mut self, id: u64) {
        if self.ios.get(&id).is_some_and(|io| io.pieces == 0 && io.rest.1 == 0) {
            let io = self.ios.remove(&id).expect("it was just there");
            let result = io.error.map_or(Ok(io.read), Err);
            self.done.push(Completion { id, result, forced: io.forced });
        }
    }

    /// Nothing can save this request any more.
    pub(super) fn give_up(&mut self, id: u64, why: Why) {
        if let Some(io) = self.ios.get_mut(&id) {
            io.error = io.error.or(Some(why));
            io.rest.1 = 0;
        }
        let (drop, keep) = std::mem::take(&mut self.held).into_iter().partition(|piece: &Piece| piece.io == id);
        self.held = keep;
        for piece in drop {
            self.fail_piece(&piece, TargetErrorKind::Released);
        }
    }

    pub(super) fn fail_piece(&mut self, piece: &Piece, kind: TargetErrorKind) {
        let main = Extent::new(Sector(piece.at), Sectors(piece.len)).ok();
        self.record(kind, self.op(piece.io), piece.member, main, piece.sector, class(&piece.why));
        if let Some(io) = self.ios.get_mut(&piece.io) {
            io.error = io.error.or(Some(piece.why));
            io.pieces = io.pieces.saturating_sub(1);
        }
        if self.op(piece.io) == Op::Read {
            self.give_up(piece.io, piece.why);
        }
    }

    /// A part that was tried for the first time failed.
    fn rest_failed(&mut self, id: u64, piece: Piece) {
        let op = self.op(id);
        if let Why::Lost(_) = piece.why {
            self.give_up(id, piece.why);
        } else if !self.may_hold(id, piece.member, &piece.why) {
            let main = Extent::new(Sector(piece.at), Sectors(piece.len)).ok();
            self.record(TargetErrorKind::Failed, op, piece.member, main, piece.sector, class(&piece.why));
            self.give_up(id, piece.why);
        } else if !self.ios[&id].narrow {
            let deadline = self.now + self.shape.hold_ms;
            let io = self.ios.get_mut(&id).expect("it is under way");
            (io.narrow, io.first, io.deadline) = (true, Some(piece.why), deadline);
        } else {
            self.hold_rest(id, piece, true);
        }
    }

    pub(super) fn op(&self, id: u64) -> Op {
        if matches!(self.ios.get(&id), Some(Io { request: Request::Read { .. }, .. })) { Op::Read } else { Op::Write }
    }

    /// Holds the first part of what was not tried yet; `failed`: it was tried, and is not only fenced.
    fn hold_rest(&mut self, id: u64, piece: Piece, failed: bool) {
        let main = Extent::new(Sector(piece.at), Sectors(piece.len)).ok();
        let (member, sector, len, why) = (piece.member, piece.sector, piece.len, piece.why);
        if self.now >= self.ios[&id].deadline || self.now >= self.lease_until {
            self.record(TargetErrorKind::Failed, self.op(id), member, main, sector, class(&why));
            return self.give_up(id, why);
        }
        self.held.push(piece);
        if let Some(io) = self.ios.get_mut(&id) {
            io.pieces += 1;
        }
        if failed {
            self.record(TargetErrorKind::Held, self.op(id), member, main, sector, class(&why));
        }
        self.advance(id, len);
    }

    fn may_hold(&self, id: u64, member: u8, why: &Why) -> bool {
        let io = &self.ios[&id];
        let kind = match io.request {
            Request::Write { .. } => true,
            Request::Read { .. } => self.hold_reads && member == 0,
            Request::Flush => false,
        };
        let lease = self.now < self.lease_until;
        let phase = if io.narrow { self.now < io.deadline } else { member == 0 };
        kind && lease && phase && class(why).may_be_medium() && matches!(why, Why::Disk { .. })
    }

    /// Takes held pieces that overlap a range; the caller decides about them.
    pub(super) fn take_held(&mut self, range: Extent) -> Vec<Piece> {
        let overlaps = |piece: &Piece| piece.at < range.end().0 && range.start().0 < piece.at + piece.len;
        let (taken, held) = std::mem::take(&mut self.held).into_iter().partition(overlaps);
        self.held = held;
        taken
    }

    /// Tries held pieces in a range again.
    pub(super) fn redrive(&mut self, drives: &mut [Drive], range: Extent) -> u64 {
        let pieces = self.take_held(range);
        let count = pieces.len() as u64;
        for piece in pieces {
            let id = piece.io;
            self.redrive_one(drives, piece);
            self.finish(id);
        }
        count
    }

    fn redrive_one(&mut self, drives: &mut [Drive], mut piece: Piece) {
        let (from, whole) = (piece.at, piece.len);
        while piece.len > 0 {
            let (len, tried) = match self.step(drives, piece.io, piece.at, piece.len) {
                Step::Done(len) => {
                    (piece.at, piece.len) = (piece.at + len, piece.len - len);
                    continue;
                }
                Step::Stop(_) => return self.fail_piece(&piece, TargetErrorKind::Expired),
                Step::Wait(len) => (len, false),
                Step::Failed { why: Why::Lost(_), .. } => return self.fail_piece(&piece, TargetErrorKind::Released),
                Step::Failed { member, sector, len, why } => {
                    (piece.member, piece.sector, piece.why) = (member, sector, why);
                    if !self.may_hold(piece.io, member, &why) {
                        self.fail_piece(&piece, TargetErrorKind::Failed);
                        return self.give_up(piece.io, why);
                    }
                    (len, true)
                }
            };
            if self.now >= self.ios[&piece.io].deadline || self.now >= self.lease_until {
                return self.fail_piece(&piece, TargetErrorKind::Expired);
            }
            if tried {
                let main = Extent::new(Sector(piece.at), Sectors(len)).ok();
                self.record(TargetErrorKind::Held, self.op(piece.io), piece.member, main, piece.sector, class(&piece.why));
            }
            return self.held.push(piece);
        }
        let main = Extent::new(Sector(from), Sectors(whole)).ok();
        self.record(TargetErrorKind::Healed, self.op(piece.io), piece.member, main, piece.sector, class(&piece.why));
        if let Some(io) = self.ios.get_mut(&piece.io) {
            io.pieces -= 1;
        }
    }

    /// Does the I/O for the start of a range, if it may go.
    fn step(&mut self, drives: &mut [Drive], id: u64, at: u64, len: u64) -> Step {
        let narrow = self.ios[&id].narrow;
        let block_left = self.shape.physical - at % self.shape.physical;
        let narrowed = |len: u64| if narrow { len.min(block_left) } else { len };
        let (member, sector, marked, len) = match self.route(at, len) {
            Route::Fail(why) => return Step::Stop(why),
            Route::Wait(len) => return Step::Wait(narrowed(len)),
            Route::Go { member, sector, marked, len } => (member, sector, marked, narrowed(len)),
        };
        let drive = &mut drives[usize::from(member)];
        let failed = |error: crate::sim::disk::DiskError| Step::Failed {
            member,
            sector,
            len,
            why: Why::Disk { drive: usize::from(member), sector: error.sector, kind: error.kind },
        };
        let io = self.ios.get_mut(&id).expect("it is under way");
        match &io.request {
            Request::Flush => Step::Done(len),
            Request::Read { start, .. } => {
                let start = *start;
                let mut bytes = vec![0; len as usize * SECTOR];
                if let Err(error) = drive.read(sector, &mut bytes) {
                    return failed(error);
                }
                if let Some(lost) = marked.then(|| self.first_lost(at, &bytes)).flatten() {
                    return Step::Failed { member, sector, len, why: Why::Lost(lost) };
                }
                let from = (at - start) as usize * SECTOR;
                let io = self.ios.get_mut(&id).expect("it is under way");
                io.read[from..from + bytes.len()].copy_from_slice(&bytes);
                Step::Done(len)
            }
            Request::Write { start, data, fua } => {
                let from = (at - start) as usize * SECTOR;
                let persist = if *fua || (narrow && member > 0) { Persist::Fua } else { Persist::Cached };
                if member > 0 && persist == Persist::Cached {
                    // Also when it fails: a part of it may be in the spare's cache.
                    self.dirty[usize::from(member) - 1] = true;
                }
                if let Err(error) = drive.write(sector, &data[from..from + len as usize * SECTOR], persist) {
                    return failed(error);
                }
                if persist == Persist::Fua {
                    io.forced.push((at, len, member));
                }
                Step::Done(len)
            }
        }
    }

    fn first_lost(&self, at: u64, bytes: &[u8]) -> Option<u64> {
        let Some(secret) = &self.secret else { return Some(at) };
        let size = self.shape.logical as usize * SECTOR;
        let starts = (at..).step_by(self.shape.logical as usize);
        starts.zip(bytes.chunks(size)).find(|(start, block)| lost_mark::is_lost(secret, Sector(*start), block)).map(|(at, _)| at)
    }

    fn route(&self, at: u64, len: u64) -> Route {
        match self.state {
            State::Closed { .. } => return Route::Wait(len),
            State::Expired => return Route::Fail(Why::Closed),
            State::Active => {}
        }
        let mut end = at + len;
        for fence in &self.fences {
            let (start, stop) = (fence.extent.start().0, fence.extent.end().0);
            if stop <= at || start >= end {
                continue;
            }
            if start > at {
                end = start;
                continue;
            }
            let len = end.min(stop) - at;
            let failed = fence.state == FenceState::Failed;
            return if failed { Route::Fail(Why::Sealed(at)) } else { Route::Wait(len) };
        }
        if let Some(remap) = self.find(at) {
            let member = remap.spare as u8 + 1;
            let sector = remap.at.0 + (at - remap.main.start().0);
            let len = end.min(remap.main.end().0) - at;
            return Route::Go { member, sector, marked: remap.flags.marked, len };
        }
        let next = self.table.range(at..).next().map_or(u64::MAX, |(start, _)| *start);
        Route::Go { member: 0, sector: at, marked: false, len: end.min(next) - at }
    }
}
