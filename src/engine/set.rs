//! One set's state, and how it moves.

use super::case::{Case, CaseId, Outcome, Stage, Step};
use super::{Effect, Event};
use crate::edge::FenceId;
use crate::model::{
    Action, Decision, Entry, ErrorClass, Extent, Fault, Member, Millis, Op, Remap, RemapFlags, Sector, Sectors, SetDescription,
    SetId, What,
};
use crate::plan::{Reserve, pieces, spare_len};
use crate::policy::{Ledger, Policy, decide};
use crate::triage::{Failed, is_unreadable, triage, whole_blocks};
use std::collections::{BTreeMap, VecDeque};

const HOUR: u64 = 3_600_000;
/// Steps that must not be given up are tried again at most this often, ms.
const RETRY_MS: u64 = 1_000;
/// A read error on the same sectors is written to history at most this often, ms.
const READ_ERROR_QUIET_MS: u64 = 60_000;
/// Cures under way at once: more would only wait for each other with their fences up. The target has 64 fences.
const MAX_CURES: usize = 16;
/// Errors of one kind that say nothing about the medium are written to history at most this often, ms.
const STORM_QUIET_MS: u64 = 10_000;
/// A spare that did not answer is tried again after this, ms.
const UNTRIED_PAUSE_MS: u64 = 30_000;
/// Evidence lines kept per set.
const NOTES: usize = 64;

/// State of one open set.
#[derive(Debug)]
pub struct SetState {
    pub(super) desc: SetDescription,
    pub(super) remaps: BTreeMap<Sector, Remap>,
    pub(super) spares: Vec<SpareState>,
    pub(super) cases: BTreeMap<CaseId, Case>,
    pub(super) counters: Counters,
    pub(super) smart: BTreeMap<Member, String>,
    waiting: Vec<Fault>,
    quiet: BTreeMap<(Member, &'static str, &'static str), Millis>,
    notes: VecDeque<Note>,
    read_errors: BTreeMap<Sector, Millis>,
    spent: VecDeque<(Millis, u64)>,
}

/// State of one spare.
#[derive(Debug, Default)]
pub(super) struct SpareState {
    pub(super) reserve: Reserve,
    pub(super) capacity: Sectors,
    pub(super) in_use: Sectors,
    pub(super) free: Option<Sectors>,
    untried: Sectors,
    refilling: bool,
    refill_after: Millis,
    alerted: u8,
}

/// Counts since the device was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Cures that succeeded.
    pub cured: u64,
    /// Cures given up: the application got an error.
    pub given_up: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Other I/O errors passed up.
    pub other_errors: u64,
    /// Error records that were overwritten before they were read.
    pub missed: u64,
}

#[derive(Debug)]
struct Note {
    at: Millis,
    sector: Option<Sector>,
    text: String,
}

impl SetState {
    /// A set whose device has just been opened.
    pub fn new(desc: SetDescription, remaps: Vec<Remap>, capacity: Vec<Sectors>) -> SetState {
        let spares = capacity.into_iter().map(|capacity| SpareState { capacity, ..SpareState::default() }).collect();
        let mut set = SetState {
            desc,
            remaps: BTreeMap::new(),
            spares,
            cases: BTreeMap::new(),
            counters: Counters::default(),
            smart: BTreeMap::new(),
            waiting: Vec::new(),
            quiet: BTreeMap::new(),
            notes: VecDeque::new(),
            read_errors: BTreeMap::new(),
            spent: VecDeque::new(),
        };
        for remap in remaps {
            set.insert(remap);
        }
        set
    }

    /// The set.
    pub fn id(&self) -> SetId {
        self.desc.id
    }

    /// What its headers say.
    pub fn description(&self) -> &SetDescription {
        &self.desc
    }

    /// Live remaps in order of main sectors.
    pub fn remaps(&self) -> impl Iterator<Item = &Remap> {
        self.remaps.values()
    }

