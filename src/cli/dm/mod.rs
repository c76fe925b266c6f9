//! `remap-guardian dm`: device-mapper devices of any kind.

mod change;
mod events;
mod look;

use crate::dm::{Error, Mapper, Name};
use crate::sources::in_use::{self, Roots};
use clap::Subcommand;
use std::process::ExitCode;

/// Options of `dm`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A device is named as in /dev/mapper, or by a path that leads to it. A character of a name that udev does not take is
written \\xNN, as dmsetup does it: “my disk” is my\\x20disk. Sectors are 512 bytes.

With --json everything that is listed is one line of JSON.

Exit status: 0 if done, 2 if the answer is no (“exists”, “info”), 1 on error: then nothing has changed, unless the
message says what has.

Example:
  remap-guardian dm create part --table '0 2048 linear /dev/sdb 4096'
  remap-guardian dm table part")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a device from a table
    Create(change::Create),
    /// Replace the table of a device in one step
    Reload(change::Reload),
    /// Give a device a new name, or a UUID
    Rename(change::Rename),
    /// Remove a device
    Remove(change::Remove),
    /// Let I/O to a device wait
    Suspend(change::Suspend),
    /// Let I/O go on, with the inactive table if there is one
    Resume(change::Resume),
    /// Send a message to a target
    Message(change::Message),
    /// Show tables
    Table(look::Table),
    /// Show what targets say about themselves
    Status(look::Status),
    /// Show what is known of devices
    Info(look::Info),
    /// List the devices
    List(look::List),
    /// Ask whether a device exists
    Exists(look::Exists),
    /// Show the devices that a device stands on
    Deps(look::Deps),
    /// Show major and minor number of a block device
    Devno(look::Devno),
    /// List the target types that the kernel has loaded
    Targets(look::Targets),
    /// Wait for events and tell which device they happened to
    Events(events::Events),
}

/// Runs a verb.
pub fn main(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_target(false).without_time();
    // What nobody reads is dropped without a word: that word would go the same way. A log that is there is as good.
    let _ = log.with_writer(std::io::stderr).log_internal_errors(false).try_init();
    let done = match &args.verb {
        Verb::Create(verb) => verb.run(json),
        Verb::Reload(verb) => verb.run(json),
        Verb::Rename(verb) => verb.run(json),
        Verb::Remove(verb) => verb.run(json),
        Verb::Suspend(verb) => verb.run(json),
        Verb::Resume(verb) => verb.run(json),
        Verb::Message(verb) => verb.run(json),
        Verb::Table(verb) => verb.run(json),
        Verb::Status(verb) => verb.run(json),
        Verb::Info(verb) => verb.run(json),
        Verb::List(verb) => verb.run(json),
        Verb::Exists(verb) => verb.run(json),
        Verb::Deps(verb) => verb.run(json),
        Verb::Devno(verb) => verb.run(json),
        Verb::Targets(verb) => verb.run(json),
        Verb::Events(verb) => verb.run(json),
    };
    done.map_err(|error| match error.downcast::<Error>() {
        Ok(error) => explained(error),
        Err(error) => error,
    })
}

/// Says by whom a device is used, where that is the trouble.
fn explained(error: Error) -> anyhow::Error {
    let busy = match &error {
        Error::Left { error, .. } => error,
        other => other,
    };
    let Error::Busy { name, devices, .. } = busy else { return error.into() };
    let uses = devices.iter().flat_map(|device| in_use::uses(&Roots::default(), device).unwrap_or_default());
    let mut text: String = uses.map(|used| format!("\n  {used}")).collect();
    if text.is_empty() {
        text = format!("\n  next: see who has it open: fuser -v /dev/mapper/{name}");
    }
    anyhow::anyhow!("{error}{text}")
}

/// The devices that are meant: one, or all.
fn chosen(mapper: &Mapper, device: Option<&String>) -> anyhow::Result<Vec<Name>> {
    match device {
        Some(device) => Ok(vec![mapper.find(device)?]),
        None => Ok(mapper.list()?.into_iter().map(|listed| listed.name).collect()),
    }
}

/// Prints a value as one line of JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{}", serde_json::to_string(value)?)?;
    Ok(())
}

/// Prints a sentence, or what is known of the device as JSON.
fn print_done(json: bool, sentence: &str, value: &impl serde::Serialize) -> anyhow::Result<ExitCode> {
    use std::io::Write;
    if json {
        print_json(value)?;
    } else {
        writeln!(std::io::stdout().lock(), "{sentence}")?;
    }
    Ok(ExitCode::SUCCESS)
}
