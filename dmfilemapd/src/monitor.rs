//! The daemon's life: looks at file and group twice a second until one of them is gone.
//!
//! It does not ask for inotify events: those tell nothing of writes through mappings, nor of the group, which has to be
//! asked for anyway. Attributes of the file tell of every change.

use crate::Error;
use crate::args::{Args, Mode};
use crate::device::Device;
use crate::extent::{Extent, on_device};
use crate::fiemap;
use crate::file::{self, Seen};
use crate::group::Group;
use crate::log::Log;
use crate::region::Region;
use crate::update::{self, Kernel, Plan};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock, fstat};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE_NS: i64 = 500_000_000;
/// How long a file may be missing or empty before that is taken for its end: some programs replace a file in two steps.
const TOLERANCE: Duration = Duration::from_secs(1);
/// Extents are read at least so often: a defragmenter need not leave a trace in the attributes.
const EXTENTS_PAUSE: Duration = Duration::from_secs(10);
/// Held during an update, so that two daemons of one group (after “dmstats update_filemap”) do not both add a region.
const LOCK: &str = "/run/dmfilemapd.lock";

/// Why there is nothing left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The group was deleted, or its device removed.
    GroupRemoved,
    /// Follow-inode: the file was unlinked and nobody else has it open.
    Unlinked,
    /// Follow-path: no file is at the path.
    NoFile,
    /// The file has no extents any more, and so the group no regions.
    Empty,
    /// A signal asked for it.
    Stopped,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            End::GroupRemoved => "Filemap group removed: exiting.",
            End::Unlinked => "File unlinked and closed: exiting.",
            End::NoFile => "No file at the path: exiting.",
            End::Empty => "File contains no extents: exiting.",
            End::Stopped => "Stopped: exiting.",
        })
    }
}

/// Finds a group that may map a file.
///
/// # Errors
/// If there is none with that id, or it is of another kind.
pub fn find_group(device: &mut Device, id: u32) -> Result<Group, Error> {
    let group = look_up(device, |regions| Group::find(regions, id))?
        .ok_or_else(|| Error::Group(format!("device {device} has no group {id}: see “dmstats list --group”")))?;
    match group.members.iter().find(|region| region.step < region.extent.len) {
        Some(region) => Err(Error::Group(format!("group {id} maps no file: its region {} has several areas", region.id))),
        None => Ok(group),
    }
}

/// Looks for a group. Its absence is believed only when no daemon is in the middle of an update, in which a group may
/// have another id for a moment.
fn look_up(device: &mut impl Kernel, find: impl Fn(&[Region]) -> Option<Group>) -> Result<Option<Group>, Error> {
    if let Some(group) = find(&update::list(device)?) {
        return Ok(Some(group));
    }
    let _lock = lock()?;
    Ok(find(&update::list(device)?))
}

/// A file and the group that follows it.
pub struct Monitor {
    device: Device,
    args: Args,
    log: Log,
    group: u32,
    /// The group's name and program: another group that takes over the id of a deleted one is not ours to change.
    named: (String, String),
    /// Follow-inode: the file. Follow-path holds none, so that it is freed when it is unlinked.
    file: Option<File>,
    seen: Option<(Seen, Instant)>,
    extents: BTreeSet<Extent>,
    /// Since when the file is missing or empty.
    absent: Option<Instant>,
    /// The last update was refused.
    refused: bool,
}

impl Monitor {
    /// Of a file that is open, on a device with a group for it.
    pub fn new(args: Args, file: File, device: Device, group: &Group, log: Log) -> Monitor {
        let file = (args.mode == Mode::Inode).then_some(file);
        let (group, named) = (args.group, name(group));
        Monitor { device, group, named, args, log, file, seen: None, extents: BTreeSet::new(), absent: None, refused: false }
    }

