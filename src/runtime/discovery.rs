//! Looks at the disks, opens the sets that are complete, and says why others are not.

use super::assemble::{self, Candidate, Opened};
use super::daemon::*;
use super::{actuator, inputs, older as judges, watcher};
use crate::actuate::older;
use crate::control::Reason;
use crate::edge::{Store, StoreError};
use crate::engine::Event;
use crate::model::*;
use std::collections::{BTreeMap, BTreeSet};

impl Daemon {
    /// Tells when the look that is under way has ended.
    pub(super) fn wait_for_look(&mut self, done: tokio::sync::oneshot::Sender<()>) {
        self.waiting_for_look[0].push(done);
    }

    /// Looks, and tells when a look has ended that began after this.
    pub(super) fn look_for(&mut self, done: tokio::sync::oneshot::Sender<()>) {
        self.waiting_for_look[usize::from(self.looking)].push(done);
        self.look();
    }

    /// Looks at the disks in the background; complete sets are opened.
    pub(super) fn look(&mut self) {
        if self.looking {
            self.look_again = true;
            return;
        }
        self.looking = true;
        let (settings, out, seen) = (self.settings.clone(), self.out.clone(), self.seen.clone());
        let (claimed, store) = (self.claimed.clone(), self.store.clone());
        tokio::task::spawn_blocking(move || {
            let candidates = match inputs::devices(&settings) {
                Ok(devices) => assemble::discover_and_shield(&devices),
                Err(error) => {
                    tracing::error!(%error, "the block devices cannot be listed");
                    BTreeMap::new()
                }
            };
            let ready = candidates.iter().filter(|(id, candidate)| candidate.complete().is_ok() && claimed.claim(**id));
            let judge = |desc: &SetDescription, remaps: &[Remap], there| judges::judge(&store, desc, remaps, there);
            let attempts = ready.map(|(id, candidate)| {
                let attempt = assemble::open(candidate, &settings, &seen, assemble::Writes::Yes, &judge).map(Box::new);
                if attempt.is_err() {
                    claimed.give_back(*id);
                }
                (*id, attempt)
            });
            let attempts = attempts.collect();
            drop(out.send(Input::Discovered { candidates, attempts }));
        });
    }

    pub(super) fn discovered(
        &mut self,
        candidates: BTreeMap<SetId, Candidate>,
        attempts: Vec<(SetId, Result<Box<Opened>, String>)>,
    ) {
        self.looking = false;
        self.looked = true;
        let before = std::mem::replace(&mut self.candidates, candidates);
        // A set that is served stays known: its spare may have gone, or have been made while we looked.
        for (id, candidate) in before.into_iter().filter(|(id, _)| self.serving.contains_key(id)) {
            self.candidates.entry(id).or_insert(candidate);
        }
        for (id, attempt) in attempts {
            match attempt {
                Ok(opened) => self.start_serving(*opened, drop),
                Err(reason) => self.not_restored(id, reason),
            }
        }
        let waiting: Vec<(SetId, String)> = self
            .candidates
            .iter()
            .filter(|(id, _)| !self.serving.contains_key(id))
            .filter_map(|(id, candidate)| candidate.complete().err().map(|reason| (*id, reason)))
            .collect();
        for (id, reason) in waiting {
            self.not_restored(id, reason);
        }
        self.ready();
        let [now, next] = std::mem::take(&mut self.waiting_for_look);
        self.waiting_for_look[0] = next;
        for waiting in now {
            let _ = waiting.send(());
        }
        if std::mem::take(&mut self.look_again) {
            self.look();
        }
    }

    /// Says once why a set is not open.
    pub(super) fn not_restored(&mut self, id: SetId, reason: String) {
        if self.told.get(&id) == Some(&reason) {
            return;
        }
        self.told.insert(id, reason.clone());
        if let Some(candidate) = self.candidates.get(&id) {
            let name = candidate.desc.name.clone();
            self.record(Entry { number: 0, at: now(), set: id, name, what: What::NotRestored { reason } });
        }
    }

    /// Tells of the sets that no disk speaks of: they are known from the registry only.
    pub(super) fn tell_of_absent(&self) {
        let present: BTreeSet<SetId> = self.candidates.keys().copied().collect();
        self.store.queue(move |store| {
            for desc in store.sets().unwrap_or_default().into_iter().filter(|desc| !present.contains(&desc.id)) {
                let what = What::NotRestored { reason: ABSENT.into() };
                let last = store.history(Some(desc.id), Millis(0), 1).unwrap_or_default().pop();
                if last.is_some_and(|entry| entry.what == what) {
                    continue;
                }
                tracing::warn!(set = %desc.name, "{}", what.sentence());
                if let Err(error) = store.append(&Entry { number: 0, at: now(), set: desc.id, name: desc.name, what }) {
                    tracing::error!(%error, "history could not be written");
                }
            }
        });
    }

