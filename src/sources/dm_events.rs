//! Device-mapper events: which of our devices has something to tell.
//!
//! An event says only “look”: the error ring is read by whoever owns the device.

use crate::actuate::target_text::UUID_PREFIX;
use crate::dm::events::{Change, Tracker, What};
use crate::dm::{Error, Name};
use crate::model::SetId;
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

/// The sets whose devices are there, by major and minor number.
#[derive(Debug, Default)]
struct Ours(HashMap<(u32, u32), SetId>);

impl Ours {
    /// What changes of any devices mean for ours. `set_of` tells the set of a device; it is asked for those that are
    /// new or have a new name.
    fn events(&mut self, changes: Vec<Change>, set_of: impl Fn(&Name) -> Option<SetId>) -> Vec<DmEvent> {
        let (mut events, mut gone) = (Vec::new(), Vec::new());
        for change in changes {
            match change.what {
                What::Removed => gone.extend(self.0.remove(&change.devno())),
                // One that is renamed while it is asked for is asked for again.
                What::Created | What::Renamed { .. } if !self.0.contains_key(&change.devno()) => {
                    if let Some(set) = set_of(&change.name) {
                        self.0.insert(change.devno(), set);
                    }
                }
                _ => {}
            }
            if let Some(set) = self.0.get(&change.devno()) {
                events.push(DmEvent::Look { set: *set, name: change.name.to_string() });
            }
        }
        // Renamed, and an event of it.
        events.dedup();
        // A device that was made anew has other numbers: it is not gone.
        gone.retain(|set| !self.0.values().any(|still| still == set));
        events.extend(gone.into_iter().map(|set| DmEvent::Gone { set }));
        events
    }
}

/// The set of a device-mapper device, if it is one of ours.
fn set_of(tracker: &Tracker, name: &Name) -> Option<SetId> {
    let uuid = tracker.uuid(name)?;
    uuid::Uuid::try_parse(uuid.as_str().strip_prefix(UUID_PREFIX)?).ok().map(SetId)
}

/// Announces events of our devices until the receiver is dropped; at first every device that is there. It has to run in
/// a tokio runtime. The channel closes if device-mapper fails.
pub fn watch() -> io::Result<mpsc::Receiver<DmEvent>> {
    let tracker = super::readable(Tracker::new().map_err(io::Error::other)?)?;
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        if let Err(error) = run(tracker, &sender).await {
            tracing::error!("device-mapper's events have ended: {error}");
        }
    });
    Ok(receiver)
}

async fn run(mut tracker: AsyncFd<Tracker>, sender: &mpsc::Sender<DmEvent>) -> Result<(), Error> {
    let mut ours = Ours::default();
    loop {
        let changes = tracker.get_mut().look()?;
        for event in ours.events(changes, |name| set_of(tracker.get_ref(), name)) {
            if sender.send(event).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            // Readiness is forgotten before the next look arms the descriptor: an edge in between is not lost.
            ready = tracker.readable() => ready.map_err(|error| Error::NoDeviceMapper(error.to_string()))?.clear_ready(),
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

    fn change(name: &str, minor: u32, what: What) -> Change {
        Change { name: Name::new(name).unwrap(), major: 253, minor, what }
    }

    fn of_name(name: &Name) -> Option<SetId> {
        match name.as_str() {
            "a" => Some(set(1)),
            "b" => Some(set(2)),
            _ => None,
        }
    }

    fn look(n: u128, name: &str) -> DmEvent {
        DmEvent::Look { set: set(n), name: name.into() }
    }

    const EVENT: What = What::Event { from: 0, to: 1 };

    #[test]
    fn only_changes_of_our_devices_are_told() {
        let mut ours = Ours::default();
        let all = [("a", 0), ("root", 1), ("b", 2)].map(|(name, minor)| change(name, minor, What::Created));
        assert_eq!(ours.events(all.into(), of_name), [look(1, "a"), look(2, "b")]);
        assert_eq!(ours.events(Vec::new(), of_name), []);
        // Known devices are not asked again.
        let events = vec![change("a", 0, EVENT), change("root", 1, EVENT)];
        assert_eq!(ours.events(events, |_| panic!("asked")), [look(1, "a")]);
        let gone = vec![change("a", 0, What::Removed), change("root", 1, What::Removed)];
        assert_eq!(ours.events(gone, of_name), [DmEvent::Gone { set: set(1) }]);
    }

    #[test]
    fn numbers_that_are_used_again_are_another_device() {
        let mut ours = Ours::default();
        let anew = |old, new, minor| vec![change(old, minor, What::Removed), change(new, minor, What::Created)];
        ours.events(vec![change("a", 0, What::Created)], of_name);
        assert_eq!(ours.events(anew("a", "b", 0), of_name), [look(2, "b"), DmEvent::Gone { set: set(1) }]);
        assert_eq!(ours.events(anew("b", "b", 0), of_name), [look(2, "b")], "made anew under the same name");
        let elsewhere = vec![change("b", 4, What::Created), change("b", 0, What::Removed)];
        assert_eq!(ours.events(elsewhere, of_name), [look(2, "b")], "made anew with other numbers");
        assert_eq!(ours.events(vec![change("b", 0, EVENT)], of_name), [], "its old numbers are a stranger's");
    }

    #[test]
    fn a_rename_is_no_loss() {
        let mut ours = Ours::default();
        ours.events(vec![change("a", 0, What::Created)], of_name);
        let renamed = |name| vec![change(name, 0, What::Renamed { from: Name::new("x").unwrap() }), change(name, 0, EVENT)];
        assert_eq!(ours.events(renamed("c"), |_| panic!("asked")), [look(1, "c")]);
        let mut unknown = Ours::default();
        assert_eq!(unknown.events(renamed("b"), of_name), [look(2, "b")], "its old name was gone when it was asked for");
    }
}
