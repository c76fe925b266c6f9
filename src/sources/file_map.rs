//! Where a file is on a set: its extents, followed down through linear volumes and partitions to the set's device.

use super::devices::attribute;
use crate::actuate::target_text::set_of;
use crate::dm::{Error, Line, Mapper, Target};
use crate::model::units::SECTOR_BYTES;
use crate::model::{Extent, Sector, Sectors, SetId};
use std::fs::File;
use std::ops::Range;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A piece of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is in the file, bytes.
    pub offset: u64,
    /// Where it is on the set.
    pub at: Extent,
}

/// Where a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMap {
    /// The set.
    pub set: SetId,
    /// The set's device.
    pub device: PathBuf,
    /// All of the file that has a place, in the order of the file.
    pub pieces: Vec<Piece>,
}

/// Why a file is on no set, or cannot be found there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotOnASet(String);

/// What a block device is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layer {
    /// A set's own device, with its path.
    Set(SetId, PathBuf),
    /// Runs of sectors of other devices.
    Linear(Vec<Run>),
    /// What cannot be followed, in words.
    Other(String),
}

/// Major and minor number.
type Number = (u32, u32);

/// A line of a linear table: sectors of this device, the device they are on, and where there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    len: u64,
    below: Number,
    at: u64,
}

impl FileMap {
    /// Finds a regular file that is open. Data that is only in memory is written out for it.
    ///
    /// # Errors
    /// If it is not a regular file, its file system is on no set, or what is between cannot be followed.
    pub fn of(file: &File) -> Result<FileMap, NotOnASet> {
        let refused = |error: &dyn std::fmt::Display| NotOnASet(error.to_string());
        let metadata = file.metadata().map_err(|error| refused(&error))?;
        if !metadata.is_file() {
            return Err(NotOnASet("not a regular file".into()));
        }
        let device = metadata.st_dev();
        let number = (rustix::fs::major(device), rustix::fs::minor(device));
        // Which device it is on comes first: that a file system has no extents to tell says less.
        if number.0 == dmfilemapd::device::NO_DEVICE {
            let kind = dmfilemapd::device::file_system(file).unwrap_or_else(|| "unknown".into());
            return Err(NotOnASet(format!(
                "its file system ({kind}) is on no block device of its own, so on none of remap-guardian"
            )));
        }
        let layer = |number| layer_of(Path::new("/sys"), number);
        trace(&layer, number, Vec::new())?;
        let extents =
            dmfilemapd::fiemap::extents(file).map_err(|error| NotOnASet(format!("its extents cannot be read: {error}")))?;
        let piece = |extent: &dmfilemapd::fiemap::FileExtent| {
            let at = Extent::new(Sector(extent.physical / SECTOR_BYTES), Sectors(extent.length.div_ceil(SECTOR_BYTES))).ok()?;
            Some(Piece { offset: extent.logical, at })
        };
        let pieces = extents.iter().filter(|extent| extent.is_on_device()).filter_map(piece).collect();
        trace(&layer, number, pieces)
    }

    /// The bytes of the file that are on some sectors of the set.
    pub fn bytes(&self, sectors: &Extent) -> Vec<Range<u64>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        for Piece { offset, at } in &self.pieces {
            let start = at.start().0.max(sectors.start().0);
            let end = at.end().0.min(sectors.end().0);
            if start < end {
                let byte = |sector: u64| offset + (sector - at.start().0) * SECTOR_BYTES;
                match found.last_mut() {
                    Some(last) if last.end == byte(start) => last.end = byte(end),
                    _ => found.push(byte(start)..byte(end)),
                }
            }
        }
        found
    }
}

/// Follows pieces of the device `number` down to the set under it.
fn trace(layer_of: &dyn Fn(Number) -> Layer, number: Number, pieces: Vec<Piece>) -> Result<FileMap, NotOnASet> {
    let runs = match layer_of(number) {
        Layer::Set(set, device) => return Ok(FileMap { set, device, pieces }),
        Layer::Linear(runs) => runs,
        Layer::Other(what) => {
            return Err(NotOnASet(format!("its file system is on {what}, which is no device of remap-guardian")));
        }
    };
    let mut parts: Vec<(Number, Vec<Piece>)> = Vec::new();
    if pieces.is_empty() {
        parts.extend(runs.iter().map(|run| (run.below, Vec::new())));
    }
    for piece in pieces {
        for run in &runs {
            let start = piece.at.start().0.max(run.start);
            let end = piece.at.end().0.min(run.start + run.len);
            if let Some(len) = end.checked_sub(start).filter(|len| *len > 0) {
                let at = Extent::new(Sector(run.at + (start - run.start)), Sectors(len));
                let at = at.map_err(|error| NotOnASet(error.to_string()))?;
                let offset = piece.offset + (start - piece.at.start().0) * SECTOR_BYTES;
                parts.push((run.below, vec![Piece { offset, at }]));
            }
        }
    }
    let mut whole: Option<FileMap> = None;
    for (below, pieces) in parts {
        let part = trace(layer_of, below, pieces)?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) if whole.set == part.set => whole.pieces.extend(part.pieces),
            Some(_) => return Err(NotOnASet("it is on more than one set".into())),
        }
    }
    whole.ok_or_else(|| NotOnASet("it is on a volume without sectors".into()))
}

