//! Answers to the command line.

use super::assemble::{self, words};
use super::create::{self, Wish};
use super::daemon::{ABSENT, Claims, Daemon, Input, now, uptime};
use super::inputs;
use super::scrub::Scrub;
use super::seen::Seen;
use super::shield;
use super::upkeep::Upkeep;
use crate::control::{HistoryReport, InForce, NewsReport, Reason, Request, Said, SetReport, StatusReport};
use crate::edge::{FoundDevice, Store, StoreError};
use crate::engine::{Event, SetState};
use crate::model::{Entry, Extent, Millis, Sector, SetDescription, SetId, SetName, What};
use serde_json::Value;
use std::collections::BTreeSet;
use tokio::sync::oneshot::{Receiver, Sender};

/// Entries in one answer to `News`.
const MOST_NEWS: usize = 1_000;

pub(super) type Tell = Sender<Result<Value, Reason>>;

pub(super) fn json(value: impl serde::Serialize) -> Result<Value, Reason> {
    serde_json::to_value(value).map_err(|error| Reason::from(error.to_string()))
}

pub(super) fn say(lines: impl IntoIterator<Item = String>) -> Result<Value, Reason> {
    json(Said { lines: lines.into_iter().collect() })
}

impl Daemon {
    pub(super) fn answer(&mut self, request: Request, tell: Tell) {
        // It needs no store.
        if let Request::Record { order } = request {
            return drop(tell.send(self.record_trace(order).and_then(json)));
        }
        if let Some(trouble) = self.store.trouble() {
            let reason = Reason::new(
                format!("the store is not open: {trouble}"),
                "sets are served all the same; journalctl -u remap-guardian",
            );
            drop(tell.send(Err(reason)));
            return;
        }
        if let Err(full) = self.store.has_room() {
            let reason = Reason::new(full.to_string(), "sets are served all the same; journalctl -k, and repeat it later");
            drop(tell.send(Err(reason)));
            return;
        }
        if !self.looked
            && matches!(
                request,
                Request::Create { .. }
                    | Request::AddSpare { .. }
                    | Request::Rebuild { .. }
                    | Request::Missing { .. }
                    | Request::Degrade { .. }
                    | Request::Forget { .. }
            )
        {
            // Only then is it known what the disks hold.
            let (done, wait) = tokio::sync::oneshot::channel();
            self.wait_for_look(done);
            let out = self.out.clone();
            tokio::spawn(async move {
                drop(wait.await);
                drop(out.send(Input::Asked((request, tell))));
            });
            return;
        }
        match request {
            Request::Status { name } => self.status(name, tell),
            Request::History { name, since, limit } => self.history(name, since, limit, tell),
            Request::News { after } => self.news(after, tell),
            Request::Verify => self.upkeep(Upkeep::Check(None, tell)),
            Request::Prune { before, keep } => self.prune(before, keep, tell),
            Request::Create { name, main, spares, overwrite_spare } => {
                self.create(Wish { name, main, spares, overwrite_spare }, tell);
            }
            Request::AddSpare { name, spare, overwrite_spare } => self.add_spare(name, spare, overwrite_spare, tell),
            Request::Restore { name } => self.restore(name, tell),
            Request::Degrade { name, read_write } => self.degrade(name, read_write, tell),
            Request::Rebuild { name, sure } => self.rebuild_spares(name, sure, tell),
            Request::Missing { name, missing, sure } => self.decide_missing(name, missing, sure, tell),
            Request::Forget { name, sure } => self.forget(name, sure, tell),
            Request::Smart { name } => self.smart_report(name.as_ref(), tell),
            Request::Scrub { name, order } => drop(tell.send(self.scrub(&name, order).and_then(json))),
            Request::Map { name } => self.map(&name, tell),
            Request::ImportMap { name, areas } => self.import_map(&name, &areas, tell),
            Request::Reload => drop(tell.send(self.reload().and_then(|()| self.say_policies()))),
            Request::Record { order } => drop(tell.send(self.record_trace(order).and_then(json))),
            Request::Remap { name, extent } => self.remap(name, extent, tell),
            Request::Unremap { name, extent } => self.unremap(name, extent, tell),
        }
    }

