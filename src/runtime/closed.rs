//! Requests that work on a set that is closed, in the background, by what this machine knows of it.

use super::daemon::{Claims, Daemon, Input};
use super::forget;
use super::requests::{Tell, say, stopping};
use super::storekeeper::Storekeeper;
use crate::config::Settings;
use crate::control::Reason;
use crate::edge::{Served, StoreError};
use crate::model::{Remap, SetDescription, SetId, SetName, What};
use std::collections::BTreeSet;

/// Lines for people; and what history says, if something was done.
pub(super) type Done = (Vec<String>, Option<What>);

impl Daemon {
    /// Does `work` with the one known set of this name or id, while nobody opens it; then answers.
    pub(super) fn with_closed_set(
        &mut self,
        name: SetName,
        tell: Tell,
        work: impl FnOnce(&SetDescription, &Settings, &Storekeeper) -> Result<Done, Reason> + Send + 'static,
    ) {
        if let Err(reason) = self.begin(&name) {
            return drop(tell.send(Err(reason)));
        }
        let (settings, store, claimed) = (self.settings.clone(), self.store.clone(), self.claimed.clone());
        let (idle, registry, out) = (self.idle(), self.registry(), self.out.clone());
        tokio::spawn(async move {
            let registry = registry.await.unwrap_or_else(|_| Err(stopping()));
            let done = tokio::task::spawn_blocking(move || {
                let desc = forget::choose(&name, registry?)?;
                let done = claimed_for(&desc, &claimed, &idle, || work(&desc, &settings, &store))?;
                Ok((desc, done))
            });
            let done = done.await.unwrap_or_else(|error| Err(Reason::from(error.to_string())));
            let (done, answer) = match done {
                Ok((desc, (lines, what))) => (what.map(|what| (desc, what)), say(lines)),
                Err(reason) => (None, Err(reason)),
            };
            drop(out.send(Input::Done { done, answer, tell }));
        });
    }
}

fn claimed_for(
    desc: &SetDescription,
    claimed: &Claims,
    idle: &BTreeSet<SetId>,
    work: impl FnOnce() -> Result<Done, Reason>,
) -> Result<Done, Reason> {
    let claimed_here = claimed.claim(desc.id);
    if !claimed_here && !idle.contains(&desc.id) {
        return Err(forget::open(desc.name.as_str()));
    }
    let done = work();
    if claimed_here {
        claimed.give_back(desc.id);
    }
    done
}

/// What the store remembers of a set.
pub(super) struct Known {
    /// What each spare served, by index; `None` of one whose space the store does not know.
    pub(super) served: Vec<Option<Vec<Served>>>,
    /// The remaps that history tells of.
    pub(super) told: Vec<Remap>,
    /// One that was on its way back to main when the daemon ended: only its spare knows whether main serves it.
    pub(super) returning: Option<Remap>,
}

impl Known {
    /// The highest sequence number that history names.
    pub(super) fn top(&self) -> u64 {
        self.told.iter().map(|remap| remap.seq).max().unwrap_or(0)
    }
}

/// Asks the store, and waits for it.
pub(super) fn remembered(desc: &SetDescription, store: &Storekeeper) -> Result<Known, Reason> {
    let (set, spares) = (desc.id, 0..desc.spares.len() as u16);
    let known = store.ask(move |store| {
        let of_spare = |spare| -> Result<Option<Vec<Served>>, StoreError> {
            let usage = store.usage(set, spare)?;
            let known = usage.free.0 + usage.reserved.0 + usage.in_use.0 + usage.bad.0 > 0;
            Ok(if known { Some(store.in_use(set, spare)?) } else { None })
        };
        let served = spares.map(of_spare).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Known { served, told: store.told_remaps(set)?, returning: store.returning(set)? })
    });
    let known: Result<_, StoreError> = known.blocking_recv().map_err(|_| stopping())?;
    known.map_err(|error| Reason::from(format!("what is known of it cannot be read: {error}")))
}
