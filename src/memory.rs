//! The memory of the daemon, so that no cure waits for a disk to get some: all of it is locked, what the heap has it keeps, and
//! to get more the kernel starts no I/O. The disk that such I/O would go to may be the one that is being cured.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::configure_io_flusher_behavior;

/// Stack of a thread on the path of a cure, bytes; all of it is locked.
pub const STACK: usize = 256 << 10;

/// What the heap gets in advance, bytes. A daemon with a few sets and some ten thousand remaps needs a quarter of it.
const HEAP: usize = 32 << 20;

/// Prepares the process. To be called before its other threads are started: they inherit it.
///
/// Says what could not be done, in words.
pub fn hold() -> Vec<String> {
    let mut failed = Vec::new();
    if !keep_the_heap() {
        failed.push("the heap gives memory back and asks for it again".to_string());
    }
    if let Err(error) = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        failed.push(format!("memory is not locked ({error}; next: LimitMEMLOCK=infinity in the unit)"));
    }
    if let Err(error) = configure_io_flusher_behavior(true) {
        failed.push(format!("the kernel may start I/O to find memory ({error}; next: CAP_SYS_RESOURCE in the unit)"));
    }
    failed
}

/// Starts a child that is an ordinary process again. It would inherit the calling thread's place in memory reclaim; locked
/// memory it does not inherit.
///
/// `start` has to start it in this thread, and without code of ours between fork and exec: such a fork would take every page of
/// the daemon from it until the next write to it.
pub fn for_a_child<T>(start: impl FnOnce() -> T) -> T {
    let flushes = rustix::process::is_io_flusher().is_ok_and(|flushes| flushes) && configure_io_flusher_behavior(false).is_ok();
    let started = start();
    if flushes {
        if let Err(error) = configure_io_flusher_behavior(true) {
            tracing::warn!(%error, "a thread may start I/O to find memory from now on");
        }
    }
    started
}

/// One heap for all threads, grown in advance, that gives nothing back: no allocation needs the kernel until it is used up. False
/// if it could not be set up so.
fn keep_the_heap() -> bool {
    let settings = [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, i32::MAX)];
    // SAFETY: mallopt takes two numbers and keeps no pointer.
    #[allow(unsafe_code)]
    let set = settings.map(|(what, value)| unsafe { libc::mallopt(what, value) });
    // Given back, it stays with the heap.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(HEAP)));
    set == [1; 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_started_whatever_the_privileges() {
        let output = for_a_child(|| std::process::Command::new("echo").arg("well").output()).unwrap();
        assert_eq!(output.stdout, b"well\n");
    }
}
