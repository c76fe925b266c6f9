//! From disks to an open device: finds sets by what is written on their spares, checks every member,
//! loads the table, opens. Never opens a device whose table is not known completely (S4, S8).

use super::seen::Seen;
use super::shield;
use super::watcher::From;
use crate::actuate::announced::{Announced, Listener, number};
use crate::actuate::impatient::ImpatientDevice;
use crate::actuate::probe::Prober;
use crate::actuate::reconcile::Truth;
use crate::actuate::steps::{Actuator, OpenSpare};
use crate::actuate::target::DmTarget;
use crate::actuate::target_text::{Bounds, dm_uuid};
use crate::actuate::{Access, BadCopy, Care, DirectDevice, NoHeader, activate, degraded, read_header, reconcile, spare_join};
use crate::config::Settings;
use crate::edge::{BlockIo, FoundDevice, Target, TargetFault};
use crate::format::header::Header;
use crate::model::{Extent, Remap, Sectors, SetDescription, SetId, TargetError, TargetErrorKind};
use crate::sources::in_use;
use std::collections::BTreeMap;
use std::path::Path;

/// A set that headers on the machine's disks speak of, with the disks that carry them.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What the newest header says.
    pub desc: SetDescription,
    /// Spares found, by index.
    pub spares: BTreeMap<u16, FoundDevice>,
    /// Its main device, or why there is none.
    pub main: Result<FoundDevice, String>,
    /// Something that forbids opening it: two disks claim to be the same spare, a member has changed.
    pub conflict: Option<String>,
}

impl Candidate {
    /// Every member is there, or which is missing.
    pub fn complete(&self) -> Result<(), String> {
        if let Some(conflict) = &self.conflict {
            return Err(conflict.clone());
        }
        for index in 0..self.desc.spares.len() as u16 {
            if !self.spares.contains_key(&index) {
                return Err(format!("spare {index} ({}) is missing", words(&self.desc.spares[index as usize])));
            }
        }
        self.main.as_ref().map(drop).map_err(Clone::clone)
    }
}

/// A disk in words for people.
pub fn words(identity: &crate::model::Identity) -> String {
    let known = [&identity.serial, &identity.wwn, &identity.partition].into_iter().find(|text| !text.is_empty());
    let size = identity.sectors.bytes() / (1 << 20);
    format!("{} {}, {size} MiB", identity.model, known.map_or("without serial number", String::as_str)).trim().to_string()
}

/// Finds sets among the devices of this machine.
pub fn discover(devices: &[FoundDevice]) -> BTreeMap<SetId, Candidate> {
    let mut found: BTreeMap<SetId, Vec<(&FoundDevice, Header)>> = BTreeMap::new();
    for device in devices {
        let Ok(io) = DirectDevice::open(&device.node, Access::READ) else { continue };
        let header = match read_header(&io) {
            Ok(found) => found.header,
            Err(NoHeader::NotOurs) => continue,
            Err(NoHeader::Unfinished(header)) => *header,
            Err(error) => {
                tracing::warn!(device = %device.node.display(), %error, "a spare that cannot be used");
                continue;
            }
        };
        found.entry(header.set.id).or_default().push((device, header));
    }
    found.into_iter().filter_map(|(id, headers)| Some((id, candidate(headers, devices)?))).collect()
}

