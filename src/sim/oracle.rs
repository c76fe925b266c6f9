//! Knows what every sector of main may say.
//!
//! For each sector it keeps two sets of contents. A content is a write's number, or *lost*: an error instead of content.
//!
//! * `now`: what a read may give as long as the power stays on;
//! * `durable`: what may be on the medium, so what a read may give after a power cut.
//!
//! The rules:
//!
//! | event | `now` | `durable` |
//! |---|---|---|
//! | a write is sent | may have happened: add it | add it |
//! | it succeeds | only it; *lost* too where the medium does not give it back | add it; only it where it was forced to the medium (FUA, or a held write that was re-driven) |
//! | it succeeds after it waited | also *lost* if that was possible, or all if a flush failed meanwhile; not where it was forced, but for a main that takes a write and does not give it back | as above |
//! | it fails | stays: the old content or the new one | stays |
//! | a flush succeeds | – | of sectors without a write under way: `now` |
//! | a flush fails | add `durable` | add `now` |
//! | a flush of the daemon's fails, and takes what was in a spare's cache with it | of those sectors: add `durable`; no flush may succeed before one has failed | – |
//! | the medium that serves a sector becomes unreadable there | add *lost* | add *lost* |
//! | the power fails | `durable` | – |
//! | a read gives a content | only that content | if nothing was written since the last flush or power cut: only that |
//!
//! Whatever a read gives must be in `now`; or, where it had to wait, in what `now` was when it was sent. Zeros, old spare content, bytes of a lost mark or torn sectors are contents of no
//! write, so they are always wrong. That a sector reads as *lost* must be in `now` as well; that a disk fails it must be a
//! fault of that disk, which the simulated target names.

use super::content;
use super::disk::SECTOR;
use super::kernel::{Completion, Why};
use std::collections::{BTreeMap, BTreeSet};

/// An error instead of content.
const LOST: u64 = 0;

#[derive(Clone, Debug)]
struct Known {
    now: Vec<u64>,
    durable: Vec<u64>,
}

/// A request that has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sent {
    Read { start: u64, len: u64 },
    Write { start: u64, len: u64, version: u64, fua: bool },
    Flush,
}

#[derive(Debug)]
pub(super) struct Oracle {
    sectors: Vec<Known>,
    /// Written since the last flush or power cut.
    dirty: BTreeSet<u64>,
    sent: BTreeMap<u64, Sent>,
    /// For each read that waits, what its sectors could say when it was sent: a part of it may have been read then.
    before: BTreeMap<u64, Vec<Vec<u64>>>,
    /// Writes during which a flush failed: what was written of them by then may be gone.
    flush_failed: BTreeSet<u64>,
    /// For each flush under way, the sectors written since it was sent.
    since_flush: BTreeMap<u64, BTreeSet<u64>>,
    /// Sectors whose newest content a drive's cache has lost, which it told the daemon alone.
    owed: BTreeSet<u64>,
    /// Sectors that a write under way had forced to a medium, which does not give them any more.
    taken_back: BTreeSet<(u64, u64)>,
    /// The request that is being sent: if it ends now, it never waited.
    sending: Option<u64>,
    next_version: u64,
    /// Kinds of ends, for the report.
    pub reads: u64,
    pub read_errors: u64,
    pub writes: u64,
    pub write_errors: u64,
}

impl Oracle {
    /// Every sector holds version 1, durably.
    pub fn new(sectors: u64) -> Oracle {
        Oracle {
            sectors: vec![Known { now: vec![1], durable: vec![1] }; sectors as usize],
            dirty: BTreeSet::new(),
            sent: BTreeMap::new(),
            before: BTreeMap::new(),
            flush_failed: BTreeSet::new(),
            since_flush: BTreeMap::new(),
            owed: BTreeSet::new(),
            taken_back: BTreeSet::new(),
            sending: None,
            next_version: 2,
            reads: 0,
            read_errors: 0,
            writes: 0,
            write_errors: 0,
        }
    }

    /// A number for a new write.
    pub fn version(&mut self) -> u64 {
        self.next_version += 1;
        self.next_version - 1
    }

