//! What the daemon listens to, turned into its inputs.

use super::daemon::{Input, Serving};
use crate::config::Settings;
use crate::control;
use crate::edge::FoundDevice;
use crate::engine::Event;
use crate::model::{ErrorClass, Member, Sector, SetId};
use crate::sources::devices::Loops;
use crate::sources::kmsg::KernelMessage;
use crate::sources::kmsg_text::{KernelNote, NoteSource};
use crate::sources::port::Port;
use crate::sources::udev::DeviceEvent;
use crate::sources::{fs_errors, kmsg, tracepoint, udev};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinHandle;

/// Devices that come in a burst are looked at once, this long after the first.
const SETTLE: Duration = Duration::from_millis(200);

/// What the kernel tells waits for the daemon here at most.
const MESSAGES: usize = 256;

/// What file systems tell waits for the daemon here at most.
const FS_ERRORS: usize = 16;

/// How long after its failure a source is tried again.
const AGAIN: Duration = Duration::from_secs(10);

fn loops(settings: &Settings) -> Loops {
    if settings.loop_members { Loops::ByBackingFile } else { Loops::Nameless }
}

/// All block devices that can be members.
pub fn devices(settings: &Settings) -> std::io::Result<Vec<FoundDevice>> {
    udev::enumerate(loops(settings))
}

/// What the kernel tells of failed requests, whoever tells it.
pub struct Kernel {
    /// Few wait here: the kernel's own buffers are the queues, and lose what does not fit.
    pub messages: mpsc::Receiver<KernelMessage>,
    tracepoint: JoinHandle<()>,
}

impl Kernel {
    /// Ends the sources and waits until they have cleaned up.
    pub async fn end(self) {
        drop(self.messages);
        drop(self.tracepoint.await);
    }
}

/// Starts every source. One that is not there is said once; the daemon works without it.
pub fn start(settings: &Settings, out: &UnboundedSender<Input>, listener: UnixListener) -> Kernel {
    tokio::spawn(watch_devices(loops(settings), out.clone()));
    let (told, messages) = mpsc::channel(MESSAGES);
    let tracepoint = tracepoint::watch(told.clone());
    if let Err(error) = kmsg::watch(told) {
        tracing::warn!(%error, "the kernel log cannot be read: history will lack its lines");
    }
    watch_file_systems(out);
    let (asked, mut requests) = mpsc::channel(16);
    tokio::spawn(control::server::serve(listener, asked));
    let out = out.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            drop(out.send(Input::Asked(request)));
        }
    });
    Kernel { messages, tracepoint }
}

fn watch_file_systems(out: &UnboundedSender<Input>) {
    let (told, mut errors) = mpsc::channel(FS_ERRORS);
    if let Err(error) = fs_errors::watch(told) {
        tracing::warn!(%error, "errors of file systems are not heard of");
    }
    let out = out.clone();
    tokio::spawn(async move {
        while let Some(error) = errors.recv().await {
            drop(out.send(Input::FileSystem(error)));
        }
    });
}

