//! The only code that changes a device. Never decides.

pub mod activate;
pub mod announced;
pub mod block;
pub mod care;
pub mod degraded;
pub mod impatient;
pub mod older;
pub mod partitions;
pub mod probe;
pub mod reconcile;
pub mod salvage;
pub mod spare_examine;
pub mod spare_header;
pub mod spare_join;
mod spare_load;
pub mod spare_lost;
pub mod spare_rebuild;
pub mod spare_table;
pub mod steps;
pub mod target;
pub mod target_text;
#[cfg(test)]
pub(crate) mod test_disk;
pub mod verify;

pub use block::{Access, DirectDevice};
pub use care::{Care, WholeTable};
pub use spare_examine::{Examined, ExaminedTable, RepairError, Step, Unequal, examine, repair};
pub use spare_header::{BadCopy, FormatError, FoundHeader, NoHeader, format_spare, read_header, wipe_headers, write_headers};
pub use spare_load::{DamagedBlock, SlotProblem};
pub use spare_table::{CommitError, NotWritten, OpenError, SpareTable};
pub use verify::{VerifyError, verify_extent};
