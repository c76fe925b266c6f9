//! From disks to an open device: finds sets by what is written on their spares, checks every member,
//! loads the table, opens. Never opens a device whose table is not known completely (S4, S8).

use crate::actuate::steps::{Actuator, OpenSpare};
use crate::actuate::target::DmTarget;
use crate::actuate::target_text::Bounds;
use crate::actuate::{Access, DirectDevice, NoHeader, SpareTable, activate, read_header};
use crate::config::Settings;
use crate::edge::{FenceState, FoundDevice, Target};
use crate::model::{Extent, Remap, Sector, Sectors, SetDescription, SetId};
use std::collections::BTreeMap;

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
    let mut found: BTreeMap<SetId, (u64, Candidate)> = BTreeMap::new();
    for device in devices {
        let Ok(io) = DirectDevice::open(&device.node, Access::READ) else { continue };
        let header = match read_header(&io) {
            Ok(found) => found.header,
            Err(NoHeader::NotOurs) => continue,
            Err(error) => {
                tracing::warn!(device = %device.node.display(), %error, "a spare that cannot be used");
                continue;
            }
        };
        let (desc, index, generation) = (header.set, header.spare, header.generation);
        let entry = found.entry(desc.id).or_insert_with(|| {
            let main = find_main(&desc, devices);
            (generation, Candidate { desc: desc.clone(), spares: BTreeMap::new(), main, conflict: None })
        });
        if generation > entry.0 {
            entry.0 = generation;
            entry.1.main = find_main(&desc, devices);
            entry.1.desc = desc.clone();
        }
        let expected = desc.spares.get(index as usize);
        let matches = expected.ok_or("its header is inconsistent".to_string()).and_then(|ours| ours.matches(&device.identity));
        if let Err(reason) = matches {
            entry.1.conflict =
                Some(format!("{} carries spare {index} of this set but is another disk: {reason}", device.node.display()));
        } else if let Some(other) = entry.1.spares.insert(index, device.clone()) {
            let (one, two) = (other.node.display(), device.node.display());
            entry.1.conflict = Some(format!("{one} and {two} both claim to be spare {index}: detach the copy"));
        }
    }
    found.into_iter().map(|(id, (_, candidate))| (id, candidate)).collect()
}

fn find_main(desc: &SetDescription, devices: &[FoundDevice]) -> Result<FoundDevice, String> {
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
    /// For the watcher's thread.
    pub watcher: Box<dyn Target>,
    /// First error record to look at.
    pub since: u64,
    /// The device was open already; these differences were mended.
    pub adopted: Option<Vec<String>>,
}

/// Opens a complete set, or takes over its device if it is open already.
pub fn open(candidate: &Candidate, settings: &Settings) -> Result<Opened, String> {
    candidate.complete()?;
    let desc = candidate.desc.clone();
    let main = candidate.main.clone()?;
    let spares: Vec<FoundDevice> = candidate.spares.values().cloned().collect();
    let (open_spares, remaps) = open_spares(&desc, &spares)?;
    let (target, adopted, since) = take_device(&desc, &main, &spares, &remaps, settings)?;
    let main_io = DirectDevice::open(&main.node, Access::WRITE).map_err(|error| error.to_string())?;
    let watcher = Box::new(target.share().map_err(|error| error.to_string())?);
    let actuator = Actuator::new(&desc, Box::new(target), Box::new(main_io), open_spares);
    Ok(Opened { desc, main, spares, remaps, actuator, watcher, since, adopted })
}

/// Opens every spare and reads its whole table, from the medium.
fn open_spares(desc: &SetDescription, spares: &[FoundDevice]) -> Result<(Vec<OpenSpare>, Vec<Remap>), String> {
    let mut open = Vec::new();
    let mut remaps = Vec::new();
    for (index, spare) in spares.iter().enumerate() {
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", spare.node.display());
        let io = DirectDevice::open(&spare.node, Access::WRITE).map_err(|error| at(&error))?;
        let mut table = SpareTable::open(&io, desc, index as u16).map_err(|error| at(&error))?;
        table.check().map_err(|problem| at(&format!("its table is not sound, so remaps may be missing: {problem}")))?;
        if let Err(error) = table.mirror(&io) {
            tracing::warn!(spare = %spare.node.display(), %error, "table blocks have only one good copy");
        }
        remaps.extend(table.remaps().copied());
        open.push(OpenSpare { io: Box::new(io), table });
    }
    remaps.sort_by_key(|remap: &Remap| remap.main.start());
    match remaps.windows(2).find(|pair| pair[0].main.overlaps(&pair[1].main)) {
        Some(pair) => Err(format!("the spares disagree: main sectors {} and {} overlap", pair[0].main, pair[1].main)),
        None => Ok((open, remaps)),
    }
}

