//! How far the error ring of each device has been read *and* written to history, for the next run of the daemon. Kept where it
//! lives as long as the ring: in /run. It is written late rather than early: after a crash an entry may come twice, none is missing.

use super::lock::beside;
use crate::model::SetId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A place in the error ring of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The device's instance: a device that was made anew counts from 1 again.
    pub instance: String,
    /// Sequence number of the first record that is news.
    pub next: u64,
}

/// The places of all sets, shared by those who read and who write them.
#[derive(Clone)]
pub struct Seen {
    path: PathBuf,
    places: Arc<Mutex<BTreeMap<SetId, Place>>>,
}

impl Seen {
    /// Reads what the last run left.
    pub fn load(run_dir: &Path) -> Seen {
        let path = beside(run_dir, ".seen");
        // What is not there or not whole is read again from the start of the ring.
        let places = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Seen { path, places: Arc::new(Mutex::new(places)) }
    }

    /// The first record of a device that is news; 1, the first of all, if nothing is known.
    pub fn next(&self, set: SetId, instance: &str) -> u64 {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&set).filter(|place| place.instance == instance).map_or(1, |place| place.next)
    }

    /// Remembers that everything before a place is in history.
    pub fn note(&self, set: SetId, place: Place) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.get(&set).is_some_and(|known| known.instance == place.instance && known.next >= place.next) {
            return;
        }
        places.insert(set, place);
        if let Err(error) = write(&self.path, &places) {
            tracing::warn!(%error, file = %self.path.display(), "the next run will read old error records again");
        }
    }
}

fn write(path: &Path, places: &BTreeMap<SetId, Place>) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(places)?)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_belongs_to_an_instance() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let set = SetId(uuid::Uuid::from_u128(7));
        let seen = Seen::load(&run_dir);
        assert_eq!(seen.next(set, "a"), 1);
        seen.note(set, Place { instance: "a".into(), next: 9 });
        seen.note(set, Place { instance: "a".into(), next: 5 });
        let again = Seen::load(&run_dir);
        assert_eq!((again.next(set, "a"), again.next(set, "b")), (9, 1));
        std::fs::write(dir.path().join("run.seen"), "{\"half").unwrap();
        assert_eq!(Seen::load(&run_dir).next(set, "a"), 1);
    }
}
