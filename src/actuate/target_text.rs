//! The text of the target's messages, replies and table line: pure formatting and parsing, no device.

use crate::edge::{ErrorPage, Fence, FenceId, FenceState, TargetStatus};
use crate::format::table_checksum;
use crate::model::{
    ErrorClass, Extent, Member, Op, Remap, RemapFlags, Sector, Sectors, SetDescription, TargetError, TargetErrorKind,
};
use std::fmt::Write as _;

/// Name of the target type.
pub const TARGET_TYPE: &str = "dm-remap-v4";

/// The version of the wire protocol that this code speaks.
pub const PROTOCOL: u64 = 1;

/// What every device-mapper UUID of ours begins with.
pub const UUID_PREFIX: &str = "REMAP-GUARDIAN-";

/// Entries in one `load` message. An entry is at most 62 bytes, so a message stays below 12.5 KiB and fits the 16 KiB
/// buffer that `devicemapper` starts with; the kernel's own bound (1 GiB of parameters) is far away.
pub const LOAD_CHUNK: usize = 200;

/// A reply that is not what the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the target's reply to “{message}” cannot be understood: {what}")]
pub struct BadReply {
    message: &'static str,
    what: String,
}

fn bad(message: &'static str, what: impl Into<String>) -> BadReply {
    BadReply { message, what: what.into() }
}

/// At most 80 characters of a hostile line, for an error text.
fn excerpt(line: &str) -> String {
    let cut: String = line.chars().take(80).flat_map(char::escape_debug).collect();
    format!("“{cut}”")
}

/// The words of one line, read one after the other.
struct Words<'a> {
    message: &'static str,
    line: &'a str,
    words: std::str::SplitAsciiWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn new(message: &'static str, line: &'a str) -> Self {
        Words { message, line, words: line.split_ascii_whitespace() }
    }

    fn fail(&self, what: &str) -> BadReply {
        bad(self.message, format!("{what} in {}", excerpt(self.line)))
    }

    fn word(&mut self, what: &str) -> Result<&'a str, BadReply> {
        self.words.next().ok_or_else(|| self.fail(&format!("no {what}")))
    }

    fn literal(&mut self, word: &str) -> Result<(), BadReply> {
        if self.word(word)? == word { Ok(()) } else { Err(self.fail(&format!("no “{word}”"))) }
    }

    fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N, BadReply> {
        let word = self.word(what)?;
        // `parse` takes a leading “+”, the protocol does not.
        if !word.bytes().all(|c| c.is_ascii_digit()) {
            return Err(self.fail(&format!("bad {what}")));
        }
        word.parse().map_err(|_| self.fail(&format!("bad {what}")))
    }

    fn extent(&mut self) -> Result<Extent, BadReply> {
        let start = Sector(self.number("start")?);
        let len = Sectors(self.number("length")?);
        Extent::new(start, len).map_err(|why| self.fail(&why.to_string()))
    }

    /// Later versions may append fields: what follows is ignored.
    fn value<T>(&self, value: Option<T>, what: &str) -> Result<T, BadReply> {
        value.ok_or_else(|| self.fail(&format!("unknown {what}")))
    }
}

/// Parses the status line (the parameters after the target's name).
pub fn parse_status(params: &str) -> Result<TargetStatus, BadReply> {
    let mut words = Words::new("status", params);
    let remaps = words.number("remap count")?;
    let errors = words.number("error count")?;
    let state = words.word("state")?;
    if !["ACTIVE", "CLOSED", "EXPIRED"].contains(&state) {
        return Err(words.fail("unknown state"));
    }
    let protocol: u64 = words.number("protocol version")?;
    if protocol != PROTOCOL {
        return Err(bad("status", format!("the kernel module speaks protocol {protocol}, this program {PROTOCOL}")));
    }
    let instance = words.word("instance")?;
    if instance.len() != 16 || !instance.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(words.fail("bad instance"));
    }
    let next_seq = words.number("next sequence number")?;
    let held = words.number("held count")?;
    Ok(TargetStatus { remaps, errors, state: state.into(), instance: instance.into(), next_seq, held })
}

/// Error records as the target printed them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorText {
    /// What could be read.
    pub page: ErrorPage,
    /// Lines that could not, shortened. One bad record must not hide the others.
    pub unreadable: Vec<String>,
}

/// Parses the reply to `errors <since>`.
pub fn parse_errors(reply: &str) -> Result<ErrorText, BadReply> {
    let mut lines = reply.lines();
    let mut head = Words::new("errors", lines.next().unwrap_or_default());
    head.literal("errors")?;
    let oldest = head.number("oldest sequence number")?;
    let next = head.number("next sequence number")?;
    let mut text = ErrorText { page: ErrorPage { oldest, next, records: Vec::new() }, unreadable: Vec::new() };
    for line in lines.filter(|line| !line.trim().is_empty()) {
        match parse_record(line) {
            Ok(record) => text.page.records.push(record),
            Err(_) => text.unreadable.push(excerpt(line)),
        }
    }
    Ok(text)
}

