//! remap-guardian: self-healing block devices.
//!
//! Data flows one way: sources → triage → policy → plan → actuate → store. The core is pure and
//! synchronous; effects live at the edges. See ARCHITECTURE.md.

pub mod actuate;
pub mod edge;
pub mod format;
pub mod model;
pub mod sources;