    fn status(&mut self, name: Option<SetName>, tell: Tell) {
        let mut reports: Vec<(SetId, SetReport)> = Vec::new();
        for (id, candidate) in &self.candidates {
            let serving = self.serving.get(id);
            let node = |device: Option<&FoundDevice>, identity| match device {
                Some(device) => format!("{} ({})", device.node.display(), words(identity)),
                None => format!("missing ({})", words(identity)),
            };
            let desc = &candidate.desc;
            let state = match serving {
                Some(_) => "open".to_string(),
                None => self.why_not(*id).cloned().or(candidate.complete().err()).unwrap_or_else(|| "not open yet".into()),
            };
            let main = serving.map(|serving| &serving.main).or(candidate.main.as_ref().ok());
            let spares = desc.spares.iter().enumerate().map(|(i, identity)| {
                let found = serving.and_then(|serving| serving.spares.get(i)).or(candidate.spares.get(&(i as u16)));
                node(found, identity)
            });
            let report = SetReport {
                name: desc.name.clone(),
                id: id.to_string(),
                state,
                disks: serving
                    .iter()
                    .flat_map(|serving| std::iter::once(&serving.main).chain(&serving.spares))
                    .map(|disk| disk.disk.clone())
                    .collect(),
                main: node(main, &desc.main),
                spares: spares.collect(),
                status: None,
                policy: serving
                    .map(|serving| self.policy_for(&serving.main))
                    .map(|(policy, why)| InForce { name: policy.name.clone(), why }),
                scrub: self.scrubs.get(id).map(Scrub::progress),
                target: None,
                usage: Vec::new(),
            };
            if name.as_ref().is_none_or(|name| *name == desc.name) {
                reports.push((*id, report));
            }
        }
        let policy = self.policies.default().policy.name.clone();
        let store = self.store.clone();
        let known = self.critical.ask(move |engine| {
            for (id, report) in &mut reports {
                report.status = engine.set(*id).map(|set| set.status(uptime()));
            }
            reports
        });
        tokio::spawn(async move {
            match known.await {
                Ok(reports) => store.queue(move |store| drop(tell.send(report(store, name, policy, reports)))),
                Err(_) => drop(tell.send(Err(stopping()))),
            }
        });
    }

    fn history(&mut self, name: Option<SetName>, since: Millis, limit: usize, tell: Tell) {
        self.store.queue(move |store| {
            let entries = match &name {
                Some(name) => store.history_named(name, since, limit),
                None => store.history(None, since, limit),
            };
            drop(tell.send(entries.map_err(|error| Reason::from(error.to_string())).and_then(|entries| {
                if let (Some(name), true) = (&name, entries.is_empty()) {
                    let known = store.sets().unwrap_or_default().iter().any(|desc| desc.name == *name);
                    if !known {
                        return Err(unknown(name));
                    }
                }
                json(HistoryReport { entries })
            })));
        });
    }

    fn news(&mut self, after: Option<u64>, tell: Tell) {
        self.store.queue(move |store| {
            let report = news(store, after).map_err(|error| Reason::from(error.to_string()));
            drop(tell.send(report.and_then(json)));
        });
    }

    fn say_policies(&self) -> Result<Value, Reason> {
        let lines = self.serving.values().map(|serving| {
            let (policy, why) = self.policy_for(&serving.main);
            format!("“{}”: {} ({why})", serving.desc.name, policy.name)
        });
        say(std::iter::once("the policies were read anew".to_string()).chain(lines))
    }

    fn id_of(&self, name: &SetName) -> Option<SetId> {
        self.candidates.values().find(|candidate| candidate.desc.name == *name).map(|candidate| candidate.desc.id)
    }

    fn remap(&mut self, name: SetName, extent: Extent, tell: Tell) {
        let Some(id) = self.id_of(&name) else { return drop(tell.send(Err(unknown(&name)))) };
        let (critical, of) = (self.critical.clone(), name.clone());
        let admitted = critical.ask(move |engine| admit(engine.set(id), &of, extent));
        tokio::spawn(async move {
            let admitted = admitted.await.unwrap_or_else(|_| Err(stopping()));
            drop(tell.send(admitted.and_then(|()| {
                critical.event(Event::Asked { set: id, extent });
                say([format!("moving sectors {extent} of “{name}” to its spare; see: remap-guardian history {name}")])
            })));
        });
    }

