//! The command line, which libdm types as often as people do.

use crate::Error;
use std::ffi::OsString;
use std::path::PathBuf;

/// How it is called.
pub const USAGE: &str = "usage: dmfilemapd <file_descriptor> <group_id> <abs_path> inode|path [<foreground> [<verbose>]]
example: dmfilemapd 3 0 /srv/vm.img inode 1 2 3</srv/vm.img";

/// What decides which file is monitored once the file moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The inode that was open at the start, whatever it is called.
    Inode,
    /// Whatever file is at the path.
    Path,
}

/// The arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// The open file, never one of the standard streams.
    pub descriptor: i32,
    /// The group's id, which is the id of its first region.
    pub group: u32,
    /// Where the file was when it was opened. Absolute.
    pub path: PathBuf,
    /// What is followed.
    pub mode: Mode,
    /// Do not become a daemon.
    pub foreground: bool,
    /// 0 to 3; 0 is silent.
    pub verbose: u8,
}

impl Args {
    /// Reads the arguments that follow the program's name.
    ///
    /// # Errors
    /// If there are too few or too many, or one is not what its place asks for; the message names it.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Args, Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        let ([descriptor, group, path, mode], options) = arguments
            .split_first_chunk()
            .filter(|(_, options)| options.len() <= 2)
            .ok_or_else(|| Error::Usage(format!("{} arguments, but there are 4 to 6", arguments.len())))?;
        let descriptor = number(descriptor, "file descriptor", i32::MAX)?;
        if descriptor <= 2 {
            return Err(Error::Usage(format!("file descriptor {descriptor} is a standard stream: open the file as another one")));
        }
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(Error::Usage(format!("“{}” is not an absolute path", path.display())));
        }
        let mode = match mode.to_str() {
            Some("inode") => Mode::Inode,
            Some("path") => Mode::Path,
            _ => return Err(Error::Usage(format!("mode “{}” is neither “inode” nor “path”", mode.display()))),
        };
        let option = |index: usize, what, max| options.get(index).map_or(Ok(0), |text| number(text, what, max));
        Ok(Args {
            descriptor,
            // The kernel counts regions in an int.
            group: number(group, "group id", i32::MAX)?.unsigned_abs(),
            path,
            mode,
            foreground: option(0, "foreground", 1)? == 1,
            verbose: option(1, "verbose", 3)? as u8,
        })
    }
}

fn number(text: &OsString, what: &str, max: i32) -> Result<i32, Error> {
    let digits = text.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok()).filter(|number| *number <= max);
    number.ok_or_else(|| Error::Usage(format!("{what} “{}” is not a number from 0 to {max}", text.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split(' ').map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_libdm_types_is_understood() {
        let args = parse("3 0 /srv/vm.img inode 0 0").unwrap();
        let path = PathBuf::from("/srv/vm.img");
        assert_eq!(args, Args { descriptor: 3, group: 0, path, mode: Mode::Inode, foreground: false, verbose: 0 });
        let args = parse("7 12 /f path 1 3").unwrap();
        assert_eq!((args.mode, args.foreground, args.verbose), (Mode::Path, true, 3));
        assert_eq!(parse("3 0 /f path").unwrap(), parse("3 0 /f path 0").unwrap());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, names) in [
            ("3 0 /f", "3 arguments"),
            ("3 0 /f inode 0 0 0", "7 arguments"),
            ("-1 0 /f inode", "file descriptor “-1”"),
            ("+3 0 /f inode", "file descriptor “+3”"),
            ("2147483648 0 /f inode", "file descriptor “2147483648”"),
            ("1 0 /f inode", "standard stream"),
            ("3 -1 /f inode", "group id “-1”"),
            ("3 4294967296 /f inode", "group id “4294967296”"),
            ("3 zero /f inode", "group id “zero”"),
            ("3 0 f inode", "“f” is not an absolute path"),
            ("3 0  inode", "“” is not an absolute path"),
            ("3 0 /f both", "mode “both”"),
            ("3 0 /f inode 2", "foreground “2”"),
            ("3 0 /f inode yes", "foreground “yes”"),
            ("3 0 /f inode 1 4", "verbose “4”"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(names) && error.contains(USAGE), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_argument_makes_a_panic(arguments in prop::collection::vec(any::<String>(), 0..8)) {
            let _ = Args::parse(arguments.into_iter().map(OsString::from));
        }
    }
}
