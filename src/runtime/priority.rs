//! How urgent the kernel takes a thread's I/O to be.

/// Priority of a thread's I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// As everybody's.
    Normal,
    /// Only where nobody else wants the disk. The kernel's schedulers serve it now and then all the same, so that it ends.
    Idle,
}

/// `IOPRIO_WHO_PROCESS` of `include/uapi/linux/ioprio.h`: one thread.
const ONE_THREAD: libc::c_int = 1;
/// `IOPRIO_CLASS_SHIFT`: the class stands above a level within it.
const CLASS_SHIFT: u32 = 13;
/// `IOPRIO_CLASS_NONE`: as the thread's priority for the processor.
const NONE: libc::c_int = 0;
/// `IOPRIO_CLASS_IDLE`.
const IDLE: libc::c_int = 3;

/// Sets it for the calling thread. Where the kernel refuses, the I/O is as urgent as before, which is only less polite.
pub fn set(priority: Priority) {
    let class = if priority == Priority::Idle { IDLE } else { NONE };
    // SAFETY: ioprio_set takes three numbers and keeps no pointer; thread 0 is the calling one.
    #[allow(unsafe_code)]
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, ONE_THREAD, 0, class << CLASS_SHIFT) };
    if done != 0 {
        tracing::debug!(?priority, error = %std::io::Error::last_os_error(), "the priority of I/O cannot be set");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> i64 {
        // SAFETY: ioprio_get takes two numbers and keeps no pointer.
        #[allow(unsafe_code)]
        let value = unsafe { libc::syscall(libc::SYS_ioprio_get, ONE_THREAD, 0) };
        value >> CLASS_SHIFT
    }

    #[test]
    fn it_is_that_of_one_thread_and_comes_back() {
        let before = class();
        let within = std::thread::spawn(|| {
            set(Priority::Idle);
            let idle = class();
            set(Priority::Normal);
            (idle, class())
        });
        assert_eq!(within.join().unwrap(), (i64::from(IDLE), before));
        assert_eq!(class(), before, "no other thread's");
    }
}
