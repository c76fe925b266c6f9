//! Events of mapped devices, by device-mapper's polling protocol: remember the event numbers, wait until the descriptor
//! is readable, arm it again *before* looking, look again, and compare. What happens between the look and the next wait
//! then wakes the next wait.

use super::backing::Devno;
use super::error::{Error, dm_text};
use super::mapper::{Listed, Mapper};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Instant;

/// Something that happened to a device.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// Its name, as it is now.
    pub name: String,
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
        from: String,
    },
}

/// Name, event number and disk number of each device when it was last looked at.
#[derive(Debug, Default)]
struct Seen(BTreeMap<Devno, (String, u32, Option<u64>)>);

/// The number that no later disk gets again until the next boot; Linux before 5.15 has none, and a name and a number
/// that are used again within one wake-up pass there for a rename.
fn disk_number((major, minor): Devno) -> Option<u64> {
    std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/diskseq")).ok()?.trim().parse().ok()
}

impl Seen {
    fn update(&mut self, listed: Vec<Listed>, disk: impl Fn(Devno) -> Option<u64>) -> Vec<Change> {
        let mut before = std::mem::take(&mut self.0);
        let mut changes = Vec::new();
        let mut tell = |name: &str, (major, minor): Devno, what| changes.push(Change { name: name.into(), major, minor, what });
        for Listed { name, major, minor, event_nr } in listed {
            let (name, devno, now) = (name.to_string(), (major, minor), event_nr.unwrap_or_default());
            let is = disk(devno);
            match before.remove(&devno) {
                // A number that runs backwards is another device that got the same numbers, too.
                Some((old, nr, was)) if now < nr || was != is => {
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
            self.0.insert(devno, (name, now, is));
        }
        before.iter().for_each(|(devno, (name, ..))| tell(name, *devno, What::Removed));
        changes
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
pub struct Watch {
    mapper: Mapper,
    seen: Seen,
}

impl Watch {
    /// Remembers how things are.
    pub fn new() -> Result<Watch, Error> {
        let mapper = Mapper::new()?;
        mapper.needs_events()?;
        let mut watch = Watch { mapper, seen: Seen::default() };
        // The descriptor has been open before: what happens from here on wakes the first wait.
        watch.seen.update(watch.mapper.list()?, disk_number);
        Ok(watch)
    }

    /// Waits for one wake-up, until the deadline if there is one, or until `output` has lost its reader.
    pub fn wait(&mut self, deadline: Option<Instant>, output: impl AsFd) -> Result<Woken, Error> {
        loop {
            let mut fds = [PollFd::new(self.mapper.dm().file(), PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
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
            let armed = self.mapper.dm().arm_poll();
            armed.map_err(|error| Error::NoDeviceMapper(dm_text(&error)))?;
            return Ok(Woken::Changes(self.seen.update(self.mapper.list()?, disk_number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::Name;
    use super::*;

    fn listed(devices: &[(&str, u32, u32)]) -> Vec<Listed> {
        let one = |(name, minor, nr): &(&str, u32, u32)| Listed {
            name: Name::of_kernel((*name).into()),
            major: 253,
            minor: *minor,
            event_nr: Some(*nr),
        };
        devices.iter().map(one).collect()
    }

    fn change(name: &str, minor: u32, what: What) -> Change {
        Change { name: name.into(), major: 253, minor, what }
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
            [change("c", 0, What::Renamed { from: "a".into() })]
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
        assert_eq!(seen.update(listed(&[("c", 0, 0)]), |_| Some(8)), [change("c", 0, What::Renamed { from: "b".into() })]);
    }
}
