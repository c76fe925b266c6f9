//! What drives count, in the store: a bounded series of samples for each drive.
//!
//! Keys: the drive's name, 0, `s`, time (8 bytes, big-endian) → counters by name, as JSON; the drive's name, 0, `t` → when its
//! self-tests were last started, as JSON. Counters that this version does not know are left out when they are read.

use super::keys;
use super::trees::Trees;
use crate::edge::StoreError;
use crate::model::trend::superfluous;
use crate::model::{Counter, Millis, Sample, TestTimes};
use std::collections::BTreeMap;

/// Drives whose samples are kept; those that were not read for the longest time go first.
const MOST_DISKS: usize = 256;

const SAMPLES: u8 = b's';
const TESTS: u8 = b't';

fn prefix(disk: &str, what: u8) -> Vec<u8> {
    [disk.as_bytes(), &[0, what]].concat()
}

fn key(disk: &str, at: Millis) -> Vec<u8> {
    [&prefix(disk, SAMPLES)[..], &at.0.to_be_bytes()].concat()
}

/// The drive's name and the time, if it is the key of a sample.
fn read_key(key: &[u8]) -> Option<(&[u8], Millis)> {
    let (name, time) = key.split_at_checked(key.len().checked_sub(8)?)?;
    Some((name.strip_suffix(&[0, SAMPLES])?, Millis(keys::number(time)?)))
}

impl Trees {
    /// As [`Store::keep_sample`](crate::edge::Store::keep_sample).
    pub fn keep_sample(&self, disk: &str, sample: &Sample) -> Result<Vec<Sample>, StoreError> {
        let mut samples = self.samples(disk)?;
        if samples.is_empty() {
            self.make_room()?;
        }
        let counts: BTreeMap<&str, u64> =
            Counter::ALL.iter().filter_map(|(counter, name)| sample.counts.get(counter).map(|count| (*name, *count))).collect();
        let value = serde_json::to_vec(&counts).map_err(|error| self.failed(error))?;
        self.smart.insert(key(disk, sample.at), value).map_err(|error| self.failed(error))?;
        samples.retain(|kept| kept.at != sample.at);
        samples.push(sample.clone());
        samples.sort_by_key(|sample| sample.at);
        let times: Vec<Millis> = samples.iter().map(|sample| sample.at).collect();
        for at in superfluous(&times) {
            self.smart.remove(key(disk, at)).map_err(|error| self.failed(error))?;
        }
        // A clock that was ahead may have left later ones.
        samples.retain(|kept| kept.at <= sample.at);
        Ok(samples)
    }

    /// As [`Store::samples`](crate::edge::Store::samples). One that cannot be read is left out.
    pub fn samples(&self, disk: &str) -> Result<Vec<Sample>, StoreError> {
        let mut samples = Vec::new();
        for pair in self.smart.scan_prefix(prefix(disk, SAMPLES)) {
            let (key, value) = pair.map_err(|error| self.failed(error))?;
            let counts = serde_json::from_slice::<BTreeMap<String, u64>>(&value);
            let (Some((_, at)), Ok(named)) = (read_key(&key), counts) else {
                tracing::warn!(disk, "a sample of this drive cannot be read");
                continue;
            };
            let known = Counter::ALL.iter().filter_map(|(counter, name)| Some((*counter, *named.get(*name)?)));
            samples.push(Sample { at, counts: known.collect() });
        }
        Ok(samples)
    }

    /// As [`Store::test_times`](crate::edge::Store::test_times).
    pub fn test_times(&self, disk: &str) -> Result<TestTimes, StoreError> {
        let value = self.smart.get(prefix(disk, TESTS)).map_err(|error| self.failed(error))?;
        let read = |value: sled::IVec| serde_json::from_slice(&value);
        value
            .map(read)
            .transpose()
            .map(Option::unwrap_or_default)
            .map_err(|error| self.failed(format_args!("when self-tests of drive {disk} were started: {error}")))
    }

    pub fn set_test_times(&self, disk: &str, times: TestTimes) -> Result<(), StoreError> {
        let json = serde_json::to_vec(&times).map_err(|error| self.failed(error))?;
        self.smart.insert(prefix(disk, TESTS), json).map(drop).map_err(|error| self.failed(error))
    }

