//! One set's state, and how it moves.

use super::case::{Case, CaseId, Stage, Step};
use super::observe::Looks;
use super::storm::{Change, Storm};
use super::tending::Tending;
use super::unremap::{OPERATOR, again};
use super::{Effect, Event};
use crate::model::{
    Action, Counter, Decision, Entry, ErrorClass, Extent, Fault, Member, Millis, Op, Remap, Sector, Sectors, SetDescription,
    SetId, TargetErrorKind, What,
};
use crate::plan::forecast::{Forecast, Spending};
use crate::plan::{Reserve, scrub, spare_len};
use crate::policy::{Ledger, Policy};
use crate::triage::{Note, Notes, not_the_medium, triage, whole_blocks};
use std::collections::{BTreeMap, VecDeque};

pub(super) const HOUR: u64 = 3_600_000;
pub(super) const MINUTE: u64 = 60_000;
/// Steps that must not be given up are tried again at most this often, ms.
const RETRY_MS: u64 = 1_000;
/// A spare that did not answer is tried again after this, ms.
const UNTRIED_PAUSE_MS: u64 = 30_000;

/// State of one open set.
#[derive(Debug)]
pub struct SetState {
    pub(super) desc: SetDescription,
    pub(super) policy: Policy,
    pub(super) remaps: BTreeMap<Sector, Remap>,
    pub(super) spares: Vec<SpareState>,
    pub(super) cases: BTreeMap<CaseId, Case>,
    pub(super) counters: Counters,
    pub(super) smart: BTreeMap<Member, String>,
    pub(super) waiting: Vec<Fault>,
    pub(super) quiet: BTreeMap<(Member, &'static str, &'static str), Millis>,
    /// When a failed flush may start a scrub again.
    pub(super) scrub_due: Option<Millis>,
    /// When it was last told that a drive failed a flush that its driver repeats.
    pub(super) flush_told: Option<Millis>,
    pub(super) notes: Notes,
    pub(super) read_errors: BTreeMap<Sector, Millis>,
    /// Blocks that were tried again for reads that waited.
    pub(super) looks: BTreeMap<Sector, Looks>,
    pub(super) spent: VecDeque<(Millis, u64)>,
    /// Where held writes were given their error by us: the target tells of each once more.
    pub(super) released: VecDeque<(Millis, Extent)>,
    pub(super) storm: Storm,
    /// The last error of another disk at the port of one of its disks.
    nearby: Option<(Millis, String)>,
    /// The last growth of what a drive counts of damage on the way to it.
    link_damage: Option<(Millis, String)>,
    /// Remaps that are to go back to main, by first main sector.
    pub(super) returning: VecDeque<(Sector, Decision)>,
    /// Number of this opening of the set.
    pub(super) session: u64,
}

/// State of one spare.
#[derive(Debug, Default)]
pub(super) struct SpareState {
    pub(super) reserve: Reserve,
    pub(super) capacity: Sectors,
    pub(super) in_use: Sectors,
    pub(super) free: Option<Sectors>,
    pub(super) untried: Sectors,
    pub(super) refilling: bool,
    pub(super) refill_after: Millis,
    pub(super) alerted: u8,
    pub(super) spending: Spending,
    pub(super) tending: Tending,
}

impl SpareState {
    /// Sectors of it were spent, or came back.
    pub(super) fn spend(&mut self, now: Millis, sectors: i64) {
        self.spending.add(now.0 as i64, sectors);
    }

    /// When it will be full, as far as that can be told.
    pub(super) fn forecast(&self, now: Millis) -> Option<Forecast> {
        let left = self.free?.0 + self.reserve.total().0 + self.untried.0;
        self.spending.forecast(now.0 as i64, Sectors(left))
    }

