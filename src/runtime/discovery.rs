//! Looks at the disks, opens the sets that are complete, and says why others are not.

use super::assemble::{self, Candidate, Opened};
use super::daemon::*;
use super::{actuator, inputs, watcher};
use crate::edge::{Served, Store, StoreError};
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
        let claimed = self.claimed.clone();
        tokio::task::spawn_blocking(move || {
            let candidates = match inputs::devices(&settings) {
                Ok(devices) => assemble::discover_and_shield(&devices),
                Err(error) => {
                    tracing::error!(%error, "the block devices cannot be listed");
                    BTreeMap::new()
                }
            };
            let ready = candidates.iter().filter(|(id, candidate)| candidate.complete().is_ok() && claimed.claim(**id));
            let attempts = ready.map(|(id, candidate)| {
                let attempt = assemble::open(candidate, &settings, &seen, assemble::Writes::Yes).map(Box::new);
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
                Ok(opened) => self.start_serving(*opened, || ()),
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

    /// Serves a set that is open; `then` is called when its partitions are there too.
    pub(super) fn start_serving(&mut self, opened: Opened, then: impl FnOnce() + Send + 'static) {
        let Opened { desc, main, spares, remaps, actuator, prober, watcher, from, adopted } = opened;
        let id = desc.id;
        let hands = match actuator::start(id, actuator, prober, &self.critical, self.out.clone()) {
            Ok(hands) => hands,
            Err(error) => {
                self.claimed.give_back(id);
                then();
                return self.not_restored(id, format!("no thread could be started: {error}"));
            }
        };
        self.told.remove(&id);
        self.rebuild(&desc, &remaps);
        let what = match adopted {
            Some(mended) => What::Adopted { remaps: remaps.len() as u64, mended },
            None => What::Restored { remaps: remaps.len() as u64 },
        };
        self.record(Entry { number: 0, at: now(), set: id, name: desc.name.clone(), what });
        let policy = Box::new(self.policy_for(&main).0.clone());
        let instance = watcher.instance().to_owned();
        self.saw(id, &instance, from.since);
        let serving = Serving { desc: desc.clone(), main, spares, trials: hands.trials(), instance, smart_due: uptime() };
        self.serving.insert(id, serving);
        let capacity = assemble::capacity(&desc);
        self.critical.serve(id, Event::Opened { set: Box::new(desc), remaps, capacity, policy }, hands);
        if let Err(error) = watcher::start(id, watcher, from, self.settings.lease_ms, self.critical.clone()) {
            self.critical.event(Event::Closed { set: id, reason: format!("no thread could be started: {error}") });
        }
        self.resume_scrub(id);
        self.follow_partitions(id, then);
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
                if let Err(error) = follow(store, &desc, spare, data, &live) {
                    drop(out.send(Input::NoSpace { set: desc.id, spare, not_rebuilt: Some(error) }));
                }
            }
        });
    }
}

/// Makes the allocator of a spare follow its table; not if that is older than what is known of it, since what is known is the last
/// trace then of what was moved there. `live` is sorted by main.
pub(super) fn follow(store: &dyn Store, desc: &SetDescription, spare: u16, data: Extent, live: &[Remap]) -> Result<(), String> {
    let set = desc.id;
    let text = |error: StoreError| error.to_string();
    let known = store.in_use(set, spare).map_err(text)?;
    let mut lost = beyond(&known, live);
    if known.iter().any(|known| place_of(known.main, live).is_some_and(|at| at != known.at)) {
        // It may lag behind a move, or the table may be from before one.
        let told = store.told_remaps(set).map_err(text)?;
        lost.extend(moved_on(&told, spare, live));
    }
    let returning = store.returning(set).map_err(text)?.filter(|remap| remap.spare == spare);
    let back = returning.filter(|remap| serving(remap.main, live).is_none());
    lost.retain(|served| back.is_none_or(|remap| remap.main.start() != served.main.start()));
    if lost.is_empty() {
        store.rebuild(set, spare, data, live).map_err(text)?;
        if let Some(remap) = back {
            let reason = "it was on its way back to main when the daemon ended, and its record is gone".into();
            let decision = Decision { action: Action::Unremap, rule: "operator/unremap".into(), reason };
            let what = What::Unremapped { remap, decision, took_ms: 0 };
            store.append(&Entry { number: 0, at: now(), set, name: desc.name.clone(), what }).map_err(text)?;
        }
        return returning.map_or(Ok(()), |_| store.set_returning(set, None).map_err(text));
    }
    let places: Vec<String> = lost.iter().take(8).map(|served| served.main.to_string()).collect();
    let more = if lost.len() > 8 { ", …" } else { "" };
    Err(format!(
        "its table lacks {} remaps that were durable on it ({}{more}): reads there give what main had before. If an older copy of the \
         spare was put back, close the device and attach the right one",
        lost.len(),
        places.join(", ")
    ))
}

