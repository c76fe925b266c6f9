//! `restore --from-history`: makes spares anew that have lost both their headers, from what this machine knows of their set.

use super::assemble::words;
use super::closed::{Done, Known, remembered};
use super::create::free;
use super::daemon::Daemon;
use super::requests::Tell;
use super::storekeeper::Storekeeper;
use super::{forget, inputs};
use crate::actuate::spare_rebuild::{self, Rebuild, RebuildError};
use crate::actuate::{Access, DirectDevice, NoHeader, read_header};
use crate::config::Settings;
use crate::control::Reason;
use crate::edge::FoundDevice;
use crate::model::{Remap, SetDescription, SetName, What};
use crate::sources::signature;

/// A spare that is to be made anew.
struct Lost {
    device: FoundDevice,
    io: DirectDevice,
    plan: Rebuild,
}

/// What there is of the spares of a set.
struct Found {
    lost: Vec<Lost>,
    /// The generation that the new headers get.
    generation: u64,
}

impl Daemon {
    pub(super) fn rebuild_spares(&mut self, name: SetName, sure: bool, tell: Tell) {
        self.with_closed_set(name, tell, move |desc, settings, store| rebuild(desc, sure, settings, store));
    }
}

/// Lines for people; and what history says, if it was done.
fn rebuild(desc: &SetDescription, sure: bool, settings: &Settings, store: &Storekeeper) -> Result<Done, Reason> {
    forget::closed(desc)?;
    let devices =
        inputs::devices(settings).map_err(|error| Reason::from(format!("the block devices cannot be listed: {error}")))?;
    let known = remembered(desc, store)?;
    if let Some(remap) = known.returning {
        let message = format!(
            "sectors {} were on their way back to main when the daemon ended, and only spare {} knew whether they had arrived",
            remap.main, remap.spare
        );
        return Err(Reason::new(message, format!("remap-guardian activate {} --degraded (these sectors fail there)", desc.name)));
    }
    let found = find(desc, &devices, &known)?;
    if !sure {
        return Ok((found.lost.iter().flat_map(|lost| would(desc, lost)).collect(), None));
    }
    let mut lines = Vec::new();
    for lost in found.lost {
        let said = outcome(desc, &lost);
        let node = lost.device.node.display().to_string();
        spare_rebuild::rebuild(&lost.io, desc, lost.plan, found.generation).map_err(|error| {
            Reason::new(format!("{node}: not everything was written: {error}"), "repeat it; what was written is good")
        })?;
        lines.push(said);
    }
    let message = lines.join("; ");
    Ok((lines, Some(What::Alert { message })))
}

/// The spares without headers, and what is to be written to them. Fails if there is none, or if anything is not as it is known.
fn find(desc: &SetDescription, devices: &[FoundDevice], known: &Known) -> Result<Found, Reason> {
    let (mut whole, mut without) = (Vec::new(), Vec::new());
    let mut elsewhere: Vec<Remap> = Vec::new();
    let (mut top, mut generation) = (known.top(), 1);
    for (index, identity) in (0u16..).zip(&desc.spares) {
        let device = the_one(index, desc, devices)?;
        let name = format!("{} ({})", device.node.display(), words(identity));
        let io = DirectDevice::open(&device.node, Access::READ).map_err(|error| Reason::from(error.to_string()))?;
        let recorded = spare_rebuild::recorded(&io, desc, index);
        let (records, highest) = recorded.map_err(|error| Reason::from(format!("{name}: {error}")))?;
        top = top.max(highest);
        match read_header(&io) {
            Ok(found) if found.header.set == *desc && found.header.spare == index => {
                if found.bad_a.is_some() || found.bad_b.is_some() {
                    return Err(Reason::new(
                        format!("{name} has a whole header, which knows better than history"),
                        format!("remap-guardian spare repair {}", device.node.display()),
                    ));
                }
                generation = generation.max(found.header.generation);
                elsewhere.extend(records);
                whole.push(name);
            }
            Ok(found) => {
                let header = found.header;
                let whose = format!("spare {} of “{}” ({})", header.spare, header.set.name, header.set.id);
                let hint = "see what it says: remap-guardian spare inspect";
                return Err(Reason::new(format!("{name} has a header, and it says otherwise: {whose}"), hint));
            }
            Err(NoHeader::NotOurs | NoHeader::Damaged { .. }) => without.push((index, device.clone())),
            Err(error) => return Err(Reason::from(format!("{name}: {error}"))),
        }
    }
    if without.is_empty() {
        let message = format!("“{}” has all its headers: {}", desc.name, whole.join(", "));
        return Err(Reason::new(message, "remap-guardian restore; what is on a spare: remap-guardian spare inspect"));
    }
    let mut lost: Vec<Lost> = Vec::new();
    for (index, device) in without {
        let made = plan(desc, index, device, known, top)?;
        top += made.plan.added.len() as u64;
        for record in &elsewhere {
            if let Some(mine) = made.plan.records().find(|mine| mine.main.overlaps(&record.main)) {
                return Err(Reason::from(format!("two spares claim main {} and main {}", record.main, mine.main)));
            }
        }
        elsewhere.extend(made.plan.records());
        lost.push(made);
    }
    Ok(Found { lost, generation })
}

