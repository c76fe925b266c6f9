//! Gives up a set that is not open: its spares are blank again, and nothing speaks of it any more but history.

use super::assemble::words;
use super::daemon::{Daemon, Input};
use super::requests::{Tell, say, stopping};
use super::storekeeper::Storekeeper;
use super::{inputs, shield};
use crate::actuate::{Access, DirectDevice, SpareTable, activate, degraded, read_header, wipe_headers};
use crate::config::Settings;
use crate::control::Reason;
use crate::edge::FoundDevice;
use crate::model::{SetDescription, SetId, SetName};

impl Daemon {
    pub(super) fn forget(&mut self, name: SetName, sure: bool, tell: Tell) {
        if let Err(reason) = self.begin(&name) {
            drop(tell.send(Err(reason)));
            return;
        }
        let idle = self.idle();
        let (settings, out, store) = (self.settings.clone(), self.out.clone(), self.store.clone());
        let claimed = self.claimed.clone();
        let mut known: Vec<_> = self.candidates.values().map(|candidate| candidate.desc.clone()).collect();
        let registry = self.registry();
        tokio::spawn(async move {
            let registry = registry.await.unwrap_or_else(|_| Err(stopping()));
            let done = tokio::task::spawn_blocking(move || {
                known.extend(registry?);
                let desc = match choose(&name, known) {
                    Ok(desc) => desc,
                    Err(reason) => {
                        return unshield(&name, sure, &settings).map_or(Err(reason), |lines| Ok((None, lines)));
                    }
                };
                let claimed_here = claimed.claim(desc.id);
                if !claimed_here && !idle.contains(&desc.id) {
                    return Err(open(desc.name.as_str()));
                }
                let done = give_up(&desc, sure, &settings, &store);
                if claimed_here {
                    claimed.give_back(desc.id);
                }
                done.map(|(lines, wiped)| (wiped.map(|wiped| (desc, wiped)), lines))
            });
            let done = done.await.unwrap_or_else(|error| Err(Reason::from(error.to_string())));
            let (given_up, answer) = match done {
                Ok((given_up, lines)) => (given_up, say(lines)),
                Err(reason) => (None, Err(reason)),
            };
            drop(out.send(Input::Forgotten { given_up, answer, tell }));
        });
    }
}

/// Lines for people; and the spares that are blank now, if it was done.
fn give_up(
    desc: &SetDescription,
    sure: bool,
    settings: &Settings,
    store: &Storekeeper,
) -> Result<(Vec<String>, Option<Vec<String>>), Reason> {
    closed(desc)?;
    let devices =
        inputs::devices(settings).map_err(|error| Reason::from(format!("the block devices cannot be listed: {error}")))?;
    let spares = attached(desc.id, &devices);
    let missing = desc.spares.len().saturating_sub(spares.len());
    let later = (missing > 0).then(|| {
        format!("{missing} of its spares are not attached: attached again they speak of “{}” again; forget it then", desc.name)
    });
    if !sure {
        let wipe = |spare: &Attached| format!("would make {} blank; it holds {}", spare.words(), spare.holds(desc));
        let last = [
            format!("would remove “{}” ({}) from what is known; main and the history stay as they are", desc.name, desc.id),
            "nothing was done; to do it, repeat with --yes".to_string(),
        ];
        return Ok((spares.iter().map(wipe).chain(later).chain(last).collect(), None));
    }
    let wiped = wipe(&spares)?;
    let id = desc.id;
    let removed = store.ask(move |store| store.remove_set(id)).blocking_recv().map_err(|_| stopping())?;
    removed.map_err(|error| Reason::new(format!("the spares are blank, but the registry is not: {error}"), "repeat it"))?;
    shield::lift(shield::LIST, id, &devices);
    let done = wiped.iter().map(|spare| format!("{spare} is blank"));
    Ok((done.chain(later).chain([format!("“{}” is forgotten", desc.name)]).collect(), Some(wiped)))
}

/// A spare of the set that is attached.
pub struct Attached {
    device: FoundDevice,
    index: u16,
}

impl Attached {
    /// In words, for people.
    pub fn words(&self) -> String {
        format!("{} ({})", self.device.node.display(), words(&self.device.identity))
    }

    /// What is on it that is nowhere else, in words.
    pub fn holds(&self, desc: &SetDescription) -> String {
        let remaps = DirectDevice::open(&self.device.node, Access::READ)
            .map_err(|error| error.to_string())
            .and_then(|io| SpareTable::open(&io, desc, self.index).map_err(|error| error.to_string()))
            .map(|table| table.remaps().count());
        match remaps {
            Ok(0) => "no remaps".into(),
            Ok(count) => format!("{count} remaps: main has older content there, or none that can be read"),
            Err(error) => format!("an unknown number of remaps: {error}"),
        }
    }
}

