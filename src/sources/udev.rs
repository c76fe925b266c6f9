//! Block devices by udev: all that are there, and those that come, change and go.
//!
//! libudev's handles must stay on the thread that made them: the monitor owns a thread, and what leaves it is plain data.

use super::devices::{self, Loops};
use crate::actuate::target_text::{is_ours, set_of};
use crate::edge::FoundDevice;
use crate::model::SetId;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio_udev::{Device, Enumerator, Event, EventType, MonitorBuilder, MonitorSocket};

const SYSFS: &str = "/sys";
const ENOBUFS: i32 = 105;

/// What happened to a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// It came, or something about it changed. Only devices that can be members.
    Present(FoundDevice),
    /// It went, or it can be a member no longer (a loop device without a file).
    Gone {
        /// Kernel name.
        name: String,
        /// Major and minor number, if they are known.
        devno: Option<(u32, u32)>,
    },
    /// Something changed on the mapped device of a set: perhaps its partition table.
    Mapped(SetId),
    /// Events were lost: enumerate again.
    Missed,
}

fn udev_runs() -> bool {
    Path::new("/run/udev/control").exists()
}

/// All block devices that can be members, by kernel name.
///
/// A device that udev has not worked through yet is left out where udev runs: its identity is not known, and an event
/// will announce it.
pub fn enumerate(loops: Loops) -> io::Result<Vec<FoundDevice>> {
    let mut enumerator = Enumerator::new()?;
    enumerator.match_subsystem("block")?;
    if udev_runs() {
        enumerator.match_is_initialized()?;
    }
    let mut found: Vec<FoundDevice> = enumerator.scan_devices()?.filter_map(|device| describe(&device, loops)).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn dm_uuid(device: &Device) -> Option<String> {
    device.property_value("DM_UUID").map(|uuid| uuid.to_string_lossy().into_owned())
}

fn name_of(device: &Device) -> String {
    device.sysname().to_string_lossy().into_owned()
}

fn describe(device: &Device, loops: Loops) -> Option<FoundDevice> {
    let name = name_of(device);
    let node = device.devnode().map_or_else(|| PathBuf::from("/dev").join(name.replace('!', "/")), Path::to_path_buf);
    let property = |name: &str| device.property_value(name).map(|value| value.to_string_lossy().into_owned());
    devices::describe(Path::new(SYSFS), &name, node, loops, &property)
}

/// Announces what happens to block devices until the receiver is dropped. Events that come before it returns count.
///
/// Start it before [`enumerate`], so that nothing is missed in between. Where udev does not run the kernel's own
/// events are used.
pub fn monitor(loops: Loops) -> io::Result<mpsc::Receiver<DeviceEvent>> {
    let (sender, receiver) = mpsc::channel(256);
    let (started, is_started) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("udev-monitor".into()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        let result = runtime.and_then(|runtime| runtime.block_on(watch(&started, &sender, loops)));
        if let Err(error) = result {
            // Nobody waits any more if it had started: then the log is the place, and the closed channel tells the rest.
            if let Err(unsent) = started.try_send(Err(error)) {
                let (std::sync::mpsc::TrySendError::Full(lost) | std::sync::mpsc::TrySendError::Disconnected(lost)) = unsent;
                tracing::warn!("udev's events have ended: {:?}", lost.err());
            }
        }
    })?;
    is_started.recv().map_err(|_| io::Error::other("the udev thread died"))??;
    Ok(receiver)
}

/// What was announced last, by kernel name.
///
/// udev makes a change event whenever a node that was open for writing is closed, ours included. Without this filter a
/// daemon that opens, finds something wrong and closes would call itself for ever. What counts is the description and
/// the set that udev's probe found on the device.
#[derive(Default)]
struct Announced(HashMap<String, (FoundDevice, Option<String>)>);

impl Announced {
    /// Whether it is news that the device is present like this.
    fn is_news(&mut self, found: &FoundDevice, holds: Option<String>) -> bool {
        let now = (found.clone(), holds);
        self.0.insert(found.name.clone(), now.clone()).is_none_or(|before| before != now)
    }

