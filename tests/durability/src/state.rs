//! Judges a spare as it was at a moment: with the code that opens a set, and against what was acknowledged by then.

use super::content::{Found, SECTOR, found_on_spare};
use super::oracle::{Moved, Oracle};
use super::plan::BLOCK;
use super::spare::Spare;
use remap_guardian::actuate::{SpareTable, read_header};
use remap_guardian::edge::BlockIo;
use remap_guardian::model::{Extent, Remap, Sector, SetDescription};
use std::collections::BTreeMap;

/// What must hold at every moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The set can be opened: header and table are whole.
    Opens,
    /// A remap that an acknowledged write needs is in the table.
    Durable,
    /// A sector holds what was acknowledged, a later write, or is lost where it may be; nothing else.
    Content,
    /// No sector of the spare serves two of main, now or one after the other.
    Single,
    /// Nothing moved but what a write was begun for.
    Begun,
    /// Bringing the second slots up to date, as the next start does, changes nothing.
    Mended,
}

/// All of them, with what they are in words.
pub const RULES: [(Rule, &str); 6] = [
    (Rule::Opens, "the set opens"),
    (Rule::Durable, "what was acknowledged is in the table"),
    (Rule::Content, "no wrong content, and none that was acknowledged is missing"),
    (Rule::Single, "a spare sector serves one main sector"),
    (Rule::Begun, "nothing moved that no write was begun for"),
    (Rule::Mended, "the next start changes nothing of it"),
];

/// What is wrong.
pub type Wrong = (Rule, String);

/// What spare sectors served so far, by first one.
#[derive(Default)]
pub struct Served(BTreeMap<u64, Extent>);

/// Reads who the spare is and its table, as whoever opens the set does.
pub fn open(spare: &Spare) -> Result<(SetDescription, SpareTable), String> {
    let set = read_header(spare).map_err(|error| error.to_string())?.header.set;
    let table = SpareTable::open(spare, &set, 0).map_err(|error| error.to_string())?;
    table.check()?;
    Ok((set, table))
}

/// Judges the moment. Before `create` has ended, it may be no spare yet.
pub fn judge(spare: &Spare, oracle: &Oracle, created: bool, served: &mut Served) -> Vec<Wrong> {
    if !created && read_header(spare).is_err() {
        return Vec::new();
    }
    let (set, table) = match open(spare) {
        Ok(open) => open,
        Err(why) => return vec![(Rule::Opens, why)],
    };
    let remaps: Vec<Remap> = table.remaps().copied().collect();
    let mut wrong = Vec::new();
    in_table(&table, oracle, &mut wrong);
    single(&table, &set, &remaps, served, &mut wrong);
    for remap in &remaps {
        begun(remap, oracle, &mut wrong);
        content(spare, &set, remap, oracle, &mut wrong);
    }
    wrong
}

/// Whether the table is the same when a start has mended it. The spare is left as it was.
pub fn judge_mended(spare: &Spare) -> Vec<Wrong> {
    let Ok((set, mut table)) = open(spare) else { return Vec::new() };
    let before = spare.bytes().clone();
    let remaps: Vec<Remap> = table.remaps().copied().collect();
    let mended = table.mirror(spare).map_err(|error| error.to_string()).and_then(|()| open(spare));
    spare.bytes().copy_from_slice(&before);
    match mended {
        Ok((again, table)) if again == set && table.remaps().eq(&remaps) && table.single() == 0 => Vec::new(),
        Ok(_) => vec![(Rule::Mended, format!("it had {} remaps before", remaps.len()))],
        Err(why) => vec![(Rule::Mended, why)],
    }
}

/// Whether each sector of the spare serves one of main, now and since `served` began.
pub fn judge_single(table: &SpareTable, set: &SetDescription, served: &mut Served) -> Vec<Wrong> {
    let remaps: Vec<Remap> = table.remaps().copied().collect();
    let mut wrong = Vec::new();
    single(table, set, &remaps, served, &mut wrong);
    wrong
}

fn in_table(table: &SpareTable, oracle: &Oracle, wrong: &mut Vec<Wrong>) {
    for (block, _) in oracle.blocks().filter(|(_, moved)| *moved == Moved::Yes) {
        if let Some(missing) = (block..block + BLOCK).find(|main| table.find(Sector(*main)).is_none()) {
            wrong.push((
                Rule::Durable,
                format!("main sector {missing} is in no remap, and a write to its block was acknowledged"),
            ));
        }
    }
}

fn single(table: &SpareTable, set: &SetDescription, remaps: &[Remap], served: &mut Served, wrong: &mut Vec<Wrong>) {
    let mut by_spare: Vec<&Remap> = remaps.iter().collect();
    by_spare.sort_by_key(|remap| remap.at);
    let shares = |a: &Remap, b: &Remap| format!("main {} and main {} share sectors", a.main, b.main);
    let pairs = by_spare.windows(2).filter(|two| two[0].spare_extent().overlaps(&two[1].spare_extent()));
    wrong.extend(pairs.map(|two| (Rule::Single, shares(two[0], two[1]))));
    let pairs = remaps.windows(2).filter(|two| two[0].main.overlaps(&two[1].main));
    wrong.extend(pairs.map(|two| (Rule::Single, shares(&two[0], &two[1]))));
    for remap in remaps {
        if !set.geometry[0].data.covers(&remap.spare_extent()) {
            wrong.push((Rule::Single, format!("main {} is at {}, where no data is", remap.main, remap.at)));
        }
        let first = *served.0.entry(remap.at.0).or_insert(remap.main);
        if first != remap.main {
            wrong.push((Rule::Single, format!("spare sector {} served main {first}, and now main {}", remap.at, remap.main)));
        }
    }
    if let Some(superseded) = table.superseded().first() {
        wrong.push((Rule::Single, format!("main {} has two records", superseded.main)));
    }
}

fn begun(remap: &Remap, oracle: &Oracle, wrong: &mut Vec<Wrong>) {
    let blocks = (remap.main.start().0..remap.main.end().0).step_by(BLOCK as usize);
    wrong.extend(
        blocks
            .filter(|block| oracle.moved(block - block % BLOCK) == Moved::No)
            .map(|block| (Rule::Begun, format!("main sector {block} is in the remap of {}", remap.main))),
    );
}

fn content(spare: &Spare, set: &SetDescription, remap: &Remap, oracle: &Oracle, wrong: &mut Vec<Wrong>) {
    let mut bytes = vec![0; remap.main.len().bytes() as usize];
    if let Err(error) = spare.read(remap.at, &mut bytes) {
        wrong.push((Rule::Content, error.to_string()));
        return;
    }
    for (main, bytes) in (remap.main.start().0..).zip(bytes.chunks(SECTOR)) {
        let found = found_on_spare(&set.secret, main, bytes);
        let judged = match found {
            Found::Lost if !remap.flags.marked => Err(format!("main sector {main} has a lost mark that nobody looks for")),
            found => oracle.judge(main, found),
        };
        wrong.extend(judged.err().map(|why| (Rule::Content, why)));
    }
}
