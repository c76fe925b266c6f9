//! Reads a trace. It may come from anywhere: what could mislead or stop the engine is refused with its line.

use super::{Line, MAX_LINE, VERSION};
use crate::engine::{Event, Snapshot};
use crate::model::{Extent, Millis, Remap, Sectors, SetDescription, SetId};
use crate::triage::MAX_BLOCKS;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, Read};

/// The latest time, ms; beyond it sums of times might overflow.
const LATEST: u64 = 1 << 53;

/// What one trace may take of memory: all of it is kept, and again as much for what is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) lines: usize,
    pub(super) bytes: usize,
    pub(super) sets: usize,
    /// Of all sets together.
    pub(super) remaps: usize,
}

/// A busy week, and more than one machine serves.
const BOUNDS: Bounds = Bounds { lines: 4 << 20, bytes: 512 << 20, sets: 256, remaps: 1 << 20 };

/// The most sectors that one error record names: more than the kernel writes or reads at once. Each block of them may become a cure.
const LONGEST: u64 = 1 << 21;

/// A trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A line is not what it should be.
    #[error("line {line}: {why}")]
    Broken {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// Written in a form of the future.
    #[error(
        "it has form {version}, and this program reads up to {VERSION}\n  next: use remap-guardian {program} or newer, which wrote it"
    )]
    Newer {
        /// Its version.
        version: u64,
        /// The program that wrote it.
        program: String,
    },
    /// Something is missing.
    #[error(
        "line {line}: {lost} lines are missing here, and decisions depend on all that came before\n  next: record again with less load"
    )]
    Gap {
        /// Where.
        line: usize,
        /// How many.
        lost: u64,
    },
}

/// A whole trace.
#[derive(Debug)]
pub struct Trace {
    /// Version of the program that wrote it.
    pub program: String,
    /// When it was begun, Unix ms.
    pub time: Millis,
    /// When it was begun, ms since boot.
    pub began: Millis,
    /// How often a set had been opened.
    pub sessions: u64,
    /// What the engine knew.
    pub sets: Vec<Snapshot>,
    /// What followed: [`Line::Event`], [`Line::Case`] and [`Line::Entry`].
    pub lines: Vec<Line>,
    /// The last line had no end and was left out.
    pub cut: bool,
}

/// Any first line, whatever its version.
#[derive(Deserialize)]
struct First {
    trace: Header,
}

#[derive(Deserialize)]
struct Header {
    version: u64,
    #[serde(default)]
    program: String,
    #[serde(default)]
    time: Millis,
}

/// Reads and checks a trace.
pub fn read(from: impl BufRead) -> Result<Trace, TraceError> {
    read_within(from, BOUNDS)
}

pub(super) fn read_within(mut from: impl BufRead, bounds: Bounds) -> Result<Trace, TraceError> {
    let (mut number, mut cut, mut now, mut bytes) = (0, false, Millis(0), 0);
    let mut next = |number: &mut usize| -> Result<Option<Vec<u8>>, TraceError> {
        let mut text = Vec::new();
        *number += 1;
        from.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut text)?;
        if text.len() > MAX_LINE {
            return Err(broken(*number, format!("it is longer than {MAX_LINE} bytes")));
        }
        bytes += text.len();
        if *number > bounds.lines || bytes > bounds.bytes {
            let Bounds { lines, bytes, .. } = bounds;
            return Err(broken(*number, format!("a trace has at most {lines} lines and {bytes} bytes: record a shorter time")));
        }
        cut = !text.is_empty() && !text.ends_with(b"\n");
        Ok((!text.is_empty() && !cut).then_some(text))
    };
    let nothing = |number| broken(number, "a trace begins with a line “trace” and a line “began”");
    let first = next(&mut number)?.ok_or_else(|| nothing(1))?;
    let First { trace: Header { version, program, time } } =
        serde_json::from_slice(&first).map_err(|error| broken(1, format!("this is no trace: {error}")))?;
    if version > VERSION {
        return Err(TraceError::Newer { version, program });
    }
    if version == 0 {
        return Err(broken(1, "there is no form 0"));
    }
    let second = next(&mut number)?.ok_or_else(|| nothing(2))?;
    let Line::Began { at: began, sessions, sets } = parse(2, &second)? else { return Err(nothing(2)) };
    if sessions > LATEST {
        return Err(broken(2, "so often nothing was opened"));
    }
    let mut check = Check { bounds, sets: BTreeMap::new() };
    check.time(&mut now, began).map_err(|why| broken(2, why))?;
    for snapshot in &sets {
        check.snapshot(snapshot, began).map_err(|why| broken(2, why))?;
    }
    let mut lines = Vec::new();
    while let Some(text) = next(&mut number)? {
        let line = parse(number, &text)?;
        match &line {
            Line::Lost(lost) => return Err(TraceError::Gap { line: number, lost: *lost }),
            Line::Trace { .. } | Line::Began { .. } => return Err(broken(number, "a second beginning")),
            Line::Event { at, event } => {
                check.time(&mut now, *at).and_then(|()| check.event(event)).map_err(|why| broken(number, why))?
            }
            Line::Case { .. } | Line::Entry(_) => {}
        }
        lines.push(line);
    }
    Ok(Trace { program, time, began, sessions, sets, lines, cut })
}

