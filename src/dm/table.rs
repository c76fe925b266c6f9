//! Tables: lines `<start> <length> <target type> <parameters>` that cover a device without gap or overlap.

use super::target::Target;
use super::words::{BadParams, first_word, is_blank};
use std::fmt;

/// One line of a table. Start and length are sectors of the mapped device; the length is at least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// First sector.
    pub start: u64,
    /// Number of sectors.
    pub length: u64,
    /// What is there.
    pub target: Target,
}

/// A whole table: at least one line, from sector 0 on, each where the one before it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(Vec<Line>);

/// Why a text is no table. Lines are counted from 1, as they were given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTable {
    /// There is nothing.
    #[error("the table has no line; one looks like “0 2048 linear /dev/sdb 0”")]
    Empty,
    /// A line cannot be read.
    #[error("table line {line}: {why}")]
    Line {
        /// Its number.
        line: usize,
        /// Why.
        why: BadLine,
    },
    /// The first line does not start at 0.
    #[error("table line {line} starts at sector {start}: the first one has to start at 0")]
    Start {
        /// Its number.
        line: usize,
        /// Where it starts.
        start: u64,
    },
    /// Sectors that belong to no line.
    #[error("table line {line} starts at sector {start}, but the line before it ends at {end}: a gap of {} sectors", start - end)]
    Gap {
        /// Its number.
        line: usize,
        /// Where it starts.
        start: u64,
        /// Where it has to start.
        end: u64,
    },
    /// Sectors that belong to two lines.
    #[error("table line {line} starts at sector {start}, but the line before it reaches to {end}: they overlap")]
    Overlap {
        /// Its number.
        line: usize,
        /// Where it starts.
        start: u64,
        /// Where it has to start.
        end: u64,
    },
}

/// Why a text is no table line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// A field is not there.
    #[error("the {0} is missing; a line looks like “0 2048 linear /dev/sdb 0”")]
    Missing(&'static str),
    /// Start or length is no number.
    #[error("the {what} “{word}” is not a number of sectors{hint}")]
    Number {
        /// Start or length.
        what: &'static str,
        /// As given.
        word: String,
        /// What was meant, if that can be guessed.
        hint: String,
    },
    /// Nothing to map.
    #[error("the length is 0")]
    NoLength,
    /// Byte offsets are signed numbers of 64 bits in the kernel.
    #[error("it ends beyond the last sector that a device can have")]
    Beyond,
    /// The kernel's `DM_MAX_TYPE_NAME`.
    #[error("the target type “{0}” is no name of at most 15 characters")]
    Kind(String),
    /// The kernel reads parameters up to a zero byte.
    #[error("it contains a zero byte")]
    Zero,
    /// The target's parameters.
    #[error(transparent)]
    Params(#[from] BadParams),
}

/// One more than the last sector of the largest possible device.
const LAST: u64 = (i64::MAX / 512) as u64;

impl Line {
    /// A line as a kernel prints it. What is not understood passes through.
    pub fn of_kernel(start: u64, length: u64, kind: &str, params: &str) -> Line {
        Line { start, length, target: Target::of_kernel(kind, params) }
    }

    /// One more than its last sector.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// A word for a message. One that is too long to be what it should be may be a key: a key file given as a table.
fn quoted(word: &str) -> String {
    let short = word.chars().count() <= 20;
    let shown = word.chars().take(if short { 20 } else { 4 }).flat_map(char::escape_debug).collect::<String>();
    if short { shown } else { shown + "…" }
}

impl std::str::FromStr for Line {
    type Err = BadLine;

    fn from_str(text: &str) -> Result<Line, BadLine> {
        if text.contains('\0') {
            return Err(BadLine::Zero);
        }
        let (start, rest) = first_word(text).ok_or(BadLine::Missing("start"))?;
        let start = sectors("start", start)?;
        let (length, rest) = first_word(rest).ok_or(BadLine::Missing("length"))?;
        let length = sectors("length", length)?;
        if length == 0 {
            return Err(BadLine::NoLength);
        }
        if start.checked_add(length).is_none_or(|end| end > LAST) {
            return Err(BadLine::Beyond);
        }
        let (kind, params) = first_word(rest).ok_or(BadLine::Missing("target type"))?;
        if kind.len() > 15 || !kind.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(BadLine::Kind(quoted(kind)));
        }
        Ok(Line { start, length, target: Target::parse(kind, params)? })
    }
}

/// As the kernel takes it and as `dmsetup table` prints it, keys included.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.start, self.length, self.target.kind())?;
        match self.target.to_string() {
            params if params.is_empty() => Ok(()),
            params => write!(f, " {params}"),
        }
    }
}

fn sectors(what: &'static str, word: &str) -> Result<u64, BadLine> {
    let number = word.parse().ok().filter(|_| word.bytes().all(|c| c.is_ascii_digit()));
    number.ok_or_else(|| BadLine::Number { what, word: quoted(word), hint: hint(word) })
}

/// What somebody meant who wrote a unit.
fn hint(word: &str) -> String {
    let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
    let sectors_per = match word[digits.len()..].trim_end_matches("iB").trim_end_matches(['b', 'B']) {
        "s" | "S" => Some(1),
        "k" | "K" => Some(2),
        "m" | "M" => Some(2 << 10),
        "g" | "G" => Some(2 << 20),
        "t" | "T" => Some(2 << 30),
        _ => None,
    };
    let meant = sectors_per.and_then(|per: u64| digits.parse::<u64>().ok()?.checked_mul(per));
    let unit = " of 512 bytes (no unit, no sign, no fraction)";
    meant.map_or(unit.into(), |meant| format!("{unit}; {word} is {meant} sectors"))
}

