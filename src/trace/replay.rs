//! Lets another policy decide about what a trace tells. The engine is the real one; nothing is carried out. How its steps end is
//! taken from the trace where the same was done then, and assumed elsewhere.

use super::answers::{Answer, Answers};
use super::compare::{Compared, Comparison, Side};
use super::space::Space;
use super::{Line, Trace};
use crate::engine::{CaseId, Effect, Engine, Event, Step};
use crate::model::{Extent, Millis, Remap, Sectors, SetDescription, SetId};
use crate::policy::Policy;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Space that was reserved then is waited for if it came at most this much later, ms.
const SOON_MS: u64 = 30_000;

/// What a simulation came to.
#[derive(Debug)]
pub struct Simulated {
    /// Every decision, in order of time.
    pub cases: Vec<Compared>,
    /// Cures that were under way when the trace began: what came of them is not compared.
    pub under_way: u64,
}

/// Lets `policy` decide.
pub fn simulate(trace: &Trace, policy: &Policy) -> Simulated {
    let under_way = trace.sets.iter().map(|set| set.under_way).fold(0, u64::saturating_add);
    let mut replay = Replay {
        trace,
        policy,
        engine: Engine::new(),
        answers: Answers::of(&trace.lines),
        reserved: reserved(trace),
        comparison: Comparison::default(),
        blocks: BTreeMap::new(),
        spaces: BTreeMap::new(),
        closed: BTreeMap::new(),
        open: BTreeSet::new(),
        guessed: BTreeSet::new(),
        due: BTreeMap::new(),
        order: 0,
        line: 0,
        now: trace.began,
    };
    replay.begin();
    for (number, line) in trace.lines.iter().enumerate() {
        replay.line = number;
        match line {
            Line::Event { at, event } => {
                replay.now = *at;
                replay.hear(event);
            }
            Line::Entry(entry) => {
                let block = replay.blocks.get(&entry.set).copied().unwrap_or(Sectors(8));
                replay.comparison.add(Side::Then, replay.now, entry, block);
            }
            _ => {}
        }
        replay.answer_until(number);
    }
    replay.answer_until(usize::MAX);
    Simulated { cases: replay.comparison.rows(), under_way }
}

/// Lines and times at which space of a spare came.
type Reserved = BTreeMap<(SetId, u16), VecDeque<(usize, Millis)>>;

fn reserved(trace: &Trace) -> Reserved {
    let mut reserved = Reserved::new();
    for (number, line) in trace.lines.iter().enumerate() {
        let Line::Event { at, event } = line else { continue };
        if let Event::Reserved { set, spare, .. } = event.as_ref() {
            reserved.entry((*set, *spare)).or_default().push_back((number, *at));
        }
    }
    reserved
}

struct Replay<'a> {
    trace: &'a Trace,
    policy: &'a Policy,
    engine: Engine,
    answers: Answers,
    reserved: Reserved,
    comparison: Comparison,
    blocks: BTreeMap<SetId, Sectors>,
    spaces: BTreeMap<(SetId, u16), Space>,
    /// What sets that are closed had moved.
    closed: BTreeMap<SetId, Vec<Remap>>,
    /// Cases that have begun.
    open: BTreeSet<CaseId>,
    /// Cases of which something is assumed.
    guessed: BTreeSet<CaseId>,
    /// What is still to come, by line of the trace and order.
    due: BTreeMap<(usize, u64), Event>,
    order: u64,
    line: usize,
    now: Millis,
}