    pub(super) fn apply(&mut self, now: Millis, event: Event, policy: &Policy, next_case: &mut u64) -> Vec<Effect> {
        match event {
            Event::Errors { records, missed, .. } => {
                self.counters.missed += missed;
                let found = triage(self.id(), &records, self.desc.block(), self.desc.main.sectors, now);
                let mut effects = Vec::new();
                if missed > 0 {
                    // A held write may be among them. Tried again, it tells of itself anew.
                    let whole = Extent::new(Sector(0), self.desc.main.sectors).expect("a main device has sectors");
                    effects.push(Effect::Retry { set: self.id(), extent: whole });
                }
                for failed in found.failed {
                    effects.extend(self.on_failed(now, failed, next_case));
                }
                for fault in found.held {
                    effects.extend(self.on_held(now, fault, policy, next_case));
                }
                for error in found.given_up {
                    effects.extend(self.on_given_up(now, error.main, error.class));
                }
                effects
            }
            Event::Noted { sector, text, .. } => {
                self.notes.push_back(Note { at: now, sector, text });
                if self.notes.len() > NOTES {
                    self.notes.pop_front();
                }
                Vec::new()
            }
            Event::Smart { member, summary, worse, .. } => {
                self.smart.insert(member, summary);
                worse.into_iter().map(|change| Effect::Record(self.entry(now, What::Smart { member, change }))).collect()
            }
            Event::Reserved { spare, extents, free, untried, .. } => {
                let Some(state) = self.spares.get_mut(spare as usize) else { return Vec::new() };
                if untried.0 > 0 {
                    state.refill_after = Millis(now.0 + UNTRIED_PAUSE_MS);
                }
                state.reserve.add(extents);
                (state.free, state.untried, state.refilling) = (Some(free), untried, false);
                self.start_waiting(now, policy, next_case)
            }
            Event::Asked { extent, .. } => {
                let Some(extent) = whole_blocks(extent, self.desc.block(), self.desc.main.sectors) else { return Vec::new() };
                let fault = Fault {
                    set: self.id(),
                    member: Member::Main,
                    op: Op::Write,
                    extent,
                    class: ErrorClass::Other,
                    held: false,
                    covered: Vec::new(),
                    late: false,
                    at: now,
                };
                self.on_held(now, fault, policy, next_case)
            }
            Event::Done { case, outcome, .. } => self.on_done(now, case, outcome, policy, next_case),
            Event::Opened { .. } | Event::Closed { .. } | Event::Policy(_) | Event::Tick => Vec::new(),
        }
    }

    /// Asks for spare space where less than half of what policy keeps ready is left.
    pub(super) fn refill(&mut self, now: Millis, policy: &Policy) -> Vec<Effect> {
        let set = self.id();
        let target = policy.spare.reserve_blocks.saturating_mul(self.desc.block().0);
        let mut effects = Vec::new();
        for (index, spare) in self.spares.iter_mut().enumerate() {
            let have = spare.reserve.total().0 + spare.untried.0;
            let wanted = spare.untried.0 > 0 || have <= target / 2 && spare.free != Some(Sectors(0));
            if !spare.refilling && target > 0 && wanted && now >= spare.refill_after {
                spare.refilling = true;
                effects.push(Effect::Reserve { set, spare: index as u16, want: Sectors(target.saturating_sub(have)) });
            }
        }
        effects
    }

    /// A failed write waits (or an operator asks): start a case for every part that has none.
    fn on_held(&mut self, now: Millis, fault: Fault, policy: &Policy, next_case: &mut u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        // A write is narrowed piece by piece: more of it may become known while its cure is under way.
        for case in self.cases.values_mut().filter(|case| case.fault.held && case.fault.extent.overlaps(&fault.extent)) {
            case.fault.covered.extend(fault.covered.iter().copied());
        }
        for part in self.new_parts(&fault, &mut effects) {
            let fault = Fault { extent: part, ..fault.clone() };
            effects.extend(self.open_cases(now, fault, policy, next_case));
        }
        effects
    }

    /// The parts of a fault that neither a remap nor a case covers; what a remap covers already is tried again.
    fn new_parts(&self, fault: &Fault, effects: &mut Vec<Effect>) -> Vec<Extent> {
        let block = self.desc.block();
        let mut parts: Vec<Extent> = Vec::new();
        for piece in pieces(fault.extent, block, block) {
            if self.remap_over(&piece) && fault.member == Member::Main {
                if fault.held {
                    effects.push(Effect::Retry { set: self.id(), extent: piece });
                }
                continue;
            }
            let open = |case: &Case| case.stage != Stage::Probing && case.fault.extent.overlaps(&piece);
            if self.cases.values().any(open) || self.waiting.iter().any(|fault| fault.extent.overlaps(&piece)) {
                continue;
            }
            match parts.last_mut() {
                Some(last) if last.end() == piece.start() => {
                    *last = Extent::new(last.start(), Sectors(last.len().0 + piece.len().0)).expect("neighbours join");
                }
                _ => parts.push(piece),
            }
        }
        parts
    }