/// What the headers of one set come to; `None` if none of them counts.
///
/// A spare whose adding was cut short after the commit point is a member, although its own header does not count yet.
fn candidate(headers: Vec<(&FoundDevice, Header)>, devices: &[FoundDevice]) -> Option<Candidate> {
    let all: Vec<Header> = headers.iter().map(|(_, header)| header.clone()).collect();
    let (desc, generation) = match spare_join::settle(&all) {
        Some(settled) => (settled.set, settled.generation),
        None => {
            for (device, header) in headers {
                let error = NoHeader::Unfinished(Box::new(header));
                tracing::warn!(device = %device.node.display(), %error, "a spare that cannot be used");
            }
            return None;
        }
    };
    let mut candidate = Candidate { main: find_main(&desc, devices), desc, spares: BTreeMap::new(), conflict: None };
    let mut conflicts = Vec::new();
    for (device, header) in headers {
        if !spare_join::is_member(&header, &candidate.desc) {
            let error = NoHeader::Unfinished(Box::new(header));
            tracing::warn!(device = %device.node.display(), %error, "a spare that cannot be used");
            continue;
        }
        let index = header.spare;
        if header.generation == generation && header.set != candidate.desc {
            let node = device.node.display();
            conflicts.push(format!("{node} says otherwise than other spares who is in this set: detach the copy"));
            continue;
        }
        let expected = candidate.desc.spares.get(usize::from(index));
        let matches = expected.ok_or("its header is inconsistent".to_string()).and_then(|ours| ours.matches(&device.identity));
        if let Err(reason) = matches {
            let node = device.node.display();
            conflicts.push(format!("{node} carries spare {index} of this set but is another disk: {reason}"));
        } else if let Some(other) = candidate.spares.insert(index, device.clone()) {
            let (one, two) = (other.node.display(), device.node.display());
            conflicts.push(format!("{one} and {two} both claim to be spare {index}: detach the copy"));
        }
    }
    candidate.conflict = conflicts.into_iter().next();
    Some(candidate)
}

/// Finds sets and shields their main devices: before anything is opened, and also of what cannot be.
pub fn discover_and_shield(devices: &[FoundDevice]) -> BTreeMap<SetId, Candidate> {
    let found = discover(devices);
    let sets: Vec<&SetDescription> = found.values().map(|candidate| &candidate.desc).collect();
    shield::raise(shield::LIST, &sets, devices);
    found
}

pub(super) fn find_main(desc: &SetDescription, devices: &[FoundDevice]) -> Result<FoundDevice, String> {
    let mut matching = devices.iter().filter(|device| desc.main.matches(&device.identity).is_ok());
    match (matching.next(), matching.next()) {
        (Some(main), None) => Ok(main.clone()),
        (Some(one), Some(two)) => {
            Err(format!("{} and {} both look like the main device: detach the copy", one.node.display(), two.node.display()))
        }
        (None, _) => Err(near_miss(desc, devices)),
    }
}

/// Why no device is the main device; names one that is almost it.
fn near_miss(desc: &SetDescription, devices: &[FoundDevice]) -> String {
    let same_serial = |device: &&FoundDevice| !desc.main.serial.is_empty() && device.identity.serial == desc.main.serial;
    let near = devices.iter().filter(same_serial).find(|device| device.identity.partition == desc.main.partition);
    match near.and_then(|device| desc.main.matches(&device.identity).err().map(|reason| (device, reason))) {
        Some((device, reason)) => format!("{} is not the main device any more: {reason}", device.node.display()),
        None => format!("the main device ({}) is missing", words(&desc.main)),
    }
}

/// An open set, ready to be served.
pub struct Opened {
    /// The set.
    pub desc: SetDescription,
    /// Main.
    pub main: FoundDevice,
    /// Spares in order.
    pub spares: Vec<FoundDevice>,
    /// Live remaps.
    pub remaps: Vec<Remap>,
    /// For the actuator's thread.
    pub actuator: Actuator,
    /// For the prober's thread.
    pub prober: Prober,
    /// For the watcher's thread.
    pub watcher: DmTarget,
    /// Where it begins to read.
    pub from: From,
    /// The device was open already; these differences were mended.
    pub adopted: Option<Vec<String>>,
    /// Why the set is served without the spare that joined last, if it is.
    pub without: Option<String>,
}

/// Whether opening a set may write to its disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// The tables are settled: each block gets its second copy.
    Yes,
    /// Not yet: a system that hibernates may still count on what is there.
    No,
}

/// What there is to say against the records of a set's spares, sorted by main, when the set is about to be opened; the last argument
/// is whether its device is open already. Then the ranges that are to be closed off on it are the answer.
pub type Judge<'a> = &'a dyn Fn(&SetDescription, &[Remap], bool) -> Result<Vec<Extent>, String>;

