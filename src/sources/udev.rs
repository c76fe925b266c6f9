//! Block devices by udev: all that are there, and those that come, change and go.
//!
//! libudev's handles must stay on the thread that made them: the monitor owns a thread, and what leaves it is plain data.

use super::devices::{self, Loops};
use crate::edge::FoundDevice;
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
    /// It went, or it can no longer be a member (a loop device without a file).
    Gone {
        /// Kernel name.
        name: String,
        /// Major and minor number, if they are known.
        devno: Option<(u32, u32)>,
    },
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

type Started = std::sync::mpsc::SyncSender<io::Result<()>>;

async fn watch(started: &Started, sender: &mpsc::Sender<DeviceEvent>, loops: Loops) -> io::Result<()> {
    let builder = if udev_runs() { MonitorBuilder::new()? } else { MonitorBuilder::new_kernel()? };
    let socket = super::readable(builder.match_subsystem("block")?.listen()?)?;
    // The other side is waiting for exactly this.
    let _ = started.send(Ok(()));
    loop {
        let mut ready = tokio::select! {
            ready = socket.readable() => ready?,
            () = sender.closed() => return Ok(()),
        };
        while let Some(event) = receive(socket.get_ref(), loops) {
            if sender.send(event).await.is_err() {
                return Ok(());
            }
        }
        ready.clear_ready();
        // What came between the last look and the clearing makes no new edge.
        while let Some(event) = receive(socket.get_ref(), loops) {
            if sender.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The next event, `None` if there is none for now.
fn receive(socket: &MonitorSocket, loops: Loops) -> Option<DeviceEvent> {
    loop {
        match socket.iter().next() {
            Some(event) => {
                if let Some(event) = translate(&event, loops) {
                    return Some(event);
                }
            }
            None if io::Error::last_os_error().raw_os_error() == Some(ENOBUFS) => return Some(DeviceEvent::Missed),
            None => return None,
        }
    }
}

fn translate(event: &Event, loops: Loops) -> Option<DeviceEvent> {
    let device = event.device();
    let name = name_of(&device);
    match event.event_type() {
        EventType::Remove => {
            let number = |key| device.property_value(key)?.to_str()?.parse::<u32>().ok();
            let devno = number("MAJOR").zip(number("MINOR"));
            Some(DeviceEvent::Gone { name, devno })
        }
        EventType::Add | EventType::Change => match describe(&device, loops) {
            Some(found) => Some(DeviceEvent::Present(found)),
            // Our own mapped device is nobody's member and none that went.
            None if name.starts_with("dm-") => None,
            None => Some(DeviceEvent::Gone { devno: devices::devno_of(Path::new(SYSFS), &name), name }),
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
    fn the_monitor_ends_with_its_receiver() {
        // A sandbox may forbid netlink: then there is an error, not a dead thread.
        if let Ok(mut events) = monitor(Loops::Nameless) {
            assert!(events.try_recv().is_err() || !events.is_closed());
        }
    }
}
