//! Errors that file systems on a set meet themselves, metadata that does not fit together for example: fanotify's `FAN_FS_ERROR`
//! (fanotify(7), Linux 5.16; ext4 tells of them, others may). They say that something was damaged, or is believed to be, where no
//! disk has failed a request.

use super::fs_error_record::{FsRecord, parse};
use super::in_use::Mount;
use crate::actuate::target_text::set_of;
use crate::dm::{Devno, below};
use crate::memory::STACK;
use crate::model::SetId;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A file system is heard so often at most. The kernel counts what comes meanwhile.
const REST: Duration = Duration::from_secs(60);

/// It is looked so often whether anybody listens still, and whose rest is over.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// After a look at the mounts.
const PAUSE: Duration = Duration::from_secs(1);

/// After a failure.
const AGAIN: Duration = Duration::from_secs(30);

/// Read at once, bytes: several records.
const READ_BYTES: usize = 4096;

/// What a file system has met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsError {
    /// The sets that it stands on.
    pub sets: BTreeSet<SetId>,
    /// Where it is mounted.
    pub at: String,
    /// The first error since it was last heard, and how many there were.
    pub record: FsRecord,
}

/// Tells of the errors of every file system that stands on a set, mounted now or later, until the receiver is dropped.
///
/// Where the kernel cannot tell of them this is said once; the daemon works without it.
pub fn watch(sender: mpsc::Sender<FsError>) -> io::Result<()> {
    let work = move || {
        let mut watch = Watch::default();
        while let Err(error) = watch.run(&sender) {
            tracing::warn!(%error, "errors of file systems are not heard of for a while");
            std::thread::sleep(AGAIN);
        }
    };
    std::thread::Builder::new().name("fs-errors".into()).stack_size(STACK).spawn(work)?;
    Ok(())
}

/// A mounted file system on a set.
struct Watched {
    mount: u64,
    at: String,
    sets: BTreeSet<SetId>,
    /// None if the file system does not tell.
    group: Option<Fanotify>,
    rests_until: Instant,
}

#[derive(Default)]
struct Watch {
    watched: BTreeMap<Devno, Watched>,
    said: bool,
}

