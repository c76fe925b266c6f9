//! Events of mapped devices, by device-mapper's polling protocol: remember the event numbers, wait until the descriptor
//! is readable, arm it again *before* looking, look again, and compare. What happens between the look and the next wait
//! then wakes the next wait.

use super::backing::Devno;
use super::error::{Error, dm_text};
use super::look::Listed;
use super::mapper::Mapper;
use super::name::{Name, Uuid};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

/// Something that happened to a device.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// Its name, as it is now.
    pub name: Name,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// Its event number grew.
    Event {
        /// As it was seen last.
        from: u32,
        /// As it is.
        to: u32,
    },
    /// It is new.
    Created,
    /// It has gone.
    Removed,
    /// It had another name.
    Renamed {
        /// The name before.
        from: Name,
    },
}

impl Change {
    /// Major and minor number.
    pub fn devno(&self) -> Devno {
        (self.major, self.minor)
    }
}

/// Name, event number and disk number of each device when it was last looked at.
#[derive(Debug, Default)]
struct Seen(BTreeMap<Devno, (Name, u32, Option<u64>)>);

/// The number that no later disk gets again until the next boot. A device has none before its first table, and on Linux
/// before 5.15: a name and a number that are used again within one wake-up pass for a rename then.
fn disk_number((major, minor): Devno) -> Option<u64> {
    std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/diskseq")).ok()?.trim().parse().ok()
}

impl Seen {
    fn update(&mut self, listed: Vec<Listed>, disk: impl Fn(Devno) -> Option<u64>) -> Vec<Change> {
        let mut before = std::mem::take(&mut self.0);
        let mut changes = Vec::new();
        let mut tell = |name: &Name, (major, minor): Devno, what| changes.push(Change { name: name.clone(), major, minor, what });
        for Listed { name, major, minor, event_nr } in listed {
            let (devno, now) = ((major, minor), event_nr.unwrap_or_default());
            let is = disk(devno);
            let old = before.remove(&devno);
            let was = old.as_ref().and_then(|(.., was)| *was);
            match old {
                // A number that runs backwards is another device that got the same numbers, too.
                Some((old, nr, _)) if now < nr || was.zip(is).is_some_and(|(was, is)| was != is) => {
                    tell(&old, devno, What::Removed);
                    tell(&name, devno, What::Created);
                }
                Some((old, nr, _)) => {
                    if old != name {
                        tell(&name, devno, What::Renamed { from: old });
                    }
                    if now != nr {
                        tell(&name, devno, What::Event { from: nr, to: now });
                    }
                }
                None => tell(&name, devno, What::Created),
            }
            self.0.insert(devno, (name, now, is.or(was)));
        }
        before.iter().for_each(|(devno, (name, ..))| tell(name, *devno, What::Removed));
        changes
    }
}

/// Tells what has changed from look to look. Its descriptor is readable when there may be something to see.
pub struct Tracker {
    mapper: Mapper,
    seen: Seen,
}

impl Tracker {
    /// That has seen nothing yet: to its first look every device is new.
    pub fn new() -> Result<Tracker, Error> {
        let mapper = Mapper::new()?;
        mapper.needs_events()?;
        Ok(Tracker { mapper, seen: Seen::default() })
    }

    /// Arms the descriptor again, lists the devices and compares: what happens after the list makes it readable again.
    pub fn look(&mut self) -> Result<Vec<Change>, Error> {
        self.mapper.dm().arm_poll().map_err(|error| Error::NoDeviceMapper(dm_text(&error)))?;
        Ok(self.seen.update(self.mapper.list()?, disk_number))
    }

    /// The UUID of a device, if it is there and has one.
    pub fn uuid(&self, name: &Name) -> Option<Uuid> {
        self.mapper.uuid(name)
    }

    fn file(&self) -> &File {
        self.mapper.dm().file()
    }
}

impl AsRawFd for Tracker {
    fn as_raw_fd(&self) -> RawFd {
        self.file().as_raw_fd()
    }
}