impl Replay<'_> {
    fn begin(&mut self) {
        let mut sets = self.trace.sets.clone();
        for snapshot in &mut sets {
            let ready = |index: usize| snapshot.spares[index].ready.clone();
            self.learn(&snapshot.set, &snapshot.remaps, ready);
            snapshot.policy = self.policy.clone();
        }
        self.engine = Engine::resume(self.trace.sessions, sets);
    }

    /// A set is open: what is free on its spares?
    fn learn(&mut self, set: &SetDescription, remaps: &[Remap], ready: impl Fn(usize) -> Vec<Extent>) {
        let block = set.block();
        self.blocks.insert(set.id, block);
        for (index, geometry) in set.geometry.iter().enumerate() {
            let spare = index as u16;
            let serves = remaps.iter().filter(|remap| remap.spare == spare);
            // Whole blocks of a spare are taken, though the last one of main may be shorter.
            let whole = |remap: &Remap| Extent::new(remap.at, crate::plan::spare_len(remap.main.len(), block)).ok();
            let used = serves.filter_map(whole).chain(ready(index));
            self.spaces.insert((set.id, spare), Space::new(geometry.data, block, used));
        }
    }

    /// An event of the trace: what the world did stays, what the daemon did is done anew.
    fn hear(&mut self, event: &Event) {
        match event {
            Event::Done { .. } | Event::Policy { .. } | Event::Space { .. } | Event::Reserved { .. } => {}
            Event::Opened { set, remaps, capacity, .. } => {
                // Opened again, it has what this policy has moved.
                let known = self.engine.set(set.id).map(|state| state.remaps().copied().collect::<Vec<_>>());
                let remaps = known.or_else(|| self.closed.remove(&set.id)).unwrap_or_else(|| remaps.clone());
                self.learn(set, &remaps, |_| Vec::new());
                let (set, capacity, policy) = (set.clone(), capacity.clone(), Box::new(self.policy.clone()));
                self.apply(Event::Opened { set, remaps, capacity, policy }, false);
            }
            Event::Closed { set, .. } => {
                let remaps = self.engine.set(*set).map(|state| state.remaps().copied().collect());
                self.closed.extend(remaps.map(|remaps| (*set, remaps)));
                self.apply(event.clone(), false);
            }
            Event::Errors { set, records, .. } => {
                self.comparison.errors(*set, records);
                self.apply(event.clone(), false);
            }
            other => self.apply(other.clone(), false),
        }
    }

    fn answer_until(&mut self, line: usize) {
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= line) {
            let event = entry.remove();
            let guessed = matches!(&event, Event::Done { case, .. } if self.guessed.contains(case));
            self.apply(event, guessed);
        }
    }

    fn apply(&mut self, event: Event, guessed: bool) {
        for effect in self.engine.apply(self.now, event) {
            match effect {
                Effect::Step { set, case, step } => {
                    if let Step::Fence(extent) | Step::GiveUp { extent, .. } = &step {
                        self.begin_case(set, case, *extent, false);
                    }
                    let answer = self.answers.step(set, case, &step);
                    self.done(set, case, answer);
                }
                Effect::Probe { set, case, extent } => {
                    self.begin_case(set, case, extent, true);
                    let answer = self.answers.probe(set, case, extent);
                    self.done(set, case, answer);
                }
                Effect::Announce { set, case, remap } => {
                    self.begin_case(set, case, remap.main, false);
                    let answer = self.answers.announced(case);
                    self.done(set, case, answer);
                }
                Effect::Return { set, case, remap } => {
                    let answer = self.answers.returned(case, &remap);
                    self.done(set, case, answer);
                }
                Effect::Reserve { set, session, spare, want } => self.reserve(set, session, spare, want),
                Effect::Record(entry) => {
                    let block = self.blocks.get(&entry.set).copied().unwrap_or(Sectors(8));
                    self.comparison.add(Side::Now(guessed), self.now, &entry, block);
                }
                Effect::MarkInUse { .. }
                | Effect::MarkReserved { .. }
                | Effect::MarkBad { .. }
                | Effect::Retry { .. }
                | Effect::ReleaseReads { .. }
                | Effect::CallOff { .. }
                | Effect::Scrub { .. }
                | Effect::Tend { .. }
                | Effect::SampleSmart { .. } => {}
            }
        }
    }

    fn begin_case(&mut self, set: SetId, case: CaseId, extent: Extent, probe: bool) {
        if self.open.insert(case) {
            self.answers.claim(case, (set, probe, extent), self.line, self.now);
        }
    }

    fn done(&mut self, set: SetId, case: CaseId, answer: Answer) {
        if answer.assumed {
            self.guessed.insert(case);
        }
        self.later(answer.line, Event::Done { set, case, outcome: answer.outcome });
    }

    fn later(&mut self, line: Option<usize>, event: Event) {
        self.order += 1;
        self.due.insert((line.unwrap_or(self.line).max(self.line), self.order), event);
    }

    /// Space comes as it came then if that was soon; else there is what the spare has left.
    fn reserve(&mut self, set: SetId, session: u64, spare: u16, want: Sectors) {
        let Some(space) = self.spaces.get_mut(&(set, spare)) else { return };
        let came = self.reserved.entry((set, spare)).or_default();
        while came.front().is_some_and(|(line, _)| *line < self.line) {
            came.pop_front();
        }
        let soon = came.front().is_some_and(|(_, at)| at.0 <= self.now.0 + SOON_MS);
        let then = soon.then(|| came.pop_front()).flatten().map(|(line, _)| line);
        let offered = then.and_then(|line| match &self.trace.lines[line] {
            Line::Event { event, .. } => match event.as_ref() {
                Event::Reserved { extents, .. } => Some(space.offer(extents)),
                _ => None,
            },
            _ => None,
        });
        let extents = offered.unwrap_or_else(|| space.take(want));
        let free = space.free();
        self.later(then, Event::Reserved { set, session, spare, extents, free, untried: Sectors(0) });
    }
}
