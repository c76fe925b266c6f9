//! Main without its spare: a linear map of main in which every sector known as remapped fails.
//!
//! It has the set's name, so that mounts find it, but a UUID of its own, which is no set's: nobody takes it for the set's device.
//! Nothing is cured on it and no daemon serves it.

use super::activate::{self, ActivateError, Active};
use super::target_text::UUID_PREFIX;
use crate::dm::{BadTable, Mapper, Name, Table, Uuid};
use crate::model::{Extent, Sectors, SetDescription, SetId};
use std::fmt;

/// A degraded device that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Its name.
    pub name: String,
    /// Major and minor number.
    pub devno: (u32, u32),
    /// Sectors of main that fail.
    pub failing: Sectors,
    /// Ranges that they make.
    pub ranges: usize,
    /// Nobody can write to it.
    pub read_only: bool,
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Degraded { name, failing, ranges, read_only, .. } = self;
        let writes = if *read_only { "read-only" } else { "writes go to main" };
        write!(
            f,
            "DEGRADED: open without its spare: {failing} sectors in {ranges} ranges fail because they had moved there, nothing is \
             cured; {writes}; to leave it: unmount it, “dmsetup remove {name}”, then “remap-guardian restore {name}”"
        )
    }
}

/// The device-mapper UUID of the degraded device of a set.
pub fn dm_uuid(set: SetId) -> String {
    format!("{UUID_PREFIX}DEGRADED-{set}")
}

/// The degraded device of a set, if there is one.
pub fn find(set: SetId) -> Result<Option<Degraded>, String> {
    let Active { name, devno, .. } = match activate::find_uuid(&dm_uuid(set)) {
        // Without device-mapper there is no device.
        Ok(None) | Err(ActivateError::NoDeviceMapper(_)) => return Ok(None),
        Ok(Some(active)) => active,
        Err(error) => return Err(text(error)),
    };
    let mapper = Mapper::new().map_err(text)?;
    let kernel_name = Name::new(&name).map_err(text)?;
    let lines = mapper.table(&kernel_name, false).map_err(text)?;
    let failing: Vec<u64> = lines.iter().filter(|line| line.target.kind() == "error").map(|line| line.length).collect();
    let read_only = mapper.info(&kernel_name).map_err(text)?.read_only;
    Ok(Some(Degraded { name, devno, failing: Sectors(failing.iter().sum()), ranges: failing.len(), read_only }))
}

/// Makes the degraded device of a set on main: `failing` are the ranges of main whose content is elsewhere. When this fails,
/// there is none.
pub fn open(set: &SetDescription, main: (u32, u32), failing: &[Extent], read_only: bool) -> Result<(), String> {
    let table: Table = table(set.main.sectors, main, failing).parse().map_err(text::<BadTable>)?;
    let name = Name::new(set.name.as_str()).map_err(text)?;
    let uuid = Uuid::new(&dm_uuid(set.id)).map_err(text)?;
    Mapper::new().and_then(|mapper| mapper.create(&name, Some(&uuid), Some(&table), read_only)).map(drop).map_err(text)
}

/// The table: main, with `error` in the place of the ranges.
fn table(sectors: Sectors, main: (u32, u32), failing: &[Extent]) -> String {
    let clipped = failing.iter().map(|range| (range.start().0, range.end().0.min(sectors.0)));
    let mut ranges: Vec<(u64, u64)> = clipped.filter(|(start, end)| start < end).collect();
    ranges.sort_unstable();
    let mut lines = Vec::new();
    let mut next = 0;
    let linear = |lines: &mut Vec<String>, from: u64, to: u64| {
        if from < to {
            lines.push(format!("{from} {} linear {}:{} {from}", to - from, main.0, main.1));
        }
    };
    let mut ranges = ranges.into_iter().peekable();
    while let Some((start, mut end)) = ranges.next() {
        // Neighbours and overlaps are one range.
        while let Some((_, more)) = ranges.next_if(|(start, _)| *start <= end) {
            end = end.max(more);
        }
        linear(&mut lines, next, start);
        lines.push(format!("{start} {} error", end - start));
        next = end;
    }
    linear(&mut lines, next, sectors.0);
    lines.join("\n")
}

fn text<E: fmt::Display>(error: E) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::target_text::{is_ours, set_of};
    use crate::model::Sector;
    use proptest::prelude::*;

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    #[test]
    fn nobody_takes_it_for_the_sets_device() {
        let set = SetId(uuid::Uuid::from_u128(7));
        let uuid = dm_uuid(set);
        assert_ne!(uuid, crate::actuate::target_text::dm_uuid(set));
        assert_eq!(set_of(&uuid), None);
        assert!(is_ours(&uuid), "nor for a disk that can be a member");
        assert!(Uuid::new(&uuid).is_ok());
    }

    #[test]
    fn ranges_fail_and_the_rest_is_main() {
        let table = |failing: &[Extent]| super::table(Sectors(100), (8, 16), failing);
        assert_eq!(table(&[]), "0 100 linear 8:16 0");
        assert_eq!(
            table(&[extent(40, 8), extent(8, 8), extent(16, 8), extent(12, 4)]),
            "0 8 linear 8:16 0\n8 16 error\n24 16 linear 8:16 24\n40 8 error\n48 52 linear 8:16 48"
        );
        assert_eq!(table(&[extent(0, 8), extent(96, 8)]), "0 8 error\n8 88 linear 8:16 8\n96 4 error");
        assert_eq!(table(&[extent(200, 8)]), "0 100 linear 8:16 0");
    }

    proptest! {
        #[test]
        fn every_sector_is_itself_or_fails(ranges in proptest::collection::vec((0u64..300, 1u64..40), 0..20)) {
            let failing: Vec<Extent> = ranges.iter().map(|&(start, len)| extent(start, len)).collect();
            let text = super::table(Sectors(256), (8, 16), &failing);
            prop_assert!(text.parse::<Table>().is_ok(), "{text}");
            let mut next = 0;
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                let (start, len): (u64, u64) = (words[0].parse().unwrap(), words[1].parse().unwrap());
                prop_assert_eq!(start, next);
                next = start + len;
                for sector in start..next {
                    let fails = failing.iter().any(|range| range.contains(Sector(sector)));
                    prop_assert_eq!(words[2] == "error", fails, "sector {}: {}", sector, line);
                }
                prop_assert!(words[2] == "error" || words[4] == words[0]);
            }
            prop_assert_eq!(next, 256);
        }
    }
}
