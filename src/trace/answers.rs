//! How steps ended then, to be given again where the same is done again; what was never done is assumed.

use super::Line;
use crate::engine::{CaseId, Event, Outcome, Step};
use crate::model::{Extent, Millis, Remap, Sector, Sectors, SetId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A case belongs to one of the trace if that began at most this much later, ms.
const SAME_MS: u64 = 30_000;

/// As many sectors at most are assumed not to read where nobody looked.
const MOST_ASSUMED: u64 = 4_096;

/// What a case is about: the set, whether it only looks, and the range on main.
type About = (SetId, bool, Extent);

/// A case of the trace.
#[derive(Debug)]
struct Known {
    line: usize,
    at: Millis,
    /// Line and outcome.
    outcomes: VecDeque<(usize, Outcome)>,
}

/// All that is known of outcomes.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Cases of the trace that nobody has claimed, by what they are about.
    unclaimed: BTreeMap<About, VecDeque<Known>>,
    /// Those of the trace that cases of the simulation have claimed.
    claimed: BTreeMap<CaseId, Known>,
    /// Sectors of main that did not read at some time.
    unreadable: BTreeSet<(SetId, Sector)>,
    fences: u64,
    commits: u64,
}

/// An outcome, when it is to come, and whether it is assumed.
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// The line of the trace where it was; at once if none.
    pub(super) line: Option<usize>,
    pub(super) assumed: bool,
}

impl Answers {
    pub(super) fn of(lines: &[Line]) -> Answers {
        let mut answers = Answers::default();
        let mut open: BTreeMap<(SetId, CaseId), (About, usize)> = BTreeMap::new();
        let mut now = Millis(0);
        for (number, line) in lines.iter().enumerate() {
            match line {
                Line::Case { set, case, extent, probe } => {
                    let about = (*set, *probe, *extent);
                    let known = answers.unclaimed.entry(about).or_default();
                    open.entry((*set, *case)).or_insert_with(|| {
                        known.push_back(Known { line: number, at: now, outcomes: VecDeque::new() });
                        (about, known.len() - 1)
                    });
                }
                Line::Event { at, event } => {
                    now = *at;
                    let Event::Done { set, case, outcome } = event.as_ref() else { continue };
                    let found =
                        open.get(&(*set, *case)).and_then(|(about, index)| answers.unclaimed.get_mut(about)?.get_mut(*index));
                    if let Some(known) = found {
                        known.outcomes.push_back((number, outcome.clone()));
                    }
                    let (Outcome::Probed { unreadable: lost } | Outcome::Salvaged { lost, .. }) = outcome else { continue };
                    answers.unreadable.extend(lost.iter().map(|sector| (*set, *sector)));
                }
                _ => {}
            }
        }
        answers
    }

    /// A case begins in the simulation at this line: it is one of the trace if that was about the same.
    pub(super) fn claim(&mut self, case: CaseId, about: About, line: usize, now: Millis) {
        let Some(known) = self.unclaimed.get_mut(&about) else { return };
        while known.front().is_some_and(|known| known.line < line) {
            known.pop_front();
        }
        if known.front().is_some_and(|known| known.at.0 <= now.0 + SAME_MS) {
            self.claimed.extend(known.pop_front().map(|known| (case, known)));
        }
    }

    fn then(&mut self, case: CaseId, fits: impl Fn(&Outcome) -> bool) -> Option<Answer> {
        let known = self.claimed.get_mut(&case)?;
        let (line, outcome) =
            known.outcomes.front().is_some_and(|(_, next)| fits(next)).then(|| known.outcomes.pop_front())??;
        Some(Answer { outcome, line: Some(line), assumed: false })
    }

