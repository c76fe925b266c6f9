//! The words between the workload and who replays it, as marks in the log.

use anyhow::{Context, Result, bail};
use std::str::FromStr;

/// What the workload does, or knows to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `create` has ended; main is bad where this seed says.
    Created {
        /// Of the places.
        seed: u64,
        /// How many.
        places: u64,
    },
    /// A write is about to be sent.
    Begun {
        /// Its version.
        version: u64,
        /// First sector.
        at: u64,
        /// Sectors.
        len: u64,
    },
    /// It was acknowledged.
    Done(u64),
    /// A flush is about to be sent.
    Flushing(u64),
    /// It succeeded.
    Flushed(u64),
    /// All writes are done.
    Finished,
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // One word: the target takes no more.
        match self {
            Mark::Created { seed, places } => write!(f, "created:{seed}:{places}"),
            Mark::Begun { version, at, len } => write!(f, "begun:{version}:{at}:{len}"),
            Mark::Done(version) => write!(f, "done:{version}"),
            Mark::Flushing(flush) => write!(f, "flushing:{flush}"),
            Mark::Flushed(flush) => write!(f, "flushed:{flush}"),
            Mark::Finished => write!(f, "finished"),
        }
    }
}

impl FromStr for Mark {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Mark> {
        let (word, numbers) = text.split_once(':').unwrap_or((text, ""));
        let numbers: Vec<u64> = numbers
            .split(':')
            .filter(|text| !text.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("the mark “{text}”"))?;
        Ok(match (word, numbers.as_slice()) {
            ("created", &[seed, places]) => Mark::Created { seed, places },
            ("begun", &[version, at, len]) => Mark::Begun { version, at, len },
            ("done", &[version]) => Mark::Done(version),
            ("flushing", &[flush]) => Mark::Flushing(flush),
            ("flushed", &[flush]) => Mark::Flushed(flush),
            ("finished", []) => Mark::Finished,
            _ => bail!("no mark of this test: “{text}”"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        let all = [
            Mark::Created { seed: 1, places: 2 },
            Mark::Begun { version: 3, at: 4, len: 5 },
            Mark::Done(6),
            Mark::Flushing(7),
            Mark::Flushed(8),
            Mark::Finished,
        ];
        for mark in all {
            assert_eq!(mark.to_string().parse::<Mark>().unwrap(), mark);
        }
        for wrong in ["", "done", "done:x", "begun:1:2", "dm-log-writes-end"] {
            assert!(wrong.parse::<Mark>().is_err(), "{wrong}");
        }
    }
}
