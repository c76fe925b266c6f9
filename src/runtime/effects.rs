//! Does what the engine wants besides cures: keeps the store in step, asks for spare space, writes history.

use super::actuator::Trial;
use super::critical::{Critical, Report};
use super::daemon::*;
use super::discovery::follow;
use super::seen::Place;
use crate::actuate::probe::Verified;
use crate::edge::ExtentState;
use crate::engine::{CaseId, Effect, Event, Outcome};
use crate::failpoint::reached;
use crate::model::*;

impl Daemon {
    pub(super) fn hear(&mut self, report: Report) {
        match report {
            Report::Effect(effect) => self.run_effect(effect),
            Report::Closed { set, reason, threads } => {
                self.ask_again.retain(|(of, _), _| *of != set);
                // Who waits for its threads learns that there is nothing to wait for.
                self.resting.remove(&set);
                if self.serving.remove(&set).is_some() {
                    self.left_alone.insert(set, threads);
                }
                self.told.insert(set, format!("{reason}; “remap-guardian restore” opens it again"));
            }
            Report::Rested { set, threads } => self.rested(set, threads),
            Report::Seen { set, next } => {
                if let Some(serving) = self.serving.get(&set) {
                    self.saw(set, &serving.instance, next);
                }
            }
            Report::Lost(count) => {
                tracing::error!(
                    count,
                    "the daemon was stuck: that many entries of history and changes of the allocator are lost"
                );
            }
        }
    }

