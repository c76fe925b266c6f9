//! Simulated hardware, for tests only.
//!
//! [`disk::SimDisk`] is the one simulated disk. The simulation tests use it in process; the test rig serves it
//! to guests as a network block device, so the real kernel meets the same faults.

pub mod disk;
