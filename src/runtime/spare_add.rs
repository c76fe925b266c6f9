//! `spare add`: another disk becomes a spare of a set that is closed. In which order its headers are written, and what a crash in
//! between leaves, is told in [`crate::actuate::spare_join`].

use super::assemble::{self, Candidate, words};
use super::closed::Done;
use super::create::{blank, distinct, find, free, recognisable, stranger};
use super::daemon::Daemon;
use super::requests::{Tell, stopping};
use super::storekeeper::Storekeeper;
use super::{forget, inputs};
use crate::actuate::spare_header::{finish_spare, prepare_spare};
use crate::actuate::spare_join::{self, CannotJoin};
use crate::actuate::{Access, DirectDevice, read_header};
use crate::config::Settings;
use crate::control::Reason;
use crate::edge::{BlockIo, FoundDevice};
use crate::model::{SetDescription, SetName, What};
use std::path::{Path, PathBuf};

impl Daemon {
    pub(super) fn add_spare(&mut self, name: SetName, spare: PathBuf, overwrite: bool, tell: Tell) {
        self.with_closed_set(name, tell, move |desc, settings, store| add(desc, &spare, overwrite, settings, store));
    }
}

/// Checks everything first, then writes. Lines for people; and what history says.
fn add(desc: &SetDescription, path: &Path, overwrite: bool, settings: &Settings, store: &Storekeeper) -> Result<Done, Reason> {
    forget::closed(desc)?;
    let devices =
        inputs::devices(settings).map_err(|error| Reason::from(format!("the block devices cannot be listed: {error}")))?;
    let mut candidates = assemble::discover(&devices);
    let known: Vec<_> = candidates.values().map(|candidate| candidate.desc.clone()).chain(registry(store)?).collect();
    // Its own headers know best who is in the set: the registry can lag.
    let set = candidates.remove(&desc.id).ok_or_else(|| "none of its spares is attached".to_string());
    let set = set.and_then(|set| set.complete().map(|()| set)).map_err(|why| {
        let hint = "every disk of a set has to be attached when another one joins it; see: remap-guardian status";
        Reason::new(format!("“{}” is not complete: {why}", desc.name), hint)
    })?;
    let main = set.main.clone().map_err(Reason::from)?;
    let new = find(path, &devices)?;
    distinct(&main, &new, "main and spare")?;
    stranger(&new, &known, &devices, Path::new("/sys"))?;
    free(&new)?;
    recognisable(&new)?;
    blank(&new, overwrite)?;
    let more = spare_join::extended(&set.desc, &new.identity).map_err(|error| refusal(&new, &error))?;
    write(&set, &new, &more)?;
    remember(&more, store)?;
    let capacity = assemble::capacity(&more).pop().unwrap_or_default();
    let spare = set.desc.spares.len() as u16;
    let disk = format!("{} ({})", new.node.display(), words(&new.identity));
    let lines = vec![
        format!("{disk} is spare {spare} of “{}”: {} MiB more of spare space", more.name, capacity.bytes() >> 20),
        format!("if the set does not open by itself: remap-guardian restore {}", more.name),
    ];
    Ok((lines, Some(What::SpareAdded { disk, spare, capacity })))
}

fn refusal(new: &FoundDevice, error: &CannotJoin) -> Reason {
    let hint = match error {
        CannotJoin::Full | CannotJoin::Member => "see: remap-guardian status",
        CannotJoin::TooSmall(_) => "use a larger spare",
        CannotJoin::LogicalBlock { .. } | CannotJoin::PhysicalBlock { .. } => {
            "use a disk with smaller or equal blocks; see: lsblk -t"
        }
    };
    Reason::new(format!("{}: {error}", new.node.display()), hint)
}

/// Opens a disk for us alone, if it is still the one that was looked at.
fn sole(device: &FoundDevice) -> Result<DirectDevice, Reason> {
    let node = device.node.display();
    let failed = |error: &dyn std::fmt::Display| Reason::new(format!("{node}: {error}"), "repeat when nothing else uses it");
    let io = DirectDevice::open(&device.node, Access::SOLE).map_err(|error| failed(&error))?;
    if io.devno().map_err(|error| failed(&error))? != Some(device.devno) {
        return Err(failed(&"it has become another device since it was looked at"));
    }
    Ok(io)
}

/// The writes. A failure before the first old header is written leaves the set as it was.
fn write(set: &Candidate, new: &FoundDevice, more: &SetDescription) -> Result<(), Reason> {
    let (index, name) = (set.desc.spares.len() as u16, &more.name);
    let old = set.spares.values().map(sole).collect::<Result<Vec<_>, _>>()?;
    let io = sole(new)?;
    let mut generation = 0;
    for (device, spare) in set.spares.values().zip(&old) {
        let node = device.node.display();
        let found = read_header(spare).map_err(|error| {
            Reason::new(
                format!("{node}: {error}"),
                format!("open the set once, which completes it: remap-guardian restore {name}"),
            )
        })?;
        if found.bad_a.is_some() || found.bad_b.is_some() {
            let hint = format!("remap-guardian restore {name}, or: remap-guardian spare repair {node}");
            return Err(Reason::new(format!("{node}: one of its two headers is damaged or older than the other"), hint));
        }
        if found.header.set != set.desc {
            let hint = format!("repeat it; or open the set once: remap-guardian restore {name}");
            return Err(Reason::new(format!("{node} says something else since it was looked at"), hint));
        }
        generation = generation.max(found.header.generation);
    }
    prepare_spare(&io, more, index).map_err(|error| {
        let hint = "check the disk with smartctl, or use another one; the set is as it was";
        Reason::new(format!("{}: {error}", new.node.display()), hint)
    })?;
    let old: Vec<&dyn BlockIo> = old.iter().map(|io| io as &dyn BlockIo).collect();
    spare_join::announce(&old, more, generation + 1)
        .map_err(|error| error.to_string())
        .and_then(|()| finish_spare(&io, more, index, generation + 1).map_err(|error| error.to_string()))
        .map_err(|error| {
            let hint = format!(
                "see whether it is in the set: remap-guardian restore {name}, then status {name}; if it is not, repeat with \
                 --overwrite-spare"
            );
            Reason::new(format!("the headers were not all written: {error}"), hint)
        })
}

fn registry(store: &Storekeeper) -> Result<Vec<SetDescription>, Reason> {
    let (tell, told) = std::sync::mpsc::channel();
    store.queue(move |store| drop(tell.send(store.sets())));
    let sets = told.recv().map_err(|_| stopping())?;
    sets.map_err(|error| Reason::from(format!("the known sets cannot be read: {error}")))
}

/// Tells the registry. Space on the new spare is known when the set is opened.
fn remember(set: &SetDescription, store: &Storekeeper) -> Result<(), Reason> {
    let (tell, told) = std::sync::mpsc::channel();
    let desc = set.clone();
    store.queue(move |store| drop(tell.send(store.put_set(&desc))));
    let put = told.recv().map_err(|_| stopping())?;
    put.map_err(|error| {
        let hint = format!("remap-guardian restore {}: the registry follows the spares when the set is opened", set.name);
        Reason::new(format!("the disk is a spare of the set now, but the registry does not say so: {error}"), hint)
    })
}
