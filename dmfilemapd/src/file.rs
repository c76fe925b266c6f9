//! The file that is monitored.

use crate::Error;
use rustix::fs::{FileType, OFlags, Stat, fstat};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens the file behind an inherited descriptor anew and closes everything that was inherited, but for the standard
/// streams: what is open then is ours alone, and a daemon keeps nothing busy that it was not asked to.
///
/// To be called before anything else is opened.
///
/// # Errors
/// If the descriptor is closed, or the file cannot be opened.
#[allow(unsafe_code)]
pub fn take(descriptor: i32, path: &Path) -> Result<File, Error> {
    let file = open(Path::new(&format!("/proc/self/fd/{descriptor}"))).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::File(format!(
            "file descriptor {descriptor} is not open: start with “{descriptor}<{}” behind the command",
            path.display()
        )),
        _ => Error::File(format!("file descriptor {descriptor} cannot be used: {error}")),
    })?;
    let ours = file.as_raw_fd().unsigned_abs();
    for (first, last) in [(3, ours - 1), (ours + 1, u32::MAX)] {
        // SAFETY: these descriptors were open when this process began: nothing here owns one of them, and the one that has
        // been opened since is left out.
        if first <= last && unsafe { libc::close_range(first, last, 0) } != 0 {
            return Err(Error::Kernel(format!("inherited descriptors cannot be closed: {}", io::Error::last_os_error())));
        }
    }
    Ok(file)
}

/// Opens a file for reading, without waiting for whatever else it may be.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens the regular file at a path; `None` if there is none now.
///
/// # Errors
/// If it is there, but cannot be opened.
pub fn open_if_there(path: &Path) -> Result<Option<File>, Error> {
    let failed = |error: io::Error| Error::File(format!("{}: {error}", path.display()));
    match open(path) {
        Ok(file) => {
            let stat = fstat(&file).map_err(|error| failed(error.into()))?;
            Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(file))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// What changes when a file gets or loses blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    device: u64,
    inode: u64,
    size: i64,
    blocks: i64,
    changed: (i64, u64),
}

impl Seen {
    /// What a file looks like.
    pub fn of(stat: &Stat) -> Seen {
        Seen {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            blocks: stat.st_blocks,
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// Whether anybody else has the file open or mapped: a process, or the kernel (a loop device, swap).
///
/// Asked by taking a write lease, which the kernel gives only to the last opener (fcntl(2), “Leases”).
#[allow(unsafe_code)]
pub fn is_held_by_others(file: &File) -> bool {
    let lease = |kind: i32| {
        // SAFETY: F_SETLEASE takes an int and touches no memory of this process; the descriptor is open.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }
    };
    let got = lease(libc::F_WRLCK) == 0;
    if got {
        lease(libc::F_UNLCK);
    }
    // Where leases do not work, nothing tells that we are the last.
    !got
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_opener_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let file = open(&path).unwrap();
        assert!(!is_held_by_others(&file));
        for write in [false, true] {
            let other = File::options().read(!write).write(write).open(&path).unwrap();
            assert!(is_held_by_others(&file));
            drop(other);
            assert!(!is_held_by_others(&file));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!is_held_by_others(&file));
    }

    #[test]
    fn only_a_regular_file_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(open_if_there(&path).unwrap().is_none());
        assert!(open_if_there(folder.path()).unwrap().is_none());
        std::fs::write(&path, "").unwrap();
        assert!(open_if_there(&path).unwrap().is_some());
        assert!(open_if_there(&path.join("below")).unwrap().is_none());
    }

    #[test]
    fn a_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let seen = || Seen::of(&rustix::fs::stat(&path).unwrap());
        std::fs::write(&path, "a").unwrap();
        let before = seen();
        assert_eq!(before, seen());
        std::fs::write(&path, "ab").unwrap();
        assert_ne!(before, seen());
    }
}
