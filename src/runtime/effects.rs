//! Does what the engine says: hands work to the threads, and keeps the store in step.

use super::actuator::{Cure, Trial};
use super::daemon::*;
use crate::actuate::probe::Verified;
use crate::edge::ExtentState;
use crate::engine::{Effect, Event};
use crate::model::*;

impl Daemon {
    pub(super) fn run_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Step { set, case, step } => self.cure(set, Cure::Step(case, step)),
            Effect::Probe { set, case, extent } => {
                if let Some(serving) = self.serving.get(&set) {
                    serving.hands.try_out(Trial::Probe(case, extent));
                }
            }
            Effect::Retry { set, extent } => self.cure(set, Cure::Retry(extent)),
            Effect::Reserve { set, spare, want } => self.reserve(set, spare, want),
            Effect::MarkInUse { set, remap } => {
                let state = ExtentState::InUse { main: remap.main.start() };
                self.mark(set, remap.spare, remap.spare_extent(), state);
            }
            Effect::MarkBad { set, spare, extent } => self.mark(set, spare, extent, ExtentState::Bad),
            Effect::SampleSmart { set } => {
                if let Some(serving) = self.serving.get_mut(&set) {
                    // Soon, but not for each of a burst of cures.
                    serving.smart_due = Millis(serving.smart_due.0.min(uptime().0 + 2_000));
                }
            }
            Effect::Record(entry) => self.record(entry),
        }
    }

    pub(super) fn cure(&self, set: SetId, cure: Cure) {
        if let Some(serving) = self.serving.get(&set) {
            serving.hands.cure(cure);
        }
    }

    pub(super) fn mark(&self, set: SetId, spare: u16, extent: Extent, state: ExtentState) {
        self.store.queue(move |store| {
            if let Err(error) = store.mark(set, spare, extent, state) {
                tracing::warn!(%extent, %error, "the allocator lags behind the spare until the next start");
            }
        });
    }

    pub(super) fn reserve(&self, set: SetId, spare: u16, want: crate::model::Sectors) {
        let Some(serving) = self.serving.get(&set) else { return };
        let Some(state) = self.engine.set(set) else { return };
        let (block, trials, out) = (state.description().block(), serving.hands.trials(), self.out.clone());
        self.store.queue(move |store| match store.reserve(set, spare, want, block) {
            Ok(extents) => drop(trials.send(Trial::Verify(spare, extents))),
            Err(error) => {
                tracing::warn!(%error, "no spare space could be reserved");
                drop(out.send(Input::NoSpace { set, spare, not_rebuilt: None }));
            }
        });
    }

    pub(super) fn verified(&mut self, set: SetId, spare: u16, verified: Verified) {
        let Verified { good, bad, untried } = verified;
        let out = self.out.clone();
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
            drop(out.send(Input::Engine(Event::Reserved { set, spare, extents: good, free, untried })));
        });
    }

    /// Nothing is asked of a spare until the store has been asked again.
    pub(super) fn no_space(&mut self, set: SetId, spare: u16, not_rebuilt: Option<String>) {
        let Some(state) = self.engine.set(set) else { return };
        let name = state.description().name.clone();
        let known = self.ask_again.insert((set, spare), Millis(uptime().0 + ASK_MS));
        if let (Some(why), None) = (not_rebuilt, known) {
            let message =
                format!("nothing can be moved to spare {spare} until its free space is known; tried again each minute: {why}");
            self.record(Entry { number: 0, at: now(), set, name, what: What::Alert { message } });
        }
        self.apply(Event::Reserved { set, spare, extents: Vec::new(), free: Sectors(0), untried: Sectors(0) });
    }

    /// Asks the store again what is free where it could not say.
    pub(super) fn ask_store_again(&mut self) {
        let now = uptime();
        let due: Vec<(SetId, u16)> = self.ask_again.iter().filter(|(_, due)| now >= **due).map(|(key, _)| *key).collect();
        for (set, spare) in due {
            let Some(state) = self.engine.set(set) else {
                self.ask_again.remove(&(set, spare));
                continue;
            };
            // Not before it has answered.
            self.ask_again.insert((set, spare), Millis(now.0 + ASK_MS));
            let (block, data) = (state.description().block(), state.description().geometry[usize::from(spare)].data);
            let live: Vec<_> = state.remaps().filter(|remap| remap.spare == spare).copied().collect();
            let out = self.out.clone();
            self.store.queue(move |store| {
                // Built only if it never was: what was handed out must not become free. As nothing was, the table has not changed.
                let built = store.reserve(set, spare, Sectors(0), block).is_ok();
                let rebuilt = if built { Ok(()) } else { store.rebuild(set, spare, data, &live) };
                let input = match rebuilt.and_then(|()| store.usage(set, spare)) {
                    Ok(usage) => Input::Space { set, spare, free: usage.free },
                    Err(error) => Input::NoSpace { set, spare, not_rebuilt: (!built).then(|| error.to_string()) },
                };
                drop(out.send(input));
            });
        }
    }

    /// Appends to the history and tells the log.
    pub(super) fn record(&self, entry: Entry) {
        // The engine does not know the time of day.
        let entry = Entry { at: now(), ..entry };
        tracing::info!(set = %entry.name, "{}", entry.what.sentence());
        self.store.queue(move |store| {
            if let Err(error) = store.append(&entry) {
                tracing::error!(%error, "history could not be written");
            }
        });
    }
}
