//! remap-guardian: self-healing block devices.
//!
//! Data flows one way: sources → triage → policy → plan → actuate → store. The core is pure and
//! synchronous; effects live at the edges. See ARCHITECTURE.md.

pub mod actuate;
pub mod cli;
pub mod config;
pub mod control;
pub mod dm;
pub mod edge;
pub mod engine;
pub mod failpoint;
pub mod format;
pub mod memory;
pub mod model;
pub mod plan;
pub mod policy;
pub mod runtime;
pub mod sim;
pub mod sources;
pub mod store;
pub mod trace;
pub mod triage;
