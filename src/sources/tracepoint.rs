//! Failed requests to disks, from the kernel's tracepoint `block_rq_error`: exact, and not rate-limited as the kernel log is.
//!
//! It is read by a trace instance of our own, so nobody else's tracing is touched. One that a daemon left behind is taken over.

use super::kmsg::{KernelMessage, now};
use super::kmsg_text::{KernelNote, NoteSource};
use super::tracepoint_text::{Line, Lines, RequestLine};
use crate::model::Op;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Where the kernel's tracing is mounted.
const TRACEFS: &str = "/sys/kernel/tracing";

/// What the kernel keeps for us per processor, KiB: some hundred events. What does not fit is lost, and told so.
const BUFFER_KIB: u32 = 64;

/// Read at once, bytes.
const READ_BYTES: usize = 4096;

/// It is read so often, whether or not the kernel has woken us.
const LOOK: Duration = Duration::from_secs(1);

/// Whether the kernel has the tracepoint, and we can get at it.
pub fn is_there() -> bool {
    event(Path::new(TRACEFS)).exists()
}

fn event(tracefs: &Path) -> PathBuf {
    tracefs.join("events/block/block_rq_error")
}

/// Announces failed requests, from now on, until the receiver is dropped; then the instance is removed, and the task ends.
/// It has to run in a tokio runtime.
///
/// Where there is no such tracepoint this is said once; the kernel log tells of most of it, too.
pub fn watch(sender: mpsc::Sender<KernelMessage>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let opened = tokio::task::spawn_blocking(|| Instance::open(Path::new(TRACEFS))).await;
        let instance = match opened.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(instance) => instance,
            Err(error) => {
                tracing::info!(%error, "the kernel's tracepoint block_rq_error cannot be read: its log has to do");
                return;
            }
        };
        if let Err(error) = instance.run(&sender).await {
            tracing::warn!(%error, "the kernel's tracepoint block_rq_error cannot be read any more: its log has to do");
        }
    })
}

/// A trace instance of our own. Dropped, it is removed.
struct Instance {
    // Closed first: one that is read cannot be removed.
    pipe: Option<File>,
    folder: PathBuf,
}

impl Instance {
    fn open(tracefs: &Path) -> io::Result<Instance> {
        if !event(tracefs).exists() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the kernel is older than 5.18, or tracefs is not mounted"));
        }
        let folder = tracefs.join("instances/remap-guardian");
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut instance = Instance { pipe: None, folder };
        instance.set("events/block/block_rq_error/enable", "0")?;
        instance.set("buffer_size_kb", &BUFFER_KIB.to_string())?;
        // A process chooses its name, which would stand before each event.
        instance.set("options/context-info", "0")?;
        // Woken by each event, not when the buffer is half full.
        instance.set("buffer_percent", "0")?;
        instance.set("tracing_on", "1")?;
        // What it has seen while no daemon ran is nobody's evidence now.
        OpenOptions::new().write(true).truncate(true).open(instance.folder.join("trace"))?;
        let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
        let pipe = OpenOptions::new().read(true).custom_flags(flags).open(instance.folder.join("trace_pipe"))?;
        instance.pipe = Some(pipe);
        instance.set("events/block/block_rq_error/enable", "1")?;
        Ok(instance)
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.folder.join(file);
        std::fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    async fn run(mut self, sender: &mpsc::Sender<KernelMessage>) -> io::Result<()> {
        let Some(pipe) = self.pipe.take() else { return Ok(()) };
        // Declared after the instance, so closed before that is removed.
        let pipe = super::readable(pipe)?;
        let mut lines = Lines::default();
        let mut bytes = [0; READ_BYTES];
        loop {
            let read = tokio::select! {
                read = next(&pipe, &mut bytes) => read?,
                () = sender.closed() => return Ok(()),
            };
            for line in lines.cut(&bytes[..read]) {
                let message = match line {
                    Line::Lost => Some(KernelMessage::Gap),
                    Line::Failed(failed) => disk(failed.devno).map(|name| KernelMessage::Note(note(&failed, name))),
                };
                if let Some(message) = message {
                    if sender.send(message).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.pipe = None;
        if let Err(error) = std::fs::remove_dir(&self.folder) {
            tracing::debug!(%error, "the trace instance stays; the next daemon takes it over");
        }
    }
}

/// Waits for something to read, but not for ever, and reads it.
async fn next(pipe: &AsyncFd<File>, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = tokio::time::timeout(LOOK, pipe.readable()).await.ok().transpose()?;
        let mut file = pipe.get_ref();
        match file.read(bytes) {
            // The kernel ends a trace that somebody else has switched off.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => return Ok(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.iter_mut().for_each(|ready| ready.clear_ready());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The kernel's name of a whole disk; none if it is gone.
fn disk((major, minor): (u32, u32)) -> Option<String> {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

fn note(failed: &RequestLine, disk: String) -> KernelNote {
    let RequestLine { op, read_ahead, sector, len, class, .. } = *failed;
    let what = if read_ahead { "read-ahead" } else { op.map_or("request", Op::word) };
    let text = format!("block_rq_error: {disk}, {what} of {len} sectors at {sector}: {class}");
    let (at, source) = (now(), NoteSource::Tracepoint);
    KernelNote {
        at,
        source,
        device: Some(disk),
        sector: Some(sector),
        block: None,
        len,
        op,
        class: Some(class),
        read_ahead,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ErrorClass, Sector, Sectors};

    /// Folders and files as tracefs has them.
    fn tracefs() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let instance = root.path().join("instances/remap-guardian");
        for folder in [root.path().join("events/block/block_rq_error"), instance.join("events/block/block_rq_error")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::create_dir(instance.join("options")).unwrap();
        for (file, text) in [("trace", "old"), ("trace_pipe", "")] {
            std::fs::write(instance.join(file), text).unwrap();
        }
        root
    }

    #[test]
    fn an_instance_that_was_left_behind_is_taken_over_empty() {
        let root = tracefs();
        let instance = Instance::open(root.path()).unwrap();
        let read = |file: &str| std::fs::read_to_string(instance.folder.join(file)).unwrap();
        assert_eq!(read("trace"), "");
        assert_eq!((read("options/context-info"), read("buffer_percent")), ("0".into(), "0".into()));
        assert_eq!(read("events/block/block_rq_error/enable"), "1");
    }

    #[test]
    fn where_it_is_not_there_this_is_said() {
        let root = tempfile::tempdir().unwrap();
        assert!(Instance::open(root.path()).is_err_and(|error| error.to_string().contains("5.18")));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "nothing is made there");
    }

    #[test]
    fn a_note_has_the_words_of_the_event() {
        let failed = RequestLine {
            devno: (8, 16),
            op: Some(Op::Read),
            read_ahead: true,
            sector: Sector(1234),
            len: Sectors(8),
            class: ErrorClass::Medium,
        };
        let note = note(&failed, "sdb".into());
        assert_eq!(note.text, "block_rq_error: sdb, read-ahead of 8 sectors at 1234: medium");
        assert_eq!((note.sector, note.len, note.read_ahead), (Some(Sector(1234)), Sectors(8), true));
    }
}
