//! Names and UUIDs of mapped devices, mangled as libdevmapper does by default.
//!
//! The kernel takes any character but `/`; udev does not. So a character that udev does not take is written as `\xNN`
//! (libdevmapper's mode *auto*): `my disk` is the device `my\x20disk`. What is mangled already stays as it is, and a
//! text that mixes both is refused, since nobody can tell what was meant.

use std::fmt::{self, Write as _};

/// Why a text can be no name or UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing is there.
    #[error("an empty {0} names no device")]
    Empty(&'static str),
    /// A name is one component of a path.
    #[error("“{0}” cannot be a name: it contains a “/”")]
    Slash(String),
    /// `/dev/mapper/control` is the kernel's; `.` and `..` are directories.
    #[error("“{0}” cannot be a name: /dev/mapper/{0} is something else")]
    Reserved(String),
    /// Mangled twice.
    #[error("the {what} “{text}” seems to be mangled more than once (\\x5cx is a mangled \\x)")]
    Twice {
        /// Name or UUID.
        what: &'static str,
        /// As given.
        text: String,
    },
    /// Neither mangled nor plain.
    #[error("the {what} “{text}” mixes plain and mangled characters, or is mangled wrongly: write all or none of them as \\xNN")]
    Mixed {
        /// Name or UUID.
        what: &'static str,
        /// As given.
        text: String,
    },
    /// Beyond the kernel's limit.
    #[error("the {what} “{text}” is too long: {len} characters{mangled}, at most {limit}")]
    TooLong {
        /// Name or UUID.
        what: &'static str,
        /// As given, shortened.
        text: String,
        /// Its length in bytes, as the kernel would see it.
        len: usize,
        /// Whether mangling made it longer.
        mangled: &'static str,
        /// What the kernel takes.
        limit: usize,
    },
}

/// The name of a mapped device, at most 127 bytes, as the kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// The device-mapper UUID of a mapped device: any text of at most 128 bytes, by custom beginning with its owner
/// (`LVM-`, `CRYPT-`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Uuid(String);

impl Name {
    /// Longest name in bytes (the kernel's `DM_NAME_LEN` without the end).
    pub const LIMIT: usize = 127;

    /// A name as a person types it.
    pub fn new(text: &str) -> Result<Name, BadName> {
        if text.contains('/') {
            return Err(BadName::Slash(text.into()));
        }
        // Newer kernels refuse these by themselves, older ones make a device that nobody can reach.
        if ["control", ".", ".."].contains(&text) {
            return Err(BadName::Reserved(text.into()));
        }
        mangle("name", text, Name::LIMIT).map(Name)
    }

    /// A name that the kernel gave.
    pub(super) fn of_kernel(text: String) -> Name {
        Name(text)
    }

    /// As the kernel knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Uuid {
    /// Longest UUID in bytes (the kernel's `DM_UUID_LEN` without the end).
    pub const LIMIT: usize = 128;

    /// A UUID as a person types it.
    pub fn new(text: &str) -> Result<Uuid, BadName> {
        mangle("UUID", text, Uuid::LIMIT).map(Uuid)
    }

    /// A UUID that the kernel gave.
    pub(super) fn of_kernel(text: String) -> Uuid {
        Uuid(text)
    }

    /// A random one.
    pub fn generate() -> Uuid {
        Uuid(uuid::Uuid::new_v4().to_string())
    }

    /// As the kernel knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for Name {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Name, BadName> {
        Name::new(text)
    }
}

impl std::str::FromStr for Uuid {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Uuid, BadName> {
        Uuid::new(text)
    }
}

/// What udev takes in a name as it is.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte)
}

