//! From a write that waits to a live remap: which cases are opened, which step follows which outcome, and what is recorded.

use super::Effect;
use super::case::{Case, CaseId, Outcome, Stage, Step};
use super::observe::{finder, read_error};
use super::set::SetState;
use crate::edge::FenceId;
use crate::model::*;
use crate::plan::{pieces, spare_len};
use crate::policy::decide;
use crate::triage::{Failed, whole_blocks};

/// Cures under way at once: more would only wait for each other with their fences up. The target has 64 fences.
pub(super) const MAX_CURES: usize = 16;

impl SetState {
    /// A failed write waits (or an operator asks): start a case for every part that has none.
    pub(super) fn on_held(&mut self, now: Millis, fault: Fault, next_case: &mut u64) -> Vec<Effect> {
        let mut effects = if fault.held { self.call_off(now, &fault.extent) } else { Vec::new() };
        // A write is narrowed piece by piece: more of it may become known while its cure is under way.
        for case in self.cases.values_mut().filter(|case| fault.held && case.cures(&fault.extent)) {
            // A cure that nobody waited for becomes one that this write waits for.
            case.fault.held = true;
            case.fault.covered.extend(fault.covered.iter().copied());
        }
        for part in self.new_parts(&fault, &mut effects) {
            let fault = Fault { extent: part, ..fault.clone() };
            effects.extend(self.open_cases(now, fault, next_case));
        }
        if fault.held {
            effects.extend(self.start_returning(now, next_case));
        }
        effects
    }

    /// The parts of a fault that neither a remap nor a case covers; what a remap covers already is tried again.
    pub(super) fn new_parts(&self, fault: &Fault, effects: &mut Vec<Effect>) -> Vec<Extent> {
        let block = self.desc.block();
        let mut parts: Vec<Extent> = Vec::new();
        for piece in pieces(fault.extent, block, block) {
            if self.remap_over(&piece) && fault.member == Member::Main {
                if fault.held {
                    effects.push(Effect::Retry { set: self.id(), extent: piece });
                }
                continue;
            }
            if self.cases.values().any(|case| case.cures(&piece))
                || self.waiting.iter().any(|fault| fault.extent.overlaps(&piece))
            {
                continue;
            }
            piece.add_to(&mut parts);
        }
        parts
    }

    pub(super) fn open_cases(&mut self, now: Millis, fault: Fault, next_case: &mut u64) -> Vec<Effect> {
        let block = self.desc.block();
        if fault.member != Member::Main {
            return self.relocate(now, &fault, next_case);
        }
        if self.cures_under_way() >= MAX_CURES {
            self.waiting.push(fault);
            return Vec::new();
        }
        let ledger = self.ledger(now, spare_len(fault.extent.len(), block).0 / block.0);
        let decision = if fault.held || fault.class != ErrorClass::Other {
            decide(&self.policy, &ledger, &fault)
        } else {
            Decision { action: Action::Remap, rule: "operator".into(), reason: "an operator asked for it".into() }
        };
        if !decision.action.moves() {
            return vec![self.open(now, fault, decision, None, None, next_case)];
        }
        let longest = self.spares.iter().map(|spare| spare.reserve.longest()).max().unwrap_or_default();
        let mut parts = pieces(fault.extent, longest.min(spare_len(fault.extent.len(), block)), block);
        if parts.is_empty() {
            if self.waits_for_space() {
                self.waiting.push(fault);
                return self.refill(now);
            }
            parts.push(fault.extent);
        }
        let mut effects = Vec::new();
        for part in parts {
            let fault = Fault { extent: part, ..fault.clone() };
            if self.cures_under_way() >= MAX_CURES {
                self.waiting.push(fault);
                continue;
            }
            let remap = self.take_spare(part);
            if remap.is_none() && self.waits_for_space() {
                self.waiting.push(fault);
                continue;
            }
            effects.push(self.open(now, fault, decision.clone(), remap, None, next_case));
        }
        effects.extend(self.refill(now));
        effects
    }

    pub(super) fn cures_under_way(&self) -> usize {
        self.cases.values().filter(|case| !matches!(case.stage, Stage::Probing | Stage::Announcing | Stage::Returning)).count()
    }