/// The one device that is spare `index`.
fn the_one<'a>(index: u16, desc: &SetDescription, devices: &'a [FoundDevice]) -> Result<&'a FoundDevice, Reason> {
    let identity = &desc.spares[usize::from(index)];
    let mut matching = devices.iter().filter(|device| identity.matches(&device.identity).is_ok());
    match (matching.next(), matching.next()) {
        (Some(device), None) => Ok(device),
        (Some(one), Some(two)) => {
            let message = format!("{} and {} both look like spare {index}", one.node.display(), two.node.display());
            Err(Reason::new(message, "detach the copy"))
        }
        (None, _) => {
            let message = format!("spare {index} ({}) is not attached; another disk cannot take its place", words(identity));
            Err(Reason::new(message, "attach it; without it: remap-guardian activate NAME --degraded"))
        }
    }
}

fn plan(desc: &SetDescription, index: u16, device: FoundDevice, known: &Known, top: u64) -> Result<Lost, Reason> {
    let node = device.node.display().to_string();
    let at = |error: &dyn std::fmt::Display| Reason::from(format!("{node}: {error}"));
    free(&device)?;
    if let Some(what) = signature::foreign(&device.node).map_err(|error| at(&error))? {
        let hint = "if nothing of it is needed: wipefs --all on it, then repeat";
        return Err(Reason::new(format!("{node} holds {what}: something else uses it since"), hint));
    }
    let io = DirectDevice::open(&device.node, Access::SOLE).map_err(|error| at(&error))?;
    if io.devno().map_err(|error| at(&error))? != Some(device.devno) {
        return Err(Reason::from(format!("{node} has become another device since it was looked at")));
    }
    let served = known.served[usize::from(index)].as_deref();
    let served = served.ok_or_else(|| Reason::from(format!("the store of this machine knows nothing of spare {index}")))?;
    let plan = spare_rebuild::plan(&io, desc, index, served, top);
    let plan = plan.map_err(|error| match error {
        RebuildError::HasHeader => Reason::new(format!("{node}: {error}"), format!("remap-guardian spare inspect {node}")),
        other => at(&other),
    })?;
    Ok(Lost { device, io, plan })
}

fn would(desc: &SetDescription, lost: &Lost) -> Vec<String> {
    let Rebuild { own, lost: blocks, added, left_out, .. } = &lost.plan;
    let name = format!("{} ({})", lost.device.node.display(), words(&lost.device.identity));
    let mut lines = vec![
        format!("{name}: would write both headers of “{}” ({}) anew", desc.name, desc.id),
        format!("{name}: {} remaps are in its own table and stay", own.len()),
    ];
    if !blocks.is_empty() {
        lines.push(format!(
            "{name}: {} blocks of its table are lost: would write them anew with {} remaps that the store knows, as such that \
             may hold lost sectors; remaps made in the last moment before may be missing",
            blocks.len(),
            added.len()
        ));
        lines.extend(added.iter().take(20).map(|remap| format!("  main {} at {}", remap.main, remap.at)));
        if added.len() > 20 {
            lines.push(format!("  … and {} more", added.len() - 20));
        }
    }
    lines.extend(
        left_out.iter().map(|served| format!("  not main {} at {}: its own table says otherwise", served.main, served.at)),
    );
    lines
}

fn outcome(desc: &SetDescription, lost: &Lost) -> String {
    let Rebuild { own, lost: blocks, added, left_out, .. } = &lost.plan;
    let device = format!("{} ({})", lost.device.node.display(), words(&lost.device.identity));
    let done = format!(
        "{device} had lost both headers: they were written anew on request, and it is a spare of “{}” again, with {} remaps \
         from its own table",
        desc.name,
        own.len()
    );
    if blocks.is_empty() {
        return done;
    }
    format!(
        "{done}; {} blocks of the table were lost, too: {} remaps are from the store and may hold lost sectors, {} of the \
         store's were left out because the table says otherwise, and those of the last moment before may be missing",
        blocks.len(),
        added.len(),
        left_out.len()
    )
}