    /// Whether a request in the range is under way; `any`: a read counts too.
    pub fn busy(&self, start: u64, len: u64, any: bool) -> bool {
        self.sent.values().any(|sent| match *sent {
            Sent::Write { start: at, len: count, .. } => at < start + len && start < at + count,
            Sent::Read { start: at, len: count } => any && at < start + len && start < at + count,
            Sent::Flush => false,
        })
    }

    pub fn sent(&mut self, id: u64, what: Sent) {
        if let Sent::Write { start, len, version, .. } = what {
            for sector in start..start + len {
                let known = &mut self.sectors[sector as usize];
                add(&mut known.now, [version]);
                add(&mut known.durable, [version]);
                self.dirty.insert(sector);
                self.since_flush.values_mut().for_each(|since| since.extend([sector]));
            }
        }
        if let Sent::Flush = what {
            let writing = self.sent.values().filter_map(|sent| match *sent {
                Sent::Write { start, len, .. } => Some(start..start + len),
                _ => None,
            });
            self.since_flush.insert(id, writing.flatten().collect());
        }
        if let Sent::Read { start, len } = what {
            let now = |sector| self.sectors[sector as usize].now.clone();
            self.before.insert(id, (start..start + len).map(now).collect());
        }
        self.sent.insert(id, what);
        self.sending = Some(id);
    }

    /// What was sent has ended, or waits.
    pub fn waits(&mut self) {
        self.sending = None;
    }

    /// Judges the end of a request. Whether the medium that serves a sector does not give it: `unreadable`; whether main's does
    /// not: `on_main`.
    pub fn ended(
        &mut self,
        end: Completion,
        unreadable: impl Fn(u64) -> bool,
        on_main: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        match self.sent.remove(&end.id) {
            None => Err(format!("request {} ended twice, or was never sent", end.id)),
            Some(Sent::Read { start, len }) => {
                let before = self.before.remove(&end.id).filter(|_| self.sending != Some(end.id));
                self.read_ended(start, len, end.result, before)
            }
            Some(Sent::Flush) => {
                let since = self.since_flush.remove(&end.id).unwrap_or_default();
                let owed = std::mem::take(&mut self.owed);
                self.flush_ended(end.result.is_ok(), &since);
                match owed.first().filter(|_| end.result.is_ok()) {
                    Some(sector) => Err(format!("a flush succeeds, but what was written to sector {sector} before it was lost")),
                    None => Ok(()),
                }
            }
            Some(Sent::Write { start, len, version, fua }) => {
                self.writes += 1;
                if end.result.is_err() {
                    self.write_errors += 1;
                    return Ok(());
                }
                let (waited, flush_failed) = (self.sending != Some(end.id), self.flush_failed.remove(&end.id));
                let forced = |sector: u64| fua || end.forced.iter().any(|&(at, len, _)| (at..at + len).contains(&sector));
                let forced_on_main =
                    |sector: u64| end.forced.iter().any(|&(at, len, member)| member == 0 && (at..at + len).contains(&sector));
                for sector in start..start + len {
                    let known = &mut self.sectors[sector as usize];
                    if !forced(sector) && flush_failed {
                        continue;
                    }
                    // A medium that took a part of the write and does not give it back may have been salvaged meanwhile.
                    let taken = !forced(sector) || (on_main(sector) && forced_on_main(sector));
                    let lost = self.taken_back.remove(&(end.id, sector))
                        || unreadable(sector)
                        || (waited && taken && known.now.contains(&LOST));
                    known.now = vec![version];
                    self.owed.remove(&sector);
                    add(&mut known.now, lost.then_some(LOST));
                    if forced(sector) {
                        known.durable.clone_from(&known.now);
                        self.dirty.remove(&sector);
                    }
                }
                Ok(())
            }
        }
    }