    /// Whether it is news that the device is gone, or can be no member. It may come again.
    fn is_loss(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }
}

type Started = std::sync::mpsc::SyncSender<io::Result<()>>;

async fn watch(started: &Started, sender: &mpsc::Sender<DeviceEvent>, loops: Loops) -> io::Result<()> {
    let builder = if udev_runs() { MonitorBuilder::new()? } else { MonitorBuilder::new_kernel()? };
    let socket = super::readable(builder.match_subsystem("block")?.listen()?)?;
    // The other side is waiting for exactly this.
    let _ = started.send(Ok(()));
    let mut announced = Announced::default();
    loop {
        // Forgotten before the socket is read: what comes after that makes a new edge.
        tokio::select! {
            ready = socket.readable() => ready?.clear_ready(),
            () = sender.closed() => return Ok(()),
        }
        while let Some(event) = receive(socket.get_ref(), loops, &mut announced) {
            if sender.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The next event, `None` if there is none for now.
fn receive(socket: &MonitorSocket, loops: Loops, announced: &mut Announced) -> Option<DeviceEvent> {
    loop {
        match socket.iter().next() {
            Some(event) => {
                if let Some(event) = translate(&event, loops, announced) {
                    return Some(event);
                }
            }
            None if io::Error::last_os_error().raw_os_error() == Some(ENOBUFS) => return Some(DeviceEvent::Missed),
            None => return None,
        }
    }
}

fn translate(event: &Event, loops: Loops, announced: &mut Announced) -> Option<DeviceEvent> {
    let device = event.device();
    let name = name_of(&device);
    match event.event_type() {
        EventType::Remove => {
            let number = |key| device.property_value(key)?.to_str()?.parse::<u32>().ok();
            let devno = number("MAJOR").zip(number("MINOR"));
            // Also one that was there before we looked.
            announced.is_loss(&name);
            let ours = dm_uuid(&device).is_some_and(|uuid| is_ours(&uuid));
            (!ours).then_some(DeviceEvent::Gone { name, devno })
        }
        EventType::Add | EventType::Change => match describe(&device, loops) {
            Some(found) => {
                let holds = device.property_value("REMAP_GUARDIAN_SET_ID").map(|id| id.to_string_lossy().into_owned());
                announced.is_news(&found, holds).then_some(DeviceEvent::Present(found))
            }
            None if announced.is_loss(&name) => {
                Some(DeviceEvent::Gone { devno: devices::devno_of(Path::new(SYSFS), &name), name })
            }
            None => dm_uuid(&device).and_then(|uuid| set_of(&uuid)).map(DeviceEvent::Mapped),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_devices_can_be_listed() {
        let found = enumerate(Loops::ByBackingFile).unwrap();
        assert!(found.iter().all(|device| device.identity.sectors.0 > 0 && !device.name.starts_with("ram")));
        assert!(found.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn a_device_that_is_only_closed_is_no_news() {
        let mut announced = Announced::default();
        let found = FoundDevice {
            node: "/dev/sdb".into(),
            name: "sdb".into(),
            disk: "sdb".into(),
            identity: crate::model::Identity::default(),
            devno: (8, 16),
            transport: "scsi".into(),
            rotational: None,
        };
        assert!(announced.is_news(&found, None));
        assert!(!announced.is_news(&found, None));
        assert!(announced.is_news(&found, Some("set".into())), "it has become a spare");
        assert!(announced.is_news(&FoundDevice { devno: (8, 32), ..found.clone() }, Some("set".into())));
        assert!(announced.is_loss("sdb") && !announced.is_loss("sdb"));
        assert!(announced.is_news(&found, Some("set".into())), "it came again");
    }

    #[test]
    fn the_monitor_ends_with_its_receiver() {
        // A sandbox may forbid netlink: then there is an error, not a dead thread.
        if let Ok(mut events) = monitor(Loops::Nameless) {
            assert!(events.try_recv().is_err() || !events.is_closed());
        }
    }
}
