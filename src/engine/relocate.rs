//! Sectors of a spare that serve main and go bad move to other sectors of the same spare: one lookup stays one lookup, and the
//! record of the new place replaces that of the old one in a single write.

use super::Effect;
use super::cure::MAX_CURES;
use super::set::SetState;
use crate::model::*;
use crate::plan::spare_len;
use crate::policy::decide;

impl SetState {
    /// Whether a record tells of a place that serves its sectors no more, or not yet: it was written before a move that we know
    /// of, or after one that we are about to hear of.
    pub(super) fn is_stale(&self, record: &TargetError) -> bool {
        record.member != Member::Main && record.main.is_some_and(|main| !self.serves(record.member, record.member_sector, main))
    }

    /// Whether this place of a spare serves the first of these sectors of main.
    pub(super) fn serves(&self, member: Member, at: Sector, main: Extent) -> bool {
        let there = |remap: &Remap| Member::Spare(remap.spare) == member && remap.spare_extent().contains(at);
        self.remap_at(main.start()).is_some_and(there)
    }

    /// Moves every remap whose sectors of the spare failed. Whoever nobody waits for moves only if it can at once.
    pub(super) fn relocate(&mut self, now: Millis, fault: &Fault, next_case: &mut u64) -> Vec<Effect> {
        let Member::Spare(spare) = fault.member else { return Vec::new() };
        let served = |remap: &&Remap| remap.spare == spare && remap.main.overlaps(&fault.extent);
        let moving: Vec<Remap> = self.remaps.values().filter(served).copied().collect();
        let mut effects = Vec::new();
        for from in moving {
            if self.cases.values().any(|case| case.cures(&from.main)) {
                continue;
            }
            let fault = Fault { extent: from.main, ..fault.clone() };
            let blocks = spare_len(from.main.len(), self.desc.block()).0 / self.desc.block().0;
            let spare_fills = self.spares.get(usize::from(spare)).is_some_and(|spare| spare.refilling);
            if fault.held && (self.cures_under_way() >= MAX_CURES || spare_fills && !self.has_space(spare, from.main)) {
                self.waiting.push(fault);
                continue;
            }
            let mut decision = decide(&self.policy, &self.ledger(now, blocks), &fault);
            let to = if decision.action.moves() { self.take_of(spare, from.main) } else { None };
            if to.is_none() && !fault.held {
                continue;
            }
            if to.is_none() && decision.action.moves() {
                let reason = format!("spare {spare}, which serves these sectors, failed, and has no other verified space ready");
                decision = Decision { action: Action::Observe, rule: "target/spare".into(), reason };
            }
            effects.push(self.open(now, fault, decision, to, Some(from), next_case));
        }
        effects.extend(self.refill(now));
        effects
    }

    fn has_space(&self, spare: u16, main: Extent) -> bool {
        let len = spare_len(main.len(), self.desc.block());
        self.spares.get(usize::from(spare)).is_some_and(|spare| spare.reserve.longest() >= len)
    }

    /// Takes verified space of one spare.
    pub(super) fn take_of(&mut self, spare: u16, main: Extent) -> Option<Remap> {
        let len = spare_len(main.len(), self.desc.block());
        let taken = self.spares.get_mut(usize::from(spare))?.reserve.take(len)?;
        Some(Remap { main, spare, at: taken.start(), flags: RemapFlags { marked: true }, seq: 0 })
    }
}
