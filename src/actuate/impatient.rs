//! A device whose I/O can be given up. A read of a bad sector may keep a drive busy for seconds, a write to a dying one for longer,
//! and neither can be cancelled; so it is done by a thread of its own, which is left alone until it comes back.

use crate::edge::{BlockIo, IoError};
use crate::memory::STACK;
use crate::model::{Extent, Sector, Sectors};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A device with [`BlockIo::read_within`] and [`BlockIo::write_durable_within`].
///
/// A write that was given up may still arrive. So whatever is written over it waits for that, and so does the end of this device.
pub struct ImpatientDevice<Io> {
    device: Io,
    helper: Mutex<Helper>,
}

/// The thread that can be left behind, as those see it who give it work.
struct Helper {
    requests: mpsc::Sender<Request>,
    answers: mpsc::Receiver<Result<Vec<u8>, IoError>>,
    /// What it still does though it was given up: where it writes, or nothing if it reads.
    left: Option<Option<Extent>>,
}

enum Request {
    Read(Sector, usize),
    Write(Sector, Vec<u8>),
}

impl<Io: BlockIo> ImpatientDevice<Io> {
    /// `second` is another handle of the same device.
    pub fn new(device: Io, second: impl BlockIo + 'static) -> std::io::Result<ImpatientDevice<Io>> {
        let (requests, queue) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        std::thread::Builder::new().name("helper".into()).stack_size(STACK).spawn(move || {
            for request in queue {
                let done = match request {
                    Request::Read(at, bytes) => {
                        let mut buf = vec![0; bytes];
                        second.read(at, &mut buf).map(|()| buf)
                    }
                    Request::Write(at, buf) => second.write_durable(at, &buf).map(|()| buf),
                };
                if answer.send(done).is_err() {
                    return;
                }
            }
        })?;
        Ok(ImpatientDevice { device, helper: Mutex::new(Helper { requests, answers, left: None }) })
    }

    fn helper(&self) -> MutexGuard<'_, Helper> {
        self.helper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is written next over these sectors is not overtaken by what was given up there.
    fn after_what_was_left(&self, at: Sector, bytes: usize) {
        let range = Extent::new(at, Sectors::from_bytes(bytes as u64)).ok();
        let over = |left: &Extent| range.is_some_and(|range| left.overlaps(&range));
        let mut helper = self.helper();
        if helper.left.flatten().is_some_and(|left| over(&left)) {
            helper.wait();
        }
    }
}

impl Helper {
    /// Does something, if it does nothing else any more: that would only be queued behind it.
    fn run(&mut self, request: Request, writes: Option<Extent>, ms: u64) -> Result<Vec<u8>, IoError> {
        if self.left.is_some() && self.answers.try_recv().is_err() {
            return Err(IoError::Late(ms));
        }
        self.left = None;
        let gone = || IoError::Other("the thread for slow I/O has ended".into());
        self.requests.send(request).map_err(|_| gone())?;
        match self.answers.recv_timeout(Duration::from_millis(ms)) {
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout) => {
                self.left = Some(writes);
                Err(IoError::Late(ms))
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }

    /// Waits until what was given up is over.
    fn wait(&mut self) {
        drop(self.answers.recv());
        self.left = None;
    }
}

impl Drop for Helper {
    /// Whoever opens the device next finds nothing written later. A read does no harm.
    fn drop(&mut self) {
        if self.left.flatten().is_some() {
            self.wait();
        }
    }
}

impl<Io: BlockIo> BlockIo for ImpatientDevice<Io> {
    fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
        self.device.read(at, buf)
    }

    fn read_within(&self, at: Sector, buf: &mut [u8], ms: u64) -> Result<(), IoError> {
        buf.copy_from_slice(&self.helper().run(Request::Read(at, buf.len()), None, ms)?);
        Ok(())
    }

    fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.after_what_was_left(at, buf.len());
        self.device.write(at, buf)
    }

    fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
        self.after_what_was_left(at, buf.len());
        self.device.write_durable(at, buf)
    }

    fn write_durable_within(&self, at: Sector, buf: &[u8], ms: u64) -> Result<(), IoError> {
        let range = Extent::new(at, Sectors::from_bytes(buf.len() as u64)).ok();
        self.helper().run(Request::Write(at, buf.to_vec()), range, ms).map(drop)
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
    use crate::actuate::test_disk::TestDisk;
    use crate::actuate::{Access, DirectDevice};
    use std::sync::Arc;

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

    /// A handle of a disk on which each write waits until it is let go.
    #[derive(Clone)]
    struct Handle {
        disk: Arc<TestDisk>,
        hangs: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
    }

    impl BlockIo for Handle {
        fn read(&self, at: Sector, buf: &mut [u8]) -> Result<(), IoError> {
            self.disk.read(at, buf)
        }
        fn write(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
            self.disk.write(at, buf)
        }
        fn write_durable(&self, at: Sector, buf: &[u8]) -> Result<(), IoError> {
            if let Some(hangs) = &self.hangs {
                let _ended = hangs.lock().unwrap().recv();
            }
            self.disk.write_durable(at, buf)
        }
        fn flush(&self) -> Result<(), IoError> {
            self.disk.flush()
        }
        fn size(&self) -> Sectors {
            self.disk.size()
        }
        fn logical_block(&self) -> u32 {
            512
        }
    }

    fn hanging() -> (Arc<TestDisk>, ImpatientDevice<Handle>, mpsc::Sender<()>) {
        let disk = Arc::new(TestDisk::new(64));
        let (let_go, hangs) = mpsc::channel();
        let quick = Handle { disk: disk.clone(), hangs: None };
        let slow = Handle { hangs: Some(Arc::new(Mutex::new(hangs))), ..quick.clone() };
        (disk, ImpatientDevice::new(quick, slow).unwrap(), let_go)
    }

    fn read(disk: &TestDisk, at: u64) -> u8 {
        let mut buf = [0; 512];
        disk.read(Sector(at), &mut buf).unwrap();
        buf[0]
    }

    #[test]
    fn a_write_that_was_given_up_never_comes_over_a_later_one() {
        let (disk, device, let_go) = hanging();
        assert_eq!(device.write_durable_within(Sector(0), &[1; 4096], 10), Err(IoError::Late(10)));
        // Nothing else is queued behind it, and other sectors are written at once.
        assert_eq!(device.write_durable_within(Sector(16), &[2; 512], 10_000), Err(IoError::Late(10_000)));
        device.write_durable(Sector(8), &[3; 512]).unwrap();
        assert_eq!((read(&disk, 0), read(&disk, 8), read(&disk, 16)), (0x5a, 3, 0x5a));
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let_go.send(()).unwrap();
            let_go
        });
        device.write_durable(Sector(7), &[4; 512]).unwrap();
        assert_eq!((read(&disk, 6), read(&disk, 7)), (1, 4));
        later.join().unwrap().send(()).unwrap();
        device.write_durable_within(Sector(16), &[2; 512], 10_000).unwrap();
        assert_eq!(read(&disk, 16), 2);
    }

    #[test]
    fn the_device_does_not_end_before_what_was_given_up_has_arrived() {
        let (disk, device, let_go) = hanging();
        assert_eq!(device.write_durable_within(Sector(0), &[1; 512], 10), Err(IoError::Late(10)));
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(let_go);
        });
        drop(device);
        assert_eq!(read(&disk, 0), 1);
        later.join().unwrap();
    }
}