impl Watch {
    /// Ends when nobody listens any more.
    fn run(&mut self, sender: &mpsc::Sender<FsError>) -> io::Result<()> {
        // Opened before the mounts are read: it tells of a change since then.
        let mounts = File::open("/proc/self/mountinfo")?;
        self.follow(sender)?;
        while !sender.is_closed() {
            let now = Instant::now();
            let is_awake = |fs: &Watched| fs.group.is_some() && fs.rests_until <= now;
            let awake: Vec<Devno> = self.watched.iter().filter(|(_, fs)| is_awake(fs)).map(|(at, _)| *at).collect();
            let groups = awake.iter().filter_map(|at| self.watched[at].group.as_ref());
            let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(&mounts, PollFlags::PRI)];
            fds.extend(groups.map(|group| PollFd::from_borrowed_fd(group.as_fd(), PollFlags::IN)));
            match poll(&mut fds, Some(&LOOK)) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let changed = !fds[0].revents().is_empty();
            let spoke: Vec<Devno> =
                awake.iter().zip(&fds[1..]).filter(|(_, fd)| !fd.revents().is_empty()).map(|(at, _)| *at).collect();
            for at in spoke {
                if let Some(fs) = self.watched.get_mut(&at) {
                    fs.rests_until = now + REST;
                    fs.tell(sender)?;
                }
            }
            if changed {
                self.follow(sender)?;
                // Mounts may come and go without end.
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Brings what is watched in line with what is mounted.
    fn follow(&mut self, sender: &mpsc::Sender<FsError>) -> io::Result<()> {
        let text = std::fs::read_to_string("/proc/self/mountinfo")?;
        // Without a number of a device: it stands on none, or on several.
        let mounts: Vec<Mount> = text.lines().filter_map(Mount::parse).filter(|mount| mount.devno.0 != 0).collect();
        let is_there = |devno, fs: &Watched| mounts.iter().any(|mount| (mount.devno, mount.id) == (devno, fs.mount));
        let gone: Vec<Devno> = self.watched.iter().filter(|(at, fs)| !is_there(**at, fs)).map(|(at, _)| *at).collect();
        for fs in gone.iter().filter_map(|at| self.watched.remove(at)) {
            fs.tell(sender)?;
        }
        let mut sets = BTreeMap::new();
        for mount in &mounts {
            match self.watched.get(&mount.devno) {
                // Numbers of mounts come again at once, and a mark goes with the file system that had it.
                Some(Watched { group: Some(group), mount: id, .. }) if *id == mount.id => drop(mark(group, mount)),
                Some(_) => {}
                None => {
                    let below = sets.entry(mount.devno).or_insert_with(|| sets_below(Path::new("/sys"), mount.devno));
                    if !below.is_empty() {
                        self.add(mount, below.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, mount: &Mount, sets: BTreeSet<SetId>) {
        let group = match open(mount) {
            Ok(group) => Some(group),
            Err(error) if cannot_tell(&error) => {
                if !std::mem::replace(&mut self.said, true) {
                    tracing::info!(at = mount.at, %error, "a file system does not tell of its errors");
                }
                None
            }
            // Another one may be mounted over it. It may be mounted elsewhere, too.
            Err(error) => return tracing::debug!(at = mount.at, %error, "a file system cannot be watched there"),
        };
        let fs = Watched { mount: mount.id, at: mount.at.clone(), sets, group, rests_until: Instant::now() };
        self.watched.insert(mount.devno, fs);
    }
}

impl Watched {
    /// Tells of what the kernel has for us. Nobody listens any more: so nothing.
    fn tell(&self, sender: &mpsc::Sender<FsError>) -> io::Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let mut bytes = [0; READ_BYTES];
        let read = match rustix::io::read(group, &mut bytes) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            other => other?,
        };
        for record in parse(&bytes[..read]) {
            drop(sender.blocking_send(FsError { sets: self.sets.clone(), at: self.at.clone(), record }));
        }
        Ok(())
    }
}

/// Has the kernel tell of the errors of a file system.
fn open(mount: &Mount) -> io::Result<Fanotify> {
    // nix has no name for this one.
    let by_handle = InitFlags::from_bits_retain(libc::FAN_REPORT_FID);
    let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK | by_handle;
    let group = Fanotify::init(flags, EventFFlags::O_RDONLY)?;
    mark(&group, mount)?;
    Ok(group)
}

/// Doing it again does no harm.
fn mark(group: &Fanotify, mount: &Mount) -> io::Result<()> {
    let folder = rustix::fs::open(&mount.at, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let device = rustix::fs::fstat(&folder)?.st_dev;
    if (rustix::fs::major(device), rustix::fs::minor(device)) != mount.devno {
        return Err(io::Error::new(io::ErrorKind::NotFound, "another file system is there"));
    }
    let here = Some(".");
    group.mark(MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM, MaskFlags::FAN_FS_ERROR, &folder, here)?;
    Ok(())
}

/// The kernel, or what keeps us in bounds, has no such events (fanotify_init(2), fanotify_mark(2)).
fn cannot_tell(error: &io::Error) -> bool {
    [libc::EINVAL, libc::EOPNOTSUPP, libc::ENODEV, libc::ENOSYS, libc::EPERM].map(Some).contains(&error.raw_os_error())
}

/// The sets that a device stands on, through partitions, volumes and arrays. Not through a loop device: its file may be where looking
/// for it waits for ever.
fn sets_below(sysfs: &Path, device: Devno) -> BTreeSet<SetId> {
    let (mut found, mut seen, mut ways) = (BTreeSet::new(), BTreeSet::from([device]), vec![device]);
    while let Some(device @ (major, minor)) = ways.pop() {
        let uuid = std::fs::read_to_string(sysfs.join(format!("dev/block/{major}:{minor}/dm/uuid"))).unwrap_or_default();
        // What a set stands on are its members.
        match set_of(uuid.trim_end()) {
            Some(set) => drop(found.insert(set)),
            None if sysfs.join(format!("dev/block/{major}:{minor}/loop")).exists() => {}
            None => ways.extend(below(sysfs, device).into_iter().filter(|next| seen.insert(*next))),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_system_is_found_on_its_set_through_what_lies_between() {
        let root = tempfile::tempdir().unwrap();
        let device = |name: &str, minor: u32, uuid: &str, slaves: &[&str]| {
            let folder = root.path().join("devices").join(name);
            std::fs::create_dir_all(folder.join("dm")).unwrap();
            std::fs::create_dir_all(folder.join("slaves")).unwrap();
            std::fs::create_dir_all(root.path().join("dev/block")).unwrap();
            std::fs::write(folder.join("dev"), format!("253:{minor}\n")).unwrap();
            std::fs::write(folder.join("dm/uuid"), format!("{uuid}\n")).unwrap();
            symlink(&folder, root.path().join(format!("dev/block/253:{minor}"))).unwrap();
            for slave in slaves {
                symlink(root.path().join("devices").join(slave), folder.join("slaves").join(slave)).unwrap();
            }
        };
        let id = "9f6f6bd36a144b9b9a398a3f7f1c2d3e";
        device("disk", 1, "", &[]);
        device("set", 2, &format!("REMAP-GUARDIAN-{id}"), &["disk"]);
        device("volume", 3, "LVM-abc", &["set", "disk"]);
        device("crypt", 4, "CRYPT-x", &["volume"]);
        let sets = |minor| sets_below(root.path(), (253, minor)).into_iter().map(|set| set.to_string()).collect::<Vec<_>>();
        assert_eq!((sets(4), sets(2)), (vec![id.to_owned()], vec![id.to_owned()]));
        assert!(sets(1).is_empty() && sets(9).is_empty());
    }
}
