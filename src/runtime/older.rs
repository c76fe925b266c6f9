//! Refuses spares that are older than what this machine knows of them, before their set is opened.

use super::storekeeper::Storekeeper;
use crate::actuate::older::{self, Older};
use crate::model::{Extent, Remap, SetDescription};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long the opening of a set waits for the store at most. Without it the set is opened: the store may lie on one of our own devices.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// What the store has against opening a set. If its device is open already, these ranges are to be closed off; else it is refused. What the
/// store cannot say now it says when it can, to [`super::discovery::follow`].
pub(super) fn judge(store: &Storekeeper, desc: &SetDescription, remaps: &[Remap], there: bool) -> Result<Vec<Extent>, String> {
    match ask(store, desc, remaps) {
        Ok(older) if older.is_empty() || there => Ok(older.ranges()),
        Ok(older) => Err(refusal(desc, &older)),
        Err(why) => {
            tracing::warn!(set = %desc.name, "it is not known yet whether its spares are older than they should be: {why}");
            Ok(Vec::new())
        }
    }
}

fn refusal(desc: &SetDescription, older: &Older) -> String {
    let name = &desc.name;
    format!(
        "{older}: a copy of a spare, or an old image of it, would give what was there before for what was written since. Attach the right \
         spare, then “remap-guardian restore {name}”; without it: “remap-guardian activate {name} --degraded”; if there is no other: \
         “remap-guardian restore {name} --missing lost”"
    )
}

/// Waits until the store is open, if that is only a matter of moments.
fn ask(store: &Storekeeper, desc: &SetDescription, remaps: &[Remap]) -> Result<Older, String> {
    let end = Instant::now() + PATIENCE;
    while !store.is_open() {
        if let Some(trouble) = store.trouble() {
            return Err(trouble);
        }
        if Instant::now() >= end {
            return Err("the store is not open yet".into());
        }
        std::thread::sleep(PAUSE);
    }
    let (tell, told) = mpsc::channel();
    let (of, remaps) = (desc.clone(), remaps.to_vec());
    let spares = 0..desc.spares.len() as u16;
    store.queue(move |store| drop(tell.send(older::find(store, &of, spares, &remaps))));
    let found = told.recv_timeout(end.saturating_duration_since(Instant::now())).map_err(|_| "the store does not answer")?;
    found.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::spare_table::tests::description;
    use crate::edge::Store;
    use crate::model::{RemapFlags, Sector, Sectors};

    #[test]
    fn a_set_with_an_older_spare_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let extent = |start, len| Extent::new(Sector(start), Sectors(len)).unwrap();
        let moved = Remap { main: extent(8, 8), spare: 0, at: Sector(800), flags: RemapFlags::default(), seq: 1 };
        let (store, thread) = Storekeeper::start(dir.path().join("store")).unwrap();
        store.queue(move |store: &dyn Store| store.rebuild(description().id, 0, extent(800, 800), &[moved]).unwrap());
        assert_eq!(judge(&store, &description(), &[moved], false), Ok(vec![]));
        let refused = judge(&store, &description(), &[], false).unwrap_err();
        assert!(refused.contains("main 8+8") && refused.contains("restore data --missing lost"), "{refused}");
        assert_eq!(judge(&store, &description(), &[], true), Ok(vec![moved.main]), "what is open already is closed off there");
        drop(store);
        thread.join().unwrap();
    }

    #[test]
    fn a_store_that_is_not_there_keeps_no_set_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _thread) = Storekeeper::start(dir.path().join("late/store")).unwrap();
        assert_eq!(judge(&store, &description(), &[], false), Ok(vec![]));
    }
}
