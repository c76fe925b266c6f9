//! Errors that nothing waits for: what is looked at more closely, what is recorded, and with which evidence.

use super::Effect;
use super::Part;
use super::case::{Case, CaseId, Stage};
use super::set::{HOUR, SetState};
use crate::model::*;
use crate::plan::pieces;
use crate::triage::{Failed, is_unreadable, whole_blocks};

/// A read error on the same sectors is written to history at most this often, ms.
const READ_ERROR_QUIET_MS: u64 = 60_000;

/// So often in that time a block is tried again for reads that wait: a disk that reads now and then must not be tried all day.
const LOOKS: u8 = 3;

/// With so many looks to come a read would wait for its bound, and for nothing.
const PROBES: usize = 4;

/// So many looks wait for the disk at most. Each takes as long as its bad sectors do.
const MOST_PROBES: usize = 64;

/// How often a block was tried again for reads that waited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks {
    /// The first time.
    pub since: Millis,
    pub count: u8,
}

impl Looks {
    fn is_fresh(self, now: Millis) -> bool {
        now.0 < self.since.0 + READ_ERROR_QUIET_MS
    }
}

fn recorded() -> Decision {
    Decision {
        action: Action::Observe,
        rule: "read_error".into(),
        reason: "a failed read is recorded; what does not read heals when it is next written".into(),
    }
}

/// Errors of one kind that say nothing about the medium are written to history at most this often, ms.
const STORM_QUIET_MS: u64 = 10_000;

/// How long after we gave up a held write the target's word of it may come, ms; it is looked for every second.
const RELEASED_MS: u64 = 10_000;

/// The rule by which what is found before an application meets it is decided.
const fn rule(by: Finder) -> &'static str {
    match by {
        Finder::Scrub => "scrub",
        Finder::Drive => "drive",
        Finder::Map => "map",
    }
}

/// Who has found what a case is about, if it was found so.
pub(super) fn finder(rule: &str) -> Option<Finder> {
    [Finder::Scrub, Finder::Drive, Finder::Map].into_iter().find(|by| self::rule(*by) == rule)
}

/// As a beginning of a sentence.
fn found_by(by: Finder) -> &'static str {
    match by {
        Finder::Scrub => "a scrub found it",
        Finder::Map => "a map of ddrescue calls it bad, and it did not read when tried",
        Finder::Drive => "the drive itself calls it bad, and it did not read when tried",
    }
}

/// As many are remembered.
const RELEASED: usize = 256;

impl SetState {
    /// An error went up to the application.
    pub(super) fn on_failed(&mut self, now: Millis, failed: Failed, next_case: &mut u64) -> Vec<Effect> {
        if !is_unreadable(&failed) {
            self.counters.other_errors += failed.count;
            let mut effects = Vec::new();
            let kind = (failed.error.member, failed.error.op.word(), failed.error.class.word());
            if self.quiet.get(&kind).is_none_or(|until| *until <= now) {
                self.quiet.insert(kind, Millis(now.0 + STORM_QUIET_MS));
                effects.push(Effect::Record(self.error_entry(now, &failed, Vec::new())));
            }
            effects.extend(self.scrub_after(now, &failed.error));
            effects.extend(self.on_spare_error(now, &failed.error, failed.extent, next_case));
            return effects;
        }
        self.counters.read_errors += failed.count;
        let Some(extent) = failed.extent else { return Vec::new() };
        let quiet = self.read_errors.get(&extent.start()).is_some_and(|at| now.0 < at.0 + READ_ERROR_QUIET_MS);
        self.read_errors.insert(extent.start(), now);
        self.read_errors.retain(|_, at| now.0 < at.0 + HOUR);
        if quiet {
            return Vec::new();
        }
        if self.looks_under_way() >= MOST_PROBES {
            return vec![Effect::Record(self.error_entry(now, &failed, Vec::new()))];
        }
        self.look_closer(now, self.fault(Member::Main, Op::Read, extent, failed.error.class, now), recorded(), false, next_case)
    }

    fn looks_under_way(&self) -> usize {
        self.cases.values().filter(|case| case.stage == Stage::Probing).count()
    }

