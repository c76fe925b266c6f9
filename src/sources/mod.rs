//! Where observations come from: udev, the kernel's tracepoint and log, file systems, SMART. Never decides, never writes a device.

pub mod devices;
pub mod file_map;
pub mod fs_error_record;
pub mod fs_errors;
pub mod fstab;
pub mod in_use;
pub mod kmsg;
pub mod kmsg_text;
pub mod partition_table;
pub mod patience;
pub mod port;
pub mod sense;
pub mod signature;
pub mod smart;
pub mod tool;
pub mod tracepoint;
pub mod tracepoint_text;
pub mod udev;

use std::io;
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for a descriptor to become readable in the tokio runtime that calls it.
///
/// Every type given to it (`File`, udev's socket) owns one descriptor from birth to drop, which is what
/// `AsyncFd` relies on. tokio's newer constructor says so by being unsafe; this crate has no unsafe code for it.
#[allow(deprecated)]
fn readable<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, Interest::READABLE)
}