impl Table {
    /// The lines.
    pub fn lines(&self) -> &[Line] {
        &self.0
    }

    /// Sectors that it covers.
    pub fn length(&self) -> u64 {
        self.0.last().map_or(0, Line::end)
    }
}

/// One line per row; empty rows and those that begin with `#` are comments, as dmsetup has it.
impl std::str::FromStr for Table {
    type Err = BadTable;

    fn from_str(text: &str) -> Result<Table, BadTable> {
        let (mut lines, mut end) = (Vec::<Line>::new(), 0);
        for (number, row) in (1..).zip(text.lines()) {
            let row = row.trim_start_matches(is_blank);
            if row.is_empty() || row.starts_with('#') {
                continue;
            }
            let line: Line = row.parse().map_err(|why| BadTable::Line { line: number, why })?;
            let start = line.start;
            match start.cmp(&end) {
                std::cmp::Ordering::Equal => {}
                _ if lines.is_empty() => return Err(BadTable::Start { line: number, start }),
                std::cmp::Ordering::Greater => return Err(BadTable::Gap { line: number, start, end }),
                std::cmp::Ordering::Less => return Err(BadTable::Overlap { line: number, start, end }),
            }
            end = line.end();
            lines.push(line);
        }
        if lines.is_empty() { Err(BadTable::Empty) } else { Ok(Table(lines)) }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(table: &str) -> String {
        table.parse::<Table>().unwrap_err().to_string()
    }

    #[test]
    fn comments_and_blanks_are_no_lines() {
        let table: Table = "# START LENGTH\n\n  0 8 linear /dev/a 0\n\t8\t4   error  \n".parse().unwrap();
        assert_eq!(table.to_string(), "0 8 linear /dev/a 0\n8 4 error\n");
        assert_eq!(table.length(), 12);
    }

    #[test]
    fn what_may_be_a_key_is_not_shown() {
        for table in ["0123456789abcdef0123456789abcdef", "0 8 0123456789abcdef0123456789abcdef"] {
            let message = refused(table);
            assert!(message.contains("“0123…”"), "{message}");
        }
        assert!(refused("0 8 lin\x1bear\x07 /dev/a 0").contains("lin\\u{1b}ear\\u{7}"));
    }

    #[test]
    fn a_table_covers_a_device_once() {
        for (table, words) in [
            ("", "no line"),
            ("# only\n", "no line"),
            ("8 8 error", "table line 1 starts at sector 8: the first one has to start at 0"),
            ("0 8 error\n10 8 error", "table line 2 starts at sector 10, but the line before it ends at 8: a gap of 2 sectors"),
            ("0 8 error\n\n4 8 error", "table line 3 starts at sector 4, but the line before it reaches to 8: they overlap"),
            ("0 8 error\n0 8 error", "overlap"),
        ] {
            assert!(refused(table).contains(words), "{table:?}: {}", refused(table));
        }
    }

    #[test]
    fn numbers_are_sectors() {
        for (table, words) in [
            (
                "0 100M linear /dev/a 0",
                "“100M” is not a number of sectors of 512 bytes (no unit, no sign, no fraction); 100M is 204800",
            ),
            ("0 1GiB error", "1GiB is 2097152 sectors"),
            ("0 8s error", "8s is 8 sectors"),
            ("0 -8 error", "“-8”"),
            ("+0 8 error", "“+0”"),
            ("0 0x10 error", "“0x10”"),
            ("0 1.5G error", "no fraction"),
            ("0 99999999999999999999 error", "“99999999999999999999”"),
            ("0 18014398509481984 error", "beyond the last sector"),
            ("0 0 error", "length is 0"),
            ("linear", "start “linear”"),
            ("0", "length is missing"),
            ("0 8", "target type is missing"),
            ("0 8 a-name-of-16-byt x", "a-name-of-16-byt"),
            ("0 8 linear", "linear: the device is missing"),
            ("0 8 linear /dev/a", "linear: the offset is missing"),
            ("0 8 linear /dev/a 1M", "linear: the offset has to be a number, “1M” is none"),
            ("0 8 linear /dev/a 0 0", "“0” comes after the last parameter"),
            ("0 8 zero a\0b", "zero byte"),
        ] {
            assert!(refused(table).contains(words), "{table:?}: {}", refused(table));
        }
        assert!("0 18014398509481983 error".parse::<Table>().is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_a_panic(text in any::<String>()) {
            let _ = text.parse::<Table>();
            let _ = format!("0 8 {text}").parse::<Table>();
            for kind in Target::KINDS {
                let _ = Target::parse(kind, &text);
            }
        }

        #[test]
        fn a_table_is_read_as_it_is_printed(lengths in proptest::collection::vec(1u64..1 << 40, 1..20)) {
            let mut start = 0;
            let mut text = String::new();
            for length in lengths {
                text += &format!("{start} {length} linear 8:16 {start}\n");
                start += length;
            }
            let table: Table = text.parse().unwrap();
            prop_assert_eq!(table.to_string(), text);
            prop_assert_eq!(table.length(), start);
        }
    }
}
