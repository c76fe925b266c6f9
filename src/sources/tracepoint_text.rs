//! Lines of the tracepoint `block_rq_error` (`include/trace/events/block.h`, Linux 5.18 and later): pure parsing of any bytes.
//!
//! The block layer passes it where it prints its line of the kernel log, for the same requests, but without a rate limit.

use crate::model::{ErrorClass, Op, Sector, Sectors};

/// The kernel's longest line is shorter; what is longer is none of this tracepoint.
const LINE_BYTES: usize = 512;

/// A request to a disk that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine {
    /// Major and minor number of the whole disk.
    pub devno: (u32, u32),
    /// Kind of I/O, where it is one of those that the model knows.
    pub op: Option<Op>,
    /// Nobody waits for it: it was read in advance.
    pub read_ahead: bool,
    /// First sector of 512 bytes on the whole disk that failed.
    pub sector: Sector,
    /// Sectors that failed; 0 for a flush.
    pub len: Sectors,
    /// The block layer's reason.
    pub class: ErrorClass,
}

/// What a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A request failed.
    Failed(RequestLine),
    /// The kernel had no room for some events.
    Lost,
}

/// Cuts what is read into lines. What it keeps between two reads is bounded.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// The lines that end in these bytes. One that is too long is left out.
    pub fn cut(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.too_long |= self.begun.len() + text.len() > LINE_BYTES;
            if !self.too_long {
                self.begun.extend_from_slice(text);
            }
            if ends {
                lines.extend(parse(&self.begun).filter(|_| !self.too_long));
                self.begun.clear();
                self.too_long = false;
            }
        }
        lines
    }
}

/// `block_rq_error: 8,16 RA 4096 () 1234 + 8 none,0,0 [-61]`, without anything before it: what stands there by default begins
/// with the name that a process gave itself. Older kernels leave out the priority. Or `CPU:1 [LOST 12 EVENTS]`.
fn parse(line: &[u8]) -> Option<Line> {
    let line = std::str::from_utf8(line).ok()?;
    if line.starts_with("CPU:") && line.contains(" [LOST ") {
        return Some(Line::Lost);
    }
    let rest = line.strip_prefix("block_rq_error: ")?;
    // Of the text in parentheses nothing is known; the numbers after it hold none.
    let (head, tail) = (rest.split_once(" (")?.0, rest.rsplit_once(") ")?.1);
    let mut head = head.split(' ');
    let (major, minor) = head.next()?.split_once(',')?;
    let devno = (major.parse().ok()?, minor.parse().ok()?);
    let (op, read_ahead) = kind(head.next()?);
    let mut tail = tail.split(' ');
    let sector = Sector(tail.next()?.parse().ok()?);
    let len = tail.next().filter(|plus| *plus == "+").and_then(|_| tail.next())?;
    let len = Sectors(len.parse::<u32>().ok()?.into());
    let error = tail.next_back()?.strip_prefix('[')?.strip_suffix(']')?;
    let class = class_of(error.parse().ok()?);
    Some(Line::Failed(RequestLine { devno, op, read_ahead, sector, len, class }))
}

/// The letters of `blk_fill_rwbs`: `F` for a flush before it, the operation, and flags, of which `A` after a read says that it was
/// in advance.
fn kind(letters: &str) -> (Option<Op>, bool) {
    let letters = match letters.as_bytes() {
        [b'F', rest @ ..] if matches!(rest.first(), Some(b'W' | b'D' | b'R' | b'N' | b'F' | b'Z')) => rest,
        all => all,
    };
    let op = match letters {
        [b'D', b'E', ..] => Some(Op::Erase),
        [b'D', ..] => Some(Op::Discard),
        [b'R', ..] => Some(Op::Read),
        [b'W', ..] | [b'Z', b'A', ..] => Some(Op::Write),
        [b'F', ..] => Some(Op::Flush),
        _ => None,
    };
    (op, op == Some(Op::Read) && letters.contains(&b'A'))
}

/// The errors of `blk_errors` in `block/blk-core.c`.
fn class_of(error: i32) -> ErrorClass {
    match -error {
        libc::ENODATA => ErrorClass::Medium,
        libc::EIO => ErrorClass::Ioerr,
        libc::EREMOTEIO => ErrorClass::Target,
        libc::ENOLINK => ErrorClass::Transport,
        libc::EBADE => ErrorClass::Nexus,
        libc::ETIMEDOUT => ErrorClass::Timeout,
        libc::EILSEQ => ErrorClass::Protection,
        libc::ENOSPC => ErrorClass::Nospc,
        libc::ENOMEM | libc::EBUSY => ErrorClass::Resource,
        libc::EAGAIN => ErrorClass::Again,
        libc::ENODEV => ErrorClass::Offline,
        _ => ErrorClass::Other,
    }
}

#[cfg(test)]
#[path = "tracepoint_text_tests.rs"]
mod tests;
