//! Simulated hardware, and the simulation of the whole path on it, for tests only.
//!
//! [`disk::SimDisk`] is the one simulated disk. The simulation uses it in process; the test rig serves it to guests as a
//! network block device, so the real kernel meets the same faults.
//!
//! [`world`] runs the real engine, actuator, table and assembly rules on simulated disks under a model of the kernel target,
//! and ends the daemon or the power before, in the middle of and after anything it does. An oracle knows what every sector
//! may say.

mod block;
mod content;
mod coverage;
mod daemon;
pub mod disk;
mod drive;
mod invariant;
mod kernel;
mod machine;
mod oracle;
mod random;
mod setting;
mod store;
mod target;
pub mod world;

pub use coverage::Coverage;
