//! The daemon: waits for what happens, lets the engine decide, does what it says. The only place where
//! threads and tasks are started.

mod actuator;
mod assemble;
mod closed;
mod create;
mod critical;
mod daemon;
mod degrade;
mod discovery;
mod early;
mod effects;
mod forget;
mod inputs;
mod lock;
mod log;
mod map;
mod map_import;
mod missing;
mod older;
mod partitions;
mod priority;
mod rebuild;
mod recorder;
mod reopen;
mod requests;
mod retention;
mod scrub;
mod scrub_record;
mod seen;
mod self_test;
pub mod shield;
mod smart;
mod spare_add;
mod spending;
mod storekeeper;
mod trials;
mod unwritten;
mod upkeep;
mod watchdog;
mod watcher;

pub use assemble::words;
pub use daemon::run;
pub use early::{assemble_once, begin};
pub use inputs::devices;
pub use lock::instead_of_a_daemon;
pub use log::Log;
