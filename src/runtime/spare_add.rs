//! `spare add`: another disk becomes a spare of a set, open or closed. In which order the headers are written, and what a crash in
//! between leaves, is told in [`crate::actuate::spare_join`].
//!
//! An open set is served by its old spares while the headers are written. Then its device follows (see [`super::reopen`]). If that
//! comes to nothing the old spares go on serving: nothing is placed on the new one before the device knows it.

use super::assemble::{self, Candidate, words};
use super::closed::Done;
use super::create::{blank, distinct, find, free, recognisable, stranger};
use super::daemon::{Daemon, Input};
use super::requests::{Tell, stopping};
use super::storekeeper::Storekeeper;
use super::{forget, inputs};
use crate::actuate::announced::{Announced, Listener, number};
use crate::actuate::spare_header::{finish_spare, prepare_spare};
use crate::actuate::spare_join::{self, CannotJoin};
use crate::actuate::target::DmTarget;
use crate::actuate::{Access, DirectDevice, NoHeader, SpareTable, read_header};
use crate::config::Settings;
use crate::control::Reason;
use crate::edge::{BlockIo, FoundDevice};
use crate::failpoint::reached;
use crate::format::header::Header;
use crate::model::{Identity, SetDescription, SetId, SetName, What};
use std::path::{Path, PathBuf};

/// A disk that the headers of a set name as a spare, from now on.
pub(super) struct Joined {
    /// The set with it.
    pub set: SetDescription,
    /// For people.
    pub lines: Vec<String>,
    /// For history.
    pub what: What,
}

impl Daemon {
    pub(super) fn add_spare(&mut self, name: SetName, spare: PathBuf, overwrite: bool, tell: Tell) {
        match self.serving.iter().find(|(_, serving)| serving.desc.is_called(&name)).map(|(set, _)| *set) {
            Some(set) => self.add_to_open(set, name, spare, overwrite, tell),
            None => self.with_closed_set(name, tell, move |desc, settings, store| {
                forget::closed(desc)?;
                let joined = add_to_closed(desc, &spare, overwrite, settings, store)?;
                remember(&joined.set, store)?;
                let next = format!("if the set does not open by itself: remap-guardian restore {}", joined.set.name);
                let lines = joined.lines.into_iter().chain([next]).collect();
                Ok((lines, Some(joined.what))) as Result<Done, Reason>
            }),
        }
    }

    fn add_to_open(&mut self, set: SetId, name: SetName, spare: PathBuf, overwrite: bool, tell: Tell) {
        let serving = &self.serving[&set];
        let (served, owner) = (serving.desc.clone(), serving.owner.share());
        let ready = owner.map_err(|fault| Reason::from(fault.to_string())).and_then(|owner| self.begin(&name).map(|()| owner));
        let owner = match ready {
            Ok(owner) => owner,
            Err(reason) => return drop(tell.send(Err(reason))),
        };
        let (settings, store, out, registry) = (self.settings.clone(), self.store.clone(), self.out.clone(), self.registry());
        tokio::spawn(async move {
            let registry = registry.await.unwrap_or_else(|_| Err(stopping()));
            let joined = tokio::task::spawn_blocking(move || {
                let known = registry?.into_iter().chain([served.clone()]).collect();
                let desc = forget::choose(&name, known)?;
                if desc.id != served.id {
                    return Err(Reason::new(format!("“{name}” is not open"), "give the name of the set, or its id"));
                }
                add_to_served(&served, owner, &spare, overwrite, &settings, &store)
            });
            let joined = joined.await.unwrap_or_else(|error| Err(Reason::from(error.to_string())));
            drop(out.send(Input::Announced { set, joined, tell }));
        });
    }
}

/// A set with all of its members, and the disk that is to join it.
struct Wish {
    set: Candidate,
    main: FoundDevice,
    new: FoundDevice,
    devices: Vec<FoundDevice>,
    known: Vec<SetDescription>,
}

