//! Un-remap: what a spare serves goes back to main, one remap at a time, and its space is ready for the next cure.
//!
//! What is about to go is written down on the host, or a table that lacks it would be taken for an older one after a crash. Then:
//! fence, copy to main, flush, read back (all that is [`Effect::Return`]); seal; remove the record, which is the commit
//! point; `remove_remap`. Sectors that are lost have nothing to go back: a remap that holds one stays as a whole.
//!
//! Until the fence is up all this waits for others, perhaps for the disk that a write waits for. So a write that waits there ends it.

use super::Effect;
use super::case::{Case, CaseId, Outcome, Stage, Step};
use super::set::SetState;
use crate::edge::FenceId;
use crate::model::*;
use crate::plan::spare_len;

/// How long it may take until it is written down that a remap goes back to main, ms.
const ANNOUNCE_MS: u64 = 30_000;

impl SetState {
    /// Queues the remaps that serve any of these sectors, to go back one after the other.
    pub(super) fn return_later(&mut self, extent: &Extent, decision: &Decision) {
        let served = self.remaps.values().filter(|remap| remap.main.overlaps(extent)).map(|remap| remap.main.start());
        let new: Vec<Sector> = served.filter(|start| !self.returning.iter().any(|(queued, _)| queued == start)).collect();
        self.returning.extend(new.into_iter().map(|start| (start, decision.clone())));
    }

    /// Begins with the next one, if none is on its way.
    pub(super) fn start_returning(&mut self, now: Millis, next_case: &mut u64) -> Vec<Effect> {
        if self.cases.values().any(|case| case.taken_back().is_some()) {
            return Vec::new();
        }
        while let Some((start, decision)) = self.returning.pop_front() {
            let Some(remap) = self.remaps.get(&start).copied() else { continue };
            let cured = self.cases.values().any(|case| case.cures(&remap.main));
            if cured || self.waiting.iter().any(|fault| fault.extent.overlaps(&remap.main)) {
                continue;
            }
            let id = CaseId(*next_case);
            *next_case += 1;
            let fault = self.fault(Member::Spare(remap.spare), Op::Read, remap.main, ErrorClass::Other, now);
            let case = Case {
                id,
                fault,
                decision,
                stage: Stage::Announcing,
                remap: None,
                from: Some(remap),
                fence: None,
                saved: Sectors(0),
                lost: Vec::new(),
                failure: None,
                tried_at: now,
                told: false,
            };
            self.cases.insert(id, case);
            return vec![Effect::Announce { set: self.id(), case: id, remap }];
        }
        Vec::new()
    }

    /// A write waits in this range. Nobody waits for an un-remap: one of which nothing was done yet ends here. Whether the prober has
    /// begun with it, only that knows.
    pub(super) fn call_off(&mut self, now: Millis, extent: &Extent) -> Vec<Effect> {
        let set = self.id();
        let waits = |case: &&Case| case.cures(extent) && matches!(case.stage, Stage::Announcing | Stage::Returning);
        match self.cases.values().find(waits).map(|case| (case.id, case.stage)) {
            Some((case, Stage::Returning)) => vec![Effect::CallOff { set, case }],
            Some((case, _)) => self.end_announcing(now, case, CALLED_OFF.into()),
            None => Vec::new(),
        }
    }

    /// Ends an un-remap that waits for too long until it is written down.
    pub(super) fn give_up_announcing(&mut self, now: Millis, next_case: &mut u64) -> Vec<Effect> {
        let late = |case: &&Case| case.stage == Stage::Announcing && now.0 >= case.fault.at.0 + ANNOUNCE_MS;
        let Some(case) = self.cases.values().find(late).map(|case| case.id) else { return Vec::new() };
        let reason = format!("it could not be written down within {} s that it goes back to main", ANNOUNCE_MS / 1_000);
        // Who has asked by hand is told, and may ask again. A policy asks once.
        let (from, decision) = (self.cases[&case].from, self.cases[&case].decision.clone());
        if decision.rule != OPERATOR {
            self.returning.extend(from.map(|remap| (remap.main.start(), decision)));
        }
        let mut effects = self.end_announcing(now, case, reason);
        effects.extend(self.start_returning(now, next_case));
        effects
    }

    /// The answer may still come, and is nobody's then. What is written down until then goes with the entry.
    fn end_announcing(&mut self, now: Millis, id: CaseId, reason: String) -> Vec<Effect> {
        let Some(case) = self.cases.remove(&id) else { return Vec::new() };
        let entry = |remap| self.entry(now, What::StaysRemapped { remap, decision: case.decision, reason });
        case.from.map(entry).map(Effect::Record).into_iter().collect()
    }

