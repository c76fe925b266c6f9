//! `remap-guardian spare inspect`.

use super::super::text::{table, tame, time};
use crate::actuate::{Access, BadCopy, DirectDevice, Examined, NoHeader, examine};
use crate::model::{Identity, Remap, Sectors, SetDescription};
use crate::runtime::words;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Remaps that are shown one by one.
const SHOWN: usize = 20;

/// Options of `spare inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads only, and needs no daemon. While the set is open the second slot of a table block may lag for a moment.

Exit status: 0 if the spare is whole, 2 if something on it is damaged, 1 if it is no spare or on error.

Examples:
  remap-guardian spare inspect /dev/sdc1
  remap-guardian spare inspect sdc1.img --json")]
pub struct Args {
    /// The disk or partition, or a file with its content
    device: PathBuf,
}

/// What is said, as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    device: &'a str,
    sectors: Sectors,
    whole: bool,
    /// At the start and at the end.
    headers: Vec<Copy>,
    set: Option<Set<'a>>,
    table: Option<Table>,
    /// What `spare repair` would write.
    repair: Vec<String>,
    /// What it could not mend.
    beyond_repair: Vec<String>,
    /// The set of which a remap table is there while both headers are lost: `restore NAME --from-history` makes them anew.
    headerless: Option<String>,
}

#[derive(Debug, Serialize)]
struct Copy {
    whole: bool,
    generation: Option<u64>,
    problem: Option<String>,
}

/// A set without its secret.
#[derive(Debug, Serialize)]
struct Set<'a> {
    id: String,
    name: &'a str,
    created_ms: u64,
    spare: u16,
    main: &'a Identity,
    spares: &'a [Identity],
    data_start: u64,
    data_sectors: u64,
}

#[derive(Debug, Serialize)]
struct Table {
    blocks: u32,
    equal: u32,
    one_slot: u32,
    older_slot: u32,
    lost: u32,
    highest_seq: u64,
    free_records: usize,
    remapped_sectors: u64,
    marked: usize,
    lost_sectors: Sectors,
    unreadable_sectors: Sectors,
    superseded: usize,
    conflicts: usize,
    remaps: Vec<Remap>,
    slots: Vec<Slot>,
}

/// A block whose slots differ.
#[derive(Debug, Serialize)]
struct Slot {
    block: u32,
    holds: u8,
    seq: u64,
    other_seq: Option<u64>,
    other_problem: Option<String>,
    only_in_holding: Vec<Remap>,
    only_in_other: Vec<Remap>,
}

/// Shows what is on the device.
pub fn main(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let io = DirectDevice::open(&args.device, Access::READ)?;
    let examined = examine(&io);
    let device = args.device.to_string_lossy();
    if matches!(examined.header, Err(NoHeader::NotOurs | NoHeader::Io(_))) && !json {
        anyhow::bail!(no_spare(&device, &examined));
    }
    let report = report(&device, &examined);
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        show(&report, &examined, &mut out)?;
    }
    Ok(exit_code(&examined))
}

