//! Lines of the kernel log that tell of block devices: pure parsing of any bytes.
//!
//! The forms come from `blk_print_req_error` (`block/blk-mq.c`), `scsi_print_sense` and its kin, `nvme_log_error`
//! and libata. They are evidence and hints, never a count: the kernel rate-limits them.

use crate::model::{ErrorClass, FailedRequest, Millis, Op, Sector, Sectors, Teller};

/// Longest text kept of a line.
const TEXT_BYTES: usize = 400;

/// One line about a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelNote {
    /// When it was read.
    pub at: Millis,
    /// Who printed it.
    pub source: NoteSource,
    /// As the line names it: a kernel name (`sdb`, `nvme0n1`), a controller (`nvme0`) or a port (`ata3.00`).
    pub device: Option<String>,
    /// Sector of 512 bytes on the whole disk, where the line tells it in these units.
    pub sector: Option<Sector>,
    /// First logical block of the device that the command named, where the line tells it in these units.
    pub block: Option<u64>,
    /// Sectors that failed; 0 where the line does not tell.
    pub len: Sectors,
    /// Kind of I/O.
    pub op: Option<Op>,
    /// Class, where the words are plain.
    pub class: Option<ErrorClass>,
    /// It was read in advance; only the tracepoint tells.
    pub read_ahead: bool,
    /// The line.
    pub text: String,
}

impl KernelNote {
    /// What it says of one request; `None` where it is no exact word of the block layer.
    pub fn failed_request(&self) -> Option<FailedRequest> {
        let by = match self.source {
            NoteSource::Block => Teller::Log,
            NoteSource::Tracepoint => Teller::Tracepoint,
            _ => return None,
        };
        let KernelNote { op, len, read_ahead, .. } = *self;
        Some(FailedRequest { by, op, class: self.class?, len, read_ahead })
    }

    /// A drive's own error at a flush, which nobody else may hear of: the driver asks again.
    pub fn is_lost_flush(&self) -> bool {
        self.source == NoteSource::Ata && self.op == Some(Op::Flush) && self.class.is_some()
    }
}

/// Which part of the kernel printed a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteSource {
    /// The block layer: device, sector, kind and class are exact.
    Block,
    /// The block layer's tracepoint: the same, whatever the rate.
    Tracepoint,
    /// The page cache.
    Buffer,
    /// A SCSI disk, often with sense data.
    Scsi,
    /// NVMe.
    Nvme,
    /// An ATA port or device.
    Ata,
    /// The rate limit hid this many lines.
    Suppressed(u64),
}

/// Reads one record of `/dev/kmsg`: `prio,seq,time,flags[,…];text`, then lines ` KEY=value`.
///
/// `None` for everything that is not about a block device, or was not printed by the kernel itself.
pub fn parse(record: &[u8], at: Millis) -> Option<KernelNote> {
    let record = String::from_utf8_lossy(record);
    let (head, body) = record.split_once(';')?;
    let mut head = head.split(',');
    let priority: u32 = head.next()?.parse().ok()?;
    // Facility 0 is the kernel; user space cannot write it.
    if priority >> 3 != 0 {
        return None;
    }
    let _sequence: u64 = head.next()?.parse().ok()?;
    let text = body.lines().next()?.trim();
    let found = block(text).or_else(|| buffer(text)).or_else(|| scsi(text)).or_else(|| nvme(text)).or_else(|| ata(text));
    let line = found.or_else(|| suppressed(text))?;
    let device = line.device.filter(|name| is_device_name(name)).map(str::to_owned);
    let Line { source, sector, block, op, class, .. } = line;
    let (len, read_ahead) = (Sectors(0), false);
    Some(KernelNote { at, source, device, sector, block, len, op, class, read_ahead, text: shorten(text) })
}

/// What a line tells.
struct Line<'a> {
    source: NoteSource,
    device: Option<&'a str>,
    sector: Option<Sector>,
    block: Option<u64>,
    op: Option<Op>,
    class: Option<ErrorClass>,
}

impl<'a> Line<'a> {
    fn new(source: NoteSource, device: Option<&'a str>, class: Option<ErrorClass>) -> Self {
        Line { source, device, sector: None, block: None, op: None, class }
    }
}

