//! Targets that pass I/O on without metadata of their own: linear, striped, error, flakey.

use super::Needed;
use crate::dm::words::{BadParams, Device, Words, write_always_counted};
use std::fmt;

/// `<dev path> <offset>` (`linear.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Linear {
    /// The device below.
    pub device: Device,
    /// First sector on it.
    pub offset: u64,
}

impl Linear {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("linear", params);
        let linear = Linear { device: words.device("device")?, offset: words.number("offset")? };
        words.end().map(|()| linear)
    }

    pub(super) fn needs(&self, length: u64) -> Vec<Needed<'_>> {
        vec![Needed::range(&self.device, self.offset, length)]
    }
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device, self.offset)
    }
}

/// `<num devs> <chunk size> [<dev path> <offset>]+` (`striped.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Striped {
    /// Sectors that go to one device before it is the next one's turn.
    pub chunk: u64,
    /// The devices, in their turn; at least one.
    pub stripes: Vec<Stripe>,
}

/// One device of a striped target.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Stripe {
    /// The device below.
    pub device: Device,
    /// First sector on it.
    pub offset: u64,
}

impl Striped {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("striped", params);
        let count: u32 = words.number("number of devices")?;
        if count == 0 {
            return Err(words.fail("the number of devices is 0"));
        }
        let chunk = words.number("chunk size")?;
        if chunk == 0 {
            return Err(words.fail("the chunk size is 0"));
        }
        let stripe = |words: &mut Words<'_>, n: u32| {
            let device = words.device(&format!("device {} of {count}", n + 1))?;
            Ok(Stripe { device, offset: words.number(&format!("offset {} of {count}", n + 1))? })
        };
        let stripes = (0..count).map(|n| stripe(&mut words, n)).collect::<Result<_, BadParams>>()?;
        words.end().map(|()| Striped { chunk, stripes })
    }

    pub(super) fn needs(&self, length: u64) -> Vec<Needed<'_>> {
        let share = length / self.stripes.len().max(1) as u64;
        self.stripes.iter().map(|stripe| Needed::range(&stripe.device, stripe.offset, share)).collect()
    }
}

impl fmt::Display for Striped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.stripes.len(), self.chunk)?;
        self.stripes.iter().try_for_each(|stripe| write!(f, " {} {}", stripe.device, stripe.offset))
    }
}

/// Nothing, or (from Linux 6.7 on) `<dev path> <offset>`, whose zones it takes on. The kernel's sources
/// (`drivers/md/dm-target.c`) are its only document.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ErrorTarget {
    /// The device that it imitates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub like: Option<Linear>,
}

impl ErrorTarget {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("error", params);
        let Some(device) = words.next() else { return Ok(ErrorTarget { like: None }) };
        let like = Linear { device: Device(device.into()), offset: words.number("offset")? };
        words.end().map(|()| ErrorTarget { like: Some(like) })
    }

    pub(super) fn needs(&self, length: u64) -> Vec<Needed<'_>> {
        self.like.iter().flat_map(|like| like.needs(length)).collect()
    }
}

impl fmt::Display for ErrorTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.like.iter().try_for_each(|like| like.fmt(f))
    }
}

/// `<dev path> <offset> <up interval> <down interval> [<num_features> [<feature arguments>]]` (`dm-flakey.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Flakey {
    /// The device below.
    pub device: Device,
    /// First sector on it.
    pub offset: u64,
    /// Seconds for which it works.
    pub up: u32,
    /// Seconds for which it does not.
    pub down: u32,
    /// What it does then; without any, all I/O fails.
    pub features: Vec<Feature>,
}

/// What a flakey target does while it is down.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// Reads fail.
    ErrorReads,
    /// Writes are lost in silence.
    DropWrites,
    /// Writes fail.
    ErrorWrites,
    /// A byte of each request is replaced.
    CorruptBioByte {
        /// Which byte, the first is 1.
        nth_byte: u32,
        /// In writes rather than in reads.
        write: bool,
        /// The new value.
        value: u8,
        /// Only in requests that have all these flags.
        flags: u32,
    },
    /// A random byte of a read is replaced with this probability in billionths.
    RandomReadCorrupt(u32),
    /// The same for writes.
    RandomWriteCorrupt(u32),
    /// A word of a newer kernel.
    Other(String),
}

impl Feature {
    /// How many words it is written in.
    fn words(&self) -> usize {
        match self {
            Feature::CorruptBioByte { .. } => 5,
            Feature::RandomReadCorrupt(_) | Feature::RandomWriteCorrupt(_) => 2,
            _ => 1,
        }
    }

    fn parse(words: &mut Words<'_>) -> Result<Feature, BadParams> {
        Ok(match words.word("feature")? {
            "error_reads" => Feature::ErrorReads,
            "drop_writes" => Feature::DropWrites,
            "error_writes" => Feature::ErrorWrites,
            "corrupt_bio_byte" => {
                let nth_byte = words.number("byte to corrupt")?;
                let write = match words.word("direction")? {
                    "r" => false,
                    "w" => true,
                    _ => return Err(words.fail("the direction of corrupt_bio_byte has to be r or w")),
                };
                Feature::CorruptBioByte { nth_byte, write, value: words.number("value")?, flags: words.number("flags")? }
            }
            "random_read_corrupt" => Feature::RandomReadCorrupt(words.number("probability")?),
            "random_write_corrupt" => Feature::RandomWriteCorrupt(words.number("probability")?),
            other => Feature::Other(other.into()),
        })
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Feature::ErrorReads => f.write_str("error_reads"),
            Feature::DropWrites => f.write_str("drop_writes"),
            Feature::ErrorWrites => f.write_str("error_writes"),
            Feature::CorruptBioByte { nth_byte, write, value, flags } => {
                write!(f, "corrupt_bio_byte {nth_byte} {} {value} {flags}", if *write { "w" } else { "r" })
            }
            Feature::RandomReadCorrupt(billionths) => write!(f, "random_read_corrupt {billionths}"),
            Feature::RandomWriteCorrupt(billionths) => write!(f, "random_write_corrupt {billionths}"),
            Feature::Other(word) => f.write_str(word),
        }
    }
}

impl Flakey {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        let mut words = Words::new("flakey", params);
        let (device, offset) = (words.device("device")?, words.number("offset")?);
        let (up, down) = (words.number("up interval")?, words.number("down interval")?);
        let mut features = Vec::new();
        let count: usize = if words.peek().is_none() { 0 } else { words.number("number of feature words")? };
        let mut read = 0;
        while read < count {
            let feature = Feature::parse(&mut words)?;
            read += feature.words();
            features.push(feature);
        }
        if read != count {
            return Err(words.fail(format!("the features are {read} words, not {count}")));
        }
        words.end().map(|()| Flakey { device, offset, up, down, features })
    }

    pub(super) fn needs(&self, length: u64) -> Vec<Needed<'_>> {
        vec![Needed::range(&self.device, self.offset, length)]
    }
}

impl fmt::Display for Flakey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.device, self.offset, self.up, self.down)?;
        let words: Vec<String> = self.features.iter().map(Feature::to_string).collect();
        if words.is_empty() {
            return write_always_counted(f, &[]);
        }
        write!(f, " {} {}", self.features.iter().map(Feature::words).sum::<usize>(), words.join(" "))
    }
}
