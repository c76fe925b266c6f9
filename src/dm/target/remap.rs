//! This project's own target.

use super::Needed;
use crate::dm::words::{BadParams, Device, Words};
use std::fmt;

/// `<main> <spare> [<#optwords> <opt>...]` (`kmod/dm-remap.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Remap {
    /// The disk that may go bad.
    pub main: Device,
    /// The first spare.
    pub spare: Device,
    /// In the order given.
    pub options: Vec<RemapOption>,
}

/// An option of the target.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RemapOption {
    /// The spare may be smaller than 5 % of the target.
    SmallSpare,
    /// It belongs to a daemon.
    Managed,
    /// Sectors at the start and the end of each spare that are never remapped to.
    Reserve {
        /// At the start.
        head: u64,
        /// At the end.
        tail: u64,
    },
    /// I/O waits so many milliseconds for `ready`.
    Closed(u32),
    /// So many milliseconds a failed write may be held.
    Hold(u32),
    /// A further spare.
    Spare(Device),
    /// A word of a newer module.
    Other(String),
}

impl RemapOption {
    fn words(&self) -> usize {
        match self {
            RemapOption::Reserve { .. } => 3,
            RemapOption::Closed(_) | RemapOption::Hold(_) | RemapOption::Spare(_) => 2,
            RemapOption::SmallSpare | RemapOption::Managed | RemapOption::Other(_) => 1,
        }
    }

    fn parse(words: &mut Words<'_>) -> Result<RemapOption, BadParams> {
        Ok(match words.word("option")? {
            "small_spare" => RemapOption::SmallSpare,
            "managed" => RemapOption::Managed,
            "reserve" => RemapOption::Reserve { head: words.number("reserve")?, tail: words.number("reserve")? },
            "closed" => RemapOption::Closed(words.number("closed time")?),
            "hold" => RemapOption::Hold(words.number("hold time")?),
            "spare" => RemapOption::Spare(words.device("further spare")?),
            other => RemapOption::Other(other.into()),
        })
    }
}

impl fmt::Display for RemapOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RemapOption::SmallSpare => f.write_str("small_spare"),
            RemapOption::Managed => f.write_str("managed"),
            RemapOption::Reserve { head, tail } => write!(f, "reserve {head} {tail}"),
            RemapOption::Closed(ms) => write!(f, "closed {ms}"),
            RemapOption::Hold(ms) => write!(f, "hold {ms}"),
            RemapOption::Spare(device) => write!(f, "spare {device}"),
            RemapOption::Other(word) => f.write_str(word),
        }
    }
}

impl Remap {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("dm-remap-v4", params);
        let (main, spare) = (words.device("main device")?, words.device("spare")?);
        let count: usize = if words.peek().is_none() { 0 } else { words.number("number of option words")? };
        let (mut options, mut read) = (Vec::new(), 0);
        while read < count {
            let option = RemapOption::parse(&mut words)?;
            read += option.words();
            options.push(option);
        }
        if read != count {
            return Err(words.fail(format!("the options are {read} words, not {count}")));
        }
        words.end().map(|()| Remap { main, spare, options })
    }

    /// Its spares, in order.
    pub fn spares(&self) -> impl Iterator<Item = &Device> {
        let further = self.options.iter().filter_map(|option| match option {
            RemapOption::Spare(device) => Some(device),
            _ => None,
        });
        std::iter::once(&self.spare).chain(further)
    }

    pub(super) fn needs(&self, length: u64) -> Vec<Needed<'_>> {
        std::iter::once(Needed::range(&self.main, 0, length)).chain(self.spares().map(Needed::any)).collect()
    }
}

impl fmt::Display for Remap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.main, self.spare)?;
        if self.options.is_empty() {
            return Ok(());
        }
        write!(f, " {}", self.options.iter().map(RemapOption::words).sum::<usize>())?;
        self.options.iter().try_for_each(|option| write!(f, " {option}"))
    }
}