    /// `before`: what the sectors could say when the read was sent, if it had to wait.
    fn read_ended(
        &mut self,
        start: u64,
        len: u64,
        result: Result<Vec<u8>, Why>,
        before: Option<Vec<Vec<u64>>>,
    ) -> Result<(), String> {
        let before = |sector: u64| before.as_ref().map(|all| all[(sector - start) as usize].as_slice());
        self.reads += 1;
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(why) => {
                self.read_errors += 1;
                let Why::Lost(sector) = why else { return Ok(()) };
                return self.saw(sector, LOST, before(sector));
            }
        };
        if bytes.len() as u64 != len * SECTOR as u64 {
            return Err(format!("a read of {len} sectors at {start} gave {} bytes", bytes.len()));
        }
        for (sector, bytes) in (start..).zip(bytes.chunks(SECTOR)) {
            match content::version_of(sector, bytes) {
                Some(version) => self.saw(sector, version, before(sector))?,
                None => return Err(format!("sector {sector} reads as what no one wrote there: {}", sample(bytes))),
            }
        }
        Ok(())
    }

    /// A read gave this content.
    fn saw(&mut self, sector: u64, content: u64, before: Option<&[u64]>) -> Result<(), String> {
        let writing = self.busy(sector, 1, false);
        let known = &mut self.sectors[sector as usize];
        if before.is_some_and(|before| before.contains(&content)) {
            return Ok(());
        }
        if !known.now.contains(&content) {
            let (now, durable) = (words(&known.now), words(&known.durable));
            return Err(format!("sector {sector} reads as {}; it may be {now} (durable: {durable})", words(&[content])));
        }
        if !writing {
            known.now = vec![content];
            if !self.dirty.contains(&sector) {
                known.durable = vec![content];
            }
        }
        Ok(())
    }

    /// A flush of the daemon's has failed, and what a spare's cache had for these sectors is gone.
    /// Without a device there is nobody whom it concerns: who wrote it has no handle any more to flush it by.
    pub fn cache_lost(&mut self, sectors: impl Iterator<Item = u64>, has_device: bool) {
        for sector in sectors {
            let known = &mut self.sectors[sector as usize];
            add(&mut known.now, known.durable.iter().copied());
            if has_device {
                self.owed.insert(sector);
            }
        }
    }

    /// The device was removed, and with it the handles of applications.
    pub fn device_removed(&mut self) {
        self.owed.clear();
    }

    fn flush_ended(&mut self, ok: bool, since: &BTreeSet<u64>) {
        if !ok {
            self.flush_failed.extend(self.sent.keys());
        }
        for sector in std::mem::take(&mut self.dirty) {
            let settled = !since.contains(&sector) && !self.busy(sector, 1, false);
            let known = &mut self.sectors[sector as usize];
            if ok && settled {
                known.durable.clone_from(&known.now);
            } else {
                let now = known.now.clone();
                add(&mut known.now, known.durable.iter().copied());
                add(&mut known.durable, now);
                self.dirty.insert(sector);
            }
        }
    }

    /// The medium does not give a sector any more that these writes, which are under way, had forced to it.
    pub fn taken_back(&mut self, sector: u64, writes: impl Iterator<Item = u64>) {
        self.taken_back.extend(writes.map(|id| (id, sector)));
    }

    /// The medium that serves these sectors does not give them any more: a salvage would find them lost.
    pub fn unreadable(&mut self, sectors: impl Iterator<Item = u64>) {
        for sector in sectors {
            let known = &mut self.sectors[sector as usize];
            add(&mut known.now, [LOST]);
            add(&mut known.durable, [LOST]);
        }
    }

    /// The power failed: nothing that was under way ends any more.
    pub fn power_cut(&mut self) {
        self.sent.clear();
        self.before.clear();
        self.flush_failed.clear();
        self.since_flush.clear();
        self.owed.clear();
        self.taken_back.clear();
        self.dirty.clear();
        for known in &mut self.sectors {
            known.now.clone_from(&known.durable);
        }
    }

    pub fn pending(&self) -> usize {
        self.sent.len()
    }
}

fn add(set: &mut Vec<u64>, more: impl IntoIterator<Item = u64>) {
    for content in more {
        if !set.contains(&content) {
            set.push(content);
        }
    }
}

fn words(contents: &[u64]) -> String {
    let word = |content: &u64| if *content == LOST { "lost".into() } else { format!("write {content}") };
    contents.iter().map(word).collect::<Vec<String>>().join(" or ")
}

fn sample(bytes: &[u8]) -> String {
    if bytes.iter().all(|&byte| byte == 0) {
        return "zeros".into();
    }
    let head = &bytes[..16.min(bytes.len())];
    format!("{} …", head.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<String>>().join(" "))
}
