//! Goes through a log, and judges the spare after each of its entries, and in moments between two of them.

use super::content::SECTOR;
use super::log::{self, Entry};
use super::mark::Mark;
use super::oracle::{Moved, Oracle};
use super::plan::places;
use super::spare::Spare;
use super::state::{self, Rule, Served, Wrong};
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use std::collections::BTreeMap;

/// Wrong moments that are told of.
const TOLD: usize = 20;

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Moments after an entry.
    pub moments: usize,
    /// Moments in which a part of what came next had arrived.
    pub torn: usize,
    /// Blocks that have moved in the end.
    pub moved: usize,
    /// How many moments broke a rule.
    pub broken: BTreeMap<Rule, usize>,
    /// The first of them, in words.
    pub told: Vec<String>,
}

/// A moment of a log: the spare, and what is known of it.
pub struct Moment {
    /// The spare.
    pub spare: Spare,
    /// What it may hold.
    pub oracle: Oracle,
    /// `create` has ended.
    pub created: bool,
}

impl Moment {
    /// Before the first entry.
    pub fn first(log: &[Entry], sectors: u64) -> Result<Moment> {
        let (seed, count) = created(log)?;
        Ok(Moment { spare: Spare::new(sectors), oracle: Oracle::new(&places(seed, count)), created: false })
    }

    /// After the first `count` entries.
    pub fn after(log: &[Entry], sectors: u64, count: usize) -> Result<Moment> {
        let mut moment = Moment::first(log, sectors)?;
        log[..count].iter().try_for_each(|entry| moment.take(entry))?;
        Ok(moment)
    }

    fn take(&mut self, entry: &Entry) -> Result<()> {
        match entry {
            Entry::Flush => {}
            Entry::Write { at, bytes, .. } => drop(self.spare.replace(*at, bytes)?),
            Entry::Mark(text) if text == log::END => {}
            Entry::Mark(text) => {
                let mark: Mark = text.parse()?;
                self.created |= matches!(mark, Mark::Created { .. });
                self.oracle.take(mark)?;
            }
        }
        Ok(())
    }
}

/// The seed of the places and their number.
pub fn created(log: &[Entry]) -> Result<(u64, u64)> {
    let marks = log.iter().filter_map(|entry| match entry {
        Entry::Mark(text) => text.parse().ok(),
        _ => None,
    });
    let mut created =
        marks.filter_map(|mark| if let Mark::Created { seed, places } = mark { Some((seed, places)) } else { None });
    created.next().context("the log has no mark “created”")
}

/// Judges each moment of a log; after each entry also `torn` moments, chosen by the seed.
pub fn replay(log: &[Entry], sectors: u64, torn: usize, seed: u64) -> Result<Report> {
    ensure!(log.contains(&Entry::Mark(Mark::Finished.to_string())), "the workload did not finish");
    let mut report = Report::default();
    let mut served = Served::default();
    let mut rng = Rng::with_seed(seed);
    let mut moment = Moment::first(log, sectors)?;
    for index in 0..=log.len() {
        let mut wrong = state::judge(&moment.spare, &moment.oracle, moment.created, &mut served);
        wrong.extend(state::judge_mended(&moment.spare));
        report.add(index, "", wrong);
        report.moments += 1;
        let next_is_write = matches!(log.get(index), Some(Entry::Write { .. }));
        for _ in 0..if next_is_write { torn } else { 0 } {
            let undo = tear(&moment.spare, &log[index..], &mut rng)?;
            let wrong = state::judge(&moment.spare, &moment.oracle, moment.created, &mut served);
            report.add(index, ", and a part of the next", wrong);
            report.torn += 1;
            for (at, bytes) in undo.into_iter().rev() {
                moment.spare.replace(at, &bytes)?;
            }
        }
        if let Some(entry) = log.get(index) {
            moment.take(entry)?;
        }
    }
    report.moved = moment.oracle.blocks().filter(|(_, moved)| *moved == Moved::Yes).count();
    Ok(report)
}

/// What was there before, by place, in the order in which it was replaced.
type Undo = Vec<(u64, Vec<u8>)>;

/// Writes some sectors of what comes next and is under way together: a durable write, or all writes up to the next flush.
fn tear(spare: &Spare, next: &[Entry], rng: &mut Rng) -> Result<Undo> {
    let mut undo = Vec::new();
    for (number, entry) in next.iter().enumerate() {
        let Entry::Write { at, bytes, fua } = entry else { break };
        if *fua && number > 0 {
            break;
        }
        // All, none, or some: each is a case of its own.
        let of_256 = [0, 0, 128, 240, 256][rng.usize(..5)];
        for (at, sector) in (*at..).zip(bytes.chunks(SECTOR)) {
            if rng.u16(..256) < of_256 {
                undo.push((at, spare.replace(at, sector)?));
            }
        }
        if *fua {
            break;
        }
    }
    Ok(undo)
}

impl Report {
    fn add(&mut self, index: usize, how: &str, wrong: Vec<Wrong>) {
        let mut rules: Vec<Rule> = wrong.iter().map(|(rule, _)| *rule).collect();
        rules.dedup();
        for rule in rules {
            *self.broken.entry(rule).or_default() += 1;
        }
        if let Some((rule, why)) = wrong.first().filter(|_| self.told.len() < TOLD) {
            self.told.push(format!("after entry {index}{how}: {rule:?}: {why}"));
        }
    }
}

#[cfg(test)]
mod tests;
