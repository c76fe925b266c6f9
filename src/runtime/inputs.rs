//! What the daemon listens to, turned into its inputs.

use super::daemon::{Input, Serving};
use crate::config::Settings;
use crate::control;
use crate::edge::FoundDevice;
use crate::engine::Event;
use crate::model::{Member, Sector, SetId};
use crate::sources::devices::Loops;
use crate::sources::kmsg::KernelMessage;
use crate::sources::kmsg_text::KernelNote;
use crate::sources::smart::{self, SmartReader, SmartReading};
use crate::sources::udev::DeviceEvent;
use crate::sources::{kmsg, udev};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::mpsc::{self, UnboundedSender};

/// Devices that come in a burst are looked at once, this long after the first.
const SETTLE: Duration = Duration::from_millis(200);

/// How long after its failure a source is tried again.
const AGAIN: Duration = Duration::from_secs(10);

fn loops(settings: &Settings) -> Loops {
    if settings.loop_members { Loops::ByBackingFile } else { Loops::Nameless }
}

/// All block devices that can be members.
pub fn devices(settings: &Settings) -> std::io::Result<Vec<FoundDevice>> {
    udev::enumerate(loops(settings))
}

/// Starts every source. One that is not there is said once; the daemon works without it.
pub fn start(settings: &Settings, out: &UnboundedSender<Input>, listener: UnixListener) {
    tokio::spawn(watch_devices(loops(settings), out.clone()));
    match kmsg::watch() {
        Ok(messages) => drop(tokio::spawn(watch_kernel(messages, out.clone()))),
        Err(error) => tracing::warn!(%error, "the kernel log cannot be read: history will lack its lines"),
    }
    let (asked, mut requests) = mpsc::channel(16);
    tokio::spawn(control::server::serve(listener, asked));
    let out = out.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            drop(out.send(Input::Asked(request)));
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

async fn watch_kernel(mut messages: mpsc::Receiver<KernelMessage>, out: UnboundedSender<Input>) {
    while let Some(message) = messages.recv().await {
        if let KernelMessage::Note(note) = message {
            drop(out.send(Input::Kernel(note)));
        }
    }
}

/// Whether a kernel line is about a member of a set; as an event with the sector on main, where it names one.
pub(super) fn concerns(set: SetId, serving: &Serving, note: &KernelNote) -> Option<Event> {
    let device = note.device.as_deref()?;
    let same = |member: &FoundDevice| device == member.disk || device == member.name;
    if same(&serving.main) {
        let start = partition_start(&serving.main);
        let sector = note.sector.and_then(|sector| sector.0.checked_sub(start)).map(Sector);
        return Some(Event::Noted { set, member: Member::Main, sector, text: format!("kernel: {}", note.text) });
    }
    let spare = serving.spares.iter().position(same)?;
    Some(Event::Noted { set, member: Member::Spare(spare as u16), sector: None, text: format!("kernel: {}", note.text) })
}

/// First sector of a partition on its disk, 0 for a whole disk (sysfs `start`).
fn partition_start(device: &FoundDevice) -> u64 {
    let path = format!("/sys/class/block/{}/start", device.name);
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// A SMART reading of a member.
pub struct Sample {
    set: SetId,
    member: Member,
    reading: Result<SmartReading, String>,
}

/// Last readings, so that changes can be told.
#[derive(Default)]
pub struct Smart {
    reader: Arc<SmartReader>,
    last: BTreeMap<(SetId, Member), SmartReading>,
}

impl Smart {
    /// Reads all members of a set in the background.
    pub(super) fn sample(&self, set: SetId, members: Vec<(Member, FoundDevice)>, out: UnboundedSender<Input>) {
        let reader = self.reader.clone();
        tokio::spawn(async move {
            // The scan knows which drives need a device type; without it smartctl guesses.
            let scanned = reader.scan().await.unwrap_or_default();
            for (member, device) in members {
                let reading = reader.read(&device.disk, &scanned).await.map_err(|error| error.to_string());
                drop(out.send(Input::Smart(Sample { set, member, reading })));
            }
        });
    }

    /// Takes a reading and says what it means for the engine.
    pub(super) fn taken(&mut self, sample: Sample) -> Event {
        let Sample { set, member, reading } = sample;
        let (summary, worse) = match reading {
            Ok(reading) => {
                let worse = self.last.get(&(set, member)).map(|before| smart::changes(before, &reading)).unwrap_or_default();
                let summary = reading.summary();
                self.last.insert((set, member), reading);
                (summary, worse)
            }
            Err(error) => (format!("no reading: {error}"), Vec::new()),
        };
        Event::Smart { set, member, summary: format!("SMART of {member}: {}", summary.trim_start_matches("SMART: ")), worse }
    }
}