    /// How a step ends.
    pub(super) fn step(&mut self, set: SetId, case: CaseId, step: &Step) -> Answer {
        use Outcome::{
            Committed, Failed, Fenced, Live, NotCommitted, Released, Salvaged, Sealed, SpareFailed, Unknown, Unmapped,
        };
        let then = self.then(case, |outcome| match step {
            Step::Fence(_) => matches!(outcome, Fenced(_) | Failed(_)),
            Step::Salvage { .. } => matches!(outcome, Salvaged { .. } | SpareFailed(_) | Failed(_)),
            Step::Seal(_) => matches!(outcome, Sealed | Failed(_)),
            Step::Commit(_) | Step::Unrecord(_) => matches!(outcome, Committed(_) | NotCommitted(_) | Unknown(_)),
            Step::Settle(_) => matches!(outcome, NotCommitted(_) | Unknown(_)),
            Step::AddRemap { .. } => matches!(outcome, Live | Failed(_)),
            Step::RemoveRemap { .. } => matches!(outcome, Unmapped { .. } | Failed(_)),
            Step::GiveUp { .. } | Step::Lift(_) => matches!(outcome, Released | Failed(_)),
        });
        let mut answer = then.unwrap_or_else(|| {
            let outcome = match step {
                Step::Fence(_) => Fenced(0),
                Step::Salvage { remap, from, covered, .. } => self.salvaged(set, remap, from.is_some(), covered),
                Step::Seal(_) => Sealed,
                Step::Commit(remap) | Step::Unrecord(remap) => Committed(*remap),
                Step::Settle(_) => NotCommitted("it is assumed that the record is not there".into()),
                Step::AddRemap { .. } => Live,
                Step::RemoveRemap { .. } => Unmapped { free: true },
                Step::GiveUp { .. } | Step::Lift(_) => Released,
            };
            // That a write gets its error needs no assumption.
            Answer { outcome, line: None, assumed: !matches!(step, Step::GiveUp { .. }) }
        });
        // The place may be another one than then.
        match (&mut answer.outcome, step) {
            (Fenced(fence), _) => {
                self.fences += 1;
                *fence = self.fences;
            }
            (Committed(remap), Step::Commit(wanted)) => {
                self.commits += 1;
                *remap = Remap { seq: self.commits, ..*wanted };
            }
            (Committed(remap), Step::Unrecord(wanted)) => *remap = *wanted,
            _ => {}
        }
        answer
    }

    /// What did not read at some time does not, the rest does.
    fn salvaged(&self, set: SetId, remap: &Remap, from_spare: bool, covered: &[Extent]) -> Outcome {
        let extent = remap.main;
        let bad = self.unreadable.range((set, extent.start())..(set, extent.end())).map(|(_, sector)| *sector);
        let brought = |sector: &Sector| covered.iter().any(|extent| extent.contains(*sector));
        let lost: Vec<Sector> = if from_spare { Vec::new() } else { bad.filter(|sector| !brought(sector)).collect() };
        let saved = Sectors(extent.len().0 - lost.len() as u64);
        Outcome::Salvaged { saved, marked: !lost.is_empty(), lost }
    }

    /// Whether it is written down that a remap is about to go back to main.
    pub(super) fn announced(&mut self, case: CaseId) -> Answer {
        let then = self.then(case, |outcome| matches!(outcome, Outcome::Announced | Outcome::Failed(_)));
        then.unwrap_or(Answer { outcome: Outcome::Announced, line: None, assumed: true })
    }

    /// Whether what a spare holds can go back to main: what is lost cannot.
    pub(super) fn returned(&mut self, case: CaseId, remap: &Remap) -> Answer {
        let then = self.then(case, |outcome| matches!(outcome, Outcome::BroughtBack(_) | Outcome::Failed(_)));
        then.unwrap_or_else(|| {
            self.fences += 1;
            let lost = Outcome::Failed("it is assumed that sectors of it are lost".into());
            let outcome = if remap.flags.marked { lost } else { Outcome::BroughtBack(self.fences) };
            Answer { outcome, line: None, assumed: true }
        })
    }

    /// What a look at a range finds.
    pub(super) fn probe(&mut self, set: SetId, case: CaseId, extent: Extent) -> Answer {
        let then = self.then(case, |outcome| matches!(outcome, Outcome::Probed { .. } | Outcome::Failed(_)));
        then.unwrap_or_else(|| {
            let mut unreadable: Vec<Sector> =
                self.unreadable.range((set, extent.start())..(set, extent.end())).map(|(_, sector)| *sector).collect();
            if unreadable.is_empty() {
                unreadable = (extent.start().0..extent.end().0).take(MOST_ASSUMED as usize).map(Sector).collect();
            }
            Answer { outcome: Outcome::Probed { unreadable }, line: None, assumed: true }
        })
    }
}