/// Looks a device up in sysfs and, where it is a volume, in device-mapper.
fn layer_of(sysfs: &Path, (major, minor): Number) -> Layer {
    let dir = sysfs.join(format!("dev/block/{major}:{minor}"));
    if !dir.exists() {
        return Layer::Other(format!("{major}:{minor} (no block device)"));
    }
    let Some(name) = attribute(&dir, "dm/name") else {
        let node = attribute(&dir, "uevent");
        let node = node.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("DEVNAME=")));
        return Layer::Other(format!("/dev/{}", node.unwrap_or("?")));
    };
    let uuid = attribute(&dir, "dm/uuid").unwrap_or_default();
    let path = PathBuf::from("/dev/mapper").join(&name);
    if let Some(set) = set_of(&uuid) {
        return Layer::Set(set, path);
    }
    match table((major, minor)) {
        Ok(lines) => linear(&lines).map_or_else(|kind| Layer::Other(format!("{} ({kind})", path.display())), Layer::Linear),
        Err(error) => Layer::Other(format!("{} (its table cannot be read: {error})", path.display())),
    }
}

fn table(number: Number) -> Result<Vec<Line>, Error> {
    let name = Mapper::name_of(number).ok_or_else(|| Error::Missing(format!("{}:{}", number.0, number.1)))?;
    Mapper::new()?.table(&name, false)
}

/// Reads a table of linear targets; names the first target that is another one.
fn linear(lines: &[Line]) -> Result<Vec<Run>, String> {
    let run = |line: &Line| {
        // The kernel prints devices by their numbers.
        let at = match &line.target {
            Target::Linear(linear) => linear.device.devno().map(|below| (below, linear.offset)),
            _ => None,
        };
        let (below, at) = at.ok_or_else(|| format!("a “{}” volume", line.target.kind()))?;
        Ok(Run { start: line.start, len: line.length, below, at })
    };
    lines.iter().map(run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    fn piece(offset: u64, start: u64, len: u64) -> Piece {
        Piece { offset, at: extent(start, len) }
    }

    fn set(n: u128) -> Layer {
        Layer::Set(SetId(uuid::Uuid::from_u128(n)), "/dev/mapper/data".into())
    }

    /// 253:0 and 253:9 are sets, 253:1 a partition and 253:2 a volume of two runs on it; 253:3 is on two sets.
    fn layers((_, minor): Number) -> Layer {
        let run = |start, len, below, at| Run { start, len, below: (253, below), at };
        match minor {
            0 => set(1),
            9 => set(2),
            1 => Layer::Linear(vec![run(0, 1000, 0, 2048)]),
            2 => Layer::Linear(vec![run(0, 100, 1, 500), run(100, 100, 1, 0)]),
            3 => Layer::Linear(vec![run(0, 100, 0, 0), run(100, 100, 9, 0)]),
            _ => Layer::Other("/dev/sdb1".into()),
        }
    }

    #[test]
    fn volumes_are_followed_down() {
        let map = trace(&layers, (253, 0), vec![piece(0, 8, 8)]).unwrap();
        assert_eq!(map.pieces, [piece(0, 8, 8)]);
        let map = trace(&layers, (253, 2), vec![piece(4096, 96, 8), piece(65536, 10, 2)]).unwrap();
        assert_eq!(map.set, SetId(uuid::Uuid::from_u128(1)));
        assert_eq!(map.pieces, [piece(4096, 2048 + 596, 4), piece(4096 + 4 * 512, 2048, 4), piece(65536, 2048 + 510, 2)]);
        assert_eq!(trace(&layers, (253, 1), Vec::new()).unwrap().pieces, [], "a file without blocks");
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let refused = |minor, pieces| trace(&layers, (253, minor), pieces).unwrap_err().to_string();
        assert!(refused(7, vec![piece(0, 8, 8)]).contains("/dev/sdb1"));
        assert_eq!(refused(3, vec![piece(0, 96, 8)]), "it is on more than one set");
        assert_eq!(trace(&layers, (253, 3), vec![piece(0, 104, 8)]).unwrap().set, SetId(uuid::Uuid::from_u128(2)));
    }

    #[test]
    fn sectors_of_the_set_are_bytes_of_the_file() {
        let pieces = vec![piece(0, 100, 16), piece(8192, 116, 8), piece(40960, 8, 8)];
        let map = FileMap { set: SetId(uuid::Uuid::nil()), device: "/dev/mapper/data".into(), pieces };
        let bytes = |start, len| map.bytes(&extent(start, len)).iter().map(|range| (range.start, range.end)).collect::<Vec<_>>();
        assert_eq!(bytes(101, 2), [(512, 1536)]);
        assert_eq!(bytes(112, 8), [(6144, 10240)], "over the border of two pieces that follow each other");
        assert_eq!(bytes(0, 10), [(40960, 41984)]);
        assert_eq!(bytes(124, 100), []);
    }

    #[test]
    fn tables_are_read() {
        let line = |kind: &str, params: &str| Line::of_kernel(0, 8, kind, params);
        assert_eq!(linear(&[line("linear", "253:4 2048")]), Ok(vec![Run { start: 0, len: 8, below: (253, 4), at: 2048 }]));
        assert_eq!(linear(&[line("linear", "253:4 2048"), line("crypt", "…")]), Err("a “crypt” volume".into()));
        for bad in ["", "253:4", "sdb 0", "253:4 x"] {
            assert!(linear(&[line("linear", bad)]).is_err(), "{bad}");
        }
    }
}
