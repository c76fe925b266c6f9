//! What other sources say of sectors of main, kept as evidence for a while. One failed request is one note, whoever tells of it
//! and however often; and what came first stays, because our own trials of the place that follow make the kernel tell of it again.

use super::MAX_BLOCKS;
use crate::model::{Extent, FailedRequest, Millis, Sector, Sectors, Teller};
use std::collections::VecDeque;

/// What a line of the kernel's begins with.
const PREFIX: &str = "kernel: ";

/// How long a note is evidence, and what is told once within that time is told of once, ms.
const MINUTE: u64 = 60_000;

/// As many are kept.
const KEPT: usize = 256;

/// As many are kept of places that may belong to one case, so that trials of it push nothing else out.
const KEPT_NEAR: usize = 32;

/// How near that is, sectors: the longest case of a disk with blocks of 4096 bytes.
const NEAR: u64 = MAX_BLOCKS * 8;

/// As many lines are evidence of one case.
const SHOWN: usize = 3;

/// A line about a sector of main.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When it was last told.
    pub at: Millis,
    /// The first sector on main that it names.
    pub sector: Sector,
    /// The line.
    pub text: String,
    /// The request that failed, where it tells of exactly one.
    pub failed: Option<FailedRequest>,
    /// What the driver said of the same request.
    pub detail: Option<String>,
}

impl Note {
    /// Whether it may be evidence of sectors of a range.
    fn is_about(&self, extent: &Extent) -> bool {
        let len = self.failed.as_ref().map_or(1, |failed| failed.len.0.max(1));
        Extent::new(self.sector, Sectors(len)).is_ok_and(|failed| failed.overlaps(extent))
    }

    /// The driver's word on a request of which the block layer tells too.
    fn is_detail(&self) -> bool {
        self.failed.is_none()
    }

    /// Without what tells whose words they are.
    fn words(&self) -> String {
        self.text.trim_start_matches(PREFIX).to_owned()
    }

    fn line(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{} ({detail})", self.text),
            None => self.text.clone(),
        }
    }

    fn is_hint(&self) -> bool {
        self.failed.as_ref().is_some_and(|failed| failed.read_ahead)
    }

    /// Whether both tell of one failed request, or of the same once more.
    fn same(&self, other: &Note) -> bool {
        let (Some(one), Some(two)) = (&self.failed, &other.failed) else { return self.text == other.text };
        let op = one.op == two.op || one.op.is_none() || two.op.is_none();
        // The log does not say what was read in advance.
        let ahead = one.read_ahead == two.read_ahead || one.by == Teller::Log || two.by == Teller::Log;
        self.sector == other.sector && one.class == two.class && op && ahead
    }
}

/// The notes about one set.
#[derive(Debug, Default)]
pub struct Notes(VecDeque<Note>);

impl Notes {
    /// Takes a note in.
    pub fn add(&mut self, mut note: Note) {
        self.0.retain(|old| note.at.0 < old.at.0 + MINUTE);
        if note.is_detail() {
            let of = self.0.iter_mut().find(|known| !known.is_detail() && known.sector == note.sector);
            if let Some(known) = of {
                known.detail.get_or_insert_with(|| note.words());
                return;
            }
        } else if let Some(at) = self.0.iter().position(|known| known.is_detail() && known.sector == note.sector) {
            note.detail = self.0.remove(at).map(|detail| detail.words());
        }
        if let Some(known) = self.0.iter_mut().find(|known| known.same(&note)) {
            known.at = note.at;
            known.detail = known.detail.take().or_else(|| note.detail.take());
            let by = |note: &Note| note.failed.as_ref().map(|failed| failed.by);
            if by(known) == Some(Teller::Log) && by(&note) == Some(Teller::Tracepoint) {
                // It says more.
                let detail = known.detail.take().or(note.detail.take());
                *known = Note { detail, ..note };
            }
            return;
        }
        let near = |known: &&Note| known.is_hint() == note.is_hint() && known.sector.0.abs_diff(note.sector.0) < NEAR;
        if self.0.iter().filter(near).count() >= KEPT_NEAR {
            return;
        }
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(note);
    }