    /// Looks until there is an end.
    ///
    /// # Errors
    /// If the kernel or the file system refuses, or the path leads to another device.
    pub fn run(&mut self) -> Result<End, Error> {
        let mut signals = SigSet::empty();
        signals.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        // Blocked, so that a signal never ends an update half-way.
        let signals = signals
            .thread_block()
            // Somebody opens the file while it is asked whether anybody has: see `file::is_held_by_others`.
            .and_then(|()| SigSet::from(Signal::SIGIO).thread_block())
            .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC))
            .map_err(|error| Error::Kernel(format!("signals: {error}")))?;
        loop {
            if let Some(end) = self.look()? {
                return Ok(end);
            }
            self.log.say(3, "Waiting for check interval");
            let pause = Timespec { tv_sec: 0, tv_nsec: PAUSE_NS };
            match poll(&mut [PollFd::new(&signals, PollFlags::IN)], Some(&pause)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(End::Stopped),
                Err(error) => return Err(Error::Kernel(format!("poll: {error}"))),
            }
        }
    }

    fn look(&mut self) -> Result<Option<End>, Error> {
        let (id, named) = (self.group, &self.named);
        let group = match look_up(&mut Told { device: &mut self.device, log: self.log }, |regions| ours(regions, id, named)) {
            Err(_) if !self.device.exists() => return Ok(Some(End::GroupRemoved)),
            group => group?,
        };
        let Some(group) = group else { return Ok(Some(End::GroupRemoved)) };
        let at_path = if self.args.mode == Mode::Path { file::hold_if_there(&self.args.path)? } else { None };
        let Some(file) = self.file.as_ref().or(at_path.as_ref()) else {
            return Ok(self.is_absent("Waiting for unlinked path").then_some(End::NoFile));
        };
        let failed = |what: &str, error: rustix::io::Errno| Error::File(format!("{}: {what}: {error}", self.args.path.display()));
        let stat = fstat(file).map_err(|error| failed("fstat", error))?;
        if !self.device.holds(&stat) {
            let path = self.args.path.display();
            return Err(Error::File(format!("{path} is not on device {} any more", self.device)));
        }
        if stat.st_nlink == 0 && self.args.mode == Mode::Inode {
            if !file::is_held_by_others(file) {
                return Ok(Some(End::Unlinked));
            }
            self.log.say(2, "File unlinked and open: continuing.");
        }
        let seen = Seen::of(&stat);
        if self.seen.is_none_or(|(before, at)| before != seen || at.elapsed() >= EXTENTS_PAUSE) {
            let opened = file::read(file).map_err(|error| Error::File(format!("{}: {error}", self.args.path.display())))?;
            let Some(file) = opened else {
                self.log.say(2, "File under a lease: looking again.");
                return Ok(None);
            };
            let extents = fiemap::extents(&file).map_err(|error| failed("its extents cannot be read (FIEMAP)", error))?;
            self.extents = on_device(&extents);
            self.seen = Some((seen, Instant::now()));
        }
        if self.extents.is_empty() {
            if !self.is_absent("Waiting for extents") {
                return Ok(None);
            }
            return Ok(self.update()?.then_some(End::Empty));
        }
        self.absent = None;
        if !Plan::new(&group, &self.extents).is_empty() {
            self.update()?;
        }
        Ok(None)
    }

    /// Whether the file has been missing or empty for longer than is tolerated.
    fn is_absent(&mut self, waiting: &str) -> bool {
        self.log.say(3, waiting);
        self.absent.get_or_insert_with(Instant::now).elapsed() >= TOLERANCE
    }

    /// Brings the group in step; gives whether it is.
    fn update(&mut self) -> Result<bool, Error> {
        // Gone with the file.
        let _lock = lock()?;
        // What another daemon did meanwhile counts.
        let mut device = Told { device: &mut self.device, log: self.log };
        let regions = update::list(&mut device)?;
        let Some(group) = ours(&regions, self.group, &self.named) else { return Ok(false) };
        let plan = Plan::new(&group, &self.extents);
        if plan.is_empty() {
            return Ok(true);
        }
        let Plan { keep, stale, create } = &plan;
        for extent in create {
            self.log.say(3, format_args!("New extent {extent}"));
        }
        let id = match update::apply(&mut device, &group, &plan) {
            // dmstats knows nothing of the lock: if it has just deleted the group, the next look tells.
            Err(error) if !std::mem::replace(&mut self.refused, true) => {
                self.log.warn(error);
                return Ok(false);
            }
            id => id?,
        };
        self.refused = false;
        let counts = format!("{} regions kept, {} added, {} removed", keep.len(), create.len(), stale.len());
        self.log.say(2, format_args!("Updated group ID {}: {counts}", self.group));
        if let Some(id) = id.filter(|id| *id != self.group) {
            self.log.warn(format_args!("group_id changed from {} to {id}", self.group));
            self.group = id;
        }
        Ok(true)
    }
}

fn ours(regions: &[Region], id: u32, named: &(String, String)) -> Option<Group> {
    Group::find(regions, id).filter(|group| name(group) == *named)
}

fn name(group: &Group) -> (String, String) {
    (group.alias.clone(), group.leader.program.clone())
}

/// A device whose messages are logged.
struct Told<'a> {
    device: &'a mut Device,
    log: Log,
}

impl Kernel for Told<'_> {
    fn message(&mut self, message: &str) -> Result<String, Error> {
        self.log.say(3, format_args!("dm message ({}) {message}", self.device));
        self.device.message(message)
    }
}

fn lock() -> Result<File, Error> {
    let failed = |error: std::io::Error| Error::Kernel(format!("{LOCK}: {error}"));
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(LOCK).map_err(failed)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    Ok(file)
}
