//! `restore --missing`: somebody decides what becomes of sectors that this machine knows on a spare whose table lacks them.

use super::assemble;
use super::closed::Done;
use super::daemon::{Daemon, now};
use super::requests::{Tell, stopping};
use super::storekeeper::Storekeeper;
use super::{forget, inputs};
use crate::actuate::older::{self, Older};
use crate::actuate::steps::OpenSpare;
use crate::actuate::{Access, Care, DirectDevice, read_header, reconcile, spare_lost};
use crate::config::Settings;
use crate::control::{Missing, Reason};
use crate::edge::{BlockIo, FoundDevice, Served, StoreError, ToldRemaps};
use crate::model::{Action, Decision, Entry, Remap, SetDescription, SetName, What};

impl Daemon {
    pub(super) fn decide_missing(&mut self, name: SetName, missing: Missing, sure: bool, tell: Tell) {
        self.with_closed_set(name, tell, move |desc, settings, store| decide(desc, missing, sure, settings, store));
    }
}

/// Lines for people; and what history says, if it was done.
fn decide(desc: &SetDescription, missing: Missing, sure: bool, settings: &Settings, store: &Storekeeper) -> Result<Done, Reason> {
    forget::closed(desc)?;
    let devices =
        inputs::devices(settings).map_err(|error| Reason::from(format!("the block devices cannot be listed: {error}")))?;
    let set = assemble::discover(&devices).remove(&desc.id).ok_or_else(|| "none of its spares is attached".to_string());
    let set = set.and_then(|set| set.complete().map(|()| set));
    let set =
        set.map_err(|why| Reason::new(format!("“{}” is not complete: {why}", desc.name), "attach what is missing first"))?;
    let desc = set.desc;
    let spares = set.spares.values().map(|spare| member(&desc, spare)).collect::<Result<Vec<_>, _>>()?;
    let (mut spares, remaps) = reconcile::open_tables(&desc, spares).map_err(Reason::from)?;
    let Known { older, told, top } = known(&desc, &remaps, store)?;
    if older.is_empty() {
        let message = format!("the spares of “{}” lack nothing that this machine knows of", desc.name);
        return Err(Reason::new(message, format!("remap-guardian restore {}", desc.name)));
    }
    if !sure {
        return Ok((would(&older, missing), None));
    }
    let done = write(&desc, &mut spares, &older, missing, top)
        .map_err(|why| Reason::new(format!("not everything was written: {why}"), "repeat it; what was written is good"))?;
    let back = if missing == Missing::Main { forgotten(&older, &told) } else { Vec::new() };
    follow(&desc, &spares, back, store)?;
    let message = format!("{older}; on request {done}");
    Ok((vec![message.clone()], Some(What::Alert { message })))
}

fn member(desc: &SetDescription, spare: &FoundDevice) -> Result<(String, Box<dyn BlockIo>), Reason> {
    let node = spare.node.display().to_string();
    let failed = |error: &dyn std::fmt::Display| Reason::from(format!("{node}: {error}"));
    let io = DirectDevice::open(&spare.node, Access::SOLE).map_err(|error| failed(&error))?;
    if io.devno().map_err(|error| failed(&error))? != Some(spare.devno) {
        return Err(failed(&"it has become another device since it was looked at"));
    }
    let found = read_header(&io).map_err(|error| failed(&error))?;
    if found.header.set != *desc || found.bad_a.is_some() || found.bad_b.is_some() {
        return Err(Reason::new(format!("{node}: its headers are not whole"), format!("remap-guardian spare repair {node}")));
    }
    Ok((node, Box::new(io)))
}

/// What the store knows.
struct Known {
    older: Older,
    /// The remaps that history tells of.
    told: Vec<Remap>,
    /// The highest sequence number that it names.
    top: u64,
}

