//! The partitions of a mapped device. The kernel looks for none on device-mapper devices, so each gets a linear map of its own,
//! named and numbered as kpartx does it: `/dev/mapper/data1`, with the UUID `part1-<UUID of the mapped device>`, by which udev's
//! rules, `lsblk` and libblkid know it for a partition.

use super::activate::Active;
use super::target_text::dm_uuid;
use crate::dm::{Error, Info, Mapper, Name, Table, Uuid};
use crate::model::{SetId, SetName};
use std::collections::BTreeMap;

/// A partition as a partition table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// First sector of 512 bytes.
    pub start: u64,
    /// Sectors of 512 bytes.
    pub sectors: u64,
}

/// Name of the map of a partition: `data1`, but `disk2p1`.
pub fn map_name(set: &str, number: u32) -> String {
    let digit = set.ends_with(|c: char| c.is_ascii_digit());
    format!("{set}{}{number}", if digit { "p" } else { "" })
}

/// `whole` is the UUID of the whole mapped device.
fn map_uuid(whole: &str, number: u32) -> String {
    format!("part{number}-{whole}")
}

/// The number of the partition whose map has this UUID.
fn number_of(whole: &str, uuid: &str) -> Option<u32> {
    uuid.strip_suffix(&format!("-{whole}"))?.strip_prefix("part")?.parse().ok()
}

/// The device of a set, with its UUID, which may be a degraded one.
fn whole_of(set: SetId) -> Result<Option<(String, Active)>, String> {
    for uuid in [dm_uuid(set), super::degraded::dm_uuid(set)] {
        if let Some(active) = super::activate::find_uuid(&uuid).map_err(text)? {
            return Ok(Some((uuid, active)));
        }
    }
    Ok(None)
}

/// Makes the maps follow the partition table. One that is in use stays as it is. Says what was changed, and what could not be.
pub fn follow(set: SetId, name: &SetName, table: &[Partition]) -> Result<Vec<String>, String> {
    let mapper = Mapper::new().map_err(text)?;
    let Some((whole, Active { devno, .. })) = whole_of(set)? else { return Ok(Vec::new()) };
    let mut said = Vec::new();
    let mut there = maps(&mapper, &whole)?;
    for partition in table {
        let (number, start, sectors) = (partition.number, partition.start, partition.sectors);
        let wanted = format!("0 {sectors} linear {}:{} {start}", devno.0, devno.1);
        if let Some(old) = there.remove(&number) {
            let lines = mapper.table(&old.name, false).map_err(text)?;
            if lines.iter().map(ToString::to_string).eq([wanted.clone()]) {
                continue;
            }
            match mapper.remove(&old.name) {
                Ok(()) => {}
                Err(error) => {
                    said.push(format!("partition {number} has changed in the partition table but is in use as it was: {error}"));
                    continue;
                }
            }
        }
        match make(&mapper, &whole, name, number, &wanted) {
            Ok(map) => said.push(format!("partition {number} is /dev/mapper/{map}")),
            Err(error) => said.push(format!("partition {number} cannot be used: {error}")),
        }
    }
    for (number, old) in there {
        match mapper.remove(&old.name) {
            Ok(()) => said.push(format!("partition {number} is gone")),
            Err(error) => said.push(format!("partition {number} is gone from the partition table but in use: {error}")),
        }
    }
    Ok(said)
}

/// Removes all maps of a set, so that its device can be removed.
pub fn remove_all(set: SetId) -> Result<(), String> {
    let mapper = Mapper::new().map_err(text)?;
    maps(&mapper, &dm_uuid(set))?.values().try_for_each(|map| mapper.remove(&map.name)).map_err(text)
}

fn make(mapper: &Mapper, whole: &str, name: &SetName, number: u32, table: &str) -> Result<Name, String> {
    let map = Name::new(&map_name(name.as_str(), number)).map_err(text)?;
    let uuid = Uuid::new(&map_uuid(whole, number)).map_err(text)?;
    let table: Table = table.parse().map_err(text::<crate::dm::BadTable>)?;
    mapper.create(&map, Some(&uuid), Some(&table), false).map_err(text)?;
    Ok(map)
}

fn maps(mapper: &Mapper, whole: &str) -> Result<BTreeMap<u32, Info>, String> {
    let mut found = BTreeMap::new();
    for listed in mapper.list().map_err(text)? {
        let info = match mapper.info(&listed.name) {
            // It went away in between.
            Err(Error::Missing(_)) => continue,
            other => other.map_err(text)?,
        };
        if let Some(number) = info.uuid.as_ref().and_then(|uuid| number_of(whole, uuid.as_str())) {
            found.insert(number, info);
        }
    }
    Ok(found)
}

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_named_as_kpartx_names_them() {
        assert_eq!((map_name("data", 1), map_name("disk2", 12)), ("data1".into(), "disk2p12".into()));
        let set = |number| dm_uuid(SetId(uuid::Uuid::from_u128(number)));
        assert_eq!(number_of(&set(7), &map_uuid(&set(7), 12)), Some(12));
        for other in [map_uuid(&set(8), 1), set(7), format!("partx-{}", set(7))] {
            assert_eq!(number_of(&set(7), &other), None, "{other}");
        }
    }
}
