//! What the disks say of themselves: readings in the background, what got worse since the last, and a trial of each place that a
//! drive calls bad. The drive's word alone costs nothing and marks nothing: only what does not read when it is tried is told to the
//! engine, as if a scrub had come by there.

use super::actuator::Trial;
use super::critical::Critical;
use super::daemon::{Daemon, Input, now};
use super::inputs::partition_start;
use super::priority::Priority;
use super::requests::{Tell, json};
use super::trials::{self, Break};
use crate::control::{DiskReport, Named, Reason, SmartReport};
use crate::edge::{FoundDevice, Store, StoreError};
use crate::engine::{Event, Part};
use crate::model::trend::turned_bad;
use crate::model::{
    self, Action, Decision, Entry, Extent, Finder, Growth, Member, Sector, Sectors, SetId, SetName, TestTimes, What,
};
use crate::sources::smart::{self, SmartReader, SmartReading, Suspect};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, mpsc};
use tokio::sync::mpsc::UnboundedSender;

/// A SMART reading of a member.
pub struct Sample {
    set: SetId,
    member: Member,
    reading: Result<SmartReading, String>,
}

/// Last readings, so that changes can be told.
#[derive(Default)]
pub(super) struct Smart {
    pub(super) reader: Arc<SmartReader>,
    pub(super) last: BTreeMap<(SetId, Member), SmartReading>,
    /// What was last said of a member, also why there is no reading.
    said: BTreeMap<(SetId, Member), String>,
    /// The names by which what drives count is kept.
    pub(super) disks: BTreeMap<(SetId, Member), String>,
    /// Places that were tried since their drive called them bad.
    tried: BTreeMap<(SetId, Member), BTreeSet<u64>>,
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

    /// What a reading means for the engine.
    fn news(&mut self, sample: &Sample) -> Event {
        let Sample { set, member, reading } = sample;
        let (summary, worse) = match reading {
            Ok(reading) => {
                let before = self.last.get(&(*set, *member));
                (reading.summary(), before.map(|before| smart::changes(before, reading)).unwrap_or_default())
            }
            Err(error) => (format!("no reading: {error}"), Vec::new()),
        };
        let summary = summary.trim_start_matches("SMART: ");
        self.said.insert((*set, *member), summary.to_owned());
        let summary = format!("SMART of {member}: {summary}");
        Event::Smart { set: *set, member: *member, summary, worse }
    }

    /// The places that are to be tried now. One that its drive no longer calls bad is tried again when it does.
    fn untried(&mut self, set: SetId, member: Member, reading: &SmartReading) -> Vec<u64> {
        let named: BTreeSet<u64> = reading.suspects.iter().map(|suspect| suspect.lba).collect();
        let tried = self.tried.entry((set, member)).or_default();
        let new = named.difference(tried).copied().collect();
        *tried = named;
        new
    }

    /// The places of a member are tried anew after its next reading.
    pub(super) fn try_again(&mut self, set: SetId, member: Member) {
        self.tried.remove(&(set, member));
    }
}

impl Daemon {
    pub(super) fn take_sample(&mut self, sample: Sample) {
        let news = self.smart.news(&sample);
        self.critical.event(news);
        let Sample { set, member, reading } = sample;
        let Ok(reading) = reading else {
            // A self-test that nobody can see the end of keeps the set's other disks waiting no longer.
            return self.smart.last.get_mut(&(set, member)).into_iter().for_each(|last| last.self_test.running = false);
        };
        self.keep(set, member, &reading);
        let untried = self.smart.untried(set, member, &reading);
        if !untried.is_empty() {
            self.try_suspects(set, member, untried, reading.logical_block);
        }
        let test = reading.self_test;
        self.smart.last.insert((set, member), reading);
        self.test_if_due(set, member, test);
    }

