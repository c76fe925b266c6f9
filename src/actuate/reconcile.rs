//! Makes the kernel follow the spares' tables, which are the truth. Knows targets and block devices only by their traits, so
//! that the simulation runs the code that the daemon runs.

use super::SpareTable;
use super::older;
use super::steps::{FENCE_MS, OpenSpare};
use crate::edge::{BlockIo, Fence, FenceId, Target, TargetFault};
use crate::model::{Extent, Remap, Sector, Sectors, SetDescription, SetName};
use std::collections::BTreeMap;

/// How long the first lease of a device that is taken over lasts, ms.
const FIRST_LEASE_MS: u64 = 5_000;

/// A spare's device, with a name for messages.
pub type NamedIo = (String, Box<dyn BlockIo>);

/// What loading a table came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What was different and is mended, in words.
    pub mended: Vec<String>,
    /// Fences that stay sealed, as their record may be in a table block that is not settled.
    pub sealed: Vec<FenceId>,
    /// The first error record that is written after this.
    pub next_error: u64,
}

/// Reads the whole table of every spare, in their order, from the medium.
pub fn open_tables(desc: &SetDescription, spares: Vec<NamedIo>) -> Result<(Vec<OpenSpare>, Vec<Remap>), String> {
    let mut open = Vec::new();
    let mut remaps = Vec::new();
    for (index, (name, io)) in spares.into_iter().enumerate() {
        let table = SpareTable::open(io.as_ref(), desc, index as u16).map_err(|error| format!("{name}: {error}"))?;
        table.check().map_err(|problem| format!("{name}: its table is not sound, so remaps may be missing: {problem}"))?;
        remaps.extend(table.remaps().copied());
        open.push(OpenSpare { io, table });
    }
    remaps.sort_by_key(|remap: &Remap| remap.main.start());
    match remaps.windows(2).find(|pair| pair[0].main.overlaps(&pair[1].main)) {
        Some(pair) => Err(format!("the spares disagree: main sectors {} and {} overlap", pair[0].main, pair[1].main)),
        None => Ok((open, remaps)),
    }
}

/// What the tables of a set say, in the state in which they are relied upon.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'a> {
    /// The remaps that hold, sorted by main.
    pub remaps: &'a [Remap],
    /// Table blocks that are not settled, by spare: a later start may find a change there that is not in `remaps`.
    pub unsettled: &'a [(u16, u32)],
    /// Ranges of which the tables are [older](super::older) than what is known. Only of a device that is open already: they are closed off.
    pub older: &'a [Extent],
}

/// The table blocks that are not settled, by spare.
pub fn unsettled(spares: &[OpenSpare]) -> Vec<(u16, u32)> {
    (0u16..).zip(spares).flat_map(|(index, spare)| spare.table.unsettled().map(move |block| (index, block))).collect()
}

/// Gives the target of a set, just owned, its secret and its table; opens it if it is closed.
pub fn load(target: &dyn Target, desc: &SetDescription, truth: Truth) -> Result<Loaded, String> {
    target.secret(&desc.secret).map_err(text)?;
    let status = target.status().map_err(text)?;
    let closed = status.state != "ACTIVE";
    if let (true, Some((spare, block))) = (closed, truth.unsettled.first()) {
        return Err(format!(
            "a slot of table block {block} of spare {spare} does not read and cannot be written, so it may name another remap the next \
             time: replace that spare; until then “remap-guardian activate {} --degraded”",
            desc.name
        ));
    }
    let mut loaded = Loaded { mended: Vec::new(), sealed: Vec::new(), next_error: status.next_seq };
    reconcile(target, desc, truth, closed, &mut loaded).map_err(|reason| format!("kernel and spare disagree: {reason}"))?;
    if closed {
        target.ready(truth.remaps).map_err(text)?;
    }
    Ok(loaded)
}

/// Tries again what waits since before we came, which reports it anew. Reads, too, whatever the policy: it is answered in any case.
pub fn try_held_again(target: &dyn Target, desc: &SetDescription) -> Result<(), String> {
    let whole = Extent::new(Sector(0), desc.main.sectors).map_err(|error| error.to_string())?;
    target.lease(FIRST_LEASE_MS, true).and_then(|()| target.retry(whole)).map(drop).map_err(text)
}

