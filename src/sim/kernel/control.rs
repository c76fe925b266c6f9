//! The target's messages, as the protocol page says.

use super::{AfterOwn, FenceModel, Kernel, Piece, State, Why};
use crate::edge::{ErrorPage, Fence, FenceId, FenceState, TargetFault, TargetStatus};
use crate::model::{Extent, Op, Remap, Secret, Sector, TargetErrorKind};
use crate::sim::drive::Drive;

type Answer<T> = Result<T, TargetFault>;

fn errno<T>(make: fn(String) -> TargetFault, name: &str) -> Answer<T> {
    Err(make(name.into()))
}

impl Kernel {
    /// Takes ownership; the previous token counts for nothing any more.
    pub fn own(&mut self, token: u64) {
        self.token = token;
        self.own_flushes_lost();
    }

    pub fn flush_begin(&mut self, n: u8) -> Answer<()> {
        self.own_flushes |= 1 << n;
        Ok(())
    }

    pub fn flush_end(&mut self, n: u8, failed: bool) -> Answer<()> {
        self.own_flushes &= !(1 << n);
        if failed {
            self.own_flush_failed(usize::from(n) % 16);
        }
        self.end_after_own();
        Ok(())
    }

    /// Whether a flush of the owner's of this member is under way.
    pub(super) fn own_flush_of(&self, member: usize) -> bool {
        (0..4).any(|handle| self.own_flushes >> (handle * 16 + member) & 1 != 0)
    }

    /// Nobody will say how the owner's flushes ended.
    fn own_flushes_lost(&mut self) {
        let lost: Vec<usize> = (0..=self.dirty.len()).filter(|member| self.own_flush_of(*member)).collect();
        lost.into_iter().for_each(|member| self.own_flush_failed(member));
        self.own_flushes = 0;
        self.end_after_own();
    }

    /// Those that have waited for too long fail; without a lease nobody is waited for any more.
    pub(super) fn flush_bounds(&mut self, lapsed: bool) {
        let over = |flush: &AfterOwn, now: u64| flush.until <= now;
        let (failing, waiting) = std::mem::take(&mut self.after_own).into_iter().partition(|flush| over(flush, self.now));
        self.after_own = waiting;
        let failing: Vec<AfterOwn> = failing;
        let any = !failing.is_empty();
        failing.into_iter().for_each(|flush| self.let_go(flush, Some(Why::OwnFlush)));
        if any && lapsed {
            self.own_flushes_lost();
        }
    }

    /// A spare that serves nothing has lost nothing of anybody's.
    fn own_flush_failed(&mut self, member: usize) {
        if member > 0 && !self.table.values().any(|remap| usize::from(remap.spare) + 1 == member) {
            return;
        }
        let (failing, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.after_own).into_iter().partition(|flush| flush.members.contains(&member));
        self.after_own = waiting;
        self.flush_owed |= failing.is_empty();
        if member > 0 {
            self.dirty[member - 1] = true;
        }
        failing.into_iter().for_each(|flush| self.let_go(flush, Some(Why::OwnFlush)));
    }

    fn end_after_own(&mut self) {
        let (waiting, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut self.after_own)
            .into_iter()
            .partition(|flush| flush.members.iter().any(|member| self.own_flush_of(*member)));
        self.after_own = waiting;
        ended.into_iter().for_each(|flush| self.let_go(flush, None));
    }

    fn let_go(&mut self, flush: AfterOwn, error: Option<Why>) {
        if error.is_some() {
            flush.members.iter().filter(|member| **member > 0).for_each(|member| self.dirty[member - 1] = true);
        }
        if let Some(io) = self.ios.get_mut(&flush.io) {
            io.error = error;
        }
        self.finish(flush.io);
    }

    pub fn check_owner(&self, instance: u64, token: u64) -> Answer<()> {
        if self.instance != instance {
            return errno(TargetFault::NotOwner, "ESTALE");
        }
        if self.token != token { errno(TargetFault::NotOwner, "EPERM") } else { Ok(()) }
    }

