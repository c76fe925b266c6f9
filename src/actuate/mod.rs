//! The only code that changes a device. Never decides.

pub mod block;
//ST pub mod spare_table;

pub use block::{Access, DirectDevice};
//ST pub use spare_table::SpareTable;