/// The one set of this name or id.
pub fn choose(name: &SetName, mut known: Vec<SetDescription>) -> Result<SetDescription, Reason> {
    known.sort_by_key(|desc| desc.id);
    known.dedup_by_key(|desc| desc.id);
    known.retain(|desc| desc.is_called(name));
    let ids: Vec<String> = known.iter().map(|desc| desc.id.to_string()).collect();
    match (known.pop(), ids.len()) {
        (Some(desc), 1) => Ok(desc),
        (None, _) => Err(Reason::new(format!("there is no set “{name}”"), "see the known ones: remap-guardian status")),
        _ => Err(Reason::new(
            format!("several sets are called “{name}”: {}", ids.join(", ")),
            "give the id of one instead of the name; remap-guardian status --json shows which is which",
        )),
    }
}

/// Takes the sets of this name from the list of main devices, which is all that is left of them: no disk and no registry speaks of
/// them. `None` if there is none.
pub fn unshield(name: &SetName, sure: bool, settings: &Settings) -> Option<Vec<String>> {
    let list = shield::read(shield::LIST).ok()?;
    let entries: Vec<_> =
        list.into_iter().filter(|entry| entry.name == *name || entry.set.to_string() == name.as_str()).collect();
    let main = entries.iter().map(|entry| words(&entry.main)).collect::<Vec<_>>().join(", ");
    if entries.is_empty() {
        return None;
    }
    if !sure {
        return Some(vec![
            format!("no disk speaks of “{name}” any more; would let its main device ({main}) be used as a plain disk"),
            "nothing was done; to do it, repeat with --yes".into(),
        ]);
    }
    let devices = super::inputs::devices(settings).unwrap_or_default();
    entries.iter().for_each(|entry| shield::lift(shield::LIST, entry.set, &devices));
    Some(vec![format!("“{name}” is forgotten: its main device ({main}) is a plain disk")])
}

/// Fails while the set's device exists.
pub fn closed(desc: &SetDescription) -> Result<(), Reason> {
    if let Some(degraded) = degraded::find(desc.id).map_err(Reason::from)? {
        return Err(Reason::from(format!("“{}” is in use: {degraded}", desc.name)));
    }
    match activate::find_active(desc.id) {
        Ok(None) => Ok(()),
        Ok(Some(active)) => Err(open(&active.name)),
        // Without device-mapper no device is open.
        Err(activate::ActivateError::NoDeviceMapper(_)) => Ok(()),
        Err(error) => Err(Reason::from(error.to_string())),
    }
}

/// Why an open set is not forgotten.
pub fn open(name: &str) -> Reason {
    let message = format!("“{name}” is open, or the last I/O to its disks has not ended yet");
    Reason::new(message, format!("unmount it, then: dmsetup remove {name}; then repeat"))
}

/// The attached devices that say they are a spare of the set.
pub fn attached(set: SetId, devices: &[FoundDevice]) -> Vec<Attached> {
    let ours = |device: &FoundDevice| {
        let header = read_header(&DirectDevice::open(&device.node, Access::READ).ok()?).ok()?.header;
        (header.set.id == set).then(|| Attached { device: device.clone(), index: header.spare })
    };
    devices.iter().filter_map(ours).collect()
}

/// Makes the spares blank. Says which are; stops at the first that cannot be.
pub fn wipe(spares: &[Attached]) -> Result<Vec<String>, Reason> {
    let one = |spare: &Attached| {
        let node = &spare.device.node;
        let failed = |error: String| Reason::new(format!("{}: {error}", node.display()), "detach it, or repeat when it is free");
        let io = DirectDevice::open(node, Access::SOLE).map_err(|error| failed(error.to_string()))?;
        if io.devno().map_err(|error| failed(error.to_string()))? != Some(spare.device.devno) {
            return Err(failed("it has become another device since it was looked at".into()));
        }
        wipe_headers(&io).map_err(|error| failed(error.to_string()))?;
        Ok(spare.words())
    };
    spares.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Identity, Millis, Secret};

    #[test]
    fn a_set_is_chosen_by_name_or_id() {
        let set = |id: u128, name: &str| SetDescription {
            id: SetId(uuid::Uuid::from_u128(id)),
            name: SetName::new(name).unwrap(),
            main: Identity::default(),
            spares: Vec::new(),
            secret: Secret([0; 16]),
            geometry: Vec::new(),
            created: Millis(0),
        };
        let known = vec![set(1, "a"), set(2, "b"), set(1, "a"), set(3, "b")];
        let chosen = |name: &str| choose(&SetName::new(name).unwrap(), known.clone()).map(|desc| desc.id.0.as_u128());
        assert_eq!(chosen("a").unwrap(), 1);
        assert_eq!(chosen(&set(3, "b").id.to_string()).unwrap(), 3);
        assert!(chosen("b").unwrap_err().message.contains("several"));
        assert!(chosen("c").unwrap_err().message.contains("no set “c”"));
    }
}
