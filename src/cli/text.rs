//! How numbers, times and tables look to people.

use crate::model::Millis;
use comfy_table::{ContentArrangement, Table, presets};
use jiff::tz::TimeZone;
use std::io::{BufRead, IsTerminal, Write};

/// A local time to the second.
pub fn time(at: Millis) -> String {
    match jiff::Timestamp::from_millisecond(at.0 as i64) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{} ms", at.0),
    }
}

/// Text from a disk, without the control characters that a terminal would obey.
pub fn tame(text: &str) -> String {
    let tame = |c: char| if c.is_control() { c.escape_unicode().collect() } else { c.to_string() };
    text.chars().map(tame).collect()
}

/// Asks on the terminal whether to go on; without one nobody is there to say yes.
pub fn confirm(question: &str) -> std::io::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// A table without lines that aligns and fits the terminal.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header.iter().map(|cell| cell.to_uppercase()));
    }
    table
}