    /// Keeps what the drive counts, and has a trend told that turns bad.
    fn keep(&mut self, set: SetId, member: Member, reading: &SmartReading) {
        let Some(serving) = self.serving.get(&set) else { return };
        let Some(disk) = serving.member(member).and_then(|device| disk_of(reading, device)) else { return };
        let limit = self.policy_for(&serving.main).0.smart.growth_per_week;
        let (sample, out) = (model::Sample { at: now(), counts: reading.counters() }, self.out.clone());
        self.smart.disks.insert((set, member), disk.clone());
        let queued = self.store.try_queue(move |store| match store.keep_sample(&disk, &sample) {
            Ok(samples) => {
                turned_bad(&samples, limit).into_iter().for_each(|growth| drop(out.send(Input::Trend(set, member, growth))));
            }
            Err(error) => tracing::warn!(%member, %error, "a sample is missing in the trend of this drive"),
        });
        if let Err(full) = queued {
            tracing::debug!(%member, "a sample is not kept: {full}");
        }
    }

    pub(super) fn tell_of_trend(&mut self, set: SetId, member: Member, growth: Growth) {
        let Some(serving) = self.serving.get(&set) else { return };
        let policy = self.policy_for(&serving.main).0;
        let decision = Decision {
            action: Action::Observe,
            rule: format!("{}/smart.growth_per_week", policy.name),
            reason: format!("they grew by {}, the limit is {}", growth.grown(), policy.smart.growth_per_week),
        };
        let name = serving.desc.name.clone();
        self.record(Entry { number: 0, at: now(), set, name, what: What::Trend { member, growth, decision } });
    }

    /// Answers `smart`.
    pub(super) fn smart_report(&self, name: Option<&SetName>, tell: Tell) {
        let wanted = self.serving.iter().filter(|(_, serving)| name.is_none_or(|name| serving.desc.name == *name));
        let mut disks: Vec<(Option<String>, DiskReport)> = Vec::new();
        for (set, serving) in wanted {
            for (member, device) in serving.members() {
                let known = self.smart.last.get(&(*set, member));
                let places = known.map(|reading| reading.suspects.as_slice()).unwrap_or_default();
                let named = |suspect: &Suspect| Named { lba: suspect.lba, log: suspect.log.words().into() };
                let report = DiskReport {
                    set: serving.desc.name.clone(),
                    member,
                    disk: device.disk.clone(),
                    reading: self.smart.said.get(&(*set, member)).cloned().unwrap_or_else(|| "not read yet".into()),
                    calls_bad: places.iter().map(named).collect(),
                    tests: TestTimes::default(),
                    samples: Vec::new(),
                };
                disks.push((self.smart.disks.get(&(*set, member)).cloned(), report));
            }
        }
        if let (Some(name), true) = (name, disks.is_empty()) {
            let hint = format!("remap-guardian status {name}");
            return drop(tell.send(Err(Reason::new(format!("“{name}” is not open"), hint))));
        }
        self.store.queue(move |store| drop(tell.send(add_trends(store, disks).and_then(json))));
    }

    fn try_suspects(&self, set: SetId, member: Member, lbas: Vec<u64>, block: Option<u32>) {
        let Some(serving) = self.serving.get(&set) else { return };
        let Some(device) = serving.member(member) else { return };
        let Some(block) = block.or_else(|| logical_block(&device.disk)) else {
            return tracing::warn!(%member, "places that the drive calls bad are not tried: the size of its blocks is not known");
        };
        let places = places(&lbas, block, partition_start(device));
        tracing::info!(%member, named = lbas.len(), here = places.len(), "the drive calls blocks bad: they are tried");
        let (trials, block) = (serving.trials.clone(), serving.desc.block());
        let suspects = Suspects { set, member, block, critical: self.critical.clone(), trials };
        let out = self.out.clone();
        tokio::spawn(async move {
            if let Err(broken) = suspects.try_all(places).await {
                let why = match broken {
                    Break::Closed => "the set is closed".into(),
                    Break::Away(why) => why,
                };
                tracing::info!(%member, why, "not all that the drive calls bad could be tried: again after its next reading");
                drop(out.send(Input::SuspectsLeft(set, member)));
            }
        });
    }
}

fn add_trends(store: &dyn Store, mut disks: Vec<(Option<String>, DiskReport)>) -> Result<SmartReport, Reason> {
    for (disk, report) in &mut disks {
        if let Some(disk) = disk {
            let failed = |error: StoreError| Reason::from(error.to_string());
            report.samples = store.samples(disk).map_err(failed)?;
            report.tests = store.test_times(disk).map_err(failed)?;
        }
    }
    Ok(SmartReport { disks: disks.into_iter().map(|(_, report)| report).collect() })
}