/// On one line, too: `/dev/kmsg` shows a line break within a record so.
fn shorten(text: &str) -> String {
    let text = text.split("\\x0a").map(str::trim).collect::<Vec<_>>().join(", ");
    let mut end = text.len().min(TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().filter(|c| !c.is_control()).collect()
}

fn is_device_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || b"_-.!".contains(&c);
    !name.is_empty() && name.len() <= 64 && name.bytes().all(good)
}

/// The number that `text` begins with.
fn leading(text: &str) -> Option<u64> {
    let end = text.bytes().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

/// `critical medium error, dev sdb, sector 1234 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2`; older kernels put
/// the name of a function before it and leave out the operation.
fn block(text: &str) -> Option<Line<'_>> {
    let (what, rest) = text.split_once(" error, dev ")?;
    let what = what.rsplit_once(": ").map_or(what, |(_, what)| what);
    let class = class_of(what)?;
    let (device, rest) = rest.split_once(", sector ")?;
    let op = after(rest, ":(").and_then(|rest| rest.split_once(')')).and_then(|(op, _)| op_of(op));
    let mut line = Line::new(NoteSource::Block, Some(device), Some(class));
    line.sector = leading(rest).map(Sector);
    line.op = op;
    Some(line)
}

/// The words of `blk_errors` in `block/blk-core.c`.
fn class_of(what: &str) -> Option<ErrorClass> {
    Some(match what {
        "critical medium" => ErrorClass::Medium,
        "I/O" => ErrorClass::Ioerr,
        "critical target" => ErrorClass::Target,
        "recoverable transport" => ErrorClass::Transport,
        // The second is the word of kernels since 6.5 for the same status.
        "critical nexus" | "reservation conflict" => ErrorClass::Nexus,
        "timeout" => ErrorClass::Timeout,
        "protection" => ErrorClass::Protection,
        "critical space allocation" => ErrorClass::Nospc,
        "kernel resource" | "device resource" => ErrorClass::Resource,
        "nonblocking retry" => ErrorClass::Again,
        "device offline" => ErrorClass::Offline,
        "operation not supported"
        | "dm internal retry"
        | "open zones exceeded"
        | "active zones exceeded"
        | "duration limit exceeded"
        | "zone active resource"
        | "zone open resource"
        | "invalid" => ErrorClass::Other,
        _ => return None,
    })
}

/// The words of `blk_op_str`.
fn op_of(word: &str) -> Option<Op> {
    Some(match word {
        "READ" => Op::Read,
        "WRITE" | "ZONE_APPEND" => Op::Write,
        "FLUSH" => Op::Flush,
        "DISCARD" => Op::Discard,
        "SECURE_ERASE" => Op::Erase,
        "WRITE_ZEROES" => Op::Zeroes,
        _ => return None,
    })
}

/// `Buffer I/O error on dev sdb1, logical block 12, async page read`. The unit of the block is not told.
fn buffer(text: &str) -> Option<Line<'_>> {
    let rest = after(text, "Buffer I/O error on dev ")?;
    let device = rest.split([',', ' ']).next();
    let mut line = Line::new(NoteSource::Buffer, device, None);
    line.op = if rest.contains("read") { Some(Op::Read) } else { rest.contains("write").then_some(Op::Write) };
    Some(line)
}

/// `sd 0:0:0:0: [sda] tag#3 Sense Key : Medium Error [current]`, `… Add. Sense: Unrecovered read error`, `… CDB: …`.
fn scsi(text: &str) -> Option<Line<'_>> {
    let rest = text.strip_prefix("sd ")?;
    let (_, rest) = rest.split_once(": [")?;
    let (device, rest) = rest.split_once("] ")?;
    let told = ["FAILED Result", "Sense", "CDB:", "timing out", "Medium Error", "offline", "Synchronize Cache", "hostbyte"];
    if !told.iter().any(|word| rest.contains(word)) {
        return None;
    }
    let class = if rest.contains("Sense Key : Medium Error") {
        Some(ErrorClass::Medium)
    } else if rest.contains("timing out") || rest.contains("DID_TIME_OUT") {
        Some(ErrorClass::Timeout)
    } else if rest.contains("DID_TRANSPORT") || rest.contains("DID_NO_CONNECT") {
        Some(ErrorClass::Transport)
    } else {
        None
    };
    let mut line = Line::new(NoteSource::Scsi, Some(device), class);
    line.op = after(rest, "CDB: ").and_then(|cdb| {
        if cdb.starts_with("Read(") {
            Some(Op::Read)
        } else if cdb.starts_with("Write(") {
            Some(Op::Write)
        } else {
            cdb.starts_with("Synchronize Cache").then_some(Op::Flush)
        }
    });
    Some(line)
}