fn known(desc: &SetDescription, remaps: &[Remap], store: &Storekeeper) -> Result<Known, Reason> {
    let (desc, remaps) = (desc.clone(), remaps.to_vec());
    let known = store.ask(move |store| {
        let older = older::find(store, &desc, 0..desc.spares.len() as u16, &remaps)?;
        let ToldRemaps { live: told, gone } = store.told(desc.id)?;
        let top = told.iter().chain(&gone).map(|remap| remap.seq).max().unwrap_or(0);
        Ok(Known { older, told, top })
    });
    let known: Result<_, StoreError> = known.blocking_recv().map_err(|_| stopping())?;
    known.map_err(|error| Reason::from(format!("what is known of it cannot be read: {error}")))
}

fn would(older: &Older, missing: Missing) -> Vec<String> {
    let what = match missing {
        Missing::Lost => "would mark what is missing as lost: it fails until it is written",
        Missing::Main => "would take what main has of it for right, and forget that it had moved",
    };
    let mut lines = vec![older.to_string()];
    if !older.lacks.is_empty() {
        lines.push(what.into());
        lines.extend(older.lacks.iter().take(20).map(|(spare, served)| format!("  main {} (spare {spare})", served.main)));
        lines.extend((older.lacks.len() > 20).then(|| format!("  … and {} more", older.lacks.len() - 20)));
    }
    lines.extend((!older.gone.is_empty()).then(|| "would remove the records of what had gone back to main".into()));
    lines.push("what the spares still serve stays as it is there, and may be older than it should be".into());
    lines
}

/// What was done, in words.
fn write(desc: &SetDescription, spares: &mut [OpenSpare], older: &Older, missing: Missing, top: u64) -> Result<String, String> {
    // Before anything relies on the tables; what cannot be settled could bring back what is about to be decided.
    Care::begin(spares);
    if let Some((spare, block)) = reconcile::unsettled(spares).first() {
        return Err(format!("a slot of table block {block} of spare {spare} does not read and cannot be written"));
    }
    let removed = spare_lost::remove_gone(spares, older)?;
    let mut done = match missing {
        Missing::Lost => {
            let marked = spare_lost::mark_lost(desc, spares, older, top)?;
            let sectors: u64 = marked.iter().map(|remap| remap.main.len().0).sum();
            format!("{sectors} sectors were marked lost: they fail until they are written")
        }
        Missing::Main => "main serves what is missing, and it is forgotten that it had moved".into(),
    };
    spare_lost::mirror(spares)?;
    if removed > 0 {
        done += &format!("; {removed} records of what had gone back to main were removed");
    }
    Ok(done)
}

/// The remaps that are told of and that main serves now, as it was decided: of each range the newest, which outdates the others.
fn forgotten(older: &Older, told: &[Remap]) -> Vec<Remap> {
    let newest = |(spare, served): &(u16, Served)| {
        let same = told.iter().filter(|remap| remap.spare == *spare && remap.main == served.main);
        same.max_by_key(|remap| remap.seq).copied()
    };
    older.lacks.iter().filter_map(newest).collect()
}

/// Brings the allocator in line with the tables as they are now, and history with what main serves: nothing is missing any more.
fn follow(desc: &SetDescription, spares: &[OpenSpare], back: Vec<Remap>, store: &Storekeeper) -> Result<(), Reason> {
    let live: Vec<Vec<Remap>> = spares.iter().map(|spare| spare.table.remaps().copied().collect()).collect();
    let of = desc.clone();
    let rebuilt = store.ask(move |store| {
        let mut spares = (0u16..).zip(&of.geometry).zip(&live);
        let rebuild = |((spare, geometry), live): ((u16, &crate::model::Geometry), &Vec<Remap>)| {
            store.rebuild(of.id, spare, geometry.data, live)
        };
        back.into_iter().try_for_each(|remap| {
            let (rule, reason) = ("operator/missing".into(), "an operator decided that main has its sectors".into());
            let decision = Decision { action: Action::Unremap, rule, reason };
            let what = What::Unremapped { remap, decision, took_ms: 0 };
            store.append(&Entry { number: 0, at: now(), set: of.id, name: of.name.clone(), what }).map(drop)
        })?;
        spares.try_for_each(rebuild)
    });
    let rebuilt: Result<_, StoreError> = rebuilt.blocking_recv().map_err(|_| stopping())?;
    rebuilt.map_err(|error| Reason::new(format!("allocator and history do not follow the spares: {error}"), "repeat it"))
}
