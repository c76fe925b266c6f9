//! The file that is monitored.

use crate::Error;
use rustix::fs::{FileType, OFlags, Stat, fstat};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Holds the file behind an inherited descriptor and closes everything that was inherited, but for the standard
/// streams: what is open then is ours alone, and a daemon keeps nothing busy that it was not asked to.
///
/// To be called before anything else is opened.
///
/// # Errors
/// If the descriptor is closed or cannot be used.
#[allow(unsafe_code)]
pub fn take(descriptor: i32, path: &Path) -> Result<File, Error> {
    let file = hold(Path::new(&format!("/proc/self/fd/{descriptor}"))).map_err(|error| match error.kind() {
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

/// Holds a file without opening it for reading (open(2), “O_PATH”). That keeps its inode and lets its attributes be
/// asked for, breaks no lease, and is not counted by [`is_held_by_others`]: daemons of one file do not keep each other
/// alive.
pub fn hold(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Holds the regular file at a path; `None` if there is none now.
///
/// # Errors
/// If it cannot be told.
pub fn hold_if_there(path: &Path) -> Result<Option<File>, Error> {
    let failed = |error: io::Error| Error::File(format!("{}: {error}", path.display()));
    match hold(path) {
        Ok(file) => {
            let stat = fstat(&file).map_err(|error| failed(error.into()))?;
            Ok((FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(file))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Opens a regular file that is held for reading; `None` while a lease of somebody else (Samba's oplocks) is in the
/// way. The holder of the lease is told and has to give it up, within `/proc/sys/fs/lease-break-time` seconds.
///
/// # Errors
/// If it cannot be opened.
pub fn read(held: &File) -> io::Result<Option<File>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    match File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
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

/// Whether anybody else has the held file open or mapped: a process, or the kernel (a loop device, swap).
///
/// Asked by taking a write lease, which the kernel gives only to the only opener (fcntl(2), “Leases”). Whoever opens the
/// file in that moment makes the kernel send SIGIO, which has to be blocked or ignored.
#[allow(unsafe_code)]
pub fn is_held_by_others(held: &File) -> bool {
    // Where nothing tells that we are the last, we are not.
    let Ok(Some(file)) = read(held) else { return true };
    // SAFETY: F_SETLEASE takes an int and touches no memory of this process; the descriptor is open. The lease goes with
    // it.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_opener_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let held = hold(&path).unwrap();
        assert!(!is_held_by_others(&held));
        for write in [false, true] {
            let other = File::options().read(!write).write(write).open(&path).unwrap();
            assert!(is_held_by_others(&held));
            drop(other);
            assert!(!is_held_by_others(&held));
        }
        let second = hold(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!is_held_by_others(&held) && !is_held_by_others(&second), "two daemons do not count each other");
        let reader = read(&second).unwrap();
        assert!(reader.is_some() && is_held_by_others(&held));
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_lease_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let leased = File::open(&path).unwrap();
        // SAFETY: these take an int and touch no memory.
        unsafe {
            assert_eq!(libc::fcntl(leased.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK), 0);
            // Without an owner, no SIGIO ends the test.
            assert_eq!(libc::fcntl(leased.as_raw_fd(), libc::F_SETOWN, 0), 0);
        }
        let held = hold_if_there(&path).unwrap().unwrap();
        assert!(read(&held).unwrap().is_none() && is_held_by_others(&held));
        drop(leased);
        assert!(read(&held).unwrap().is_some() && !is_held_by_others(&held));
    }

    #[test]
    fn only_a_regular_file_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert!(hold_if_there(&path).unwrap().is_none());
        assert!(hold_if_there(folder.path()).unwrap().is_none());
        std::fs::write(&path, "").unwrap();
        assert!(hold_if_there(&path).unwrap().is_some());
        assert!(hold_if_there(&path.join("below")).unwrap().is_none());
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