    /// Faults that waited for spare space, or for others to be done.
    pub(super) fn start_waiting(&mut self, now: Millis, next_case: &mut u64) -> Vec<Effect> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().flat_map(|fault| self.on_held(now, fault, next_case)).collect()
    }

    pub(super) fn take_spare(&mut self, main: Extent) -> Option<Remap> {
        let len = spare_len(main.len(), self.desc.block());
        let (index, taken) =
            self.spares.iter_mut().enumerate().find_map(|(index, spare)| spare.reserve.take(len).map(|taken| (index, taken)))?;
        Some(Remap { main, spare: index as u16, at: taken.start(), flags: RemapFlags { marked: true }, seq: 0 })
    }

    /// Opens a case: with a spare range it starts with the fence, without one it gives up.
    pub(super) fn open(
        &mut self,
        now: Millis,
        fault: Fault,
        decision: Decision,
        remap: Option<Remap>,
        from: Option<Remap>,
        next_case: &mut u64,
    ) -> Effect {
        let id = CaseId(*next_case);
        *next_case += 1;
        let extent = fault.extent;
        let (stage, step, failure) = match (decision.action, remap) {
            (Action::Remap | Action::Rewrite, Some(_)) => (Stage::Fencing, Step::Fence(extent), None),
            (Action::Remap | Action::Rewrite, None) => {
                (Stage::Releasing, Step::GiveUp { extent, fence: None }, Some("no verified spare space is left".to_string()))
            }
            (Action::Observe | Action::Unremap, _) => {
                (Stage::Releasing, Step::GiveUp { extent, fence: None }, Some(decision.reason.clone()))
            }
        };
        let (fence, saved, lost, tried_at) = (None, Sectors(0), Vec::new(), now);
        let told = false;
        let case = Case { id, fault, decision, stage, remap, from, fence, saved, lost, failure, tried_at, told };
        self.cases.insert(id, case);
        Effect::Step { set: self.id(), case: id, step }
    }

    pub(super) fn on_done(&mut self, now: Millis, id: CaseId, outcome: Outcome, next_case: &mut u64) -> Vec<Effect> {
        let set = self.id();
        let Some(mut case) = self.cases.remove(&id) else { return Vec::new() };
        if let Some(remap) = case.taken_back() {
            return self.on_returning(now, case, remap, outcome, next_case);
        }
        if let (Outcome::SpareFailed(reason), Some(failed), Some(fence)) = (&outcome, case.remap, case.fence) {
            return self.on_spare_failed(now, case, failed, fence, reason.clone());
        }
        let step = match next_step(&mut case, outcome, now) {
            Next::Step(step) => step,
            Next::Wait => {
                self.cases.insert(id, case);
                return Vec::new();
            }
            Next::End => {
                let unread = self.unread(now, &case);
                let mut effects = self.answer_reads(now, &case, &unread);
                effects.extend(self.end(now, case));
                effects.extend(unread.into_iter().flat_map(|fault| self.on_held(now, fault, next_case)));
                effects.extend(self.start_waiting(now, next_case));
                effects.extend(self.start_returning(now, next_case));
                return effects;
            }
        };
        self.cases.insert(id, case);
        vec![Effect::Step { set, case: id, step }]
    }

    /// What a look at main came to, where the policy moves blocks that do not read, or did not at first.
    fn unread(&self, now: Millis, case: &Case) -> Vec<Fault> {
        let action = self.policy.read_error.action;
        if case.stage != Stage::Probing || !action.moves() || case.failure.is_some() {
            return Vec::new();
        }
        let (block, size) = (self.desc.block(), self.desc.main.sectors);
        let sector = |at: &Sector| Extent::new(*at, Sectors(1)).ok().and_then(|sector| whole_blocks(sector, block, size));
        let mut blocks: Vec<Extent> = case.lost.iter().filter_map(sector).collect();
        let held = case.fault.held && !blocks.is_empty();
        // All of it reads by now. Only a medium error says that it may not the next time.
        if blocks.is_empty() && action == Action::Rewrite && case.fault.class == ErrorClass::Medium {
            blocks.extend(whole_blocks(case.fault.extent, block, size));
        }
        blocks.dedup();
        // Of class “ioerr”: it must still be shown that main works elsewhere.
        let fault = |extent| Fault { op: Op::Read, extent, held, class: ErrorClass::Ioerr, at: now, ..case.fault.clone() };
        blocks.into_iter().map(fault).collect()
    }

    /// The spare extent is bad: go on with another one under the same fence, or give up.
    pub(super) fn on_spare_failed(
        &mut self,
        now: Millis,
        mut case: Case,
        failed: Remap,
        fence: FenceId,
        reason: String,
    ) -> Vec<Effect> {
        let (set, id) = (self.id(), case.id);
        let extent =
            Extent::new(failed.at, spare_len(failed.main.len(), self.desc.block())).expect("it was taken from the reserve");
        case.remap = match case.from {
            Some(from) => self.take_of(from.spare, from.main),
            None => self.take_spare(failed.main),
        };
        let step = match case.remap {
            Some(remap) => salvage(&case, fence, remap),
            None => {
                case.stage = Stage::Releasing;
                case.failure = Some(format!("{reason}; no other verified spare space is left"));
                Step::GiveUp { extent: failed.main, fence: Some(fence) }
            }
        };
        self.cases.insert(id, case);
        let alert = self.alert(now, format!("a verified spare extent failed and is never used again: {reason}"));
        vec![Effect::MarkBad { set, spare: failed.spare, extent }, Effect::Record(alert), Effect::Step { set, case: id, step }]
    }

    /// A case is over: remember and record.
    pub(super) fn end(&mut self, now: Millis, case: Case) -> Vec<Effect> {
        let mut evidence = self.evidence(now, case.fault.member, &case.fault.extent);
        if self.read_errors.range(case.fault.extent.start()..case.fault.extent.end()).next().is_some() {
            evidence.push("an earlier read of these sectors failed".into());
        }
        match (case.stage, case.remap) {
            (Stage::Probing, _) => {
                if let Some(by) = finder(&case.decision.rule) {
                    return vec![Effect::Record(self.found_entry(now, &case, by))];
                }
                if case.told && case.lost.is_empty() && case.failure.is_none() {
                    return Vec::new();
                }
                let failed = Failed { error: read_error(&case), count: 1, extent: Some(case.fault.extent) };
                vec![Effect::Record(self.error_entry(now, &failed, case.lost))]
            }
            (Stage::Mapping, Some(remap)) => {
                if case.fault.late {
                    self.counters.given_up += 1;
                    evidence.push("too late for what waited: it had got its error".into());
                } else {
                    self.counters.cured += 1;
                }
                let brought =
                    |sector: &Sector| !case.fault.late && case.fault.covered.iter().any(|extent| extent.contains(*sector));
                let lost = case.lost.iter().filter(|sector| !brought(sector)).copied().collect();
                if let Some(from) = &case.from {
                    self.remove(from);
                }
                self.insert(remap);
                if case.decision.action == Action::Rewrite && case.from.is_none() && !remap.flags.marked {
                    self.return_later(&remap.main, &Decision { action: Action::Unremap, ..case.decision.clone() });
                }
                let len = spare_len(remap.main.len(), self.desc.block());
                self.count_spent(now, (len.0 / self.desc.block().0) as i64);
                self.spares[usize::from(remap.spare)].spend(now, len.0 as i64);
                let (saved, decision, class) = (case.saved, case.decision, case.fault.class);
                let took_ms = now.0.saturating_sub(case.fault.at.0);
                let what = match case.from {
                    None => What::Remapped { remap, saved, lost, decision, class, took_ms, evidence },
                    Some(from) => What::Relocated { remap, from: from.at, saved, lost, decision, class, took_ms, evidence },
                };
                // History first: the mark is made durable, and with it what came before. A remap that the next run finds unmarked
                // it tells of; one that is marked but in no entry, nobody would.
                let set = self.id();
                let mut effects = vec![Effect::Record(self.entry(now, what))];
                let left = case.from.map(|from| Effect::MarkBad { set, spare: from.spare, extent: from.spare_extent() });
                effects.extend(left);
                effects.extend([Effect::MarkInUse { set, remap }, Effect::SampleSmart { set }]);
                effects.extend(self.usage_alert(now, remap.spare));
                effects.extend(self.refill(now));
                effects
            }
            (_, taken) => {
                if let Some(remap) = taken {
                    let len = spare_len(remap.main.len(), self.desc.block());
                    let extent = Extent::new(remap.at, len).expect("it was taken from the reserve");
                    self.spares[remap.spare as usize].reserve.add([extent]);
                }
                self.counters.given_up += 1;
                self.remember_released(now, case.fault.extent);
                let reason = case.failure.unwrap_or_default();
                vec![Effect::Record(
                    self.entry(now, What::NotRemapped { extent: case.fault.extent, decision: case.decision, reason, evidence }),
                )]
            }
        }
    }
}

