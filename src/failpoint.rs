//! Places where a daemon that was built for tests, without `--release`, ends itself, as `kill -9` would, to see what is left. In
//! the product they are nothing at all.
//!
//! The first time that the place is reached whose name is in [`ORDER`], the file is removed and the process killed.

/// Names the place where the daemon is to end.
#[cfg(debug_assertions)]
pub const ORDER: &str = "/run/remap-guardian.die";

/// A place with a name.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reached(_name: &str) {}

/// A place with a name.
#[cfg(debug_assertions)]
pub fn reached(name: &str) {
    if std::fs::read_to_string(ORDER).is_ok_and(|order| order.trim() == name) && std::fs::remove_file(ORDER).is_ok() {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal ends the process before anything else is done in it.
        std::process::abort();
    }
}