    /// How much of it serves main, in percent.
    pub(super) fn percent(&self) -> u8 {
        (self.in_use.0.saturating_mul(100) / self.capacity.0.max(1)).min(100) as u8
    }
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

impl SetState {
    /// A set whose device has just been opened.
    pub fn new(desc: SetDescription, remaps: Vec<Remap>, capacity: Vec<Sectors>, policy: Policy, session: u64) -> SetState {
        let spares = capacity.into_iter().map(|capacity| SpareState { capacity, ..SpareState::default() }).collect();
        let mut set = SetState {
            desc,
            policy,
            remaps: BTreeMap::new(),
            spares,
            cases: BTreeMap::new(),
            counters: Counters::default(),
            smart: BTreeMap::new(),
            waiting: Vec::new(),
            quiet: BTreeMap::new(),
            scrub_due: None,
            flush_told: None,
            notes: Notes::default(),
            read_errors: BTreeMap::new(),
            looks: BTreeMap::new(),
            spent: VecDeque::new(),
            released: VecDeque::new(),
            storm: Storm::default(),
            nearby: None,
            link_damage: None,
            returning: VecDeque::new(),
            session,
        };
        for remap in remaps {
            set.insert(remap);
        }
        set
    }

    /// Goes on with what an earlier session knew and neither disk nor history knows: a storm, what is to go back.
    pub(super) fn after(self, mut before: SetState) -> SetState {
        let cut_off = before.cases.values().filter_map(|case| Some((case.taken_back()?.main.start(), case.decision.clone())));
        let returning = cut_off.chain(std::mem::take(&mut before.returning)).collect();
        let SetState { desc, policy, remaps, spares, spent, cases, waiting, session, .. } = self;
        SetState { desc, policy, remaps, spares, spent, cases, waiting, returning, session, ..before }
    }

    /// The set.
    pub fn id(&self) -> SetId {
        self.desc.id
    }

    /// What its headers say.
    pub fn description(&self) -> &SetDescription {
        &self.desc
    }

    /// Whether a cure is under way or waits for its turn.
    pub fn is_curing(&self) -> bool {
        !self.waiting.is_empty() || self.cures_under_way() > 0
    }

    /// The policy in force for it.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether every error that was reported has come to an end.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.cases.is_empty()
    }

    /// Live remaps in order of main sectors.
    pub fn remaps(&self) -> impl Iterator<Item = &Remap> {
        self.remaps.values()
    }

    /// Size of the cure block.
    pub fn block(&self) -> Sectors {
        self.desc.block()
    }

    /// How fast a scrub may read, MiB a second.
    pub fn scrub_rate(&self) -> u64 {
        self.policy.scrub.mib_per_second
    }

    /// What a scrub reads from `from` on: at most `most` sectors of the device. Empty at its end.
    pub fn scrub_parts(&self, from: Sector, most: Sectors) -> Vec<scrub::Part> {
        let len = self.desc.main.sectors.0.saturating_sub(from.0).min(most.0);
        let Ok(range) = Extent::new(from, Sectors(len)) else { return Vec::new() };
        let before = self.remaps.range(..range.start()).next_back().map(|(_, remap)| remap);
        let remaps = before.into_iter().chain(self.remaps.range(range.start()..range.end()).map(|(_, remap)| remap));
        scrub::parts(range, remaps)
    }

    /// What depends on a range of a member of this set; nothing where it serves nothing.
    pub fn parts_on(&self, member: Member, range: Extent) -> Vec<scrub::Part> {
        match member {
            Member::Main => {
                let Some(blocks) = whole_blocks(range, self.desc.block(), self.desc.main.sectors) else { return Vec::new() };
                let mut parts = self.scrub_parts(blocks.start(), blocks.len());
                parts.retain(|part| part.member == Member::Main);
                parts
            }
            Member::Spare(spare) => {
                let blocks = range.align_outward(self.desc.block());
                blocks.map(|blocks| scrub::served_from(spare, blocks, self.remaps.values())).unwrap_or_default()
            }
        }
    }