enum Next {
    Step(Step),
    Wait,
    End,
}

/// The path of a case: which step follows which outcome.
fn next_step(case: &mut Case, outcome: Outcome, now: Millis) -> Next {
    let extent = case.fault.extent;
    let give_up = |case: &mut Case, reason: String| {
        case.failure = Some(reason);
        case.stage = Stage::Releasing;
        Next::Step(Step::GiveUp { extent, fence: case.fence })
    };
    match (case.stage, outcome, case.remap, case.fence) {
        (Stage::Fencing, Outcome::Fenced(fence), Some(remap), _) => {
            case.fence = Some(fence);
            case.stage = Stage::Salvaging;
            Next::Step(salvage(case, fence, remap))
        }
        (Stage::Salvaging, Outcome::Salvaged { saved, lost, marked }, Some(remap), Some(fence)) => {
            case.remap = Some(Remap { flags: RemapFlags { marked }, ..remap });
            (case.saved, case.lost, case.stage) = (saved, lost, Stage::Sealing);
            Next::Step(Step::Seal(fence))
        }
        (Stage::Sealing, Outcome::Sealed, Some(remap), _) => {
            case.stage = Stage::Committing;
            Next::Step(Step::Commit(remap))
        }
        (Stage::Committing, Outcome::Committed(remap), _, Some(fence)) => {
            (case.remap, case.stage) = (Some(remap), Stage::Mapping);
            Next::Step(Step::AddRemap { remap, fence })
        }
        (Stage::Committing | Stage::Settling, Outcome::Unknown(reason), ..) => {
            case.stage = Stage::Settling;
            case.failure = Some(format!("the table record could not be written: {reason}"));
            case.tried_at = now;
            Next::Wait
        }
        (Stage::Committing | Stage::Settling, Outcome::NotCommitted(reason), ..) => give_up(case, reason),
        (Stage::Mapping, Outcome::Live, ..) => Next::End,
        // The record is durable, so there is no way back: the range stays sealed and we try again.
        (Stage::Mapping, Outcome::Failed(reason), ..) => {
            case.failure = Some(reason);
            case.tried_at = now;
            Next::Wait
        }
        // A fence that is left behind, perhaps sealed, would fail its range for as long as this daemon lives.
        (Stage::Releasing, Outcome::Failed(_), _, Some(_)) => {
            case.tried_at = now;
            Next::Wait
        }
        (Stage::Releasing, ..) => Next::End,
        (Stage::Probing, Outcome::Probed { unreadable }, ..) => {
            case.lost = unreadable;
            Next::End
        }
        (Stage::Probing, outcome, ..) => {
            case.failure = Some(format!("they could not be tried again: {outcome:?}"));
            Next::End
        }
        (_, Outcome::Failed(reason), ..) => give_up(case, reason),
        (_, outcome, ..) => give_up(case, format!("unexpected answer: {outcome:?}")),
    }
}

fn salvage(case: &Case, fence: FenceId, remap: Remap) -> Step {
    let covered = case.fault.covered.iter().filter(|extent| extent.overlaps(&remap.main)).copied().collect();
    let from = case.from;
    Step::Salvage { fence, remap, from, medium: case.fault.class == ErrorClass::Medium, covered }
}