    pub fn status(&self) -> TargetStatus {
        TargetStatus {
            remaps: self.table.len() as u64,
            errors: self.next_seq - 1,
            state: match self.state {
                State::Closed { .. } => "CLOSED",
                State::Expired => "EXPIRED",
                State::Active => "ACTIVE",
            }
            .into(),
            instance: format!("{:016x}", self.instance),
            next_seq: self.next_seq,
            held: self.held.len() as u64,
        }
    }

    pub fn errors(&self, since: u64) -> ErrorPage {
        let oldest = self.ring.front().map_or(self.next_seq, |(_, error)| error.seq);
        let aged = |(at, error): &(u64, crate::model::TargetError)| {
            let mut error = error.clone();
            error.age_ms = self.now - at;
            error
        };
        let records: Vec<_> = self.ring.iter().filter(|(_, error)| error.seq >= since).take(128).map(aged).collect();
        let next = records.last().map_or(self.next_seq, |error| error.seq + 1);
        ErrorPage { oldest, next, records }
    }

    pub fn dump(&self) -> Vec<Remap> {
        // The kernel knows nothing of sequence numbers.
        self.table.values().map(|remap| Remap { seq: 0, ..*remap }).collect()
    }

    pub fn fences(&self) -> Vec<Fence> {
        self.fences.iter().map(|fence| Fence { id: fence.id, extent: fence.extent, state: fence.state }).collect()
    }

    pub fn lease(&mut self, drives: &mut [Drive], ms: u64, reads: bool) {
        self.hold_reads = reads;
        self.lease_until = self.now + ms;
        self.pass_time(drives, self.now);
    }

    pub fn set_secret(&mut self, secret: &Secret) -> Answer<()> {
        let flagged = self.table.values().any(|remap| remap.flags.marked);
        if flagged && self.secret.is_some_and(|known| known != *secret) {
            return errno(TargetFault::Busy, "EBUSY");
        }
        self.secret = Some(*secret);
        Ok(())
    }

    pub fn fence(&mut self, extent: Extent, ms: u64) -> Answer<FenceId> {
        if extent.end().0 > self.shape.main {
            return errno(TargetFault::Other, "ERANGE");
        }
        if self.fences.iter().any(|fence| fence.extent.overlaps(&extent)) {
            return errno(TargetFault::Busy, "EBUSY");
        }
        self.last_fence += 1;
        // Nothing is under way between calls, so it is drained at once.
        let fence = FenceModel { id: self.last_fence, extent, state: FenceState::Drained, ms, until: self.now + ms };
        self.fences.push(fence);
        Ok(self.last_fence)
    }

    pub fn seal(&mut self, id: FenceId) -> Answer<()> {
        let now = self.now;
        match self.fences.iter_mut().find(|fence| fence.id == id) {
            None => errno(TargetFault::FenceGone, "ENOENT"),
            Some(fence) if fence.state == FenceState::Failed => errno(TargetFault::FenceGone, "ETIME"),
            Some(fence) => {
                if fence.state == FenceState::Drained {
                    (fence.state, fence.until) = (FenceState::Sealed, now + fence.ms);
                }
                Ok(())
            }
        }
    }

    pub fn unfence(&mut self, drives: &mut [Drive], id: FenceId) -> Answer<()> {
        if self.end_fence(drives, id) { Ok(()) } else { errno(TargetFault::FenceGone, "ENOENT") }
    }

    pub fn add_remap(&mut self, drives: &mut [Drive], remap: &Remap, fence: Option<FenceId>) -> Answer<()> {
        self.check_entry(remap)?;
        match fence {
            None if self.state == State::Active => return errno(TargetFault::Other, "EACCES"),
            None => {}
            Some(id) => {
                let Some(fence) = self.fences.iter().find(|fence| fence.id == id) else {
                    return errno(TargetFault::FenceGone, "ENOENT");
                };
                if !fence.state.is_sealed() {
                    return errno(TargetFault::Busy, "EAGAIN");
                }
                if !fence.extent.covers(&remap.main) {
                    return errno(TargetFault::Other, "ERANGE");
                }
            }
        }
        self.table.insert(remap.main.start().0, *remap);
        if let Some(id) = fence {
            self.end_fence(drives, id);
        }
        self.redrive(drives, remap.main);
        Ok(())
    }

