//! `remap-guardian assemble`: for an initramfs.

use crate::config::Settings;
use std::io::Write;
use std::process::ExitCode;

/// Options of `assemble`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Opens the sets that are complete, once and without a daemon.
pub fn main(_args: &Args, settings: &Settings) -> anyhow::Result<ExitCode> {
    for line in crate::runtime::assemble_once(settings)? {
        writeln!(std::io::stdout(), "remap-guardian: {line}")?;
    }
    Ok(ExitCode::SUCCESS)
}
