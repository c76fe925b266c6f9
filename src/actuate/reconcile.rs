//! Makes the kernel follow the spares' tables, which are the truth. Knows targets and block devices only by their traits, so
//! that the simulation runs the code that the daemon runs.

use super::SpareTable;
use super::steps::{FENCE_MS, OpenSpare};
use crate::edge::{BlockIo, Fence, FenceId, Target, TargetFault};
use crate::model::{Extent, Remap, Sector, SetDescription};
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

/// Gives every table block its second good copy. To be called by the owner of the target only: another one may be writing.
pub fn mirror(spares: &mut [OpenSpare]) {
    for (index, spare) in spares.iter_mut().enumerate() {
        if let Err(error) = spare.table.mirror(spare.io.as_ref()) {
            tracing::warn!(spare = index, %error, "table blocks have only one good copy");
        }
    }
}

/// Gives the target of a set, just owned, its secret and its table; opens it if it is closed.
pub fn load(target: &dyn Target, desc: &SetDescription, remaps: &[Remap]) -> Result<Loaded, String> {
    target.secret(&desc.secret).map_err(text)?;
    let status = target.status().map_err(text)?;
    let closed = status.state != "ACTIVE";
    let mended = reconcile(target, remaps, closed).map_err(|reason| format!("kernel and spare disagree: {reason}"))?;
    if closed {
        target.ready(remaps).map_err(text)?;
    }
    Ok(Loaded { mended, next_error: status.next_seq })
}

/// Tries again what waits since before we came, which reports it anew.
pub fn try_held_again(target: &dyn Target, desc: &SetDescription) -> Result<(), String> {
    let whole = Extent::new(Sector(0), desc.main.sectors).map_err(|error| error.to_string())?;
    target.lease(FIRST_LEASE_MS).and_then(|()| target.retry(whole)).map(drop).map_err(text)
}

/// Adds what the kernel does not have and lifts what an earlier run left. Says what was different.
fn reconcile(target: &dyn Target, truth: &[Remap], closed: bool) -> Result<Vec<String>, String> {
    let live: BTreeMap<Sector, Remap> =
        target.dump().map_err(text)?.into_iter().map(|remap| (remap.main.start(), remap)).collect();
    let known: BTreeMap<Sector, &Remap> = truth.iter().map(|remap| (remap.main.start(), remap)).collect();
    let fences = target.fences().map_err(text)?;
    // A move on the spare is recorded first, under a seal. Without one a record has vanished.
    let moving = |old: &Remap, new: &Remap| {
        let sealed = |fence: &Fence| fence.state.is_sealed() && fence.extent.covers(&old.main);
        old.main == new.main && old.spare == new.spare && fences.iter().any(sealed)
    };
    // Its record goes first, under a seal, when what a spare serves went back to main.
    let gone_back = |old: &Remap| {
        let free = !truth.iter().any(|remap| remap.main.overlaps(&old.main));
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
    let missing: Vec<Remap> = truth.iter().filter(|remap| !is_live(remap)).copied().collect();
    if closed {
        target.load(&missing).map_err(text)?;
        return Ok(Vec::new());
    }
    let mut mended = Vec::new();
    for (main, fence) in back {
        target.remove_remap(main.start(), fence).map_err(text)?;
        mended.push(format!("main sectors {main} had gone back to main but were still mapped: unmapped now"));
    }
    for remap in &missing {
        let left = fences.iter().find(|fence| fence.extent.covers(&remap.main)).map(|fence| (fence.id, fence.state));
        let (fence, since) = match left {
            Some((id, state)) if state.is_sealed() => (id, ""),
            other => {
                let id = seal_anew(target, remap.main, other.map(|(id, _)| id)).map_err(text)?;
                (id, "; no fence had kept writes away meanwhile, so those since the record may be on main only")
            }
        };
        target.add_remap(remap, Some(fence)).map_err(text)?;
        mended.push(format!("main sectors {} were recorded on the spare but not yet mapped: mapped now{since}", remap.main));
    }
    for fence in target.fences().map_err(text)? {
        // Its remap was never recorded, and the whole table was read: the outcome is known.
        target.unfence(fence.id).map_err(text)?;
        mended.push(format!("a fence on main sectors {} was left by an earlier run: lifted", fence.extent));
    }
    Ok(mended)
}

fn seal_anew(target: &dyn Target, extent: Extent, old: Option<FenceId>) -> Result<FenceId, TargetFault> {
    if let Some(id) = old {
        target.unfence(id)?;
    }
    let id = target.fence(extent, FENCE_MS)?;
    target.await_drained(id)?;
    target.seal(id)?;
    Ok(id)
}

fn text(fault: TargetFault) -> String {
    fault.to_string()
}