    pub fn remove_remap(&mut self, drives: &mut [Drive], main: Sector, id: FenceId) -> Answer<()> {
        let Some(remap) = self.table.get(&main.0).copied() else { return errno(TargetFault::FenceGone, "ENOENT") };
        let Some(fence) = self.fences.iter().find(|fence| fence.id == id) else {
            return errno(TargetFault::FenceGone, "ENOENT");
        };
        if !fence.state.is_sealed() {
            return errno(TargetFault::Busy, "EAGAIN");
        }
        if !fence.extent.covers(&remap.main) {
            return errno(TargetFault::Other, "ERANGE");
        }
        self.table.remove(&main.0);
        self.end_fence(drives, id);
        self.redrive(drives, remap.main);
        Ok(())
    }

    /// A bound, or an owner, ends a fence: what waits goes on.
    pub(super) fn end_fence(&mut self, drives: &mut [Drive], id: FenceId) -> bool {
        let Some(index) = self.fences.iter().position(|fence| fence.id == id) else { return false };
        let fence = self.fences.remove(index);
        self.redrive(drives, fence.extent);
        self.kick(drives);
        true
    }

    pub fn load(&mut self, remaps: &[Remap]) -> Answer<()> {
        if self.state == State::Active {
            return errno(TargetFault::Other, "EACCES");
        }
        let before = self.table.clone();
        for remap in remaps {
            if let Err(fault) = self.check_entry(remap) {
                self.table = before;
                return Err(fault);
            }
            self.table.insert(remap.main.start().0, *remap);
        }
        Ok(())
    }

    pub fn ready(&mut self, drives: &mut [Drive], remaps: &[Remap]) -> Answer<()> {
        let key = |remap: &Remap| (remap.main, remap.spare, remap.at, remap.flags);
        if !self.table.values().map(key).eq(remaps.iter().map(key)) {
            return errno(TargetFault::Other, "EBADMSG");
        }
        self.state = State::Active;
        self.kick(drives);
        Ok(())
    }

    pub fn retry(&mut self, drives: &mut [Drive], extent: Extent) -> u64 {
        self.redrive(drives, extent)
    }

    pub fn release(&mut self, extent: Extent) -> u64 {
        let pieces = self.take_held(extent);
        self.release_pieces(pieces)
    }

    pub fn release_reads(&mut self, extent: Extent) -> u64 {
        let (reads, others) = self.take_held(extent).into_iter().partition(|piece| self.op(piece.io) == Op::Read);
        self.held.extend::<Vec<_>>(others);
        self.release_pieces(reads)
    }

    fn release_pieces(&mut self, pieces: Vec<Piece>) -> u64 {
        for piece in &pieces {
            self.fail_piece(piece, TargetErrorKind::Released);
            self.finish(piece.io);
        }
        pieces.len() as u64
    }

    /// Replacing an entry of the same first sector is allowed, any other overlap is not.
    fn check_entry(&self, remap: &Remap) -> Answer<()> {
        if remap.flags.marked && self.secret.is_none() {
            return errno(TargetFault::Other, "ENOKEY");
        }
        let spare = |other: &Remap| other.spare == remap.spare && other.spare_extent().overlaps(&remap.spare_extent());
        let others = self.table.values().filter(|other| other.main.start() != remap.main.start());
        let taken = others.into_iter().any(|other| other.main.overlaps(&remap.main) || spare(other));
        if taken { errno(TargetFault::Other, "EEXIST") } else { Ok(()) }
    }
}