    pub(super) fn apply(&mut self, now: Millis, event: Event, next_case: &mut u64) -> Vec<Effect> {
        match event {
            Event::Errors { records, missed, .. } => {
                self.counters.missed += missed;
                let (stale, records): (Vec<_>, Vec<_>) =
                    records.into_iter().partition(|r| r.kind == TargetErrorKind::Held && self.is_stale(r));
                let found = triage(self.id(), &records, self.desc.block(), self.desc.main.sectors, now);
                // What waits there goes on where its sectors are served by now, or tells of itself anew.
                let waits = stale.iter().filter_map(|record| record.main);
                let mut effects: Vec<Effect> = waits.map(|extent| Effect::Retry { set: self.id(), extent }).collect();
                let began = self.storm.count(now, not_the_medium(&records), self.policy.storm.errors_per_minute);
                effects.extend(began.map(|change| self.storm_alert(now, change)));
                if missed > 0 {
                    // Something held may be among them. Tried again, it tells of itself anew.
                    let whole = Extent::new(Sector(0), self.desc.main.sectors).expect("a main device has sectors");
                    effects.push(Effect::Retry { set: self.id(), extent: whole });
                }
                for failed in found.failed {
                    effects.extend(self.on_failed(now, failed, next_case));
                }
                // What is tried again may be healed and done before a cure by its old word begins: it tells of itself anew, if not.
                let again =
                    |fault: &Fault| missed > 0 || stale.iter().any(|r| r.main.is_some_and(|of| of.overlaps(&fault.extent)));
                for fault in found.held.into_iter().filter(|fault| !again(fault)) {
                    effects.extend(match fault.op {
                        Op::Read => self.on_held_read(now, &fault, next_case),
                        _ => self.on_held(now, fault, next_case),
                    });
                }
                for error in found.given_up {
                    effects.extend(self.on_given_up(now, &error, next_case));
                }
                effects
            }
            Event::Noted { sector, text, failed, .. } => {
                // What names no sector is evidence of none.
                if let Some(sector) = sector {
                    self.notes.add(Note { at: now, sector, text, failed, detail: None });
                }
                Vec::new()
            }
            Event::FlushAgain { member, text, .. } => self.flushed_in_vain(now, member, &text),
            Event::Nearby { text, .. } => {
                self.nearby = Some((now, text));
                let began = self.storm.count(now, 1, self.policy.storm.errors_per_minute);
                began.map(|change| self.storm_alert(now, change)).into_iter().collect()
            }
            Event::Smart { member, summary, worse, .. } => {
                if let Some(change) = worse.iter().find(|change| is_of_the_link(change)) {
                    self.link_damage = Some((now, format!("SMART of {member}: {change}")));
                }
                self.smart.insert(member, summary);
                worse.into_iter().map(|change| Effect::Record(self.entry(now, What::Smart { member, change }))).collect()
            }
            Event::Space { spare, free, .. } => {
                let Some(state) = self.spares.get_mut(spare as usize) else { return Vec::new() };
                (state.free, state.untried, state.refilling) = (Some(free), Sectors(0), false);
                self.start_waiting(now, next_case)
            }
            Event::Reserved { session, .. } if session != self.session => Vec::new(),
            Event::Reserved { spare, extents, free, untried, .. } => {
                let Some(state) = self.spares.get_mut(spare as usize) else { return Vec::new() };
                if untried.0 > 0 {
                    state.refill_after = Millis(now.0 + UNTRIED_PAUSE_MS);
                }
                state.reserve.add(extents);
                (state.free, state.untried, state.refilling) = (Some(free), untried, false);
                self.start_waiting(now, next_case)
            }
            Event::Asked { extent, .. } => {
                let Some(extent) = whole_blocks(extent, self.desc.block(), self.desc.main.sectors) else { return Vec::new() };
                let fault = self.fault(Member::Main, Op::Write, extent, ErrorClass::Other, now);
                self.on_held(now, fault, next_case)
            }
            Event::AskedBack { extent, .. } => {
                let (rule, reason) = (OPERATOR.into(), "an operator asked for it".into());
                self.return_later(&extent, &Decision { action: Action::Unremap, rule, reason });
                self.start_returning(now, next_case)
            }
            Event::Found { part, by, .. } => self.on_found(now, part, by, next_case),
            Event::Scrubbed { summary, .. } => vec![Effect::Record(self.entry(now, What::Scrubbed(summary)))],
            Event::Tended { spare, news, .. } => {
                if let Some((state, tended)) =
                    spare.and_then(|(spare, tended)| Some((self.spares.get_mut(usize::from(spare))?, tended)))
                {
                    state.tending.answered(now, tended);
                }
                news.into_iter().map(|message| Effect::Record(self.alert(now, message))).collect()
            }
            Event::Done { case, outcome, .. } => self.on_done(now, case, outcome, next_case),
            Event::Spent { known_ms, spent, .. } => {
                self.recall_spent(now, known_ms, spent);
                Vec::new()
            }
            Event::Policy { policy, .. } => {
                self.policy = *policy;
                self.refill(now)
            }
            Event::Opened { .. } | Event::Closed { .. } | Event::Tick => Vec::new(),
        }
    }

