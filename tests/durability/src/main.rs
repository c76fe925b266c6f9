//! Is the spare right at every moment? In User Mode Linux (`init.sh`) a set's spare lies on dm-log-writes, which records each
//! write, when it was durable, and what the workload knew to be acknowledged. On the host the spare is rebuilt as it was after
//! each entry of that log, and opened by the code that opens a set.

mod activate;
mod content;
mod cuts;
mod log;
mod mark;
mod oracle;
mod plan;
mod replay;
mod spare;
mod state;
mod work;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use remap_guardian::actuate::{Access, DirectDevice};
use remap_guardian::dm::{Mapper, Name};
use remap_guardian::edge::BlockIo;
use remap_guardian::model::Sector;
use std::path::{Path, PathBuf};

/// Sectors of main and spare that are filled or read at once.
const BATCH: u64 = 256;

/// A write to a bad sector fails so often, and then no more. More than a workload and its starts need.
const FAILS: u64 = 255;

/// Replays every moment of a spare's life
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Write what is on main and on the spare at first
    Fill { main: PathBuf, spare: PathBuf },
    /// Make the bad sectors of a dm-dust device bad
    Spoil {
        device: String,
        #[command(flatten)]
        places: Places,
    },
    /// Write to a set's device, with marks in the log of its spare
    Work {
        device: PathBuf,
        log_device: String,
        #[command(flatten)]
        places: Places,
    },
    /// Judge the spare as of every entry of a log: a line with “ok” or “FAIL” for each rule
    Replay {
        log: PathBuf,
        /// Sectors of the spare
        #[arg(long)]
        sectors: u64,
        /// Moments between two entries, for each
        #[arg(long, default_value_t = 4)]
        torn: usize,
        /// Chooses them
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Cut the power of a set's disks so often, and judge what the program makes of what is left
    Cuts {
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        cuts: usize,
        program: PathBuf,
    },
    /// Print entries of a log after `create`, evenly spread
    Choose { log: PathBuf, count: usize },
    /// Write the spare as it was after so many entries
    Put { log: PathBuf, entries: usize, spare: PathBuf },
    /// Look through the device of a set that was opened from it
    Look {
        log: PathBuf,
        entries: usize,
        device: PathBuf,
        /// Sectors of the spare
        #[arg(long)]
        sectors: u64,
    },
}

/// Where main is bad.
#[derive(clap::Args)]
struct Places {
    /// Chooses the bad places of main
    #[arg(long)]
    seed: u64,
    /// Number of bad places
    #[arg(long)]
    places: u64,
}

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Fill { main, spare } => fill(&main, &spare)?,
        Verb::Spoil { device, places } => spoil(&device, &places)?,
        Verb::Work { device, log_device, places } => {
            let (seed, count) = (places.seed, places.places);
            work::Marker::new(&log_device)?.mark(mark::Mark::Created { seed, places: count })?;
            work::run(seed, count, &device, &log_device)?;
        }
        Verb::Replay { log, sectors, torn, seed } => judge(&log, sectors, torn, seed)?,
        Verb::Cuts { seed, cuts, program } => cuts::run(seed, cuts, &program)?,
        Verb::Choose { log, count } => choose(&log, count)?,
        Verb::Put { log, entries, spare } => put(&log, entries, &spare)?,
        Verb::Look { log, entries, device, sectors } => activate::check(&log::read(&log)?, entries, sectors, &device)?,
    }
    Ok(())
}

fn fill(main: &Path, spare: &Path) -> Result<()> {
    let (main, spare) = (DirectDevice::open(main, Access::SOLE)?, DirectDevice::open(spare, Access::SOLE)?);
    for at in (0..main.size().0).step_by(BATCH as usize) {
        main.write(Sector(at), &content::sectors(content::INITIAL, at, BATCH.min(main.size().0 - at)))?;
    }
    write_all(&spare, &spare::Spare::new(spare.size().0).bytes())
}

fn write_all(device: &DirectDevice, bytes: &[u8]) -> Result<()> {
    for (number, bytes) in (0..).zip(bytes.chunks(BATCH as usize * content::SECTOR)) {
        device.write(Sector(number * BATCH), bytes)?;
    }
    Ok(device.flush()?)
}

fn spoil(device: &str, places: &Places) -> Result<()> {
    let (mapper, device) = (Mapper::new()?, Name::new(device)?);
    for sector in plan::places(places.seed, places.places).iter().flat_map(|place| &place.bad) {
        mapper.message(&device, 0, &format!("addbadblock {sector} {FAILS}"))?;
    }
    mapper.message(&device, 0, "enable")?;
    Ok(())
}

fn judge(log: &Path, sectors: u64, torn: usize, seed: u64) -> Result<()> {
    let report = replay::replay(&log::read(log)?, sectors, torn, seed)?;
    report.told.iter().for_each(|text| println!("{text}"));
    let all = report.moments + report.torn;
    println!("## {} moments after an entry, {} torn ones; {} blocks moved", report.moments, report.torn, report.moved);
    for (rule, text) in state::RULES {
        match report.broken.get(&rule) {
            None => println!("ok {text}"),
            Some(count) => println!("FAIL {text}: not so in {count} of {all} moments"),
        }
    }
    Ok(())
}

fn choose(log: &Path, count: usize) -> Result<()> {
    let entries = log::read(log)?;
    let is_created = |entry: &log::Entry| matches!(entry, log::Entry::Mark(text) if text.starts_with("created"));
    let first = entries.iter().position(is_created).context("the log has no mark “created”")? + 1;
    (0..count).for_each(|number| println!("{}", first + number * (entries.len() - first) / count.max(1)));
    Ok(())
}

fn put(log: &Path, entries: usize, spare: &Path) -> Result<()> {
    let device = DirectDevice::open(spare, Access::SOLE)?;
    let moment = replay::Moment::after(&log::read(log)?, device.size().0, entries)?;
    let bytes = moment.spare.bytes();
    write_all(&device, &bytes)
}
