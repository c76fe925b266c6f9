//! The header block: what the set is, who its members are, which of them this spare is.
//!
//! Written at both ends of every spare. All numbers little-endian, all texts UTF-8 padded with NUL, all else zero.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `RMPGUARD` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | CRC32C of the 4096 bytes with this field zero |
//! | 16 | 8 | generation, from 1; 0 while the spare is being made |
//! | 24 | 16 | set UUID |
//! | 40 | 2 | index of this spare |
//! | 42 | 2 | number of spares, 1 to 8 |
//! | 44 | 4 | cure block in sectors |
//! | 48 | 8 | creation time, Unix ms |
//! | 56 | 16 | secret of the lost marks |
//! | 72 | 64 | set name |
//! | 136 | 8 | first sector of the table |
//! | 144 | 4 | number of table blocks |
//! | 148 | 4 | zero |
//! | 152 | 8 | first sector of data |
//! | 160 | 8 | sectors of data |
//! | 168 | 8 | first sector of header B |
//! | 176 | 16 | zero |
//! | 192 | 272 | main, see below |
//! | 464 | 8 × 272 | spares by index, zero from the number of spares on |
//! | 2640 | 1456 | zero |
//!
//! A member: serial, WWN, model, partition UUID (64 bytes each), sectors (8), logical block (4) and physical block (4) in bytes.
//!
//! The layout of *every* spare follows from its sectors and the cure block ([`super::geometry()`]); the written one must agree.
//! Magic, version and CRC keep their places in all versions.

use super::layout::{self, Block, get, get_u16, get_u32, get_u64, put};
use super::{BLOCK_BYTES, TooSmall, VERSION, geometry};
use crate::model::{Geometry, Identity, Millis, Secret, Sectors, SetDescription, SetId, SetName};
use uuid::Uuid;

/// Most spares that a set can have.
pub const MAX_SPARES: usize = 8;

/// Most bytes of a text of an [`Identity`].
pub const TEXT_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"RMPGUARD";
const NAME_AT: usize = 72;
const GEOMETRY_AT: usize = 136;
const MEMBERS_AT: usize = 192;
const MEMBER_BYTES: usize = 4 * TEXT_BYTES + 16;
const END: usize = MEMBERS_AT + (1 + MAX_SPARES) * MEMBER_BYTES;
const LARGEST_BLOCK_BYTES: u32 = 1 << 20;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The set and all its members.
    pub set: SetDescription,
    /// Which of its spares this is.
    pub spare: u16,
    /// Counts rewrites of the header, from 1; the higher one of two is right. 0 while the spare is being made.
    pub generation: u64,
}

/// Why bytes are no header, or a description cannot be written as one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Something else is there, or nothing.
    #[error("no remap-guardian header")]
    NotOurs,
    /// The checksum does not fit the content: torn or damaged.
    #[error("the header is damaged: its checksum does not match")]
    Checksum,
    /// Written by a newer remap-guardian.
    #[error("the header has format version {found}, this remap-guardian reads up to {VERSION}: upgrade it")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// Sound bytes with impossible content, or a description that cannot be written.
    #[error("the header's {field} {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong, in words.
        problem: String,
    },
    /// A spare is too small for its role.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
}

fn wrong(field: &'static str, problem: impl Into<String>) -> HeaderError {
    HeaderError::Field { field, problem: problem.into() }
}

