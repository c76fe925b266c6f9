//! The parameters of a table or status line, word by word, as the kernel's `dm_split_args` sees them: blanks separate,
//! and a backslash takes the character after it into the word.

use std::fmt;

/// Parameters that are not what a target takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{target}: {what}")]
pub struct BadParams {
    target: &'static str,
    what: String,
}

/// A device as a table names it: a path, or `major:minor`. Backslashes are kept as they were written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Device(pub String);

impl Device {
    /// The path without the backslashes that keep blanks in it.
    pub fn path(&self) -> String {
        let mut characters = self.0.chars();
        let mut path = String::with_capacity(self.0.len());
        while let Some(c) = characters.next() {
            path.push(if c == '\\' { characters.next().unwrap_or(c) } else { c });
        }
        path
    }

    /// Major and minor number, if it is given by them.
    pub fn devno(&self) -> Option<(u32, u32)> {
        let (major, minor) = self.0.split_once(':')?;
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|c| c.is_ascii_digit()));
        Some((number(major)?, number(minor)?))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the kernel's `isspace` takes for a blank.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// The first word of a text and what follows it.
pub(super) fn first_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(is_blank);
    let mut escaped = false;
    let end = text.find(|c| {
        let ends = !escaped && is_blank(c);
        escaped = !escaped && c == '\\';
        ends
    });
    match text.split_at(end.unwrap_or(text.len())) {
        ("", _) => None,
        found => Some(found),
    }
}

/// The words of one target's parameters, read one after the other.
pub(super) struct Words<'a> {
    target: &'static str,
    rest: &'a str,
    /// Whether error texts must not show words: one of them may be a key.
    secret: bool,
}

impl<'a> Words<'a> {
    pub(super) fn new(target: &'static str, params: &'a str) -> Self {
        Words { target, rest: params, secret: false }
    }

    pub(super) fn secret(target: &'static str, params: &'a str) -> Self {
        Words { target, rest: params, secret: true }
    }

    pub(super) fn fail(&self, what: impl Into<String>) -> BadParams {
        BadParams { target: self.target, what: what.into() }
    }

    fn quoted(&self, word: &str) -> String {
        let shown: String = word.chars().take(80).flat_map(char::escape_debug).collect();
        if self.secret { "what is there".into() } else { format!("“{shown}”") }
    }

    pub(super) fn next(&mut self) -> Option<&'a str> {
        let (word, rest) = first_word(self.rest)?;
        self.rest = rest;
        Some(word)
    }

    pub(super) fn peek(&self) -> Option<&'a str> {
        first_word(self.rest).map(|(word, _)| word)
    }

    pub(super) fn word(&mut self, what: &str) -> Result<&'a str, BadParams> {
        self.next().ok_or_else(|| self.fail(format!("the {what} is missing")))
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String, BadParams> {
        self.word(what).map(str::to_owned)
    }

    pub(super) fn device(&mut self, what: &str) -> Result<Device, BadParams> {
        self.text(what).map(Device)
    }

    /// A decimal number: no sign, no prefix, no unit.
    pub(super) fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N, BadParams> {
        let word = self.word(what)?;
        self.as_number(word, what)
    }

    pub(super) fn as_number<N: std::str::FromStr>(&self, word: &str, what: &str) -> Result<N, BadParams> {
        let plain = word.bytes().all(|c| c.is_ascii_digit());
        let number = word.parse().ok().filter(|_| plain);
        number.ok_or_else(|| self.fail(format!("the {what} has to be a number, {} is none", self.quoted(word))))
    }

    /// `<used>/<total>`.
    pub(super) fn fraction(&mut self, what: &str) -> Result<(u64, u64), BadParams> {
        let word = self.word(what)?;
        let (used, total) = word.split_once('/').ok_or_else(|| self.fail(format!("no used/total of {what}")))?;
        Ok((self.as_number(used, what)?, self.as_number(total, what)?))
    }

    /// `<#words> <word>…`.
    pub(super) fn counted(&mut self, what: &str) -> Result<Vec<String>, BadParams> {
        let count: usize = self.number(&format!("number of {what}"))?;
        // Not reserved in advance: the number may be anything.
        (0..count).map(|n| self.text(&format!("{what} {} of {count}", n + 1))).collect()
    }

    /// The same, where all of it may be left out.
    pub(super) fn maybe_counted(&mut self, what: &str) -> Result<Vec<String>, BadParams> {
        if self.peek().is_none() { Ok(Vec::new()) } else { self.counted(what) }
    }

    /// All that is left.
    pub(super) fn rest(mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next().map(str::to_owned)).collect()
    }

    pub(super) fn end(mut self) -> Result<(), BadParams> {
        match self.next() {
            None => Ok(()),
            Some(word) => Err(self.fail(format!("{} comes after the last parameter", self.quoted(word)))),
        }
    }
}

/// Writes ` <#words> <word>…`, and nothing if there are none.
pub(super) fn write_counted(f: &mut fmt::Formatter<'_>, words: &[String]) -> fmt::Result {
    if words.is_empty() { Ok(()) } else { write_always_counted(f, words) }
}

/// Writes ` <#words> <word>…`, where the number is always there.
pub(super) fn write_always_counted(f: &mut fmt::Formatter<'_>, words: &[String]) -> fmt::Result {
    write!(f, " {}", words.len())?;
    words.iter().try_for_each(|word| write!(f, " {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_kernel() {
        let all = |text| Words::new("x", text).rest();
        assert_eq!(all("  a\tb \n c  "), ["a", "b", "c"]);
        assert_eq!(all("/dev/my\\ disk 0"), ["/dev/my\\ disk", "0"]);
        assert_eq!(all("a\\\\ b"), ["a\\\\", "b"]);
        assert_eq!(all("a\\"), ["a\\"]);
        assert_eq!(all(""), [""; 0]);
        assert_eq!(Device("/dev/my\\ disk\\\\".into()).path(), "/dev/my disk\\");
    }

    #[test]
    fn a_number_is_plain() {
        for bad in ["+5", "-5", "0x5", "5k", "", "5 5", "18446744073709551616"] {
            assert!(Words::new("x", "").as_number::<u64>(bad, "n").is_err(), "{bad}");
        }
        assert_eq!(Words::new("x", "18446744073709551615").number::<u64>("n"), Ok(u64::MAX));
        assert!(Words::new("x", "99999999999 a").counted("words").is_err());
    }

    #[test]
    fn device_numbers() {
        assert_eq!(Device("8:16".into()).devno(), Some((8, 16)));
        for other in ["/dev/sda", "8:", ":1", "8:+1", "8:1:2", "8"] {
            assert_eq!(Device(other.into()).devno(), None, "{other}");
        }
    }
}
