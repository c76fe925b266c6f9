//! Running other programs: blkid, partx, udevadm.

use crate::memory::for_a_child;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a probe may take: a failing disk answers slowly.
pub(super) const PROBE_TIME: Duration = Duration::from_secs(60);

/// Runs a command whose output is small, for at most `bound`. The error says what became of it, after the command's name.
pub fn run(command: &mut Command, bound: Duration) -> Result<Output, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = for_a_child(|| command.spawn());
    let mut child = child.map_err(|error| format!("cannot be run: {error}"))?;
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return child.wait_with_output().map_err(|error| error.to_string()),
            Ok(None) if start.elapsed() < bound => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) => {
                // It may sit in an uninterruptible read: it is killed, not waited for.
                let _ = child.kill();
                return Err(format!("gave no answer within {} s", bound.as_secs()));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_tool_is_given_up() {
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("no answer"), "{error}");
    }
}
