//! Device-mapper events: which of our devices has something to tell.
//!
//! An event says only “look”: the error ring is read by whoever owns the device.

use crate::actuate::target_text::UUID_PREFIX;
use crate::model::SetId;
use devicemapper::{DM, DevId, DmError};
use std::collections::HashMap;
use std::io;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Something happened to a device of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DmEvent {
    /// The device is new to us, or its target has raised an event: read its error ring.
    Look {
        /// The set, from the device's UUID.
        set: SetId,
        /// The device's name.
        name: String,
    },
    /// The device is gone.
    Gone {
        /// The set.
        set: SetId,
    },
}

/// What was last seen of one device-mapper device, keyed by its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: String,
    event_nr: Option<u32>,
    /// `None`: not a device of ours.
    set: Option<SetId>,
}

/// One device as device-mapper lists it.
type Listed = (String, (u32, u32), Option<u32>);

/// Remembers event numbers and tells what is new.
#[derive(Debug, Default)]
struct Tracker {
    seen: HashMap<(u32, u32), Seen>,
}

impl Tracker {
    /// Compares a new list with the last one. `set_of` tells the set of a device; it is asked for those that are new.
    fn update(&mut self, listed: Vec<Listed>, set_of: impl Fn(&str) -> Option<SetId>) -> Vec<DmEvent> {
        let mut events = Vec::new();
        let mut before = std::mem::take(&mut self.seen);
        for (name, devno, event_nr) in listed {
            let old = before.remove(&devno);
            let set = match &old {
                // A number that runs backwards is another device with the same numbers.
                Some(old) if old.name == name && old.event_nr <= event_nr => {
                    if let Some(set) = old.set.filter(|_| old.event_nr != event_nr) {
                        events.push(DmEvent::Look { set, name: name.clone() });
                    }
                    old.set
                }
                _ => {
                    let set = set_of(&name);
                    if let Some(gone) = old.and_then(|old| old.set).filter(|old| Some(*old) != set) {
                        events.push(DmEvent::Gone { set: gone });
                    }
                    events.extend(set.map(|set| DmEvent::Look { set, name: name.clone() }));
                    set
                }
            };
            self.seen.insert(devno, Seen { name, event_nr, set });
        }
        // A device that was made anew has other numbers: it is not gone.
        let still: Vec<SetId> = self.seen.values().filter_map(|seen| seen.set).collect();
        let gone = before.into_values().filter_map(|seen| seen.set).filter(|set| !still.contains(set));
        events.extend(gone.map(|set| DmEvent::Gone { set }));
        events
    }
}

/// The set of a device-mapper device, if it is one of ours.
fn set_of(dm: &DM, name: &str) -> Option<SetId> {
    let name = devicemapper::DmName::new(name).ok()?;
    let info = dm.device_info(&DevId::Name(name)).ok()?;
    let uuid = info.uuid()?.to_string();
    uuid::Uuid::try_parse(uuid.strip_prefix(UUID_PREFIX)?).ok().map(SetId)
}

fn other(error: DmError) -> io::Error {
    io::Error::other(error)
}

/// Announces events of our devices until the receiver is dropped; at first every device that is there. It has to run in
/// a tokio runtime. The channel closes if device-mapper fails.
pub fn watch() -> io::Result<mpsc::Receiver<DmEvent>> {
    let dm = super::readable(DM::new().map_err(other)?)?;
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        if let Err(error) = run(&dm, &sender).await {
            tracing::error!("device-mapper's events have ended: {error}");
        }
    });
    Ok(receiver)
}

async fn run(dm: &AsyncFd<DM>, sender: &mpsc::Sender<DmEvent>) -> io::Result<()> {
    let mut tracker = Tracker::default();
    loop {
        // Armed before the list is read: what happens after the list wakes us again.
        dm.get_ref().arm_poll().map_err(other)?;
        let listed = crate::dm::mapper::list(dm.get_ref()).map_err(io::Error::other)?;
        let listed = listed.into_iter().map(|one| (one.name.to_string(), (one.major, one.minor), one.event_nr));
        for event in tracker.update(listed.collect(), |name| set_of(dm.get_ref(), name)) {
            if sender.send(event).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            // Readiness is forgotten before the poll is armed: an edge in between is not lost.
            ready = dm.readable() => ready?.clear_ready(),
            () = sender.closed() => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(n: u128) -> SetId {
        SetId(uuid::Uuid::from_u128(n))
    }

    fn listed(name: &str, minor: u32, nr: u32) -> Listed {
        (name.into(), (253, minor), Some(nr))
    }

    fn ours(name: &str) -> Option<SetId> {
        match name {
            "a" => Some(set(1)),
            "b" => Some(set(2)),
            _ => None,
        }
    }

    fn look(n: u128, name: &str) -> DmEvent {
        DmEvent::Look { set: set(n), name: name.into() }
    }

    #[test]
    fn only_changes_of_our_devices_are_told() {
        let mut tracker = Tracker::default();
        let first = vec![listed("a", 0, 0), listed("root", 1, 0), listed("b", 2, 5)];
        assert_eq!(tracker.update(first.clone(), ours), [look(1, "a"), look(2, "b")]);
        assert_eq!(tracker.update(first, ours), []);
        let second = vec![listed("a", 0, 1), listed("root", 1, 7), listed("b", 2, 5)];
        assert_eq!(tracker.update(second, ours), [look(1, "a")]);
        assert_eq!(tracker.update(vec![listed("b", 2, 5)], ours), [DmEvent::Gone { set: set(1) }]);
    }

    #[test]
    fn known_devices_are_not_asked_again() {
        let mut tracker = Tracker::default();
        tracker.update(vec![listed("a", 0, 0)], ours);
        assert_eq!(tracker.update(vec![listed("a", 0, 3)], |_| panic!("asked")), [look(1, "a")]);
    }

    #[test]
    fn numbers_that_are_used_again_are_another_device() {
        let mut tracker = Tracker::default();
        tracker.update(vec![listed("a", 0, 9)], ours);
        assert_eq!(tracker.update(vec![listed("b", 0, 9)], ours), [DmEvent::Gone { set: set(1) }, look(2, "b")]);
        assert_eq!(tracker.update(vec![listed("b", 0, 1)], ours), [look(2, "b")], "made anew under the same name");
        assert_eq!(tracker.update(vec![listed("b", 4, 0)], ours), [look(2, "b")], "made anew with other numbers");
    }

    #[test]
    fn a_rename_is_no_loss() {
        let mut tracker = Tracker::default();
        tracker.update(vec![listed("a", 0, 1)], ours);
        assert_eq!(tracker.update(vec![listed("c", 0, 1)], |_| Some(set(1))), [look(1, "c")]);
    }
}
