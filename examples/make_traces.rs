//! Makes the traces of `tests/fixtures/traces`: the real engine, a scripted disk. Committed files are not made anew when the
//! program changes: they show that it still reads and decides what it did.
//!
//!     cargo run --example make_traces -- tests/fixtures/traces

use remap_guardian::engine::{Effect, Engine, Event, Outcome, Step};
use remap_guardian::model::*;
use remap_guardian::policy::Policies;
use remap_guardian::trace::{Line, VERSION};
use std::collections::VecDeque;
use std::path::Path;

const SET: SetId = SetId(uuid::Uuid::from_u128(0x7ace));

/// A set whose disk does as it is told.
struct World {
    engine: Engine,
    lines: Vec<Line>,
    now: Millis,
    /// Sectors that do not read.
    bad: Vec<u64>,
    next_spare: u64,
    seq: u64,
}

impl World {
    fn new(policy: &str, bad: &[u64]) -> World {
        let dirs = [Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")];
        let policy = Box::new(Policies::load(policy, &dirs).expect("it is shipped").default().policy.clone());
        let disk = |serial: &str, sectors| Identity {
            serial: serial.into(),
            sectors: Sectors(sectors),
            logical_block: 512,
            physical_block: 4096,
            ..Identity::default()
        };
        let geometry = Geometry {
            table_start: Sector(8),
            table_blocks: 5,
            data: Extent::new(Sector(88), Sectors(40_000)).unwrap(),
            header_b: Sector(40_952),
        };
        let set = Box::new(SetDescription {
            id: SET,
            name: SetName::new("data").unwrap(),
            main: disk("MAIN", 1 << 20),
            spares: vec![disk("SPARE", 40_960)],
            secret: Secret([7; 16]),
            geometry: vec![geometry],
            created: Millis(0),
        });
        let (program, time) = ("0.1.0".into(), Millis(1_700_000_000_000));
        let lines = vec![
            Line::Trace { version: VERSION, program, time },
            Line::Began { at: Millis(1_000), sessions: 0, sets: Vec::new() },
        ];
        let mut world = World { engine: Engine::new(), lines, now: Millis(1_000), bad: bad.into(), next_spare: 88, seq: 0 };
        world.hear(Event::Opened { set, remaps: Vec::new(), capacity: vec![Sectors(40_000)], policy }, true);
        world
    }

    fn hear(&mut self, event: Event, write: bool) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if write {
                self.lines.push(Line::event(self.now, &event));
            }
            for effect in self.engine.apply(self.now, event) {
                self.lines.extend(Line::effect(&effect));
                events.extend(self.answer(effect));
            }
            self.now.0 += u64::from(!events.is_empty());
        }
    }

    fn answer(&mut self, effect: Effect) -> Option<Event> {
        let bad_in = |extent: Extent| -> Vec<Sector> {
            self.bad.iter().map(|at| Sector(*at)).filter(|sector| extent.contains(*sector)).collect()
        };
        match effect {
            Effect::Probe { set, case, extent } => {
                Some(Event::Done { set, case, outcome: Outcome::Probed { unreadable: bad_in(extent) } })
            }
            Effect::Step { set, case, step } => {
                let outcome = match step {
                    Step::Fence(_) => Outcome::Fenced(1),
                    Step::Salvage { remap, covered, .. } => {
                        let mut lost = bad_in(remap.main);
                        lost.retain(|sector| !covered.iter().any(|extent| extent.contains(*sector)));
                        let saved = Sectors(remap.main.len().0 - lost.len() as u64);
                        Outcome::Salvaged { saved, marked: !lost.is_empty(), lost }
                    }
                    Step::Seal(_) => Outcome::Sealed,
                    Step::Commit(remap) => Outcome::Committed(remap),
                    Step::Settle(_) => Outcome::NotCommitted("no".into()),
                    Step::AddRemap { .. } => Outcome::Live,
                    Step::GiveUp { .. } | Step::Lift(_) => Outcome::Released,
                    Step::Unrecord(remap) => Outcome::Committed(remap),
                    Step::RemoveRemap { .. } => Outcome::Unmapped { free: true },
                };
                Some(Event::Done { set, case, outcome })
            }
            Effect::Reserve { set, session, spare, want } => {
                let extents = vec![Extent::new(Sector(self.next_spare), want).unwrap()];
                self.next_spare += want.0;
                let free = Sectors(40_088 - self.next_spare);
                Some(Event::Reserved { set, session, spare, extents, free, untried: Sectors(0) })
            }
            _ => None,
        }
    }

    fn error(&mut self, kind: TargetErrorKind, op: Op, class: ErrorClass, start: u64, len: u64) -> TargetError {
        self.seq += 1;
        let main = Some(Extent::new(Sector(start), Sectors(len)).unwrap());
        let (member, member_sector) = (Member::Main, Sector(start));
        TargetError { seq: self.seq, kind, op, member, main, member_sector, class, age_ms: 0, read_ahead: false }
    }

    fn errors(&mut self, records: Vec<TargetError>) {
        self.now.0 += 100;
        self.hear(Event::Errors { set: SET, records, missed: 0 }, true);
    }

    fn held(&mut self, class: ErrorClass, start: u64, len: u64) {
        let record = self.error(TargetErrorKind::Held, Op::Write, class, start, len);
        self.errors(vec![record]);
    }

    fn save(self, dir: &str, name: &str) {
        let text: String = self.lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        std::fs::write(Path::new(dir).join(name).with_extension("jsonl"), text).unwrap();
    }
}

