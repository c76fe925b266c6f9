//! The command line: one verb per file, thin.

pub mod activate;
pub mod assemble;
pub mod chain;
pub mod create;
pub mod dm;
pub mod doctor;
pub mod files;
pub mod forget;
pub mod history;
pub mod map;
pub mod notify;
pub mod policy;
pub mod record;
pub mod remap;
pub mod restore;
pub mod run;
pub mod scrub;
pub mod simulate;
pub mod smart;
pub mod spare;
pub mod status;
pub mod udev_probe;
pub mod unremap;

mod text;

use crate::config::Settings;
use crate::control::Said;
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Self-healing block devices: a bad sector moves to a spare before an application sees an error.
#[derive(Debug, Parser)]
#[command(name = "remap-guardian", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  systemctl enable --now remap-guardian
  remap-guardian create data --main /dev/sdb --spare /dev/sdc1
  remap-guardian status
  remap-guardian history data";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon (systemd does this)
    Run(run::Args),
    /// Make a self-healing device from a disk and a spare
    Create(create::Args),
    /// Show the devices, their spare space and cures under way
    Status(status::Args),
    /// Show what happened, and why; check that it is what was written, prune it
    History(history::Args),
    /// Run a command of yours for each new entry of the history that matters
    Notify(notify::Args),
    /// Look for sets on the disks now, and open those that are complete
    Restore(restore::Args),
    /// Open a main device whose spare is dead or gone: what had moved there fails
    Activate(activate::Args),
    /// Show what the disks say of themselves, and how that changed
    Smart(smart::Args),
    /// Read every sector of a set, slowly, to find bad ones before an application does
    Scrub(scrub::Args),
    /// Move a range of sectors to the spare by hand
    Remap(remap::Args),
    /// Move what a spare serves back to main, where main takes it
    Unremap(unremap::Args),
    /// Write what is known of each sector as a map of ddrescue, or have what such a map calls bad looked at
    Map(map::Args),
    /// Give up a set that is not open, so that its disks can be used for something else
    Forget(forget::Args),
    /// Look for what would keep a bad sector from being cured
    Doctor(doctor::Args),
    /// Look at the policies: what is cured, at what cost, and why
    Policy(policy::Args),
    /// Record what the daemon sees, to try another policy on it with “simulate”
    Record(record::Args),
    /// Show what another policy would have done about what was recorded
    Simulate(simulate::Args),
    /// Look at what is on a spare, and mend it
    Spare(spare::Args),
    /// Watch the blocks of files
    Files(files::Args),
    /// Look at and change device-mapper devices of any kind, as dmsetup does
    Dm(dm::Args),
    /// For an initramfs: open the sets that are complete, without a daemon and without writing to a disk
    #[command(hide = true)]
    Assemble(assemble::Args),
    /// For udev rules: print properties of a device that is a spare
    #[command(hide = true)]
    UdevProbe(udev_probe::Args),
}

/// Runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be there to read it.
            let _ = error.print();
            let for_dm = std::env::args_os().skip(1).find(|arg| arg != "--json").is_some_and(|verb| verb == "dm");
            // “dm exists” and “dm info” say no by 2: what cannot be understood is no such answer.
            return if for_dm && error.use_stderr() { ExitCode::FAILURE } else { exit_code(&error) };
        }
    };
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            // A reader that went away (`… | head`) is no error worth a word.
            if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
                return ExitCode::SUCCESS;
            }
            // Where nobody reads it the exit status still tells; eprintln would panic.
            let _ = writeln!(std::io::stderr(), "remap-guardian: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(error: &clap::Error) -> ExitCode {
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

fn dispatch(cli: &Cli) -> anyhow::Result<ExitCode> {
    // These need no settings, and work where the settings are broken.
    match &cli.verb {
        Verb::UdevProbe(args) => return udev_probe::main(args),
        Verb::Dm(args) => return dm::main(args, cli.json),
        Verb::Spare(args) => return spare::main(args, cli.json),
        _ => {}
    }
    let settings = Settings::load(Path::new("/"))?;
    match &cli.verb {
        Verb::Run(args) => run::main(args, settings),
        Verb::Assemble(args) => assemble::main(args, &settings),
        Verb::Create(args) => create::main(args, &settings, cli.json),
        Verb::Status(args) => status::main(args, &settings, cli.json),
        Verb::History(args) => history::main(args, &settings, cli.json),
        Verb::Notify(args) => notify::main(args, &settings),
        Verb::Restore(args) => restore::main(args, &settings, cli.json),
        Verb::Forget(args) => forget::main(args, &settings, cli.json),
        Verb::Activate(args) => activate::main(args, &settings, cli.json),
        Verb::Smart(args) => smart::main(args, &settings, cli.json),
        Verb::Scrub(args) => scrub::main(args, &settings, cli.json),
        Verb::Remap(args) => remap::main(args, &settings, cli.json),
        Verb::Unremap(args) => unremap::main(args, &settings, cli.json),
        Verb::Map(args) => map::main(args, &settings, cli.json),
        Verb::Doctor(args) => doctor::main(args, &settings, cli.json),
        Verb::Policy(args) => policy::main(args, &settings, cli.json),
        Verb::Record(args) => record::main(args, &settings),
        Verb::Simulate(args) => simulate::main(args, &settings, cli.json),
        Verb::Spare(args) => spare::main(args, cli.json),
        Verb::Files(args) => files::main(args, &settings, cli.json),
        Verb::Dm(args) => dm::main(args, cli.json),
        Verb::UdevProbe(args) => udev_probe::main(args),
    }
}

/// Prints what the daemon said.
fn print_said(said: &Said, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(said)?)?;
    } else {
        for line in &said.lines {
            writeln!(out, "{line}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