/// For those who know nothing of the spares but what is on them.
pub fn no_judge(_: &SetDescription, _: &[Remap], _: bool) -> Result<Vec<Extent>, String> {
    Ok(Vec::new())
}

/// Opens a complete set, or takes over its device if it is open already.
pub fn open(candidate: &Candidate, settings: &Settings, seen: &Seen, writes: Writes, judge: Judge) -> Result<Opened, String> {
    candidate.complete()?;
    let desc = candidate.desc.clone();
    if let Some(degraded) = degraded::find(desc.id)? {
        return Err(degraded.to_string());
    }
    let main = candidate.main.clone()?;
    let spares: Vec<FoundDevice> = candidate.spares.values().cloned().collect();
    let uuid = dm_uuid(desc.id);
    let held = |member: &FoundDevice| in_use::foreign_holder(Path::new("/sys"), &member.name, &uuid);
    if let Some(held) = std::iter::once(&main).chain(&spares).find_map(held) {
        return Err(format!("{held}, which is no device of this set: stop what uses it (“lsblk” shows it)"));
    }
    // All that can fail without the device comes before it.
    let main_io = ImpatientDevice::new(open_member(&main)?, open_member(&main)?).map_err(|error| error.to_string())?;
    // Whose device is there already, and in use perhaps, hears of every flush, also of those that reading the tables takes.
    let listener = Listener::default();
    let there = activate::find_active(desc.id).map_err(|error| error.to_string())?.is_some_and(|active| active.has_table);
    let owned = if there { Some(DmTarget::own_set(desc.id).map_err(|fault| fault.to_string())?) } else { None };
    if let Some(target) = &owned {
        listener.hear(Box::new(target.share().map_err(|fault| fault.to_string())?));
    }
    // Handles of its own: a slow read there must not make a cure wait.
    let own = spares.iter().zip(1..);
    let own = own.map(|(spare, member)| Ok(Box::new(Announced::new(open_member(spare)?, &listener, number(member, 1))) as _));
    let mut own = own.collect::<Result<Vec<_>, String>>()?;
    let prober_main = Box::new(Announced::new(open_member(&main)?, &listener, number(0, 0)));
    let nodes = spares.iter().zip(1..).map(|(spare, member)| {
        let handle = |n| open_member(spare).map(|io| Announced::new(io, &listener, number(member, n)));
        let io = ImpatientDevice::new(handle(0)?, handle(2)?).map_err(|error| error.to_string())?;
        Ok((spare.node.display().to_string(), Box::new(io) as _))
    });
    let nodes: Vec<(String, Box<dyn BlockIo>)> = nodes.collect::<Result<_, String>>()?;
    let named: Vec<(&str, &dyn BlockIo)> = nodes.iter().map(|(name, io)| (name.as_str(), io.as_ref())).collect();
    let unfinished = check_headers(&desc, &named, writes)?;
    let (mut open_spares, remaps) = reconcile::open_tables(&desc, nodes)?;
    let older = match owned.as_ref().map(open_with_seal).transpose().map_err(|fault| fault.to_string())? {
        Some((true, false)) => Vec::new(),
        Some((open, _)) => judge(&desc, &remaps, open)?,
        None => judge(&desc, &remaps, false)?,
    };
    let spares_needed = remaps.iter().map(|remap| usize::from(remap.spare) + 1).max().unwrap_or(1);
    let wanted = desc.spares.len() - usize::from(unfinished.is_some());
    without_the_last(wanted, spares_needed, unfinished.as_deref())?;
    let Made { fresh, live, why } = make_device(&desc.with_spares(wanted), &main, &spares, settings)?;
    let without = why.or(unfinished);
    let count = live.min(wanted);
    without_the_last(count, spares_needed, without.as_deref())?;
    let (desc, spares) = (desc.with_spares(count), spares[..count].to_vec());
    open_spares.truncate(count);
    own.truncate(count);
    let owned = owned.filter(|_| !fresh);
    let taken = take_device(&desc, &mut open_spares, (&remaps, &older), fresh, owned, seen, writes);
    if fresh && taken.is_err() {
        // Nothing half-done stays: a closed device would only make I/O wait.
        if let Err(error) = activate::remove(&desc.name) {
            tracing::warn!(name = %desc.name, %error, "a device that nobody serves stays behind");
        }
    }
    let Taken { target, watcher, adopted, from, care } = taken?;
    listener.hear(Box::new(target.share().map_err(|fault| fault.to_string())?));
    let prober =
        Prober::new(&desc, Box::new(target.share().map_err(|fault| fault.to_string())?), prober_main, own, care.whole_tables());
    let actuator = Actuator::new(&desc, Box::new(target), Box::new(main_io), open_spares, care);
    Ok(Opened { desc, main, spares, remaps, actuator, prober, watcher, from, adopted, without })
}

