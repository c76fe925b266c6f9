//! The only code that changes a device.

pub mod activate;
pub mod target;
pub mod target_text;