fn parse_record(line: &str) -> Result<TargetError, BadReply> {
    let mut words = Words::new("errors", line);
    words.literal("e")?;
    let seq = words.number("sequence number")?;
    let kind = words.word("kind")?;
    let kind = words.value(TargetErrorKind::from_word(kind), "kind")?;
    let op = words.word("operation")?;
    let op = words.value(Op::from_word(op), "operation")?;
    let member = words.word("member")?;
    let member = words.value(parse_member(member), "member")?;
    let main_start = words.word("main sector")?;
    let member_sector = Sector(words.number("member sector")?);
    let len: u64 = words.number("length")?;
    let main = match main_start {
        "-" => None,
        _ if len == 0 => None,
        start => {
            let start = start.parse().map_err(|_| words.fail("bad main sector"))?;
            Some(Extent::new(Sector(start), Sectors(len)).map_err(|why| words.fail(&why.to_string()))?)
        }
    };
    // A class that we do not know is never the medium (S7).
    let class = ErrorClass::from_word(words.word("status")?).unwrap_or(ErrorClass::Other);
    let age_ms = words.number("age")?;
    let read_ahead = words.word("flags")?.split(',').any(|flag| flag == "ra");
    Ok(TargetError { seq, kind, op, member, main, member_sector, class, age_ms, read_ahead })
}

fn parse_member(word: &str) -> Option<Member> {
    if word == "main" {
        return Some(Member::Main);
    }
    let index = word.strip_prefix("spare")?;
    if index.bytes().all(|c| c.is_ascii_digit()) { index.parse().ok().map(Member::Spare) } else { None }
}

/// Parses the reply to `fences`.
pub fn parse_fences(reply: &str) -> Result<Vec<Fence>, BadReply> {
    let mut fences = Vec::new();
    for line in reply.lines() {
        if line.trim() == "end" {
            return Ok(fences);
        }
        let mut words = Words::new("fences", line);
        words.literal("fence")?;
        let id = words.number("id")?;
        let extent = words.extent()?;
        let state = match words.word("state")? {
            "draining" => FenceState::Draining,
            "drained" => FenceState::Drained,
            "sealed" => FenceState::Sealed,
            "failed" => FenceState::Failed,
            _ => return Err(words.fail("unknown state")),
        };
        fences.push(Fence { id, extent, state });
    }
    Err(bad("fences", "it stops before “end”"))
}

/// One page of `dump`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpPage {
    /// Entries in the whole table.
    pub total: u64,
    /// Checksum of the whole table.
    pub checksum: u64,
    /// Entries of this page, ascending. Their `seq` is 0: the kernel does not know it.
    pub remaps: Vec<Remap>,
    /// Where the next page begins, if there is one.
    pub next: Option<Sector>,
}

/// Parses the reply to `dump <from>`.
pub fn parse_dump(reply: &str) -> Result<DumpPage, BadReply> {
    let mut lines = reply.lines();
    let mut head = Words::new("dump", lines.next().unwrap_or_default());
    head.literal("dump")?;
    let total = head.number("count")?;
    let checksum = head.word("checksum")?;
    let checksum = head.value(parse_hex64(checksum), "checksum")?;
    let mut remaps: Vec<Remap> = Vec::new();
    for line in lines {
        let mut words = Words::new("dump", line);
        let next = match words.word("entry")? {
            "remap" => {
                let remap = parse_remap(&mut words)?;
                if remaps.last().is_some_and(|last| last.main.end() > remap.main.start()) {
                    return Err(words.fail("entries overlap or are not sorted"));
                }
                remaps.push(remap);
                continue;
            }
            "end" => None,
            "next" => Some(Sector(words.number("next sector")?)),
            _ => return Err(words.fail("unknown line")),
        };
        return Ok(DumpPage { total, checksum, remaps, next });
    }
    Err(bad("dump", "it stops before “end” or “next”"))
}

fn parse_remap(words: &mut Words<'_>) -> Result<Remap, BadReply> {
    let main = words.number("main sector")?;
    let at = Sector(words.number("spare sector")?);
    let len = Sectors(words.number::<u32>("length")?.into());
    let main = Extent::new(Sector(main), len).map_err(|why| words.fail(&why.to_string()))?;
    Extent::new(at, len).map_err(|why| words.fail(&why.to_string()))?;
    let spare = words.number("spare index")?;
    let marked = words.number::<u16>("flags")? != 0;
    Ok(Remap { main, spare, at, flags: RemapFlags { marked }, seq: 0 })
}

fn parse_hex64(word: &str) -> Option<u64> {
    let plain = word.len() == 16 && word.bytes().all(|c| c.is_ascii_hexdigit());
    if plain { u64::from_str_radix(word, 16).ok() } else { None }
}

