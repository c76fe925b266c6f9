//! `remap-guardian map`: the map files of GNU ddrescue, out and in.

mod export;
mod import;
mod text;

use crate::config::Settings;
use clap::Subcommand;
use std::process::ExitCode;

/// Options of `map`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  remap-guardian map export data > data.map
  remap-guardian map import data rescue.map")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write what is known of each sector of a set, as a map of ddrescue
    Export(export::Args),
    /// Have what a map of ddrescue calls bad looked at
    Import(import::Args),
}

/// Runs the verb.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    match &args.verb {
        Verb::Export(args) => export::main(args, settings, json),
        Verb::Import(args) => import::main(args, settings, json),
    }
}