    fn unremap(&mut self, name: SetName, extent: Option<Extent>, tell: Tell) {
        let Some(id) = self.id_of(&name) else { return drop(tell.send(Err(unknown(&name)))) };
        let (critical, of) = (self.critical.clone(), name.clone());
        let admitted = critical.ask(move |engine| remapped(engine.set(id), &of, extent));
        tokio::spawn(async move {
            let admitted = admitted.await.unwrap_or_else(|_| Err(stopping()));
            drop(tell.send(admitted.and_then(|(extent, count)| {
                critical.event(Event::AskedBack { set: id, extent });
                say([format!(
                    "{count} remaps of “{name}” go back to main, one by one, where main takes them; see: remap-guardian history {name}"
                )])
            })));
        });
    }

    fn restore(&mut self, name: Option<SetName>, tell: Tell) {
        self.take_up_again();
        let (done, wait) = tokio::sync::oneshot::channel();
        self.look_for(done);
        let out = self.out.clone();
        // Asked again when the look is over, as a plain status.
        tokio::spawn(async move {
            drop(wait.await);
            let (status_tell, status) = tokio::sync::oneshot::channel();
            drop(out.send(Input::Asked((Request::Status { name: name.clone() }, status_tell))));
            let answer = match status.await {
                Ok(Ok(report)) => restored(report, name.is_some()),
                Ok(Err(reason)) => Err(reason),
                Err(_) => Err(stopping()),
            };
            drop(tell.send(answer));
        });
    }

    fn create(&mut self, wish: Wish, tell: Tell) {
        if let Err(reason) = self.begin(&wish.name) {
            drop(tell.send(Err(reason)));
            return;
        }
        let (settings, out, seen) = (self.settings.clone(), self.out.clone(), self.seen.clone());
        let claimed = self.claimed.clone();
        let mut known: Vec<_> = self.candidates.values().map(|candidate| candidate.desc.clone()).collect();
        let registry = self.registry();
        tokio::spawn(async move {
            let registry = registry.await.unwrap_or_else(|_| Err(stopping()));
            let made = tokio::task::spawn_blocking(move || {
                known.extend(registry?);
                make(&wish, &known, &claimed, &settings, &seen).map(Box::new)
            });
            let opened = made.await.unwrap_or_else(|error| Err(Reason::from(error.to_string())));
            drop(out.send(Input::Created { opened, tell }));
        });
    }

    /// Sets that were left alone and whose last writer has ended. They stay claimed, so that nobody opens them; those whose
    /// writer may still be at work are not touched.
    pub(super) fn idle(&self) -> BTreeSet<SetId> {
        self.left_alone.iter().filter(|(_, thread)| thread.is_finished()).map(|(id, _)| *id).collect()
    }

    /// Admits what takes or frees disks: one at a time.
    pub(super) fn begin(&mut self, name: &SetName) -> Result<(), Reason> {
        if let Some(busy) = &self.busy {
            let message = format!("“{busy}” is being made or forgotten just now");
            return Err(Reason::new(message, "repeat when that has ended: remap-guardian status"));
        }
        self.busy = Some(name.clone());
        Ok(())
    }

    /// The sets in the registry, once the store's thread comes to it.
    pub(super) fn registry(&self) -> Receiver<Result<Vec<SetDescription>, Reason>> {
        self.store.ask(|store| store.sets().map_err(|error| Reason::from(format!("the known sets cannot be read: {error}"))))
    }

