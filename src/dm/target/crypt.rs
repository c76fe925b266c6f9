//! Encryption, and keeping keys out of sight.

use super::Needed;
use crate::dm::words::{BadParams, Device, Words, first_word, is_blank, write_counted};
use std::fmt;

/// `<cipher> <key> <iv_offset> <device path> <offset> [<#opt_params> <opt_params>]` (`dm-crypt.rst`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Crypt {
    /// Cipher, chaining and initial vector: `aes-xts-plain64`.
    pub cipher: String,
    /// The key.
    pub key: Key,
    /// Added to the sector number before the initial vector is made.
    pub iv_offset: u64,
    /// The device that holds what is encrypted.
    pub device: Device,
    /// First sector on it.
    pub offset: u64,
    /// `allow_discards`, `sector_size:4096`, …
    pub options: Vec<String>,
}

/// A key in hexadecimal digits, `-` for none, or `:<key_size>:<key_type>:<key_description>` in the kernel's keyring.
#[derive(Clone, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    pub(super) fn hide(&mut self) {
        self.0 = hidden(&self.0);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

fn hidden(key: &str) -> String {
    if key.starts_with(':') || key == "-" { key.into() } else { "0".repeat(key.len()) }
}

impl Crypt {
    pub(super) fn parse(params: &str) -> Result<Self, BadParams> {
        // No word of it is quoted: where one is missing, the key stands in the place of another.
        let mut words = Words::secret("crypt", params);
        let (cipher, key) = (words.text("cipher")?, words.text("key")?);
        let in_keyring = key.strip_prefix(':').is_some_and(|key| key.splitn(3, ':').count() == 3);
        let digits = key.bytes().all(|c| c.is_ascii_hexdigit()) && key.len().is_multiple_of(2);
        if !in_keyring && !digits && key != "-" {
            return Err(words.fail("the key has to be pairs of hexadecimal digits, “-”, or :<size>:<type>:<description>"));
        }
        let (iv_offset, device, offset) = (words.number("iv offset")?, words.device("device")?, words.number("offset")?);
        let options = words.maybe_counted("option")?;
        words.end().map(|()| Crypt { cipher, key: Key(key), iv_offset, device, offset, options })
    }

    pub(super) fn needs(&self, length: u64) -> Vec<Needed<'_>> {
        vec![Needed::range(&self.device, self.offset, length)]
    }
}

impl fmt::Display for Crypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {} {}", self.cipher, self.key.0, self.iv_offset, self.device, self.offset)?;
        write_counted(f, &self.options)
    }
}

/// For a crypt line that is not understood: its key is the second word in any case.
pub(super) fn hide_second_word(params: &str) -> String {
    let Some((cipher, rest)) = first_word(params) else { return String::new() };
    let Some((key, rest)) = first_word(rest) else { return cipher.into() };
    format!("{cipher} {}{rest}", hidden(key))
}

/// The keys of an integrity target are the last part of three of its options, `internal_hash:<algorithm>:<key>` and the
/// like (`dm-integrity.rst`).
pub(super) fn hide_integrity_keys(params: &str) -> String {
    let hide = |word: &str| match word.splitn(3, ':').collect::<Vec<_>>()[..] {
        [option @ ("internal_hash" | "journal_crypt" | "journal_mac"), algorithm, key] => {
            format!("{option}:{algorithm}:{}", hidden(key))
        }
        _ => word.to_owned(),
    };
    params.split(is_blank).map(hide).collect::<Vec<_>>().join(" ")
}