    /// What was said of sectors of a range lately, first things first; what was only read in advance comes last.
    pub fn about(&self, now: Millis, extent: &Extent) -> Vec<String> {
        let fitting = |note: &&Note| now.0 < note.at.0 + MINUTE && note.is_about(extent);
        let (hints, errors): (Vec<&Note>, Vec<&Note>) = self.0.iter().filter(fitting).partition(|note| note.is_hint());
        errors.into_iter().chain(hints).take(SHOWN).map(Note::line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ErrorClass, Op};

    fn told(at: u64, by: Teller, sector: u64, len: u64) -> Note {
        let failed = FailedRequest { by, op: Some(Op::Read), class: ErrorClass::Medium, len: Sectors(len), read_ahead: false };
        Note {
            at: Millis(at),
            sector: Sector(sector),
            text: format!("{by:?} {sector}+{len}"),
            failed: Some(failed),
            detail: None,
        }
    }

    fn ahead(note: Note) -> Note {
        let failed = note.failed.map(|failed| FailedRequest { read_ahead: true, ..failed });
        Note { text: format!("{} ahead", note.text), failed, ..note }
    }

    fn all(notes: impl IntoIterator<Item = Note>) -> Notes {
        let mut all = Notes::default();
        notes.into_iter().for_each(|note| all.add(note));
        all
    }

    fn about(notes: &Notes, now: u64, start: u64, len: u64) -> Vec<String> {
        notes.about(Millis(now), &Extent::new(Sector(start), Sectors(len)).unwrap())
    }

    #[test]
    fn what_both_tell_is_one_event_in_the_tracepoints_words() {
        let (log, trace) = (told(5, Teller::Log, 80, 0), told(6, Teller::Tracepoint, 80, 8));
        for order in [[log.clone(), trace.clone()], [trace.clone(), log.clone()]] {
            assert_eq!(about(&all(order), 10, 80, 8), ["Tracepoint 80+8"]);
        }
        let mut write = log.clone();
        write.failed.as_mut().unwrap().op = Some(Op::Write);
        assert_eq!(about(&all([write, trace]), 10, 80, 8).len(), 2, "a write is another event");
        assert_eq!(about(&all([log]), 10, 80, 8), ["Log 80+0"], "where there is no tracepoint");
    }

    #[test]
    fn what_the_driver_said_stands_beside_the_request() {
        let sense = Note { text: "kernel: Medium Error".into(), failed: None, ..told(4, Teller::Log, 80, 0) };
        let (log, trace) = (told(5, Teller::Log, 80, 0), told(6, Teller::Tracepoint, 80, 8));
        for order in [[&sense, &log, &trace], [&trace, &sense, &log], [&log, &sense, &trace], [&trace, &log, &sense]] {
            assert_eq!(about(&all(order.map(Clone::clone)), 10, 80, 8), ["Tracepoint 80+8 (Medium Error)"]);
        }
        assert_eq!(about(&all([sense.clone()]), 10, 80, 8), ["kernel: Medium Error"], "the block layer's line may be missing");
        assert_eq!(about(&all([told(5, Teller::Log, 72, 0), sense]), 10, 72, 16).len(), 2, "it is of another request");
    }

    #[test]
    fn a_request_fails_in_all_of_its_sectors() {
        let notes = all([told(5, Teller::Tracepoint, 70, 20)]);
        assert_eq!((about(&notes, 10, 80, 8).len(), about(&notes, 10, 90, 8).len()), (1, 0));
    }

    #[test]
    fn the_first_line_stays_whatever_our_own_trials_add() {
        let original = told(1_000, Teller::Tracepoint, 80, 8);
        let trials = (0..2048).map(|n| told(1_001 + n, Teller::Tracepoint, 80 + n, 1));
        // The same once more, and sector by sector.
        let again = std::iter::repeat_n(original.clone(), 100);
        let notes = all(std::iter::once(original).chain(again).chain(trials));
        assert_eq!(about(&notes, 4_000, 80, 2048)[0], "Tracepoint 80+8");
    }

    #[test]
    fn what_is_read_in_advance_is_evidence_but_stands_behind() {
        let hints = (0..20).map(|n| ahead(told(n, Teller::Tracepoint, 80 + n, 1)));
        let notes = all(hints.chain([told(30, Teller::Tracepoint, 80, 8)]));
        assert_eq!(about(&notes, 40, 80, 8)[..2], ["Tracepoint 80+8", "Tracepoint 80+1 ahead"]);
        // The log cannot tell the two apart.
        let notes = all([told(1, Teller::Log, 80, 0), ahead(told(2, Teller::Tracepoint, 80, 8))]);
        assert_eq!(about(&notes, 10, 80, 8), ["Tracepoint 80+8 ahead"]);
    }

    #[test]
    fn what_is_told_again_lasts_and_what_is_not_ends() {
        let notes = all([told(0, Teller::Log, 80, 0), told(59_000, Teller::Log, 80, 0)]);
        assert_eq!((about(&notes, 118_000, 80, 8).len(), about(&notes, 119_000, 80, 8).len()), (1, 0));
    }

    #[test]
    fn a_storm_grows_nothing() {
        let mut notes = Notes::default();
        for n in 0..100_000 {
            notes.add(told(n / 10, Teller::Tracepoint, n * 7919 % (1 << 30), 8));
            assert!(notes.0.len() <= KEPT);
        }
        notes.add(told(10_000, Teller::Tracepoint, u64::MAX, u64::MAX));
        assert_eq!(about(&notes, 10_000, 1 << 40, 8), Vec::<String>::new(), "no such range");
    }
}