/// Cuts a text of an [`Identity`] to what a header keeps. Who reads identities from devices applies this, so that the written
/// and the found one compare equal.
pub fn clip(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The header block of spare `spare` of `set`.
pub fn encode(set: &SetDescription, spare: u16, generation: u64) -> Result<[u8; BLOCK_BYTES], HeaderError> {
    let geometry = check(set, spare)?;
    let mut block = [0; BLOCK_BYTES];
    put(&mut block, 0, MAGIC);
    put(&mut block, 8, &VERSION.to_le_bytes());
    put(&mut block, 16, &generation.to_le_bytes());
    put(&mut block, 24, set.id.0.as_bytes());
    put(&mut block, 40, &spare.to_le_bytes());
    put(&mut block, 42, &(set.spares.len() as u16).to_le_bytes());
    put(&mut block, 44, &cure_block(set)?.to_le_bytes());
    put(&mut block, 48, &set.created.0.to_le_bytes());
    put(&mut block, 56, &set.secret.0);
    put_text(&mut block, NAME_AT, "name", set.name.as_str())?;
    put(&mut block, GEOMETRY_AT, &geometry.table_start.0.to_le_bytes());
    put(&mut block, GEOMETRY_AT + 8, &geometry.table_blocks.to_le_bytes());
    put(&mut block, GEOMETRY_AT + 16, &geometry.data.start().0.to_le_bytes());
    put(&mut block, GEOMETRY_AT + 24, &geometry.data.len().0.to_le_bytes());
    put(&mut block, GEOMETRY_AT + 32, &geometry.header_b.0.to_le_bytes());
    for (index, member) in std::iter::once(&set.main).chain(&set.spares).enumerate() {
        put_member(&mut block, MEMBERS_AT + index * MEMBER_BYTES, member)?;
    }
    layout::seal(&mut block);
    Ok(block)
}

/// Reads a header block.
pub fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
    let block: &Block = bytes.try_into().map_err(|_| HeaderError::NotOurs)?;
    if !block.starts_with(MAGIC) {
        return Err(HeaderError::NotOurs);
    }
    if !layout::is_sealed(block) {
        return Err(HeaderError::Checksum);
    }
    match get_u32(block, 8) {
        VERSION => {}
        0 => return Err(wrong("version", "is 0")),
        found => return Err(HeaderError::Newer { found }),
    }
    let spare = get_u16(block, 40);
    let count = usize::from(get_u16(block, 42));
    if count == 0 || count > MAX_SPARES {
        return Err(wrong("number of spares", format!("is {count}")));
    }
    let used = MEMBERS_AT + (1 + count) * MEMBER_BYTES;
    if [148..152, 176..MEMBERS_AT, used..END, END..BLOCK_BYTES].into_iter().any(|gap| !layout::is_zero(block, gap)) {
        return Err(wrong("unused part", "is not zero"));
    }
    let mut members = (0..=count).map(|index| get_member(block, MEMBERS_AT + index * MEMBER_BYTES));
    let main = members.next().unwrap_or(Err(HeaderError::NotOurs))?;
    let spares = members.collect::<Result<Vec<_>, _>>()?;
    let name = SetName::new(get_text(block, NAME_AT, "name")?).map_err(|bad| wrong("name", bad.to_string()))?;
    let mut set = SetDescription {
        id: SetId(Uuid::from_bytes(get(block, 24))),
        name,
        main,
        spares,
        secret: Secret(get(block, 56)),
        geometry: Vec::new(),
        created: Millis(get_u64(block, 48)),
    };
    if get_u32(block, 44) != cure_block(&set)? {
        return Err(wrong("cure block", "does not follow from the members"));
    }
    set.geometry = set.spares.iter().map(|spare| geometry(spare.sectors, set.block())).collect::<Result<_, _>>()?;
    let derived = check(&set, spare)?;
    let written = [0, 16, 24, 32].map(|field| get_u64(block, GEOMETRY_AT + field));
    let expected = [derived.table_start.0, derived.data.start().0, derived.data.len().0, derived.header_b.0];
    if written != expected || get_u32(block, GEOMETRY_AT + 8) != derived.table_blocks {
        return Err(wrong("layout", "does not follow from the size of the spare"));
    }
    Ok(Header { set, spare, generation: get_u64(block, 16) })
}