fn exit_code(examined: &Examined) -> ExitCode {
    match &examined.header {
        Err(NoHeader::NotOurs | NoHeader::Io(_)) => ExitCode::FAILURE,
        _ if examined.is_whole() => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

/// Why a device without headers is none, with what may have become of them.
pub(super) fn no_spare(device: &str, examined: &Examined) -> String {
    let problems = examined.beyond_repair().join("; ");
    match &examined.stray {
        Some(place) => format!(
            "{device}: {problems}; but a remap table of set {} is there: both its headers were lost\n  next: see the name of \
             the set with “remap-guardian status --json”, then: remap-guardian restore NAME --from-history",
            place.set
        ),
        None => format!("{device}: {problems}"),
    }
}

fn report<'a>(device: &'a str, examined: &'a Examined) -> Report<'a> {
    let copies = examined.copies.iter().flatten().map(|copy| Copy {
        whole: copy.is_ok(),
        generation: copy.as_ref().ok().map(|header| header.generation),
        problem: copy.as_ref().err().map(BadCopy::to_string),
    });
    let set = examined.header.as_ref().ok().map(|found| {
        let SetDescription { id, name, main, spares, geometry, created, .. } = &found.header.set;
        let data = geometry[usize::from(found.header.spare)].data;
        Set {
            id: id.to_string(),
            name: name.as_str(),
            created_ms: created.0,
            spare: found.header.spare,
            main,
            spares,
            data_start: data.start().0,
            data_sectors: data.len().0,
        }
    });
    Report {
        device,
        sectors: examined.sectors,
        whole: examined.is_whole(),
        headers: copies.collect(),
        set,
        table: examined.table.as_ref().and_then(|table| table.as_ref().ok()).map(of_table),
        repair: examined.steps().iter().map(ToString::to_string).collect(),
        beyond_repair: examined.beyond_repair(),
        headerless: examined.stray.as_ref().map(|place| place.set.to_string()),
    }
}

fn of_table(examined: &crate::actuate::ExaminedTable) -> Table {
    let table = &examined.table;
    let lost = table.damaged().len() as u32;
    let one_slot = examined.unequal.iter().filter(|block| block.other.is_err()).count() as u32;
    let older_slot = examined.unequal.len() as u32 - one_slot;
    let slot = |block: &crate::actuate::Unequal| Slot {
        block: block.index,
        holds: block.current,
        seq: block.seq,
        other_seq: block.other.as_ref().ok().copied(),
        other_problem: block.other.as_ref().err().map(ToString::to_string),
        only_in_holding: block.gained.clone(),
        only_in_other: block.dropped.clone(),
    };
    Table {
        blocks: examined.blocks,
        equal: examined.blocks - lost - examined.unequal.len() as u32,
        one_slot,
        older_slot,
        lost,
        highest_seq: examined.top,
        free_records: table.free_records(),
        remapped_sectors: table.remaps().map(|remap| remap.main.len().0).sum(),
        marked: table.remaps().filter(|remap| remap.flags.marked).count(),
        lost_sectors: examined.lost,
        unreadable_sectors: examined.unreadable,
        superseded: table.superseded().len(),
        conflicts: table.conflicts().len(),
        remaps: table.remaps().copied().collect(),
        slots: examined.unequal.iter().map(slot).collect(),
    }
}

fn show(report: &Report, examined: &Examined, out: &mut impl Write) -> anyhow::Result<()> {
    let mut rows = table(&[]);
    let mut row = |what: &str, words: String| {
        rows.add_row([what.to_string(), tame(&words)]);
    };
    row("device", format!("{}, {} sectors ({})", report.device, report.sectors, report.sectors.human()));
    for (place, copy) in ["header at start", "header at end"].into_iter().zip(&report.headers) {
        let words = match (copy.generation, &copy.problem) {
            (Some(generation), _) => format!("whole, generation {generation}"),
            (None, problem) => problem.clone().unwrap_or_default(),
        };
        row(place, words);
    }
    if let Some(set) = &report.set {
        row("set", format!("{} ({}), made {}", set.name, set.id, time(crate::model::Millis(set.created_ms))));
        row("main", member(set.main));
        for (index, spare) in set.spares.iter().enumerate() {
            let this = if index == usize::from(set.spare) { ", this one" } else { "" };
            row(&format!("spare {index}"), format!("{}{this}", member(spare)));
        }
        row("data", format!("{} sectors from sector {}", set.data_sectors, set.data_start));
    }
    if let Some(table) = &report.table {
        let Table { blocks, equal, one_slot, older_slot, lost, highest_seq, free_records, .. } = table;
        let states = format!("{equal} whole, {older_slot} with an older slot, {one_slot} with one slot, {lost} lost");
        row("table", format!("{blocks} blocks: {states}; highest number {highest_seq}, {free_records} records free"));
        row("remaps", format!("{}, {} sectors", table.remaps.len(), table.remapped_sectors));
        let unread = match table.unreadable_sectors.0 {
            0 => String::new(),
            count => format!(", {count} could not be read here"),
        };
        let marks = format!("{} sectors, in {} remaps that may hold lost ones{unread}", table.lost_sectors, table.marked);
        row("lost", marks);
        if table.superseded + table.conflicts > 0 {
            row("records", format!("{} replaced by newer ones, {} in contradiction", table.superseded, table.conflicts));
        }
        for remap in table.remaps.iter().take(SHOWN) {
            let marks = if remap.flags.marked { ", may hold lost sectors" } else { "" };
            row("remap", format!("main {} at {}, #{}{marks}", remap.main, remap.at, remap.seq));
        }
        if table.remaps.len() > SHOWN {
            row("remap", format!("… and {} more (--json lists all)", table.remaps.len() - SHOWN));
        }
        for slot in &table.slots {
            let differences = slot.only_in_holding.iter().map(|remap| format!("main {} is new", remap.main));
            let differences = differences.chain(slot.only_in_other.iter().map(|remap| format!("main {} is gone", remap.main)));
            for difference in differences.take(SHOWN) {
                row(&format!("block {}", slot.block), difference);
            }
        }
    }
    if let Some(place) = examined.stray {
        let next = "restore NAME --from-history makes the headers anew";
        row("table", format!("a table block of set {}, without a header that counts: {next}", place.set));
    }
    writeln!(out, "{}", rows.trim_fmt())?;
    if !report.repair.is_empty() {
        writeln!(out, "\nremap-guardian spare repair {} would:", report.device)?;
        report.repair.iter().try_for_each(|step| writeln!(out, "  {}", tame(step)))?;
    }
    if !report.beyond_repair.is_empty() {
        writeln!(out, "\nbeyond repair:")?;
        report.beyond_repair.iter().try_for_each(|problem| writeln!(out, "  {}", tame(problem)))?;
    }
    if report.whole {
        writeln!(out, "\nit is whole")?;
    }
    Ok(())
}

fn member(identity: &Identity) -> String {
    let Identity { logical_block, physical_block, .. } = identity;
    format!("{} ({} sectors), blocks of {logical_block}/{physical_block} bytes", words(identity), identity.sectors)
}