/// Adds what the kernel does not have and lifts what an earlier run left.
fn reconcile(target: &dyn Target, desc: &SetDescription, truth: Truth, closed: bool, loaded: &mut Loaded) -> Result<(), String> {
    let live: BTreeMap<Sector, Remap> =
        target.dump().map_err(text)?.into_iter().map(|remap| (remap.main.start(), remap)).collect();
    let known: BTreeMap<Sector, &Remap> = truth.remaps.iter().map(|remap| (remap.main.start(), remap)).collect();
    let fences = target.fences().map_err(text)?;
    // A move on the spare is recorded first, under a seal. Without one a record has vanished.
    let moving = |old: &Remap, new: &Remap| {
        let sealed = |fence: &Fence| fence.state.is_sealed() && fence.extent.covers(&old.main);
        old.main == new.main && old.spare == new.spare && fences.iter().any(sealed)
    };
    // Its record goes first, under a seal, when what a spare serves went back to main; if it is certain that it is gone.
    let gone_back = |old: &Remap| {
        let free = truth.unsettled.is_empty() && !truth.remaps.iter().any(|remap| remap.main.overlaps(&old.main));
        fences.iter().find(|fence| free && fence.state.is_sealed() && fence.extent.covers(&old.main)).map(|fence| fence.id)
    };
    let mut back = Vec::new();
    for remap in live.values() {
        let fits = known.get(&remap.main.start()).is_some_and(|k| k.same_place(remap) || moving(remap, k));
        match gone_back(remap) {
            Some(fence) => back.push((remap.main, fence)),
            None if fits => {}
            None => return Err(format!("the kernel maps main sectors {} to a place that no spare records", remap.main)),
        }
    }
    let is_live = |remap: &&Remap| live.get(&remap.main.start()).is_some_and(|live| live.same_place(remap));
    let missing: Vec<Remap> = truth.remaps.iter().filter(|remap| !is_live(remap)).copied().collect();
    if closed {
        return target.load(&missing).map_err(text);
    }
    for (main, fence) in back {
        target.remove_remap(main.start(), fence).map_err(text)?;
        loaded.mended.push(format!("main sectors {main} had gone back to main but were still mapped: unmapped now"));
    }
    // A commit seals exactly the range of its record. Without that seal main served the range meanwhile.
    let seal = |remap: &Remap| fences.iter().find(|fence| fence.state.is_sealed() && fence.extent == remap.main);
    let mut contested = Vec::new();
    for remap in &missing {
        let Some(seal) = seal(remap) else {
            contested.push(remap.main);
            continue;
        };
        target.add_remap(remap, Some(seal.id)).map_err(text)?;
        loaded.mended.push(format!("main sectors {} were recorded on the spare but not yet mapped: mapped now", remap.main));
    }
    let no_telling: Vec<Extent> = contested.iter().chain(truth.older).copied().collect();
    let closed_off = seal_off(target, desc, &no_telling)?;
    loaded.mended.extend(contested.iter().map(|main| {
        format!(
            "main sectors {main} are recorded on the spare, but the kernel has served them from main, and no seal kept writes away: each \
             side may have what the other lacks, so they are sealed and fail. To go on with what the spare has, close the device \
             (“dmsetup remove {name}”) and restore it (“remap-guardian restore {name}”); until then main's own disk has the other side",
            name = desc.name
        )
    }));
    if !truth.older.is_empty() {
        let name = &desc.name;
        loaded.mended.push(format!("{}; {}", closed_off_words(truth.older), wrong_spare(name)));
    }
    for fence in target.fences().map_err(text)? {
        if closed_off.contains(&fence.id) {
            continue;
        }
        if fence.state.is_sealed() && !truth.unsettled.is_empty() {
            // Its record may be in a slot that did not read, and count at the next start.
            loaded.sealed.push(fence.id);
            loaded.mended.push(format!(
                "main sectors {} were sealed by an earlier run and stay so, and fail: a slot of the spare's table does not read and \
                 cannot be written, so it is unknown whether they are recorded",
                fence.extent
            ));
            continue;
        }
        // Its remap was never recorded, and the whole table was read and is settled: the outcome is known.
        target.unfence(fence.id).map_err(text)?;
        loaded.mended.push(format!("a fence on main sectors {} was left by an earlier run: lifted", fence.extent));
    }
    Ok(())
}

