//! What was spent of the spares before a set was opened: the engine's forecast goes by it.

use super::daemon::{Daemon, now};
use crate::edge::{Store, StoreError};
use crate::engine::{Event, Spent};
use crate::model::trend::WEEK_MS;
use crate::model::{Entry, Millis, SetDescription, SetId, What};
use std::time::Duration;

/// Entries that are looked at.
const MOST: usize = 4_096;

/// How long after the opening: a cure that waits for the store goes first.
const LATER: Duration = Duration::from_secs(20);

impl Daemon {
    /// Tells the engine what the history knows of the last week.
    pub(super) fn recall_spending(&self, set: SetId) {
        let Some(desc) = self.serving.get(&set).map(|serving| serving.desc.clone()) else { return };
        let (opened, store, critical) = (now(), self.store.clone(), self.critical.clone());
        tokio::spawn(async move {
            tokio::time::sleep(LATER).await;
            let queued = store.try_queue(move |store| match recall(store, &desc, opened, now()) {
                Ok(event) => drop(critical.event(event)),
                Err(error) => tracing::warn!(%error, "when the spare will be full is told only after a day"),
            });
            if let Err(full) = queued {
                tracing::debug!("spending is not recalled: {full}");
            }
        });
    }
}

/// What was spent before the set was opened. Later spending the engine has seen itself.
fn recall(store: &dyn Store, desc: &SetDescription, opened: Millis, now: Millis) -> Result<Event, StoreError> {
    let since = Millis(opened.0.saturating_sub(WEEK_MS));
    let entries = store.history(Some(desc.id), since, MOST)?;
    // Before its oldest entry a history knows nothing, and before the set there was nothing to know.
    let oldest = store.history_ends()?.map_or(opened, |(oldest, _)| oldest.at);
    let mut known = oldest.max(desc.created).max(since);
    if entries.len() == MOST {
        known = known.max(entries[0].at);
    }
    let before = entries.iter().filter(|entry| entry.at >= known && entry.at < opened);
    let spent = before.filter_map(|entry| spent(entry, now)).collect();
    Ok(Event::Spent { set: desc.id, known_ms: now.0.saturating_sub(known.0), spent })
}

fn spent(entry: &Entry, now: Millis) -> Option<Spent> {
    let (remap, sign) = match &entry.what {
        What::Remapped { remap, .. } | What::Relocated { remap, .. } => (remap, 1),
        What::Unremapped { remap, .. } => (remap, -1),
        _ => return None,
    };
    let sectors = i64::try_from(remap.main.len().0).ok()?;
    Some(Spent { spare: remap.spare, ago_ms: now.0.saturating_sub(entry.at.0), sectors: sign * sectors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Decision, Extent, Identity, Remap, RemapFlags, Secret, Sector, Sectors, SetName};
    use crate::store::SledStore;

    const DAY: u64 = 24 * 3_600_000;

    #[test]
    fn the_history_tells_what_was_spent_and_since_when_it_knows() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path().join("store")).unwrap();
        let (id, name) = (SetId(uuid::Uuid::from_u128(7)), SetName::new("data").unwrap());
        let (main, secret) = (Identity::default(), Secret([0; 16]));
        let mut desc = SetDescription {
            id,
            name: name.clone(),
            main,
            spares: Vec::new(),
            geometry: Vec::new(),
            secret,
            created: Millis(95 * DAY),
        };
        let main = Extent::new(Sector(8), Sectors(8)).unwrap();
        let remap = Remap { main, spare: 1, at: Sector(80), seq: 3, flags: RemapFlags::default() };
        let decision = Decision { action: Action::Unremap, rule: "operator/unremap".into(), reason: String::new() };
        let append = |day: u64, what| {
            store.append(&Entry { number: 0, at: Millis(day * DAY), set: id, name: name.clone(), what }).unwrap();
        };
        append(80, What::Restored { remaps: 0 });
        for day in [96, 98, 99] {
            let (decision, evidence) = (decision.clone(), Vec::new());
            let class = crate::model::ErrorClass::Medium;
            append(day, What::Remapped { remap, saved: Sectors(8), lost: Vec::new(), decision, class, took_ms: 5, evidence });
        }
        append(98, What::Unremapped { remap, decision, took_ms: 5 });
        let told = |desc: &SetDescription| {
            let Event::Spent { known_ms, spent, .. } = recall(&store, desc, Millis(99 * DAY), Millis(100 * DAY)).unwrap() else {
                panic!("another event")
            };
            let spent: Vec<(u64, i64)> = spent.iter().map(|spent| (spent.ago_ms / DAY, spent.sectors)).collect();
            (known_ms / DAY, spent)
        };
        // What came when the set was open already, on day 99, the engine has seen.
        assert_eq!(told(&desc), (5, vec![(4, 8), (2, 8), (2, -8)]));
        desc.created = Millis(0);
        assert_eq!(told(&desc).0, 8, "a week before the opening");
        desc.created = Millis(97 * DAY);
        assert_eq!(told(&desc), (3, vec![(2, 8), (2, -8)]));
    }
}
