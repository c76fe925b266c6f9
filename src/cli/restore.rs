//! `remap-guardian restore`.

use super::text::confirm;
use crate::config::Settings;
use crate::control::{Request, Said, client};
use crate::model::SetName;
use std::process::ExitCode;

/// Options of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
At boot and when a disk arrives the daemon does this by itself.

With --from-history a spare that has lost both its headers is made anew on the same disk: headers from what this machine
knows of the set, the table from the spare itself, and for table blocks that are lost from the store. It says first what
it will write and asks; where nobody can be asked it needs --yes, and the exit status is 2 without.

Examples:
  remap-guardian restore
  remap-guardian restore data
  remap-guardian restore data --from-history")]
pub struct Args {
    /// Only this set
    name: Option<SetName>,
    /// First make spares anew whose headers are all lost
    #[arg(long, requires = "name")]
    from_history: bool,
    /// Do it without asking
    #[arg(long, requires = "from_history")]
    yes: bool,
}

/// Asks the daemon to look at the disks now.
pub fn main(args: &Args, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let mut lines = Vec::new();
    if let (Some(name), true) = (&args.name, args.from_history) {
        let rebuild = |sure| client::call::<Said>(&settings.socket(), &Request::Rebuild { name: name.clone(), sure });
        if !args.yes {
            let mut would = rebuild(false)?;
            if json || !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                would.lines.push("nothing was done; to do it, repeat with --yes".into());
            }
            super::print_said(&would, json)?;
            if json || !confirm("Write this?")? {
                return Ok(ExitCode::from(2));
            }
        }
        lines = rebuild(true)?.lines;
    }
    let said: Said = client::call(&settings.socket(), &Request::Restore { name: args.name.clone() })?;
    lines.extend(said.lines);
    super::print_said(&Said { lines }, json)
}