fn mangle(what: &'static str, text: &str, limit: usize) -> Result<String, BadName> {
    if text.is_empty() {
        return Err(BadName::Empty(what));
    }
    if text.contains("\\x5cx") {
        return Err(BadName::Twice { what, text: text.into() });
    }
    let mixed = || BadName::Mixed { what, text: excerpt(text) };
    let (mut kernel, mut mangled, mut was_mangled) = (String::with_capacity(text.len()), false, false);
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        if rest.starts_with(b"\\x") {
            let code = rest.get(2..4).filter(|code| code.iter().all(u8::is_ascii_hexdigit)).ok_or_else(mixed)?;
            kernel.push_str("\\x");
            kernel.extend(code.iter().map(|digit| char::from(*digit)));
            was_mangled = true;
            rest = &rest[4..];
            continue;
        }
        if is_plain(*byte) {
            kernel.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(kernel, "\\x{byte:02x}");
            mangled = true;
        }
        rest = after;
    }
    if mangled && was_mangled {
        return Err(mixed());
    }
    if kernel.len() > limit {
        let mangled = if mangled { " once mangled" } else { "" };
        return Err(BadName::TooLong { what, text: excerpt(text), len: kernel.len(), mangled, limit });
    }
    Ok(kernel)
}

/// Enough of a long text to know it by.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mangling_is_that_of_libdevmapper() {
        for (typed, kernel) in [
            ("data", "data"),
            ("a#b+c-d.e:f=g@h_i9", "a#b+c-d.e:f=g@h_i9"),
            ("my disk", "my\\x20disk"),
            ("my\\x20disk", "my\\x20disk"),
            ("\\x20", "\\x20"),
            ("a\\b", "a\\x5cb"),
            ("ünï", "\\xc3\\xbcn\\xc3\\xaf"),
            ("a\nb", "a\\x0ab"),
            ("-x", "-x"),
            ("controls", "controls"),
        ] {
            assert_eq!(Name::new(typed).unwrap().as_str(), kernel, "{typed}");
        }
        assert_eq!(Uuid::new("LVM a/b").unwrap().as_str(), "LVM\\x20a\\x2fb");
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        for (typed, word) in [
            ("", "empty"),
            ("a/b", "“/”"),
            ("/dev/mapper/a", "“/”"),
            ("control", "something else"),
            (".", "something else"),
            ("..", "something else"),
            ("a b\\x20c", "mixes"),
            ("a\\x20b c", "mixes"),
            ("a\\x2", "mixes"),
            ("a\\x", "mixes"),
            ("a\\xzz", "mixes"),
            ("a\\x5cx20", "more than once"),
        ] {
            let error = Name::new(typed).unwrap_err().to_string();
            assert!(error.contains(word), "{typed}: {error}");
        }
    }

    #[test]
    fn the_limits_are_the_kernels() {
        assert!(Name::new(&"n".repeat(127)).is_ok());
        assert!(Uuid::new(&"u".repeat(128)).is_ok());
        let error = Name::new(&"n".repeat(128)).unwrap_err().to_string();
        assert!(error.contains("128 characters") && error.contains("at most 127"), "{error}");
        let error = Uuid::new(&"u".repeat(129)).unwrap_err().to_string();
        assert!(error.contains("129") && error.contains("at most 128"), "{error}");
        let error = Name::new(&" ".repeat(32)).unwrap_err().to_string();
        assert!(error.contains("128 characters once mangled"), "{error}");
        assert!(Name::new(&" ".repeat(31)).is_ok());
    }

    proptest! {
        #[test]
        fn a_name_of_the_kernel_is_a_name_again(text in any::<String>()) {
            if let Ok(name) = Name::new(&text) {
                prop_assert!(name.as_str().len() <= Name::LIMIT);
                prop_assert!(name.as_str().bytes().all(|byte| is_plain(byte) || byte == b'\\'));
                prop_assert_eq!(Name::new(name.as_str()).unwrap(), name);
            }
        }

        #[test]
        fn plain_characters_stay(text in "[a-zA-Z0-9#+.:=@_-]{1,127}") {
            prop_assume!(!["control", ".", ".."].contains(&text.as_str()));
            let name = Name::new(&text).unwrap();
            prop_assert_eq!(name.as_str(), text.as_str());
        }
    }
}
