//! The history in the store: reading it, checking its chain, pruning its oldest entries.

use super::chain::{self, Anchor, Hash, Record};
use super::keys;
use super::trees::Trees;
use crate::edge::{StoreError, ToldRemaps};
use crate::model::{ChainWalk, Cut, Entry, Millis, Remap, SetId, SetName, Stamp, Told};
use std::collections::BTreeMap;

const ANCHOR_KEY: &str = "pruned";

/// The oldest entries, which are about to go.
pub(super) struct Oldest {
    /// Where the chain begins when they are gone.
    pub anchor: Anchor,
    /// What goes of each set: its name, the first and the last entry, and how many.
    pub sets: BTreeMap<SetId, (SetName, Stamp, Stamp, u64)>,
    /// How many go in all, and which of them do not hold.
    pub entries: u64,
    pub broken: Vec<u64>,
    /// The remaps that they tell of.
    pub told: Vec<(SetId, Told)>,
    /// Nothing more is to go.
    pub all: bool,
}

impl Trees {
    /// The last `limit` entries at or after `since`. Clocks jump, so an older one ends nothing.
    pub fn history(&self, set: Option<SetId>, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let keys: Box<dyn Iterator<Item = sled::Result<sled::IVec>>> = match set {
            Some(set) => Box::new(self.by_set.scan_prefix(set.0.as_bytes()).keys().rev()),
            None => Box::new(self.history.iter().keys().rev()),
        };
        self.newest(keys, limit, since, |entry| set.is_none_or(|set| entry.set == set))
    }

    /// The last `limit` entries at or after `since` of sets that had this name at the time.
    pub fn history_named(&self, name: &SetName, since: Millis, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.newest(self.history.iter().keys().rev(), limit, since, |entry| entry.name == *name)
    }

    /// The first `limit` entries that are wanted, in reverse. No more than these are in memory at once.
    fn newest(
        &self,
        keys: impl Iterator<Item = sled::Result<sled::IVec>>,
        limit: usize,
        since: Millis,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut found = Vec::new();
        for key in keys {
            if found.len() >= limit {
                break;
            }
            let key = key.map_err(|error| self.failed(error))?;
            let number = &key[key.len().saturating_sub(8)..];
            // The index is written first: a crash may leave a number without its entry, and then another set's entry gets it.
            let Some(value) = self.history.get(number).map_err(|error| self.failed(error))? else { continue };
            found.extend(self.read_entry(number, &value, since).filter(&wanted));
        }
        found.reverse();
        Ok(found)
    }

    /// The first `limit` entries that come after entry `number`.
    pub fn history_after(&self, number: u64, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let mut found = Vec::new();
        for entry in self.history.range(after(number)..).take(limit) {
            let (key, value) = entry.map_err(|error| self.failed(error))?;
            found.extend(self.read_entry(&key, &value, Millis(0)));
        }
        Ok(found)
    }

    /// The oldest and the newest entry.
    pub fn history_ends(&self) -> Result<Option<(Stamp, Stamp)>, StoreError> {
        let stamp = |pair: sled::Result<Option<(sled::IVec, sled::IVec)>>| {
            let pair = pair.map_err(|error| self.failed(error))?;
            Ok(pair.map(|(key, value)| self.stamp(&key, &value)))
        };
        Ok(stamp(self.history.first())?.zip(stamp(self.history.last())?))
    }

    /// The number and hash of the newest record, also if that was pruned.
    pub fn last(&self) -> Result<(u64, Hash), StoreError> {
        let Some((key, value)) = self.history.last().map_err(|error| self.failed(error))? else {
            return Ok(self.anchor()?.map_or((0, chain::START), |anchor| (anchor.last.number, anchor.hash)));
        };
        // One that is cut short has no hash; that the next one names another is found by a check of the chain.
        let hash = Record::read(&value).map_or(chain::START, |record| record.own);
        Ok((keys::number(&key).unwrap_or(0), hash))
    }

    /// Goes on with a check of the chain, or begins one, and looks at up to `most` entries.
    pub fn verify(&self, walk: Option<ChainWalk>, most: usize) -> Result<ChainWalk, StoreError> {
        if self.format == 1 {
            return Err(self.failed("its history has no chain yet, for it is of format 1; the daemon brings it to format 2"));
        }
        let begin = || Ok(chain::begin(self.anchor()?.as_ref()));
        let mut walk = walk.map_or_else(begin, Ok)?;
        let mut left = most;
        for pair in self.history.range(after(walk.number)..) {
            if left == 0 {
                return Ok(walk);
            }
            let (key, value) = pair.map_err(|error| self.failed(error))?;
            chain::step(&mut walk, self.stamp(&key, &value), &value);
            left -= 1;
        }
        walk.done = true;
        Ok(walk)
    }

    /// What is to go, at most so many entries.
    pub fn oldest(&self, cut: Cut, most: usize) -> Result<Option<Oldest>, StoreError> {
        let before = self.anchor()?;
        let mut walk = chain::begin(before.as_ref());
        let mut oldest = Oldest {
            anchor: before.unwrap_or_default(),
            sets: BTreeMap::new(),
            entries: 0,
            broken: Vec::new(),
            told: Vec::new(),
            all: true,
        };
        for pair in self.history.range(after(walk.number)..) {
            let (key, value) = pair.map_err(|error| self.failed(error))?;
            let stamp = self.stamp(&key, &value);
            if stamp.number > cut.upto || stamp.at >= cut.before {
                break;
            }
            if oldest.entries == most as u64 {
                oldest.all = false;
                break;
            }
            chain::step(&mut walk, stamp, &value);
            oldest.entries += 1;
            oldest.anchor.entries += 1;
            oldest.anchor.last = stamp;
            oldest.anchor.hash = Record::read(&value).map_or(chain::START, |record| record.own);
            if let Some(entry) = self.read_entry(&key, &value, Millis(0)) {
                oldest.told.extend(entry.what.told().map(|told| (entry.set, told)));
                let of_set = oldest.sets.entry(entry.set).or_insert((entry.name.clone(), stamp, stamp, 0));
                *of_set = (entry.name, of_set.1, stamp, of_set.3 + 1);
            }
        }
        oldest.broken = walk.report.broken.iter().map(|broken| broken.entry.number).collect();
        Ok((oldest.entries > 0).then_some(oldest))
    }