async fn watch_devices(loops: Loops, out: UnboundedSender<Input>) {
    loop {
        // It waits for its thread to listen.
        match tokio::task::spawn_blocking(move || udev::monitor(loops))
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        {
            Ok(mut events) => {
                // What came before, or while nobody listened.
                drop(out.send(Input::Devices));
                while let Some(first) = events.recv().await {
                    tokio::time::sleep(SETTLE).await;
                    let mut mapped = BTreeSet::new();
                    let mut look = false;
                    for event in std::iter::once(first).chain(std::iter::from_fn(|| events.try_recv().ok())) {
                        match event {
                            DeviceEvent::Mapped(set) => drop(mapped.insert(set)),
                            _ => look = true,
                        }
                    }
                    mapped.into_iter().for_each(|set| drop(out.send(Input::Mapped(set))));
                    if look {
                        drop(out.send(Input::Devices));
                    }
                }
                tracing::warn!("udev's events have ended: they are asked for again");
            }
            Err(error) => tracing::error!(
                %error,
                "udev cannot be watched: until it can, disks that arrive are found by “remap-guardian restore” only"
            ),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What the kernel told, as far as it is about a set.
pub(super) fn heard(set: SetId, serving: &Serving, note: &KernelNote) -> impl Iterator<Item = Event> {
    let port = |disk: &str| Port::of(Path::new("/sys"), disk);
    let members: Vec<_> = serving.members().map(|(member, device)| (member, device.disk.as_str())).collect();
    [concerns(set, serving, note), nearby(set, &members, note, port), flushed_in_vain(set, &members, note, port)]
        .into_iter()
        .flatten()
}

/// Whether what the kernel told is about a member of a set; as an event with the sector on main, where it names one.
fn concerns(set: SetId, serving: &Serving, note: &KernelNote) -> Option<Event> {
    let device = note.device.as_deref()?;
    let (text, failed) = (format!("kernel: {}", note.text), note.failed_request());
    let same = |member: &FoundDevice| device == member.disk || device == member.name;
    if same(&serving.main) {
        let start = partition_start(&serving.main);
        let block = u64::from(serving.main.identity.logical_block) / 512;
        let on_disk = note.sector.map(|sector| sector.0).or_else(|| note.block?.checked_mul(block));
        let sector = on_disk.and_then(|sector| sector.checked_sub(start)).map(Sector);
        return Some(Event::Noted { set, member: Member::Main, sector, text, failed });
    }
    let spare = serving.spares.iter().position(same)?;
    Some(Event::Noted { set, member: Member::Spare(spare as u16), sector: None, text, failed })
}

/// Whether what the kernel told is about another disk at the port of a member, or about that port, and says nothing about a medium.
///
/// A member's own errors are in the target's ring. Lines of the log that are rate-limited are no count, so only the tracepoint
/// and what is told of ATA ports are taken. `disks` are the members', by their kernel names.
fn nearby(set: SetId, disks: &[(Member, &str)], note: &KernelNote, port: impl Fn(&str) -> Option<Port>) -> Option<Event> {
    let device = note.device.as_deref()?;
    let ports = disks.iter().filter_map(|(_, disk)| port(disk));
    let is_near = match note.source {
        NoteSource::Ata if is_of_the_link(note) => ports.into_iter().any(|port| port.is_called(device)),
        NoteSource::Tracepoint if is_of_the_link(note) => {
            let other = if disks.iter().any(|(_, disk)| *disk == device) { None } else { port(device) };
            other.is_some_and(|other| ports.into_iter().any(|port| port.is_shared_with(&other)))
        }
        _ => false,
    };
    is_near.then(|| Event::Nearby { set, text: format!("at the same port: {}", note.text) })
}

/// A flush that a member failed and its driver repeats, where the kernel tells of it: of ATA only. `disks` are the members'.
fn flushed_in_vain(
    set: SetId,
    disks: &[(Member, &str)],
    note: &KernelNote,
    port: impl Fn(&str) -> Option<Port>,
) -> Option<Event> {
    let device = note.device.as_deref().filter(|_| note.is_lost_flush())?;
    let (member, _) = disks.iter().find(|(_, disk)| port(disk).is_some_and(|port| port.is_called(device)))?;
    Some(Event::FlushAgain { set, member: *member, text: format!("kernel: {}", note.text) })
}

fn is_of_the_link(note: &KernelNote) -> bool {
    match note.class {
        // Not offline: a disk that was pulled out says nothing of its neighbours.
        Some(class) => matches!(class, ErrorClass::Transport | ErrorClass::Timeout),
        None => note.text.contains("resetting link"),
    }
}

/// First sector of a partition on its disk, 0 for a whole disk (sysfs `start`).
pub(super) fn partition_start(device: &FoundDevice) -> u64 {
    let path = format!("/sys/class/block/{}/start", device.name);
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Millis, Op, Sectors};

    /// sda and sdc hang at host 0, which is ata1; everything else by itself.
    fn port(disk: &str) -> Option<Port> {
        let host = if ["sda", "sdc"].contains(&disk) { "ata1/host0" } else { "ata9/host8" };
        (disk != "nvme0n1").then(|| Port::in_path(&format!("/sys/devices/{host}/block/{disk}")).unwrap())
    }

    fn counts(source: NoteSource, device: &str, class: Option<ErrorClass>, text: &str) -> bool {
        let (at, sector, len, op) = (Millis(0), Some(Sector(8)), Sectors(8), Some(Op::Read));
        let (device, text) = (Some(device.to_owned()), text.to_owned());
        let note = KernelNote { at, source, device, sector, block: None, len, op, class, read_ahead: false, text };
        nearby(SetId(uuid::Uuid::nil()), &[(Member::Main, "sda"), (Member::Spare(0), "sdb")], &note, port).is_some()
    }

    #[test]
    fn a_flush_that_is_repeated_is_of_the_disk_at_the_port() {
        let told = |device: &str, op: Op| {
            let (at, source, device, class) = (Millis(0), NoteSource::Ata, Some(device.to_owned()), Some(ErrorClass::Ioerr));
            let (sector, block, len, op, text) = (None, None, Sectors(0), Some(op), String::new());
            let note = KernelNote { at, source, device, sector, block, len, op, class, read_ahead: false, text };
            let disks = [(Member::Main, "nvme0n1"), (Member::Spare(0), "sda")];
            match flushed_in_vain(SetId(uuid::Uuid::nil()), &disks, &note, port) {
                Some(Event::FlushAgain { member, .. }) => Some(member),
                _ => None,
            }
        };
        assert_eq!(told("ata1.00", Op::Flush), Some(Member::Spare(0)));
        assert_eq!(told("ata2.00", Op::Flush), None);
        assert_eq!(told("ata1.00", Op::Write), None);
    }

    #[test]
    fn errors_of_the_link_of_others_at_the_same_port_count() {
        let (transport, medium) = (Some(ErrorClass::Transport), Some(ErrorClass::Medium));
        assert!(counts(NoteSource::Tracepoint, "sdc", transport, ""));
        assert!(!counts(NoteSource::Tracepoint, "sdc", medium, ""), "another disk's medium is its own");
        assert!(!counts(NoteSource::Tracepoint, "sda", transport, ""), "the target tells of it itself");
        assert!(!counts(NoteSource::Tracepoint, "nvme0n1", transport, ""), "it hangs elsewhere");
        assert!(!counts(NoteSource::Block, "sdc", transport, ""), "the log is no count");
        assert!(counts(NoteSource::Ata, "ata1", None, "ata1: hard resetting link"));
        assert!(counts(NoteSource::Ata, "ata1.01", transport, "ata1.01: SATA link down"));
        assert!(!counts(NoteSource::Ata, "ata2", None, "ata2: hard resetting link"));
        assert!(!counts(NoteSource::Ata, "ata1.00", None, "ata1.00: failed command: READ DMA"));
    }
}
