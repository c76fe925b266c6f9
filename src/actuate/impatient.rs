//! A device whose reads can be given up. A read of a bad sector may keep a drive busy for seconds and cannot be
//! cancelled; so it is done by a thread of its own, which is left alone until it comes back.

use crate::actuate::DirectDevice;
use crate::edge::{BlockIo, IoError};
use crate::memory::STACK;
use crate::model::{Sector, Sectors};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

type Answer = (u64, Result<Vec<u8>, IoError>);

/// A [`DirectDevice`] with [`BlockIo::read_within`].
pub struct ImpatientDevice {
    device: DirectDevice,
    reader: Mutex<Reader>,
}

struct Reader {
    requests: mpsc::Sender<(u64, Sector, usize)>,
    answers: mpsc::Receiver<Answer>,
    asked: u64,
    answered: u64,
}

impl ImpatientDevice {
    /// `reader` is a second handle of the same device.
    pub fn new(device: DirectDevice, reader: DirectDevice) -> std::io::Result<ImpatientDevice> {
        let (requests, queue) = mpsc::channel::<(u64, Sector, usize)>();
        let (answer, answers) = mpsc::channel();
        std::thread::Builder::new().name("reader".into()).stack_size(STACK).spawn(move || {
            for (number, at, bytes) in queue {
                let mut buf = vec![0; bytes];
                let read = reader.read(at, &mut buf).map(|()| buf);
                if answer.send((number, read)).is_err() {
                    return;
                }
            }
        })?;
        Ok(ImpatientDevice { device, reader: Mutex::new(Reader { requests, answers, asked: 0, answered: 0 }) })
    }
}

impl BlockIo for ImpatientDevice {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        self.device.read(at, buf)
    }

    fn read_within(&self, at: Sector, buf: &mut [u8], ms: u64) -> Result<(), IoError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok((number, _)) = reader.answers.try_recv() {
            reader.answered = number;
        }
        // Still busy with a read that was given up: this one would only queue behind it.
        if reader.answered != reader.asked {
            return Err(IoError::Late(ms));
        }
        let gone = || IoError::Other("the reading thread has ended".into());
        reader.asked += 1;
        reader.requests.send((reader.asked, at, buf.len())).map_err(|_| gone())?;
        match reader.answers.recv_timeout(Duration::from_millis(ms)) {
            Ok((number, read)) => {
                reader.answered = number;
                buf.copy_from_slice(&read?);
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => Err(IoError::Late(ms)),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.device.write(at, buf)
    }

    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.device.write_durable(at, buf)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.device.flush()
    }

    fn size(&self) -> Sectors {
        self.device.size()
    }

    fn logical_block(&self) -> u32 {
        self.device.logical_block()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actuate::Access;

    #[test]
    fn a_quick_read_is_a_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let open = || DirectDevice::open(&path, Access::READ).unwrap();
        let device = ImpatientDevice::new(open(), open()).unwrap();
        let mut buf = [0; 4096];
        for at in [0, 8] {
            device.read_within(Sector(at), &mut buf, 10_000).unwrap();
            assert_eq!(buf, [7; 4096]);
        }
        assert!(device.read_within(Sector(16), &mut buf, 10_000).is_err(), "beyond the end");
    }
}
