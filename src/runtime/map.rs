//! What is known of each sector of a set, put together from all who know something: scrub, history, remaps, and the marks on the spares.

use super::actuator::Trial;
use super::daemon::{Daemon, Serving};
use super::requests::{Tell, json, stopping};
use super::storekeeper::Storekeeper;
use crate::control::{MapReport, Reason};
use crate::model::surface::{Known, Surface};
use crate::model::{Entry, Extent, Member, Millis, Op, Remap, ScrubProgress, Sector, Sectors, SetId, SetName, What};
use std::collections::BTreeMap;
use std::sync::mpsc;

/// History entries that are read in one step: other work of the store waits meanwhile.
const PAGE: usize = 1_000;

impl Daemon {
    /// Tells what is known of each sector of a set.
    pub(super) fn map(&self, name: &SetName, tell: Tell) {
        let (set, serving) = match self.served(name) {
            Ok(found) => found,
            Err(reason) => return drop(tell.send(Err(reason))),
        };
        let scrub = self.scrubs.get(&set).map(super::scrub::Scrub::progress);
        let (critical, store, trials) = (self.critical.clone(), self.store.clone(), serving.trials.clone());
        let (size, logical) = (serving.desc.main.sectors, Sectors::from_bytes(u64::from(serving.desc.main.logical_block)));
        tokio::spawn(async move {
            let known = async {
                let bad = unreadable(&store, set).await?;
                // What was found since is not all known where history was pruned: then a scrub vouches for nothing.
                let ends = store.ask(|store| store.history_ends()).await.map_err(|_| stopping())?;
                let oldest = ends.map_err(|error| Reason::from(error.to_string()))?.map(|(oldest, _)| oldest.at);
                let scrub = scrub.filter(|scrub| oldest.is_some_and(|oldest| oldest <= scrub.began));
                let remaps = critical.ask(move |engine| engine.set(set).map(|state| state.remaps().copied().collect::<Vec<_>>()));
                let remaps = remaps.await.ok().flatten().ok_or_else(stopping)?;
                let mut lost = Vec::new();
                for remap in remaps.iter().filter(|remap| remap.flags.marked) {
                    lost.push(marks(&trials, *remap).await);
                }
                let surface = surface(size, logical, scrub.as_ref(), &bad, &remaps, &lost);
                json(MapReport { sectors: size, areas: surface.areas() })
            };
            drop(tell.send(known.await));
        });
    }

    /// A set that is served.
    pub(super) fn served(&self, name: &SetName) -> Result<(SetId, &Serving), Reason> {
        let found = self.serving.iter().find(|(_, serving)| serving.desc.name == *name);
        found
            .map(|(id, serving)| (*id, serving))
            .ok_or_else(|| Reason::new(format!("there is no open set “{name}”"), "see the known ones: remap-guardian status"))
    }
}

/// The sectors of main that did not read when they were last tried, and when that was.
type Unreadable = BTreeMap<Sector, Millis>;

/// What history says of them.
async fn unreadable(store: &Storekeeper, set: SetId) -> Result<Unreadable, Reason> {
    let (mut bad, mut after) = (Unreadable::new(), 0);
    loop {
        let page = store.ask(move |store| store.history_after(after, PAGE));
        let page = page.await.map_err(|_| stopping())?.map_err(|error| Reason::from(error.to_string()))?;
        let Some(last) = page.last() else { return Ok(bad) };
        after = last.number;
        page.iter().filter(|entry| entry.set == set).for_each(|entry| follow(&mut bad, entry));
    }
}

/// Brings what is known up to date with one entry.
fn follow(bad: &mut Unreadable, entry: &Entry) {
    match &entry.what {
        What::Error { member: Member::Main, op: Op::Read, unreadable, .. } => {
            bad.extend(unreadable.iter().map(|sector| (*sector, entry.at)));
        }
        // It was written to main, and read back.
        What::Unremapped { remap, .. } => bad.retain(|sector, _| !remap.main.contains(*sector)),
        _ => {}
    }
}

