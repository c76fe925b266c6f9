//! What was decided then, beside what is decided in the simulation.

use crate::model::{Action, Entry, ErrorClass, Extent, Member, Millis, Op, Sectors, SetId, SetName, TargetError, What};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// Errors remembered to tell what a cure was about.
const REMEMBERED: usize = 4_096;

/// What came of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// When, ms since boot.
    pub at: Millis,
    /// What policy said; recorded errors are observed.
    pub action: Action,
    /// The rule.
    pub rule: String,
    /// Why, for people.
    pub reason: String,
    /// Cure blocks of a spare that it took.
    pub spent: u64,
    /// Sectors that were lost.
    pub lost: u64,
    /// How it went is assumed: nobody has tried.
    pub assumed: bool,
}

/// One fault and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The set.
    pub set: SetName,
    /// The range on main; none for a flush.
    pub extent: Option<Extent>,
    /// The disk, the kind of I/O and the error class, where they are known.
    pub fault: String,
    /// What came of it; none if nothing was decided.
    pub then: Option<Told>,
    /// What comes of it in the simulation.
    pub now: Option<Told>,
}

/// Both sides.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    rows: Vec<Compared>,
    /// Rows whose other side is open, by set, what they tell of, and first sector.
    then: BTreeMap<Key, VecDeque<usize>>,
    now: BTreeMap<Key, VecDeque<usize>>,
    errors: VecDeque<(SetId, TargetError)>,
}

type Key = (SetId, Kind, Option<u64>);

/// What an entry tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Error,
    Cure,
    Unremap,
}

/// Whose side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Then,
    /// `true`: assumed.
    Now(bool),
}

impl Comparison {
    pub(super) fn errors(&mut self, set: SetId, records: &[TargetError]) {
        self.errors.extend(records.iter().rev().take(REMEMBERED).rev().map(|record| (set, record.clone())));
        self.errors.drain(..self.errors.len().saturating_sub(REMEMBERED));
    }

    /// Takes an entry of the history at `now`, if it tells of a decision.
    pub(super) fn add(&mut self, side: Side, now: Millis, entry: &Entry, block: Sectors) {
        let Some((extent, fault, told)) = self.told(side, now, entry, block) else { return };
        let kind = match entry.what {
            What::Error { .. } => Kind::Error,
            What::Unremapped { .. } | What::StaysRemapped { .. } => Kind::Unremap,
            _ => Kind::Cure,
        };
        let key: Key = (entry.set, kind, extent.map(|extent| extent.start().0));
        let (own, other) = match side {
            Side::Then => (&mut self.then, &mut self.now),
            Side::Now(_) => (&mut self.now, &mut self.then),
        };
        let index = other.get_mut(&key).and_then(VecDeque::pop_front).unwrap_or_else(|| {
            own.entry(key).or_default().push_back(self.rows.len());
            self.rows.push(Compared { set: entry.name.clone(), extent, fault, then: None, now: None });
            self.rows.len() - 1
        });
        let row = &mut self.rows[index];
        match side {
            Side::Then => row.then = Some(told),
            Side::Now(_) => row.now = Some(told),
        }
    }

    fn told(&self, side: Side, at: Millis, entry: &Entry, block: Sectors) -> Option<(Option<Extent>, String, Told)> {
        let blocks = |extent: &Extent| extent.len().0.div_ceil(block.0.max(1));
        let assumed = side == Side::Now(true);
        let told = |decision: &crate::model::Decision, spent, lost: u64, reason: &str| Told {
            at,
            action: decision.action,
            rule: decision.rule.clone(),
            reason: reason.to_owned(),
            spent,
            lost,
            assumed,
        };
        Some(match &entry.what {
            What::Remapped { remap, lost, decision, class, .. } | What::Relocated { remap, lost, decision, class, .. } => {
                let told = told(decision, blocks(&remap.main), lost.len() as u64, &decision.reason);
                let moved = matches!(entry.what, What::Relocated { .. });
                let from = if moved { Member::Spare(remap.spare) } else { Member::Main };
                (Some(remap.main), self.fault(entry.set, &remap.main, &decision.rule, Some(from), Some(*class)), told)
            }
            What::NotRemapped { extent, decision, reason, .. } => {
                let told = told(decision, 0, 0, reason);
                (Some(*extent), self.fault(entry.set, extent, &decision.rule, None, None), told)
            }
            What::Error { member, op, extent, class, unreadable, meaning, .. } => {
                let (action, rule) = (Action::Observe, "recorded".to_owned());
                let (reason, lost) = (meaning.clone(), unreadable.len() as u64);
                let told = Told { at, action, rule, reason, spent: 0, lost, assumed };
                (*extent, words(*member, *op, *class), told)
            }
            What::Unremapped { remap, decision, .. } => {
                (Some(remap.main), "back to main".into(), told(decision, 0, 0, &decision.reason))
            }
            What::StaysRemapped { remap, decision, reason } => {
                let stays = Told { action: Action::Observe, ..told(decision, 0, 0, reason) };
                (Some(remap.main), "back to main".into(), stays)
            }
            _ => return None,
        })
    }

    /// What a cure was about.
    fn fault(&self, set: SetId, extent: &Extent, rule: &str, member: Option<Member>, class: Option<ErrorClass>) -> String {
        if rule == "operator" {
            return "an operator asked".into();
        }
        let over = |error: &TargetError| error.main.is_some_and(|main| main.overlaps(extent));
        let error = self.errors.iter().rev().find(|(of, error)| *of == set && over(error)).map(|(_, error)| error);
        match (error, class) {
            (Some(error), class) => words(member.unwrap_or(error.member), error.op, class.unwrap_or(error.class)),
            (None, Some(class)) => format!("{} {class}", member.unwrap_or(Member::Main)),
            (None, None) => "unknown".into(),
        }
    }

    /// In order of time.
    pub(super) fn rows(mut self) -> Vec<Compared> {
        self.rows.sort_by_key(|row| row.then.iter().chain(&row.now).map(|told| told.at).min());
        self.rows
    }
}

fn words(member: Member, op: Op, class: ErrorClass) -> String {
    format!("{op} on {member}: {class}")
}