/// What both directions demand of a description; returns the layout of the spare in question.
fn check(set: &SetDescription, spare: u16) -> Result<Geometry, HeaderError> {
    let count = set.spares.len();
    if count == 0 || count > MAX_SPARES {
        return Err(wrong("number of spares", format!("is {count}, 1 to {MAX_SPARES} are possible")));
    }
    if usize::from(spare) >= count {
        return Err(wrong("spare index", format!("is {spare}, the set has {count}")));
    }
    for member in std::iter::once(&set.main).chain(&set.spares) {
        check_member(member, set.main.logical_block)?;
    }
    if set.geometry.len() != count {
        return Err(wrong("layout", "is not known for every spare"));
    }
    for (spare, &given) in set.spares.iter().zip(&set.geometry) {
        if given != geometry(spare.sectors, set.block())? {
            return Err(wrong("layout", "does not follow from the size of the spare"));
        }
    }
    Ok(set.geometry[usize::from(spare)])
}

fn check_member(member: &Identity, logical: u32) -> Result<(), HeaderError> {
    if ![512, 4096].contains(&member.logical_block) || member.logical_block != logical {
        let problem = format!("is {} bytes; 512 or 4096 are possible, the same on all members", member.logical_block);
        return Err(wrong("logical block size", problem));
    }
    let physical = member.physical_block;
    if !physical.is_power_of_two() || physical < logical || physical > LARGEST_BLOCK_BYTES {
        let problem =
            format!("is {physical} bytes; a power of two from the logical block size to {LARGEST_BLOCK_BYTES} is possible");
        return Err(wrong("physical block size", problem));
    }
    if member.sectors == Sectors(0) || member.sectors.0 > u64::MAX / 512 {
        return Err(wrong("number of sectors", format!("of a member is {}", member.sectors)));
    }
    Ok(())
}

fn cure_block(set: &SetDescription) -> Result<u32, HeaderError> {
    u32::try_from(set.block().0).map_err(|_| wrong("cure block", "is too large"))
}

fn put_member(block: &mut Block, at: usize, member: &Identity) -> Result<(), HeaderError> {
    put_text(block, at, "serial number", &member.serial)?;
    put_text(block, at + TEXT_BYTES, "WWN", &member.wwn)?;
    put_text(block, at + 2 * TEXT_BYTES, "model", &member.model)?;
    put_text(block, at + 3 * TEXT_BYTES, "partition UUID", &member.partition)?;
    put(block, at + 4 * TEXT_BYTES, &member.sectors.0.to_le_bytes());
    put(block, at + 4 * TEXT_BYTES + 8, &member.logical_block.to_le_bytes());
    put(block, at + 4 * TEXT_BYTES + 12, &member.physical_block.to_le_bytes());
    Ok(())
}

fn get_member(block: &Block, at: usize) -> Result<Identity, HeaderError> {
    Ok(Identity {
        serial: get_text(block, at, "serial number")?,
        wwn: get_text(block, at + TEXT_BYTES, "WWN")?,
        model: get_text(block, at + 2 * TEXT_BYTES, "model")?,
        partition: get_text(block, at + 3 * TEXT_BYTES, "partition UUID")?,
        sectors: Sectors(get_u64(block, at + 4 * TEXT_BYTES)),
        logical_block: get_u32(block, at + 4 * TEXT_BYTES + 8),
        physical_block: get_u32(block, at + 4 * TEXT_BYTES + 12),
    })
}

fn put_text(block: &mut Block, at: usize, field: &'static str, text: &str) -> Result<(), HeaderError> {
    if text.len() > TEXT_BYTES {
        return Err(wrong(field, format!("“{text}” is longer than {TEXT_BYTES} bytes")));
    }
    if text.contains('\0') {
        return Err(wrong(field, "contains a NUL"));
    }
    put(block, at, text.as_bytes());
    Ok(())
}

fn get_text(block: &Block, at: usize, field: &'static str) -> Result<String, HeaderError> {
    let bytes: [u8; TEXT_BYTES] = get(block, at);
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(TEXT_BYTES);
    let (text, padding) = bytes.split_at(end);
    if padding.iter().any(|&byte| byte != 0) {
        return Err(wrong(field, "is not padded with zeros"));
    }
    let text = std::str::from_utf8(text).map_err(|_| wrong(field, "is not UTF-8"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