    /// Remembers a place in a device's error ring once everything before it is in history.
    pub(super) fn saw(&self, set: SetId, instance: &str, next: u64) {
        let (seen, place) = (self.seen.clone(), Place { instance: instance.to_owned(), next });
        let queued = self.store.try_queue(move |store| match store.flush() {
            Ok(()) => seen.note(set, place),
            Err(error) => tracing::warn!(%error, "the next run will read old error records again"),
        });
        if let Err(full) = queued {
            tracing::debug!("a place in an error ring is not remembered: {full}");
        }
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Reserve { set, session, spare, want } => self.reserve(set, session, spare, want),
            Effect::MarkInUse { set, remap } => {
                let state = ExtentState::InUse { main: remap.main.start() };
                self.mark(set, remap.spare, remap.spare_extent(), state);
            }
            Effect::MarkReserved { set, spare, extent } => self.mark(set, spare, extent, ExtentState::Reserved),
            Effect::MarkBad { set, spare, extent } => self.mark(set, spare, extent, ExtentState::Bad),
            Effect::Announce { set, case, remap } => self.announce(set, case, remap),
            Effect::SampleSmart { set } => {
                if let Some(serving) = self.serving.get_mut(&set) {
                    // Soon, but not for each of a burst of cures.
                    serving.smart_due = Millis(serving.smart_due.0.min(uptime().0 + 2_000));
                }
            }
            Effect::Scrub { set } => self.scrub_unless_under_way(set),
            Effect::Record(entry) => self.record(entry),
            // The engine's thread has given them out.
            Effect::Step { .. }
            | Effect::Probe { .. }
            | Effect::Return { .. }
            | Effect::CallOff { .. }
            | Effect::Retry { .. }
            | Effect::ReleaseReads { .. }
            | Effect::Tend { .. } => {}
        }
    }

    /// Nothing waits for it, so a store that is not well is no reason to go on without it.
    fn announce(&self, set: SetId, case: CaseId, remap: Remap) {
        let (critical, later) = (self.critical.clone(), self.critical.clone());
        let answer = move |critical: &Critical, written: Result<(), String>| {
            let failed = |why| Outcome::Failed(format!("it could not be written down that it goes back to main: {why}"));
            let outcome = written.map_or_else(failed, |()| Outcome::Announced);
            critical.event(Event::Done { set, case, outcome });
        };
        let queued = self.store.try_queue(move |store| {
            answer(&critical, store.set_returning(set, Some(&remap)).map_err(|error| error.to_string()));
        });
        if let Err(full) = queued {
            answer(&later, Err(full.to_string()));
        }
    }

    pub(super) fn mark(&self, set: SetId, spare: u16, extent: Extent, state: ExtentState) {
        self.store.queue(move |store| match store.mark(set, spare, extent, state) {
            Ok(()) => reached("marked in use"),
            Err(error) => tracing::warn!(%extent, %error, "the allocator lags behind the spare until the next start"),
        });
    }

    pub(super) fn reserve(&self, set: SetId, session: u64, spare: u16, want: Sectors) {
        let Some(serving) = self.serving.get(&set) else { return };
        let (block, trials, out) = (serving.desc.block(), serving.trials.clone(), self.out.clone());
        self.store.queue(move |store| match store.reserve(set, spare, want, block) {
            Ok(extents) => {
                reached("batch reserved");
                drop(trials.send(Trial::Verify { session, spare, extents }));
            }
            Err(error) => {
                tracing::warn!(%error, "no spare space could be reserved");
                drop(out.send(Input::NoSpace { set, spare, not_rebuilt: None }));
            }
        });
    }

    pub(super) fn verified(&mut self, set: SetId, session: u64, spare: u16, verified: Verified) {
        let Verified { good, bad, untried } = verified;
        let (out, critical) = (self.out.clone(), self.critical.clone());
        self.store.queue(move |store| {
            for extent in bad {
                tracing::warn!(%extent, spare, "spare sectors failed their check and are never used");
                if let Err(error) = store.mark(set, spare, extent, ExtentState::Bad) {
                    tracing::warn!(%error, "the allocator does not remember bad spare sectors");
                }
            }
            let usage = store.usage(set, spare);
            if let Err(error) = &usage {
                tracing::warn!(%error, "the free space of a spare is not known");
                drop(out.send(Input::NoSpace { set, spare, not_rebuilt: None }));
            }
            // What could not be tried may still become ready.
            let free = usage.map(|usage| usage.free).unwrap_or_default();
            critical.event(Event::Reserved { set, session, spare, extents: good, free, untried });
        });
    }

    /// Nothing is asked of a spare until the store has been asked again.
    pub(super) fn no_space(&mut self, set: SetId, spare: u16, not_rebuilt: Option<String>) {
        let Some(serving) = self.serving.get(&set) else { return };
        let name = serving.desc.name.clone();
        let known = self.ask_again.insert((set, spare), Millis(uptime().0 + ASK_MS));
        if let (Some(why), None) = (not_rebuilt, known) {
            let message =
                format!("nothing can be moved to spare {spare} until its free space is known; tried again each minute: {why}");
            self.record(Entry { number: 0, at: now(), set, name, what: What::Alert { message } });
        }
        self.critical.event(Event::Space { set, spare, free: Sectors(0) });
    }

    /// Asks the store again what is free where it could not say.
    pub(super) fn ask_store_again(&mut self) {
        let now = uptime();
        let due: Vec<(SetId, u16)> = self.ask_again.iter().filter(|(_, due)| now >= **due).map(|(key, _)| *key).collect();
        for (set, spare) in due {
            let Some(serving) = self.serving.get(&set) else {
                self.ask_again.remove(&(set, spare));
                continue;
            };
            // Not before it has answered.
            self.ask_again.insert((set, spare), Millis(now.0 + ASK_MS));
            let (desc, block) = (serving.desc.clone(), serving.desc.block());
            let data = desc.geometry[usize::from(spare)].data;
            let (store, out) = (self.store.clone(), self.out.clone());
            let live = self.critical.ask(move |engine| {
                let state = engine.set(set)?;
                Some(state.remaps().filter(|remap| remap.spare == spare).copied().collect::<Vec<_>>())
            });
            tokio::spawn(async move {
                let Ok(Some(live)) = live.await else { return };
                // If there is no room for it, it is asked again.
                let queued = store.try_queue(move |store| {
                    // Built only if it never was: what was handed out must not become free. As nothing was, the table has not changed.
                    let built = store.reserve(set, spare, Sectors(0), block).is_ok();
                    let rebuilt = if built { Ok(()) } else { follow(store, &desc, spare, data, &live) };
                    if let Err(behind) = rebuilt {
                        return behind.tell(&out, set, spare);
                    }
                    let input = match store.usage(set, spare) {
                        Ok(usage) => Input::Space { set, spare, free: usage.free },
                        Err(error) => Input::NoSpace { set, spare, not_rebuilt: (!built).then(|| error.to_string()) },
                    };
                    drop(out.send(input));
                });
                if let Err(full) = queued {
                    tracing::debug!("free space is not asked for: {full}");
                }
            });
        }
    }

    /// Tells of history that was lost, once there is room again.
    pub(super) fn tell_of_unwritten(&mut self) {
        if self.store.has_room().is_ok() {
            for entry in self.unwritten.tell(now()) {
                self.record(entry);
            }
        }
    }

    /// Appends to the history and tells the log.
    pub(super) fn record(&mut self, entry: Entry) {
        // The engine does not know the time of day.
        let entry = Entry { at: now(), ..entry };
        let (name, sentence) = (&entry.name, entry.what.sentence());
        match entry.what.urgency() {
            Urgency::Notice => tracing::info!(set = %name, "{sentence}"),
            Urgency::Warning => tracing::warn!(set = %name, "{sentence}"),
            Urgency::Alarm => tracing::error!(set = %name, "{sentence}"),
        }
        let (set, name) = (entry.set, entry.name.clone());
        let over = matches!(entry.what, What::Unremapped { .. } | What::StaysRemapped { .. });
        let queued = self.store.try_queue(move |store| match store.append(&entry) {
            Ok(_) => reached("history appended"),
            Err(error) => tracing::error!(%error, "history could not be written"),
        });
        // Also where there is no room for its history: left behind, the mark would speak for a later remap.
        if over {
            self.store.queue(move |store| {
                if let Err(error) = store.set_returning(set, None) {
                    tracing::warn!(%error, "the next start looks again whether a remap has gone back to main");
                }
            });
        }
        if let Err(full) = queued {
            if self.unwritten.lost(set, name) {
                tracing::error!("this and what follows is missing in the history: {full}");
            }
        }
    }
}