    pub(super) fn forgotten(&mut self, desc: SetDescription, wiped: Vec<String>) {
        self.candidates.remove(&desc.id);
        self.told.remove(&desc.id);
        if self.left_alone.remove(&desc.id).is_some() {
            self.claimed.give_back(desc.id);
        }
        self.record(Entry { number: 0, at: now(), set: desc.id, name: desc.name, what: What::Forgotten { wiped } });
        self.look();
    }

    /// Gives back the sets that were left alone, so that the next look opens them.
    pub(super) fn take_up_again(&mut self) {
        for (set, thread) in std::mem::take(&mut self.left_alone) {
            if thread.is_finished() {
                self.claimed.give_back(set);
            } else {
                self.left_alone.insert(set, thread);
                self.told.insert(set, BUSY.into());
            }
        }
    }

    /// Why a set is not open, if it was said.
    pub(super) fn why_not(&self, id: SetId) -> Option<&String> {
        self.told.get(&id)
    }

    /// Serves a set that is open; `then` is called when its partitions are there too, or with why it cannot be served.
    pub(super) fn start_serving(&mut self, opened: Opened, then: impl FnOnce(Result<(), Reason>) + Send + 'static) {
        let Opened { desc, main, spares, remaps, actuator, prober, watcher, from, adopted, without } = opened;
        let id = desc.id;
        let owner = match watcher.share() {
            Ok(owner) => owner,
            Err(fault) => return self.not_served(&desc, fault.to_string(), then),
        };
        let hands = match actuator::start(id, actuator, prober, &self.critical, self.out.clone()) {
            Ok(hands) => hands,
            Err(error) => return self.not_served(&desc, format!("no thread could be started: {error}"), then),
        };
        self.told.remove(&id);
        self.rebuild(&desc, &remaps);
        let what = match adopted {
            Some(mended) => What::Adopted { remaps: remaps.len() as u64, mended },
            None => What::Restored { remaps: remaps.len() as u64 },
        };
        self.record(Entry { number: 0, at: now(), set: id, name: desc.name.clone(), what });
        if let Some(why) = without {
            let message = format!("spare {} is not used until the set is opened again: {why}", desc.spares.len());
            self.record(Entry { number: 0, at: now(), set: id, name: desc.name.clone(), what: What::Alert { message } });
        }
        let policy = Box::new(self.policy_for(&main).0.clone());
        let lease = watcher::Lease { ms: self.settings.lease_ms, reads: policy.read_error.hold };
        let instance = watcher.instance().to_owned();
        self.saw(id, &instance, from.since);
        let trials = hands.trials();
        let serving = Serving { desc: desc.clone(), main, spares, trials, instance, owner, watching: None, smart_due: uptime() };
        self.serving.insert(id, serving);
        let capacity = assemble::capacity(&desc);
        self.critical.serve(id, Event::Opened { set: Box::new(desc), remaps, capacity, policy }, hands);
        match watcher::start(id, watcher, from, lease, self.critical.clone()) {
            Ok(watching) => self.serving.get_mut(&id).expect("it was put there").watching = Some(watching),
            Err(error) => {
                self.critical.event(Event::Closed { set: id, reason: format!("no thread could be started: {error}") });
            }
        }
        self.resume_scrub(id);
        self.recall_spending(id);
        self.follow_partitions(id, || then(Ok(())));
    }

    /// A set that is open cannot be served. It is tried again, like all that were found.
    fn not_served(&mut self, desc: &SetDescription, reason: String, then: impl FnOnce(Result<(), Reason>)) {
        // The engine may know it still, from before another spare joined.
        self.critical.event(Event::Closed { set: desc.id, reason: reason.clone() });
        self.claimed.give_back(desc.id);
        self.told.remove(&desc.id);
        self.not_restored(desc.id, reason.clone());
        let hint = format!("it is tried again every few seconds; see: remap-guardian status {0}, or: restore {0}", desc.name);
        then(Err(Reason::new(format!("the set is open, but not served now: {reason}"), hint)));
    }

    /// Brings registry and allocator in line with the spares, which are the truth.
    pub(super) fn rebuild(&self, desc: &crate::model::SetDescription, remaps: &[crate::model::Remap]) {
        let (desc, remaps, keeper, out) = (desc.clone(), remaps.to_vec(), self.store.clone(), self.out.clone());
        self.store.queue(move |store| {
            if let Some(kept) = keeper.was_set_aside() {
                let message = format!(
                    "the store could not be read and was set aside as {}: history before this is there only",
                    kept.display()
                );
                tell(store, &desc, message);
            }
            let spares = desc.geometry.iter().enumerate().map(|(index, geometry)| (index as u16, geometry.data));
            if let Err(error) = store.put_set(&desc) {
                tracing::error!(%error, "the registry lacks a set until it is opened again");
            }
            for (spare, data) in spares {
                let live: Vec<_> = remaps.iter().filter(|remap| remap.spare == spare).copied().collect();
                let sectors = live.iter().map(|remap| remap.main.len().0).sum::<u64>();
                let known = store.usage(desc.id, spare).map(|usage| usage.in_use.0).unwrap_or(0);
                if sectors > known {
                    let message = format!(
                        "{} sectors were moved to spare {spare} by a run that ended before it could write them down here",
                        sectors - known
                    );
                    tell(store, &desc, message);
                }
                if let Err(behind) = follow(store, &desc, spare, data, &live) {
                    behind.tell(&out, desc.id, spare);
                }
            }
        });
    }
}

