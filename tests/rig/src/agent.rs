//! The host's end of the channel to the agent in a guest, whose protocol is described in `guest/usr/lib/rig/agent`.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// What a command in the guest left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit status; 124 is a time-out.
    pub status: i32,
    /// Standard output, without the last line's end.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Whether the command succeeded.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit status {}\n{}\n{}", self.status, self.stdout, self.stderr)
    }
}

/// The agent has this much longer than a command that it runs.
const GRACE: Duration = Duration::from_secs(20);

pub(crate) struct Agent {
    stream: UnixStream,
    lines: Receiver<String>,
    last_id: u64,
}

impl Agent {
    /// Waits for QEMU to connect to `listener`.
    pub(crate) fn accept(listener: &UnixListener, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        listener.set_nonblocking(true)?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    ensure!(Instant::now() < deadline, "QEMU did not start");
                    thread::sleep(Duration::from_millis(10));
                }
                Err(e) => return Err(e.into()),
            }
        };
        stream.set_nonblocking(false)?;
        let reader = BufReader::new(stream.try_clone()?);
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in reader.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { stream, lines, last_id: 0 })
    }

    /// Waits for the agent of a new boot; gives the boot's id.
    pub(crate) fn wait_hello(&self, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let line = self.line(deadline).context("waiting for the guest to boot")?;
            if let Some(boot) = line.strip_prefix("hello ") {
                return Ok(boot.to_owned());
            }
        }
    }

    /// Runs a bash script in the guest for at most `patience`.
    pub(crate) fn run(&mut self, script: &str, patience: Duration) -> Result<Output> {
        self.send(script, patience)?;
        let deadline = Instant::now() + patience + GRACE;
        loop {
            let line = self.line(deadline).with_context(|| format!("running in the guest: {script}"))?;
            // Anything else answers a command that was given up.
            let Some(answer) = line.strip_prefix(&format!("done {} ", self.last_id)) else {
                ensure!(!line.starts_with("hello "), "the guest rebooted while running: {script}");
                continue;
            };
            return parse(answer).with_context(|| format!("the agent answered {answer:?}"));
        }
    }

    /// Starts a script that ends the agent too.
    pub(crate) fn post(&mut self, script: &str) -> Result<()> {
        self.send(script, GRACE)
    }

    fn send(&mut self, script: &str, patience: Duration) -> Result<()> {
        self.last_id += 1;
        let request = format!("run {} {} {}\n", self.last_id, patience.as_secs(), BASE64.encode(script));
        self.stream.write_all(request.as_bytes()).context("the guest is gone")
    }

    fn line(&self, deadline: Instant) -> Result<String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("the guest did not answer in time"),
            Err(RecvTimeoutError::Disconnected) => bail!("QEMU has ended"),
        }
    }
}

fn parse(answer: &str) -> Result<Output> {
    let mut fields = answer.split(' ');
    let status = fields.next().unwrap_or_default().parse()?;
    let mut text = || -> Result<String> {
        let bytes = BASE64.decode(fields.next().unwrap_or_default())?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
    };
    Ok(Output { status, stdout: text()?, stderr: text()? })
}

/// Makes the socket that QEMU connects to.
pub(crate) fn listen(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).with_context(|| format!("{}", path.display()))
}
