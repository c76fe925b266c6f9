//! What a watch tells: sectors of the set as bytes of the file, for people and as JSON.

use crate::cli::text::time;
use crate::model::{Entry, Extent, Millis, Sector, Sectors, What};
use crate::sources::file_map::FileMap;
use serde::Serialize;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// Who found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// The reading of all blocks at the start.
    Check,
    /// The daemon, on I/O of whoever uses the file.
    Daemon,
}

/// A range of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place<'a> {
    path: &'a Path,
    /// Bytes from the start of the file.
    offset: u64,
    /// Bytes.
    length: u64,
    set: &'a str,
    /// Sectors of the set that the range is a part of.
    sectors: Extent,
    found_by: FoundBy,
    /// Of the entry in history.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    at: Millis,
    message: String,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening<'a> {
    /// The watch begins.
    Watching { path: &'a Path, set: &'a str, bytes: u64, places: usize },
    /// Something cannot be read or written.
    Bad(Place<'a>),
    /// Something moved to a spare.
    Healed(Place<'a>),
    /// The check at the start has ended.
    Checked {
        path: &'a Path,
        bytes: u64,
        bad: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        stopped: Option<&'a str>,
    },
    /// The daemon has gone, or come back.
    Daemon {
        answers: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The watch ends.
    Ended { path: &'a Path, reason: &'a str },
}

impl<'a> Happening<'a> {
    /// Bytes that the check could not read.
    pub fn found(path: &'a Path, set: &'a str, bytes: Range<u64>, sectors: Extent) -> Happening<'a> {
        Happening::Bad(Place {
            path,
            offset: bytes.start,
            length: bytes.end - bytes.start,
            set,
            sectors,
            found_by: FoundBy::Check,
            number: None,
            at: Millis(jiff::Timestamp::now().as_millisecond().max(0) as u64),
            message: format!("sectors {sectors} cannot be read"),
        })
    }

    /// Prints it.
    pub fn tell(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string(self)?)?
        } else {
            writeln!(out, "{self}")?
        }
        Ok(out.flush()?)
    }
}

impl std::fmt::Display for Happening<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = |f: &mut std::fmt::Formatter<'_>, kind, Place { path, offset, length, set, at, message, .. }: &Place<'_>| {
            let (path, last) = (path.display(), offset + length - 1);
            write!(f, "{}  {kind}  {path}: bytes {offset} to {last}; on “{set}” {message}", time(*at))
        };
        match self {
            Happening::Watching { path, set, bytes, places } => {
                write!(f, "watching {}: {bytes} bytes in {places} places on “{set}”", path.display())
            }
            Happening::Bad(found) => place(f, "BAD   ", found),
            Happening::Healed(found) => place(f, "healed", found),
            Happening::Checked { path, bytes, bad, stopped } => {
                let bad = if *bad == 0 { "all of it reads".into() } else { format!("{bad} of them cannot be read") };
                let stopped = stopped.map(|why| format!("; stopped early: {why}")).unwrap_or_default();
                write!(f, "checked {}: {bytes} bytes, {bad}{stopped}", path.display())
            }
            Happening::Daemon { answers: true, .. } => write!(f, "the daemon answers again"),
            Happening::Daemon { why, .. } => write!(f, "waiting for the daemon: {}", why.as_deref().unwrap_or_default()),
            Happening::Ended { path, reason } => write!(f, "the watch of {} ends: {reason}", path.display()),
        }
    }
}

/// What a history entry means for a file; nothing if it is about other sectors.
pub fn happenings<'a>(path: &'a Path, set: &'a str, map: &FileMap, entry: &Entry) -> Vec<Happening<'a>> {
    let mut found = Vec::new();
    let mut add = |sectors: Extent, kind: fn(Place<'a>) -> Happening<'a>, message: String| {
        for bytes in map.bytes(&sectors) {
            found.push(kind(Place {
                path,
                offset: bytes.start,
                length: bytes.end - bytes.start,
                set,
                sectors,
                found_by: FoundBy::Daemon,
                number: Some(entry.number),
                at: entry.at,
                message: message.clone(),
            }));
        }
    };
    let sentence = entry.what.sentence();
    match &entry.what {
        What::Error { extent: Some(extent), unreadable, .. } if unreadable.is_empty() => add(*extent, Happening::Bad, sentence),
        What::Error { unreadable, .. } => {
            runs(unreadable).into_iter().for_each(|sectors| add(sectors, Happening::Bad, sentence.clone()));
        }
        What::NotRemapped { extent, .. } => add(*extent, Happening::Bad, sentence),
        What::Remapped { remap, lost, .. } | What::Relocated { remap, lost, .. } => {
            add(remap.main, Happening::Healed, sentence);
            for sectors in runs(lost) {
                add(sectors, Happening::Bad, format!("sectors {sectors} are lost until they are written again"));
            }
        }
        _ => {}
    }
    found
}

/// Sectors that follow each other, as ranges.
fn runs(sectors: &[Sector]) -> Vec<Extent> {
    let runs = sectors.chunk_by(|a, b| a.0 + 1 == b.0);
    runs.filter_map(|run| Extent::new(*run.first()?, Sectors(run.len() as u64)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ErrorClass, Member, Op, SetId, SetName};
    use crate::sources::file_map::Piece;

    fn extent(start: u64, len: u64) -> Extent {
        Extent::new(Sector(start), Sectors(len)).unwrap()
    }

    fn told(what: What) -> Vec<String> {
        let set = SetId(uuid::Uuid::nil());
        let pieces = vec![Piece { offset: 4096, at: extent(1000, 16) }];
        let map = FileMap { set, device: "/dev/mapper/data".into(), pieces };
        let entry = Entry { number: 7, at: Millis(0), set, name: SetName::new("data").unwrap(), what };
        happenings(Path::new("/f"), "data", &map, &entry).iter().map(|found| serde_json::to_string(found).unwrap()).collect()
    }

    fn error(extent: Extent, unreadable: &[u64]) -> What {
        What::Error {
            member: Member::Main,
            op: Op::Read,
            extent: Some(extent),
            class: ErrorClass::Medium,
            unreadable: unreadable.iter().copied().map(Sector).collect(),
            meaning: String::new(),
            evidence: Vec::new(),
        }
    }

    #[test]
    fn sectors_become_bytes_of_the_file() {
        let lines = told(error(extent(1000, 8), &[1002, 1003, 1005]));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with(r#"{"event":"bad","path":"/f","offset":5120,"length":1024,"set":"data","#), "{}", lines[0]);
        assert!(lines[1].contains(r#""offset":6656,"length":512"#) && lines[1].contains(r#""number":7"#), "{}", lines[1]);
        let lines = told(error(extent(992, 16), &[]));
        assert!(lines.len() == 1 && lines[0].contains(r#""offset":4096,"length":4096"#), "only what is the file's: {lines:?}");
        assert!(told(error(extent(0, 8), &[3])).is_empty());
        assert!(told(What::Alert { message: "a".into() }).is_empty());
    }

    #[test]
    fn lines_are_for_people_too() {
        let line = Happening::found(Path::new("/f"), "data", 512..1024, extent(8, 8)).to_string();
        assert!(line.contains("BAD") && line.contains("/f: bytes 512 to 1023; on “data” sectors"), "{line}");
        let done = |bad, stopped| Happening::Checked { path: Path::new("/f"), bytes: 4096, bad, stopped }.to_string();
        assert_eq!(done(0, None), "checked /f: 4096 bytes, all of it reads");
        assert_eq!(done(512, Some("gone")), "checked /f: 4096 bytes, 512 of them cannot be read; stopped early: gone");
    }
}
