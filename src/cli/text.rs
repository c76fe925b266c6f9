//! How numbers, times and tables look to people.

use crate::model::{Millis, Sectors};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::tz::TimeZone;

/// A local time to the second.
pub fn time(at: Millis) -> String {
    match jiff::Timestamp::from_millisecond(at.0 as i64) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{} ms", at.0),
    }
}

/// A size with a binary unit.
pub fn size(sectors: Sectors) -> String {
    let bytes = sectors.bytes();
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, shift)| bytes >> shift >= 1) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(Sectors(1)), "512 B");
        assert_eq!(size(Sectors(8)), "4.0 KiB");
        assert_eq!(size(Sectors(3 << 20)), "1.5 GiB");
    }
}
