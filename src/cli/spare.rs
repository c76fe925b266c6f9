//! `remap-guardian spare`: what is on a spare, and more of them.

mod add;
mod inspect;
mod repair;

use crate::config::Settings;
use clap::Subcommand;
use std::path::Path;
use std::process::ExitCode;

/// Options of `spare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  remap-guardian spare add data --spare /dev/sdd1
  remap-guardian spare inspect /dev/sdc1
  remap-guardian spare repair /dev/sdc1")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make another disk a spare of a set, which may be open and in use
    Add(add::Args),
    /// Show what is on a spare, and what of it is damaged
    Inspect(inspect::Args),
    /// Bring the two headers and the two copies of the table to the same state again
    Repair(repair::Args),
}

/// Runs the verb.
pub fn main(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Add(args) => add::main(args, &Settings::load(Path::new("/"))?, json),
        Verb::Inspect(args) => inspect::main(args, json),
        Verb::Repair(args) => repair::main(args, &Settings::load(Path::new("/"))?, json),
    }
}