/// Ranges that are closed off at most: the target has 64 fences, and cures need theirs.
const CLOSED_OFF: usize = 32;

/// Seals ranges whose right content nobody knows, until the device is closed: I/O there fails. Gives the fences.
///
/// Each is one logical block longer than the range, by which a later run tells them from the seal of a commit, after which the spare
/// is right.
fn seal_off(target: &dyn Target, desc: &SetDescription, ranges: &[Extent]) -> Result<Vec<FenceId>, String> {
    let block = u64::from(desc.main.logical_block) / 512;
    let wide = wider(ranges, block, desc.main.sectors.0);
    few(wide, CLOSED_OFF).into_iter().map(|extent| seal_anew(target, extent).map_err(text)).collect()
}

fn wider(ranges: &[Extent], block: u64, end: u64) -> Vec<Extent> {
    let wider = |range: &Extent| {
        let (start, behind) = (range.start().0, (range.end().0 + block).min(end));
        let start = if behind > range.end().0 { start } else { start.saturating_sub(block) };
        Extent::new(Sector(start), Sectors(behind - start)).expect("it lies on main")
    };
    ranges.iter().map(wider).collect()
}

/// Closes ranges off as [`load`] does, while the set is served: nothing is lifted for it, so it is to be tried again where a cure has
/// its fence. Gives what was not closed off before. `block` is main's logical block, `end` its size, in sectors.
pub(super) fn close_off(target: &dyn Target, ranges: &[Extent], block: u64, end: u64) -> Result<Vec<Extent>, TargetFault> {
    let mut closed_off = Vec::new();
    for extent in few(wider(ranges, block, end), CLOSED_OFF) {
        let covers = |fence: &Fence| fence.state.is_sealed() && fence.extent.covers(&extent);
        if target.fences()?.iter().any(covers) {
            continue;
        }
        let id = target.fence(extent, FENCE_MS)?;
        target.await_drained(id)?;
        target.seal(id)?;
        closed_off.push(extent);
    }
    Ok(closed_off)
}

/// That ranges were closed off because a spare is older, in words for history.
pub(super) fn closed_off_words(ranges: &[Extent]) -> String {
    format!(
        "a spare is older than what this machine knows of it, so nobody knows what main sectors {} should say: they are sealed and fail",
        older::named(ranges)
    )
}

fn wrong_spare(name: &SetName) -> String {
    format!("close the device (“dmsetup remove {name}”), and “remap-guardian restore {name}” says how to go on")
}

/// The ranges, joined where they touch, and those with the smallest gaps, until there are at most `most`.
fn few(mut ranges: Vec<Extent>, most: usize) -> Vec<Extent> {
    ranges.sort();
    let mut joined: Vec<Extent> = Vec::new();
    let hull = |a: &Extent, b: &Extent| {
        let end = a.end().max(b.end());
        Extent::new(a.start(), Sectors(end.0 - a.start().0)).expect("it ends where one of them does")
    };
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start() <= last.end() => *last = hull(last, &range),
            _ => joined.push(range),
        }
    }
    while joined.len() > most.max(1) {
        let gap = |at: &usize| joined[at + 1].start().0 - joined[*at].end().0;
        let at = (0..joined.len() - 1).min_by_key(gap).expect("there are two");
        let next = joined.remove(at + 1);
        joined[at] = hull(&joined[at], &next);
    }
    joined
}

fn seal_anew(target: &dyn Target, extent: Extent) -> Result<FenceId, TargetFault> {
    for fence in target.fences()?.iter().filter(|fence| fence.extent.overlaps(&extent)) {
        if fence.state.is_sealed() && fence.extent.covers(&extent) {
            return Ok(fence.id);
        }
        if !fence.state.is_sealed() {
            target.unfence(fence.id)?;
        }
    }
    let id = target.fence(extent, FENCE_MS)?;
    target.await_drained(id)?;
    target.seal(id)?;
    Ok(id)
}

fn text(fault: TargetFault) -> String {
    fault.to_string()
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
