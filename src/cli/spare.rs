//! `remap-guardian spare`: what is on a spare.

mod inspect;

use crate::config::Settings;
use clap::Subcommand;
use std::process::ExitCode;

/// Options of `spare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  remap-guardian spare inspect /dev/sdc1")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what is on a spare, and what of it is damaged
    Inspect(inspect::Args),
}

/// Runs the verb.
pub fn main(args: &Args, _settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Inspect(args) => inspect::main(args, json),
    }
}