    /// What the history of a set tells of its remaps, also what was pruned of it.
    pub fn told(&self, set: SetId) -> Result<ToldRemaps, StoreError> {
        let mut told = ToldRemaps::default();
        for pair in self.moved.scan_prefix(set.0.as_bytes()) {
            let (_, value) = pair.map_err(|error| self.failed(error))?;
            let remap = serde_json::from_slice(&value);
            told.live.push(remap.map_err(|error| self.failed(format_args!("the record of a remap: {error}")))?);
        }
        for key in self.by_set.scan_prefix(set.0.as_bytes()).keys() {
            let key = key.map_err(|error| self.failed(error))?;
            let number = &key[key.len().saturating_sub(8)..];
            let Some(value) = self.history.get(number).map_err(|error| self.failed(error))? else { continue };
            let entry = self.read_entry(number, &value, Millis(0)).filter(|entry| entry.set == set);
            if let Some(news) = entry.and_then(|entry| entry.what.told()) {
                told.add(news);
            }
        }
        Ok(told)
    }

    /// Keeps what pruned entries tell of remaps, makes it durable that the chain begins later, and removes what is before that.
    pub fn begin_after(&self, anchor: &Anchor, told: &[(SetId, Told)]) -> Result<(), StoreError> {
        for (set, told) in told {
            match told {
                Told::Live(remap) => {
                    let json = serde_json::to_vec(remap).map_err(|error| self.failed(error))?;
                    self.moved.insert(moved(*set, remap), json).map_err(|error| self.failed(error))?;
                }
                Told::Gone(gone) => self.forget_moved(*set, gone)?,
            }
        }
        self.meta.insert(ANCHOR_KEY, anchor.encode()).map_err(|error| self.failed(error))?;
        self.flush()?;
        self.sweep()
    }

    /// Forgets of a remap that is gone what pruned entries told of it and of those before it.
    fn forget_moved(&self, set: SetId, gone: &Remap) -> Result<(), StoreError> {
        for pair in self.moved.scan_prefix(set.0.as_bytes()) {
            let (key, value) = pair.map_err(|error| self.failed(error))?;
            let known = serde_json::from_slice::<Remap>(&value);
            if known.is_ok_and(|known| gone.outdates(&known)) {
                self.moved.remove(key).map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    /// Removes entries that were pruned. After a crash some may be left.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let Some(anchor) = self.anchor()? else { return Ok(()) };
        for pair in self.history.range(..after(anchor.last.number)) {
            let (key, value) = pair.map_err(|error| self.failed(error))?;
            // The record last: it says where the index has it.
            if let Some(entry) = self.read_entry(&key, &value, Millis(0)) {
                self.by_set.remove(keys::set_entry(entry.set, entry.number)).map_err(|error| self.failed(error))?;
            }
            self.history.remove(key).map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    pub fn anchor(&self) -> Result<Option<Anchor>, StoreError> {
        let Some(value) = self.meta.get(ANCHOR_KEY).map_err(|error| self.failed(error))? else { return Ok(None) };
        Anchor::read(&value).map(Some).ok_or_else(|| self.failed("the record of what was pruned is damaged"))
    }

    fn stamp(&self, key: &[u8], value: &[u8]) -> Stamp {
        let time = self.body(value).and_then(|body| keys::number(body.get(..8)?));
        Stamp { number: keys::number(key).unwrap_or_default(), at: Millis(time.unwrap_or_default()) }
    }

    /// Time and JSON.
    fn body<'a>(&self, value: &'a [u8]) -> Option<&'a [u8]> {
        if self.format == 1 { Some(value) } else { Record::read(value).map(|record| record.body) }
    }

    /// Reads a history entry that is not older than `since`. The time stands before the JSON, so that older ones need no parsing.
    fn read_entry(&self, number: &[u8], value: &[u8], since: Millis) -> Option<Entry> {
        let number = keys::number(number)?;
        let Some((time, json)) = self.body(value).and_then(|body| body.split_first_chunk()) else {
            tracing::warn!(number, "a history entry is cut short");
            return None;
        };
        if u64::from_be_bytes(*time) < since.0 {
            return None;
        }
        match serde_json::from_slice::<Entry>(json) {
            Ok(entry) => Some(Entry { number, ..entry }),
            Err(error) => {
                tracing::warn!(number, %error, "a history entry cannot be read");
                None
            }
        }
    }
}

/// Key of a remap that pruned history told of: set (16), sequence number (8), spare (2), first sector there (8).
fn moved(set: SetId, remap: &Remap) -> Vec<u8> {
    let place = [&remap.spare.to_be_bytes()[..], &remap.at.0.to_be_bytes()];
    [&keys::set_entry(set, remap.seq)[..], place[0], place[1]].concat()
}

fn after(number: u64) -> [u8; 8] {
    number.saturating_add(1).to_be_bytes()
}