/// Looks who is there. Changes nothing, as all that follows until [`write`] does.
fn look(id: SetId, name: &SetName, path: &Path, settings: &Settings, store: &Storekeeper) -> Result<Wish, Reason> {
    let devices =
        inputs::devices(settings).map_err(|error| Reason::from(format!("the block devices cannot be listed: {error}")))?;
    let mut candidates = assemble::discover(&devices);
    let known: Vec<_> = candidates.values().map(|candidate| candidate.desc.clone()).chain(registry(store)?).collect();
    // Its own headers know best who is in the set: the registry can lag.
    let set = candidates.remove(&id).ok_or_else(|| "none of its spares is attached".to_string());
    let set = set.and_then(|set| set.complete().map(|()| set)).map_err(|why| {
        let hint = "every disk of a set has to be attached when another one joins it; see: remap-guardian status";
        Reason::new(format!("“{name}” is not complete: {why}"), hint)
    })?;
    let main = set.main.clone().map_err(Reason::from)?;
    let new = find(path, &devices)?;
    Ok(Wish { set, main, new, devices, known })
}

impl Wish {
    /// The set with the new disk, if it may be a spare of it.
    fn check(&self, overwrite: bool) -> Result<SetDescription, Reason> {
        let Wish { set, main, new, devices, known } = self;
        distinct(main, new, "main and spare")?;
        stranger(new, known, devices, Path::new("/sys"))?;
        free(new)?;
        recognisable(new)?;
        blank(new, overwrite)?;
        spare_join::extended(&set.desc, &new.identity).map_err(|error| refusal(new, &error))
    }

    fn joined(&self, set: SetDescription) -> Joined {
        let capacity = assemble::capacity(&set).pop().unwrap_or_default();
        let spare = set.spares.len() as u16 - 1;
        let disk = format!("{} ({})", self.new.node.display(), words(&self.new.identity));
        let line = format!("{disk} is spare {spare} of “{}”: {} MiB more of spare space", set.name, capacity.bytes() >> 20);
        Joined { set, lines: vec![line], what: What::SpareAdded { disk, spare, capacity } }
    }
}

fn add_to_closed(
    desc: &SetDescription,
    path: &Path,
    overwrite: bool,
    settings: &Settings,
    store: &Storekeeper,
) -> Result<Joined, Reason> {
    let wish = look(desc.id, &desc.name, path, settings, store)?;
    let more = wish.check(overwrite)?;
    let old = wish.set.spares.values().map(|spare| Ok(Box::new(sole(spare)?) as _)).collect::<Result<Vec<_>, Reason>>()?;
    write(&wish, &old, &more)?;
    Ok(wish.joined(more))
}

/// `served` is what the device serves by now: the headers name one spare more if this was begun before, and cut short.
fn add_to_served(
    served: &SetDescription,
    owner: DmTarget,
    path: &Path,
    overwrite: bool,
    settings: &Settings,
    store: &Storekeeper,
) -> Result<Joined, Reason> {
    let wish = look(served.id, &served.name, path, settings, store)?;
    let begun = begun(&wish.set.desc, served, &wish.new.identity)?;
    let more = if begun { wish.set.desc.clone() } else { wish.check(overwrite)? };
    // Its flushes are told of, under numbers that no thread of the set uses: applications may have something in the same caches.
    let listener = Listener::default();
    listener.hear(Box::new(owner));
    let old = wish.set.spares.values().take(served.spares.len()).zip(1..);
    let old = old.map(|(spare, member)| {
        Ok(Box::new(Announced::new(assemble::open_member(spare)?, &listener, number(member, 3))) as Box<dyn BlockIo>)
    });
    let old = old.collect::<Result<Vec<_>, String>>()?;
    if begun {
        complete(&wish, &old)?
    } else {
        write(&wish, &old, &more)?
    }
    answers(&wish.new, &more)?;
    Ok(wish.joined(more))
}

