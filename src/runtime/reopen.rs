//! Takes the device of a set over from ourselves: what a new daemon does with the devices that it finds, for one set and without an
//! end of service. The device stays, and what fails meanwhile is held until the set is served again.
//!
//! So a spare that joined is put to use: whoever takes a device over gives it the spares that it lacks ([`super::assemble::open`]).

use super::actuator::Stopping;
use super::assemble::{self, Opened};
use super::critical::Critical;
use super::daemon::{Daemon, Input};
use super::requests::{Tell, say, stopping};
use super::seen::Seen;
use super::spare_add::Joined;
use super::storekeeper::Storekeeper;
use super::watcher::Watching;
use super::{inputs, older};
use crate::config::Settings;
use crate::control::Reason;
use crate::engine::Event;
use crate::failpoint::reached;
use crate::model::{Entry, Remap, SetDescription, SetId};
use std::time::{Duration, Instant};
use tokio::sync::oneshot::Receiver;

/// How long cures that are under way are waited for while others may still begin.
const CALM: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// When it is told that a disk keeps the threads of a set busy.
const LONG: Duration = Duration::from_secs(10);

impl Daemon {
    /// The headers of an open set are written; now its device follows.
    pub(super) fn announced(&mut self, set: SetId, joined: Result<Joined, Reason>, tell: Tell) {
        let reopened = joined.and_then(|joined| {
            let watching = self.serving.get_mut(&set).and_then(|serving| serving.watching.take());
            watching.map(|watching| (joined, watching)).ok_or_else(|| {
                let hint = "remap-guardian restore opens it, with the new spare";
                Reason::new("the device was taken away; the disk is a spare of the set all the same", hint)
            })
        });
        let (joined, watching) = match reopened {
            Ok(reopened) => reopened,
            Err(reason) => {
                self.busy = None;
                return drop(tell.send(Err(reason)));
            }
        };
        let (rested, threads) = tokio::sync::oneshot::channel();
        self.resting.insert(set, rested);
        let (critical, settings, seen, store) =
            (self.critical.clone(), self.settings.clone(), self.seen.clone(), self.store.clone());
        let out = self.out.clone();
        tokio::spawn(async move {
            let opened = match at_rest(set, &critical, watching, threads).await {
                Ok(()) => tokio::task::spawn_blocking(move || open(set, &settings, &seen, &store))
                    .await
                    .unwrap_or_else(|error| Err(error.to_string())),
                Err(reason) => Err(reason),
            };
            drop(out.send(Input::Reopened { set, opened, joined, tell }));
        });
    }

    /// The threads of a set have been told to end. All that the engine wanted for it before is done, or waits in the store's queue.
    pub(super) fn rested(&mut self, set: SetId, threads: Stopping) {
        self.ask_again.retain(|(of, _), _| *of != set);
        self.serving.remove(&set);
        self.told.insert(set, "another spare joins it just now".into());
        let kept = match self.resting.remove(&set) {
            Some(tell) => tell.send(threads).err(),
            None => Some(threads),
        };
        self.left_alone.extend(kept.map(|threads| (set, threads)));
    }

    pub(super) fn reopened(&mut self, set: SetId, opened: Result<Box<Opened>, String>, joined: Joined, tell: Tell) {
        self.busy = None;
        let name = joined.set.name.clone();
        match opened {
            Ok(opened) => {
                let answer = match &opened.without {
                    None => say(joined.lines),
                    Some(why) => {
                        let hint =
                            "the set is served as before, and nothing is lost; repeat the command, or close and open the set";
                        Err(Reason::new(format!("the disk is a spare of the set, but not used yet: {why}"), hint))
                    }
                };
                if opened.without.is_none() {
                    self.record(Entry { number: 0, at: super::daemon::now(), set, name, what: joined.what });
                }
                self.start_serving(*opened, move |served| drop(tell.send(served.and(answer))));
            }
            Err(reason) => {
                self.critical.event(Event::Closed { set, reason: reason.clone() });
                // A device that was taken away stays claimed.
                if !self.left_alone.contains_key(&set) {
                    self.claimed.give_back(set);
                    self.told.remove(&set);
                    self.not_restored(set, reason.clone());
                }
                let hint = format!("it is tried again every few seconds; see: remap-guardian status {name}, or: restore {name}");
                drop(
                    tell.send(Err(Reason::new(
                        format!("the disk is a spare of the set, which is not served now: {reason}"),
                        hint,
                    ))),
                );
            }
        }
    }
}

/// Brings the cures of a set to their end, and then its threads.
async fn at_rest(set: SetId, critical: &Critical, watching: Watching, threads: Receiver<Stopping>) -> Result<(), String> {
    let end = Instant::now() + CALM;
    let settled = || critical.ask(move |engine| engine.set(set).is_none_or(|state| state.is_settled()));
    while Instant::now() < end && !settled().await.map_err(|_| stopping().message)? {
        tokio::time::sleep(LOOK).await;
    }
    // From now on nothing is heard of new errors: what fails is held.
    tokio::task::spawn_blocking(move || watching.end()).await.map_err(|error| error.to_string())?;
    critical.rest(set);
    let threads = threads.await.map_err(|_| "its device was taken away meanwhile")?;
    let (began, mut told) = (Instant::now(), false);
    while !threads.is_finished() {
        if !told && began.elapsed() > LONG {
            told = true;
            tracing::warn!(%set, "the set is served again when the I/O to its disks that is under way has ended");
        }
        tokio::time::sleep(LOOK).await;
    }
    reached("set at rest");
    Ok(())
}

fn open(set: SetId, settings: &Settings, seen: &Seen, store: &Storekeeper) -> Result<Box<Opened>, String> {
    let devices = inputs::devices(settings).map_err(|error| format!("the block devices cannot be listed: {error}"))?;
    let candidate = assemble::discover(&devices).remove(&set).ok_or("none of its spares is attached")?;
    let judge = |desc: &SetDescription, remaps: &[Remap], there| older::judge(store, desc, remaps, there);
    assemble::open(&candidate, settings, seen, assemble::Writes::Yes, &judge).map(Box::new)
}