/// The sectors of a remap whose loss the spare remembers; none if it does not read there.
async fn marks(trials: &mpsc::Sender<Trial>, remap: Remap) -> (Remap, Option<Vec<Extent>>) {
    let (tell, told) = tokio::sync::oneshot::channel();
    if trials.send(Trial::Marks(remap, tell)).is_err() {
        return (remap, None);
    }
    match told.await {
        Ok(Ok(lost)) => (remap, Some(lost)),
        Ok(Err(why)) => {
            tracing::debug!(%why, "nothing is known of a remap");
            (remap, None)
        }
        Err(_) => (remap, None),
    }
}

/// All of it together: what is known for sure covers what is only likely.
fn surface(
    size: Sectors,
    logical: Sectors,
    scrub: Option<&ScrubProgress>,
    bad: &Unreadable,
    remaps: &[Remap],
    lost: &[(Remap, Option<Vec<Extent>>)],
) -> Surface {
    let mut surface = Surface::new(size);
    let read = scrub.and_then(|scrub| Extent::new(Sector(0), Sectors(scrub.next.0)).ok());
    if let Some(read) = read {
        surface.paint(read, Known::Read);
    }
    for (&sector, &at) in bad {
        // A scrub that came by later would have said it again.
        let read_since = scrub.is_some_and(|scrub| at < scrub.began && sector < scrub.next);
        if let (false, Ok(block)) = (read_since, Extent::new(sector, logical)) {
            surface.paint(block, Known::Bad);
        }
    }
    for remap in remaps {
        surface.paint(remap.main, Known::Remapped);
    }
    for (remap, lost) in lost {
        match lost {
            Some(lost) => lost.iter().for_each(|block| surface.paint(*block, Known::Bad)),
            None => surface.paint(remap.main, Known::Unknown),
        }
    }
    surface
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Decision, ErrorClass, RemapFlags};

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    fn remap(start: u64, marked: bool) -> Remap {
        Remap { main: extent(start, 8), spare: 0, at: Sector(start + 5000), seq: 1, flags: RemapFlags { marked } }
    }

    fn entry(at: u64, what: What) -> Entry {
        Entry { number: 1, at: Millis(at), set: SetId(uuid::Uuid::nil()), name: SetName::new("data").unwrap(), what }
    }

    fn error(member: Member, sectors: &[u64]) -> What {
        What::Error {
            member,
            op: Op::Read,
            extent: Some(extent(sectors[0], 8)),
            class: ErrorClass::Medium,
            unreadable: sectors.iter().copied().map(Sector).collect(),
            meaning: String::new(),
            evidence: Vec::new(),
        }
    }

    #[test]
    fn history_says_what_did_not_read_and_what_came_back() {
        let mut bad = Unreadable::new();
        let decision = Decision { action: Action::Unremap, rule: String::new(), reason: String::new() };
        for (at, what) in [
            (10, error(Member::Main, &[8, 9, 40])),
            (11, error(Member::Spare(0), &[70])),
            (12, What::Unremapped { remap: remap(8, false), decision, took_ms: 1 }),
            (13, error(Member::Main, &[9])),
        ] {
            follow(&mut bad, &entry(at, what));
        }
        assert_eq!(bad, [(Sector(9), Millis(13)), (Sector(40), Millis(10))].into());
    }

    #[test]
    fn what_is_known_for_sure_covers_the_rest() {
        let scrub = ScrubProgress { next: Sector(100), total: Sectors(200), began: Millis(50), ..ScrubProgress::default() };
        let bad = [(Sector(2), Millis(49)), (Sector(4), Millis(51)), (Sector(17), Millis(60)), (Sector(150), Millis(3))].into();
        let remaps = [remap(16, true), remap(32, false), remap(48, true)];
        let lost = [(remaps[0], Some(vec![extent(18, 1)])), (remaps[2], None)];
        let found: Vec<_> = surface(Sectors(200), Sectors(1), Some(&scrub), &bad, &remaps, &lost)
            .areas()
            .iter()
            .map(|area| (area.extent.start().0, area.known))
            .collect();
        assert_eq!(
            found,
            [
                (0, Known::Read),
                (4, Known::Bad),
                (5, Known::Read),
                // Its spare serves it, whatever main was like.
                (16, Known::Remapped),
                (18, Known::Bad),
                (19, Known::Remapped),
                (24, Known::Read),
                (32, Known::Remapped),
                (40, Known::Read),
                (48, Known::Unknown),
                (56, Known::Read),
                (100, Known::Unknown),
                (150, Known::Bad),
                (151, Known::Unknown),
            ]
        );
    }
}