    pub(super) fn created(&mut self, opened: Result<Box<assemble::Opened>, Reason>, tell: Tell) {
        self.busy = None;
        let opened = match opened {
            Ok(opened) => opened,
            Err(reason) => return drop(tell.send(Err(reason))),
        };
        let desc = opened.desc.clone();
        let node = |device: &FoundDevice| format!("{} ({})", device.node.display(), words(&device.identity));
        let capacity = assemble::capacity(&desc).iter().map(|sectors| sectors.0).sum();
        let what = What::Created {
            main: node(&opened.main),
            spares: opened.spares.iter().map(node).collect(),
            capacity: crate::model::Sectors(capacity),
        };
        self.record(Entry { number: 0, at: now(), set: desc.id, name: desc.name.clone(), what });
        let spares = opened.spares.iter().enumerate().map(|(i, device)| (i as u16, device.clone())).collect();
        let candidate = assemble::Candidate { desc: desc.clone(), spares, main: Ok(opened.main.clone()), conflict: None };
        self.candidates.insert(desc.id, candidate);
        let answer = say([
            format!(
                "/dev/mapper/{} is open: {} MiB protected, {} MiB of spare space",
                desc.name,
                desc.main.sectors.bytes() >> 20,
                capacity >> 11
            ),
            format!(
                "use /dev/mapper/{} from now on, never the disk below it; for a mount at boot put this into /etc/fstab:",
                desc.name
            ),
            format!("  /dev/mapper/{}  /where  auto  nofail,x-systemd.device-timeout=2min  0 2", desc.name),
        ]);
        self.start_serving(*opened, move |served| drop(tell.send(served.and(answer))));
    }
}

/// Adds what the store and the kernel know.
fn report(
    store: &dyn Store,
    name: Option<SetName>,
    policy: String,
    mut reports: Vec<(SetId, SetReport)>,
) -> Result<Value, Reason> {
    // A set whose disks are all gone is known from the registry only.
    for desc in store.sets().unwrap_or_default() {
        if !reports.iter().any(|(id, _)| *id == desc.id) && name.as_ref().is_none_or(|name| *name == desc.name) {
            reports.push((desc.id, absent(&desc)));
        }
    }
    if let (Some(name), true) = (name, reports.is_empty()) {
        return Err(unknown(&name));
    }
    for (id, report) in &mut reports {
        if report.status.is_some() {
            let spares = 0..report.spares.len() as u16;
            report.usage = spares.filter_map(|spare| store.usage(*id, spare).ok()).collect();
            report.target = crate::actuate::target::peek(*id).ok().map(Into::into);
        } else if let Ok(Some(degraded)) = crate::actuate::degraded::find(*id) {
            report.state = degraded.to_string();
        }
    }
    reports.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let sets = reports.into_iter().map(|(_, report)| report).collect();
    json(StatusReport { daemon: env!("CARGO_PKG_VERSION").into(), policy, sets })
}

/// Whether a range can be moved by hand.
fn admit(set: Option<&SetState>, name: &SetName, extent: Extent) -> Result<(), Reason> {
    let Some(set) = set else {
        return Err(Reason::new(format!("“{name}” is not open"), format!("remap-guardian status {name}")));
    };
    let size = set.description().main.sectors;
    if extent.end().0 > size.0 {
        let message = format!("sectors {extent} are beyond the end of “{name}”, which has {size}");
        return Err(Reason::new(message, format!("give a sector from 0 to {}", size.0 - 1)));
    }
    if set.remaps().any(|remap| remap.main.overlaps(&extent)) {
        return Err(Reason::new(
            format!("some of sectors {extent} are remapped already"),
            format!("remap-guardian status {name}"),
        ));
    }
    let most = crate::triage::MAX_BLOCKS * set.description().block().0;
    if extent.len().0 > most {
        return Err(Reason::new(format!("{} sectors are too many at once", extent.len()), format!("give at most {most}")));
    }
    Ok(())
}

/// The range, and how many remaps serve some of it, if any does.
fn remapped(set: Option<&SetState>, name: &SetName, extent: Option<Extent>) -> Result<(Extent, usize), Reason> {
    let see = || format!("remap-guardian status {name}");
    let set = set.ok_or_else(|| Reason::new(format!("“{name}” is not open"), see()))?;
    let whole = Extent::new(Sector(0), set.description().main.sectors).map_err(|error| Reason::from(error.to_string()))?;
    let extent = extent.unwrap_or(whole);
    match set.remaps().filter(|remap| remap.main.overlaps(&extent)).count() {
        0 if extent == whole => Err(Reason::new(format!("nothing of “{name}” is on a spare"), see())),
        0 => Err(Reason::new(format!("nothing of sectors {extent} of “{name}” is on a spare"), see())),
        count => Ok((extent, count)),
    }
}

pub(super) fn stopping() -> Reason {
    Reason::from("the daemon is stopping".to_string())
}

