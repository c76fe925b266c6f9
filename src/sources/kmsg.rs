//! The kernel log as a source of evidence and hints, from `/dev/kmsg`.

use super::kmsg_text::{KernelNote, parse};
use super::sense::Answers;
use crate::model::Millis;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// A read that is too small for a record fails; the kernel's longest is 8 KiB.
const RECORD_BYTES: usize = 16 * 1024;

const EPIPE: i32 = 32;

/// What the kernel tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelMessage {
    /// A line about a block device.
    Note(KernelNote),
    /// Records were overwritten before we read them: there may be more than we know.
    Gap,
}

/// Announces lines about block devices, from now on, until the receiver is dropped. It has to run in a tokio runtime.
///
/// A slow receiver loses records, told as a [`KernelMessage::Gap`]: the kernel's ring is the queue.
pub fn watch(sender: mpsc::Sender<KernelMessage>) -> io::Result<()> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg")?;
    file.seek(SeekFrom::End(0))?;
    let file = super::readable(file)?;
    tokio::spawn(async move {
        if let Err(error) = run(&file, &sender).await {
            tracing::warn!("the kernel log cannot be read any more: {error}");
        }
    });
    Ok(())
}

async fn run(file: &AsyncFd<File>, sender: &mpsc::Sender<KernelMessage>) -> io::Result<()> {
    let mut record = vec![0; RECORD_BYTES];
    let mut answers = Answers::default();
    loop {
        let mut ready = tokio::select! {
            ready = file.readable() => ready?,
            () = sender.closed() => return Ok(()),
        };
        let message = match ready.try_io(|file| file.get_ref().read(&mut record)) {
            Err(_not_ready) => continue,
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(len)) => parse(&record[..len], now()).map(|note| KernelMessage::Note(answers.join(note))),
            Ok(Err(error)) if error.raw_os_error() == Some(EPIPE) => Some(KernelMessage::Gap),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => None,
            Ok(Err(error)) => return Err(error),
        };
        if let Some(message) = message {
            if sender.send(message).await.is_err() {
                return Ok(());
            }
        }
    }
}

pub(super) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_starts_at_the_end() {
        // Not everybody may read the kernel log.
        let (sender, mut messages) = mpsc::channel(1);
        if watch(sender).is_ok() {
            let soon = tokio::time::timeout(std::time::Duration::from_millis(50), messages.recv()).await;
            assert!(!matches!(soon, Ok(None)), "the reader must not end by itself");
        }
    }
}
