//! The command line's end of the control socket.

use super::{MAX_ANSWER, Reason, Reply, Request};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("the daemon is not running: nobody answers at {0}\n  next: systemctl start remap-guardian")]
    NotRunning(String),
    /// We may not connect.
    #[error("{0}: permission denied\n  next: run this as root")]
    Denied(String),
    /// The daemon refused.
    #[error("{0}")]
    Refused(Reason),
    /// The connection broke.
    #[error("talking to the daemon failed: {0}\n  next: journalctl -u remap-guardian")]
    Broken(String),
}

/// Asks the daemon and waits for its answer.
pub fn call<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, CallError> {
    let broken = |error: &dyn std::fmt::Display| CallError::Broken(error.to_string());
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => CallError::NotRunning(socket.display().to_string()),
        ErrorKind::PermissionDenied => CallError::Denied(socket.display().to_string()),
        _ => broken(&error),
    })?;
    let mut message = serde_json::to_vec(request).map_err(|error| broken(&error))?;
    message.push(0);
    stream.write_all(&message).map_err(|error| broken(&error))?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER as u64)).read_until(0, &mut answer).map_err(|error| broken(&error))?;
    if answer.pop() != Some(0) {
        let longer = answer.len() + 1 >= MAX_ANSWER;
        return Err(CallError::Broken(if longer { "the answer is longer than 1 GiB" } else { "the answer ended early" }.into()));
    }
    match serde_json::from_slice(&answer).map_err(|error| broken(&error))? {
        Reply::Ok { parameters } => serde_json::from_value(parameters).map_err(|error| broken(&error)),
        Reply::Error(failure) => Err(CallError::Refused(failure.parameters)),
    }
}
