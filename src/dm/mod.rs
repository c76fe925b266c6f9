//! Device-mapper for people and programs: every operation on mapped devices, with tables and status that have types.
//!
//! Names, table lines, targets and status are pure text ([`name`], [`table`], [`target`], [`status`]). What talks to the
//! kernel is [`Mapper`], which looks at devices ([`look`]) and changes them ([`change`]), with [`backing`] for the devices
//! that a table names, `stack` for what stands on what, [`events`] for what happens to devices, and [`udev`] for waiting
//! until `/dev/mapper/<name>` is there. Sectors are 512 bytes everywhere.

pub mod backing;
pub mod change;
pub mod error;
pub mod events;
mod kernel_log;
pub mod look;
mod mapper;
pub mod name;
mod stack;
pub mod status;
pub mod table;
pub mod target;
pub mod udev;
mod words;

pub use backing::Devno;
pub use error::Error;
pub use look::{Info, Listed};
pub use mapper::Mapper;
pub use name::{BadName, Name, Uuid};
pub use stack::below;
pub use status::Status;
pub use table::{BadTable, Line, Table};
pub use target::Target;
pub use words::{BadParams, Device};