    /// Whether an answer to [`Effect::Reserve`] is to come.
    pub(crate) fn waits_for_space(&self) -> bool {
        self.spares.iter().any(|spare| spare.refilling)
    }

    /// Asks for spare space where less than half of what policy keeps ready is left.
    pub(super) fn refill(&mut self, now: Millis) -> Vec<Effect> {
        let (set, session) = (self.id(), self.session);
        let target = self.policy.spare.reserve_blocks.saturating_mul(self.desc.block().0);
        let mut effects = Vec::new();
        for (index, spare) in self.spares.iter_mut().enumerate() {
            let have = spare.reserve.total().0 + spare.untried.0;
            let wanted = spare.untried.0 > 0 || have <= target / 2 && spare.free != Some(Sectors(0));
            if !spare.refilling && target > 0 && wanted && now >= spare.refill_after {
                spare.refilling = true;
                effects.push(Effect::Reserve { set, session, spare: index as u16, want: Sectors(target.saturating_sub(have)) });
            }
        }
        effects
    }

    /// Steps that must come to an end are tried again.
    pub(super) fn tick(&mut self, now: Millis, next_case: &mut u64) -> Vec<Effect> {
        let set = self.id();
        while self.spent.front().is_some_and(|(at, _)| at.0 + 24 * HOUR < now.0) {
            self.spent.pop_front();
        }
        let ended = self.storm.tick(now);
        let mut effects: Vec<Effect> = ended.map(|change| self.storm_alert(now, change)).into_iter().collect();
        for case in self.cases.values_mut() {
            if case.tried_at.0 == u64::MAX || now.0 < case.tried_at.0 + RETRY_MS || case.failure.is_none() {
                continue;
            }
            let back = case.taken_back();
            let step = match (case.stage, case.remap, case.fence) {
                (stage, None, fence) if back.is_some() => match back.and_then(|remap| again(stage, remap, fence)) {
                    Some(step) => step,
                    None => continue,
                },
                (Stage::Settling, Some(remap), _) => Step::Settle(remap),
                (Stage::Mapping, Some(remap), Some(fence)) => Step::AddRemap { remap, fence },
                (Stage::Releasing, _, fence @ Some(_)) => Step::GiveUp { extent: case.fault.extent, fence },
                _ => continue,
            };
            case.tried_at = Millis(u64::MAX);
            effects.push(Effect::Step { set, case: case.id, step });
        }
        effects.extend(self.give_up_announcing(now, next_case));
        effects.extend(self.tend(now));
        effects
    }

