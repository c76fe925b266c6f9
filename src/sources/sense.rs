//! What a SCSI disk answered to one command, put together from the lines that the kernel prints of it: pure.
//!
//! `scsi_io_completion` (`drivers/scsi/scsi_lib.c`) prints the result, the sense key, the additional sense and the command (CDB), in
//! this order, each line with the disk and the tag of the command. Commands of several disks, or tags, may come in between.

use super::kmsg_text::{KernelNote, NoteSource};
use crate::model::Op;
use std::collections::VecDeque;

/// Commands whose last line has not come.
const OPEN: usize = 16;

/// Longest answer that is kept.
const BYTES: usize = 200;

/// Commands of which some lines have been read.
#[derive(Debug, Default)]
pub struct Answers(VecDeque<Answer>);

#[derive(Debug)]
struct Answer {
    /// `[sda] tag#3`
    command: String,
    said: String,
}

impl Answers {
    /// Takes the next line in. The one with the command then says what was answered, and for which block; the others stay as they are.
    pub fn join(&mut self, note: KernelNote) -> KernelNote {
        let Some((command, rest)) = (note.source == NoteSource::Scsi).then(|| split(&note.text)).flatten() else { return note };
        if let Some(cdb) = rest.strip_prefix("CDB: ") {
            let Some(said) = self.take(command) else { return note };
            return KernelNote { block: first_block(cdb, note.op), text: said, ..note };
        }
        if rest.starts_with("FAILED Result:") {
            drop(self.take(command));
        }
        if let Some(said) = answer(rest) {
            self.add(command, said);
        }
        note
    }

    fn take(&mut self, command: &str) -> Option<String> {
        let at = self.0.iter().position(|answer| answer.command == command)?;
        self.0.remove(at).map(|answer| answer.said)
    }

    fn add(&mut self, command: &str, said: &str) {
        let said = match self.take(command) {
            Some(before) => format!("{before}, {said}"),
            None => said.to_owned(),
        };
        if said.len() > BYTES || command.len() > BYTES {
            return;
        }
        if self.0.len() == OPEN {
            self.0.pop_front();
        }
        self.0.push_back(Answer { command: command.to_owned(), said });
    }
}

/// `sd 0:0:0:0: [sda] tag#3 CDB: …`: the command, and what is said of it.
fn split(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once(": ")?;
    let (disk, after) = rest.split_once("] ")?;
    let (tag, said) = after.split_once(' ')?;
    if !tag.starts_with("tag#") {
        return Some((disk, after));
    }
    Some((&rest[..disk.len() + "] ".len() + tag.len()], said))
}

/// What a line says of how its command ended. Deferred sense is of an earlier command, which nobody knows.
fn answer(rest: &str) -> Option<&str> {
    if let Some(key) = rest.strip_prefix("Sense Key : ") {
        let (key, kind) = key.split_once(" [")?;
        return kind.starts_with("current").then_some(key);
    }
    if let Some(code) = rest.strip_prefix("Add. Sense: ") {
        return Some(code.trim_end());
    }
    let host = rest.strip_prefix("FAILED Result: hostbyte=")?.split(' ').next()?;
    (host != "DID_OK").then_some(host)
}

/// The address in a command to read or to write: its first byte says how long it is (SBC-4, 5.11 and following).
fn first_block(cdb: &str, op: Option<Op>) -> Option<u64> {
    let (name, bytes) = cdb.split_once(") ")?;
    let address = match name.split_once('(')?.1 {
        "10" | "12" => 2..6,
        "16" => 2..10,
        _ => return None,
    };
    matches!(op?, Op::Read | Op::Write).then_some(())?;
    let mut block = 0;
    for byte in bytes.split(' ').skip(address.start).take(address.len()) {
        block = block << 8 | u64::from(u8::from_str_radix(byte, 16).ok()?);
    }
    (bytes.split(' ').count() >= address.end).then_some(block)
}

#[cfg(test)]
mod tests {
    use super::super::kmsg_text::parse;
    use super::*;
    use crate::model::Millis;
    use proptest::prelude::*;