/// By which name what a drive counts is kept: its serial number, which it takes with it to another port. None if it has none.
fn disk_of(reading: &SmartReading, device: &FoundDevice) -> Option<String> {
    let serial = reading.serial.as_deref().unwrap_or(&device.identity.serial);
    let name: String = serial.trim().chars().filter(|c| !c.is_control()).take(64).collect();
    (!name.is_empty()).then_some(name)
}

/// Bytes, as the kernel has it.
fn logical_block(disk: &str) -> Option<u32> {
    let path = Path::new("/sys/block").join(disk).join("queue/logical_block_size");
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Ranges of a member from the blocks of its disk, in order, neighbours joined. `block` is in bytes, `start` the member's first sector
/// on the disk. What lies before it is not ours.
fn places(lbas: &[u64], block: u32, start: u64) -> Vec<Extent> {
    let sectors = u64::from(block / 512);
    let place = |lba: &u64| Extent::new(Sector(lba.checked_mul(sectors)?.checked_sub(start)?), Sectors(sectors)).ok();
    let mut found = Vec::new();
    lbas.iter().filter_map(place).for_each(|place| place.add_to(&mut found));
    found
}

/// Tries what one drive calls bad.
struct Suspects {
    set: SetId,
    member: Member,
    block: Sectors,
    critical: Critical,
    trials: mpsc::Sender<Trial>,
}

impl Suspects {
    async fn try_all(&self, places: Vec<Extent>) -> Result<(), Break> {
        let (set, member) = (self.set, self.member);
        for place in places {
            let parts = self.critical.ask(move |engine| engine.set(set).map(|state| state.parts_on(member, place)));
            let parts = parts.await.ok().flatten().ok_or(Break::Closed)?;
            let mut bad: Vec<Part> = Vec::new();
            for block in parts.iter().flat_map(|part| part.blocks(self.block)) {
                if !trials::reads(&self.trials, &block, Priority::Idle).await? {
                    trials::add(&mut bad, block);
                }
            }
            for part in bad {
                self.critical.event(Event::Found { set, part, by: Finder::Drive });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::smart::suspects::Log;

    #[test]
    fn blocks_of_a_disk_are_ranges_of_its_member() {
        let found = |lbas: &[u64], block, start| -> Vec<(u64, u64)> {
            places(lbas, block, start).iter().map(|place| (place.start().0, place.len().0)).collect()
        };
        assert_eq!(found(&[5, 6, 9], 512, 0), [(5, 2), (9, 1)]);
        assert_eq!(found(&[5, 6, 9], 4096, 0), [(40, 16), (72, 8)]);
        assert_eq!(found(&[2047, 2048, 3000], 512, 2048), [(0, 1), (952, 1)], "what is before the partition is not ours");
        assert_eq!(found(&[u64::MAX, u64::MAX / 8], 4096, 0), [], "no place of any disk");
    }

    #[test]
    fn a_place_is_tried_once_until_it_is_called_bad_anew() {
        let (mut smart, set) = (Smart::default(), SetId(uuid::Uuid::nil()));
        let reading = |lbas: &[u64]| {
            let suspects = lbas.iter().map(|&lba| Suspect { lba, log: Log::PendingDefects }).collect();
            SmartReading { suspects, ..SmartReading::default() }
        };
        let mut untried = |member, lbas: &[u64]| smart.untried(set, member, &reading(lbas));
        assert_eq!(untried(Member::Main, &[7, 9]), [7, 9]);
        assert_eq!(untried(Member::Spare(0), &[7]), [7]);
        assert_eq!(untried(Member::Main, &[7, 9, 11]), [11]);
        assert_eq!(untried(Member::Main, &[9]), Vec::<u64>::new());
        assert_eq!(untried(Member::Main, &[7, 9]), [7]);
        smart.try_again(set, Member::Main);
        assert_eq!(smart.untried(set, Member::Main, &reading(&[7, 9])), [7, 9]);
    }
}