/// A spare that joined may be left out for now, but only as long as it serves nothing: of `needed` spares each may.
fn without_the_last(count: usize, needed: usize, why: Option<&str>) -> Result<(), String> {
    if count >= needed {
        return Ok(());
    }
    Err(format!("spare {} cannot be left out: {}", needed - 1, why.unwrap_or("the device was made without it")))
}

/// Whether a device is open, and whether it has a seal.
///
/// An open one has held writes that wait for its daemon, and their bound runs: its judge is asked only where a seal would be lifted, as
/// that may be the one of a range that an earlier run closed off. What is found later is closed off then.
fn open_with_seal(target: &DmTarget) -> Result<(bool, bool), TargetFault> {
    let sealed = target.fences()?.iter().any(|fence| fence.state.is_sealed());
    Ok((target.status()?.state == "ACTIVE", sealed))
}

/// The headers of the spares still come to this set: it may have been given up, or have got another spare, since it was looked at. Where
/// that other spare's adding was cut short, the headers are brought up to the newest one, if that may be done now. If it fails, the
/// answer is why: then nothing may be placed on that spare, as it could be forgotten together with the one header that names it.
fn check_headers(desc: &SetDescription, spares: &[(&str, &dyn BlockIo)], writes: Writes) -> Result<Option<String>, String> {
    let mut headers = Vec::new();
    let mut torn = false;
    for ((name, io), index) in spares.iter().zip(0..) {
        let header = match read_header(*io) {
            Ok(found) => {
                torn |= [&found.bad_a, &found.bad_b].into_iter().any(|bad| matches!(bad, Some(BadCopy::Older(_))));
                found.header
            }
            Err(NoHeader::Unfinished(header)) => *header,
            Err(error) => return Err(format!("{name} is not spare {index} of this set any more: {error}")),
        };
        if header.spare != index || !spare_join::is_member(&header, desc) {
            return Err(format!("{name} is not spare {index} of this set any more"));
        }
        headers.push(header);
    }
    let settled = spare_join::settle(&headers).filter(|settled| settled.set == *desc);
    let settled = settled.ok_or("its spares say something else since they were looked at; repeat: remap-guardian restore")?;
    if writes == Writes::No || (settled.behind.is_empty() && !torn) {
        return Ok(None);
    }
    let ios: Vec<&dyn BlockIo> = spares.iter().map(|(_, io)| *io).collect();
    tracing::info!(set = %desc.name, behind = ?settled.behind, "the headers of an adding that was cut short are brought up");
    let completed = spare_join::complete(&ios, &settled);
    Ok(completed.err().map(|error| format!("adding a spare was cut short, and could not be completed: {error}")))
}

/// Opens the node of a member, if the device that was looked at is still behind it.
pub(super) fn open_member(member: &FoundDevice) -> Result<DirectDevice, String> {
    let io = DirectDevice::open(&member.node, Access::WRITE).map_err(|error| error.to_string())?;
    let devno = io.devno().map_err(|error| error.to_string())?;
    if devno != Some(member.devno) {
        return Err(format!("{} has become another device since it was looked at", member.node.display()));
    }
    Ok(io)
}

/// A device that is there.
struct Made {
    fresh: bool,
    /// Spares in its table.
    live: usize,
    /// Why it has fewer than it should.
    why: Option<String>,
}