    fn open_cases(&mut self, now: Millis, fault: Fault, policy: &Policy, next_case: &mut u64) -> Vec<Effect> {
        let block = self.desc.block();
        if fault.member != Member::Main {
            // It is on the spare already; trying it again would only fail again.
            let reason = format!("{}, which serves these sectors, failed", fault.member);
            let decision = Decision { action: Action::Observe, rule: "target/spare".into(), reason };
            return vec![self.open(now, fault, decision, None, next_case)];
        }
        if self.cures_under_way() >= MAX_CURES {
            self.waiting.push(fault);
            return Vec::new();
        }
        let ledger = self.ledger(now, spare_len(fault.extent.len(), block).0 / block.0);
        let decision = if fault.held || fault.class != ErrorClass::Other {
            decide(policy, &ledger, &fault)
        } else {
            Decision { action: Action::Remap, rule: "operator".into(), reason: "an operator asked for it".into() }
        };
        if decision.action != Action::Remap {
            return vec![self.open(now, fault, decision, None, next_case)];
        }
        let longest = self.spares.iter().map(|spare| spare.reserve.longest()).max().unwrap_or_default();
        let mut parts = pieces(fault.extent, longest.min(spare_len(fault.extent.len(), block)), block);
        if parts.is_empty() {
            if self.spares.iter().any(|spare| spare.refilling) {
                self.waiting.push(fault);
                return self.refill(now, policy);
            }
            parts.push(fault.extent);
        }
        let mut effects = Vec::new();
        for part in parts {
            let fault = Fault { extent: part, ..fault.clone() };
            let remap = self.take_spare(part);
            if remap.is_none() && self.spares.iter().any(|spare| spare.refilling) {
                self.waiting.push(fault);
                continue;
            }
            effects.push(self.open(now, fault, decision.clone(), remap, next_case));
        }
        effects.extend(self.refill(now, policy));
        effects
    }

    fn cures_under_way(&self) -> usize {
        self.cases.values().filter(|case| case.stage != Stage::Probing).count()
    }

