//! Disks that answer at once also where guests keep every CPU busy.

use std::fs;
use std::process::Command;
use std::sync::Once;

/// Lets this thread run before those that emulate CPUs.
///
/// Linux since 6.6 lets a thread that is woken wait until the one that runs has used up its slice, some milliseconds
/// (Documentation/scheduler/sched-eevdf.rst). Each request of a guest wakes two threads one after the other, and two guests
/// beside each other took as long as one after the other.
pub(crate) fn this_thread() {
    // It leads to `<process>/task/<thread>`.
    let link = fs::read_link("/proc/thread-self").unwrap_or_default();
    thread(&link.file_name().unwrap_or_default().to_string_lossy());
}

/// The same for a thread by its number; a process's own is that of its main thread. Not for those that it will start.
pub(crate) fn thread(id: &str) {
    static TOLD: Once = Once::new();
    let done = Command::new("chrt").args(["--reset-on-fork", "--rr", "--pid", "1", id]).output();
    if !done.is_ok_and(|output| output.status.success()) {
        TOLD.call_once(|| eprintln!("rig: chrt is refused here: guests beside each other will be slow"));
    }
}