    /// An application's read waits. What another look may show to read is looked at; what has been shown not to gets its error.
    pub(super) fn on_held_read(&mut self, now: Millis, fault: &Fault, next_case: &mut u64) -> Vec<Effect> {
        let (set, block) = (self.id(), self.desc.block());
        let (mut effects, mut never) = (Vec::new(), Vec::new());
        // Which blocks to look at, and whether they were lately.
        let mut parts: [Vec<Extent>; 2] = Default::default();
        self.looks.retain(|_, looks| looks.is_fresh(now));
        let probes = self.looks_under_way();
        // Whoever is about to move a block tries again what waits there, or gives it its error.
        for part in self.new_parts(fault, &mut effects) {
            for piece in pieces(part, block, block) {
                let of = |case: &&mut Case| case.stage == Stage::Probing && case.fault.extent.overlaps(&piece);
                if let Some(case) = self.cases.values_mut().find(of) {
                    case.fault.held = true;
                    continue;
                }
                let looks = self.looks.entry(piece.start()).or_insert(Looks { since: now, count: 0 });
                if looks.count >= LOOKS || probes >= PROBES || self.storm.errors() > 0 {
                    piece.add_to(&mut never);
                    continue;
                }
                piece.add_to(&mut parts[usize::from(looks.count > 0)]);
                looks.count += 1;
            }
        }
        effects.extend(never.into_iter().map(|extent| Effect::ReleaseReads { set, extent }));
        for (told, parts) in [false, true].into_iter().zip(parts) {
            for extent in parts {
                effects.extend(self.look_closer(now, Fault { extent, ..fault.clone() }, recorded(), told, next_case));
            }
        }
        effects
    }

    /// What waits for a look at main that has ended: what reads is read again, what does not gets its error. What does not and is about
    /// to be moved goes on waiting.
    pub(super) fn answer_reads(&mut self, now: Millis, case: &Case, moving: &[Fault]) -> Vec<Effect> {
        let (set, block) = (self.id(), self.desc.block());
        let whole = whole_blocks(case.fault.extent, block, self.desc.main.sectors);
        let Some(whole) = whole.filter(|_| case.stage == Stage::Probing && case.fault.held) else { return Vec::new() };
        let (mut again, mut never): (Vec<Extent>, Vec<Extent>) = Default::default();
        let moves = |piece: &Extent| {
            moving.iter().any(|fault| fault.extent.overlaps(piece)) || self.cases.values().any(|case| case.cures(piece))
        };
        let mut shown = Vec::new();
        for piece in pieces(whole, block, block) {
            if case.failure.is_none() && !case.lost.iter().any(|sector| piece.contains(*sector)) {
                piece.add_to(&mut again);
            } else if !moves(&piece) {
                shown.push((piece.start(), Looks { since: now, count: LOOKS }));
                piece.add_to(&mut never);
            }
        }
        self.looks.extend(shown);
        let never = never.into_iter().map(|extent| Effect::ReleaseReads { set, extent });
        never.chain(again.into_iter().map(|extent| Effect::Retry { set, extent })).collect()
    }

    /// A held read got its error, from us, or because its bound passed or nobody was heard of.
    fn on_read_given_up(&mut self, now: Millis, error: &TargetError, extent: Extent, next_case: &mut u64) -> Vec<Effect> {
        let mut known =
            self.looks.range(extent.align_outward(self.desc.block()).map_or(extent.start(), |e| e.start())..extent.end());
        let known = known.any(|(_, looks)| looks.is_fresh(now) && looks.count > 0);
        for case in self.cases.values_mut().filter(|case| case.fault.op == Op::Read && case.fault.extent.overlaps(&extent)) {
            case.fault.late = true;
        }
        if !known {
            return self.on_failed(now, Failed { error: error.clone(), count: 1, extent: Some(extent) }, next_case);
        }
        self.counters.read_errors += 1;
        Vec::new()
    }

    /// A drive that could not write what it had in its cache says so at a flush, and not where (S2).
    fn scrub_after(&mut self, now: Millis, error: &TargetError) -> Option<Effect> {
        let lost = error.op == Op::Flush && error.class.may_be_medium();
        if lost { self.scrub_if_due(now) } else { None }
    }

    /// Once an hour at most.
    fn scrub_if_due(&mut self, now: Millis) -> Option<Effect> {
        let due = self.scrub_due.is_none_or(|due| due <= now);
        due.then(|| {
            self.scrub_due = Some(Millis(now.0 + HOUR));
            Effect::Scrub { set: self.id() }
        })
    }