fn news(store: &dyn Store, after: Option<u64>) -> Result<NewsReport, StoreError> {
    let newest = store.history(None, Millis(0), 1)?.last().map_or(0, |entry| entry.number);
    let after = match after {
        None => newest,
        // A store that was made anew counts from 1 again.
        Some(after) if newest < after => 0,
        Some(after) => after,
    };
    let entries = store.history_after(after, MOST_NEWS)?;
    Ok(NewsReport { last: entries.last().map_or(after, |entry| entry.number), entries })
}

/// Checks, writes, opens. What was written is taken back if the device cannot be opened.
fn make(
    wish: &Wish,
    known: &[SetDescription],
    claimed: &Claims,
    settings: &crate::config::Settings,
    seen: &Seen,
) -> Result<assemble::Opened, Reason> {
    let devices =
        inputs::devices(settings).map_err(|error| Reason::from(format!("the block devices cannot be listed: {error}")))?;
    // The daemon may have started just now, and not have looked yet.
    let found = assemble::discover(&devices).into_values().map(|candidate| candidate.desc);
    let known: Vec<_> = known.iter().cloned().chain(found).collect();
    let desc = create::check(wish, &devices, &known, now())?;
    // Before the headers are there: udev tells of them at once, and the set is ours to open.
    claimed.claim(desc.id);
    let made = write_and_open(&desc, wish, &devices, settings, seen);
    if made.is_err() {
        claimed.give_back(desc.id);
    }
    made
}

fn write_and_open(
    desc: &SetDescription,
    wish: &Wish,
    devices: &[FoundDevice],
    settings: &crate::config::Settings,
    seen: &Seen,
) -> Result<assemble::Opened, Reason> {
    // First: from here on nobody finds the file system by its UUID on main itself.
    shield::raise(shield::LIST, &[desc], devices);
    let opened = create::write(desc, wish).and_then(|()| open_new(desc, wish, devices, settings, seen));
    if opened.is_err() {
        shield::lift(shield::LIST, desc.id, devices);
    }
    opened
}

fn open_new(
    desc: &SetDescription,
    wish: &Wish,
    devices: &[FoundDevice],
    settings: &crate::config::Settings,
    seen: &Seen,
) -> Result<assemble::Opened, Reason> {
    let candidates = assemble::discover(devices);
    let candidate = candidates.get(&desc.id).ok_or_else(|| "the new headers cannot be read back".to_string());
    let open = |candidate| assemble::open(candidate, settings, seen, assemble::Writes::Yes, &assemble::no_judge);
    candidate.and_then(open).map_err(|error| {
        let spares: Vec<_> = wish.spares.iter().map(|path| path.as_path()).collect();
        create::take_back(&spares);
        Reason::new(format!("the device could not be opened: {error}"), "journalctl -k -n 20")
    })
}

/// Sets without any spare here are no concern of those who ask for all.
fn restored(report: Value, named: bool) -> Result<Value, Reason> {
    let mut report: StatusReport = serde_json::from_value(report).map_err(|error| Reason::from(error.to_string()))?;
    report.sets.retain(|set| named || set.state != ABSENT);
    let closed: Vec<&SetReport> = report.sets.iter().filter(|set| set.state != "open").collect();
    if let Some(set) = closed.first() {
        let hint = "attach what is missing and repeat; remap-guardian status shows every set, forget gives one up";
        return Err(Reason::new(format!("“{}” is not open: {}", set.name, set.state), hint));
    }
    if report.sets.is_empty() {
        return say(["no set was found on the disks of this machine".to_string()]);
    }
    say(report.sets.iter().map(|set| format!("/dev/mapper/{} is open", set.name)))
}

fn absent(desc: &crate::model::SetDescription) -> SetReport {
    SetReport {
        name: desc.name.clone(),
        id: desc.id.to_string(),
        state: ABSENT.into(),
        disks: Vec::new(),
        main: format!("unknown ({})", words(&desc.main)),
        spares: desc.spares.iter().map(|spare| format!("missing ({})", words(spare))).collect(),
        status: None,
        policy: None,
        scrub: None,
        target: None,
        usage: Vec::new(),
    }
}

fn unknown(name: &SetName) -> Reason {
    Reason::new(format!("there is no set “{name}”"), "see the known ones: remap-guardian status")
}
