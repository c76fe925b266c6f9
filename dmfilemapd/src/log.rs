//! What the daemon says on the standard streams; nothing at verbosity 0.

use std::fmt::Display;
use std::io::Write;

/// How much is said.
#[derive(Clone, Copy, Debug)]
pub struct Log(
    /// From 0, nothing, to 3.
    pub u8,
);

impl Log {
    /// Something to look at; from verbosity 1.
    pub fn warn(self, message: impl Display) {
        if self.0 >= 1 {
            let _ = writeln!(std::io::stderr(), "dmfilemapd: {message}");
        }
    }

    /// What is done; from `level` 1 to 3. A reader that went away is no reason to stop.
    pub fn say(self, level: u8, message: impl Display) {
        if self.0 >= level {
            let _ = writeln!(std::io::stdout(), "{message}");
        }
    }
}