    /// A flush failed that its driver repeats. A drive that has forgotten what it could not write says yes then: what it had
    /// acknowledged is gone, and neither the target nor an application hears of it.
    pub(super) fn flushed_in_vain(&mut self, now: Millis, member: Member, line: &str) -> Vec<Effect> {
        if self.flush_told.is_some_and(|at| now.0 < at.0 + HOUR) {
            return Vec::new();
        }
        self.flush_told = Some(now);
        let words = format!(
            "{member} failed a flush, and its driver asks again: writes that it had acknowledged may be lost without an error to anybody; \
             compare what was written lately with a copy, and replace the disk ({line})"
        );
        let scrub = self.scrub_if_due(now);
        std::iter::once(Effect::Record(self.alert(now, words))).chain(scrub).collect()
    }

    /// Sectors of a spare failed that serve main.
    fn on_spare_error(&mut self, now: Millis, error: &TargetError, extent: Option<Extent>, next_case: &mut u64) -> Vec<Effect> {
        let Some(extent) = extent.filter(|_| error.class.may_be_medium() && !self.is_stale(error)) else { return Vec::new() };
        let at = Millis(now.0.saturating_sub(error.age_ms));
        let fault = self.fault(error.member, error.op, extent, error.class, at);
        self.relocate(now, &fault, next_case)
    }

    /// A block does not read. On main it is looked at more closely.
    pub(super) fn on_found(&mut self, now: Millis, part: Part, by: Finder, next_case: &mut u64) -> Vec<Effect> {
        let (member, extent) = (part.member, part.main);
        if member == Member::Main {
            self.read_errors.insert(extent.start(), now);
            let decision = Decision {
                action: Action::Observe,
                rule: rule(by).into(),
                reason: format!("{}; the sectors heal when they are next written", found_by(by)),
            };
            let fault = self.fault(Member::Main, Op::Read, extent, ErrorClass::Medium, now);
            return self.look_closer(now, fault, decision, false, next_case);
        }
        let meaning = format!(
            "{}: sectors that a spare serves do not read there any more; they heal when they are next written",
            found_by(by)
        );
        let (op, class, unreadable) = (Op::Read, ErrorClass::Medium, Vec::new());
        let evidence = self.evidence(now, member, &extent);
        let what = What::Error { member, op, extent: Some(extent), class, unreadable, meaning, evidence };
        let mut effects = vec![Effect::Record(self.entry(now, what))];
        let fault = self.fault(member, op, extent, ErrorClass::Ioerr, now);
        // It may have moved while the scrub read.
        if self.serves(member, part.at.start(), extent) {
            effects.extend(self.relocate(now, &fault, next_case));
        }
        effects
    }

    /// A fault that no write waits for.
    pub(super) fn fault(&self, member: Member, op: Op, extent: Extent, class: ErrorClass, at: Millis) -> Fault {
        Fault { set: self.id(), member, op, extent, class, held: false, covered: Vec::new(), late: false, at }
    }

    /// Has the sectors found that do not read, unless a case is about them already.
    fn look_closer(&mut self, now: Millis, fault: Fault, decision: Decision, told: bool, next_case: &mut u64) -> Vec<Effect> {
        let extent = fault.extent;
        let Some(blocks) = whole_blocks(extent, self.desc.block(), self.desc.main.sectors) else { return Vec::new() };
        if self.cases.values().any(|case| case.fault.extent.overlaps(&blocks)) {
            return Vec::new();
        }
        let id = CaseId(*next_case);
        *next_case += 1;
        let case = Case {
            id,
            fault,
            decision,
            stage: Stage::Probing,
            remap: None,
            from: None,
            fence: None,
            saved: Sectors(0),
            lost: Vec::new(),
            failure: None,
            tried_at: now,
            told,
        };
        self.cases.insert(id, case);
        vec![Effect::Probe { set: self.id(), case: id, extent }]
    }

    /// A case has given held writes in this range their error.
    pub(super) fn remember_released(&mut self, now: Millis, extent: Extent) {
        self.released.push_back((now, extent));
        while self.released.len() > RELEASED || self.released.front().is_some_and(|(at, _)| at.0 + RELEASED_MS < now.0) {
            self.released.pop_front();
        }
    }

