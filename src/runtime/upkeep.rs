//! Looks after the history: checks its chain, prunes it. In steps, for other work of the store waits meanwhile.

use super::daemon::{Daemon, Input, now, uptime};
use super::requests::{Tell, json, say};
use super::retention::{self, Due};
use crate::control::Reason;
use crate::edge::{Store, StoreError};
use crate::model::{ChainWalk, Millis};

/// Entries that are checked in one step: some tens of milliseconds.
const CHECK: usize = 4_096;
/// Entries that are pruned in one step.
const PRUNE: usize = 512;
/// How often the daemon looks whether there is too much.
const EVERY_MS: u64 = 60 * 60 * 1_000;

/// Work that goes on.
pub enum Upkeep {
    /// A check of the chain.
    Check(Option<ChainWalk>, Tell),
    /// Pruning.
    Prune(Pruning),
}

/// Pruning that is under way.
pub struct Pruning {
    /// What is to go, the first of them now.
    cuts: Vec<Due>,
    /// Entries that are gone.
    gone: u64,
    /// Who asked, if somebody did.
    tell: Option<Tell>,
}

impl Daemon {
    /// The next step of what goes on.
    pub(super) fn upkeep(&self, work: Upkeep) {
        match work {
            Upkeep::Check(walk, tell) => self.check(walk, tell),
            Upkeep::Prune(pruning) => {
                let out = self.out.clone();
                self.store.queue(move |store| {
                    if let Some(more) = pruning.step(store) {
                        drop(out.send(Input::Upkeep(Upkeep::Prune(more))));
                    }
                });
            }
        }
    }

    fn check(&self, walk: Option<ChainWalk>, tell: Tell) {
        // Nobody waits for the answer any more.
        if tell.is_closed() {
            return;
        }
        let out = self.out.clone();
        self.store.queue(move |store| match store.verify(walk, CHECK) {
            Ok(walk) if walk.done => drop(tell.send(json(walk.report))),
            Ok(walk) => drop(out.send(Input::Upkeep(Upkeep::Check(Some(walk), tell)))),
            Err(error) => drop(tell.send(Err(Reason::from(error.to_string())))),
        });
    }

    /// Prunes what is asked for; without `before` and `keep`, what exceeds the settings.
    pub(super) fn prune(&self, before: Option<Millis>, keep: Option<u64>, tell: Tell) {
        let (settings, out) = (self.settings.clone(), self.out.clone());
        self.store.queue(move |store| match store.history_ends() {
            Ok(Some(ends)) => {
                let cuts = if before.is_none() && keep.is_none() {
                    retention::due(&settings, ends, now(), true)
                } else {
                    retention::asked(ends, before, keep)
                };
                drop(out.send(Input::Upkeep(Upkeep::Prune(Pruning { cuts, gone: 0, tell: Some(tell) }))));
            }
            Ok(None) => drop(tell.send(say(["nothing has happened yet".to_string()]))),
            Err(error) => drop(tell.send(Err(Reason::from(error.to_string())))),
        });
    }

    /// Prunes what exceeds the settings, now and then.
    pub(super) fn prune_if_due(&mut self) {
        if uptime() < self.prune_due {
            return;
        }
        self.prune_due = Millis(uptime().0 + EVERY_MS);
        let (settings, out) = (self.settings.clone(), self.out.clone());
        let queued = self.store.try_queue(move |store| match store.history_ends() {
            Ok(ends) => {
                let cuts = ends.map(|ends| retention::due(&settings, ends, now(), false)).unwrap_or_default();
                if !cuts.is_empty() {
                    drop(out.send(Input::Upkeep(Upkeep::Prune(Pruning { cuts, gone: 0, tell: None }))));
                }
            }
            Err(error) => tracing::warn!(%error, "the history is not pruned"),
        });
        if let Err(full) = queued {
            tracing::debug!("the history is not pruned now: {full}");
        }
    }
}

impl Pruning {
    /// One step; gives back what is left to do.
    fn step(mut self, store: &dyn Store) -> Option<Pruning> {
        let Some((cut, reason)) = self.cuts.first().cloned() else {
            self.end(None);
            return None;
        };
        match store.prune(cut, PRUNE, &reason, now()) {
            Ok(step) => {
                self.gone += step.entries;
                if step.done {
                    if step.entries > 0 {
                        tracing::info!(entries = self.gone, reason, "the history was pruned");
                    }
                    self.cuts.remove(0);
                }
                Some(self)
            }
            Err(error) => {
                self.end(Some(error));
                None
            }
        }
    }

    fn end(self, error: Option<StoreError>) {
        match (error, self.tell) {
            (None, None) => {}
            (Some(error), None) => tracing::warn!(%error, "the history is not pruned"),
            (Some(error), Some(tell)) => {
                let message = format!("{error}; {} entries are gone from the history", self.gone);
                drop(tell.send(Err(Reason::new(message, "remap-guardian history --verify"))));
            }
            (None, Some(tell)) => drop(tell.send(say([match self.gone {
                0 => "nothing was to be pruned".to_string(),
                1 => "1 entry is gone from the history".to_string(),
                gone => format!("{gone} entries are gone from the history"),
            }]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cut, Entry, SetId, SetName, What};
    use crate::store::SledStore;

    #[test]
    fn pruning_goes_in_steps_and_says_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path().join("store")).unwrap();
        let name = SetName::new("data").unwrap();
        let what = What::Restored { remaps: 1 };
        let entry = Entry { number: 0, at: Millis(5), set: SetId(uuid::Uuid::from_u128(1)), name, what };
        let entries = 2 * PRUNE as u64 + 100;
        for _ in 0..entries {
            store.append(&entry).unwrap();
        }
        let (tell, mut told) = tokio::sync::oneshot::channel();
        let cuts = vec![
            (Cut { upto: entries - 50, before: Millis(u64::MAX) }, "too many".to_string()),
            (Cut { upto: 0, before: Millis(u64::MAX) }, "nothing".to_string()),
        ];
        let mut pruning = Some(Pruning { cuts, gone: 0, tell: Some(tell) });
        let mut left = Vec::new();
        while let Some(now) = pruning {
            assert!(told.try_recv().is_err(), "not before it is done");
            pruning = now.step(&store);
            left.push(store.history_ends().unwrap().unwrap().0.number - 1);
        }
        assert_eq!(left, [PRUNE as u64, 2 * PRUNE as u64, entries - 50, entries - 50, entries - 50]);
        let said = told.try_recv().unwrap().unwrap();
        assert_eq!(said["lines"][0], format!("{} entries are gone from the history", entries - 50));
        assert!(store.verify(None, usize::MAX).unwrap().report.holds());
    }
}