/// Makes the allocator of a spare follow its table; not if that is older than what is known of it, since what is known is the last
/// trace then of what was moved there. `live` is sorted by main.
pub(super) fn follow(store: &dyn Store, desc: &SetDescription, spare: u16, data: Extent, live: &[Remap]) -> Result<(), Behind> {
    let set = desc.id;
    let text = |error: StoreError| Behind { why: error.to_string(), ranges: Vec::new() };
    let older = older::find(store, desc, spare..spare + 1, live).map_err(text)?;
    if !older.is_empty() {
        return Err(Behind { why: older.to_string(), ranges: older.ranges() });
    }
    let returning = store.returning(set).map_err(text)?.filter(|remap| remap.spare == spare);
    let back = returning.filter(|remap| older::serving(remap.main, live).is_none());
    store.rebuild(set, spare, data, live).map_err(text)?;
    if let Some(remap) = back {
        let reason = "it was on its way back to main when the daemon ended, and its record is gone".into();
        let decision = Decision { action: Action::Unremap, rule: "operator/unremap".into(), reason };
        let what = What::Unremapped { remap, decision, took_ms: 0 };
        store.append(&Entry { number: 0, at: now(), set, name: desc.name.clone(), what }).map_err(text)?;
    }
    returning.map_or(Ok(()), |_| store.set_returning(set, None).map_err(text))
}

/// Why the allocator does not follow a spare's table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Behind {
    /// In words.
    pub why: String,
    /// Ranges of main whose content nobody knows, if the spare is older.
    pub ranges: Vec<Extent>,
}

impl Behind {
    /// Tells the daemon.
    pub(super) fn tell(self, out: &tokio::sync::mpsc::UnboundedSender<Input>, set: SetId, spare: u16) {
        if !self.ranges.is_empty() {
            drop(out.send(Input::Older { set, ranges: self.ranges }));
        }
        drop(out.send(Input::NoSpace { set, spare, not_rebuilt: Some(self.why) }));
    }
}

/// Writes an alert from the store's own thread.
fn tell(store: &dyn Store, desc: &SetDescription, message: String) {
    tracing::warn!(set = %desc.name, "{message}");
    let entry = Entry { number: 0, at: now(), set: desc.id, name: desc.name.clone(), what: What::Alert { message } };
    if let Err(error) = store.append(&entry) {
        tracing::error!(%error, "history could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::spare_table::tests::description;

    fn remap(main: u64, len: u64) -> Remap {
        let main = Extent::new(Sector(main), Sectors(len)).unwrap();
        Remap { main, spare: 0, at: Sector(900), flags: RemapFlags::default(), seq: 1 }
    }

    /// A store that knows main sectors 8 to 15 on the spare, and that they were about to go back if `returning`.
    fn known(returning: bool) -> (tempfile::TempDir, crate::store::SledStore, SetDescription) {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::SledStore::open(dir.path().join("store")).unwrap();
        let desc = description();
        store.rebuild(desc.id, 0, data(), &[remap(8, 8)]).unwrap();
        store.set_returning(desc.id, returning.then(|| remap(8, 8)).as_ref()).unwrap();
        (dir, store, desc)
    }

    fn data() -> Extent {
        Extent::new(Sector(800), Sectors(800)).unwrap()
    }

    #[test]
    fn what_had_gone_back_to_main_makes_no_spare_older() {
        let (_dir, store, desc) = known(false);
        let behind = follow(&store, &desc, 0, data(), &[]).unwrap_err();
        assert!(behind.why.contains("lacks 1 remaps") && behind.ranges == [remap(8, 8).main], "{behind:?}");
        let (_dir, store, desc) = known(true);
        assert_eq!(follow(&store, &desc, 0, data(), &[]), Ok(()));
        let told = store.history(None, Millis(0), 10).unwrap();
        assert!(matches!(&told[..], [Entry { what: What::Unremapped { .. }, .. }]), "{told:?}");
        assert_eq!((store.returning(desc.id).unwrap(), store.in_use(desc.id, 0).unwrap().len()), (None, 0));
        // It was interrupted before the record went.
        let (_dir, store, desc) = known(true);
        assert_eq!(follow(&store, &desc, 0, data(), &[remap(8, 8)]), Ok(()));
        assert_eq!((store.returning(desc.id).unwrap(), store.in_use(desc.id, 0).unwrap().len()), (None, 1));
        assert_eq!(store.history(None, Millis(0), 10).unwrap(), []);
    }
}