/// What the store knows to be served and no remap serves: it learns of a remap only when that is durable on the spare, and none is
/// ever taken back.
fn beyond(known: &[Served], live: &[Remap]) -> Vec<Served> {
    known.iter().filter(|known| serving(known.main, live).is_none()).copied().collect()
}

/// The remap that serves all of a range.
fn serving(main: Extent, live: &[Remap]) -> Option<&Remap> {
    let next = live.partition_point(|remap| remap.main.start() <= main.start());
    next.checked_sub(1).map(|before| &live[before]).filter(|remap| remap.main.covers(&main))
}

fn place_of(main: Extent, live: &[Remap]) -> Option<Sector> {
    serving(main, live).filter(|remap| remap.main.start() == main.start()).map(|remap| remap.at)
}

/// What history has newer remaps of on this spare than the table.
fn moved_on(told: &[Remap], spare: u16, live: &[Remap]) -> Vec<Served> {
    let older = |now: &Remap, told: &Remap| now.main == told.main && now.seq < told.seq;
    let newer = |told: &&Remap| told.spare == spare && serving(told.main, live).is_some_and(|now| older(now, told));
    told.iter().filter(newer).map(|told| Served { main: told.main, at: told.at }).collect()
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

    fn remap(main: u64, len: u64) -> Remap {
        let main = Extent::new(Sector(main), Sectors(len)).unwrap();
        Remap { main, spare: 0, at: Sector(900), flags: RemapFlags::default(), seq: 1 }
    }

    #[test]
    fn a_table_that_lacks_what_is_known_is_older() {
        let known = [(8, 8), (24, 8), (40, 16)].map(|(main, len)| Served { main: remap(main, len).main, at: Sector(900) });
        let lacks = |live: &[Remap]| beyond(&known, live).iter().map(|served| served.main.start().0).collect::<Vec<_>>();
        assert_eq!(lacks(&[remap(8, 8), remap(24, 8), remap(40, 16), remap(80, 8)]), Vec::<u64>::new(), "the store may lag");
        assert_eq!(lacks(&[remap(8, 8), remap(40, 8)]), [24, 40]);
        assert_eq!(lacks(&[]), [8, 24, 40]);
    }

    #[test]
    fn a_table_from_before_a_move_is_older() {
        let (before, after) = (remap(8, 8), Remap { at: Sector(1000), seq: 5, ..remap(8, 8) });
        assert_eq!(moved_on(&[before, after], 0, &[before]), [Served { main: before.main, at: Sector(1000) }]);
        assert_eq!(moved_on(&[before, after], 0, &[after]), [], "the store may lag");
        assert_eq!(moved_on(&[after], 1, &[before]), [], "another spare's");
        assert_eq!((place_of(before.main, &[before]), place_of(before.main, &[])), (Some(Sector(900)), None));
    }

    /// A store that knows main sectors 8 to 15 on the spare, and that they were about to go back if `returning`.
    fn known(returning: bool) -> (tempfile::TempDir, crate::store::SledStore, SetDescription) {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::store::SledStore::open(dir.path().join("store")).unwrap();
        let desc = SetDescription {
            id: SetId(uuid::Uuid::nil()),
            name: SetName::new("data").unwrap(),
            main: Identity::default(),
            spares: vec![Identity::default()],
            secret: Secret([7; 16]),
            geometry: Vec::new(),
            created: Millis(0),
        };
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
        assert!(follow(&store, &desc, 0, data(), &[]).unwrap_err().contains("lacks 1 remaps"));
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