    pub(super) fn insert(&mut self, remap: Remap) {
        assert!(!self.remap_over(&remap.main), "two remaps of one main sector: {remap:?}");
        self.spares[remap.spare as usize].in_use.0 += remap.main.len().0;
        self.remaps.insert(remap.main.start(), remap);
    }

    pub(super) fn remove(&mut self, remap: &Remap) {
        let gone = self.remaps.remove(&remap.main.start());
        assert!(gone.is_some_and(|gone| gone == *remap), "{remap:?} is not live");
        self.spares[remap.spare as usize].in_use.0 -= remap.main.len().0;
    }

    /// The remap that serves a main sector.
    pub(super) fn remap_at(&self, main: Sector) -> Option<&Remap> {
        let (_, remap) = self.remaps.range(..=main).next_back()?;
        remap.main.contains(main).then_some(remap)
    }

    pub(super) fn remap_over(&self, extent: &Extent) -> bool {
        let before = self.remaps.range(..extent.end()).next_back();
        before.is_some_and(|(_, remap)| remap.main.overlaps(extent))
    }

    pub(super) fn ledger(&self, now: Millis, blocks_wanted: u64) -> Ledger {
        let since = |ms: u64| -> u64 { self.spent.iter().filter(|(at, _)| at.0 + ms > now.0).map(|(_, blocks)| blocks).sum() };
        let open = self.cases.values().filter_map(|case| case.remap);
        let under_way: u64 = open.map(|remap| spare_len(remap.main.len(), self.desc.block()).0 / self.desc.block().0).sum();
        Ledger {
            blocks_last_hour: since(HOUR) + under_way,
            blocks_last_day: since(24 * HOUR) + under_way,
            blocks_wanted,
            storm: self.storm.errors(),
            ready: Sectors(self.spares.iter().map(|spare| spare.reserve.total().0).sum()),
        }
    }

    pub(super) fn usage_alert(&mut self, now: Millis, spare: u16) -> Option<Effect> {
        let state = &mut self.spares[spare as usize];
        let percent = state.percent();
        let level = self.policy.spare.alert_percent.iter().copied().filter(|&level| level <= percent).max()?;
        if level <= state.alerted {
            return None;
        }
        state.alerted = level;
        let forecast = state.forecast(now).map(|forecast| format!("; {forecast}")).unwrap_or_default();
        let message = format!("spare {spare} is {percent} % used: plan its replacement or add another{forecast}");
        Some(Effect::Record(self.alert(now, message)))
    }

    fn storm_alert(&self, now: Millis, change: Change) -> Effect {
        let message = match change {
            Change::Began(errors) => format!(
                "{errors} errors that say nothing about the medium within a minute: nothing moves to a spare until a minute passes without \
                 one; look at cables, power and controller{}",
                self.signs_of_the_link(now)
            ),
            Change::Ended { errors, lasted } => {
                format!("the storm is over, after {errors} errors in {} s: bad sectors are cured again", lasted / 1000)
            }
        };
        Effect::Record(self.alert(now, message))
    }

    /// What else speaks for the way to a disk: errors of others at its port within a minute, and damage that a drive counted within a day.
    fn signs_of_the_link(&self, now: Millis) -> String {
        let lately = |sign: &Option<(Millis, String)>, ms: u64| match sign {
            Some((at, text)) if now.0 < at.0 + ms => format!("; {text}"),
            _ => String::new(),
        };
        lately(&self.nearby, MINUTE) + &lately(&self.link_damage, 24 * HOUR)
    }

    pub(super) fn alert(&self, now: Millis, message: String) -> Entry {
        self.entry(now, What::Alert { message })
    }

    pub(super) fn entry(&self, at: Millis, what: What) -> Entry {
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

/// Whether what got worse, in SMART's words, is a count of damage on the way to the drive.
fn is_of_the_link(change: &str) -> bool {
    Counter::ALL.iter().any(|(counter, _)| counter.tells_of_link() && change.starts_with(counter.words()))
}
