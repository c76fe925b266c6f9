//! A set: one main device and its spares, and how each member is recognised.

use super::units::{Extent, Sector, Sectors};
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The identity of a set, written in every header. Random, made by `create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SetId(pub Uuid);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// The name of a set and of its device under `/dev/mapper`: 1 to 63 of `A–Z a–z 0–9 _ . -`, not starting with `-` or `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SetName(String);

/// A name that cannot be a set's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("“{0}” cannot be a name: use 1 to 63 letters, digits, “_”, “.” or “-”, starting with a letter, a digit or “_”")]
pub struct BadName(pub String);

impl SetName {
    /// Checks and takes a name.
    pub fn new(name: impl Into<String>) -> Result<SetName, BadName> {
        let name = name.into();
        let good = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
        let starts_well = name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
        if starts_well && name.len() <= 63 && name.bytes().all(good) { Ok(SetName(name)) } else { Err(BadName(name)) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SetName {
    type Error = BadName;
    fn try_from(name: String) -> Result<Self, BadName> {
        SetName::new(name)
    }
}

impl From<SetName> for String {
    fn from(name: SetName) -> String {
        name.0
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The key of a set's lost marks (SipHash-2-4, 16 bytes). Never printed.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How a member disk is recognised: never by its `/dev` name.
///
/// Sources: udev's `ID_SERIAL_SHORT`, `ID_WWN_WITH_EXTENSION` (or `ID_WWN`), `ID_MODEL`, `ID_PART_ENTRY_UUID`; sizes from sysfs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Drive serial number; empty if the drive tells none. At most 64 bytes are kept.
    pub serial: String,
    /// World wide name (`eui.…`, `naa.…`, `0x…`); empty if none. At most 64 bytes.
    pub wwn: String,
    /// Drive model, for people; not compared. At most 64 bytes.
    pub model: String,
    /// Partition entry UUID when the member is a partition, else empty. At most 64 bytes.
    pub partition: String,
    /// Size of the member.
    pub sectors: Sectors,
    /// Logical block size in bytes, 512 or 4096.
    pub logical_block: u32,
    /// Physical block size in bytes, at least the logical one.
    pub physical_block: u32,
}

impl Identity {
    /// Whether `found` is the device that `self` describes; else the reason, in words.
    ///
    /// A field that was empty when the set was made cannot be compared and is skipped, but at least
    /// one of serial, WWN and partition must be known and equal.
    pub fn matches(&self, found: &Identity) -> Result<(), String> {
        let mut known = false;
        for (what, ours, theirs) in [
            ("serial number", &self.serial, &found.serial),
            ("WWN", &self.wwn, &found.wwn),
            ("partition UUID", &self.partition, &found.partition),
        ] {
            if ours != theirs && !(ours.is_empty() && what != "partition UUID") {
                return Err(format!("its {what} is “{theirs}”, expected “{ours}”"));
            }
            known |= !ours.is_empty();
        }
        if !known {
            return Err("it has no serial number, WWN or partition UUID to be recognised by".into());
        }
        if self.sectors != found.sectors {
            return Err(format!("it has {} sectors, expected {}", found.sectors, self.sectors));
        }
        if self.logical_block != found.logical_block {
            return Err(format!("its logical blocks are {} bytes, expected {}", found.logical_block, self.logical_block));
        }
        Ok(())
    }

    /// Physical block size in sectors.
    pub fn physical_sectors(&self) -> Sectors {
        Sectors(u64::from(self.physical_block.max(self.logical_block)).div_ceil(512))
    }
}

/// Where things are on a spare. All in sectors from the spare's start; multiples of 8 (4096 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// First sector of the table area. Sector 0 to here is header A.
    pub table_start: Sector,
    /// Number of table blocks; each has two slots of 4096 bytes.
    pub table_blocks: u32,
    /// Sectors that serve main sectors: between the table and header B.
    pub data: Extent,
    /// First sector of header B, the last whole 4096 bytes of the spare.
    pub header_b: Sector,
}

/// Everything a set's headers say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetDescription {
    /// The set.
    pub id: SetId,
    /// Its name.
    pub name: SetName,
    /// The disk that is protected.
    pub main: Identity,
    /// The spares, by index.
    pub spares: Vec<Identity>,
    /// Key of the lost marks.
    pub secret: Secret,
    /// Layout of each spare, by index.
    pub geometry: Vec<Geometry>,
    /// When the set was created, Unix ms.
    pub created: super::units::Millis,
}

impl SetDescription {
    /// The unit a cure works in: main's physical block, at least 4096 bytes, so that spare blocks stay aligned for both.
    pub fn block(&self) -> Sectors {
        let widest = self.spares.iter().map(Identity::physical_sectors).max().unwrap_or_default();
        Sectors(self.main.physical_sectors().0.max(widest.0).max(8))
    }

    /// Whether it is meant by a name that somebody gave: its own, or its id in words.
    pub fn is_called(&self, name: &SetName) -> bool {
        self.name == *name || self.id.to_string() == name.as_str()
    }

    /// The set with its first spares only, so many.
    pub fn with_spares(&self, count: usize) -> SetDescription {
        let first = |spares: &[Identity]| spares.iter().take(count).cloned().collect();
        let geometry = self.geometry.iter().take(count).copied().collect();
        SetDescription { spares: first(&self.spares), geometry, ..self.clone() }
    }

    /// The sectors at the start and at the end of spare `index` that serve no main sector.
    pub fn reserve(&self, index: usize) -> (Sectors, Sectors) {
        let data = self.geometry[index].data;
        (Sectors(data.start().0), Sectors(self.spares[index].sectors.0 - data.end().0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["data", "a", "_x", "Disk-1.old"] {
            assert!(SetName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-x", ".x", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(SetName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_member_is_recognised_by_what_it_is() {
        let ours = Identity {
            serial: "S1".into(),
            sectors: Sectors(100),
            logical_block: 512,
            physical_block: 512,
            ..Identity::default()
        };
        assert!(ours.matches(&ours).is_ok());
        assert!(ours.matches(&Identity { wwn: "0x5".into(), ..ours.clone() }).is_ok());
        assert!(ours.matches(&Identity { serial: "S2".into(), ..ours.clone() }).unwrap_err().contains("serial"));
        assert!(ours.matches(&Identity { sectors: Sectors(99), ..ours.clone() }).unwrap_err().contains("sectors"));
        assert!(ours.matches(&Identity { partition: "p".into(), ..ours.clone() }).unwrap_err().contains("partition"));
        let nameless = Identity { serial: String::new(), ..ours };
        assert!(nameless.matches(&nameless).unwrap_err().contains("recognised"));
    }
}