/// The set is at rest only after the new spare has shown that it can be opened.
fn answers(new: &FoundDevice, more: &SetDescription) -> Result<(), Reason> {
    let opened = SpareTable::open(&assemble::open_member(new)?, more, more.spares.len() as u16 - 1);
    opened.map(drop).map_err(|error| {
        let hint = "the set goes on with the spares that it had; check the disk, and repeat it";
        Reason::new(format!("{}: {error}", new.node.display()), hint)
    })
}

/// Whether the adding of this disk was begun, so that it only has to be completed.
fn begun(listed: &SetDescription, served: &SetDescription, new: &Identity) -> Result<bool, Reason> {
    let more = listed.spares.len() > served.spares.len();
    match listed.spares.last() {
        Some(last) if more && last.matches(new).is_err() => {
            let message = format!("“{}” gets another spare already, and that is not finished: {}", listed.name, words(last));
            Err(Reason::new(message, "repeat the command with that disk first"))
        }
        _ => Ok(more),
    }
}

/// Brings the headers of an adding that was cut short to its end.
fn complete(wish: &Wish, old: &[Box<dyn BlockIo>]) -> Result<(), Reason> {
    let new = assemble::open_member(&wish.new)?;
    let spares: Vec<&dyn BlockIo> = old.iter().map(|io| io.as_ref()).chain([&new as &dyn BlockIo]).collect();
    let header = |io: &&dyn BlockIo| -> Result<Header, String> {
        match read_header(*io) {
            Ok(found) => Ok(found.header),
            Err(NoHeader::Unfinished(header)) => Ok(*header),
            Err(error) => Err(error.to_string()),
        }
    };
    let headers = spares.iter().map(header).collect::<Result<Vec<_>, String>>()?;
    let settled = spare_join::settle(&headers).filter(|settled| settled.set == wish.set.desc);
    let settled = settled.ok_or_else(|| "its spares say something else since they were looked at; repeat it".to_string())?;
    spare_join::complete(&spares, &settled).map_err(|error| unwritten(&wish.set.desc.name, &error.to_string()))
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
fn write(wish: &Wish, old: &[Box<dyn BlockIo>], more: &SetDescription) -> Result<(), Reason> {
    let Wish { set, new, .. } = wish;
    let (index, name) = (set.desc.spares.len() as u16, &more.name);
    let io = sole(new)?;
    let mut generation = 0;
    for (device, spare) in set.spares.values().zip(old) {
        let node = device.node.display();
        let found = read_header(spare.as_ref()).map_err(|error| {
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
    let old: Vec<&dyn BlockIo> = old.iter().map(|io| io.as_ref()).collect();
    reached("spare prepared");
    spare_join::announce(&old, more, generation + 1)
        .map_err(|error| error.to_string())
        .inspect(|()| reached("spare announced"))
        .and_then(|()| finish_spare(&io, more, index, generation + 1).map_err(|error| error.to_string()))
        .inspect(|()| reached("spare finished"))
        .map_err(|error| unwritten(name, &error))
}

fn unwritten(name: &SetName, error: &str) -> Reason {
    let hint = format!(
        "the set goes on with the spares that it had; repeat it, with --overwrite-spare if it asks for that. If it is closed: \
         remap-guardian restore {name}, and status {name} shows whether the disk is in the set"
    );
    Reason::new(format!("the headers were not all written: {error}"), hint)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::spare_table::tests::description;

    #[test]
    fn an_adding_that_was_begun_is_completed_with_the_same_disk_only() {
        let served = description();
        let [fresh, other] = ["NEW", "OTHER"].map(|serial| Identity { serial: serial.into(), ..served.spares[0].clone() });
        assert_eq!(begun(&served, &served, &fresh).ok(), Some(false));
        assert_eq!(begun(&served, &served, &other).ok(), Some(false));
        let listed = spare_join::extended(&served, &fresh).unwrap();
        assert_eq!(begun(&listed, &served, &fresh).ok(), Some(true));
        let refused = begun(&listed, &served, &other).unwrap_err();
        assert!(refused.message.contains("not finished") && refused.message.contains("NEW"), "{refused}");
    }
}