    /// The last line's note.
    fn joined(answers: &mut Answers, lines: &[&str]) -> KernelNote {
        let notes = lines.iter().filter_map(|line| parse(format!("3,1,1,-;{line}\n").as_bytes(), Millis(7)));
        notes.map(|note| answers.join(note)).last().unwrap()
    }

    const MEDIUM: [&str; 4] = [
        "sd 0:0:0:0: [sda] tag#3 FAILED Result: hostbyte=DID_OK driverbyte=DRIVER_OK cmd_age=0s",
        "sd 0:0:0:0: [sda] tag#3 Sense Key : Medium Error [current] ",
        "sd 0:0:0:0: [sda] tag#3 Add. Sense: Unrecovered read error",
        "sd 0:0:0:0: [sda] tag#3 CDB: Read(10) 28 00 00 00 04 d2 00 00 08 00",
    ];

    #[test]
    fn the_lines_of_a_command_are_one() {
        let note = joined(&mut Answers::default(), &MEDIUM);
        assert_eq!((note.block, note.op), (Some(0x4d2), Some(Op::Read)));
        assert_eq!(note.text, "Medium Error, Unrecovered read error");
    }

    #[test]
    fn what_comes_in_between_is_of_another_command() {
        let mut answers = Answers::default();
        let [result, key, code, cdb] = MEDIUM;
        joined(&mut answers, &[result, key]);
        let other = [
            "sd 0:0:0:0: [sda] tag#4 FAILED Result: hostbyte=DID_NO_CONNECT driverbyte=DRIVER_OK cmd_age=0s",
            "sd 0:0:0:0: [sda] tag#4 CDB: Write(16) 8a 00 00 00 00 01 00 00 00 02 00 00 00 08 00 00",
        ];
        let other = joined(&mut answers, &other);
        assert_eq!((other.block, other.text.as_str()), (Some(0x1_0000_0002), "DID_NO_CONNECT"));
        assert_eq!(joined(&mut answers, &[code, cdb]).text, "Medium Error, Unrecovered read error");
        // What it was is told once.
        assert_eq!(joined(&mut answers, &[cdb]).block, None);
    }

    #[test]
    fn deferred_sense_is_of_no_command_that_is_known() {
        let mut answers = Answers::default();
        let [result, _, _, cdb] = MEDIUM;
        let note = joined(&mut answers, &[result, "sd 0:0:0:0: [sda] tag#3 Sense Key : Medium Error [deferred] ", cdb]);
        assert_eq!(note.block, None);
    }

    #[test]
    fn a_command_without_an_address_names_no_block() {
        let flush = "sd 0:0:0:0: [sda] tag#3 CDB: Synchronize Cache(10) 35 00 00 00 00 00 00 00 00 00";
        for cdb in
            [flush, "sd 0:0:0:0: [sda] tag#3 CDB: Read(10) 28 00 00", "sd 0:0:0:0: [sda] tag#3 CDB: Write(10) 2a 00 zz 00 00 00"]
        {
            let [result, key, code, _] = MEDIUM;
            let note = joined(&mut Answers::default(), &[result, key, code, cdb]);
            assert_eq!((note.block, note.text.as_str()), (None, "Medium Error, Unrecovered read error"), "{cdb}");
        }
    }

    proptest! {
        #[test]
        fn no_lines_make_a_panic_and_little_is_kept(
            lines in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![
                "sd 0:0:0:0: [sda] ", "tag#1 ", "tag#2 ", "Sense Key : ", " [current]", "Add. Sense: ", "CDB: Read(", "10) ", "16) ",
                "28 ", "00 ", "ff ", "é ", "FAILED Result: hostbyte=", "] ", ": ", "[",
            ]), 0..24), 0..60),
        ) {
            let mut answers = Answers::default();
            for words in lines {
                if let Some(note) = parse(format!("3,1,1,-;sd 1: [sda] {}\n", words.concat()).as_bytes(), Millis(0)) {
                    let note = answers.join(note);
                    prop_assert!(note.text.len() <= 400 && answers.0.len() <= OPEN);
                }
            }
        }
    }
}
