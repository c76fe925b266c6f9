//! A recording: what the engine sees goes into a bounded queue, and from there to whoever asks. The engine's thread only ever tries
//! to put something into it; what does not fit is counted, and told in its place.

use super::daemon::{Daemon, uptime};
use crate::control::{Reason, RecordOrder, RecordReport};
use crate::engine::{Effect, Engine, Event};
use crate::model::Millis;
use crate::trace::{Line, MAX_LINE, VERSION};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

/// Lines that wait at most.
const LINES: usize = 16_384;

/// What waits at most, error records and extents: a few MiB of the process's locked memory.
const WEIGHT: usize = 65_536;

/// Bytes in one answer, roughly.
const PAGE: usize = 1 << 20;

/// A recording that nobody reads for so long ends, ms.
const ABANDONED_MS: u64 = 10_000;

/// The engine's end.
pub struct Recorder {
    queue: SyncSender<Line>,
    weight: Arc<AtomicUsize>,
    lost: u64,
    over: bool,
}

/// The reader's end.
pub(super) struct Recording {
    number: u64,
    lines: Receiver<Line>,
    weight: Arc<AtomicUsize>,
    asked: Millis,
}

fn begin(number: u64, now: Millis) -> (Recorder, Recording) {
    let (queue, lines) = sync_channel(LINES);
    let weight = Arc::new(AtomicUsize::new(0));
    let recorder = Recorder { queue, weight: weight.clone(), lost: 0, over: false };
    (recorder, Recording { number, lines, weight, asked: now })
}

/// What a line takes of the queue's room.
fn weight(line: &Line) -> usize {
    match line {
        Line::Event { event, .. } => event_weight(event),
        _ => 1,
    }
}

fn event_weight(event: &Event) -> usize {
    1 + match event {
        Event::Opened { remaps, .. } => remaps.len(),
        Event::Errors { records, .. } => records.len(),
        Event::Reserved { extents, .. } => extents.len(),
        _ => 0,
    }
}

impl Recorder {
    /// Tells what the engine knows: where the recording begins.
    pub(super) fn begin(&mut self, at: Millis, engine: &Engine) {
        let (sessions, sets) = engine.snapshot();
        self.put(1, || Line::Began { at, sessions, sets });
    }

    pub(super) fn event(&mut self, at: Millis, event: &Event) {
        self.put(event_weight(event), || Line::event(at, event));
    }

    pub(super) fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Record(entry) => self.put(1, || Line::Entry(Box::new(entry.clone()))),
            other => Line::effect(other).into_iter().for_each(|line| self.put(1, || line)),
        }
    }

    /// Nobody reads it any more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// A line that has no room is not made.
    fn put(&mut self, weight: usize, line: impl FnOnce() -> Line) {
        let full = self.weight.load(Ordering::Relaxed) > WEIGHT;
        if self.lost > 0 && !full && self.queue.try_send(Line::Lost(self.lost)).is_ok() {
            self.weight.fetch_add(1, Ordering::Relaxed);
            self.lost = 0;
        }
        // In its place, or not at all.
        if full || self.lost > 0 {
            self.lost += 1;
            return;
        }
        self.weight.fetch_add(weight, Ordering::Relaxed);
        if let Err(error) = self.queue.try_send(line()) {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
            self.lost += 1;
            self.over = matches!(error, TrySendError::Disconnected(_));
        }
    }
}

impl Recording {
    pub(super) fn is_abandoned(&self, now: Millis) -> bool {
        self.asked.0 + ABANDONED_MS < now.0
    }

    /// The next lines, and how many are missing among them.
    fn page(&mut self) -> Result<(Vec<String>, u64), Reason> {
        let (mut page, mut bytes, mut lost) = (Vec::new(), 0, 0);
        while bytes < PAGE {
            let line = match self.lines.try_recv() {
                Ok(line) => line,
                Err(TryRecvError::Empty) => break,
                // The daemon stops.
                Err(TryRecvError::Disconnected) if page.is_empty() => return Err(super::requests::stopping()),
                Err(TryRecvError::Disconnected) => break,
            };
            self.weight.fetch_sub(weight(&line), Ordering::Relaxed);
            let mut text = text(&line)?;
            if text.len() >= MAX_LINE {
                if matches!(line, Line::Began { .. }) {
                    return Err(Reason::from("the sets have more remaps than a trace can hold".to_string()));
                }
                (text, lost) = (self::text(&Line::Lost(1))?, lost + 1);
            }
            if let Line::Lost(count) = line {
                lost += count;
            }
            bytes += text.len();
            page.push(text);
        }
        Ok((page, lost))
    }
}

