//! Keeps the regions of a dmstats group in step with the extents of a file, as dmfilemapd(8) describes.
//!
//! ```text
//! file ──► fiemap ──► extents ─┐
//!                              ├─► update (plan, then messages) ──► kernel statistics
//! @stats_list ──► group ───────┘
//! ```

pub mod args;
pub mod device;
pub mod extent;
pub mod fiemap;
pub mod file;
pub mod group;
pub mod log;
pub mod monitor;
pub mod region;
pub mod update;

use std::process::ExitCode;

/// Why there is nothing to monitor, or no more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is wrong.
    #[error("{0}\n{usage}", usage = args::USAGE)]
    Usage(String),
    /// The file cannot be mapped to a device-mapper device.
    #[error("{0}")]
    File(String),
    /// There is no such group, or it maps no file.
    #[error("{0}")]
    Group(String),
    /// The kernel refused.
    #[error("{0}")]
    Kernel(String),
}

impl Error {
    /// The exit code, as dmfilemapd.8 lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Error::Kernel(_) => 1,
            Error::Usage(_) => 2,
            Error::File(_) => 3,
            Error::Group(_) => 4,
        })
    }
}