    /// Faults that waited for spare space, or for others to be done.
    fn start_waiting(&mut self, now: Millis, policy: &Policy, next_case: &mut u64) -> Vec<Effect> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().flat_map(|fault| self.on_held(now, fault, policy, next_case)).collect()
    }

    fn take_spare(&mut self, main: Extent) -> Option<Remap> {
        let len = spare_len(main.len(), self.desc.block());
        let (index, taken) =
            self.spares.iter_mut().enumerate().find_map(|(index, spare)| spare.reserve.take(len).map(|taken| (index, taken)))?;
        Some(Remap { main, spare: index as u16, at: taken.start(), flags: RemapFlags { marked: true }, seq: 0 })
    }

    /// Opens a case: with a spare range it starts with the fence, without one it gives up.
    fn open(&mut self, now: Millis, fault: Fault, decision: Decision, remap: Option<Remap>, next_case: &mut u64) -> Effect {
        let id = CaseId(*next_case);
        *next_case += 1;
        let extent = fault.extent;
        let (stage, step, failure) = match (decision.action, remap) {
            (Action::Remap, Some(_)) => (Stage::Fencing, Step::Fence(extent), None),
            (Action::Remap, None) => {
                (Stage::Releasing, Step::GiveUp { extent, fence: None }, Some("no verified spare space is left".to_string()))
            }
            (Action::Observe, _) => (Stage::Releasing, Step::GiveUp { extent, fence: None }, Some(decision.reason.clone())),
        };
        let case =
            Case { id, fault, decision, stage, remap, fence: None, saved: Sectors(0), lost: Vec::new(), failure, tried_at: now };
        self.cases.insert(id, case);
        Effect::Step { set: self.id(), case: id, step }
    }

    /// An error went up to the application.
    fn on_failed(&mut self, now: Millis, failed: Failed, next_case: &mut u64) -> Vec<Effect> {
        if !is_unreadable(&failed) {
            self.counters.other_errors += failed.count;
            let kind = (failed.error.member, failed.error.op.word(), failed.error.class.word());
            if self.quiet.get(&kind).is_some_and(|until| now < *until) {
                return Vec::new();
            }
            self.quiet.insert(kind, Millis(now.0 + STORM_QUIET_MS));
            return vec![Effect::Record(self.error_entry(now, &failed, Vec::new()))];
        }
        self.counters.read_errors += failed.count;
        let Some(extent) = failed.extent else { return Vec::new() };
        let quiet = self.read_errors.get(&extent.start()).is_some_and(|at| now.0 < at.0 + READ_ERROR_QUIET_MS);
        self.read_errors.insert(extent.start(), now);
        self.read_errors.retain(|_, at| now.0 < at.0 + HOUR);
        let Some(blocks) = whole_blocks(extent, self.desc.block(), self.desc.main.sectors) else { return Vec::new() };
        if quiet || self.cases.values().any(|case| case.fault.extent.overlaps(&blocks)) {
            return Vec::new();
        }
        let id = CaseId(*next_case);
        *next_case += 1;
        let fault = Fault {
            set: self.id(),
            member: Member::Main,
            op: Op::Read,
            extent,
            class: failed.error.class,
            held: false,
            covered: Vec::new(),
            late: false,
            at: now,
        };
        let decision = Decision {
            action: Action::Observe,
            rule: "read_error".into(),
            reason: "a failed read is recorded; the sectors heal when they are next written".into(),
        };
        let case = Case {
            id,
            fault,
            decision,
            stage: Stage::Probing,
            remap: None,
            fence: None,
            saved: Sectors(0),
            lost: Vec::new(),
            failure: None,
            tried_at: now,
        };
        self.cases.insert(id, case);
        vec![Effect::Probe { set: self.id(), case: id, extent }]
    }

    /// A held write got its error. Where a case covers it, the case tells the story.
    fn on_given_up(&mut self, now: Millis, extent: Option<Extent>, class: ErrorClass) -> Vec<Effect> {
        let Some(extent) = extent else { return Vec::new() };
        let under_way = self.cases.values_mut().filter(|case| case.stage != Stage::Probing).map(|case| &mut case.fault);
        let mut known = false;
        for fault in under_way.chain(&mut self.waiting).filter(|fault| fault.extent.overlaps(&extent)) {
            fault.late = true;
            known = true;
        }
        if known || self.remap_over(&extent) {
            return Vec::new();
        }
        self.counters.given_up += 1;
        let decision = Decision {
            action: Action::Observe,
            rule: "target/hold".into(),
            reason: "the bound of the hold passed before a cure was ready".into(),
        };
        let reason = format!("the waiting write got its {class} error");
        let evidence = self.evidence(now, &extent);
        vec![Effect::Record(self.entry(now, What::NotRemapped { extent, decision, reason, evidence }))]
    }

    fn on_done(&mut self, now: Millis, id: CaseId, outcome: Outcome, policy: &Policy, next_case: &mut u64) -> Vec<Effect> {
        let set = self.id();
        let Some(mut case) = self.cases.remove(&id) else { return Vec::new() };
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
                let mut effects = self.end(now, case, policy);
                effects.extend(self.start_waiting(now, policy, next_case));
                return effects;
            }
        };
        self.cases.insert(id, case);
        vec![Effect::Step { set, case: id, step }]
    }

    /// The spare extent is bad: go on with another one under the same fence, or give up.
    fn on_spare_failed(&mut self, now: Millis, mut case: Case, failed: Remap, fence: FenceId, reason: String) -> Vec<Effect> {
        let (set, id) = (self.id(), case.id);
        let extent =
            Extent::new(failed.at, spare_len(failed.main.len(), self.desc.block())).expect("it was taken from the reserve");
        case.remap = self.take_spare(failed.main);
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
    fn end(&mut self, now: Millis, case: Case, policy: &Policy) -> Vec<Effect> {
        let mut evidence = self.evidence(now, &case.fault.extent);
        if self.read_errors.range(case.fault.extent.start()..case.fault.extent.end()).next().is_some() {
            evidence.push("an earlier read of these sectors failed".into());
        }
        match (case.stage, case.remap) {
            (Stage::Probing, _) => {
                let failed = Failed { error: read_error(&case), count: 1, extent: Some(case.fault.extent) };
                vec![Effect::Record(self.error_entry(now, &failed, case.lost))]
            }
            (Stage::Mapping, Some(remap)) => {
                if case.fault.late {
                    self.counters.given_up += 1;
                    evidence.push("too late for the write that started it: it had got its error".into());
                } else {
                    self.counters.cured += 1;
                }
                let brought =
                    |sector: &Sector| !case.fault.late && case.fault.covered.iter().any(|extent| extent.contains(*sector));
                let lost = case.lost.iter().filter(|sector| !brought(sector)).copied().collect();
                self.insert(remap);
                self.spent.push_back((now, spare_len(remap.main.len(), self.desc.block()).0 / self.desc.block().0));
                let what = What::Remapped {
                    remap,
                    saved: case.saved,
                    lost,
                    decision: case.decision,
                    class: case.fault.class,
                    took_ms: now.0.saturating_sub(case.fault.at.0),
                    evidence,
                };
                let mut effects = vec![
                    Effect::MarkInUse { set: self.id(), remap },
                    Effect::Record(self.entry(now, what)),
                    Effect::SampleSmart { set: self.id() },
                ];
                effects.extend(self.usage_alert(now, remap.spare, policy));
                effects.extend(self.refill(now, policy));
                effects
            }
            (_, taken) => {
                if let Some(remap) = taken {
                    let len = spare_len(remap.main.len(), self.desc.block());
                    let extent = Extent::new(remap.at, len).expect("it was taken from the reserve");
                    self.spares[remap.spare as usize].reserve.add([extent]);
                }
                self.counters.given_up += 1;
                let reason = case.failure.unwrap_or_default();
                vec![Effect::Record(
                    self.entry(now, What::NotRemapped { extent: case.fault.extent, decision: case.decision, reason, evidence }),
                )]
            }
        }
    }

    /// Steps that must come to an end are tried again.
    pub(super) fn tick(&mut self, now: Millis) -> Vec<Effect> {
        let set = self.id();
        while self.spent.front().is_some_and(|(at, _)| at.0 + 24 * HOUR < now.0) {
            self.spent.pop_front();
        }
        let mut effects = Vec::new();
        for case in self.cases.values_mut() {
            if case.tried_at.0 == u64::MAX || now.0 < case.tried_at.0 + RETRY_MS || case.failure.is_none() {
                continue;
            }
            let step = match (case.stage, case.remap, case.fence) {
                (Stage::Settling, Some(remap), _) => Step::Settle(remap),
                (Stage::Mapping, Some(remap), Some(fence)) => Step::AddRemap { remap, fence },
                (Stage::Releasing, _, fence @ Some(_)) => Step::GiveUp { extent: case.fault.extent, fence },
                _ => continue,
            };
            case.tried_at = Millis(u64::MAX);
            effects.push(Effect::Step { set, case: case.id, step });
        }
        effects
    }

    fn insert(&mut self, remap: Remap) {
        assert!(!self.remap_over(&remap.main), "two remaps of one main sector: {remap:?}");
        self.spares[remap.spare as usize].in_use.0 += remap.main.len().0;
        self.remaps.insert(remap.main.start(), remap);
    }

    fn remap_over(&self, extent: &Extent) -> bool {
        let before = self.remaps.range(..extent.end()).next_back();
        before.is_some_and(|(_, remap)| remap.main.overlaps(extent))
    }

    fn ledger(&self, now: Millis, blocks_wanted: u64) -> Ledger {
        let since = |ms: u64| -> u64 { self.spent.iter().filter(|(at, _)| at.0 + ms > now.0).map(|(_, blocks)| blocks).sum() };
        let open = self.cases.values().filter_map(|case| case.remap);
        let under_way: u64 = open.map(|remap| spare_len(remap.main.len(), self.desc.block()).0 / self.desc.block().0).sum();
        Ledger {
            blocks_last_hour: since(HOUR) + under_way,
            blocks_last_day: since(24 * HOUR) + under_way,
            blocks_wanted,
            ready: Sectors(self.spares.iter().map(|spare| spare.reserve.total().0).sum()),
        }
    }

    fn usage_alert(&mut self, now: Millis, spare: u16, policy: &Policy) -> Option<Effect> {
        let state = &mut self.spares[spare as usize];
        let percent = (state.in_use.0.saturating_mul(100) / state.capacity.0.max(1)).min(100) as u8;
        let level = policy.spare.alert_percent.iter().copied().filter(|&level| level <= percent).max()?;
        if level <= state.alerted {
            return None;
        }
        state.alerted = level;
        Some(Effect::Record(self.alert(now, format!("spare {spare} is {percent} % used: plan its replacement or add another"))))
    }

    fn error_entry(&self, now: Millis, failed: &Failed, unreadable: Vec<Sector>) -> Entry {
        let error = &failed.error;
        let meaning = match (error.op, error.class.may_be_medium()) {
            (Op::Read, true) => {
                "the application got the error, not wrong data; the sectors heal when they are next written".to_string()
            }
            (_, false) => format!("a {} error says nothing about the medium: no spare is spent on it", error.class),
            (op, true) => format!("the failed {op} was passed to the application"),
        };
        let evidence = failed.extent.map(|extent| self.evidence(now, &extent)).unwrap_or_default();
        let (member, op, class) = (error.member, error.op, error.class);
        self.entry(now, What::Error { member, op, extent: failed.extent, class, unreadable, meaning, evidence })
    }

    /// What other sources said about these sectors lately, and the members' last SMART samples.
    fn evidence(&self, now: Millis, extent: &Extent) -> Vec<String> {
        let recent = self.notes.iter().filter(|note| now.0 < note.at.0 + 60_000);
        let fitting = recent.filter(|note| note.sector.is_some_and(|sector| extent.contains(sector)));
        let mut lines: Vec<String> = fitting.map(|note| note.text.clone()).collect();
        lines.dedup();
        lines.reverse();
        lines.truncate(3);
        lines.reverse();
        lines.extend(self.smart.get(&Member::Main).cloned());
        lines
    }

    pub(super) fn alert(&self, now: Millis, message: String) -> Entry {
        self.entry(now, What::Alert { message })
    }

    fn entry(&self, at: Millis, what: What) -> Entry {
        Entry { number: 0, at, set: self.id(), name: self.desc.name.clone(), what }
    }

    /// The invariants of a set: S6 on main and on every spare, and no spare sector both waiting and in use.
    pub(super) fn check(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let remaps: Vec<&Remap> = self.remaps.values().collect();
        assert!(remaps.windows(2).all(|pair| pair[0].main.end() <= pair[1].main.start()), "remaps overlap on main");
        let under_way = self.cases.values().filter(|case| case.stage != Stage::Probing).filter_map(|case| case.remap);
        let mut used: Vec<(u16, Extent)> = remaps.iter().map(|remap| (remap.spare, remap.spare_extent())).collect();
        used.extend(under_way.map(|remap| (remap.spare, remap.spare_extent())));
        used.sort();
        assert!(
            used.windows(2).all(|pair| pair[0].0 != pair[1].0 || pair[0].1.end() <= pair[1].1.start()),
            "remaps overlap on a spare"
        );
        for (spare, extent) in used {
            assert!(!self.spares[spare as usize].reserve.overlaps(&extent), "a spare sector waits and is in use");
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
        (Stage::Probing, ..) => Next::End,
        (_, Outcome::Failed(reason), ..) => give_up(case, reason),
        (_, outcome, ..) => give_up(case, format!("unexpected answer: {outcome:?}")),
    }
}

fn salvage(case: &Case, fence: FenceId, remap: Remap) -> Step {
    let covered = case.fault.covered.iter().filter(|extent| extent.overlaps(&remap.main)).copied().collect();
    Step::Salvage { fence, remap, medium: case.fault.class == ErrorClass::Medium, covered }
}

fn read_error(case: &Case) -> crate::model::TargetError {
    crate::model::TargetError {
        seq: 0,
        kind: crate::model::TargetErrorKind::Failed,
        op: Op::Read,
        member: Member::Main,
        main: Some(case.fault.extent),
        member_sector: case.fault.extent.start(),
        class: case.fault.class,
        age_ms: 0,
        read_ahead: false,
    }
}
