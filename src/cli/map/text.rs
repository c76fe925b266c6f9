//! The map files of GNU ddrescue, read and written: a status line, then what became of each range, in bytes.
//!
//! The form is that of its manual, “Mapfile structure”. A map is somebody's word about a disk: nothing here is believed.

use crate::model::surface::{Area, Known};
use crate::model::{Extent, Sector, Sectors};
use std::fmt::Write;

/// The largest file that is read, bytes.
pub const MOST_BYTES: u64 = 64 << 20;

/// Positions are at most this: ddrescue counts in signed numbers.
const FAR: u64 = i64::MAX as u64;

/// What is wrong with a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct MapError {
    /// Counted from 1.
    pub line: usize,
    /// In words.
    pub what: String,
}

/// What ddrescue says of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `?`: not tried.
    NonTried,
    /// `*`: failed, and not trimmed.
    NonTrimmed,
    /// `/`: failed, trimmed and not read sector by sector.
    NonScraped,
    /// `-`: does not read.
    Bad,
    /// `+`: was read.
    Finished,
}

impl Status {
    fn of(word: &str) -> Option<Status> {
        Some(match word {
            "?" => Status::NonTried,
            "*" => Status::NonTrimmed,
            "/" => Status::NonScraped,
            "-" => Status::Bad,
            "+" => Status::Finished,
            _ => return None,
        })
    }

    /// Whether reading there has failed.
    fn is_suspect(self) -> bool {
        matches!(self, Status::NonTrimmed | Status::NonScraped | Status::Bad)
    }
}

/// One line of a map's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its line in the file, from 1.
    pub line: usize,
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// What became of it.
    pub status: Status,
}

/// Reads a map. Its rows are in order and without gaps, as ddrescue itself asks for.
pub fn parse(bytes: &[u8]) -> Result<Vec<Row>, MapError> {
    let mut rows: Vec<Row> = Vec::new();
    let mut begun = false;
    let text = String::from_utf8_lossy(bytes);
    let mut last = 0;
    for (index, line) in text.split('\n').enumerate() {
        last = index + 1;
        let fail = |what: String| MapError { line: index + 1, what };
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        if words.is_empty() {
            continue;
        }
        if !begun {
            status_line(&words).map_err(fail)?;
            begun = true;
            continue;
        }
        let row = row(&words, index + 1).map_err(fail)?;
        let reached = rows.last().map_or(row.start, |before| before.end);
        if row.start < reached {
            return Err(fail(format!("it begins at byte {:#x}, within the line before, which ends at {reached:#x}", row.start)));
        }
        if row.start > reached {
            return Err(fail(format!("it begins at byte {:#x}, and the line before ends at {reached:#x}: a gap", row.start)));
        }
        rows.push(row);
    }
    if !begun {
        return Err(MapError { line: last, what: "the file ends without a status line: it is no map of ddrescue".into() });
    }
    Ok(rows)
}

/// `pos status [pass]`.
fn status_line(words: &[&str]) -> Result<(), String> {
    let form = || format!("“{}” is no status line (a position, one of ? * / - F G +, the number of the pass)", shown(words));
    let (&[position, status], pass) = words.split_first_chunk::<2>().ok_or_else(form)?;
    number(position).ok_or_else(form)?;
    let known = status.len() == 1 && "?*/-FG+".contains(status);
    let counted = match pass {
        [] => true,
        [pass] => pass.bytes().all(|c| c.is_ascii_digit()) && number(pass).is_some_and(|pass| pass > 0),
        _ => false,
    };
    if known && counted { Ok(()) } else { Err(form()) }
}

/// `pos size status`.
fn row(words: &[&str], line: usize) -> Result<Row, String> {
    let form = || format!("“{}” is no range (a position, a size in bytes, one of ? * / - +)", shown(words));
    let &[position, size, status] = words else { return Err(form()) };
    let (start, size) = number(position).zip(number(size)).ok_or_else(form)?;
    let status = Status::of(status).ok_or_else(form)?;
    if size == 0 {
        return Err(format!("“{}” is a range of no bytes", shown(words)));
    }
    let end = start.checked_add(size).filter(|end| *end <= FAR);
    let end = end.ok_or_else(|| format!("“{}” ends beyond what a position can be", shown(words)))?;
    Ok(Row { line, start, end, status })
}

/// A number as C writes it: decimal, `0x` and hexadecimal, `0` and octal; at most [`FAR`].
fn number(word: &str) -> Option<u64> {
    let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if word.len() > 1 && word.starts_with('0') => (&word[1..], 8),
        None => (word, 10),
    };
    // from_str_radix would take a sign.
    let plain = digits.bytes().all(|c| c.is_ascii_alphanumeric());
    u64::from_str_radix(digits, radix).ok().filter(|number| plain && *number <= FAR)
}

/// The words of a line, for an error.
fn shown(words: &[&str]) -> String {
    let text = words.join(" ");
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// The ranges, in whole sectors, of which a map says that reading has failed there; in order, neighbours joined.
///
/// It is of another device if it says something of bytes beyond `size`.
pub fn suspects(rows: &[Row], size: Sectors) -> Result<Vec<Extent>, MapError> {
    let mut found: Vec<Extent> = Vec::new();
    for row in rows.iter().filter(|row| row.status != Status::NonTried) {
        let fail = |what: String| MapError { line: row.line, what };
        if row.end > size.bytes() {
            return Err(fail(format!(
                "it ends at byte {:#x}, but the device has {:#x}: the map is of another one",
                row.end,
                size.bytes()
            )));
        }
        if !row.status.is_suspect() {
            continue;
        }
        let (start, end) = (row.start / 512, row.end.div_ceil(512));
        let Ok(extent) = Extent::new(Sector(start), Sectors(end - start)) else { continue };
        // A sector may hold the end of one range and the beginning of the next.
        extent.add_to(&mut found);
    }
    Ok(found)
}

/// A map of what is known of a device. What a spare serves is as good as read.
pub fn write(areas: &[Area], heading: &[String]) -> String {
    let mut text = String::new();
    for line in heading {
        writeln!(text, "# {}", line.replace(|c: char| c.is_control(), " ")).expect("a string takes it");
    }
    let rows: Vec<(Extent, char)> = areas.iter().map(|area| (area.extent, letter(area.known))).collect();
    // As ddrescue says it of a map that is to be gone on with: where the next read begins, in the first pass.
    let next = rows.iter().find(|(_, letter)| *letter == '?').map(|(extent, _)| extent.start());
    let (position, status) = (next.unwrap_or(Sector(0)), if next.is_some() { '?' } else { '+' });
    let byte = |sector: Sector| sector.bytes().unwrap_or(FAR);
    writeln!(text, "# current_pos  current_status  current_pass\n{:#010x}     {status}               1", byte(position))
        .expect("a string takes it");
    text.push_str("#      pos        size  status\n");
    let mut rows = rows.into_iter().peekable();
    while let Some((mut extent, letter)) = rows.next() {
        // Two kinds may have one letter.
        while let Some(joined) = rows.peek().filter(|next| next.1 == letter).and_then(|next| extent.join(&next.0)) {
            extent = joined;
            rows.next();
        }
        writeln!(text, "{:#010x}  {:#010x}  {letter}", byte(extent.start()), extent.len().bytes()).expect("a string takes it");
    }
    text
}

fn letter(known: Known) -> char {
    match known {
        Known::Unknown => '?',
        Known::Read | Known::Remapped => '+',
        Known::Bad => '-',
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