/// Makes the device, closed, unless it is there already. Then it gets the spares that have joined since it was made.
fn make_device(desc: &SetDescription, main: &FoundDevice, spares: &[FoundDevice], settings: &Settings) -> Result<Made, String> {
    let text = |error: activate::ActivateError| error.to_string();
    let bounds = Bounds { closed_ms: settings.closed_ms, hold_ms: settings.hold_ms };
    let wanted = desc.spares.len();
    let devnos: Vec<(u32, u32)> = spares.iter().take(wanted).map(|spare| spare.devno).collect();
    match activate::find_active(desc.id).map_err(text)? {
        Some(half) if !half.has_table => activate::remove(&desc.name).map_err(text)?,
        Some(_) => {
            let activate::LiveMembers { main: live_main, spares } = activate::live_members(desc).map_err(text)?;
            let live = spares.len();
            let same = spares.iter().zip(&devnos).all(|(live, found)| live == found);
            if live_main != main.devno || !same {
                // Cures by what the disks say under their new names would be cures of nothing.
                return Err(format!(
                    "its device still uses a disk that went away and is back as another one; unmount {0}, remove it (dmsetup remove {0}), \
                     then: remap-guardian restore {0}",
                    desc.name
                ));
            }
            if live >= wanted {
                return Ok(Made { fresh: false, live, why: None });
            }
            let why = activate::extend(desc, main.devno, &devnos, bounds).map_err(text).err();
            return Ok(Made { fresh: false, live: activate::live_members(desc).map_err(text)?.spares.len(), why });
        }
        None => {}
    }
    activate::create_closed(desc, main.devno, &devnos, bounds).map_err(text)?;
    Ok(Made { fresh: true, live: wanted, why: None })
}

/// A device that is ours.
struct Taken {
    target: DmTarget,
    watcher: DmTarget,
    adopted: Option<Vec<String>>,
    from: From,
    care: Care,
}

/// `owned`: the device is ours already.
fn take_device(
    desc: &SetDescription,
    spares: &mut [OpenSpare],
    (remaps, older): (&[Remap], &[Extent]),
    fresh: bool,
    owned: Option<DmTarget>,
    seen: &Seen,
    writes: Writes,
) -> Result<Taken, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let target = owned.map_or_else(|| DmTarget::own_set(desc.id), Ok).map_err(|fault| text(&fault))?;
    let watcher = target.share().map_err(|error| text(&error))?;
    // Where nothing may be written the daemon that takes the device over settles the table, before anything is mounted.
    let (mut care, unsettled) = match writes {
        Writes::Yes => (Care::begin(spares), reconcile::unsettled(spares)),
        Writes::No => (Care::default(), Vec::new()),
    };
    let loaded = reconcile::load(&target, desc, Truth { remaps, unsettled: &unsettled, older })?;
    care.keep_sealed(loaded.sealed);
    // Also for a device that was left suspended, or whose opening udev has not been told of.
    activate::open(&desc.name).map_err(|error| text(&error))?;
    if fresh {
        return Ok(Taken { target, watcher, adopted: None, from: From { since: 1, held_since: 1 }, care });
    }
    let mut mended = loaded.mended;
    let since = seen.next(desc.id, target.instance());
    let before = target.errors(since).map_err(|fault| text(&fault))?;
    let told_late = |record: &&TargetError| {
        let is_news = !matches!(record.kind, TargetErrorKind::Held | TargetErrorKind::Healed);
        is_news && record.seq < loaded.next_error
    };
    match before.records.iter().filter(told_late).count() {
        0 => {}
        count => mended.push(format!("{count} error records were not read before this run: what they say follows")),
    }
    // What is held by now tells of itself anew, and what was healed since it was held must not be cured by its old word.
    let from = From { since, held_since: before.next.max(loaded.next_error) };
    reconcile::try_held_again(&target, desc)?;
    Ok(Taken { target, watcher, adopted: Some(mended), from, care })
}

/// Sectors of each spare that can serve main.
pub fn capacity(desc: &SetDescription) -> Vec<Sectors> {
    desc.geometry.iter().map(|geometry| geometry.data.len()).collect()
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