/// Why a wait ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something may have happened: these devices have changed.
    Changes(Vec<Change>),
    /// Nothing did until the deadline.
    Late,
    /// Nobody reads the output any more.
    Unread,
}

/// Waits for events from its making on.
pub struct Watch(Tracker);

impl Watch {
    /// Remembers how things are.
    pub fn new() -> Result<Watch, Error> {
        let mut tracker = Tracker::new()?;
        tracker.look()?;
        Ok(Watch(tracker))
    }

    /// Waits for one wake-up, until the deadline if there is one, or until `output` has lost its reader.
    pub fn wait(&mut self, deadline: Option<Instant>, output: impl AsFd) -> Result<Woken, Error> {
        loop {
            let mut fds = [PollFd::new(self.0.file(), PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(rustix::time::Timespec::try_from).transpose().unwrap_or_default();
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(Woken::Late),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::NoDeviceMapper(error.to_string())),
            }
            if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                return Ok(Woken::Unread);
            }
            return self.0.look().map(Woken::Changes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::of_kernel(text.into())
    }

    fn listed(devices: &[(&str, u32, u32)]) -> Vec<Listed> {
        let one =
            |(text, minor, nr): &(&str, u32, u32)| Listed { name: name(text), major: 253, minor: *minor, event_nr: Some(*nr) };
        devices.iter().map(one).collect()
    }

    fn change(text: &str, minor: u32, what: What) -> Change {
        Change { name: name(text), major: 253, minor, what }
    }

    #[test]
    fn what_differs_is_told() {
        let mut seen = Seen::default();
        seen.update(listed(&[("a", 0, 0), ("b", 1, 7)]), |_| None);
        assert_eq!(seen.update(listed(&[("a", 0, 0), ("b", 1, 7)]), |_| None), []);
        let event = What::Event { from: 7, to: 9 };
        assert_eq!(seen.update(listed(&[("a", 0, 0), ("b", 1, 9)]), |_| None), [change("b", 1, event)]);
        assert_eq!(
            seen.update(listed(&[("c", 0, 0), ("b", 1, 9)]), |_| None),
            [change("c", 0, What::Renamed { from: name("a") })]
        );
        assert_eq!(
            seen.update(listed(&[("b", 1, 9), ("d", 2, 0)]), |_| None),
            [change("d", 2, What::Created), change("c", 0, What::Removed)]
        );
    }

    #[test]
    fn numbers_that_are_used_again_are_another_device() {
        let mut seen = Seen::default();
        seen.update(listed(&[("a", 0, 5)]), |_| None);
        assert_eq!(seen.update(listed(&[("a", 0, 0)]), |_| None), [change("a", 0, What::Removed), change("a", 0, What::Created)]);
    }

    #[test]
    fn another_disk_is_no_rename() {
        let mut seen = Seen::default();
        seen.update(listed(&[("a", 0, 0)]), |_| Some(7));
        let changes = seen.update(listed(&[("b", 0, 0)]), |_| Some(8));
        assert_eq!(changes, [change("a", 0, What::Removed), change("b", 0, What::Created)]);
        assert_eq!(seen.update(listed(&[("c", 0, 0)]), |_| Some(8)), [change("c", 0, What::Renamed { from: name("b") })]);
    }

    #[test]
    fn a_device_that_gets_its_first_table_is_the_same() {
        let mut seen = Seen::default();
        seen.update(listed(&[("a", 0, 0)]), |_| None);
        assert_eq!(seen.update(listed(&[("a", 0, 0)]), |_| Some(7)), []);
        // It goes while it is looked at.
        assert_eq!(seen.update(listed(&[("a", 0, 0)]), |_| None), []);
        let changes = seen.update(listed(&[("a", 0, 0)]), |_| Some(8));
        assert_eq!(changes, [change("a", 0, What::Removed), change("a", 0, What::Created)]);
    }
}