fn parse(number: usize, text: &[u8]) -> Result<Line, TraceError> {
    serde_json::from_slice(text).map_err(|error| broken(number, error.to_string()))
}

fn broken(line: usize, why: impl Into<String>) -> TraceError {
    TraceError::Broken { line, why: why.into() }
}

/// What the engine takes for granted, because the runtime has checked it.
struct Check {
    bounds: Bounds,
    /// Cure block, number of spares and of remaps at the last opening, by set.
    sets: BTreeMap<SetId, (Sectors, usize, usize)>,
}

impl Check {
    fn time(&self, now: &mut Millis, at: Millis) -> Result<(), String> {
        if at < *now || at.0 > LATEST {
            return Err(format!("its time {} ms is before the last one, {} ms, or beyond all times", at.0, now.0));
        }
        *now = at;
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &Snapshot, began: Millis) -> Result<(), String> {
        let Snapshot { set, remaps, spares, .. } = snapshot;
        if self.sets.contains_key(&set.id) {
            return Err(format!("“{}” is there twice", set.name));
        }
        self.set(set, remaps, spares.len())?;
        if !snapshot.is_sound(began) {
            return Err(format!("what “{}” has spent, or its storm, is beyond the beginning", set.name));
        }
        for (index, spare) in spares.iter().enumerate() {
            let serves = remaps.iter().filter(|remap| usize::from(remap.spare) == index).map(Remap::spare_extent);
            let taken: Vec<Extent> = serves.chain(spare.ready.iter().copied()).collect();
            disjoint(taken).map_err(|at| format!("sector {at} of spare {index} of “{}” is used twice", set.name))?;
            if !spare.ready.iter().all(|extent| set.geometry[index].data.covers(extent)) {
                return Err(format!("space of spare {index} of “{}” is beyond its end", set.name));
            }
        }
        Ok(())
    }

    fn set(&mut self, set: &SetDescription, remaps: &[Remap], capacities: usize) -> Result<(), String> {
        let (name, spares) = (&set.name, set.spares.len());
        if set.main.sectors.0 == 0 || set.main.sectors.0 > LATEST {
            return Err(format!("main of “{name}” has {} sectors", set.main.sectors));
        }
        if set.geometry.len() != spares || capacities != spares || spares > usize::from(u16::MAX) {
            return Err(format!("“{name}” has {spares} spares, {} layouts and {capacities} capacities", set.geometry.len()));
        }
        if self.sets.get(&set.id).is_some_and(|(_, before, _)| *before > spares) {
            return Err(format!("“{name}” has fewer spares than before"));
        }
        if set.geometry.iter().any(|geometry| geometry.data.end().0 > LATEST) {
            return Err(format!("a spare of “{name}” is too large"));
        }
        for remap in remaps {
            let there = set.geometry.get(usize::from(remap.spare)).zip(Extent::new(remap.at, remap.main.len()).ok());
            if remap.main.end().0 > set.main.sectors.0 || !there.is_some_and(|(geometry, at)| geometry.data.covers(&at)) {
                return Err(format!("a remap of sectors {} of “{name}” is beyond a disk", remap.main));
            }
        }
        disjoint(remaps.iter().map(|remap| remap.main).collect())
            .map_err(|at| format!("sector {at} of “{name}” is remapped twice"))?;
        for spare in 0..spares {
            let serves = remaps.iter().filter(|remap| usize::from(remap.spare) == spare);
            disjoint(serves.map(Remap::spare_extent).collect())
                .map_err(|at| format!("sector {at} of spare {spare} of “{name}” serves twice"))?;
        }
        self.sets.insert(set.id, (set.block(), spares, remaps.len()));
        let Bounds { sets: most_sets, remaps: most_remaps, .. } = self.bounds;
        if self.sets.len() > most_sets || self.sets.values().map(|(.., remaps)| remaps).sum::<usize>() > most_remaps {
            return Err(format!("a trace has at most {most_sets} sets with {most_remaps} remaps"));
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Opened { set, remaps, capacity, .. } => self.set(set, remaps, capacity.len()),
            Event::Errors { missed, .. } if *missed > LATEST => Err(format!("{missed} records cannot have been missed")),
            Event::Errors { records, .. } => {
                match records.iter().filter_map(|record| record.main).find(|main| main.len().0 > LONGEST) {
                    Some(main) => Err(format!("sectors {main} are too many for one error")),
                    None => Ok(()),
                }
            }
            Event::Asked { set, extent } => match self.sets.get(set) {
                Some((block, ..)) if extent.len().0 > MAX_BLOCKS * block.0 => {
                    Err(format!("sectors {extent} are too many at once"))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// The sector where two overlap, if any do.
fn disjoint(mut extents: Vec<Extent>) -> Result<(), u64> {
    extents.sort();
    match extents.windows(2).find(|pair| pair[0].overlaps(&pair[1])) {
        Some(pair) => Err(pair[1].start().0),
        None => Ok(()),
    }
}
