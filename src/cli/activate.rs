//! `remap-guardian activate`.

use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::SetName;
use std::process::ExitCode;

/// Options of `activate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For a set whose spare is dead or gone, while main is well: /dev/mapper/NAME is then main itself, with an error wherever a
sector had moved to the spare. Nothing is cured. It is read-only: a file system with a journal to replay is mounted with
“-o ro,noload” (ext4) or “-o ro,norecovery” (XFS). With --read-write what does not fail can be written, and the spare,
should it come back, is still right: its sectors are those that fail meanwhile. Only what moved in the last moment before
the spare went may be unknown here; where the machine ended in that moment, do not use --read-write.

To leave it: unmount it, “dmsetup remove NAME”, attach the spare, “remap-guardian restore NAME”.

Example:
  remap-guardian activate data --degraded")]
pub struct Args {
    /// The set; or its id, where several have the same name
    name: SetName,
    /// Without its spare. A set that is whole is opened by “restore”
    #[arg(long, required = true)]
    degraded: bool,
    /// Let writes through to main
    #[arg(long)]
    read_write: bool,
}

/// Asks the daemon to open main alone.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let request = Request::Degrade { name: args.name.clone(), read_write: args.read_write };
    let said: Said = client::call(&settings.socket(), &request)?;
    super::print_said(&said, json)
}