fn main() {
    use ErrorClass::{Ioerr, Medium, Transport};
    let dir = std::env::args().nth(1).expect("give the directory");

    let mut world = World::new("balanced", &[81]);
    world.held(Medium, 80, 8);
    world.save(&dir, "medium-write");

    let mut world = World::new("observe", &[]);
    world.held(Ioerr, 803, 1);
    world.save(&dir, "eio-write");

    // A hundred thousand errors, of which the file holds the first: who reads it repeats that line.
    let mut world = World::new("balanced", &[]);
    let record = world.error(TargetErrorKind::Failed, Op::Write, Transport, 4096, 8);
    for number in 0..100_000 {
        world.hear(Event::Errors { set: SET, records: vec![record.clone()], missed: 0 }, number == 0);
    }
    world.held(Medium, 80, 8);
    world.save(&dir, "transport-storm");

    let mut world = World::new("balanced", &[83, 84]);
    let record = world.error(TargetErrorKind::Failed, Op::Read, Medium, 80, 8);
    world.errors(vec![record]);
    world.save(&dir, "read-lost");

    let mut world = World::new("aggressive", &[83, 84]);
    let record = world.error(TargetErrorKind::Failed, Op::Read, Medium, 80, 8);
    world.errors(vec![record]);
    world.save(&dir, "read-salvaged");

    let mut world = World::new("balanced", &[]);
    for run in 0..5 {
        world.held(Medium, 8_000 * (run + 1), 60 * 8);
        world.now.0 += 61 * 60_000;
        world.hear(Event::Tick, true);
    }
    world.save(&dir, "five-runs");

    let mut world = World::new("balanced", &[80]);
    let ahead = world.error(TargetErrorKind::Failed, Op::Read, Medium, 80, 8);
    world.errors(vec![TargetError { read_ahead: true, ..ahead }]);
    world.save(&dir, "read-ahead");

    let mut world = World::new("balanced", &[81]);
    let noted =
        |text: &str| Event::Noted { set: SET, member: Member::Main, sector: Some(Sector(81)), text: text.into(), failed: None };
    world.hear(noted("kernel: critical medium error, dev sdb, sector 81 op 0x1:(WRITE)"), true);
    let record = world.error(TargetErrorKind::Held, Op::Write, Medium, 80, 8);
    world.errors(vec![record.clone(), TargetError { seq: record.seq + 1, ..record.clone() }]);
    world.hear(noted("kernel: I/O error, dev sdb, sector 81 op 0x1:(WRITE)"), true);
    world.errors(vec![TargetError { seq: record.seq + 2, ..record }]);
    world.save(&dir, "twice-told");
}
