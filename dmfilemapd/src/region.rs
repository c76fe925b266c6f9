//! A region of the kernel's device-mapper statistics (Documentation/admin-guide/device-mapper/statistics.rst), as
//! `@stats_list` prints it.

use crate::extent::Extent;

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its id; the kernel gives the lowest that is free.
    pub id: u32,
    /// The sectors it counts.
    pub extent: Extent,
    /// Sectors of an area of it.
    pub step: u64,
    /// Who made it; `-` for nobody.
    pub program: String,
    /// What its owner has noted on it; `-` for nothing.
    pub aux: String,
    /// How it counts.
    pub counts: Counts,
}

/// How a region counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times are in nanoseconds, not milliseconds.
    pub precise: bool,
    /// Bounds of the histogram of latencies, with commas between them, in the unit of the times.
    pub histogram: Option<String>,
}

const PRECISE: &str = "precise_timestamps";
const HISTOGRAM: &str = "histogram:";

impl Region {
    /// Reads a line `<id>: <start>+<len> <step> <program> <aux>[ precise_timestamps][ histogram:<bounds>]`; aux may hold
    /// blanks.
    pub fn parse(line: &str) -> Option<Region> {
        let (id, rest) = line.split_once(": ")?;
        let (range, rest) = rest.split_once(' ')?;
        let (step, rest) = rest.split_once(' ')?;
        let (program, mut aux) = rest.split_once(' ')?;
        let (start, len) = range.split_once('+')?;
        let mut counts = Counts::default();
        if let Some((before, last)) = aux.rsplit_once(' ') {
            if let Some(bounds) = last.strip_prefix(HISTOGRAM) {
                (aux, counts.histogram) = (before, Some(bounds.to_owned()));
            }
        }
        if let Some((before, PRECISE)) = aux.rsplit_once(' ') {
            (aux, counts.precise) = (before, true);
        }
        Some(Region {
            id: id.parse().ok()?,
            extent: Extent { start: start.parse().ok()?, len: len.parse().ok().filter(|len| *len > 0)? },
            step: step.parse().ok()?,
            program: program.to_owned(),
            aux: aux.to_owned(),
            counts,
        })
    }
}

/// The message that makes a region of one area.
pub fn create_message(extent: Extent, counts: &Counts, program: &str) -> String {
    let precise = counts.precise.then(|| format!(" {PRECISE}"));
    let histogram = counts.histogram.as_ref().map(|bounds| format!(" {HISTOGRAM}{bounds}"));
    let options: Vec<String> = precise.into_iter().chain(histogram).collect();
    let options = if options.is_empty() { String::new() } else { format!(" {}{}", options.len(), options.concat()) };
    format!("@stats_create {extent} /1{options} {} -", escaped(program))
}

/// A word of a message: the kernel splits messages at blanks that no backslash protects.
pub fn escaped(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for letter in word.chars() {
        if letter == '\\' || letter.is_ascii_whitespace() {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let region =
            Region::parse("3: 2048+16 16 dmstats DMS_GROUP=\"vm.img\":3-4#- precise_timestamps histogram:1000,5000").unwrap();
        assert_eq!((region.id, region.extent, region.step), (3, Extent { start: 2048, len: 16 }, 16));
        assert_eq!((region.program.as_str(), region.aux.as_str()), ("dmstats", "DMS_GROUP=\"vm.img\":3-4#-"));
        assert_eq!(region.counts, Counts { precise: true, histogram: Some("1000,5000".into()) });
        let region = Region::parse("0: 0+8 8 - a b histogram:7").unwrap();
        assert_eq!((region.program.as_str(), region.aux.as_str(), region.counts.precise), ("-", "a b", false));
        for bad in ["", "x: 0+8 8 - -", "0: 0-8 8 - -", "0: 0+0 8 - -", "0: 0+8 8 -", "0: 0+8", "-1: 0+8 8 - -"] {
            assert_eq!(Region::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn messages_have_the_kernels_form() {
        let extent = Extent { start: 8, len: 16 };
        let both = Counts { precise: true, histogram: Some("1,2".into()) };
        assert_eq!(create_message(extent, &Counts::default(), "dmstats"), "@stats_create 8+16 /1 dmstats -");
        assert_eq!(create_message(extent, &both, "a b"), "@stats_create 8+16 /1 2 precise_timestamps histogram:1,2 a\\ b -");
    }

    proptest! {
        #[test]
        fn no_line_makes_a_panic(line in any::<String>()) {
            let _ = Region::parse(&line);
            let _ = Region::parse(&format!("1: 2+3 4 {line} {line}"));
        }
    }
}