/// `nvme0n1: Read(0x2) @ LBA 99, 8 blocks, Unrecovered Read Error (sct 0x2 / sc 0x81) DNR`: the LBA counts the
/// device's logical blocks. Or `nvme nvme0: I/O 5 QID 1 timeout, aborting`.
fn nvme(text: &str) -> Option<Line<'_>> {
    let text = text.strip_prefix("nvme ").unwrap_or(text);
    let (device, rest) = text.split_once(": ")?;
    if !device.starts_with("nvme") || device.contains(' ') {
        return None;
    }
    let told = ["(sct ", "timeout", "reset", "abort", "I/O", "down", "removing", "failed"];
    if !told.iter().any(|word| rest.contains(word)) {
        return None;
    }
    let class = if rest.contains("(sct 0x2 / sc 0x81)") || rest.contains("(sct 0x2 / sc 0x80)") {
        Some(ErrorClass::Medium)
    } else {
        rest.contains("timeout").then_some(ErrorClass::Timeout)
    };
    let mut line = Line::new(NoteSource::Nvme, Some(device), class);
    line.block = after(rest, " @ LBA ").and_then(leading);
    line.op = match rest.split_once('(').map(|(command, _)| command.trim()) {
        Some("Read") => Some(Op::Read),
        Some("Write") => Some(Op::Write),
        Some("Flush") => Some(Op::Flush),
        Some("Write Zeroes") => Some(Op::Zeroes),
        Some("Dataset Management") => Some(Op::Discard),
        _ => None,
    };
    Some(line)
}

/// `ata3.00: failed command: READ FPDMA QUEUED`, `ata3.00: error: { UNC }`, `ata3: SATA link down`.
fn ata(text: &str) -> Option<Line<'_>> {
    let (device, rest) = text.split_once(": ")?;
    let number = device.strip_prefix("ata")?;
    if !number.starts_with(|c: char| c.is_ascii_digit()) || !number.bytes().all(|c| c.is_ascii_digit() || c == b'.') {
        return None;
    }
    if let Some(line) = ata_flush(device, rest) {
        return Some(line);
    }
    let told = ["exception", "failed", "status:", "error:", "link", "reset", "irq_stat", "SError", "disabled", "NCQ"];
    if !told.iter().any(|word| rest.contains(word)) {
        return None;
    }
    let class = if rest.starts_with("error:") && rest.contains(" UNC ") {
        Some(ErrorClass::Medium)
    } else {
        rest.contains("link down").then_some(ErrorClass::Transport)
    };
    let mut line = Line::new(NoteSource::Ata, Some(device), class);
    if let Some(command) = after(rest, "failed command: ") {
        line.op = if command.starts_with("READ") { Some(Op::Read) } else { command.starts_with("WRITE").then_some(Op::Write) };
        line.op = if command.starts_with("FLUSH") { Some(Op::Flush) } else { line.op };
    }
    Some(line)
}

/// `ata3.00: cmd e7/00:…  res 41/04:… Emask 0x1 (device error)`: FLUSH CACHE, or `ea`, FLUSH CACHE EXT (`ata_eh_link_report`). With
/// another mask the link failed, or the drive took too long.
fn ata_flush<'a>(device: &'a str, rest: &str) -> Option<Line<'a>> {
    let command = rest.strip_prefix("cmd ")?;
    let is_flush = command.starts_with("e7/") || command.starts_with("ea/");
    if !is_flush || !command.contains("Emask 0x1 (device error)") {
        return None;
    }
    let mut line = Line::new(NoteSource::Ata, Some(device), Some(ErrorClass::Ioerr));
    line.op = Some(Op::Flush);
    Some(line)
}

/// `blk_print_req_error: 12 callbacks suppressed`.
fn suppressed(text: &str) -> Option<Line<'_>> {
    let (who, rest) = text.split_once(": ")?;
    let count = leading(rest.strip_suffix(" callbacks suppressed")?)?;
    let of_disks = ["print_req_error", "blk_update_request", "buffer_io_error", "nvme_log_error", "nvme_log_err_passthru"];
    of_disks.iter().any(|name| who.ends_with(name)).then(|| Line::new(NoteSource::Suppressed(count), None, None))
}

#[cfg(test)]
#[path = "kmsg_text_tests.rs"]
mod tests;