    /// A step of an un-remap has ended.
    pub(super) fn on_returning(
        &mut self,
        now: Millis,
        mut case: Case,
        remap: Remap,
        outcome: Outcome,
        next_case: &mut u64,
    ) -> Vec<Effect> {
        let (set, id) = (self.id(), case.id);
        let step = match (case.stage, outcome, case.fence) {
            (Stage::Announcing, Outcome::Announced, _) => {
                case.stage = Stage::Returning;
                self.cases.insert(id, case);
                return vec![Effect::Return { set, case: id, remap }];
            }
            (Stage::Returning, Outcome::BroughtBack(fence), _) => {
                (case.stage, case.fence) = (Stage::Sealing, Some(fence));
                Some(Step::Seal(fence))
            }
            (Stage::Sealing, Outcome::Sealed, _) => {
                case.stage = Stage::Committing;
                Some(Step::Unrecord(remap))
            }
            (Stage::Committing, Outcome::Committed(_), Some(fence)) => {
                case.stage = Stage::Mapping;
                Some(Step::RemoveRemap { remap, fence })
            }
            (Stage::Committing | Stage::Settling, Outcome::Unknown(reason), _) => {
                case.stage = Stage::Settling;
                wait(&mut case, now, format!("the table record could not be removed: {reason}"))
            }
            // The record is gone, so there is no way back: the range stays sealed and we try again.
            (Stage::Mapping, Outcome::Failed(reason), _) => wait(&mut case, now, reason),
            (Stage::Releasing, Outcome::Failed(_), _) => {
                case.tried_at = now;
                None
            }
            (Stage::Mapping, Outcome::Unmapped { free }, _) => return self.returned(now, case, remap, free, next_case),
            (Stage::Releasing, ..) => return self.stays(now, case, remap, next_case),
            (_, outcome, fence) => {
                case.failure = Some(match outcome {
                    Outcome::Failed(reason) | Outcome::NotCommitted(reason) => reason,
                    outcome => format!("unexpected answer: {outcome:?}"),
                });
                let Some(fence) = fence else { return self.stays(now, case, remap, next_case) };
                case.stage = Stage::Releasing;
                Some(Step::Lift(fence))
            }
        };
        self.cases.insert(id, case);
        step.map(|step| Effect::Step { set, case: id, step }).into_iter().collect()
    }

    fn returned(&mut self, now: Millis, case: Case, remap: Remap, free: bool, next_case: &mut u64) -> Vec<Effect> {
        self.remove(&remap);
        let set = self.id();
        let extent = Extent::new(remap.at, spare_len(remap.main.len(), self.desc.block())).expect("it came from the reserve");
        if free {
            let spare = &mut self.spares[usize::from(remap.spare)];
            spare.reserve.add([extent]);
            spare.alerted = spare.alerted.min(spare.percent());
            spare.spend(now, -(extent.len().0 as i64));
            self.count_spent(now, -((extent.len().0 / self.desc.block().0) as i64));
        }
        // Before history: with the entry it is forgotten that the remap was about to go. What is not free now is so after the next
        // start, which gives every table block its second copy.
        let mut effects = vec![Effect::MarkReserved { set, spare: remap.spare, extent }];
        let took_ms = now.0.saturating_sub(case.fault.at.0);
        let what = What::Unremapped { remap, decision: case.decision, took_ms };
        effects.push(Effect::Record(self.entry(now, what)));
        // A write that met the spare's medium meanwhile belongs on main now.
        effects.push(Effect::Retry { set, extent: remap.main });
        effects.extend(self.start_waiting(now, next_case));
        effects.extend(self.start_returning(now, next_case));
        effects
    }

    fn stays(&mut self, now: Millis, case: Case, remap: Remap, next_case: &mut u64) -> Vec<Effect> {
        let what = What::StaysRemapped { remap, decision: case.decision, reason: case.failure.unwrap_or_default() };
        let mut effects = vec![Effect::Record(self.entry(now, what))];
        // One that waits tells of itself anew, now that nothing stands in the way of its cure.
        effects.push(Effect::Retry { set: self.id(), extent: remap.main });
        effects.extend(self.start_returning(now, next_case));
        effects
    }
}

fn wait(case: &mut Case, now: Millis, reason: String) -> Option<Step> {
    (case.failure, case.tried_at) = (Some(reason), now);
    None
}

/// The rule of what somebody asked for by hand.
pub(super) const OPERATOR: &str = "operator/unremap";

/// Why an un-remap ended before it began.
pub const CALLED_OFF: &str = "a write waits for these sectors and is cured first; ask again";

/// What is tried again of an un-remap that is stuck.
pub(super) fn again(stage: Stage, remap: Remap, fence: Option<FenceId>) -> Option<Step> {
    match (stage, fence) {
        (Stage::Settling, _) => Some(Step::Settle(remap)),
        (Stage::Mapping, Some(fence)) => Some(Step::RemoveRemap { remap, fence }),
        (Stage::Releasing, Some(fence)) => Some(Step::Lift(fence)),
        _ => None,
    }
}