fn text(line: &Line) -> Result<String, Reason> {
    serde_json::to_string(line).map_err(|error| Reason::from(format!("a line cannot be written: {error}")))
}

impl Daemon {
    /// Begins a recording, tells what it has seen, or ends it.
    pub(super) fn record_trace(&mut self, order: RecordOrder) -> Result<RecordReport, Reason> {
        let now = uptime();
        if let RecordOrder::Begin = order {
            if self.recording.as_ref().is_some_and(|recording| !recording.is_abandoned(now)) {
                let hint = "end the other one; when it was killed, wait 10 s";
                return Err(Reason::new("a recording is under way", hint));
            }
            let (recorder, recording) = begin(now.0, now);
            self.recording = Some(recording);
            self.critical.record(recorder);
            let (program, time) = (env!("CARGO_PKG_VERSION").into(), super::daemon::now());
            let lines = vec![text(&Line::Trace { version: VERSION, program, time })?];
            return Ok(RecordReport { recording: now.0, lines, lost: 0 });
        }
        let (RecordOrder::More(number) | RecordOrder::End(number)) = order else { unreachable!("Begin is done with") };
        let Some(recording) = self.recording.as_mut().filter(|recording| recording.number == number) else {
            return Err(Reason::new("this recording has ended: it was not read for too long", "begin another one"));
        };
        recording.asked = now;
        let page = recording.page();
        if page.is_err() || matches!(order, RecordOrder::End(_)) {
            self.recording = None;
        }
        page.map(|(lines, lost)| RecordReport { recording: number, lines, lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Member, SetId};

    fn noted(number: u64) -> Event {
        let set = SetId(uuid::Uuid::nil());
        Event::Noted { set, member: Member::Main, sector: None, text: number.to_string(), failed: None }
    }

    #[test]
    fn the_engine_never_waits_and_a_gap_is_told_in_its_place() {
        let (mut recorder, mut recording) = begin(1, Millis(0));
        for number in 0..LINES as u64 + 100 {
            recorder.event(Millis(number), &noted(number));
        }
        let (mut lines, mut lost) = (Vec::new(), 0);
        let mut read = |recording: &mut Recording| loop {
            let (page, missing) = recording.page().unwrap();
            lost += missing;
            if page.is_empty() {
                break;
            }
            lines.extend(page);
        };
        read(&mut recording);
        recorder.event(Millis(1 << 20), &noted(7));
        read(&mut recording);
        assert_eq!((lines.len(), lost), (LINES + 2, 100));
        assert_eq!(lines[LINES], r#"{"lost":100}"#);
        assert!(lines[LINES + 1].contains("1048576"));
        assert_eq!(recording.weight.load(Ordering::Relaxed), 0);
        drop(recording);
        recorder.event(Millis(0), &noted(8));
        assert!(recorder.is_over());
    }

    #[test]
    fn many_error_records_are_bounded_too() {
        let (mut recorder, recording) = begin(1, Millis(0));
        let record = crate::model::TargetError {
            seq: 1,
            kind: crate::model::TargetErrorKind::Failed,
            op: crate::model::Op::Flush,
            member: Member::Main,
            main: None,
            member_sector: crate::model::Sector(0),
            class: crate::model::ErrorClass::Transport,
            age_ms: 0,
            read_ahead: false,
        };
        let event = Event::Errors { set: SetId(uuid::Uuid::nil()), records: vec![record; 1000], missed: 0 };
        for _ in 0..100 {
            recorder.event(Millis(0), &event);
        }
        let lost = recorder.lost;
        recorder.put(1, || panic!("what has no room is copied"));
        assert_eq!((recorder.lost, lost > 0), (lost + 1, true));
        assert_eq!(recording.lines.try_iter().count(), WEIGHT / 1001 + 1);
    }
}
