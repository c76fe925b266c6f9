//! How far scrubs are, for after a restart: a small file beside the store. It is written late, so that a little is read twice.

use crate::model::{ScrubProgress, SetId};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The file's name.
const NAME: &str = "scrubs.json";

/// The file. Only the store's thread touches it: its file system may not be there yet, or may hang.
#[derive(Clone)]
pub struct ScrubRecord(PathBuf);

impl ScrubRecord {
    /// The file in this directory.
    pub fn new(state_dir: &Path) -> ScrubRecord {
        ScrubRecord(state_dir.join(NAME))
    }

    /// What was known of a set's scrub. A file that is not whole is as good as none: the scrub begins anew.
    pub fn load(&self, set: SetId) -> Option<ScrubProgress> {
        self.all().remove(&set.to_string())
    }

    /// Replaces what is known of a set's scrub.
    pub fn keep(&self, set: SetId, progress: &ScrubProgress) -> io::Result<()> {
        let mut all = self.all();
        all.insert(set.to_string(), progress.clone());
        let new = self.0.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&all)?)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, &self.0)
    }

    fn all(&self) -> BTreeMap<String, ScrubProgress> {
        std::fs::read(&self.0).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ScrubState, Sector};

    #[test]
    fn it_outlives_the_daemon_and_damage() {
        let dir = tempfile::tempdir().unwrap();
        let record = ScrubRecord::new(dir.path());
        let [a, b] = [1, 2].map(|id| SetId(uuid::Uuid::from_u128(id)));
        assert_eq!(record.load(a), None);
        let progress = ScrubProgress { next: Sector(8), state: ScrubState::Waiting("gone".into()), ..ScrubProgress::default() };
        record.keep(a, &progress).unwrap();
        record.keep(b, &ScrubProgress::default()).unwrap();
        assert_eq!(ScrubRecord::new(dir.path()).load(a), Some(progress));
        std::fs::write(dir.path().join(NAME), "{").unwrap();
        assert_eq!(record.load(a), None);
        record.keep(b, &ScrubProgress::default()).unwrap();
        assert_eq!(record.load(b), Some(ScrubProgress::default()));
    }
}