/// Parses `fence <id>`, the reply to `fence`.
pub fn parse_fence_id(reply: &str) -> Result<FenceId, BadReply> {
    let mut words = Words::new("fence", reply);
    words.literal("fence")?;
    words.number("id")
}

/// Parses a reply that is one number (`retry`, `release`).
pub fn parse_count(message: &'static str, reply: &str) -> Result<u64, BadReply> {
    Words::new(message, reply).number("count")
}

/// `load` messages for all of `remaps`, each at most [`LOAD_CHUNK`] entries.
pub fn load_messages(remaps: &[Remap]) -> Vec<String> {
    let mut messages = Vec::with_capacity(remaps.len().div_ceil(LOAD_CHUNK));
    for chunk in remaps.chunks(LOAD_CHUNK) {
        let mut message = String::with_capacity(8 + chunk.len() * 62);
        for (n, remap) in chunk.iter().enumerate() {
            let before = if n == 0 { "load " } else { "," };
            let (main, len, flags) = (remap.main.start(), remap.main.len(), u8::from(remap.flags.marked));
            // Writing to a String cannot fail.
            let _ = write!(message, "{before}{main}:{}:{len}:{}:{flags}", remap.at, remap.spare);
        }
        messages.push(message);
    }
    messages
}

/// The `add_remap` message.
pub fn add_message(remap: &Remap, fence: Option<FenceId>) -> String {
    let mut message = format!("add_remap {} {} {} {}", remap.main.start(), remap.at, remap.main.len(), remap.spare);
    if let Some(fence) = fence {
        let _ = write!(message, " fence={fence}");
    }
    if remap.flags.marked {
        message.push_str(" marked");
    }
    message
}

/// The `ready` message.
pub fn ready_message(remaps: &[Remap]) -> String {
    format!("ready {} {:016x}", remaps.len(), table_checksum(remaps))
}

/// The set of a mapped device with this UUID, if it is one of ours.
pub fn set_of(dm_uuid: &str) -> Option<crate::model::SetId> {
    uuid::Uuid::try_parse(dm_uuid.strip_prefix(UUID_PREFIX)?).ok().map(crate::model::SetId)
}

/// Whether a mapped device with this UUID is ours: that of a set, or a partition of one.
pub fn is_ours(dm_uuid: &str) -> bool {
    let whole = dm_uuid.strip_prefix("part").and_then(|rest| rest.split_once('-')).map_or(dm_uuid, |(_, whole)| whole);
    whole.starts_with(UUID_PREFIX)
}

/// The device-mapper UUID of a set.
pub fn dm_uuid(set: crate::model::SetId) -> String {
    format!("{UUID_PREFIX}{set}")
}

/// Bounds given to the target when a device is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long a failed write may wait for a remap (0 to 15000).
    pub hold_ms: u64,
    /// How long I/O may wait for the restore before it fails (1 to 600000).
    pub closed_ms: u64,
}

/// Why no table line can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    /// As many devices and geometries as spares are needed, at least one.
    #[error("the set lists {listed} spares, {given} were given")]
    Spares {
        /// Spares in the description.
        listed: usize,
        /// Devices given.
        given: usize,
    },
    /// A bound the target would refuse.
    #[error("the {what} time of {ms} ms is out of range")]
    Bound {
        /// Which.
        what: &'static str,
        /// Its value.
        ms: u64,
    },
}

/// The parameters of the table line of a managed device that starts closed. Devices are major and minor numbers.
///
/// The target has one `reserve` for all spares: the smallest of each, so that no extent the allocator may hand out is
/// refused. It is a belt; the allocator keeps to each spare's own geometry.
pub fn table_params(set: &SetDescription, main: (u32, u32), spares: &[(u32, u32)], bounds: Bounds) -> Result<String, BadTable> {
    let listed = set.spares.len().min(set.geometry.len());
    if spares.is_empty() || spares.len() != listed {
        return Err(BadTable::Spares { listed, given: spares.len() });
    }
    if bounds.hold_ms > 15_000 {
        return Err(BadTable::Bound { what: "hold", ms: bounds.hold_ms });
    }
    if !(1..=600_000).contains(&bounds.closed_ms) {
        return Err(BadTable::Bound { what: "closed", ms: bounds.closed_ms });
    }
    let reserves: Vec<_> = (0..listed).map(|index| set.reserve(index)).collect();
    let head = reserves.iter().map(|reserve| reserve.0.0).min().unwrap_or(0);
    let tail = reserves.iter().map(|reserve| reserve.1.0).min().unwrap_or(0);
    let mut options = format!("managed reserve {head} {tail} closed {} hold {} small_spare", bounds.closed_ms, bounds.hold_ms);
    for (major, minor) in &spares[1..] {
        let _ = write!(options, " spare {major}:{minor}");
    }
    let count = options.split(' ').count();
    Ok(format!("{}:{} {}:{} {count} {options}", main.0, main.1, spares[0].0, spares[0].1))
}

#[cfg(test)]
#[path = "target_text_tests.rs"]
mod tests;