    /// What was held got its error. Where a case covers it, or has just given it up, the case tells the story.
    pub(super) fn on_given_up(&mut self, now: Millis, error: &TargetError, next_case: &mut u64) -> Vec<Effect> {
        let Some(extent) = error.main else { return Vec::new() };
        if error.op == Op::Read {
            return self.on_read_given_up(now, error, extent, next_case);
        }
        let class = error.class;
        let released = error.kind == TargetErrorKind::Released;
        if released && self.released.iter().any(|(at, of)| now.0 <= at.0 + RELEASED_MS && of.overlaps(&extent)) {
            return Vec::new();
        }
        let cures = |case: &&mut Case| case.stage != Stage::Probing && case.taken_back().is_none();
        let under_way = self.cases.values_mut().filter(cures).map(|case| &mut case.fault);
        let mut known = false;
        for fault in under_way.chain(&mut self.waiting).filter(|fault| fault.extent.overlaps(&extent)) {
            fault.late = true;
            known = true;
        }
        if known || (error.member == Member::Main && self.remap_over(&extent)) {
            return Vec::new();
        }
        self.counters.given_up += 1;
        let decision = Decision {
            action: Action::Observe,
            rule: "target/hold".into(),
            reason: if released {
                "the daemon was not heard of for so long that the kernel gave up what it held".into()
            } else {
                "the bound of the hold passed before a cure was ready".into()
            },
        };
        let reason = format!("the waiting write got its {class} error");
        let evidence = self.evidence(now, error.member, &extent);
        vec![Effect::Record(self.entry(now, What::NotRemapped { extent, decision, reason, evidence }))]
    }

    /// What was found so is no error that an application got.
    pub(super) fn found_entry(&self, now: Millis, case: &Case, by: Finder) -> Entry {
        let Fault { member, op, extent, class, .. } = case.fault;
        let meaning = format!("{}, before an application met it; the sectors heal when they are next written", found_by(by));
        let (unreadable, evidence) = (case.lost.clone(), self.evidence(now, member, &extent));
        self.entry(now, What::Error { member, op, extent: Some(extent), class, unreadable, meaning, evidence })
    }

    pub(super) fn error_entry(&self, now: Millis, failed: &Failed, unreadable: Vec<Sector>) -> Entry {
        let error = &failed.error;
        let meaning = match (error.op, error.class.may_be_medium()) {
            (Op::Read, true) if error.kind == TargetErrorKind::Held && unreadable.is_empty() => {
                "the application's read waited; the sectors read when they were tried again, and so does the application".to_string()
            }
            (Op::Read, true) => {
                "the application got the error, not wrong data; the sectors heal when they are next written".to_string()
            }
            (Op::Flush, true) => {
                "the failed flush was passed to the application; where the drive lost something it does not say, so a scrub looks \
                 for what does not read, once an hour at most"
                    .to_string()
            }
            (_, false) => format!("a {} error says nothing about the medium: no spare is spent on it", error.class),
            (op, true) => format!("the failed {op} was passed to the application"),
        };
        let evidence = failed.extent.map(|extent| self.evidence(now, error.member, &extent)).unwrap_or_default();
        let (member, op, class) = (error.member, error.op, error.class);
        self.entry(now, What::Error { member, op, extent: failed.extent, class, unreadable, meaning, evidence })
    }

    /// What other sources said about these sectors lately, and the last SMART sample of the disk that failed.
    pub(super) fn evidence(&self, now: Millis, member: Member, extent: &Extent) -> Vec<String> {
        let mut lines = self.notes.about(now, extent);
        lines.extend(self.smart.get(&member).cloned());
        lines
    }
}

pub(super) fn read_error(case: &Case) -> crate::model::TargetError {
    crate::model::TargetError {
        seq: 0,
        kind: if case.fault.held && !case.fault.late && case.failure.is_none() {
            TargetErrorKind::Held
        } else {
            TargetErrorKind::Failed
        },
        op: Op::Read,
        member: Member::Main,
        main: Some(case.fault.extent),
        member_sector: case.fault.extent.start(),
        class: case.fault.class,
        age_ms: 0,
        read_ahead: false,
    }
}
