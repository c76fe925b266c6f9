//! What a map of ddrescue calls bad is read, as slowly as by a scrub. The map is a claim: only what does not read here is told to the engine.

use super::actuator::Trial;
use super::critical::Critical;
use super::daemon::{Daemon, Input};
use super::priority::Priority;
use super::requests::{Tell, json};
use super::trials::{self, Break};
use crate::control::{ImportReport, MOST_AREAS, MOST_SECTORS, Reason};
use crate::engine::{Event, Part};
use crate::model::{Extent, Finder, Member, Sector, Sectors, SetId, SetName};
use crate::triage::whole_blocks;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Read at once, sectors: 1 MiB.
const CHUNK: Sectors = Sectors(2048);

impl Daemon {
    /// Has what a map calls bad read, and answers when that is done.
    pub(super) fn import_map(&mut self, name: &SetName, areas: &[Extent], tell: Tell) {
        match self.importer(name, areas) {
            Ok((importer, blocks)) => {
                let (set, out) = (importer.set, self.out.clone());
                self.importing.insert(set);
                tokio::spawn(async move {
                    let answer = importer.run(blocks).await;
                    drop(out.send(Input::Imported { set }));
                    drop(tell.send(answer.and_then(json)));
                });
            }
            Err(reason) => drop(tell.send(Err(reason))),
        }
    }

    fn importer(&self, name: &SetName, areas: &[Extent]) -> Result<(Importer, Vec<Extent>), Reason> {
        let (set, serving) = self.served(name)?;
        if self.importing.contains(&set) {
            let message = format!("what another map calls bad of “{name}” is being read just now");
            return Err(Reason::new(message, format!("repeat when that has ended; remap-guardian history {name}")));
        }
        let block = serving.desc.block();
        let blocks = wanted(areas, block, serving.desc.main.sectors)?;
        let importer = Importer { set, block, critical: self.critical.clone(), trials: serving.trials.clone() };
        Ok((importer, blocks))
    }
}

/// The ranges in whole blocks, neighbours joined; refused if they are not in order, too many, or beyond the end.
fn wanted(areas: &[Extent], block: Sectors, size: Sectors) -> Result<Vec<Extent>, Reason> {
    let total: u64 = areas.iter().fold(0, |total, area| total.saturating_add(area.len().0));
    if areas.len() > MOST_AREAS || total > MOST_SECTORS.0 {
        let message = format!("{total} sectors in {} ranges are too many", areas.len());
        return Err(Reason::new(message, "have all of it read: remap-guardian scrub"));
    }
    if let Some(pair) = areas.windows(2).find(|pair| pair[0].end() > pair[1].start()) {
        return Err(Reason::from(format!("sectors {} do not come after {}", pair[1], pair[0])));
    }
    let mut blocks: Vec<Extent> = Vec::new();
    for area in areas {
        let beyond = || Reason::from(format!("sectors {area} are beyond the end of the device, which has {size}"));
        let wide = whole_blocks(*area, block, size).filter(|_| area.end().0 <= size.0).ok_or_else(beyond)?;
        // Two ranges may lie in one block.
        wide.add_to(&mut blocks);
    }
    Ok(blocks)
}

/// Reads what one map calls bad.
struct Importer {
    set: SetId,
    block: Sectors,
    critical: Critical,
    trials: mpsc::Sender<Trial>,
}

impl Importer {
    async fn run(&self, areas: Vec<Extent>) -> Result<ImportReport, Reason> {
        let mut report = ImportReport::default();
        for area in areas {
            let mut next = area.start().0;
            while next < area.end().0 {
                let began = Instant::now();
                let len = CHUNK.0.min(area.end().0 - next);
                let (parts, mib_per_second) = self.parts(Sector(next), Sectors(len)).await.ok_or_else(closed)?;
                next += len;
                for part in parts {
                    let blocks = part.blocks(self.block);
                    if part.member != Member::Main {
                        report.on_spare += blocks.len() as u64;
                        continue;
                    }
                    report.blocks += blocks.len() as u64;
                    report.bad_blocks += self.look(&part).await?;
                }
                let due = Duration::from_micros(Sectors(len).bytes() / mib_per_second.max(1));
                tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            }
        }
        Ok(report)
    }

    /// Where a range is served now, and how fast it may be read.
    async fn parts(&self, start: Sector, len: Sectors) -> Option<(Vec<Part>, u64)> {
        let set = self.set;
        let parts =
            self.critical.ask(move |engine| engine.set(set).map(|state| (state.scrub_parts(start, len), state.scrub_rate())));
        parts.await.ok().flatten()
    }

    /// How many blocks of a part do not read. They are told to the engine, which decides.
    async fn look(&self, part: &Part) -> Result<u64, Reason> {
        let bad = trials::bad_blocks(&self.trials, part, self.block, Priority::Normal).await.map_err(|broken| match broken {
            Break::Closed => closed(),
            Break::Away(why) => Reason::new(why, "import the map again when it does: nothing of what was not tried is known"),
        })?;
        let count = trials::count(&bad, self.block);
        for part in bad {
            self.critical.event(Event::Found { set: self.set, part, by: Finder::Map });
        }
        Ok(count)
    }
}

fn closed() -> Reason {
    Reason::new("the set was closed meanwhile", "import the map again when it is open")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_read_in_whole_blocks_once() {
        let wanted = |areas: &[Extent]| super::wanted(areas, Sectors(8), Sectors(100));
        let areas = [extent(1, 1), extent(3, 1), extent(9, 1), extent(30, 1), extent(31, 2), extent(97, 3)];
        assert_eq!(wanted(&areas).unwrap(), [extent(0, 16), extent(24, 16), extent(96, 4)]);
        for (areas, says) in [
            (vec![extent(97, 4)], "97+4 are beyond"),
            (vec![extent(u64::MAX - 9, 9)], "beyond the end"),
            (vec![extent(8, 8), extent(15, 1)], "15+1 do not come after 8+8"),
            (vec![extent(0, MOST_SECTORS.0), extent(0, u64::MAX)], "too many"),
            ((0..=MOST_AREAS as u64).map(|at| extent(at, 1)).collect(), "too many"),
        ] {
            let refused = wanted(&areas).unwrap_err().to_string();
            assert!(refused.contains(says), "{refused}");
        }
        assert_eq!(wanted(&[]).unwrap(), []);
    }
}