type Taken = (DmTarget, Option<Vec<String>>, u64);

fn take_device(
    desc: &SetDescription,
    main: &FoundDevice,
    spares: &[FoundDevice],
    remaps: &[Remap],
    settings: &Settings,
) -> Result<Taken, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let active = activate::find_active(desc.id).map_err(|error| text(&error))?;
    let active = match active {
        Some(half) if !half.has_table => {
            activate::remove(&desc.name).map_err(|error| text(&error))?;
            None
        }
        other => other,
    };
    let fresh = active.is_none();
    if fresh {
        let bounds = Bounds { closed_ms: settings.closed_ms, hold_ms: settings.hold_ms };
        let devnos: Vec<(u32, u32)> = spares.iter().map(|spare| spare.devno).collect();
        activate::create_closed(desc, main.devno, &devnos, bounds).map_err(|error| text(&error))?;
    }
    let taken = load_and_open(desc, remaps, fresh);
    if fresh && taken.is_err() {
        // Nothing half-done stays: a closed device would only make I/O wait.
        if let Err(error) = activate::remove(&desc.name) {
            tracing::warn!(name = %desc.name, %error, "a closed device stays behind");
        }
    }
    taken
}

fn load_and_open(desc: &SetDescription, remaps: &[Remap], fresh: bool) -> Result<Taken, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let target = DmTarget::own_set(desc.id).map_err(|fault| text(&fault))?;
    target.secret(&desc.secret).map_err(|fault| text(&fault))?;
    let status = target.status().map_err(|fault| text(&fault))?;
    let closed = status.state != "ACTIVE";
    let mended = reconcile(&target, remaps, closed).map_err(|reason| format!("kernel and spare disagree: {reason}"))?;
    if closed {
        target.ready(remaps).map_err(|fault| text(&fault))?;
    }
    // Also for a device that was left suspended, or whose opening udev has not been told of.
    activate::open(&desc.name).map_err(|error| text(&error))?;
    if fresh {
        return Ok((target, None, 1));
    }
    // What waits since before we came is tried again, which reports it anew.
    let whole = Extent::new(Sector(0), desc.main.sectors).map_err(|error| text(&error))?;
    target.lease(5_000).and_then(|()| target.retry(whole)).map_err(|fault| text(&fault))?;
    Ok((target, Some(mended), status.next_seq))
}

/// Makes the kernel follow the spare's table, which is the truth. Says what was different.
fn reconcile(target: &dyn Target, truth: &[Remap], closed: bool) -> Result<Vec<String>, String> {
    let text = |error: crate::edge::TargetFault| error.to_string();
    let mut mended = Vec::new();
    let live: BTreeMap<Sector, Remap> =
        target.dump().map_err(text)?.into_iter().map(|remap| (remap.main.start(), remap)).collect();
    let known: BTreeMap<Sector, &Remap> = truth.iter().map(|remap| (remap.main.start(), remap)).collect();
    let same = |a: &Remap, b: &Remap| (a.main, a.spare, a.at) == (b.main, b.spare, b.at);
    if let Some(stray) = live.values().find(|remap| !known.get(&remap.main.start()).is_some_and(|k| same(k, remap))) {
        return Err(format!("the kernel maps main sectors {} to a place that no spare records", stray.main));
    }
    let missing: Vec<Remap> = truth.iter().filter(|remap| !live.contains_key(&remap.main.start())).copied().collect();
    if closed {
        target.load(&missing).map_err(text)?;
        return Ok(mended);
    }
    let fences = target.fences().map_err(text)?;
    for remap in &missing {
        let left = fences.iter().find(|fence| fence.extent.covers(&remap.main)).map(|fence| (fence.id, fence.state));
        let fence = match left {
            Some((id, FenceState::Sealed | FenceState::Failed)) => id,
            other => {
                if let Some((id, _)) = other {
                    target.unfence(id).map_err(text)?;
                }
                let id = target.fence(remap.main, crate::actuate::steps::FENCE_MS).map_err(text)?;
                target.await_drained(id).and_then(|()| target.seal(id)).map_err(text)?;
                id
            }
        };
        target.add_remap(remap, Some(fence)).map_err(text)?;
        mended.push(format!("main sectors {} were recorded on the spare but not yet mapped: mapped now", remap.main));
    }
    for fence in target.fences().map_err(text)? {
        // Its remap was never recorded, and the whole table was read: the outcome is known.
        target.unfence(fence.id).map_err(text)?;
        mended.push(format!("a fence on main sectors {} was left by an earlier run: lifted", fence.extent));
    }
    Ok(mended)
}

/// Sectors of each spare that can serve main.
pub fn capacity(desc: &SetDescription) -> Vec<Sectors> {
    desc.geometry.iter().map(|geometry| geometry.data.len()).collect()
}
