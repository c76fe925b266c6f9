//! The log: a queue of lines that a thread of its own writes out. Who logs never waits; what does not fit into the queue, because
//! nobody reads the other end, is lost and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

/// Lines that wait at most.
const LINES: usize = 4_096;

/// How long the end of the program waits for the last lines to be written.
const FLUSH: Duration = Duration::from_secs(1);

enum Item {
    Line(Vec<u8>),
    Flush(mpsc::Sender<()>),
}

/// Where lines go.
pub struct Log {
    queue: SyncSender<Item>,
    lost: AtomicU64,
}

impl Log {
    /// Starts the thread that writes to `out`.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Arc<Log>> {
        let (queue, items) = mpsc::sync_channel(LINES);
        let log = Arc::new(Log { queue, lost: AtomicU64::new(0) });
        let weak = Arc::downgrade(&log);
        let lost = move || weak.upgrade().map_or(0, |log| log.lost.swap(0, Ordering::Relaxed));
        std::thread::Builder::new().name("log".into()).spawn(move || write_out(items, out, lost))?;
        Ok(log)
    }

    /// Waits a moment until what was logged so far is written.
    pub fn flush(&self) {
        let (done, wait) = mpsc::channel();
        if self.queue.try_send(Item::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH);
        }
    }
}

/// Takes one line per call.
impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Item::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_out(items: Receiver<Item>, mut out: impl Write, lost: impl Fn() -> u64) {
    for item in items {
        match item {
            // There is nobody to tell of a failure.
            Item::Line(line) => drop(out.write_all(&line)),
            Item::Flush(done) => drop(done.send(())),
        }
        match lost() {
            0 => {}
            lost => drop(writeln!(out, " WARN {lost} lines of the log were lost: nobody read it for a while")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Keeps what is written, as soon as it may.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_logs_never_waits_and_losses_are_told() {
        let paper = Paper::default();
        let log = Log::start(paper.clone()).unwrap();
        let stopped = paper.0.lock().unwrap();
        for _ in 0..LINES + 10 {
            (&*log).write_all(b"a line\n").unwrap();
        }
        drop(stopped);
        while log.queue.try_send(Item::Flush(mpsc::channel().0)).is_err() {
            std::thread::yield_now();
        }
        log.flush();
        let written = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        let lines = written.lines().filter(|line| *line == "a line").count();
        let lost: usize = written.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<usize>().ok()).sum();
        assert!(lost >= 9 && lines + lost == LINES + 10, "{lines} lines and {lost} lost");
    }
}
