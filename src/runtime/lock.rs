//! One daemon at a time, and how one takes over from another.

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a daemon that was told to hand over may take: its cures come to their end first.
const HAND_OVER: Duration = Duration::from_secs(15);

/// A file beside the directory of the socket, which systemd removes when the service stops.
pub fn beside(run_dir: &Path, ending: &str) -> PathBuf {
    let mut path = run_dir.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn open(run_dir: &Path) -> anyhow::Result<File> {
    let path = beside(run_dir, ".lock");
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    }
    let options = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    options.with_context(|| format!("{} cannot be opened", path.display()))
}

fn try_lock(file: &File) -> anyhow::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error).context("the lock of the daemon cannot be taken"),
    }
}

/// Sees to it that one process at a time touches members. The lock goes when the process has ended with all its threads, also
/// those that sit in a disk that does not answer: until then their I/O may still reach a spare.
///
/// A lock on a file that only root can open, rather than a name that any user could take. The file holds the process's number: an
/// early daemon (see [`super::early`]) is told to hand over, any other one stays.
pub fn only_one(run_dir: &Path) -> anyhow::Result<()> {
    let mut file = open(run_dir)?;
    let deadline = Instant::now() + HAND_OVER;
    let mut told = false;
    while !try_lock(&file)? {
        if !told {
            let Some(early) = early_holder(&mut file) else { break };
            tracing::info!(pid = early.as_raw_nonzero(), "the early daemon hands over");
            told = kill_process(early, Signal::TERM).is_ok();
        }
        if Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if !try_lock(&file)? {
        anyhow::bail!(
            "another remap-guardian runs, or its last I/O has not ended yet\n  next: systemctl status remap-guardian; “fuser -v {}.lock” shows who",
            run_dir.display()
        );
    }
    keep(file)
}

/// As [`only_one`] for a command that changes members itself: it waits for nobody, and asks nobody to hand over.
pub fn instead_of_a_daemon(run_dir: &Path) -> anyhow::Result<()> {
    let file = open(run_dir)?;
    if !try_lock(&file)? {
        anyhow::bail!(
            "remap-guardian runs, or its last I/O has not ended yet: it alone writes to spares meanwhile\n  next: systemctl stop \
             remap-guardian, repeat, then start it again"
        );
    }
    keep(file)
}

/// Writes the process's number into the file and keeps it locked until the process ends.
fn keep(mut file: File) -> anyhow::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    std::mem::forget(file);
    Ok(())
}

/// Whether a daemon holds the lock.
pub fn is_taken(run_dir: &Path) -> anyhow::Result<bool> {
    Ok(!try_lock(&open(run_dir)?)?)
}

/// The process in the lock file, if it is an early daemon.
fn early_holder(file: &mut File) -> Option<Pid> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    command.starts_with(b"@remap-guardian\0").then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        assert!(!is_taken(&run).unwrap());
        only_one(&run).unwrap();
        assert!(is_taken(&run).unwrap());
        let refused = only_one(&run).unwrap_err().to_string();
        assert!(refused.contains("another remap-guardian runs"), "{refused}");
        assert!(instead_of_a_daemon(&run).unwrap_err().to_string().contains("systemctl stop"));
        instead_of_a_daemon(&dir.path().join("free")).unwrap();
        assert!(is_taken(&dir.path().join("free")).unwrap());
        only_one(&dir.path().join("other")).unwrap();
    }
}