    /// Makes room for one more drive.
    fn make_room(&self) -> Result<(), StoreError> {
        let mut newest: BTreeMap<Vec<u8>, Millis> = BTreeMap::new();
        for key in self.smart.iter().keys() {
            let key = key.map_err(|error| self.failed(error))?;
            if let Some((disk, at)) = read_key(&key) {
                newest.insert(disk.to_vec(), at);
            }
        }
        let mut by_age: Vec<(Millis, Vec<u8>)> = newest.into_iter().map(|(disk, at)| (at, disk)).collect();
        by_age.sort();
        for (_, disk) in by_age.iter().take((by_age.len() + 1).saturating_sub(MOST_DISKS)) {
            for key in self.smart.scan_prefix([disk, &[0][..]].concat()).keys() {
                key.and_then(|key| self.smart.remove(key)).map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::Store;
    use crate::model::trend::MOST_SAMPLES;
    use crate::store::SledStore;

    const HOUR: u64 = 3_600_000;

    fn sample(hour: u64, pending: u64) -> Sample {
        Sample { at: Millis(hour * HOUR), counts: [(Counter::PendingSectors, pending), (Counter::Wear, 3)].into() }
    }

    #[test]
    fn a_series_is_kept_bounded_and_outlives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("store");
        let store = SledStore::open(&at).unwrap();
        assert_eq!(store.keep_sample("A", &sample(1, 5)).unwrap(), [sample(1, 5)]);
        // A name that begins with another's.
        store.keep_sample("AB", &sample(1, 99)).unwrap();
        assert_eq!(store.keep_sample("A", &sample(2, 6)).unwrap(), [sample(1, 5), sample(2, 6)]);
        assert_eq!(store.keep_sample("A", &sample(2, 7)).unwrap(), [sample(1, 5), sample(2, 7)], "the same moment");
        let times = TestTimes { short: Some(Millis(5)), long: None };
        store.set_test_times("A", times).unwrap();
        drop(store);
        let store = SledStore::open(&at).unwrap();
        assert_eq!(store.samples("A").unwrap(), [sample(1, 5), sample(2, 7)]);
        assert_eq!((store.test_times("A").unwrap(), store.test_times("AB").unwrap()), (times, TestTimes::default()));
        for day in 1..900 {
            store.keep_sample("A", &sample(day * 24, day)).unwrap();
        }
        let kept = store.samples("A").unwrap();
        assert!(kept.len() <= MOST_SAMPLES && kept.last() == Some(&sample(899 * 24, 899)), "{}", kept.len());
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_what_is_new_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path().join("store")).unwrap();
        store.keep_sample("A", &sample(1, 5)).unwrap();
        let trees = store.trees();
        trees.smart.insert(key("A", Millis(2 * HOUR)), &b"{"[..]).unwrap();
        trees.smart.insert(key("A", Millis(3 * HOUR)), &br#"{"pending_sectors":6,"helium_lost":1,"wear":3}"#[..]).unwrap();
        assert_eq!(store.samples("A").unwrap(), [sample(1, 5), sample(3, 6)]);
        // A clock that was ahead for a while.
        assert_eq!(store.keep_sample("A", &sample(2, 5)).unwrap(), [sample(1, 5), sample(2, 5)]);
        trees.smart.insert(prefix("A", TESTS), &b"{"[..]).unwrap();
        assert!(store.test_times("A").unwrap_err().to_string().contains("drive A"));
    }

    #[test]
    fn counters_that_came_later_are_kept_beside_older_samples() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path().join("store")).unwrap();
        // As it was written before there were any of SATA's PHY events.
        store.trees().smart.insert(key("A", Millis(HOUR)), &br#"{"crc_errors":2,"pending_sectors":5}"#[..]).unwrap();
        let old = Sample { at: Millis(HOUR), counts: [(Counter::CrcErrors, 2), (Counter::PendingSectors, 5)].into() };
        let counts = Counter::ALL.iter().zip(1..).map(|((counter, _), n)| (*counter, n)).collect();
        let new = Sample { at: Millis(2 * HOUR), counts };
        assert_eq!(store.keep_sample("A", &new).unwrap(), [old.clone(), new.clone()]);
        assert_eq!(store.samples("A").unwrap(), [old, new]);
    }

    #[test]
    fn drives_that_are_gone_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path().join("store")).unwrap();
        for n in 0..MOST_DISKS as u64 + 2 {
            store.keep_sample(&format!("disk-{n}"), &sample(n, n)).unwrap();
        }
        assert_eq!(store.samples("disk-1").unwrap(), []);
        assert_eq!(store.samples("disk-2").unwrap(), [sample(2, 2)]);
        assert_eq!(store.samples("disk-257").unwrap(), [sample(257, 257)]);
    }
}
